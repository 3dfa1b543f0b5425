"""Networks side by side on this machine: latency, memory, cost, and where the time goes.

Systems take turns inside each repeat, so that other work of the machine disturbs all of them alike; ratios to
the first system and to eager PyTorch are computed within a repeat. Every system gets the same optimisations: eager
forward passes are channels-last with batch norms folded into convolutions, as predictions and tests run them; exported
forms are the files of `mdtnet export`, from pixels to probabilities. The peak is that of a matrix product, in the
same turns. Networks of torchvision (`peers`) and the preparation of a video for each network are timed in them too.

Peak memory is measured in one process per system: how far its resident memory (on CUDA: the memory allocated)
rises above what it was before the network was built. It holds weights, activations and workspace, in training also
gradients and the optimiser's momentum, but not Python and the libraries.
"""

import json
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdtnet.checkpoint import save_checkpoint
from mdtnet.config import SYSTEMS, TRUNKS, DataConfig, Format, ModelConfig, Precision, RunConfig
from mdtnet.config_file import from_dict
from mdtnet.data.video import probe
from mdtnet.deploy.export import SUFFIXES, export
from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.errors import ConfigError, nearest
from mdtnet.inference.description import clip_shape, describe
from mdtnet.inference.views import read_views
from mdtnet.measure.clock import clocked, synchronise
from mdtnet.measure.cost import count
from mdtnet.measure.peers import PEERS, built, clip_of, peer_cost, peer_description
from mdtnet.measure.roofline import Roofline, roofline
from mdtnet.models.build import build_model
from mdtnet.models.folding import folded, stored_in
from mdtnet.system.files import atomic_write, write_text
from mdtnet.system.machine import describe_machine

CLASSES = 400
_CLASS_NAMES = [str(i) for i in range(CLASSES)]
FORMATS: dict[str, tuple[Format, Precision] | None] = {
    "eager": None,
    "onnx": ("onnx", "float32"),
    "openvino": ("openvino", "float32"),
    "torch": ("torch", "float32"),
    "onnx_int8": ("onnx", "int8"),
    "openvino_int8": ("openvino", "int8"),
}
"""Form of a network -> format and precision of the exported file; None: not exported."""
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Makes glibc give freed memory back at once, so that what is resident is what is in use; otherwise it is a third more
or less from run to run."""
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class BenchConfig:
    """Options of a run."""

    models: tuple[str, ...] = tuple(SYSTEMS)
    """Systems; ratios are to the first of them on the same trunk."""
    trunks: tuple[str, ...] = ("resnet50",)
    """2D networks."""
    formats: tuple[str, ...] = ("eager",)
    """Forms of each network: eager PyTorch, and the files of `mdtnet export`."""
    width: float = 1.0
    """Channel multiplier of the trunks."""
    segments: int = 8
    """T."""
    size: int = 224
    """Side of the crop in pixels."""
    batch: int = 1
    """Clips per batch."""
    training: bool = False
    """Time training steps (forward, backward, SGD with momentum) instead of forward passes."""
    checkpoint_activations: bool = False
    """In training steps, as `train.checkpoint_activations`."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """bf16 and fp16: under autocast."""
    compile: bool = False
    """Through torch.compile."""
    repeats: int = 7
    """Turns that are timed, after one to warm up."""
    threads: int = 0
    """CPU threads; 0: PyTorch's own choice."""
    device: str = "cpu"
    """cpu or cuda."""
    peers: bool = False
    """Also time torchvision's video networks (`measure.peers`)."""
    video: str = ""
    """A video file: also time how it becomes each network's input, decoding included."""


@dataclass(frozen=True)
class Row:
    """Measurements of one network: one time per repeat, for a whole batch."""

    system: str
    trunk: str
    gmacs: float
    """Cost of one clip."""
    parameters: int
    memory: int | None
    """Peak bytes; None where it cannot be measured."""
    format: str = "eager"
    seconds: list[float] = field(default_factory=list)
    """Wall-clock time."""
    cpu_seconds: list[float] = field(default_factory=list)
    """CPU time of this process, all threads together; of one thread it is free of waiting for other processes."""
    preparation: list[float] = field(default_factory=list)
    """Wall-clock time from the video file to one view; empty without a video."""

    @property
    def name(self) -> str:
        """System and trunk, and the form if it is exported; a peer has no trunk."""
        return " ".join(filter(None, (self.system, self.trunk, self.format if self.format != "eager" else "")))

    def ratios(self, base: "Row", *, cpu: bool = False) -> list[float]:
        """Times over those of `base`, repeat by repeat."""
        mine, other = (r.cpu_seconds if cpu else r.seconds for r in (self, base))
        return [a / b for a, b in zip(mine, other)]


@dataclass(frozen=True)
class Bench:
    """The result of a run."""

    about: dict[str, str | int | float | None]
    """Versions, machine, date, commit."""
    config: BenchConfig
    rows: list[Row]
    peak: list[float]
    """GFLOP/s of a square matrix product, one per repeat."""
    components: dict[str, dict[str, list[float]]]
    """Network -> component -> seconds of forward passes; empty unless asked for."""

    def base(self, row: Row) -> Row:
        """The first system's row, of the same trunk and form; of a peer the first row."""
        return next(r for r in self.rows if not row.trunk or (r.trunk, r.format) == (row.trunk, row.format))

    def eager(self, row: Row) -> Row | None:
        """The same network in eager PyTorch."""
        same = (row.system, row.trunk, "eager")
        return next((r for r in self.rows if (r.system, r.trunk, r.format) == same), None)

    def gflops(self, row: Row) -> float:
        """GFLOP/s that a network reaches in its median time: 2 x GMACs / s, three times as much in training."""
        passes = 3 if self.config.training else 1
        return 2 * passes * self.config.batch * row.gmacs / median(row.seconds)

    def save(self, folder: str | Path) -> None:
        """Write `bench.json` and `bench.png` into a folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "bench.json", json.dumps(asdict(self), indent=1) + "\n")
        plot(self, folder / "bench.png")


def bench(
    config: BenchConfig,
    *,
    components: bool = False,
    memory: bool = True,
    note: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measure every system on every trunk in every form; `note` gets a line per step.

    Raises:
        ConfigError: an unknown system, trunk or form, a number that must be positive, a missing device, or a
            missing package of an exported form.
        VideoError: the video cannot be read.
    """
    check(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    about, rows, makers = describe_machine(), [], []
    if config.video:
        about["video"] = _facts(config.video)
    with tempfile.TemporaryDirectory(prefix="mdtnet-bench-") as folder:
        for trunk, system, form in product(config.trunks, config.models, config.formats):
            note(f"{system} on {trunk}, {form}: cost and memory")
            makers.append(_maker(config, system, trunk, form, Path(folder)))
            rows.append(_costs(config, system, trunk, form, makers[-1] if memory else None))
        for name in PEERS if config.peers else ():
            note(f"{name}: cost and memory")
            makers.append(partial(PeerSubject, config, name))
            cost = peer_cost(name)
            rows.append(Row(name, "", cost.gmacs, cost.parameters, peak_memory(config, makers[-1]) if memory else None))
        subjects = [make() for make in makers]
        peak = _take_turns(config, rows, subjects, note)
        shares = {
            row.name: component_seconds(subject, config.repeats)
            for row, subject in zip(rows, subjects)
            if components and isinstance(subject, Subject) and row.trunk
        }
        del subjects  # open files
    return Bench(about, config, rows, peak, shares)


def _facts(video: str) -> str:
    info = probe(video)
    seconds = f"{info.num_frames / info.fps:.1f} s, " if info.fps else ""
    return f"{seconds}{info.num_frames} frames of {info.width} x {info.height}, {info.codec}"


def _take_turns(
    config: BenchConfig, rows: list[Row], subjects: list["Subject | ExportedSubject"], note: Callable[[str], None]
) -> list[float]:
    """Time every subject once per repeat into its row; returns the GFLOP/s of a matrix product in each repeat."""
    peak = []
    for repeat in range(config.repeats + 1):  # the first warms up
        note(f"repeat {repeat} of {config.repeats}")
        peak.append(gemm_gflops(config))
        for row, subject in zip(rows, subjects):
            wall, cpu = time.perf_counter(), time.process_time()
            subject.step()
            if repeat:
                row.seconds.append(time.perf_counter() - wall)
                row.cpu_seconds.append(time.process_time() - cpu)
            if config.video:
                wall = time.perf_counter()
                read_views(config.video, subject.description)
                row.preparation.extend([time.perf_counter() - wall] if repeat else [])
    return peak[1:]


def check(config: BenchConfig) -> None:
    """Raise `ConfigError` where `config` cannot be run."""
    lists = (
        ("models", config.models, tuple(SYSTEMS)),
        ("trunks", config.trunks, TRUNKS),
        ("formats", config.formats, tuple(FORMATS)),
    )
    for what, names, known in lists:
        for name in names:
            if name not in known:
                raise ConfigError(f"--{what}: '{name}', expected some of {', '.join(known)}{nearest(name, known)}")
        if not names:
            raise ConfigError(f"--{what}: expected some of {', '.join(known)}")
    for what in ("segments", "size", "batch", "repeats"):
        if getattr(config, what) < 1:
            raise ConfigError(f"--{what} is {getattr(config, what)}, expected at least 1")
    if config.device not in ("cpu", "cuda"):
        raise ConfigError(f"--device is '{config.device}', expected cpu or cuda")
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda, but PyTorch sees no CUDA device")
    as_exported = not (config.training or config.compile) and (config.device, config.precision) == ("cpu", "float32")
    for what, given in (
        ("--formats other than eager are", set(config.formats) != {"eager"}),
        ("--peers are", config.peers),
        ("--video is for", bool(config.video)),
    ):
        if given and not as_exported:
            raise ConfigError(f"{what} forward passes on a CPU in float32, without --compile")
    if config.video and config.batch != 1:
        raise ConfigError(f"--batch is {config.batch}, but --video is for one clip at a time")


class Subject:
    """A network and a batch for it. Its speed does not depend on the pixels."""

    def __init__(self, config: BenchConfig, system: str, trunk: str) -> None:
        self.config = config
        run = _run_config(config, system, trunk)
        made = build_model(run.model, num_classes=CLASSES)
        made.trunk.checkpoint_activations = config.checkpoint_activations
        self.description = describe(run, classes=_CLASS_NAMES, frames_per_segment=made.frames_per_segment)
        made = made.train() if config.training else stored_in(folded(made), PRECISIONS[config.precision])
        self.model = made.to(config.device).to(memory_format=torch.channels_last)
        shape = (config.batch, config.segments, made.frames_per_segment, 3, config.size, config.size)
        self.clips = torch.randint(0, 256, shape, dtype=torch.uint8, device=config.device)
        self.labels = torch.zeros(config.batch, dtype=torch.long, device=config.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9)
        self.run: Callable[[Tensor], Tensor] = self.model
        if config.compile:  # small batches on CUDA are all launches, unless they are a CUDA graph
            graphs = config.device == "cuda" and not config.training
            self.run = torch.compile(self.model, mode="reduce-overhead" if graphs else None)

    def step(self) -> None:
        """One training step or forward pass, to its end on the device."""
        if self.config.training:
            self.optimizer.zero_grad()
            with self._autocast():
                logits = self.run(self.clips)
            F.cross_entropy(logits.float(), self.labels).backward()
            self.optimizer.step()
        else:
            with torch.inference_mode(), self._autocast():
                self.run(self.clips)
        synchronise(self.config.device)

    def _autocast(self) -> torch.autocast:
        dtype = PRECISIONS[self.config.precision]
        return torch.autocast(self.config.device, dtype, enabled=dtype != torch.float32)


class PeerSubject(Subject):
    """A network of torchvision and a batch for it."""

    def __init__(self, config: BenchConfig, name: str) -> None:
        self.config, self.description = config, peer_description(name)
        self.run = built(name).to(memory_format=torch.channels_last_3d)
        self.clips = clip_of(name).repeat(config.batch, 1, 1, 1, 1)


class ExportedSubject:
    """An exported network and a batch for it."""

    def __init__(self, config: BenchConfig, file: Path) -> None:
        made = ExportedRecogniser.load(file, threads=torch.get_num_threads())
        self.network, self.description = made.network, made.description
        self.clips = np.random.default_rng(0).integers(
            0, 256, (config.batch, *clip_shape(made.description)), dtype=np.uint8
        )

    def step(self) -> None:
        """One forward pass."""
        self.network(self.clips)


def _settle(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Give batch norms the statistics of a random clip: else activations of a random start vanish on the way, and have
    no range that 8 bits could be fitted to."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randint(0, 256, shape, dtype=torch.uint8))


def _maker(
    config: BenchConfig, system: str, trunk: str, form: str, folder: Path
) -> Callable[[], Subject | ExportedSubject]:
    """A function that makes a subject, here or in another process; an exported one is written into `folder` first."""
    exported = FORMATS[form]
    if exported is None:
        return partial(Subject, config, system, trunk)
    format, precision = exported
    run = _run_config(config, system, trunk)
    model = build_model(run.model, num_classes=CLASSES)
    _settle(model, (2, config.segments, model.frames_per_segment, 3, config.size, config.size))
    checkpoint = folder / f"{system}_{trunk}.pt"
    save_checkpoint(checkpoint, model=model, config=run, classes=_CLASS_NAMES)
    file = folder / f"{system}_{trunk}_{form}{SUFFIXES[format]}"
    export(checkpoint, format=format, out=file, precision=precision)
    return partial(ExportedSubject, config, file)


def _run_config(config: BenchConfig, system: str, trunk: str) -> RunConfig:
    data = DataConfig(num_segments=config.segments, size=config.size, short_side=max(256, config.size))
    return RunConfig(data=data, model=_model_config(config, system, trunk))


def _model_config(config: BenchConfig, system: str, trunk: str) -> ModelConfig:
    return from_dict(ModelConfig, {"name": system, "trunk": trunk, "width": config.width})


def _costs(
    config: BenchConfig, system: str, trunk: str, form: str, make: Callable[[], Subject | ExportedSubject] | None
) -> Row:
    with torch.device("meta"):
        model = build_model(_model_config(config, system, trunk), num_classes=CLASSES)
    cost = count(model, num_segments=config.segments, size=config.size)
    peak = peak_memory(config, make) if make else None
    return Row(system, trunk, cost.gmacs, cost.parameters, peak, form)


def counted(config: BenchConfig, system: str, trunk: str) -> Roofline:
    """Kernels, bytes and FLOPs of what would be timed, without running it."""
    with torch.device("meta"):
        model = build_model(_model_config(config, system, trunk), num_classes=CLASSES)
    return roofline(
        model,
        batch=config.batch,
        num_segments=config.segments,
        size=config.size,
        precision=PRECISIONS[config.precision],
        training=config.training,
    )


def gemm_gflops(config: BenchConfig, *, side: int = 2048) -> float:
    """GFLOP/s of one product of two square matrices in the precision of the run."""
    a, b = torch.rand(2, side, side, device=config.device, dtype=PRECISIONS[config.precision])
    synchronise(config.device)
    start = time.perf_counter()
    torch.mm(a, b)
    synchronise(config.device)
    return 2 * side**3 / (time.perf_counter() - start) / 1e9


# Memory


def peak_memory(config: BenchConfig, make: Callable[[], Subject | ExportedSubject]) -> int | None:
    """Peak bytes of two steps in a process of its own; None without /proc and without a CUDA device."""
    before = {name: os.environ.get(name) for name in MALLOC}
    os.environ.update(MALLOC)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_measure_memory, config, make).result()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})


def _measure_memory(config: BenchConfig, make: Callable[[], Subject | ExportedSubject]) -> int | None:
    if config.threads:
        torch.set_num_threads(config.threads)
    gemm_gflops(config, side=64)  # the libraries load themselves
    before, files = _resident("VmRSS"), _resident("RssFile")
    subject = make()
    for _ in range(2):
        subject.step()
    if config.device == "cuda":
        return torch.cuda.max_memory_allocated()
    if before is None or files is None:
        return None
    return (_resident("VmHWM") or 0) - before - ((_resident("RssFile") or 0) - files)


def _resident(field: str) -> int | None:
    """Bytes of this process by /proc: VmRSS now, VmHWM at most, RssFile of files, such as the libraries' code, which
    grows with the number of different operations. (`ru_maxrss` begins at the parent's.)"""
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


# Components


def component_seconds(subject: Subject, repeats: int) -> dict[str, list[float]]:
    """Seconds of each component in `repeats` forward passes, by a clock that switches at the borders of modules."""
    found: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        with torch.inference_mode(), clocked(subject.model, subject.config.device) as seconds:
            subject.model(subject.clips)
        for name, value in seconds.items() if repeat else ():
            found.setdefault(name, []).append(value)
    return found


# Machine, plot


def plot(result: Bench, path: Path) -> None:
    """Time of a batch over cost, one panel per trunk, bars from the fastest to the slowest repeat."""
    from matplotlib.figure import Figure

    trunks = result.config.trunks
    figure = Figure(figsize=(1 + 3.6 * len(trunks), 3.4), dpi=150, layout="constrained")
    for axes, trunk in zip(figure.subplots(1, len(trunks), squeeze=False)[0], trunks):
        rows = [row for row in result.rows if row.trunk == trunk]
        x, y = [row.gmacs for row in rows], [1e3 * median(row.seconds) for row in rows]
        low = [m - 1e3 * min(row.seconds) for m, row in zip(y, rows)]
        high = [1e3 * max(row.seconds) - m for m, row in zip(y, rows)]
        axes.errorbar(x, y, (low, high), fmt="o", markersize=4, elinewidth=0.8, color="#33608c")
        for i, place in enumerate(zip(x, y)):  # names right and left in turns: neighbours cost about the same
            side = "left" if i % 2 == 0 else "right"
            label = rows[i].name.replace(f" {trunk}", "")
            axes.annotate(label, place, (5 if i % 2 == 0 else -5, 3), textcoords="offset points", ha=side, fontsize=8)
        axes.set_title(trunk, loc="left", fontsize=10)
        axes.set(xlabel="GMACs per clip")
        axes.set_ylim(bottom=0)
        axes.margins(x=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel(f"ms per {'training step' if result.config.training else 'forward pass'}")
    atomic_write(path, lambda file: figure.savefig(file, format="png"))
