"""A long video -> a feature vector per window, for tools that find actions in time.

One pass over the video, in memory that does not grow with it. Letters: N windows, C channels, B clips, T segments, K
frames per segment, S the side of a crop in pixels.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from mdtnet.config import FeatureConfig
from mdtnet.data.frames import resize
from mdtnet.data.video import ticks
from mdtnet.errors import ConfigError, VideoError
from mdtnet.inference.description import Description
from mdtnet.inference.recogniser import Recogniser
from mdtnet.inference.sources import DEFAULT_FPS, Source, is_endless, name_of, open_frames
from mdtnet.inference.views import clip_table, views_of

WINDOWS_PER_LENGTH = 4
"""Windows that begin in the time of one, unless a stride is given."""
NEAR = 1e-6  # seconds by which times may be off
BATCH = 4  # windows that are computed together
ROWS = 100  # of a rescaled table


@dataclass(frozen=True)
class Features:
    """Features of a video: window i is [i * stride, i * stride + window) seconds, as far as the video goes."""

    values: np.ndarray
    """float32 [N, C]."""
    window: float
    """Seconds."""
    stride: float
    """Seconds."""
    fps: float
    """Frames per second that windows were drawn from."""
    duration: float
    """Seconds of the video."""
    damaged: str = ""
    """`2 of 120 frames`: damaged, lost, or missing at the end; empty where none is."""

    def rescaled(self, rows: int = ROWS) -> np.ndarray:
        """The video in `rows` equal parts, float32 [rows, C]: linear between the middles of windows."""
        middles = np.arange(len(self.values)) * self.stride + min(self.window, self.duration) / 2
        wanted = (np.arange(rows) + 0.5) / rows * self.duration
        return np.stack([np.interp(wanted, middles, channel) for channel in self.values.T], 1).astype(np.float32)


def windows_for(config: FeatureConfig, description: Description) -> tuple[float, float]:
    """Window and stride in seconds.

    Raises:
        ConfigError: one is negative or not finite.
    """
    for name, value in (("window", config.window), ("stride", config.stride)):
        if not 0 <= value < np.inf:
            raise ConfigError(f"{name} is {value:g}, expected seconds, or 0 for the default")
    window = config.window or description.window_seconds
    return window, config.stride or window / WINDOWS_PER_LENGTH


def extract(model: Recogniser, source: Source, config: FeatureConfig | None = None) -> Features:
    """Features of all windows of a video.

    Raises:
        VideoError: the video cannot be read, or has no end.
        ConfigError: an option is out of its range.
    """
    config = config or FeatureConfig()
    description = model.description
    window, stride = windows_for(config, description)
    if is_endless(source):
        raise VideoError(name_of(source), "has no end: cameras and streams have no features")
    with open_frames(source, short_side=description.short_side) as frames:
        cutter = _Cutter(description, window, stride)
        clips, found = cutter.clips(frames), []
        while batch := list(islice(clips, BATCH)):
            found.append(model.features(np.stack(batch), layer=config.layer))
        if not found:
            raise VideoError(name_of(source), "no frames")
        fps = description.fps or frames.fps or DEFAULT_FPS
        return Features(np.concatenate(found), window, stride, fps, cutter.duration, frames.damage)


class _Cutter:
    """Frames in order -> the clips of windows, each what `predict` sees of that part of the video."""

    def __init__(self, description: Description, window: float, stride: float) -> None:
        self.description, self.window, self.stride = description, window, stride
        self.duration = 0.0
        """Seconds of the video so far."""
        self._kept: deque[tuple[float, np.ndarray]] = deque()  # time and frame, from the beginning of the next window

    def clips(self, frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[np.ndarray]:
        """uint8 [T, K, S, S, 3] of each whole window; of a video that is shorter than one, of all of it."""
        count, first, period = 0, None, 1 / DEFAULT_FPS
        for seconds, frame in frames:
            first = seconds if first is None else first
            seconds -= first
            while seconds >= count * self.stride + self.window - NEAR:
                yield self._clip(count * self.stride)
                count += 1
            period = seconds - self._kept[-1][0] if self._kept else period
            self._kept.append((seconds, resize(frame, self.description.short_side)))
            self._forget(count * self.stride)
            self.duration = seconds + period
        while self._kept and (not count or self.duration >= count * self.stride + self.window - NEAR):
            yield self._clip(count * self.stride)
            count += 1

    def _forget(self, start: float) -> None:
        """Drop frames that are no longer shown at `start`."""
        while len(self._kept) > 1 and self._kept[1][0] <= start + NEAR:
            self._kept.popleft()

    def _clip(self, start: float) -> np.ndarray:
        self._forget(start)
        inside = [one for one in self._kept if start - NEAR <= one[0] < start + self.window - NEAR]
        inside = inside or [self._kept[0]]  # it is shown all the time
        times = np.array([seconds for seconds, _ in inside])
        fps = self.description.fps
        shown = ticks(times - times[0], fps) if fps else np.arange(len(times))
        table = shown[clip_table(len(shown), self.description)]
        wanted = np.unique(table)
        pixels = np.stack([inside[i][1] for i in wanted])
        return views_of(pixels, np.searchsorted(wanted, table), self.description, resize=resize)[0]
