"""Where networks look: Grad-CAM of several side by side, and what the offsets of DCME do.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.

Letters: T segments, K frames a segment, M = T - 1 pairs of neighbouring segments, C channels, S pixels of the square
crop, h, w cells of a feature map. A cell stands for its share of the crop.
"""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from mdtnet.config import nearest
from mdtnet.errors import ConfigError
from mdtnet.inference import Recogniser
from mdtnet.models.mdtnet import DCME
from mdtnet.models.reading import key_frame
from mdtnet.models.trunk import Timeline
from mdtnet.pictures import (
    INK,
    PAPER,
    SHEETS,
    checked_output,
    colour_scale,
    font,
    heat,
    panels,
    save_sheet,
    sheet,
)
from mdtnet.prediction import Prediction
from mdtnet.saliency import LUMA, SaliencyConfig, frames_saliency

STAGES = {"gradcam": (4,), "offsets": (2, 3, 4)}
CAM_NOTE = "0 to the largest of the row; bright: speaks for the class named at the left"
OFFSETS_HEIGHT = 240  # pixels of a panel
SHARP = 3  # pictures of points are drawn this much larger, then scaled down
COLOURS = ((255, 150, 40), (70, 190, 255), (190, 120, 255), (120, 220, 90))  # of kernels, the smallest first
SPOT, UNMOVED = (255, 235, 60), (255, 255, 255)


def explain(
    checkpoints: Sequence[str | Path],
    source: str | Path,
    out: str | Path,
    *,
    what: Literal["gradcam", "offsets"] = "gradcam",
    label: str = "",
    at: tuple[float, float] | None = None,
    stages: Sequence[int] = (),
    columns: int = 4,
    device: str = "auto",
) -> Path:
    """Write a sheet of one video: rows are checkpoints (and stages of their trunks), columns segments.

    `gradcam` shows what speaks for a class: `label`, or what each network predicts. `offsets` shows where the last
    DCME of a stage samples the next key frame, for the place `at` of a key frame, (x, y) in [0, 1] of the crop, or
    where it moves most. Frames are read, resized and cropped as for a prediction of one view.

    Raises:
        ConfigError: an option that does not fit, a class the network does not know, a network without offsets.
        CheckpointError, VideoError: a file that cannot be read.
    """
    _check(what, at, stages, columns)
    out = checked_output(source, out, SHEETS, ", ".join(SHEETS))
    seen = [_Seen.of(path, source, device) for path in checkpoints]
    if len(lengths := {len(one.clip[0]) for one in seen}) > 1:
        raise ConfigError(f"networks of {' and '.join(map(str, sorted(lengths)))} segments do not fit on one sheet")
    stages = tuple(stages) or STAGES[what]
    if what == "gradcam":
        picture = _gradcam_sheet(seen, Path(source).name, label, stages, columns)
    else:
        picture = _offsets_sheet(seen, Path(source).name, at, stages, columns)
    return save_sheet(picture, out)


def _check(what: str, at: tuple[float, float] | None, stages: Sequence[int], columns: int) -> None:
    if what not in STAGES:
        raise ConfigError(f"what is '{what}', expected one of {', '.join(STAGES)}{nearest(what, STAGES)}")
    if wrong := [stage for stage in stages if stage not in (2, 3, 4)]:
        raise ConfigError(f"stages has {wrong[0]}, expected some of 2, 3, 4")
    if columns < 0:
        raise ConfigError(f"columns is {columns}, expected 0 (all) or more")
    if at is not None and not all(0 <= value <= 1 for value in at):
        raise ConfigError(f"at is {at[0]:g},{at[1]:g}, expected two numbers from 0 to 1")


@dataclass(frozen=True, eq=False)
class _Seen:
    """A network and what it is given of the video."""

    path: str
    network: Recogniser
    clip: Tensor
    """uint8 [1, T, K, 3, S, S]."""
    prediction: Prediction
    """Of all classes."""

    @classmethod
    def of(cls, path: str | Path, source: str | Path, device: str) -> "_Seen":
        network = Recogniser.load(path, device=device)
        prediction = network.predict(source, topk=len(network.classes))
        return cls(os.fspath(path), network, network.read(source), prediction)

    @property
    def name(self) -> str:
        """The run's folder, the system and its trunk, in two lines."""
        file = Path(self.path).absolute()
        run = file.parent.parent.name if file.parent.name == "checkpoints" else file.stem
        return f"{run}\n{self.network.config.model.name} on {self.network.config.model.trunk}"

    def key_frames(self, segments: np.ndarray) -> np.ndarray:
        """uint8 RGB [n, S, S, 3]."""
        return self.clip[0, segments, key_frame(self.network.model)].movedim(1, -1).numpy()


def _spread(count: int, columns: int) -> np.ndarray:
    """Which of `count` are shown: `columns` of them, evenly spread; 0: all."""
    shown = min(columns or count, count)
    return (2 * np.arange(shown) + 1) * count // (2 * shown)


# ---- Grad-CAM -------------------------------------------------------------------------------------------


def grad_cam(model: Any, clip: Tensor, label: int, *, stage: int = 4) -> Tensor:
    """How much the output of a stage speaks for a class, and where: [T, h, w], 0 or more.

    `clip` is [1, T, K, 3, S, S]. Channels are summed, each weighed by the mean of the logit's gradient; what speaks
    against the class is 0. Source: Selvaraju et al., equations 1 and 2.
    """
    with torch.enable_grad(), _kept(model.trunk, stage) as kept:
        logit = model(clip)[0, label]
    (slope,) = torch.autograd.grad(logit, kept)  # [T, C, h, w]
    (features,) = kept
    return (slope.mean((2, 3), keepdim=True) * features).sum(1).clamp(min=0).detach()


@contextmanager
def _kept(trunk: Any, wanted: int) -> Iterator[list[Tensor]]:
    """Collects what a stage of the trunk gives, as leaves that gradients reach whatever is frozen."""
    kept: list[Tensor] = []
    plain = trunk.stage

    def stage(number: int, x: Tensor, timeline: Timeline) -> Tensor:
        y = plain(number, x, timeline)
        if number != wanted:
            return y
        kept.append(y.detach().requires_grad_())
        return kept[-1]

    trunk.stage = stage
    try:
        yield kept
    finally:
        del trunk.stage


def _gradcam_sheet(seen: list[_Seen], title: str, label: str, stages: Sequence[int], columns: int) -> Image.Image:
    segments = _spread(seen[0].clip.shape[1], columns)
    rows = [("key frame", panels(seen[0].key_frames(segments)))]
    for one in seen:
        index, words = _explained(one, label)
        frames = one.key_frames(segments)
        for stage in stages:
            cam = grad_cam(one.network.model, one.clip.to(one.network.device), index, stage=stage)[segments].cpu()
            cam = cam / cam.max().clamp(min=1e-12)
            smooth = F.interpolate(cam[:, None], frames.shape[1:3], mode="bilinear", align_corners=False)[:, 0]
            name = f"{one.name}\n{words}\nstage {stage}, {cam.shape[1]} x {cam.shape[2]} cells"
            rows.append((name, panels(heat(frames, smooth.numpy()))))
    headings = [f"segment {t + 1} of {seen[0].clip.shape[1]}" for t in segments]
    return sheet(f"{title}   Grad-CAM: what speaks for a class", headings, rows, colour_scale(CAM_NOTE))


def _explained(one: _Seen, label: str) -> tuple[int, str]:
    """The class that is explained, and what the network says of it."""
    classes = one.network.classes
    if label and label not in classes:
        raise ConfigError(f"label is '{label}', which {one.path} does not know{nearest(label, classes)}")
    name = label or one.prediction.classes[0]
    says = "predicts" if name == one.prediction.classes[0] else "gives"
    share = dict(zip(one.prediction.classes, one.prediction.probabilities))[name]
    return classes.index(name), f"{says} {name} {share:.0%}"


# ---- offsets --------------------------------------------------------------------------------------------


class Kernel(NamedTuple):
    """One of DCME's deformable kernels on a clip."""

    offset: Tensor
    """[M, 2 k^2, h, w], of M pairs of key frames."""
    dilation: int

    @property
    def span(self) -> int:
        """Cells from its first to its last tap while nothing is moved."""
        return self.dilation * (math.isqrt(self.offset.shape[1] // 2) - 1) + 1

    def points(self) -> Tensor:
        """Where its taps sample, [M, h, w, k^2, 2]."""
        return sampling_points(self.offset, self.dilation)

    def unmoved(self) -> Tensor:
        """Where they would without offsets, [1, h, w, k^2, 2]."""
        return sampling_points(torch.zeros_like(self.offset[:1]), self.dilation)


def learned_offsets(model: Any, clip: Tensor, *, stage: int) -> list[Kernel]:
    """The kernels of the last DCME in a stage on a clip [1, T, K, 3, S, S].

    Of a network that looks both ways offsets are those to the next key frame, of a causal one to the previous one.

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
    """Where the taps of a k x k kernel sample: offsets [M, 2 k^2, h, w] -> [M, h, w, k^2, 2], (y, x) in cells."""
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


def _offsets_sheet(
    seen: list[_Seen], title: str, at: tuple[float, float] | None, stages: Sequence[int], columns: int
) -> Image.Image:
    rows, spans = [], set()
    for one in seen:
        model: Any = one.network.model
        found = {stage: _offsets_of(one, stage) for stage in stages}
        pairs = _spread(one.clip.shape[1] - 1, columns)
        back = int(model.parts.causal)  # looks at the first of two segments from the second
        places = most_motion(one.clip, one.network.config.model.saliency)[pairs + back]
        if at is not None:
            places = torch.tensor([at] * len(pairs))
        name = f"{one.name}\n\nkey frame of the\n{'second' if back else 'first'} segment"
        rows.append((name, _marked(one.key_frames(pairs + back), places)))
        for stage, kernels in found.items():
            frames = one.key_frames(pairs + 1 - back)
            rows.append((_described(stage, kernels), _pointed(frames, places, kernels, pairs)))
            spans |= {kernel.span for kernel in kernels}
    headings = [f"segments {t + 1} and {t + 2} of {seen[0].clip.shape[1]}" for t in pairs]
    title = f"{title}   where DCME looks in the neighbouring key frame"
    return sheet(title, headings, rows, _points_legend(sorted(spans)))


def _offsets_of(one: _Seen, stage: int) -> list[Kernel]:
    try:
        return learned_offsets(one.network.model, one.clip.to(one.network.device), stage=stage)
    except ConfigError as error:
        raise ConfigError(f"{one.path}: {error}") from None


def _described(stage: int, kernels: Sequence[Kernel]) -> str:
    """Of the whole clip: how far points are moved, and how many lie outside the picture, with those of no offsets."""
    points, grids = [k.points() for k in kernels], [k.unmoved() for k in kernels]
    height, width = grids[0].shape[1:3]
    moves = torch.cat([(found - grid).norm(dim=-1).flatten() for found, grid in zip(points, grids)])
    return (
        f"stage {stage}, {height} x {width} cells\npoints moved by\n{moves.mean():.2f} cells, mean\n"
        f"{_outside(points):.0%} outside\n(unmoved: {_outside(grids):.0%})"
    )


def _outside(kernels: Iterable[Tensor]) -> float:
    """Share of what points [M, h, w, k^2, 2] sample, bilinearly, that lies outside the map, where all is zero."""
    inside = []
    for points in kernels:
        beyond = torch.maximum(-points, points - torch.tensor(points.shape[1:3]) + 1).clamp(0, 1)
        inside.append((1 - beyond).prod(-1).flatten())
    return 1 - float(torch.cat(inside).mean())


def _marked(frames: np.ndarray, places: Tensor) -> list[Image.Image]:
    """Key frames [n, S, S, 3] with a ring around the place."""
    pictures = panels(frames, OFFSETS_HEIGHT * SHARP)
    for picture, (x, y) in zip(pictures, (places * OFFSETS_HEIGHT * SHARP).tolist()):
        _ring(ImageDraw.Draw(picture), x, y)
    return _scaled_down(pictures)


def _pointed(frames: np.ndarray, places: Tensor, kernels: Sequence[Kernel], pairs: np.ndarray) -> list[Image.Image]:
    """Greyed frames [n, S, S, 3] with the sampling points of the cell that holds the place, for pairs [n]."""
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
