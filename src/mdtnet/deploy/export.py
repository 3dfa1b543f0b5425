"""A checkpoint as one file for a runtime: ONNX, OpenVINO, or torch.export's program.

The graph is the whole network, salience map included, from pixels to probabilities. Before the file is put in its
place, the runtime executes it on real clips: what does not compute the same as the network is not written.
Letters: B clips, T segments, K frames a segment, S the side of a crop in pixels; B is free, the others are fixed.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from mdtnet.builtin.actions import ACTIONS
from mdtnet.builtin.render import RenderConfig, render_clip
from mdtnet.checkpoint import load_model
from mdtnet.config import Format, Precision, RunConfig, TestConfig, test_crop_size
from mdtnet.deploy.graph import PixelsToProbabilities, pure, traced
from mdtnet.deploy.to_onnx import write_onnx
from mdtnet.deploy.to_openvino import write_openvino
from mdtnet.errors import ConfigError, DataError, ExportError, VideoError
from mdtnet.inference.exported import Deployed
from mdtnet.inference.prediction import expand_sources
from mdtnet.inference.views import KEY, Description, Network, clip_shape, clip_table, crop, read_views, resize_short
from mdtnet.models.folding import folded

log = logging.getLogger(__name__)

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
TOLERANCES: dict[str, float] = {"float32": 1e-3, "half": 1e-2}
"""How far probabilities may be from the network's; `int8` is free, and reports what it costs."""
MOST_CLIPS = 32  # that are compared, and calibrated with
AT_ONCE = 3


@dataclass(frozen=True)
class Comparison:
    """The exported form against the network on the same clips."""

    clips: int
    difference: float
    """Largest difference of a probability."""
    changed: int
    """Clips with another top-1."""
    clearly_changed: int
    """Those of them where the network's best two are further apart than twice what is allowed."""
    labelled: int
    """Clips whose class is known."""
    top1_network: float
    """Accuracy on those, 0 to 1."""
    top1_exported: float


@dataclass(frozen=True)
class Exported:
    """What `export` wrote."""

    path: Path
    description: Description
    comparison: Comparison

    def __str__(self) -> str:
        c = self.comparison
        text = f"{c.clips} clips: probabilities differ by up to {c.difference:.1e}, top-1 differs on {c.changed}"
        if c.labelled:
            text += f"; top-1 {c.top1_network:.1%} -> {c.top1_exported:.1%} on {c.labelled} labelled clips"
        return text


def export(
    checkpoint: str | Path,
    *,
    format: Format,
    out: str | Path,
    precision: Precision = "float32",
    clips: str = "",
) -> Exported:
    """Write a checkpoint's network as `out`, and `out`.json, which says the same as the metadata inside.

    Args:
        clips: videos to compare (and calibrate `int8`) with: a file, folder or pattern. A video in a folder named
            after a class counts as one of it. Empty: clips of the built-in data set.

    Raises:
        CheckpointError: as `load_model`.
        ExportError: the network cannot be converted, or computes something else afterwards; nothing is written.
        ConfigError: a package is missing, or `out` or `precision` does not go with `format`.
        DataError: none of the clips can be read.
    """
    out = _checked_out(Path(out), format, precision)
    model: Any = load_model(checkpoint)
    description = describe(model, precision)
    views, labels = real_clips(clips, description)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        file = Path(folder, out.name)
        _write(format, model, description, views, file)
        network = eager(model, multi_label=description.multi_label)
        comparison = compare(network, load_network(file), views, labels, TOLERANCES.get(precision, 1.0))
        _refuse(comparison, out, precision)
        Path(folder, f"{out.name}.json").write_text(description.to_json(), encoding="utf-8")
        for made in sorted(Path(folder).iterdir()):
            os.replace(made, out.parent / made.name)
    return Exported(out, description, comparison)


def _checked_out(out: Path, format: Format, precision: Precision) -> Path:
    if format not in get_args(Format):
        raise ConfigError(f"format is '{format}', expected one of {', '.join(get_args(Format))}")
    if out.suffix != SUFFIXES[format]:
        raise ConfigError(f"{out}: a file of format '{format}' must end in {SUFFIXES[format]}")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: its folder does not exist")
    if precision == "int8" and format == "torch":
        raise ConfigError("int8 goes with format onnx or openvino, not torch")
    return out


def describe(model: Any, precision: Precision) -> Description:
    """All that lies between a video and the network of a checkpoint, as `mdtnet predict` does it."""
    config: RunConfig = model.config
    data, test = config.data, config.test
    one_crop = TestConfig(crops=1, crop_size=test.crop_size if test.crops == 1 else 0)
    return Description(
        system=config.model.name,
        trunk=config.model.trunk,
        precision=precision,
        classes=tuple(model.classes),
        num_segments=data.num_segments,
        frames_per_segment=int(model.frames_per_segment),
        frame_stride=data.frame_stride,
        sampling=data.sampling,
        exposure=data.exposure,
        multi_label=data.multi_label,
        short_side=data.short_side,
        size=test_crop_size(data, one_crop),
        fusion=test.fusion,
    )


# clips, and the comparison on them


def real_clips(clips: str, description: Description) -> tuple[np.ndarray, np.ndarray]:
    """Clips as the network sees them, uint8 [n, T, K, S, S, 3], and their labels [n], -1 where it is not known."""
    sources = expand_sources([clips]) if clips else list(ACTIONS)
    places = np.unique(np.linspace(0, len(sources) - 1, min(len(sources), MOST_CLIPS)).round().astype(int))
    read = _read if clips else _rendered
    found = [(views, label) for i in places for views, label in read(sources[i], description)]
    if not found:
        raise DataError(f"{clips}: none of these videos can be read")
    return np.concatenate([views for views, _ in found]), np.array([label for _, label in found])


def _read(path: str, description: Description) -> list[tuple[np.ndarray, int]]:
    name = Path(path).parent.name
    label = description.classes.index(name) if name in description.classes else -1
    try:
        return [(read_views(path, description), label)]
    except VideoError as error:
        log.warning("left out: %s", error)
        return []


def _rendered(action: str, description: Description) -> list[tuple[np.ndarray, int]]:
    side = min(max(description.size // 2 * 2, 32), 1024)
    frames = render_clip(action, config=RenderConfig(size=side), split="val")
    table = clip_table(len(frames), description)
    views = np.stack([resize_short(frames[i], description.size) for i in table.reshape(-1)])
    views = crop(views.reshape(*table.shape, *views.shape[1:]), crops=1, size=description.size)
    return [(views, description.classes.index(action) if action in description.classes else -1)]


def eager(model: nn.Module, *, multi_label: bool = False) -> Network:
    """The network itself as what the exported forms are."""
    whole = PixelsToProbabilities(model, multi_label=multi_label).eval()

    @torch.inference_mode()
    def run(frames: np.ndarray) -> np.ndarray:
        return whole(torch.from_numpy(frames)).numpy()

    return run


def compare(network: Network, exported: Network, views: np.ndarray, labels: np.ndarray, tolerance: float) -> Comparison:
    """Both on the clips [n, T, K, S, S, 3]: one alone, then several at once."""
    parts = np.split(views, range(1, len(views), AT_ONCE)) if len(views) > 1 else [views]
    expected, found = (np.concatenate([run(part) for part in parts]) for run in (network, exported))
    best, best_found = expected.argmax(1), found.argmax(1)
    runner_up, top = np.partition(expected, -2, axis=1)[:, -2:].T if expected.shape[1] > 1 else (0.0, expected[:, 0])
    known = labels >= 0
    return Comparison(
        clips=len(views),
        difference=float(np.abs(found - expected).max()),
        changed=int((best != best_found).sum()),
        clearly_changed=int(((best != best_found) & (top - runner_up > 2 * tolerance)).sum()),
        labelled=int(known.sum()),
        top1_network=float((best == labels)[known].mean()) if known.any() else 0.0,
        top1_exported=float((best_found == labels)[known].mean()) if known.any() else 0.0,
    )


def _refuse(comparison: Comparison, out: Path, precision: Precision) -> None:
    if not np.isfinite(comparison.difference):
        raise ExportError(f"{out}: not written: the exported form gives probabilities that are no numbers")
    allowed = TOLERANCES.get(precision)
    if allowed is not None and (comparison.difference > allowed or comparison.clearly_changed):
        raise ExportError(
            f"{out}: not written: on {comparison.clips} clips probabilities differ from the network's by up to "
            f"{comparison.difference:.2g} ({allowed:g} is allowed for {precision}), and top-1 differs on "
            f"{comparison.changed}"
        )


# writing and loading


def _write(format: Format, model: nn.Module, description: Description, views: np.ndarray, file: Path) -> None:
    half = format == "torch" and description.precision == "half"  # the others store halves themselves
    network = folded(model) if format == "torch" else pure(model, steps=format == "openvino")
    program = traced(network, clip_shape(description), multi_label=description.multi_label, half=half)
    if format == "torch":
        torch.export.save(program, file, extra_files={f"{KEY}.json": description.to_json()})
        return
    write: dict[str, Callable] = {"onnx": write_onnx, "openvino": write_openvino}
    write[format](program, description, views, file)


def load_network(file: Path, *, threads: int = 0) -> Network:
    """The network of a file that `export` wrote; `threads` 0 leaves their number to the runtime."""
    return _load_program(file) if file.suffix == ".pt2" else Deployed.load(file, threads=threads).network


def _load_program(file: Path) -> Network:
    program: Any = torch.export.load(file).module()

    @torch.inference_mode()
    def run(frames: np.ndarray) -> np.ndarray:
        return program(torch.from_numpy(frames)).numpy()

    return run
