"""Read what a stranger sent, in a process of its own: a file that crashes or hangs the decoder costs that process.

Without torch, so that a new process is there soon. Letters: V views, T segments, K frames per segment, S pixels of a
crop, n moments, W windows, h, w pixels of a small frame.
"""

import io
import math
import sys
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from mdtnet.data.container import Part, open_video
from mdtnet.data.suffixes import is_image
from mdtnet.data.video import Request, read_frames
from mdtnet.errors import VideoError
from mdtnet.inference.description import Description, clip_shape
from mdtnet.inference.resize import resize_short
from mdtnet.inference.sources import DEFAULT_FPS
from mdtnet.inference.views import clip_table, read_video, views_of

WINDOW, MOST_WINDOWS, MOST_BYTES = 2.0, 48, 128_000_000
"""Of a timeline: seconds of a window at least, windows of a video and bytes of their pixels at most."""
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
class Windows:
    """A video cut into windows without overlap."""

    edges: tuple[float, ...]
    """Seconds, W + 1; empty where the video is too short."""
    views: np.ndarray
    """uint8 [W, T, K, S, S, 3]."""


@dataclass(frozen=True)
class Readout:
    """What was read."""

    views: np.ndarray
    """uint8 [V, T, K, S, S, 3]."""
    damage: str = ""
    moments: Moments | None = None
    windows: Windows | None = None


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
    if duration > task.max_seconds:
        raise VideoError(task.path, f"a video of {duration:.0f} s, at most {task.max_seconds:g} s are taken")
    views = read_video(task.path, task.description, clips=task.clips)
    if not task.detail:
        return Readout(views.pixels, views.damage)
    moments = _moments(task.path, rate)
    return Readout(views.pixels, views.damage, moments, _windows(task.path, task.description, rate, moments.duration))


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


def _windows(path: str, description: Description, rate: float, duration: float) -> Windows:
    """Windows of equal length, all in one pass over the video, so that their number is bounded by their bytes."""
    size, bytes_each = description.short_side, math.prod(clip_shape(description))
    count = min(MOST_WINDOWS, int(duration // WINDOW), MOST_BYTES // bytes_each)
    if count < 2:
        return Windows((), np.empty((0, *clip_shape(description)), np.uint8))
    table = np.empty(0)

    def choose(num_frames: int) -> np.ndarray:
        nonlocal table
        cuts = np.linspace(0, num_frames, count + 1).astype(int)
        table = np.stack([a + clip_table(max(1, b - a), description)[0] for a, b in pairwise(cuts.tolist())])
        return np.unique(table)

    request = Request(choose, short_side=size, transform=lambda f: resize_short(f, size), fps=description.fps or rate)
    pixels = read_frames(Part(path), request).pixels
    edges = tuple(np.linspace(0, duration, count + 1).tolist())
    return Windows(edges, views_of(pixels, np.searchsorted(np.unique(table), table), description))


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
