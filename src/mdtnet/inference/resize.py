"""Bilinear resizing without torch, to the very pixels that torch gives: integer weights, one axis after the other.

`torch.nn.functional.interpolate(..., mode="bilinear", antialias=True)` of uint8 frames computes with weights of 16
bits, rounds after the columns and again after the rows. Here the same integers are multiplied as matrices, which
floating point holds exactly, so that networks with and without torch see the same frames.
"""

from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from mdtnet.data.rgb import scaled_size

MOST_BITS = 22  # of a weight's fraction, as in torch
LARGEST_WEIGHT = 2**15
EXACT_IN_FLOAT32 = 2**24
BLOCK = 8  # output rows per matrix product: a product with all input rows would be zeros for the most part


class _Block(NamedTuple):
    """Output rows [start, stop) as a product of `weights` [stop - start, last - first] and input rows [first, last)."""

    start: int
    stop: int
    first: int
    last: int
    weights: np.ndarray


def resize_short(frame: np.ndarray, short_side: int) -> np.ndarray:
    """Scale uint8 [H, W, 3] so that the shorter of H and W is `short_side` pixels."""
    height, width = scaled_size(frame.shape[:2], short_side)
    if width != frame.shape[1]:
        frame = _resize_rows(frame.swapaxes(0, 1), width).swapaxes(0, 1)
    return frame if height == frame.shape[0] else _resize_rows(frame, height)


def _resize_rows(frame: np.ndarray, rows: int) -> np.ndarray:
    """[n, m, 3] -> [rows, m, 3]."""
    flat = np.ascontiguousarray(frame).reshape(len(frame), -1)
    out = np.empty((rows, flat.shape[1]), dtype=np.uint8)
    bits, blocks = _plan(len(frame), rows)
    for start, stop, first, last, weights in blocks:
        sums = weights @ flat[first:last].astype(weights.dtype)
        sums += 2.0 ** (bits - 1)  # so that cutting off rounds
        sums *= 2.0**-bits
        out[start:stop] = sums
    return out.reshape(rows, *frame.shape[1:])


@lru_cache(maxsize=16)
def _plan(size: int, new_size: int) -> tuple[int, list[_Block]]:
    """Bits of the weights' fraction, and the blocks that make `new_size` rows of `size`.

    Weights fall off linearly with the distance, to 0 at the next row of the smaller picture.
    """
    scale = size / new_size
    width = max(scale, 1.0)
    centres = scale * (np.arange(new_size) + 0.5)
    firsts = np.maximum((centres - width + 0.5).astype(int), 0)
    lasts = np.minimum((centres + width + 0.5).astype(int), size)
    rows = [np.maximum(1 - np.abs((np.arange(a, b) - c + 0.5) / width), 0) for a, b, c in zip(firsts, lasts, centres)]
    rows = [row / row.sum() for row in rows]
    largest = max(row.max() for row in rows)
    bits = next((b for b in range(MOST_BITS) if int(0.5 + largest * 2 ** (b + 1)) >= LARGEST_WEIGHT), MOST_BITS)
    integers = [(row * 2**bits + 0.5).astype(np.int64) for row in rows]
    exact = 255 * max(int(row.sum()) for row in integers) + 2**bits < EXACT_IN_FLOAT32
    blocks = []
    for start, stop in pairwise([*range(0, new_size, BLOCK), new_size]):
        first, last = firsts[start], lasts[stop - 1]
        weights = np.zeros((stop - start, last - first), dtype=np.float32 if exact else np.float64)
        for i in range(start, stop):
            weights[i - start, firsts[i] - first : lasts[i] - first] = integers[i]
        blocks.append(_Block(start, stop, int(first), int(last), weights))
    return bits, blocks
