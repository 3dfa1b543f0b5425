"""Frames -> crops for the network: uint8 in, uint8 out; the trunk normalises.

Letters: T segments of K frames, H x W pixels, V views, S the side of a crop. Everything random is drawn once per clip:
an augmentation that changes from frame to frame is motion, above all to a Fourier transform.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mdtnet.data.rgb import scaled_size

OTHER_SIDE = {a: b for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
              for a, b in ((left, right), (right, left))}  # fmt: skip
SIDES = re.compile(r"(?<![A-Za-z])(?:left|right|LEFT|RIGHT)(?![A-Za-z])|(?:Left|Right)(?![a-z])")
SCALES = (1.0, 0.875, 0.75, 0.66)  # shares of the short side: TSN's multi-scale crop
# Its height and width differ by at most one scale.
SCALE_PAIRS = [(h, w) for i, h in enumerate(SCALES) for j, w in enumerate(SCALES) if abs(i - j) <= 1]
# Places of the crop, in quarters of the free height and width: corners and centre, middles of sides, points between.
CORNERS_AND_CENTRE = ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))
PLACES = (
    *CORNERS_AND_CENTRE,
    *((0, 2), (4, 2), (2, 0), (2, 4)),
    *((1, 1), (1, 3), (3, 1), (3, 3)),
)


class Box(NamedTuple):
    """A crop of frames, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def crop(self, frames: Tensor) -> Tensor:
        """A view of frames `[..., H, W]`."""
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width]

    def crop_pixels(self, frames: np.ndarray) -> np.ndarray:
        """A view of frames `[..., H, W, 3]`."""
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width, :]


@dataclass(frozen=True)
class ClipAugment:
    """Resize, crop, mirror, colour jitter and RandAugment of a clip, `[T, K, 3, H, W]` -> `[T, K, 3, S, S]`.

    Options as in `DataConfig`: `color_jitter` is the strength of each jitter, 0 to 1; `randaugment` is a strength from
    0 to 30.
    """

    short_side: int
    size: int
    crop: Literal["random", "multiscale"] = "random"
    flip: bool = True
    color_jitter: float = 0.0
    randaugment: int = 0

    def __call__(self, frames: Tensor, rng: np.random.Generator) -> Tensor:
        """The clip that `draw` makes."""
        return self.draw(frames, rng)[0]

    def draw(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, bool]:
        """The clip, and whether it was mirrored: resized, cropped, then `finish`."""
        frames = resize_short(frames, self.resize_to)
        height, width = frames.shape[-2:]
        return self.finish(self.crop_box(height, width, rng).crop(frames), rng)

    @property
    def resize_to(self) -> int:
        """Short side in pixels of the frames that the crop is drawn from."""
        return max(self.short_side, self.size)

    def crop_box(self, height: int, width: int, rng: np.random.Generator) -> Box:
        """Draw the crop of frames of this size."""
        if self.crop == "multiscale":
            return multiscale_box(height, width, rng)
        top, left = rng.integers(0, [height - self.size + 1, width - self.size + 1])
        return Box(int(top), int(left), self.size, self.size)

    def finish(self, frames: Tensor, rng: np.random.Generator) -> tuple[Tensor, bool]:
        """All steps after the crop: the clip, and whether it was mirrored."""
        frames = _resize(frames, self.size, self.size)
        mirrored = self.flip and rng.random() < 0.5
        if mirrored:
            frames = frames.flip(-1)
        if self.color_jitter:
            frames = jitter_color(frames, self.color_jitter, rng)
        if self.randaugment:
            frames = rand_augment(frames, self.randaugment, rng)
        return frames, mirrored


def mirror_labels(classes: Sequence[str]) -> np.ndarray:
    """Label of each class's mirror image, int64 `[C]`: the name with left and right exchanged, else the class."""
    place = {name: i for i, name in enumerate(classes)}
    return np.array([place.get(SIDES.sub(_other_side, name), i) for i, name in enumerate(classes)])


def _other_side(match: re.Match) -> str:
    return OTHER_SIDE[match[0]]


def resize_short(frames: Tensor, short_side: int) -> Tensor:
    """Scale `[..., 3, H, W]` so that the shorter of H and W is `short_side` pixels."""
    return _resize(frames, *scaled_size(frames.shape[-2:], short_side))


def multiscale_box(height: int, width: int, rng: np.random.Generator) -> Box:
    """TSN's crop: a pair of scales of the short side at one of 13 places.

    Source: Wang et al., Temporal Segment Networks, section 3.2.
    """
    short = min(height, width)
    pair = SCALE_PAIRS[rng.integers(len(SCALE_PAIRS))]
    crop_height, crop_width = (max(int(short * scale), 1) for scale in pair)
    down, right = PLACES[rng.integers(len(PLACES))]
    return Box((height - crop_height) * down // 4, (width - crop_width) * right // 4, crop_height, crop_width)


def jitter_color(frames: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast and saturation, each by a factor from 1 - strength to 1 + strength."""
    from torchvision.transforms.v2 import functional as F  # takes a second, and prediction does without

    t, k, c, h, w = frames.shape
    low = max(0.0, 1 - strength)
    brightness, contrast, saturation = rng.uniform(low, 1 + strength, size=3).tolist()
    # As one tall picture, so that contrast turns about the mean of the clip and not of each frame.
    picture = frames.movedim(2, 0).reshape(c, t * k * h, w)
    picture = F.adjust_brightness(picture, brightness)
    picture = F.adjust_contrast(picture, contrast)
    picture = F.adjust_saturation(picture, saturation)
    return picture.reshape(c, t, k, h, w).movedim(0, 2)


BINS = 31  # strengths 0 to 30
SIGNED = {  # RandAugment's changes with either sign -> strength 30, for frames of width w and height h
    "ShearX": lambda h, w: 0.3,
    "ShearY": lambda h, w: 0.3,
    "TranslateX": lambda h, w: 150.0 / 331.0 * w,
    "TranslateY": lambda h, w: 150.0 / 331.0 * h,
    "Rotate": lambda h, w: 30.0,
    "Brightness": lambda h, w: 0.9,
    "Color": lambda h, w: 0.9,
    "Sharpness": lambda h, w: 0.9,
}
CHANGES = ("Identity", *SIGNED, "Posterize", "Solarize")
"""Those of torchvision's `RandAugment` in its order, without AutoContrast, Equalize and Contrast: these depend on the
statistics of each frame, and so would change from frame to frame."""


def rand_augment(frames: Tensor, magnitude: int, rng: np.random.Generator) -> Tensor:
    """RandAugment (Cubuk et al. 2020): two random changes of strength `magnitude`, the same for all frames.

    The same draws and pixels as torchvision's `RandAugment` over `CHANGES`.
    """
    draws = torch.Generator().manual_seed(int(rng.integers(2**63)))
    height, width = frames.shape[-2:]
    for _ in range(2):
        name = CHANGES[int(torch.randint(len(CHANGES), (), generator=draws))]
        strength = 0.0
        if name in SIGNED:
            strength = float(torch.linspace(0.0, SIGNED[name](height, width), BINS)[magnitude])
            if torch.rand((), generator=draws) <= 0.5:
                strength = -strength
        frames = _change(frames, name, strength, magnitude)
    return frames


def _change(frames: Tensor, name: str, strength: float, magnitude: int) -> Tensor:
    from torchvision.transforms.v2 import functional as F  # as in `jitter_color`

    angle = math.degrees(math.atan(strength))
    match name:
        case "ShearX":
            return F.affine(frames, angle=0.0, translate=[0, 0], scale=1.0, shear=[angle, 0.0], center=[0, 0])
        case "ShearY":
            return F.affine(frames, angle=0.0, translate=[0, 0], scale=1.0, shear=[0.0, angle], center=[0, 0])
        case "TranslateX":
            return F.affine(frames, angle=0.0, translate=[int(strength), 0], scale=1.0, shear=[0.0, 0.0])
        case "TranslateY":
            return F.affine(frames, angle=0.0, translate=[0, int(strength)], scale=1.0, shear=[0.0, 0.0])
        case "Rotate":
            return F.rotate(frames, strength)
        case "Brightness":
            return F.adjust_brightness(frames, 1.0 + strength)
        case "Color":
            return F.adjust_saturation(frames, 1.0 + strength)
        case "Sharpness":
            return F.adjust_sharpness(frames, 1.0 + strength)
        case "Posterize":
            return F.posterize(frames, bits=round(8 - magnitude / ((BINS - 1) / 4)))
        case "Solarize":
            return F.solarize(frames, threshold=255.0 * float(torch.linspace(1.0, 0.0, BINS)[magnitude]))
    return frames


def views(frames: Tensor, *, crops: int, crop_size: int) -> Tensor:
    """Test crops of a resized clip, `[T, K, 3, H, W]` -> `[V, T, K, 3, S, S]`.

    1 crop is the centre; 3 are left, centre, right (top, centre, bottom where the height is longer), in that
    order, centred along the shorter side; 5 are the corners, row by row, then the centre. Frames smaller than a crop
    are enlarged first.
    """
    if min(frames.shape[-2:]) < crop_size:
        frames = resize_short(frames, crop_size)
    height, width = frames.shape[-2:]
    boxes = _view_corners(height, width, crops, crop_size)
    return stack_clips([frames[..., y : y + crop_size, x : x + crop_size] for y, x in boxes])


def views_box(height: int, width: int, *, crops: int, crop_size: int) -> Box:
    """Smallest crop of frames that gives the same `views` as the frames themselves."""
    if min(height, width) < crop_size:
        return Box(0, 0, height, width)
    corners = _view_corners(height, width, crops, crop_size)
    tops, lefts = zip(*corners)
    top, left = min(tops), min(lefts)
    return Box(top, left, max(tops) - top + crop_size, max(lefts) - left + crop_size)


def _view_corners(height: int, width: int, crops: int, crop_size: int) -> list[tuple[int, int]]:
    if crops == 5:
        places = list(CORNERS_AND_CENTRE)
    else:
        places = [(2, 2)] if crops == 1 else [(2, p) if width >= height else (p, 2) for p in (0, 2, 4)]
    return [((height - crop_size) * down // 4, (width - crop_size) * right // 4) for down, right in places]


def stack_clips(clips: Sequence[Tensor]) -> Tensor:
    """Clips `[..., 3, H, W]` stacked along a new first dimension, their channels last in memory.

    Decoders return pixels in this order and convolutions prefer it; changing the order takes 8 times as long.
    """
    return torch.stack([clip.movedim(-3, -1) for clip in clips]).movedim(-1, -3)


def _resize(frames: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, with a wider filter where frames shrink, as in Pillow."""
    if frames.shape[-2:] == (height, width):
        return frames
    flat = frames.reshape(-1, *frames.shape[-3:])
    if len(flat) == 1 and flat.stride(1) == 1:  # by this stride alone PyTorch recognises one frame as channels-last
        flat = flat.as_strided(flat.shape, (flat[0].numel(), *flat.stride()[1:]))
    out = interpolate(flat, (height, width), mode="bilinear", antialias=True)
    return out.reshape(*frames.shape[:-2], height, width)
