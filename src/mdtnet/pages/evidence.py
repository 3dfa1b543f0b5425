"""What speaks for a class: where (Grad-CAM, beside the salience), when (the score of each segment), and which part of
the network, by switching them off one at a time.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.

Letters: T segments, K frames per segment, C channels, S pixels of the square crop, h, w cells of a feature map.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from mdtnet.errors import ConfigError, nearest
from mdtnet.models.gates import knocked_out, parts_of
from mdtnet.models.mdtnet import MDTNet
from mdtnet.models.network import Network
from mdtnet.models.trunk import Trunk
from mdtnet.pages.sheet import INK, PAPER, colour_scale, font, heat, panels, sheet
from mdtnet.pages.subject import Subject, spread
from mdtnet.system import terminal
from mdtnet.system.files import atomic_write

NOTE = "salience 0 to 1; Grad-CAM 0 to the largest of the row, bright: speaks for the class named at the left"
PART_NAMES = {
    "fine": "fine differences",
    "coarse": "coarse differences",
    "dcme": "DCME",
    "stce": "STCE",
    "motion": "motion excitation",
    "reading": "salience or reading",
    "salience": "salience",
}
FOR, AGAINST, SOFT = (40, 120, 200), (210, 90, 50), (115, 124, 136)
LINE = 22  # pixels from one bar to the next
NAMED, BAR = 190, 150  # pixels: of a part's name; of the longest bar to either side
DIGITS = 4  # of maps in JSON


# ---- where ----------------------------------------------------------------------------------------------


def grad_cam(model: Network, clip: Tensor, label: int, *, stage: int = 4) -> Tensor:
    """Evidence for a class in the output of stage 2, 3 or 4, by place: [T, h, w], 0 or more.

    `clip` is [1, T, K, 3, S, S]. Channels are summed, each weighed by the mean of the logit's gradient; evidence
    against the class counts as 0. Source: Selvaraju et al., equations 1 and 2.
    """
    with torch.enable_grad(), _stage_output(model.trunk, stage) as kept:
        logit = model(clip)[0, label]
    (slope,) = torch.autograd.grad(logit, kept)  # [T, C, h, w]
    (features,) = kept
    return (slope.mean((2, 3), keepdim=True) * features).sum(1).clamp(min=0).detach()


@contextmanager
def _stage_output(trunk: Trunk, stage: int) -> Iterator[list[Tensor]]:
    """Collect the output of stage 2, 3 or 4 as a leaf, so that gradients reach it whatever is frozen.

    A trunk may add a skip after a block. It does not after the last block of stage 4, nor around the first block of a
    stage, which halves the size: there the stages' outputs pass.
    """
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.detach().requires_grad_())
        return kept[-1]

    def at_input(block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (keep(inputs[0]), *inputs[1:])

    def at_output(block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return keep(output)

    if stage < 4:
        handle = trunk.stage_blocks(stage + 1)[0].register_forward_pre_hook(at_input)
    else:
        handle = trunk.stage_blocks(4)[-1].register_forward_hook(at_output)
    try:
        yield kept
    finally:
        handle.remove()


# ---- which part -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PartEffect:
    """What one part does to the score (logit) of a class, found by switching it off."""

    part: str
    """A name of `PART_NAMES`."""
    moved: float
    """The score with all parts less the score without this one: above 0 it speaks for the class."""
    probability: float
    """Of the class without this part, 0 to 1."""
    prediction: str
    """The most probable class without this part."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A class of one network on one video: its score, by segment, by place and by part."""

    subject: Subject
    label: str
    score: float
    """The logit: the mean of `segment_scores`."""
    probability: float
    """0 to 1."""
    segment_scores: np.ndarray
    """Logit of each segment alone, float32 [T]."""
    cams: dict[int, np.ndarray]
    """Stage -> Grad-CAM, float32 [T, h, w], 0 to 1, the largest of the clip."""
    parts: tuple[PartEffect, ...]
    """In the order of `PART_NAMES`; none of a network without parts that can be switched off."""

    @property
    def words(self) -> str:
        """`predicts wave 83%`."""
        says = "predicts" if self.label == self.subject.prediction.classes[0] else "gives"
        return f"{says} {self.label} {self.probability:.0%}"


def evidence(subject: Subject, label: str, stages: Sequence[int]) -> Evidence:
    """What speaks for `label`, or if that is empty for what the network predicts.

    Raises:
        ConfigError: the network does not know the class.
    """
    classes = subject.network.classes
    if label and label not in classes:
        raise ConfigError(f"label is '{label}', which {subject.path} does not know{nearest(label, classes)}")
    label = label or subject.prediction.classes[0]
    index, model = classes.index(label), subject.network.model
    scores, by_segment = _scores(model, subject.device_clip)
    return Evidence(
        subject,
        label,
        score=float(scores[index]),
        probability=float(_activation(subject)(scores)[index]),
        segment_scores=by_segment[:, index].numpy(),
        cams={stage: _cam(subject, index, stage) for stage in stages},
        parts=tuple(part_effects(subject, index)),
    )


def part_effects(subject: Subject, index: int) -> Iterator[PartEffect]:
    """What each part of a network does to the score of the class `index`; nothing is learned anew."""
    model, clip, activation = subject.network.model, subject.device_clip, _activation(subject)
    whole, _ = _scores(model, clip)
    for part in parts_of(model):
        with knocked_out(model, part):
            scores, _ = _scores(model, clip)
        yield PartEffect(
            part,
            moved=float(whole[index] - scores[index]),
            probability=float(activation(scores)[index]),
            prediction=subject.network.classes[int(scores.argmax())],
        )


@torch.inference_mode()
def _scores(model: Network, clip: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of a clip [1, T, K, 3, S, S] on the CPU: [classes], and of each segment alone [T, classes]."""
    kept: list[Tensor] = []
    handle = model.head.fc.register_forward_hook(lambda module, inputs, output: kept.append(output))
    try:
        scores = model(clip)[0]
    finally:
        handle.remove()
    return scores.double().cpu(), kept[0].float().cpu()


def _activation(subject: Subject) -> Any:
    return torch.sigmoid if subject.network.config.data.multi_label else partial(torch.softmax, dim=-1)


def _cam(subject: Subject, index: int, stage: int) -> np.ndarray:
    cam = grad_cam(subject.network.model, subject.device_clip, index, stage=stage).float().cpu()
    return (cam / cam.max().clamp(min=1e-12)).numpy()


# ---- the picture ----------------------------------------------------------------------------------------


def evidence_sheet(found: Sequence[Evidence], title: str, columns: int) -> Image.Image:
    """Key frames, salience, and per network Grad-CAM of each stage; below them what its parts do to the score."""
    first = found[0].subject
    segments = spread(first.clip.shape[1], columns)
    frames = first.key_frames(segments)
    seeing = next((one.subject for one in found if _sees_salience(one.subject)), first)
    note = "as the network sees it" if len(found) == 1 else f"as {seeing.name.splitlines()[0]} sees it"
    rows = [("key frame", panels(frames))]
    if not _sees_salience(seeing):
        note = (
            "for comparison: the\nnetwork does not see it"
            if len(found) == 1
            else "for comparison: no\nnetwork here sees it"
        )
    rows.append((f"salience\n{note}", panels(heat(seeing.key_frames(segments), seeing.salience[segments]))))
    for one in found:
        own = one.subject.key_frames(segments)
        for stage, cam in one.cams.items():
            smooth = F.interpolate(
                torch.from_numpy(cam[segments])[:, None], own.shape[1:3], mode="bilinear", align_corners=False
            )[:, 0]
            name = f"{one.subject.name}\n{one.words}\nGrad-CAM of stage {stage},\n{cam.shape[1]} x {cam.shape[2]} cells"
            rows.append((name, panels(heat(own, smooth.numpy()))))
    total = first.clip.shape[1]
    headings = [f"{t + 1} of {total}, frame {first.frame_numbers[t]}" for t in segments]
    foot = _stacked([colour_scale(NOTE), *(_bars(one) for one in found)])
    return sheet(f"{title}   what speaks for a class", headings, rows, foot)


def _sees_salience(subject: Subject) -> bool:
    model = subject.network.model
    return isinstance(model, MDTNet) and model.saliency is not None


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    gap = 14
    size = max(p.width for p in pictures), sum(p.height for p in pictures) + gap * (len(pictures) - 1)
    whole, y = Image.new("RGB", size, PAPER), 0
    for picture in pictures:
        whole.paste(picture, (0, y))
        y += picture.height + gap
    return whole


def _bars(one: Evidence) -> Image.Image:
    """How far each part moves the score of the class, as bars to the right (for it) and to the left (against it)."""
    run = one.subject.name.replace("\n", ", ")
    head = f"{run}: {one.words}, score {one.score:.2f}; the parts that moved it, each switched off alone"
    if not one.parts:
        head = f"{run}: {one.words}, score {one.score:.2f}; it has no parts that can be switched off"
    head, texts = terminal.plain(head), [_effect_words(effect, one) for effect in one.parts]
    widest = max([0.0, *(font(12).getlength(text) for text in texts)])
    width = math.ceil(max(font(13).getlength(head), NAMED + 2 * BAR + 16 + widest))
    picture = Image.new("RGB", (width, LINE * (1 + len(texts))), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((0, LINE // 2), head, fill=INK, font=font(13), anchor="lm")
    largest = max((abs(effect.moved) for effect in one.parts), default=0.0) or 1.0
    zero = NAMED + BAR
    for line, (effect, text) in enumerate(zip(one.parts, texts), start=1):
        y = LINE * line + LINE // 2
        end = zero + round(BAR * effect.moved / largest)
        pen.text((NAMED - 10, y), PART_NAMES[effect.part], fill=INK, font=font(12), anchor="rm")
        pen.rectangle((min(zero, end), y - 6, max(zero, end), y + 6), fill=FOR if effect.moved > 0 else AGAINST)
        pen.line((zero, y - LINE // 2, zero, y + LINE // 2), fill=SOFT)
        pen.text((zero + BAR + 16, y), text, fill=INK, font=font(12), anchor="lm")
    return picture


def _effect_words(effect: PartEffect, one: Evidence) -> str:
    text = f"{effect.moved:+.2f}   without it {effect.probability:.0%}"
    top = one.subject.prediction.classes[0]
    return text if effect.prediction == top else f"{text}, predicts {terminal.plain(effect.prediction)}"


# ---- JSON -----------------------------------------------------------------------------------------------


def write_evidence(found: Sequence[Evidence], source: str | Path, out: str | Path) -> Path:
    """Write what the picture shows as JSON: every segment, every part, whole maps of Grad-CAM."""
    text = json.dumps({"video": str(source), "networks": [plain(one) for one in found]}, indent=1, ensure_ascii=False)
    atomic_write(out, lambda file: file.write(text.encode("utf-8", "replace")))
    return Path(out)


def plain(one: Evidence) -> dict[str, Any]:
    """Evidence as plain values, fit for JSON; `salience` of a segment is in [0, 1] on the cells of its last stage."""
    subject = one.subject
    best = zip(subject.prediction.classes[:5], subject.prediction.probabilities)
    cells = next(iter(one.cams.values())).shape[1:]
    salience = F.adaptive_avg_pool2d(torch.from_numpy(subject.salience)[:, None], cells)[:, 0].numpy()
    return {
        "checkpoint": subject.path,
        "system": subject.network.config.model.name,
        "trunk": subject.network.config.model.trunk,
        "predictions": [{"class": name, "probability": p} for name, p in best],
        "class": one.label,
        "score": one.score,
        "probability": one.probability,
        "sees_salience": _sees_salience(subject),
        "segments": [
            {
                "frame": int(subject.frame_numbers[t]),
                "score": float(one.segment_scores[t]),
                "salience": _rounded(salience[t]),
                "gradcam": {f"stage{stage}": _rounded(cam[t]) for stage, cam in one.cams.items()},
            }
            for t in range(len(one.segment_scores))
        ],
        "parts": [
            {
                "part": effect.part,
                "moved_score": effect.moved,
                "probability_without": effect.probability,
                "prediction_without": effect.prediction,
            }
            for effect in one.parts
        ],
    }


def _rounded(cells: np.ndarray) -> list[list[float]]:
    return [[round(float(value), DIGITS) for value in row] for row in cells]
