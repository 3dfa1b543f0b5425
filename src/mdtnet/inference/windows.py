"""Which windows of a long video a network sees, and which frames of each: decided before anything is decoded.

Lengths are in seconds, since that is what the clips of a training have in common. Letters: N frames of the video, W
windows, T segments, K frames per segment.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mdtnet.data.stream import duration_of, period_of
from mdtnet.data.video import ticks
from mdtnet.inference.description import Description
from mdtnet.inference.views import clip_table

WINDOWS_PER_LENGTH = 4
"""Windows that start in the time of one, unless a stride is given."""


@dataclass(frozen=True)
class Windows:
    """Overlapping windows of a video, in the order of their start; the last one reaches its end."""

    spans: np.ndarray
    """float64 [W, 2], start and end in seconds: the window has the frames shown in [start, end)."""
    tables: np.ndarray
    """int64 [W, T, K], positions in the video of the frames that a window's network sees."""
    length: float
    """Seconds of a window."""
    stride: float
    """Seconds from one window to the next."""
    duration: float
    """Seconds of the video."""

    @property
    def centres(self) -> np.ndarray:
        """float64 [W], in seconds."""
        return self.spans.mean(1)


def plan_windows(times: np.ndarray, description: Description, *, length: float, stride: float = 0.0) -> Windows:
    """Windows of a video whose frames are shown at `times`, sorted, from 0.

    Args:
        length: seconds of a window; with `stride` 0 about that, so that segments have whole frames.
        stride: seconds; 0: about a quarter of the length, by which whole segments are passed. Overlapping windows
            then see the same frames, where the video has a constant frame rate.
    """
    duration = duration_of(times)
    if not stride:
        period = 1 / description.fps if description.fps else period_of(times)
        length, stride = _whole_segments(length, period, description)
    spans = _spans(times, length, stride, duration)
    choose = _chooser(times, description)
    return Windows(spans, np.stack([choose(start, end) for start, end in spans]), length, stride, duration)


def _whole_segments(length: float, period: float, description: Description) -> tuple[float, float]:
    """The length nearest to `length` whose segments are all of n frames, and a stride of some segments."""
    segments, more = description.num_segments, 0
    if description.sampling == "consecutive":  # frames of the last segment beyond its start
        more = (description.frames_per_segment - 1) * description.frame_stride
    frames = max(1, round((length / period - more) / segments))
    passed = max(1, segments // WINDOWS_PER_LENGTH)
    return (frames * segments + more) * period, passed * frames * period


def _spans(times: np.ndarray, length: float, stride: float, duration: float) -> np.ndarray:
    """Windows [W, 2], each from one frame's time to another's, so that rounded times give all as many frames."""
    rest = max(0.0, duration - length)
    starts = np.arange(int(rest / stride + 1e-6) + 1) * stride
    if rest - starts[-1] > period_of(times) / 2:
        starts = np.append(starts, rest)
    edges = np.append(times, duration)
    first = _nearest(edges[:-1], starts)
    last = np.maximum(_nearest(edges, starts + length), first + 1)
    return np.stack((edges[first], edges[last]), 1)


def _nearest(edges: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Index of the edge nearest to each time."""
    return np.searchsorted((edges[1:] + edges[:-1]) / 2, times)


def _chooser(times: np.ndarray, description: Description) -> Callable[[float, float], np.ndarray]:
    """Of a span in seconds, the frames that a test of that part of the video chooses, [T, K]."""
    tables: dict[int, np.ndarray] = {}

    def choose(start: float, end: float) -> np.ndarray:
        first, last = np.searchsorted(times, (start - 1e-6, end - 1e-6)).tolist()
        last = max(last, first + 1)
        shown = ticks(times[first:last] - times[first], description.fps) if description.fps else np.arange(last - first)
        if len(shown) not in tables:
            tables[len(shown)] = clip_table(len(shown), description)[0]
        return first + shown[tables[len(shown)]]

    return choose
