"""A long video file in one decoding pass: its frames' times first, then the wanted frames one after another.

Nothing is held: memory does not grow with the video.
"""

from collections.abc import Iterator

import av
import numpy as np

from mdtnet.data.container import Decoder, Part, open_video
from mdtnet.data.plan import scan
from mdtnet.data.rgb import Converter
from mdtnet.errors import VideoError

LATE = 1e-3  # seconds by which a frame may be off its packet's time


def frame_times(path: str) -> np.ndarray:
    """Seconds after the first frame at which each frame is shown, float64 [N], sorted, by the packets of a file.

    Nothing is decoded, so a damaged file can have fewer frames.

    Raises:
        VideoError: the file cannot be read, or has no frames.
    """
    part = Part(path)
    try:
        with open_video(path) as (container, stream):
            times = scan(container, stream).seconds
    except (av.FFmpegError, OSError) as error:
        raise VideoError(path, f"cannot be read: {error}") from error
    if not len(times):
        raise part.no_frames()
    return times


def duration_of(times: np.ndarray) -> float:
    """Seconds that frames shown at `times` last: the last one stays as long as most."""
    return float(times[-1]) + period_of(times)


def period_of(times: np.ndarray) -> float:
    """Seconds from a frame to the next: the mean of those near the median, since times are rounded; 1/25 of a single
    frame."""
    steps = np.diff(times)
    usual = np.percentile(steps, 50, method="lower") if len(steps) else 0.0  # one of them
    return float(steps[abs(steps - usual) <= usual / 2].mean()) if usual > 0 else 1 / 25


class Stream:
    """Frames of a file at the sorted positions `wanted`: iterating gives the position and RGB [H, W, 3] of each.

    `expected` are the times of all frames in the order of decoding. Where decoding proves them wrong no more frames are
    given, but all are decoded: `decoded` are then the right ones, and `agrees` is false. Where `unsure`, frames are
    damaged and several threads have decoded them: only one thread gives the same frames every time.
    """

    def __init__(
        self, path: str, wanted: np.ndarray, expected: np.ndarray, *, short_side: int | None = None, threads: int = 0
    ) -> None:
        self.path, self.wanted, self.expected = path, wanted, expected
        self.short_side, self.threads = short_side, threads
        self.decoded = np.empty(0)
        """Times of all frames, after the iteration; some files give them out of order."""
        self.agrees = True
        self.unsure = False
        self.damaged = 0
        """Frames that are damaged, lost, or missing at the end."""
        self.total = 0
        """Frames that should be there."""

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        part, convert = Part(self.path), Converter(self.path, self.short_side)
        times: list[float] = []
        found = 0
        with open_video(self.path, threads=self.threads) as (container, stream):
            decoder = Decoder(part, container, stream)
            for seconds, frame in decoder:
                i = len(times)
                times.append(seconds)
                convert.see(frame)
                self.agrees &= i < len(self.expected) and abs(seconds - self.expected[i]) <= LATE
                if self.agrees and found < len(self.wanted) and self.wanted[found] == i:
                    found += 1
                    yield i, convert(frame)
            self.unsure, self.damaged, self.total = decoder.unsure, decoder.damaged, decoder.total
        if not times:
            raise part.no_frames()
        self.agrees &= len(times) == len(self.expected)
        self.decoded = np.array(times)
