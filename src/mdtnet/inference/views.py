"""From a video to the views that a network wants, and the description of it that travels with a network."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mdtnet.config import Exposure, Sampling
from mdtnet.data.exposure import expose
from mdtnet.data.segments import clip_indices
from mdtnet.data.video import read_clip, scaled_size
from mdtnet.errors import CheckpointError

KEY = "mdtnet"
"""Name of the description among a file's metadata."""


FORMAT_VERSION = 1
Network = Callable[[np.ndarray], np.ndarray]
"""uint8 [B, T, K, S, S, 3] -> float32 probabilities [B, classes]."""


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself: all that lies between a video and the network, and the names of classes."""

    system: str
    """tsn, tsm, ..."""
    trunk: str
    """resnet50, ..."""
    precision: str
    """float32; half: weights stored as float16; int8: trunk computed in 8 bits."""
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
    """S, side of the square crop in pixels, fixed in the file."""
    fusion: str
    """Mean of several views: `softmax` (of probabilities) or `logits`."""
    exposure: Exposure = "none"
    """How a clip's brightness is brought to a middle value."""
    multi_label: bool = False
    """Whether a video can have several labels: probabilities are sigmoids, and do not sum to 1."""
    format_version: int = FORMAT_VERSION
    """Layout of this description."""

    def to_json(self) -> str:
        """What `from_json` reads."""
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


def read_views(path: str | Path, description: Description, *, clips: int = 1, crops: int = 1) -> np.ndarray:
    """Views of a video as the network wants them, uint8 [V, T, K, S, S, 3]; view = clip * crops + crop.

    The same frames and the same crops as in a test of the checkpoint, but that three crops are S pixels wide.

    Raises:
        VideoError: the video cannot be read.
    """

    def resize(frame: np.ndarray) -> np.ndarray:
        return resize_short(resize_short(frame, description.short_side), description.size, only_enlarge=True)

    def choose(num_frames: int) -> np.ndarray:
        return clip_table(num_frames, description, clips=clips)

    frames, _ = read_clip(path, choose, short_side=description.short_side, transform=resize)  # [clips, T, K, H, W, 3]
    frames = np.stack([expose(clip, description.exposure) for clip in frames])
    return crop(frames, crops=crops, size=description.size)


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


def resize_short(frame: np.ndarray, short_side: int, *, only_enlarge: bool = False) -> np.ndarray:
    """Scale uint8 [H, W, 3] so that the shorter of H and W is `short_side` pixels (at least that)."""
    size = scaled_size(frame.shape[:2], short_side)
    if size == frame.shape[:2] or (only_enlarge and short_side <= min(frame.shape[:2])):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))


def crop(frames: np.ndarray, *, crops: int, size: int) -> np.ndarray:
    """Test crops of clips, [clips, T, K, H, W, 3] -> [clips * crops, T, K, S, S, 3], as `data.transforms.views`."""
    height, width = frames.shape[-3:-1]
    places = [(2, 2)] if crops == 1 else [(2, p) if width >= height else (p, 2) for p in (0, 2, 4)]
    boxes = [((height - size) * down // 4, (width - size) * right // 4) for down, right in places]
    views = np.stack([frames[..., y : y + size, x : x + size, :] for y, x in boxes], axis=1)
    return views.reshape(-1, *views.shape[2:])


def clip_shape(description: Description) -> tuple[int, ...]:
    return (description.num_segments, description.frames_per_segment, description.size, description.size, 3)
