"""What works on this machine and what does not, each in one line with its cause: versions, devices, decoders, extras,
memory, and a video that is rendered, decoded and classified.

Nothing here needs more than the standard library to begin with: a package that is broken is a finding, not a crash.
"""

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypedDict

from mdtnet import __version__
from mdtnet.data.decoders import TORCHCODEC, why_torchcodec_fails

State = Literal["ok", "missing", "warning", "failed"]
"""`missing`: not there, and not needed unless it is asked for; `failed`: mdtnet does not work without it."""
PACKAGE = "mdtnet"
SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED = 2**30  # bytes: a loader process has several batches of about 0.4 GB (64 x 8 x 5 frames of 224 pixels)
LEAST_TEMPORARY = 2**30  # bytes
GIB = 2**30
MOST_ERROR = 8.0  # of 255: more than H.264 loses at this quality, less than by which another frame differs


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    topic: str
    """`versions`, `devices`, `decoders`, `extras`, `system` or `self-test`."""
    name: str
    state: State
    detail: str
    """What was found; where the state is not `ok` the cause and what helps."""


class PlainReport(TypedDict):
    """An examination as plain values, fit for JSON."""

    ok: bool
    """Nothing failed."""
    findings: list[dict[str, str]]


def examine() -> Iterator[Finding]:
    """Every finding, as soon as it is there; a step that breaks is a finding itself."""
    steps = (_versions, _devices, _decoders, _extras, _system, _self_test)
    for step in steps:
        topic = step.__name__.strip("_").replace("_", "-")
        try:
            yield from step()
        except Exception as error:  # of any package that is broken in a way that nobody foresaw
            yield Finding(topic, "examination", "failed", one_line(error))


def plain(findings: list[Finding]) -> PlainReport:
    """Findings as plain values, fit for JSON."""
    return {
        "ok": not any(finding.state == "failed" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def one_line(error: BaseException) -> str:
    """The first line of an error, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# ---- packages -------------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    from mdtnet.system.machine import commit

    here = f", commit {found}" if (found := commit()) else ""
    yield Finding("versions", PACKAGE, "ok", f"{__version__}{here}, in {Path(__file__).parent}")
    yield Finding("versions", "python", "ok", f"{platform.python_version()}, {platform.platform()}")
    if not _is_installed():
        yield Finding("versions", "requirements", "warning", f"not known: {PACKAGE} is not installed: pip install .")
    for requirement in requirements():
        problem = requirement.problem()
        detail = f"{problem}: pip install --upgrade '{requirement.text}'" if problem else requirement.version()
        yield Finding("versions", requirement.name, "failed" if problem else "ok", detail)


def _extras() -> Iterator[Finding]:
    if not _is_installed():
        return
    for extra in importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []:
        if extra in ("dev", "docs"):  # for a clone of the repository
            continue
        problems: dict[str, list[str]] = {}
        for requirement in requirements(extra):
            problems.setdefault(requirement.problem(), []).append(requirement.name)
        problems.pop("", None)
        if problems:
            said = "; ".join(f"{', '.join(names)} {problem}" for problem, names in problems.items())
            yield Finding("extras", extra, "missing", f"{said}: pip install '{PACKAGE}[{extra}]'")
        else:
            yield Finding("extras", extra, "ok", ", ".join(r.name for r in requirements(extra)))


def _is_installed() -> bool:
    """Whether the package's own description is there; a source tree on the path has none."""
    try:
        importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@dataclass(frozen=True)
class Requirement:
    """A package that mdtnet or one of its extras needs."""

    name: str
    text: str
    """As pip reads it: `av>=17`."""

    def version(self) -> str:
        """The version that is installed, or nothing."""
        try:
            return importlib.metadata.version(self.name)
        except importlib.metadata.PackageNotFoundError:
            return ""

    def problem(self) -> str:
        """`not installed`, or that the version does not do; nothing where it does."""
        from packaging.requirements import Requirement as Parsed

        version, wanted = self.version(), Parsed(self.text).specifier
        if not version:
            return "not installed"
        return "" if wanted.contains(version, prereleases=True) else f"{version}, needs {wanted}"


def requirements(extra: str = "") -> list[Requirement]:
    """What the installed package asks for: by itself, or beyond that with `extra`; extras of its own are followed."""
    from packaging.requirements import Requirement as Parsed

    found = []
    for text in (importlib.metadata.requires(PACKAGE) or []) if _is_installed() else []:
        parsed = Parsed(text)
        marker = parsed.marker
        if extra and (marker is None or marker.evaluate({"extra": ""})):
            continue  # needed anyway
        if marker and not marker.evaluate({"extra": extra}):
            continue
        if parsed.name == PACKAGE:
            found += [one for other in sorted(parsed.extras) for one in requirements(other)]
        else:
            found.append(Requirement(parsed.name, f"{parsed.name}{parsed.specifier}"))
    return found


# ---- devices and decoders -------------------------------------------------------------------------------


def _devices() -> Iterator[Finding]:
    from mdtnet.system.machine import processor

    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    import torch

    threads = f"PyTorch uses {torch.get_num_threads()} threads"
    yield Finding("devices", "cpu", "ok", f"{processor()}, {os.cpu_count()} cores{load}; {threads}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            detail = f"{about.name}, {about.total_memory / GIB:.1f} GiB"
            yield Finding("devices", f"cuda:{i}", *_computes(f"cuda:{i}", detail))
    else:
        yield Finding("devices", "cuda", "missing", _why_no_cuda())
    if torch.backends.mps.is_available():
        yield Finding("devices", "mps", *_computes("mps", "Apple's GPU"))


def _computes(device: str, detail: str) -> tuple[State, str]:
    import torch

    try:
        torch.ones(2, device=device).sum().item()
    except RuntimeError as error:  # a device that the build has no kernels for, or that is full
        return "warning", f"{detail}: does not compute: {one_line(error)}"
    return "ok", detail


def _why_no_cuda() -> str:
    import torch

    built = torch.version.cuda
    if not built:
        return "this PyTorch is built without CUDA"
    try:
        torch.zeros(1, device="cuda")
    except (RuntimeError, AssertionError) as error:
        return f"PyTorch is built for CUDA {built}, but {one_line(error).partition(': ')[2].partition('. ')[0]}"
    return f"PyTorch is built for CUDA {built}, but finds no device"


def _decoders() -> Iterator[Finding]:
    try:
        av = importlib.import_module("av")
        codec = ".".join(map(str, av.library_versions["libavcodec"]))
        yield Finding("decoders", "pyav", "ok", f"{av.__version__} with its own FFmpeg (libavcodec {codec})")
    except Exception as error:  # a broken binary raises whatever its loader does
        yield Finding("decoders", "pyav", "failed", f"does not load: {one_line(error)}")
    if reason := why_torchcodec_fails():
        state: State = "missing" if reason == "not installed" else "warning"
        helps = f": pip install '{PACKAGE}[codec]'" if state == "missing" else "; PyAV is used unless you ask for it"
        yield Finding("decoders", TORCHCODEC, state, reason + helps)
    else:
        yield Finding("decoders", TORCHCODEC, "ok", importlib.metadata.version(TORCHCODEC))


# ---- the system -----------------------------------------------------------------------------------------


def _system() -> Iterator[Finding]:
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        yield Finding("system", "memory", "ok", f"{pages * size / GIB:.1f} GiB")
    yield _shared_memory(SHARED_MEMORY)
    folder = Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=folder):
        free = shutil.disk_usage(folder).free
    state: State = "ok" if free >= LEAST_TEMPORARY else "warning"
    yield Finding("system", "temporary files", state, f"{folder}, {free / GIB:.1f} GiB free")


def _shared_memory(place: Path) -> Finding:
    """Loader processes hand their batches over in shared memory, of which containers have 64 MB by default."""
    if not place.is_dir():
        return Finding("system", str(place), "ok", "not of this system")
    total, _, free = shutil.disk_usage(place)
    detail = f"{free / GIB:.2f} of {total / GIB:.2f} GiB free"
    if free >= LEAST_SHARED:
        return Finding("system", str(place), "ok", detail)
    helps = "loader processes hand batches over in it: docker run --shm-size=4g, or --data.workers 0"
    return Finding("system", str(place), "warning", f"{detail}, little for training; {helps}")


# ---- self-test ------------------------------------------------------------------------------------------


def _self_test() -> Iterator[Finding]:
    """Render a clip, write and decode it, and let a small network classify it."""
    with tempfile.TemporaryDirectory(prefix="mdtnet-doctor-") as folder:
        path = Path(folder, "clip.mp4")
        for name, step in (("render", _render), ("decode", _decode), ("classify", _classify)):
            before = time.perf_counter()
            try:
                detail = step(path)
            except Exception as error:  # whatever it is, the user is told where things break
                yield Finding("self-test", name, "failed", one_line(error))
                return
            yield Finding("self-test", name, "ok", f"{detail}, {time.perf_counter() - before:.1f} s")


def _render(path: Path) -> str:
    from mdtnet.builtin.render import RenderConfig, encode, render_clip

    frames = render_clip("wave", config=RenderConfig(size=64, background="plain"))
    path.write_bytes(encode(frames, fps=30))
    return f"{len(frames)} frames of 64 x 64 pixels as H.264"


def _decode(path: Path) -> str:
    import numpy as np

    from mdtnet.builtin.render import RenderConfig, render_clip
    from mdtnet.data.video import read_clip

    frames, count = read_clip(path, np.arange)
    drawn = render_clip("wave", config=RenderConfig(size=64, background="plain"))
    error = float(np.abs(frames.astype(int) - drawn).mean()) if frames.shape == drawn.shape else float("inf")
    if error > MOST_ERROR:
        raise ValueError(f"decoded frames are not those that were written: mean difference {error:.1f} of 255")
    return f"{count} frames, mean difference {error:.1f} of 255"


def _classify(path: Path) -> str:
    from mdtnet.config import DataConfig, ModelConfig, RunConfig
    from mdtnet.inference.recogniser import Recogniser
    from mdtnet.models.build import build_model

    config = RunConfig(
        data=DataConfig(num_segments=4, short_side=64, size=64),
        model=ModelConfig(name="mdtnet2", trunk="resnet18", width=0.125),
    )
    model = build_model(config.model, num_classes=3)
    network = Recogniser(model, classes=("a", "b", "c"), config=config, device="cpu")
    total = sum(network.predict(path, topk=3).probabilities)
    if not abs(total - 1) < 1e-6:
        raise ValueError(f"probabilities sum to {total}, expected 1")
    return "MDT-Net2 on a narrow ResNet-18 with random weights"
