"""What the offsets of DCME do: where its deformable kernels sample the neighbouring key frame.

Letters: M = T - 1 pairs of neighbouring segments, S pixels of the square crop, h, w cells of a feature map, k a
kernel's side. A cell stands for its share of the crop.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from mdtnet.config import SaliencyConfig
from mdtnet.errors import ConfigError
from mdtnet.models.mdtnet import DCME, MDTNet
from mdtnet.models.network import Network
from mdtnet.models.saliency import LUMA, frames_saliency
from mdtnet.pages.sheet import INK, PAPER, font, panels, sheet
from mdtnet.pages.subject import Subject, spread

OFFSETS_HEIGHT = 240  # pixels of a panel
SHARP = 3  # pictures of points are drawn this much larger, then scaled down
COLOURS = ((255, 150, 40), (70, 190, 255), (190, 120, 255), (120, 220, 90))  # of kernels, the smallest first
SPOT, UNMOVED = (255, 235, 60), (255, 255, 255)


class Kernel(NamedTuple):
    """One of DCME's deformable kernels on a clip."""

    offset: Tensor
    """[M, 2 k^2, h, w] for M pairs of key frames."""
    dilation: int

    @property
    def span(self) -> int:
        """Cells from its first to its last tap without offsets."""
        return self.dilation * (math.isqrt(self.offset.shape[1] // 2) - 1) + 1

    def points(self) -> Tensor:
        """Places where its taps sample, [M, h, w, k^2, 2]."""
        return sampling_points(self.offset, self.dilation)

    def unmoved(self) -> Tensor:
        """Places where they would sample without offsets, [1, h, w, k^2, 2]."""
        return sampling_points(torch.zeros_like(self.offset[:1]), self.dilation)


def learned_offsets(model: Network, clip: Tensor, *, stage: int) -> list[Kernel]:
    """The kernels of the last DCME in a stage, with their offsets on a clip [1, T, K, 3, S, S].

    Offsets lead to the next key frame, in a causal network to the previous one.

    Raises:
        ConfigError: there is no DCME with offsets in this stage, or the clip has one segment.
    """
    dcmes = [m for block in model.trunk.stage_blocks(stage) for m in block.modules() if isinstance(m, DCME)]
    convolution = dcmes[-1].offset if dcmes else None
    if convolution is None:
        kind = "has no DCME" if not dcmes else "has a DCME of plain convolutions"
        raise ConfigError(f"stage {stage} of this network {kind}: no offsets to draw (they are MDT-Net's)")
    kept: list[Tensor] = []
    hook = convolution.register_forward_hook(lambda m, x, y: kept.append(y.cpu()))
    try:
        with torch.inference_mode():
            model(clip)
    finally:
        hook.remove()
    if not kept:
        raise ConfigError("a clip of one segment has no next key frame: no offsets to draw")
    channels = [2 * kernel.shape[-1] ** 2 for kernel in dcmes[-1].kernels]
    return [Kernel(offset, dilation) for offset, dilation in zip(kept[0].split(channels, 1), dcmes[-1].dilations)]


def sampling_points(offset: Tensor, dilation: int = 1) -> Tensor:
    """Places where a k x k kernel's taps sample: offsets [M, 2 k^2, h, w] -> [M, h, w, k^2, 2], (y, x) in cells."""
    k, (height, width) = math.isqrt(offset.shape[1] // 2), offset.shape[2:]
    reach = dilation * (torch.arange(k) - k // 2)
    cells = torch.cartesian_prod(torch.arange(height), torch.arange(width)).view(height, width, 1, 2)
    return cells + torch.cartesian_prod(reach, reach) + offset.unflatten(1, (-1, 2)).permute(0, 3, 4, 1, 2)


def most_motion(clip: Tensor, saliency: SaliencyConfig) -> Tensor:
    """The most salient place of each segment of a clip [1, T, K, 3, S, S], [T, 2] as (x, y) in [0, 1] of the crop."""
    unclipped = replace(saliency, quantile=1.0, window="segment", normalise="segment")
    salience = frames_saliency(clip, unclipped)[0]  # [T, S, S]
    best = salience.flatten(1).argmax(1)
    size = salience.shape[-1]
    return (torch.stack((best % size, best // size), 1) + 0.5) / size


def offsets_sheet(
    seen: Sequence[Subject], title: str, at: tuple[float, float] | None, stages: Sequence[int], columns: int
) -> Image.Image:
    """Rows are checkpoints and the last DCME of each stage, columns pairs of segments; `at` is (x, y) in [0, 1] of the
    crop, or None for the place of most motion."""
    rows, spans = [], set()
    for one in seen:
        found = {stage: _offsets_of(one, stage) for stage in stages}
        pairs = spread(one.clip.shape[1] - 1, columns)
        model = one.network.model
        back = int(isinstance(model, MDTNet) and model.parts.causal)  # from the second of two segments to the first
        places = most_motion(one.clip, one.network.config.model.saliency)[pairs + back]
        if at is not None:
            places = torch.tensor([at] * len(pairs))
        name = f"{one.name}\n\nkey frame of the\n{'second' if back else 'first'} segment"
        rows.append((name, _draw_rings(one.key_frames(pairs + back), places)))
        for stage, kernels in found.items():
            frames = one.key_frames(pairs + 1 - back)
            rows.append((_described(stage, kernels), _draw_taps(frames, places, kernels, pairs)))
            spans |= {kernel.span for kernel in kernels}
    headings = [f"segments {t + 1} and {t + 2} of {seen[0].clip.shape[1]}" for t in pairs]
    title = f"{title}   where DCME looks in the neighbouring key frame"
    return sheet(title, headings, rows, _points_legend(sorted(spans)))


def _offsets_of(one: Subject, stage: int) -> list[Kernel]:
    try:
        return learned_offsets(one.network.model, one.device_clip, stage=stage)
    except ConfigError as error:
        raise ConfigError(f"{one.path}: {error}") from None


def _described(stage: int, kernels: Sequence[Kernel]) -> str:
    """How far points move over the whole clip, and the share outside the picture with and without offsets, in words."""
    points, grids = [k.points() for k in kernels], [k.unmoved() for k in kernels]
    height, width = grids[0].shape[1:3]
    moves = torch.cat([(found - grid).norm(dim=-1).flatten() for found, grid in zip(points, grids)])
    return (
        f"stage {stage}, {height} x {width} cells\npoints moved by\n{moves.mean():.2f} cells, mean\n"
        f"{_outside(points):.0%} outside\n(unmoved: {_outside(grids):.0%})"
    )


def _outside(kernels: Iterable[Tensor]) -> float:
    """Share of the bilinear samples at points [M, h, w, k^2, 2] that lies outside the map, where all is zero."""
    inside = []
    for points in kernels:
        beyond = torch.maximum(-points, points - torch.tensor(points.shape[1:3]) + 1).clamp(0, 1)
        inside.append((1 - beyond).prod(-1).flatten())
    return 1 - float(torch.cat(inside).mean())


def _draw_rings(frames: np.ndarray, places: Tensor) -> list[Image.Image]:
    """Key frames [n, S, S, 3] with a ring around each one's place."""
    pictures = panels(frames, OFFSETS_HEIGHT * SHARP)
    for picture, (x, y) in zip(pictures, (places * OFFSETS_HEIGHT * SHARP).tolist()):
        _ring(ImageDraw.Draw(picture), x, y)
    return _scaled_down(pictures)


def _draw_taps(frames: np.ndarray, places: Tensor, kernels: Sequence[Kernel], pairs: np.ndarray) -> list[Image.Image]:
    """Greyed frames [n, S, S, 3] with the sampling points of the cell that holds the place, one per pair of `pairs`."""
    grey = np.repeat((frames @ np.array(LUMA) * 0.55 + 20)[..., None], 3, -1).round().astype(np.uint8)
    pictures = panels(grey, OFFSETS_HEIGHT * SHARP)
    drawn = [(kernel.points(), kernel.unmoved()[0]) for kernel in sorted(kernels, key=lambda kernel: kernel.span)]
    for picture, (x, y), pair in zip(pictures, places.tolist(), pairs):
        pen = ImageDraw.Draw(picture)
        for (found, unmoved), colour in reversed(list(zip(drawn, COLOURS))):  # small ones on top
            height, width = found.shape[1:3]
            row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
            scale = OFFSETS_HEIGHT * SHARP / torch.tensor([height, width])
            start = ((unmoved[row, column] + 0.5) * scale).flip(-1).tolist()
            end = ((found[pair, row, column] + 0.5) * scale).flip(-1).tolist()
            _draw_points(pen, start, end, colour)
        _ring(pen, x * OFFSETS_HEIGHT * SHARP, y * OFFSETS_HEIGHT * SHARP)
    return _scaled_down(pictures)


def _draw_points(pen: ImageDraw.ImageDraw, start: list, end: list, colour: tuple[int, int, int]) -> None:
    for a, b in zip(start, end):
        pen.line((*a, *b), fill=colour, width=SHARP)
        _dot(pen, b, 3.5, colour)
    for a in start:
        _dot(pen, a, 1.2, UNMOVED)


def _dot(pen: ImageDraw.ImageDraw, centre: Sequence[float], radius: float, colour: tuple[int, int, int]) -> None:
    pen.circle(centre, radius * SHARP, fill=colour)


def _ring(pen: ImageDraw.ImageDraw, x: float, y: float) -> None:
    pen.circle((x, y), 9 * SHARP, outline=INK, width=4 * SHARP)
    pen.circle((x, y), 8 * SHARP, outline=SPOT, width=2 * SHARP)


def _scaled_down(pictures: list[Image.Image]) -> list[Image.Image]:
    return [p.resize((p.width // SHARP, p.height // SHARP), Image.Resampling.LANCZOS) for p in pictures]


def _points_legend(spans: list[int]) -> Image.Image:
    words = [(SPOT, "ring: the place that DCME compares with the neighbouring key frame, at the points of its kernels")]
    words += [(colour, f"where the kernel of {k} x {k} cells samples") for k, colour in zip(spans, COLOURS)]
    words += [(UNMOVED, "where it would without offsets; a line leads from here to there")]
    width = 22 + math.ceil(max(font(12).getlength(text) for _, text in words))
    foot = Image.new("RGB", (width, 22 * len(words)), PAPER)
    pen = ImageDraw.Draw(foot)
    for line, (colour, text) in enumerate(words):
        y = 22 * line + 11
        pen.circle((8, y), 6, fill=colour, outline=INK)
        pen.text((22, y), text, fill=INK, font=font(12), anchor="lm")
    return foot
