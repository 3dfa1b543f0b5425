"""Number of frames -> index tables [T, K] for training and testing (docs/method.md, section 1).

A video of N frames gives T segments of K frames. Integers only: floors are exact for every N, T and K, and the random
rules depend on the given generator alone. Indices beyond the last frame repeat it.
"""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np

from mdtnet.config import ClipRule, Sampling

REDRAWS = 20  # of a random clip that equals an earlier clip of the video


class Shape(TypedDict):
    """Size of an index table, and how the frames of a segment are drawn: keywords of the rules below."""

    num_segments: int
    frames_per_segment: int
    frame_stride: int
    sampling: Sampling


def train_indices(
    num_frames: int,
    rng: np.random.Generator,
    *,
    num_segments: int,
    frames_per_segment: int,
    frame_stride: int = 1,
    sampling: Sampling = "consecutive",
) -> np.ndarray:
    """Random frames in each of T equal segments, `[T, K]`.

    `consecutive`: K frames, `frame_stride` apart, from a random start; the N - span + 1 possible starts are divided
    into T equal parts. `random`: K sorted random frames of the segment, all different where it has K.
    """
    if sampling == "random":
        return _random_in_segments(num_frames, rng, num_segments, frames_per_segment)
    starts = _num_starts(num_frames, frames_per_segment, frame_stride)
    offsets = rng.integers(0, starts, size=num_segments)  # in units of 1/T frame
    first = (np.arange(num_segments) * starts + offsets) // num_segments
    return _runs(first, num_frames, frames_per_segment, frame_stride)


def spread_indices(
    num_frames: int,
    *,
    num_segments: int,
    frames_per_segment: int,
    frame_stride: int = 1,
    sampling: Sampling = "consecutive",
    clip: int = 0,
    num_clips: int = 1,
) -> np.ndarray:
    """Clip number `clip` of `num_clips` clips spread evenly over a video, `[T, K]`; deterministic.

    One clip starts its segments at int(tick / 2 + tick * t), tick = max(N - span + 1, 1) / T; of several, clip c uses
    the fraction (c + 1/2) / num_clips of each segment instead of 1/2. Where segments have fewer starts than
    there are clips, the fraction changes from segment to segment, which keeps 10 clips different from each
    other down to about two starts per segment. `random` uses K evenly spaced frames of each segment.
    """
    if sampling == "random":
        spread = _spread(num_frames, num_segments * frames_per_segment, clip, num_clips)
        return spread.reshape(num_segments, frames_per_segment)
    starts = _num_starts(num_frames, frames_per_segment, frame_stride)
    return _runs(_spread(starts, num_segments, clip, num_clips), num_frames, frames_per_segment, frame_stride)


def dense_indices(
    num_frames: int,
    *,
    num_segments: int,
    frames_per_segment: int = 1,
    clip: int = 0,
    num_clips: int = 10,
    window: int = 64,
) -> np.ndarray:
    """The dense rule of TSM's official tests, `[T, K]`: T frames of a window of 64 frames.

    The window starts at `num_clips` places, from the first possible to the last. Frames beyond the end start
    again at the first one, as there.
    """
    last_start = max(0, num_frames - window)
    start = last_start * clip // (num_clips - 1) if num_clips > 1 else 0
    first = (start + np.arange(num_segments) * (window // num_segments)) % num_frames
    return _runs(first, num_frames, frames_per_segment, 1)


def tsm_twice_indices(num_frames: int, *, num_segments: int, clip: int = 0) -> np.ndarray:
    """The two clips of TSM's official Something-Something tests, `[T, 1]`: segment centres, then starts."""
    halves = 1 - clip
    first = num_frames * (2 * np.arange(num_segments) + halves) // (2 * num_segments)
    return _runs(first, num_frames, 1, 1)


def tdn_indices(num_frames: int, *, num_segments: int, frames_per_segment: int = 5) -> np.ndarray:
    """TDN's official test rule, `[T, K]`: `spread_indices`, but short videos give their first K frames."""
    if num_frames <= num_segments + frames_per_segment - 1:
        return _runs(np.zeros(num_segments, dtype=np.int64), num_frames, frames_per_segment, 1)
    return spread_indices(num_frames, num_segments=num_segments, frames_per_segment=frames_per_segment)


def clip_indices(
    num_frames: int,
    *,
    rule: ClipRule,
    num_clips: int,
    seed: Sequence[int],
    num_segments: int,
    frames_per_segment: int,
    frame_stride: int = 1,
    sampling: Sampling = "consecutive",
) -> np.ndarray:
    """All clips of a test, `[clips, T, K]`, by one of the rules above; `random` draws as in training from `seed`."""
    n, t, k = num_frames, num_segments, frames_per_segment
    shape = Shape(num_segments=t, frames_per_segment=k, frame_stride=frame_stride, sampling=sampling)
    if rule == "random":
        return _random_clips(n, num_clips, np.random.default_rng(list(seed)), shape)
    by_rule: dict[ClipRule, Callable[[int], np.ndarray]] = {
        "uniform": lambda c: spread_indices(n, clip=c, num_clips=num_clips, **shape),
        "dense": lambda c: dense_indices(n, num_segments=t, frames_per_segment=k, clip=c, num_clips=num_clips),
        "tsm_twice": lambda c: tsm_twice_indices(n, num_segments=t, clip=c),
        "tdn": lambda c: tdn_indices(n, num_segments=t, frames_per_segment=k),
    }
    return np.stack([by_rule[rule](c) for c in range(num_clips)])


def _random_clips(num_frames: int, num_clips: int, rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Clips that differ, as far as the video has so many."""
    seen: set[bytes] = set()
    tables = []
    for _ in range(num_clips):
        table = train_indices(num_frames, rng, **shape)
        for _ in range(REDRAWS):
            if table.tobytes() not in seen:
                break
            table = train_indices(num_frames, rng, **shape)
        seen.add(table.tobytes())
        tables.append(table)
    return np.stack(tables)


def _num_starts(num_frames: int, frames_per_segment: int, frame_stride: int) -> int:
    span = (frames_per_segment - 1) * frame_stride + 1
    return max(num_frames - span + 1, 1)


def _runs(first: np.ndarray, num_frames: int, frames_per_segment: int, frame_stride: int) -> np.ndarray:
    """K frames from each start, `[T]` -> `[T, K]`."""
    run = np.arange(frames_per_segment) * frame_stride
    return np.minimum(first[:, None] + run, num_frames - 1).astype(np.int64)


def _spread(starts: int, num_segments: int, clip: int, num_clips: int) -> np.ndarray:
    """One position of `starts` in each segment, `[T]`, at the fraction that belongs to the clip."""
    t = np.arange(num_segments)
    step = 7 if num_clips % 7 else 5  # without a common divisor, neighbouring clips part after few segments
    phase = (clip + step * t) % num_clips if starts < num_segments * num_clips else clip
    return starts * (2 * num_clips * t + 2 * phase + 1) // (2 * num_clips * num_segments)


def _random_in_segments(num_frames: int, rng: np.random.Generator, num_segments: int, k: int) -> np.ndarray:
    table = np.empty((num_segments, k), dtype=np.int64)
    for t in range(num_segments):
        low = num_frames * t // num_segments
        high = max(num_frames * (t + 1) // num_segments, low + 1)
        table[t] = low + np.sort(rng.choice(high - low, size=k, replace=high - low < k))
    return table
