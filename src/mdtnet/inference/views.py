"""From a video to the views that a network classifies, and the description of that road that travels with a network.

One road for networks with and without torch; its views are those of `mdtnet test`, bit for bit. Letters: V views, T
segments, K frames per segment, H, W pixels of a frame, S the side of a crop.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mdtnet.config import Exposure, Precision, RunConfig, Sampling, test_crop_size
from mdtnet.data.exposure import expose
from mdtnet.data.retries import with_retries
from mdtnet.data.segments import clip_indices
from mdtnet.data.video import read_clip
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.inference.resize import resize_short

KEY = "mdtnet"
"""Name of the description among a file's metadata."""
FORMAT_VERSION = 1

Classify = Callable[[np.ndarray], np.ndarray]
"""uint8 clips [B, T, K, S, S, 3] -> float32 probabilities [B, classes]."""
Resize = Callable[[np.ndarray, int], np.ndarray]
"""A uint8 frame [H, W, 3] and its new short side in pixels -> the resized frame."""


@dataclass(frozen=True)
class Description:
    """All that lies between a video and a network, and the names of its classes; an exported file holds it as JSON."""

    system: str
    """tsn, tsm, ..."""
    trunk: str
    """resnet50, ..."""
    precision: str
    """float32; half: weights stored as float16; int8: the trunk computed in 8 bits."""
    classes: tuple[str, ...]
    """In the order of the probabilities."""
    num_segments: int
    """T, fixed in the file."""
    frames_per_segment: int
    """K, fixed in the file."""
    frame_stride: int
    """Distance in frames between the neighbouring frames of a segment."""
    sampling: Sampling
    """How a segment's frames are drawn."""
    short_side: int
    """Frames are resized to this short side, in pixels, before cropping."""
    size: int
    """S, side of the square crops in pixels, fixed in the file."""
    fusion: str
    """Mean of several views: `softmax` (of probabilities) or `logits`."""
    exposure: Exposure = "none"
    """How a clip's brightness is brought to a middle value."""
    multi_label: bool = False
    """Whether a video can have several labels: probabilities are sigmoids, and do not sum to 1."""
    format_version: int = FORMAT_VERSION
    """Layout of this description."""

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "Description":
        """Read the metadata of the file `where`.

        Raises:
            CheckpointError: they are not `mdtnet export`'s, or of a newer format.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values["format_version"] > FORMAT_VERSION:
                raise CheckpointError(f"{where}: made by a newer mdtnet: update mdtnet")
            known = {f.name for f in fields(cls)}
            values["classes"] = tuple(values["classes"])
            return cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{where}: not written by mdtnet export (no description inside)") from error


def describe(
    config: RunConfig,
    *,
    classes: Sequence[str],
    frames_per_segment: int,
    precision: Precision = "float32",
    crops: int = 1,
) -> Description:
    """The description of a trained network in a test of `crops` crops per clip, 1 or 3.

    The crops have the size of the run's own test where that has as many of them, else `data.size` for 1 and
    `data.short_side` for 3.
    """
    data, test = config.data, config.test
    own_size = test.crop_size if test.crops == crops else 0
    return Description(
        system=config.model.name,
        trunk=config.model.trunk,
        precision=precision,
        classes=tuple(classes),
        num_segments=data.num_segments,
        frames_per_segment=frames_per_segment,
        frame_stride=data.frame_stride,
        sampling=data.sampling,
        exposure=data.exposure,
        multi_label=data.multi_label,
        short_side=data.short_side,
        size=test_crop_size(data, replace(test, crops=check_views(1, crops), crop_size=own_size)),
        fusion=test.fusion,
    )


def check_views(clips: int, crops: int) -> Literal[1, 3]:
    """The number of crops, seen to be one that there is.

    Raises:
        ConfigError: `clips` or `crops` is out of range.
    """
    if clips < 1:
        raise ConfigError(f"clips is {clips}, expected at least 1")
    if crops == 1:
        return 1
    if crops == 3:
        return 3
    raise ConfigError(f"crops is {crops}, expected 1 or 3")


def read_views(
    path: str | Path, description: Description, *, clips: int = 1, crops: int = 1, resize: Resize = resize_short
) -> np.ndarray:
    """Views of a video as the network needs them, uint8 [V, T, K, S, S, 3]; view = clip * crops + crop.

    `resize` is for those who have torch, whose function gives the same pixels sooner.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: `clips` or `crops` is out of range.
    """
    check_views(clips, crops)

    def prepare(frame: np.ndarray) -> np.ndarray:
        frame = resize(frame, description.short_side)
        return frame if description.exposure != "none" else _cut(_at_least(frame, size, resize), crops, size)

    def table(num_frames: int) -> np.ndarray:
        return clip_table(num_frames, description, clips=clips)

    size = description.size
    pixels, num_frames = with_retries(
        lambda: read_clip(path, lambda n: np.unique(table(n)), short_side=description.short_side, transform=prepare)
    )
    chosen = table(num_frames)
    return views_of(pixels, np.searchsorted(np.unique(chosen), chosen), description, crops=crops, resize=resize)


def clip_table(num_frames: int, description: Description, *, clips: int = 1) -> np.ndarray:
    """Which frames of a video make up each clip, [clips, T, K]."""
    return clip_indices(
        num_frames,
        rule="uniform",
        num_clips=clips,
        seed=(),
        num_segments=description.num_segments,
        frames_per_segment=description.frames_per_segment,
        frame_stride=description.frame_stride,
        sampling=description.sampling,
    )


def views_of(
    pixels: np.ndarray, table: np.ndarray, description: Description, *, crops: int = 1, resize: Resize = resize_short
) -> np.ndarray:
    """Resized frames [N, H, W, 3], and which of them make up each clip, [clips, T, K] -> views [V, T, K, S, S, 3]."""
    size = description.size
    views = np.empty((len(table) * crops, *table.shape[1:], size, size, 3), dtype=np.uint8)
    for c, indices in enumerate(table):  # one clip at a time: the views themselves are what needs memory
        frames = expose(pixels[indices], description.exposure)
        if min(frames.shape[-3:-1]) < size:
            larger = np.stack([resize(frame, size) for frame in frames.reshape(-1, *frames.shape[-3:])])
            frames = larger.reshape(*indices.shape, *larger.shape[1:])
        for i, (top, left) in enumerate(crop_corners(frames.shape[-3], frames.shape[-2], crops, size)):
            views[c * crops + i] = frames[..., top : top + size, left : left + size, :]
    return views


def crop_corners(height: int, width: int, crops: int, size: int) -> list[tuple[int, int]]:
    """Top left corners of the crops: the centre, or left, centre and right (top, centre and bottom of tall frames)."""
    places = [(2, 2)] if crops == 1 else [(2, p) if width >= height else (p, 2) for p in (0, 2, 4)]
    return [((height - size) * down // 4, (width - size) * right // 4) for down, right in places]


def _at_least(frame: np.ndarray, short_side: int, resize: Resize) -> np.ndarray:
    return resize(frame, short_side) if min(frame.shape[:2]) < short_side else frame


def _cut(frame: np.ndarray, crops: int, size: int) -> np.ndarray:
    """The part of a frame that its crops lie in, so that the rest need not be held; their places in it are the same."""
    corners = crop_corners(frame.shape[0], frame.shape[1], crops, size)
    (top, left), (bottom, right) = corners[0], corners[-1]
    return frame[top : bottom + size, left : right + size]


def clip_shape(description: Description) -> tuple[int, ...]:
    """(T, K, S, S, 3)."""
    return (description.num_segments, description.frames_per_segment, description.size, description.size, 3)
