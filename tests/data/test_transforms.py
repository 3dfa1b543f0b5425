"""One draw a clip, crops where they should be, and no size that breaks."""

import numpy as np
import pytest
import torch

from mdtnet.data.transforms import (
    ClipAugment,
    jitter_color,
    multiscale_box,
    resize_short,
    views,
)


def clip(height: int, width: int, t: int = 2, k: int = 3) -> torch.Tensor:
    """A still clip of noise, [T, K, 3, H, W]."""
    frame = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    return frame.expand(t, k, 3, height, width)


def gradient(height: int, width: int) -> torch.Tensor:
    """A clip whose first channel is the row and second the column."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frame = torch.stack([y, x, torch.zeros_like(x)]).to(torch.uint8)
    return frame.expand(2, 3, 3, height, width)


@pytest.mark.parametrize("crop", ["random", "multiscale"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 500), (31, 47), (64, 40), (240, 320)])
def test_any_size_gives_still_square_clips(height, width, crop):
    augment = ClipAugment(short_side=40, size=32, crop=crop, color_jitter=0.4)
    for seed in range(10):
        out = augment(clip(height, width), np.random.default_rng(seed))
        assert out.shape == (2, 3, 3, 32, 32)
        assert out.dtype == torch.uint8
        assert (out == out[:1, :1]).all()  # drawn once a clip: what is still stays still


def test_frames_smaller_than_the_crop_are_enlarged():
    assert ClipAugment(short_side=16, size=32)(clip(20, 30), np.random.default_rng(0)).shape[-2:] == (32, 32)
    assert views(clip(20, 30), crops=3, crop_size=32).shape == (3, 2, 3, 3, 32, 32)


def test_same_generator_same_clip_and_other_generator_another():
    augment = ClipAugment(short_side=40, size=32, crop="multiscale", color_jitter=0.4)
    frames = clip(50, 70)
    outs = [augment(frames, np.random.default_rng(seed)) for seed in (5, 5, 6)]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_resize_keeps_the_aspect():
    assert resize_short(clip(240, 320), 60).shape == (2, 3, 3, 60, 80)
    assert resize_short(clip(320, 240), 60).shape == (2, 3, 3, 80, 60)
    frames = clip(60, 80)
    assert torch.equal(resize_short(frames, 60), frames)


def test_random_crop_reaches_every_place():
    frames = gradient(12, 14)
    rng = np.random.default_rng(0)
    augment = ClipAugment(short_side=12, size=10, flip=False)
    corners = {tuple(augment(frames, rng)[0, 0, :2, 0, 0].tolist()) for _ in range(500)}
    assert corners == {(y, x) for y in range(3) for x in range(5)}


def test_multiscale_crops_are_those_of_tsn():
    rng = np.random.default_rng(0)
    boxes = {multiscale_box(100, 200, rng) for _ in range(1000)}
    assert all(top >= 0 and left >= 0 and top + h <= 100 and left + w <= 200 for top, left, h, w in boxes)
    places = {(top, left) for top, left, h, w in boxes if (h, w) == (75, 75)}
    corners_and_middles = {(25 * down // 4, 125 * right // 4) for down in (0, 2, 4) for right in (0, 2, 4)}
    between = {(25 * down // 4, 125 * right // 4) for down in (1, 3) for right in (1, 3)}
    assert places == corners_and_middles | between
    steps = [100, 87, 75, 66]
    assert {(h, w) for _, _, h, w in boxes} == {
        (h, w) for h in steps for w in steps if abs(steps.index(h) - steps.index(w)) <= 1
    }


def test_flip_mirrors_half_of_the_clips():
    frames = gradient(32, 32)
    augment = ClipAugment(short_side=32, size=32)
    flipped = [augment(frames, np.random.default_rng(s))[0, 0, 1, 0, 0].item() == 31 for s in range(200)]
    assert 70 < sum(flipped) < 130
    never = ClipAugment(short_side=32, size=32, flip=False)
    assert torch.equal(never(frames, np.random.default_rng(0)), frames)


def test_color_jitter_does_not_turn_a_change_in_one_place_into_a_change_everywhere():
    frames = clip(32, 32).clone()
    frames[1, :, :, :16] = 255  # something bright comes in at the top
    out = jitter_color(frames, 0.5, np.random.default_rng(1))
    assert not torch.equal(out, frames)
    assert torch.equal(out[0, :, :, 16:], out[1, :, :, 16:])


def test_views_are_left_centre_right():
    wide, tall = gradient(20, 60), gradient(60, 20)
    assert views(wide, crops=3, crop_size=20)[:, 0, 0, 1, 0, 0].tolist() == [0, 20, 40]
    assert views(tall, crops=3, crop_size=20)[:, 0, 0, 0, 0, 0].tolist() == [0, 20, 40]
    five = views(gradient(32, 60), crops=5, crop_size=20)[:, 0, 0]
    assert five[:, 1, 0, 0].tolist() == [0, 40, 0, 40, 20]  # the left edge of each, then the upper one
    assert five[:, 0, 0, 0].tolist() == [0, 0, 12, 12, 6]
    centre = views(gradient(32, 40), crops=1, crop_size=20)
    assert centre.shape == (1, 2, 3, 3, 20, 20)
    assert centre[0, 0, 0, :2, 0, 0].tolist() == [6, 10]
