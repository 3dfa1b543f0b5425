"""The description that travels with a network: all that lies between a video and it, and the names of its classes.

Letters: T segments, K frames per segment, S the side of a crop in pixels.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from mdtnet.config import Exposure, Precision, RunConfig, Sampling, eval_crop_size
from mdtnet.config_file import from_dict
from mdtnet.errors import CheckpointError, ConfigError

KEY = "mdtnet"
"""Name of the description among a file's metadata."""
FORMAT_VERSION = 1
WINDOW_FRAMES, USUAL_FPS = 64, 25.0
"""Frames that a clip spans where nobody says otherwise, as in the dense rule of tests, and how many are a second."""

Classify = Callable[[np.ndarray], np.ndarray]
"""uint8 clips [B, T, K, S, S, 3] -> float32 probabilities [B, classes]."""
Step = Callable[[np.ndarray, Any], tuple[np.ndarray, Any]]
"""The next segments of B streams, uint8 [B, K, S, S, 3], and the state that the segments before gave, None at the
beginning -> probabilities [B, classes] and the new state."""


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
    licence: str = ""
    """Licence of its code and terms of its data, of a network that has a name of the zoo."""
    fps: float = 0.0
    """Frames per second that clips are drawn from; 0: the frames of the file."""
    frame_pattern: str = ""
    """Names of the frames in folders of frames; empty: the only sequence of colour pictures."""
    stream: bool = False
    """Whether the file takes streams, one segment at a time, with its state as inputs and outputs."""
    clip_seconds: float = 0.0
    """Median length of the training clips; 0: not known."""
    format_version: int = FORMAT_VERSION
    """Layout of this description."""

    @property
    def window_seconds(self) -> float:
        """Seconds of a video that the network sees at a time: a training clip, or where that is not known 64 frames."""
        return self.clip_seconds or WINDOW_FRAMES / (self.fps or USUAL_FPS)

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
            values = json.loads(text)
            if values["format_version"] > FORMAT_VERSION:
                raise CheckpointError(f"{where}: made by a newer mdtnet: update mdtnet")
            known = {f.name for f in fields(cls)}
            found = from_dict(cls, {key: value for key, value in values.items() if key in known})
            found.check()
        except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
            raise CheckpointError(f"{where}: not written by mdtnet export (no description inside)") from error
        return found

    def check(self) -> None:
        """Raise ValueError where a number is out of its range."""
        counts = (self.num_segments, self.frames_per_segment, self.frame_stride, self.short_side, self.size)
        if min(counts) < 1 or not 0 <= self.fps <= 1000 or not self.classes:
            raise ValueError("a number is out of its range")


def describe(
    config: RunConfig,
    *,
    classes: Sequence[str],
    frames_per_segment: int,
    precision: Precision = "float32",
    crops: int = 1,
    clip_seconds: float = 0.0,
) -> Description:
    """The description of a trained network in a test of `crops` crops per clip, 1 or 3.

    T is that of the run's own test. The crops have the size of that test where it has as many of them, else
    `data.size` for 1 and `data.short_side` for 3.
    """
    data, test = config.data, config.test
    own_size = test.crop_size if test.crops == crops else 0
    return Description(
        system=config.model.name,
        trunk=config.model.trunk,
        precision=precision,
        classes=tuple(classes),
        num_segments=test.segments or data.num_segments,
        frames_per_segment=frames_per_segment,
        frame_stride=data.frame_stride,
        sampling=data.sampling,
        exposure=data.exposure,
        multi_label=data.multi_label,
        fps=data.fps,
        frame_pattern=data.frame_pattern,
        short_side=data.short_side,
        size=eval_crop_size(data, replace(test, crops=check_views(1, crops), crop_size=own_size)),
        fusion=test.fusion,
        clip_seconds=clip_seconds,
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


def clip_shape(description: Description) -> tuple[int, ...]:
    """(T, K, S, S, 3)."""
    return (description.num_segments, description.frames_per_segment, description.size, description.size, 3)
