"""Resizing without torch gives torch's own pixels."""

import numpy as np
import pytest

from mdtnet.data.frames import resize
from mdtnet.inference.resize import resize_short


@pytest.mark.parametrize("seed", range(40))
def test_pixels_are_torchs(seed):
    """Frames of any shape that shrink or grow, of noise and of one colour."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(2, 300, 2)
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for short_side in rng.integers(2, 200, 3).tolist():
        for picture in (frame, np.full_like(frame, 255), frame[::-1, ::2]):
            np.testing.assert_array_equal(resize_short(picture, short_side), resize(picture, short_side))


@pytest.mark.parametrize(("height", "width"), [(1080, 1920), (1200, 700), (9, 2000), (240, 320)])
def test_pixels_of_large_and_narrow_frames_are_torchs(height, width):
    """Strong shrinking, whose sums float32 does not hold exactly, and a strip that is squeezed."""
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    frame[: height // 2] |= 0xF0
    for short_side in (32, 256):
        np.testing.assert_array_equal(resize_short(frame, short_side), resize(frame, short_side))


def test_a_frame_of_the_right_size_is_given_back():
    frame = np.zeros((4, 6, 3), dtype=np.uint8)
    assert resize_short(frame, 4) is frame
