"""A checkpoint as one file for a runtime: ONNX, OpenVINO, or torch.export's program.

The graph is the whole network, salience map included, from pixels to probabilities. Before the file is put in its
place, the runtime executes it on real clips: what does not compute the same as the network is not written.
Letters: B clips, T segments, K frames per segment, S the side of a crop in pixels; B is free, the others are fixed.
"""

import logging
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mdtnet.builtin.actions import ACTIONS
from mdtnet.builtin.render import RenderConfig, Split, render_clip
from mdtnet.checkpoint import load_model
from mdtnet.config import Format, Precision
from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.deploy.formats import FORMATS
from mdtnet.deploy.graph import PixelsToProbabilities, StreamToProbabilities
from mdtnet.deploy.runtime import Stepped, required
from mdtnet.errors import ConfigError, DataError, ExportError, VideoError, nearest
from mdtnet.inference.description import Classify, Description, describe
from mdtnet.inference.items import expand_sources
from mdtnet.inference.resize import resize_short
from mdtnet.inference.views import clip_table, read_views, views_of
from mdtnet.models.memory import State
from mdtnet.models.network import Network
from mdtnet.models.stream import Stream, check_causal
from mdtnet.system.files import is_special, put_in_place, temporary_folder

log = logging.getLogger(__name__)

SUFFIXES: dict[Format, str] = {name: form.suffix for name, form in FORMATS.items()}
TOLERANCES: dict[str, float] = {"float32": 1e-3, "half": 1e-2}
"""How far probabilities may be from the network's; `int8` has no limit, and its loss is reported."""
MOST_CLIPS = 32  # that are compared, and as many that are calibrated with
AT_ONCE = 3


@dataclass(frozen=True)
class Comparison:
    """The exported form beside the network on the same clips."""

    clips: int
    difference: float
    """Largest difference of a probability."""
    changed: int
    """Clips with another top-1."""
    clearly_changed: int
    """Clips with another top-1 although the network's best two are further apart than twice what is allowed."""
    labelled: int
    """Clips of known class."""
    top1_network: float
    """Accuracy on those, 0 to 1."""
    top1_exported: float


@dataclass(frozen=True)
class Exported:
    """A file that `export` wrote."""

    path: Path
    description: Description
    comparison: Comparison
    calibrated: int = 0
    """Clips that `int8` was calibrated with, none of which is compared unless there is one alone."""

    def __str__(self) -> str:
        c = self.comparison
        text = f"calibrated with {self.calibrated} other clips; " if self.calibrated else ""
        text += f"{c.clips} clips: probabilities differ by up to {c.difference:.1e}, top-1 differs on {c.changed}"
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
    stream: bool = False,
) -> Exported:
    """Write a checkpoint's network as `out`, and `out`.json, which says the same as the metadata inside.

    Args:
        clips: videos to compare with: a file, folder or pattern. A video in a folder named after a class has that
            class's label. Empty: clips of the built-in data set. `int8` is calibrated with every other video of them,
            and compared on the rest.
        stream: take streams one segment at a time, with the state as inputs and outputs; compared at every segment
            of streams of 2 T segments.

    Raises:
        CheckpointError: as `load_model`.
        ExportError: the network cannot be converted, or computes something else afterwards; nothing is written.
        ConfigError: a package is missing, or `out` or `precision` does not go with `format`.
        DataError: none of the clips can be read.
    """
    out = _checked_out(Path(out), format, precision)
    if stream and (format != "onnx" or precision == "int8"):
        raise ConfigError(f"{out}: a stream goes with format onnx in float32 or half, not {format} in {precision}")
    model = load_model(checkpoint)
    if stream:
        check_causal(model)
    frames = model.frames_per_segment
    description = describe(
        model.config,
        classes=model.classes,
        frames_per_segment=frames,
        precision=precision,
        clip_seconds=model.clip_seconds,
    )
    description = replace(description, licence=model.licence, stream=stream)
    views, labels = real_clips(clips, description, twice=precision == "int8")
    calibration = views[:0]
    if precision == "int8" and len(views) > 1:
        calibration, views, labels = views[::2], views[1::2], labels[1::2]
    with temporary_folder(out.parent) as folder:
        file = Path(folder, out.name)
        FORMATS[format].write(model, description, calibration if len(calibration) else views, file)
        comparison = _compared(model, description, file, views, labels)
        _refuse(comparison, out, precision)
        Path(folder, f"{out.name}.json").write_text(description.to_json(), encoding="utf-8")
        parts = sorted(folder.iterdir(), key=lambda made: made.name == out.name)
        if len(parts) > 2:  # an old file must not be loaded with new weights beside it
            Path(os.path.realpath(out)).unlink(missing_ok=True)
        for made in parts:  # the file itself last
            put_in_place(made, out.parent / made.name)
    return Exported(out, description, comparison, len(calibration))


def _compared(
    model: Network, description: Description, file: Path, views: np.ndarray, labels: np.ndarray
) -> Comparison:
    expected, found = eager(model, multi_label=description.multi_label), load_network(file)
    tolerance = TOLERANCES.get(description.precision, 1.0)
    if not description.stream or not isinstance(found, Stepped):
        return compare(expected, found, views, labels, tolerance)
    views = np.concatenate([views, np.roll(views, 1, axis=0)], 1)  # streams that go on with the clip before
    expected, found = _every_answer(eager_stream(model, description)), _every_answer(found)
    return compare(expected, found, views, np.full(views.shape[0] * views.shape[1], -1), tolerance)


def _every_answer(network: Stepped) -> Classify:
    return lambda clips: np.concatenate(list(network.answers(clips)))


def _checked_out(out: Path, format: Format, precision: Precision) -> Path:
    if format not in FORMATS:
        raise ConfigError(f"format is '{format}', expected one of {', '.join(FORMATS)}{nearest(format, FORMATS)}")
    form = FORMATS[format]
    if out.suffix != form.suffix:
        raise ConfigError(f"{out}: a file of format '{format}' must end in {form.suffix}")
    if not out.parent.is_dir():
        raise ConfigError(f"{out}: its folder does not exist")
    if is_special(out) or out.is_dir():
        raise ConfigError(f"{out}: no regular file, and an export is written to no other")
    if precision not in form.precisions:
        able = " or ".join(name for name, other in FORMATS.items() if precision in other.precisions)
        raise ConfigError(f"{precision} goes with format {able}, not {format}")
    for package in form.packages:
        required(package, out, extra=form.extra)
    return out


def load_network(file: Path, *, threads: int = 0) -> Classify:
    """The network of a file that `export` wrote; `threads` 0 leaves their number to the runtime."""
    return ExportedRecogniser.load(file, threads=threads).network


# clips, and the comparison on them


def real_clips(clips: str, description: Description, *, twice: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Clips as the network sees them, uint8 [n, T, K, S, S, 3], and their labels [n], -1 where unknown.

    `twice` gives as many more, to be taken in turns: of the built-in set a training clip before each one.
    """
    if clips:
        readers = [partial(_read, path) for path in expand_sources([clips])]
    else:
        splits: tuple[Split, ...] = ("train", "val") if twice else ("val",)
        readers = [partial(_rendered, action, split) for action in ACTIONS for split in splits]
    most = min(len(readers), MOST_CLIPS * (1 + twice))
    places = np.unique(np.linspace(0, len(readers) - 1, most).round().astype(int))
    found = [clip for i in places for clip in readers[i](description)]
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


def _rendered(action: str, split: Split, description: Description) -> list[tuple[np.ndarray, int]]:
    side = min(max(description.size // 2 * 2, 32), 1024)
    frames = render_clip(action, config=RenderConfig(size=side), split=split)
    table = clip_table(len(frames), description)
    views = views_of(np.stack([resize_short(frame, description.size) for frame in frames]), table, description)
    return [(views, description.classes.index(action) if action in description.classes else -1)]


def eager(model: Network, *, multi_label: bool = False) -> Classify:
    """The network itself, with the input and the output of the exported forms."""
    whole = PixelsToProbabilities(model, multi_label=multi_label).eval()

    @torch.inference_mode()
    def run(frames: np.ndarray) -> np.ndarray:
        return whole(torch.from_numpy(frames)).numpy()

    return run


def eager_stream(model: Network, description: Description) -> Stepped:
    """The network itself on streams, with the input and the output of the exported form."""
    stream = Stream(model, num_segments=description.num_segments)
    whole = StreamToProbabilities(stream, multi_label=description.multi_label).eval()

    @torch.inference_mode()
    def step(segments: np.ndarray, state: State | None) -> tuple[np.ndarray, State]:
        probabilities, state = whole(torch.from_numpy(segments), state)
        return probabilities.numpy(), state

    return Stepped(step)


def compare(
    network: Classify, exported: Classify, views: np.ndarray, labels: np.ndarray, tolerance: float
) -> Comparison:
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
        raise ExportError(f"{out}: not written: the exported form gives probabilities that are not numbers")
    allowed = TOLERANCES.get(precision)
    if allowed is not None and (comparison.difference > allowed or comparison.clearly_changed):
        raise ExportError(
            f"{out}: not written: on {comparison.clips} clips probabilities differ from the network's by up to "
            f"{comparison.difference:.2g} ({allowed:g} is allowed for {precision}), and top-1 differs on "
            f"{comparison.changed}"
        )
