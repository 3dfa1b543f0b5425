"""Every shortcut of reading against decoding from the start of the file to its end, bit by bit.

python tests/shortcuts.py FILE...
"""

import random
import sys
from pathlib import Path

import numpy as np

from mdtnet.data.container import Decoder, Part, open_video
from mdtnet.data.rgb import Converter
from mdtnet.data.video import Request, VideoInfo, probe, read_frames
from mdtnet.errors import VideoError

Slow = tuple[list[np.ndarray], int, int]
"""Frames, damaged ones, and how many there should be."""


def slow(part: Part) -> Slow | str:
    """A part by decoding everything before it, in one thread; or the reason why it cannot be read."""
    try:
        with open_video(part.path, threads=1) as (container, stream):
            decoder, convert = Decoder(part, container, stream), Converter(part.path, None)
            frames = [convert(frame) for _, frame in decoder]
        if not frames:
            raise part.no_frames()
    except VideoError as error:
        return error.reason
    return frames, decoder.damaged, decoder.total


def compare(path: str | Path, rng: random.Random, *, pixels: bool = True) -> int:
    """Check a file and three parts of it, also their `pixels`; how many of them were read by a shortcut."""
    whole = slow(Part(str(path)))
    parts = [Part(str(path))]
    if not isinstance(whole, str):
        seconds = _seconds(str(path), len(whole[0]))
        for _ in range(3):
            start = rng.uniform(0, seconds)
            parts.append(Part(str(path), start, rng.choice((None, start + rng.uniform(0, seconds / 2)))))
    return sum(_compare(part, whole if part.whole else slow(part), rng, pixels=pixels) for part in parts)


def _seconds(path: str, num_frames: int) -> float:
    with open_video(path) as (_, stream):
        return min(num_frames / float(stream.average_rate or 25), 1e4)


def _compare(part: Part, expected: Slow | str, rng: random.Random, *, pixels: bool) -> bool:
    try:
        info: VideoInfo | str = probe(part.path, start=part.start, end=part.end)
        reading = read_frames(part, Request(np.arange))
    except VideoError as error:
        if error.reason != expected:
            raise AssertionError(f"{part}: {error.reason!r}, expected {str(expected)[:99]}") from error
        return False
    assert not isinstance(expected, str), (part, expected)
    frames, damaged, total = expected
    assert isinstance(info, VideoInfo)
    assert (info.num_frames, info.damaged, info.total) == (len(frames), damaged, total), (part, info, damaged, total)
    assert (reading.num_frames, reading.damaged, reading.decoded) == (len(frames), damaged, total), (part, reading)
    if not reading.proven:  # read in the slow way, which leaves what was in memory where frames are damaged
        return False
    assert not pixels or np.array_equal(reading.pixels, np.stack(frames)), part
    for _ in range(3):
        wanted = np.sort(rng.sample(range(len(frames)), rng.randint(1, min(6, len(frames)))))
        request = Request(lambda n, wanted=wanted: wanted, num_frames=len(frames), proven=True)
        known = read_frames(part, request)
        assert (known.num_frames, known.damaged) == (len(frames), 0)
        assert not pixels or np.array_equal(known.pixels, np.stack([frames[i] for i in wanted])), (part, wanted)
    return True


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(compare(name, random.Random(0)), name)
