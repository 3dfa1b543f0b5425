"""A long, untrimmed video -> what happens when: scores of overlapping windows, and segments with a start and an end.

One decoding pass, whatever the overlap; memory does not grow with the video, but for the scores. Letters: W windows,
n cells of time, T segments of a window, K frames per segment, S the side of a crop, C classes.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from mdtnet.config import TimelineConfig
from mdtnet.data.stream import Stream, frame_times
from mdtnet.errors import ConfigError, VideoError
from mdtnet.inference.description import Classify, Description
from mdtnet.inference.sources import Source, is_endless, local_file, name_of
from mdtnet.inference.views import Resize, prepared, resize_short, views_of
from mdtnet.inference.windows import Windows, plan_windows

PASSES = 4  # of a damaged file: two to learn its frames' times, and again by one thread
THUMBNAILS = 12


@dataclass(frozen=True)
class Segment:
    """An action in a video, [start, end) in seconds; the score is its mean probability in this time."""

    start: float
    end: float
    label: str
    score: float


class Scorer(Protocol):
    """Classifies windows one by one, and may share work between those that overlap."""

    @property
    def description(self) -> Description: ...

    @property
    def resize(self) -> Resize: ...

    @property
    def shared(self) -> str:
        """What overlapping windows have in common, in words."""

    def begin(self) -> None:
        """Forget the video before: the same positions are other frames now."""

    def __call__(self, clips: np.ndarray, tables: np.ndarray) -> np.ndarray:
        """uint8 clips [B, T, K, S, S, 3] in the order of the video, and the positions of their frames [B, T, K] ->
        probabilities [B, C], float64."""


SHARED_FRAMES = "frames, decoded and resized once"


@dataclass(frozen=True)
class PlainScorer:
    """A `Scorer` that computes every window whole, as exported networks do."""

    network: Classify
    description: Description
    resize: Resize = resize_short
    shared: str = SHARED_FRAMES

    def begin(self) -> None:
        """Nothing is kept."""

    def __call__(self, clips: np.ndarray, tables: np.ndarray) -> np.ndarray:
        return self.network(clips)


@dataclass(frozen=True)
class Timeline:
    """What happens when in a video."""

    path: str
    classes: tuple[str, ...]
    windows: Windows
    probabilities: np.ndarray
    """float64 [W, C], of each window."""
    num_frames: int
    config: TimelineConfig
    damaged: str = ""
    """`2 of 120 frames`: damaged, lost, or missing at the end; empty where none is."""
    shared: str = ""
    """What overlapping windows had in common, in words."""
    thumbnails: Sequence[tuple[float, np.ndarray]] = field(default=(), repr=False)
    """Seconds and uint8 [S, S, 3] of some frames."""

    @property
    def fps(self) -> float:
        """Frames per second, the mean."""
        return self.num_frames / self.windows.duration

    def cells(self, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """The video in cells of equal length but for the last: their edges [n + 1] and probabilities [n, C].

        A cell has the mean of the windows over its centre, whose weights fall linearly from the middle of a window to
        its ends; where no window is, that of the nearest.
        """
        duration = self.windows.duration
        edges = np.append(np.arange(max(1, np.ceil(duration / seconds - 1e-6))) * seconds, duration)
        return edges, self.at((edges[1:] + edges[:-1]) / 2)

    def at(self, times: np.ndarray) -> np.ndarray:
        """Probabilities at the sorted times [n], in seconds: [n, C]."""
        centres, half = self.windows.centres, max(self.windows.length / 2, 1e-9)
        first, last = (np.searchsorted(centres, times + side * half) for side in (-1, 1))
        found = np.empty((len(times), len(self.classes)))
        for i, time in enumerate(times):
            near = slice(first[i], last[i])
            weights = np.maximum(1 - np.abs(centres[near] - time) / half, 0)
            if weights.sum() > 0:
                found[i] = weights @ self.probabilities[near] / weights.sum()
            else:
                found[i] = self.probabilities[np.abs(centres - time).argmin()]
        return found

    @cached_property
    def segments(self) -> list[Segment]:
        """Actions, sorted by their start: each class by itself, where its scores have passed both thresholds."""
        edges, scores = self.cells(self.windows.stride)
        found = []
        for c, label in enumerate(self.classes):
            if label != self.config.background:
                found += [Segment(a, b, label, score) for a, b, score in self._passages(edges, scores[:, c])]
        return sorted(found, key=lambda s: (s.start, s.end, s.label))

    def _passages(self, edges: np.ndarray, scores: np.ndarray) -> Iterator[tuple[float, float, float]]:
        """Start, end and mean score of the time in which `scores` [n] stay above `low` and reach `high`."""
        shortest = self.config.min_length if self.config.min_length >= 0 else self.windows.length / 2
        changes = np.flatnonzero(np.diff(np.concatenate(([0], scores >= self.config.low, [0]))))
        for first, last in changes.reshape(-1, 2).tolist():
            start, end = float(edges[first]), float(edges[last])
            long_enough = end - start >= min(shortest, self.windows.duration) - 1e-6
            if scores[first:last].max() >= self.config.high and long_enough:
                yield start, end, float(np.average(scores[first:last], weights=np.diff(edges[first : last + 1])))


def check_timeline(config: TimelineConfig) -> None:
    """Check the options of a timeline.

    Raises:
        ConfigError: one is out of its range.
    """
    for name in ("length", "stride"):
        if (value := getattr(config, name)) < 0:
            raise ConfigError(f"{name} is {value:g}, expected seconds, or 0")
    if config.batch_size < 1:
        raise ConfigError(f"batch_size is {config.batch_size}, expected at least 1")
    if config.min_length < 0 and config.min_length != -1:
        raise ConfigError(f"min_length is {config.min_length:g}, expected seconds, or -1 for half a window")
    if not 0 <= config.low <= config.high <= 1:
        raise ConfigError(f"low is {config.low:g} and high {config.high:g}, expected 0 <= low <= high <= 1")


Progress = Callable[[float, float], None]
"""Called with the seconds of a video that are done, and all of them."""


def make_timeline(
    source: Source,
    scorer: Scorer,
    config: TimelineConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Timeline:
    """Look at a whole video through overlapping windows.

    Raises:
        VideoError: the video cannot be read, or is no whole video file: a folder of frames has no times, a stream no
            end, and a part of a video has another beginning.
        ConfigError: an option is out of its range, or the length of windows is not known.
    """
    config = config or TimelineConfig()
    check_timeline(config)
    if not (config.length or scorer.description.clip_seconds):
        raise ConfigError("length is 0, but the network does not say how long its training clips are: give seconds")
    if is_endless(source):
        raise VideoError(name_of(source), "has no end: cameras and streams are for predict --live")
    with local_file(source) as part:
        if not part.whole:
            raise VideoError(name_of(source), "is a part of a video, expected a whole one")
        if os.path.isdir(part.path):
            raise VideoError(part.path, "is a folder of frames, which have no times")
        return _timeline(part.path, name_of(source), scorer, config, progress)


def _timeline(path: str, name: str, scorer: Scorer, config: TimelineConfig, progress: Progress | None) -> Timeline:
    description, expected, threads = scorer.description, frame_times(path), 0
    length = config.length or description.clip_seconds
    for _ in range(PASSES):
        times = np.maximum.accumulate(expected)
        windows = plan_windows(times, description, length=length, stride=config.stride)
        stream = Stream(path, np.unique(windows.tables), expected, short_side=description.short_side, threads=threads)
        scorer.begin()
        run = _Run(windows, scorer, config.batch_size, progress)
        for position, frame in stream:
            run.add(position, float(times[position]), frame)
        if stream.unsure:
            threads = 1
        if stream.agrees and not stream.unsure:
            return Timeline(
                path=name,
                classes=description.classes,
                windows=windows,
                probabilities=run.probabilities(),
                num_frames=len(times),
                config=config,
                damaged=f"{stream.damaged} of {stream.total} frames" if stream.damaged else "",
                shared=scorer.shared,
                thumbnails=run.thumbnails,
            )
        expected = stream.decoded
    raise VideoError(path, "changes while it is read")


class _Run:
    """Frames of one decoding pass -> probabilities, window by window; frames are dropped as soon as they can be."""

    def __init__(self, windows: Windows, scorer: Scorer, batch_size: int, progress: Progress | None) -> None:
        self.windows, self.scorer, self.batch_size, self.progress = windows, scorer, batch_size, progress
        tables = windows.tables.reshape(len(windows.tables), -1)
        self._last = tables.max(1)  # frame that completes each window
        self._order = np.argsort(self._last, kind="stable")
        # frames before this one are not needed, once so many windows of the order are done
        first = tables.min(1)[self._order]
        self._needed = np.append(np.minimum.accumulate(first[::-1])[::-1], np.iinfo(np.int64).max)
        self._frames: dict[int, np.ndarray] = {}
        self._done = 0
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._found: list[np.ndarray] = []
        self.thumbnails: list[tuple[float, np.ndarray]] = []

    def add(self, position: int, seconds: float, frame: np.ndarray) -> None:
        """The next wanted frame, RGB [H, W, 3]."""
        self._frames[position] = prepared(frame, self.scorer.description, resize=self.scorer.resize)
        if seconds >= len(self.thumbnails) * self.windows.duration / THUMBNAILS:
            self.thumbnails.append((seconds, self._frames[position]))
        while self._done < len(self._order) and self._last[self._order[self._done]] <= position:
            self._take(self._order[self._done])
            self._done += 1
            for old in [p for p in self._frames if p < self._needed[self._done]]:
                del self._frames[old]
        if self.progress:
            self.progress(seconds, self.windows.duration)

    def _take(self, window: int) -> None:
        """A window whose frames are all there."""
        table, description = self.windows.tables[window], self.scorer.description
        own, inverse = np.unique(table, return_inverse=True)
        pixels = np.stack([self._frames[p] for p in own.tolist()])
        chosen = inverse.reshape(1, *table.shape)
        self._waiting.append((views_of(pixels, chosen, description, resize=self.scorer.resize)[0], table))
        if len(self._waiting) == self.batch_size:
            self._score()

    def _score(self) -> None:
        clips, tables = (np.stack(parts) for parts in zip(*self._waiting))
        self._waiting.clear()
        self._found.append(self.scorer(clips, tables))

    def probabilities(self) -> np.ndarray:
        """Of all windows, [W, C], once every frame was added."""
        if self._waiting:
            self._score()
        found = np.concatenate(self._found)
        return found[np.argsort(self._order)]
