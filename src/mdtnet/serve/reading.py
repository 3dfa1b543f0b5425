"""Read what a stranger sent, in a process of its own: a file that crashes or hangs the decoder costs that process.

Without torch, so that a new process is there soon. Letters: V views, T segments, K frames per segment, S pixels of a
crop, n moments, W windows, B of them at a time, h, w pixels of a small frame.
"""

import io
import math
import sys
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from mdtnet.config import TimelineConfig
from mdtnet.data.container import Part, open_video
from mdtnet.data.stream import duration_of, frame_times
from mdtnet.data.suffixes import is_image
from mdtnet.data.video import Request, read_frames
from mdtnet.errors import VideoError
from mdtnet.inference.description import Description, clip_shape
from mdtnet.inference.resize import resize_short
from mdtnet.inference.sources import DEFAULT_FPS
from mdtnet.inference.timeline import Timeline, make_timeline
from mdtnet.inference.views import Resize, clip_table, read_video, views_of
from mdtnet.inference.windows import plan_windows

MOST_WINDOWS, MOST_BYTES = 48, 128_000_000
"""Of a timeline: windows of a video, and bytes of their pixels."""
MOST_MOMENTS, PER_SECOND, AROUND = 240, 8, 5
"""Moments of a video whose salience is shown: how many at most, per second, and of how many frames each."""
SMALL = 72  # pixels, short side of frames that are shown
MEMORY = 4 * 2**30  # bytes that a reading process may map
MOST_SIDE = 2048  # pixels of a webcam's frame


@dataclass(frozen=True)
class Refusal:
    """Why a file is not read; its path is not in it."""

    reason: str


@dataclass(frozen=True)
class Upload:
    """A video file to classify."""

    path: str
    description: Description
    clips: int
    detail: bool
    """Also read moments and windows."""
    max_seconds: float


@dataclass(frozen=True)
class Pictures:
    """The last frames of a webcam, JPEG."""

    files: tuple[bytes, ...]
    description: Description


@dataclass(frozen=True)
class Moments:
    """Small frames of a video, evenly spread, each with its neighbours."""

    frames: np.ndarray
    """uint8 [n, AROUND, h, w, 3]; the middle one is shown."""
    times: tuple[float, ...]
    """Seconds."""
    duration: float
    """Seconds; 0 of a picture."""


@dataclass(frozen=True)
class Unscored:
    """The windows of a long video, before the network has seen them."""

    timeline: Timeline
    """Its probabilities are still to be filled in."""
    clips: np.ndarray
    """uint8 [W, T, K, S, S, 3]."""


@dataclass(frozen=True)
class Readout:
    """What was read."""

    views: np.ndarray
    """uint8 [V, T, K, S, S, 3]."""
    damage: str = ""
    moments: Moments | None = None
    windows: Unscored | None = None
    """None where the video is short."""


def read(task: Upload | Pictures) -> Readout | Refusal:
    """Read one thing that was sent; never raises for what is in it."""
    _bound_memory()
    try:
        return _read_upload(task) if isinstance(task, Upload) else _read_pictures(task)
    except VideoError as error:
        return Refusal(error.reason)
    except (OSError, ValueError, IndexError, Image.DecompressionBombError) as error:
        return Refusal(f"cannot be read ({type(error).__name__})")
    except MemoryError:
        return Refusal("needs too much memory to decode")


def _bound_memory() -> None:
    if sys.platform == "linux":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        if most == resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _read_upload(task: Upload) -> Readout:
    rate, duration = (0.0, 0.0) if is_image(task.path) else _rate_and_duration(task.path)
    _check_duration(task, duration)
    views = read_video(task.path, task.description, clips=task.clips)
    if not task.detail:
        return Readout(views.pixels, views.damage)
    return Readout(views.pixels, views.damage, _moments(task.path, rate), _windows(task) if rate else None)


def _check_duration(task: Upload, seconds: float) -> None:
    if seconds > task.max_seconds:
        raise VideoError(task.path, f"a video of {seconds:.0f} s, at most {task.max_seconds:g} s are taken")


def _rate_and_duration(path: str) -> tuple[float, float]:
    """Frames per second and seconds by the header."""
    with open_video(path) as (container, stream):
        return float(stream.average_rate or DEFAULT_FPS), (container.duration or 0) / 1e6


def _moments(path: str, rate: float) -> Moments:
    """Small frames of a video of so many frames per second; of a picture, 0, that picture."""
    found = np.zeros(1)

    def choose(num_frames: int) -> np.ndarray:
        nonlocal found
        count = max(1, min(MOST_MOMENTS, num_frames, round(num_frames / rate * PER_SECOND) if rate else 1))
        found = np.linspace(0, num_frames - 1, count).round().astype(np.int64)
        around = np.arange(AROUND) - AROUND // 2
        return np.clip(found[:, None] + around, 0, num_frames - 1)

    reading = read_frames(
        Part(path), Request(choose, short_side=SMALL, transform=lambda f: resize_short(f, SMALL), fps=rate)
    )
    times = tuple((found / rate).tolist()) if rate else (0.0,)
    return Moments(reading.pixels, times, reading.num_frames / rate if rate else 0.0)


def _windows(task: Upload) -> Unscored | None:
    """The windows of `mdtnet timeline`; further apart where there would be too many of them."""
    times, description = frame_times(task.path), task.description
    duration, length = duration_of(times), description.window_seconds
    _check_duration(task, duration)
    most = min(MOST_WINDOWS, MOST_BYTES // math.prod(clip_shape(description)))
    if duration < 2 * length or most < 2:
        return None
    usual = len(plan_windows(times, description, length=length).spans)
    stride = 0.0 if usual <= most else (duration - length) / (most - 1)
    keep = _Keep(description)
    timeline = make_timeline(task.path, keep, TimelineConfig(length=length, stride=stride))
    return Unscored(timeline, np.stack([keep.clips[i] for i in timeline.probabilities[:, 0].astype(int)]))


@dataclass
class _Keep:
    """A `Scorer` that keeps the clips for a network elsewhere; the only probability of each is its place."""

    description: Description
    resize: Resize = resize_short
    shared: str = ""
    clips: list[np.ndarray] = field(default_factory=list)

    def begin(self) -> None:
        self.clips.clear()

    def __call__(self, clips: np.ndarray, tables: np.ndarray) -> np.ndarray:
        self.clips += list(clips)
        return np.arange(len(self.clips) - len(clips), len(self.clips), dtype=float)[:, None]


def _read_pictures(task: Pictures) -> Readout:
    table = clip_table(len(task.files), task.description)
    chosen = np.unique(table)
    pixels = np.stack([_picture(task.files[i], task.description.short_side) for i in chosen])
    views = views_of(pixels, np.searchsorted(chosen, table), task.description)
    last = [task.files[max(i, 0)] for i in range(len(task.files) - AROUND, len(task.files))]
    small = np.stack([_picture(file, SMALL) for file in last])
    return Readout(views, moments=Moments(small[None], (0.0,), 0.0))


def _picture(data: bytes, short_side: int) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        if max(picture.size) > MOST_SIDE:
            raise ValueError("too large")
        return resize_short(np.asarray(picture.convert("RGB")), short_side)
