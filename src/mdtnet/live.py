"""Recognition while a camera, a stream or a file plays: an answer per segment, at the cost of one segment if causal.

A thread reads every frame and keeps the newest segment; what the network was too slow for is counted as dropped.
Letters: T segments, K frames per segment, H, W pixels of a frame, S the side of a crop.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np

from mdtnet.errors import ConfigError, VideoError
from mdtnet.inference.description import Description
from mdtnet.inference.prediction import Predictor, best_classes, check_choice
from mdtnet.inference.resize import resize_short
from mdtnet.inference.sources import Frames, open_frames
from mdtnet.inference.views import views_of

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
"""Seconds before a connection is tried again; they double until a frame comes."""
NEAR = 1e-3  # seconds by which times may be off


Open = Callable[[], AbstractContextManager[Frames]]


@dataclass(frozen=True)
class Segment:
    """K frames of a source."""

    frames: np.ndarray
    """uint8 RGB [K, H, W, 3]."""
    seconds: float
    """Time of its last frame, from the first frame of the source."""
    shown: float
    """When its last frame was shown, by `time.monotonic`."""
    fresh: bool
    """The first of a connection: nothing before it belongs to it."""


@dataclass(frozen=True)
class Answer:
    """The network's answer when a segment ends."""

    seconds: float
    """Time of the segment's last frame, from the first frame of the source."""
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    latency: float
    """Seconds from the moment that the segment's last frame was shown to this answer."""
    frames: int
    """Frames that the source has shown so far."""
    dropped: int
    """Frames of segments that came while the network was busy and made way for newer ones, so far."""

    def to_dict(self) -> dict[str, object]:
        """The same as plain values, fit for JSON."""
        best = [{"class": name, "probability": p} for name, p in zip(self.classes, self.probabilities)]
        rest = {"latency": self.latency, "frames": self.frames, "dropped": self.dropped}
        return {"seconds": self.seconds, "predictions": best, **rest}


@dataclass(frozen=True)
class Rhythm:
    """Which frames of a stream make up its segments."""

    seconds: float
    """From the beginning of a segment to that of the next."""
    num_frames: int
    """K."""
    stride: int
    """Distance in frames between the frames of a segment, where `gap` is 0."""
    gap: float
    """The same in seconds."""


def rhythm_of(description: Description, *, segment_seconds: float = 0.0) -> Rhythm:
    """The rhythm of a network's segments: `segment_seconds`, or a T-th of the usual length of its training clips, or of
    64 frames where that is not known.

    Frames count at the `fps` of training, or at 25 a second where that was the file's own; the next segment begins
    when the K frames of the one before are there.

    Raises:
        ConfigError: `segment_seconds` is negative or not finite.
    """
    if not 0 <= segment_seconds < np.inf:
        raise ConfigError(f"segment_seconds is {segment_seconds:g}, expected more than 0, or 0 for the network's own")
    k = description.frames_per_segment
    seconds = segment_seconds or description.window_seconds / description.num_segments
    gap = description.frame_stride / description.fps if description.fps else 0.0
    if description.sampling == "random":  # K frames spread evenly, as in tests
        gap = seconds / k
    return Rhythm(seconds, k, description.frame_stride, gap)


class _Sampler:
    """Picks the frames of segments, one connection long."""

    def __init__(self, rhythm: Rhythm) -> None:
        self.rhythm = rhythm
        self.frames: list[np.ndarray] = []
        self.next = self.began = 0.0
        self.count = 0

    def add(self, seconds: float, frame: np.ndarray) -> np.ndarray | None:
        """The next frame; gives the segment [K, H, W, 3] that it completes."""
        if not self.frames:
            if seconds < self.next - NEAR:
                return None
            self.began, self.count = seconds, 0
            self.next += self.rhythm.seconds
            if self.next <= seconds:  # frames were missing
                self.next = seconds + self.rhythm.seconds
        elif not self._due(seconds):
            return None
        self.frames.append(frame)
        if len(self.frames) < self.rhythm.num_frames:
            return None
        whole, self.frames = np.stack(self.frames), []
        return whole

    def _due(self, seconds: float) -> bool:
        self.count += 1
        if self.rhythm.gap:
            return seconds >= self.began + len(self.frames) * self.rhythm.gap - NEAR
        return self.count % self.rhythm.stride == 0


class Reader(threading.Thread):
    """Reads a source at its own pace and keeps the newest segment; goes on when a stream breaks off."""

    def __init__(
        self,
        open_source: Open,
        rhythm: Rhythm,
        *,
        on_frame: Callable[[float, np.ndarray], None] | None = None,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """`on_frame` gets every frame and its time in seconds since the start, in this thread; `note` gets a line when
        a connection is lost or there again."""
        super().__init__(name="mdtnet-live", daemon=True)
        self.open, self.rhythm, self.on_frame, self.note = open_source, rhythm, on_frame, note or (lambda text: None)
        self.frames = self.dropped = 0
        self.error: Exception | None = None
        self._newest: Segment | None = None
        self._changed, self._stopped, self._ended = threading.Condition(), threading.Event(), False
        self._start = 0.0

    def take(self) -> Segment | None:
        """Wait for the newest segment; None where no more will come.

        Raises:
            VideoError: the source cannot be opened, or a file cannot be read.
        """
        with self._changed:
            while self._newest is None and not self._ended:
                self._changed.wait(0.2)  # so that Ctrl-C is seen at once
            segment, self._newest = self._newest, None
        if segment is None and self.error:
            raise self.error
        return segment

    def stop(self) -> None:
        """End, within about the time of a frame; a connection that hangs is left to its timeout."""
        self._stopped.set()

    def run(self) -> None:
        try:
            self._connections()
        except Exception as error:  # raised again by `take`
            self.error = error
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _connections(self) -> None:
        wait, self._start = FIRST_WAIT, time.monotonic()
        while not self._stopped.is_set():
            before = self.frames
            try:
                with self.open() as source:
                    self._play(source)
                if not source.endless:
                    return
                reason = "the stream ended"
            except VideoError as error:
                if not self.frames:
                    raise
                reason = error.reason
            wait = FIRST_WAIT if self.frames > before else min(2 * wait, LONGEST_WAIT)
            if not self._stopped.is_set():
                self.note(f"{reason}; trying again in {wait:g} s")
            self._stopped.wait(wait)

    def _play(self, source: Frames) -> None:
        sampler, began, fresh = _Sampler(self.rhythm), time.monotonic(), True
        for seconds, frame in source:
            if source.endless:
                shown = time.monotonic()
                seconds = shown - began
            else:
                shown = began + seconds
                self._stopped.wait(max(0.0, shown - time.monotonic()))
            if self._stopped.is_set():
                return
            self.frames += 1
            if self.on_frame:
                self.on_frame(shown - self._start, frame)
            whole = sampler.add(seconds, frame)
            if whole is not None:
                fresh = self._put(Segment(whole, shown - self._start, shown, fresh))

    def _put(self, segment: Segment) -> bool:
        """Whether the next segment is fresh: no, unless a fresh one was never taken."""
        with self._changed:
            old, self._newest = self._newest, segment
            if old is not None:
                self.dropped += len(old.frames)
            self._changed.notify()
        return False if old is None else old.fresh


def follow(
    model: Predictor, reader: Reader, description: Description, *, topk: int = 5, threshold: float | None = None
) -> Iterator[Answer]:
    """An answer for every segment that the reader gives, until its source ends.

    A causal network keeps its state; others, and those that were exported without it, see the last T segments as a
    clip, and answer when there are so many.

    Raises:
        VideoError: as `Reader.take`.
        ConfigError: `topk` or `threshold` is out of range.
    """
    check_choice(topk, threshold)
    reader.start()
    answer = _by_state(model, description) if model.keeps_state else _by_window(model, description)
    try:
        while (segment := reader.take()) is not None:
            probabilities = answer(segment)
            if probabilities is None:
                continue
            order = best_classes(probabilities, topk=topk, threshold=threshold)
            yield Answer(
                segment.seconds,
                tuple(model.classes[i] for i in order),
                tuple(probabilities[order].tolist()),
                time.monotonic() - segment.shown,
                reader.frames,
                reader.dropped,
            )
    finally:
        reader.stop()


def _by_state(model: Predictor, description: Description) -> Callable[[Segment], np.ndarray]:
    state = None

    def answer(segment: Segment) -> np.ndarray:
        nonlocal state
        views = _views([segment.frames], description)
        probabilities, state = model.step(views[:, 0], None if segment.fresh else state)
        return np.asarray(probabilities[0], dtype=np.float64)

    return answer


def _by_window(model: Predictor, description: Description) -> Callable[[Segment], np.ndarray | None]:
    window: deque[np.ndarray] = deque(maxlen=description.num_segments)

    def answer(segment: Segment) -> np.ndarray | None:
        if segment.fresh:
            window.clear()
        window.append(segment.frames)
        return model.probabilities(_views(list(window), description)) if len(window) == window.maxlen else None

    return answer


def _views(segments: list[np.ndarray], description: Description) -> np.ndarray:
    """Segments [K, H, W, 3] as the only clip of a video, [1, n, K, S, S, 3]."""
    frames = np.concatenate(segments)
    return views_of(frames, np.arange(len(frames)).reshape(1, len(segments), -1), description)


# sources


def opener(source: str, *, short_side: int) -> Open:
    """A function that opens a source, see `sources.open_frames`; its frames have the short side, in pixels."""

    @contextmanager
    def opened() -> Iterator[Frames]:
        with open_frames(source, short_side=short_side, stream=True) as found:
            frames = ((seconds, resize_short(frame, short_side)) for seconds, frame in found)
            yield Frames(found.name, frames, endless=found.endless)

    return opened
