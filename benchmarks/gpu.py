"""Where the time goes on a CUDA device: systems beside TSN in the same call, eager, compiled, as a CUDA graph, in
training; a profile; and the temporal convolution alone.

    python benchmarks/gpu.py --out runs/gpu

A job is a process of its own, so that networks are compiled side by side; one job at a time is timed. Times are
medians over repeats, waited for; ratios are to TSN in the same form. A job that is not ready in time is left out.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

SYSTEMS = ("tsn", "tsm", "tea", "tdn", "mdtnet1", "mdtnet2")
JOBS = ("eager", "micro", "compiled:tsn", "compiled:mdtnet2", "compiled:tdn", "training:tsn", "training:mdtnet2")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", default="runs/gpu")
    parser.add_argument("--seconds", type=float, default=480, help="after which jobs that are not done are ended")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--trunk", default="resnet50")
    parser.add_argument("--batches", default="16,1")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--lock", default="", help="file that makes several calls take turns; OUT/lock if empty")
    parser.add_argument("--job", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    if options.job:
        run_job(options, out)
        return
    end = time.monotonic() + options.seconds
    command = [sys.executable, __file__, *sys.argv[1:], "--job"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "3"}
    running = {}
    for job in options.jobs.split(","):
        log = (out / f"{job.replace(':', '_')}.log").open("w")
        running[job] = subprocess.Popen([*command, job], stdout=log, stderr=subprocess.STDOUT, env=environment)
    for job, process in running.items():
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            print(f"{job}: not done in time")
        if process.returncode:
            print(f"{job}: failed, see its log")
    show(out)


def run_job(options: argparse.Namespace, out: Path) -> None:
    """One job: its rows go to rows_JOB.jsonl."""
    kind, _, system = options.job.partition(":")
    if kind == "micro":
        rows = micro(options, out)
    elif kind == "eager":
        rows = eager(options, out)
    else:
        rows = compiled(options, out, system, training=kind == "training")
    with (out / f"rows_{options.job.replace(':', '_')}.jsonl").open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
            file.flush()


class Alone:
    """Nobody else times meanwhile."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.file = open(options.lock or f"{options.out}/lock", "w")  # noqa: SIM115 (held by whoever times)

    def __enter__(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *unused: Any) -> None:
        fcntl.flock(self.file, fcntl.LOCK_UN)


def subject(options: argparse.Namespace, system: str, batch: int, precision: str, **more: Any) -> Any:
    """A network and a batch for it, as `mdtnet bench` runs them."""
    try:
        from mdtnet.measure.bench import BenchConfig, Subject
    except ImportError:  # the package before its measuring part had a folder
        from mdtnet.measure.bench import BenchConfig, Subject
    fixed = {"size": options.size, "width": options.width, "device": options.device}
    return Subject(BenchConfig(batch=batch, precision=precision, **fixed, **more), system, options.trunk)


def times(step: Any, repeats: int) -> list[float]:
    """Milliseconds of each repeat."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        found.append(1e3 * (time.perf_counter() - start))
    return found


def row(form: str, system: str, batch: int, precision: str, ms: list[float]) -> dict[str, Any]:
    low, _, high = quantiles(ms, n=4) if len(ms) > 1 else (ms[0],) * 3
    return {
        "form": form,
        "system": system,
        "batch": batch,
        "precision": precision,
        "ms": median(ms),
        "low": low,
        "high": high,
    }


def eager(options: argparse.Namespace, out: Path) -> Any:
    """All systems in turns: forward, training, as a CUDA graph; then a profile of TSN and MDT-Net2."""
    systems, repeats = options.systems.split(","), options.repeats
    batches = [int(b) for b in options.batches.split(",")]
    plans = [("forward", batch, precision, False) for batch in batches for precision in ("bf16", "float32")]
    plans.append(("training", batches[0], "bf16", True))
    with Alone(options):
        for form, batch, precision, training in plans:
            subjects = {s: subject(options, s, batch, precision, training=training) for s in systems}
            for one in subjects.values():
                times(one.step, 3)
            found: dict[str, list[float]] = {s: [] for s in systems}
            for _ in range(max(1, repeats // (3 if training or precision == "float32" else 1))):
                for name, one in subjects.items():
                    found[name] += times(one.step, 1)
            for name, ms in found.items():
                yield row(form, name, batch, precision, ms)
            if precision == "bf16" and not training and options.device == "cuda":
                for name, one in subjects.items():
                    try:
                        yield row("CUDA graph", name, batch, precision, times(graphed(one), repeats))
                    except RuntimeError as error:
                        print(f"no CUDA graph of {name}: {error}")
                        torch.cuda.synchronize()
            del subjects
        for name in ("tsn", "mdtnet2"):
            for training in (False, True):
                profile(
                    subject(options, name, batches[0], "bf16", training=training),
                    out,
                    f"{name}{'_training' * training}",
                )


def graphed(one: Any) -> Any:
    """The forward pass of a subject as a CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        with torch.cuda.stream(stream):
            for _ in range(3):
                one.model(one.clips)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            one.model(one.clips)

    def step() -> None:
        graph.replay()
        torch.cuda.synchronize()

    times(step, 3)
    return step


def profile(one: Any, out: Path, name: str) -> None:
    """Kernels by their time, of one step."""
    times(one.step, 3)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if one.config.device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities, record_shapes=False) as found:
        one.step()
    key = "self_device_time_total" if one.config.device == "cuda" else "self_cpu_time_total"
    events = [e for e in found.key_averages() if getattr(e, key) > 0]
    on_device = [e for e in events if str(e.device_type).endswith("CUDA")] or events
    lines = [f"{sum(e.count for e in on_device)} kernels, {sum(getattr(e, key) for e in on_device) / 1e3:.2f} ms"]
    for e in sorted(on_device, key=lambda e: -getattr(e, key))[:40]:
        lines.append(f"{getattr(e, key) / 1e3:9.3f} ms {e.count:5d}  {e.key[:110]}")
    (out / f"profile_{name}.txt").write_text("\n".join(lines) + "\n")


def compiled(options: argparse.Namespace, out: Path, system: str, *, training: bool) -> Any:
    """One system through torch.compile, one graph for any batch."""
    form = "training, compiled" if training else "compiled"
    batches = [int(b) for b in options.batches.split(",")]
    for batch in batches[:1] if training else batches:
        one = subject(options, system, batch, "bf16", training=training, compile=True)
        start = time.perf_counter()
        one.step()
        print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)
        with Alone(options):
            times(one.step, 3)
            yield row(form, system, batch, "bf16", times(one.step, options.repeats))
            if not training:
                profile(one, out, f"{system}_compiled_{batch}")
        del one


def micro(options: argparse.Namespace, out: Path) -> Any:
    """The temporal convolution alone on the maps of stages 2 to 4: as a convolution and as multiply-adds."""
    batch, dtype = int(options.batches.split(",")[0]), torch.bfloat16
    scale = options.size / 224
    for channels, side in ((128, 56), (128, 28), (256, 28), (256, 14), (512, 14), (512, 7)):
        side = max(1, int(side * scale))
        x = torch.randn(batch * 8, channels, side, side, device=options.device, dtype=dtype)
        x = x.to(memory_format=torch.channels_last)
        weight = torch.randn(channels, 1, 3, device=options.device, dtype=dtype)
        forms = {"convolution": as_convolution, "slices": as_slices, "Triton": as_triton}
        expected = as_convolution(x.float(), weight.float(), 8)
        for name, function in forms.items():
            if name == "Triton" and (triton is None or options.device != "cuda"):
                continue
            error = float((function(x, weight, 8).float() - expected).norm() / expected.norm())
            assert error < 1e-2, (name, error)
            with Alone(options):
                ms = cuda_times(lambda: function(x, weight, 8), options.repeats, options.device)  # noqa: B023
            yield {**row("temporal convolution alone", name, batch, "bf16", ms), "map": f"{channels} x {side} x {side}"}


def cuda_times(step: Any, repeats: int, device: str) -> list[float]:
    """Milliseconds on the device, which finds its caches flushed."""
    if device != "cuda":
        return times(step, repeats)
    flush = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    found = []
    for _ in range(repeats + 3):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        found.append(start.elapsed_time(end))
    return found[3:]


def as_convolution(x: Tensor, weight: Tensor, num_segments: int) -> Tensor:
    height, width = x.shape[-2:]
    steps = x.permute(0, 2, 3, 1).unflatten(0, (-1, num_segments))
    lines = steps.flatten(2, 3).permute(0, 3, 1, 2)
    y = F.conv2d(lines, weight[..., None], padding=(1, 0), groups=x.shape[1]).permute(0, 2, 3, 1)
    return y.unflatten(2, (height, width)).flatten(0, 1).permute(0, 3, 1, 2)


def as_slices(x: Tensor, weight: Tensor, num_segments: int) -> Tensor:
    steps = x.permute(0, 2, 3, 1).unflatten(0, (-1, num_segments))
    before, here, after = weight.flatten(1).unbind(1)
    out = steps * here
    out[:, 1:].addcmul_(steps[:, :-1], before)
    out[:, :-1].addcmul_(steps[:, 1:], after)
    return out.flatten(0, 1).permute(0, 3, 1, 2)


def as_triton(x: Tensor, weight: Tensor, num_segments: int) -> Tensor:
    """One pass: each program walks through time, and keeps three steps in registers."""
    n, channels, height, width = x.shape
    out = torch.empty_like(x, memory_format=torch.channels_last)
    elements, block = channels * height * width, 1024
    grid = (triton.cdiv(elements, block), n // num_segments)
    summed_steps[grid](x, weight, out, elements, channels, T=num_segments, BLOCK=block)
    return out


if triton is not None:

    @triton.jit
    def summed_steps(x, weight, out, elements, channels, T: tl.constexpr, BLOCK: tl.constexpr):
        """y(t) = w0 x(t-1) + w1 x(t) + w2 x(t+1) of one clip, `elements` numbers per step, channels last."""
        place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = place < elements
        channel = place % channels
        w0 = tl.load(weight + channel * 3, inside, 0).to(tl.float32)
        w1 = tl.load(weight + channel * 3 + 1, inside, 0).to(tl.float32)
        w2 = tl.load(weight + channel * 3 + 2, inside, 0).to(tl.float32)
        base = tl.program_id(1).to(tl.int64) * T * elements
        before = tl.zeros([BLOCK], tl.float32)
        here = tl.load(x + base + place, inside, 0).to(tl.float32)
        for t in tl.static_range(T):
            after = tl.zeros([BLOCK], tl.float32)
            if t + 1 < T:
                after = tl.load(x + base + (t + 1) * elements + place, inside, 0).to(tl.float32)
            y = before * w0 + here * w1 + after * w2
            tl.store(out + base + t * elements + place, y.to(out.dtype.element_ty), inside)
            before = here
            here = after


def show(out: Path) -> None:
    """A table of all rows, and where they are."""
    rows = [json.loads(line) for file in sorted(out.glob("rows_*.jsonl")) for line in file.read_text().splitlines()]
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    print(f"{name}, torch {torch.__version__}; ms, quartiles, x TSN in the same form")
    for r in rows:
        same = [b for b in rows if b["system"] == "tsn" and all(b[k] == r[k] for k in ("form", "batch", "precision"))]
        ratio = f"{r['ms'] / same[0]['ms']:5.2f}" if same else "     "
        print(
            f"{r['form']:26s} batch {r['batch']:<3d} {r['precision']:8s} {r['system']:12s} {r.get('map', ''):14s}"
            f"{r['ms']:9.3f} ({r['low']:.3f}-{r['high']:.3f}) {ratio}"
        )


if __name__ == "__main__":
    main()
