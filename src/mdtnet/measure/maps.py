"""How well motion maps find who moves: against the true figure of rendered clips, in a minute, without training.

The renderer knows where the figure is: a clip drawn with and without it differs there and nowhere else. Of each clip of
T key frames, on cells of a few pixels: the area under the ROC curve over all its cells, the mean salience on the
figure and off it, and the flicker, the standard deviation over segments on cells that are background throughout.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdtnet.builtin.actions import ACTIONS
from mdtnet.builtin.drawing import render
from mdtnet.builtin.render import RenderConfig, clip_scene
from mdtnet.config import SaliencyConfig
from mdtnet.data.segments import spread_indices
from mdtnet.errors import ConfigError
from mdtnet.models.reading import mean_frame, median_frame
from mdtnet.models.saliency import contrast, luma, pool, pooled_saliency, smooth
from mdtnet.system.files import atomic_write

NORMAL_95 = 1.96  # half width of a 95 % interval, in standard errors of a mean over many clips
SEGMENTS, FRAMES, STRIDE, KEY, CELL = 8, 5, 2, 3, 4
CONDITIONS: dict[str, RenderConfig] = {
    "still": RenderConfig(size=72, background="cluttered", difficulty=0.5),
    "shaken": RenderConfig(size=72, background="cluttered", difficulty=0.5, shake=0.03),
    "moving": RenderConfig(size=72, background="moving", difficulty=0.5),
}
"""Still rooms, the same from the hand (3 % of the side), and rooms and streets that move by themselves."""

PER_SEGMENT, PER_CLIP = SaliencyConfig(normalise="segment"), SaliencyConfig(normalise="clip")


def by_config(config: SaliencyConfig, *, causal: bool = False) -> Callable[[Tensor], Tensor]:
    """The map of a configuration, of pooled luma [1, T, K, h, w] as [T, h, w]."""
    return lambda y: pooled_saliency(y, config, causal=causal)[0]


def by_reading(static: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Rest of the key frames, |Y - static part| with the statistics of the clip, as a map."""

    def salience(y: Tensor) -> Tensor:
        key = y[:, :, KEY]
        return contrast(smooth((key - static(key)).abs()), PER_CLIP)[0][0]

    return salience


MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "amplitude, segment": by_config(PER_SEGMENT),
    "phase, segment": by_config(replace(PER_SEGMENT, variant="phase")),
    "spectral residual, segment": by_config(replace(PER_SEGMENT, variant="spectral_residual")),
    "frame difference, segment": by_config(replace(PER_SEGMENT, variant="difference")),
    "amplitude, clip statistics": by_config(PER_CLIP),
    "amplitude, running statistics": by_config(PER_CLIP, causal=True),
    "phase, clip statistics": by_config(replace(PER_CLIP, variant="phase")),
    "amplitude, clip window": by_config(replace(PER_CLIP, window="clip")),
    "without scene, all frames": by_config(replace(PER_CLIP, variant="without_scene")),
    "without scene": by_reading(mean_frame),
    "without scene, causal": by_reading(partial(mean_frame, causal=True)),
    "without median": by_reading(median_frame),
}
"""Every map that is measured: those of `model.saliency`, then what the readings of `model.input` leave."""


@dataclass(frozen=True)
class MapRow:
    """One map in one condition: means over clips, with half widths of their 95 % intervals."""

    condition: str
    map: str
    clips: int
    auc: float
    auc_half: float
    figure: float
    """Mean salience on the figure."""
    background: float
    """And off it."""
    flicker: float

    @property
    def ratio(self) -> float:
        """Figure to background."""
        return self.figure / max(self.background, 1e-9)


def bench_maps(
    *, clips: int = 5, seed: int = 0, workers: int = 1, note: Callable[[str], None] | None = None
) -> list[MapRow]:
    """Every map in every condition, on `clips` clips of each action.

    Raises:
        ConfigError: fewer than 1 clip, or a seed that the renderer does not take.
    """
    if clips < 1:
        raise ConfigError(f"--clips is {clips}, expected at least 1")
    rows = []
    for condition, config in CONDITIONS.items():
        if note:
            note(condition)
        found: dict[str, list[tuple[float, ...]]] = {name: [] for name in MAPS}
        for y, figure in _clips(replace(config, seed=seed), clips, workers):
            for name, salience in MAPS.items():
                found[name].append(judge(salience(y).numpy(), figure))
        rows += [_row(condition, name, values) for name, values in found.items()]
    return rows


def _clips(config: RenderConfig, clips: int, workers: int) -> Iterator[tuple[Tensor, np.ndarray]]:
    jobs = [(action, index, config) for action, index in itertools.product(ACTIONS, range(clips))]
    if workers <= 1:
        yield from itertools.starmap(clip_with_truth, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
        yield from executor.map(clip_with_truth, *zip(*jobs), chunksize=2)


def clip_with_truth(action: str, index: int, config: RenderConfig) -> tuple[Tensor, np.ndarray]:
    """Pooled luma [1, T, K, h, w] of a clip, and the cells of its key frames that the figure fills, bool [T, h, w]."""
    scene = clip_scene(action, "train", index, config)
    frames, empty = render(scene), render(scene, figure=False)
    if ACTIONS[action].backwards:
        frames, empty = frames[::-1], empty[::-1]
    table = spread_indices(len(frames), num_segments=SEGMENTS, frames_per_segment=FRAMES, frame_stride=STRIDE)
    differs = (frames[table[:, KEY]] != empty[table[:, KEY]]).any(-1)
    share = pool(torch.from_numpy(differs).float()[None, :, None], CELL)[0, :, 0]
    pixels = torch.from_numpy(frames[table]).movedim(-1, -3)[None] / 255
    return pool(luma(pixels), CELL), (share >= 0.5).numpy()


def judge(salience: np.ndarray, figure: np.ndarray) -> tuple[float, float, float, float]:
    """AUC, mean on the figure, mean off it and flicker of a map [T, h, w]; NaN where a clip does not show it."""
    on, off = salience[figure], salience[~figure]
    never = ~figure.any(0)
    still = float(salience.std(0)[never].mean()) if never.any() else math.nan
    if not len(on) or not len(off):
        return math.nan, math.nan, float(off.mean()) if len(off) else math.nan, still
    return area_under_roc(on, off), float(on.mean()), float(off.mean()), still


def area_under_roc(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Probability that a positive is larger than a negative, ties counting half."""
    ordered = np.sort(negatives)
    smaller = np.searchsorted(ordered, positives, side="left") + np.searchsorted(ordered, positives, side="right")
    return float(smaller.mean() / 2 / len(ordered))


def _row(condition: str, name: str, values: list[tuple[float, ...]]) -> MapRow:
    table = np.array(values)  # [clips, 4]
    auc = table[np.isfinite(table[:, 0]), 0]
    half = NORMAL_95 * auc.std(ddof=1) / math.sqrt(len(auc)) if len(auc) > 1 else math.nan
    _, figure, background, flicker = np.nanmean(table, 0).tolist()
    return MapRow(condition, name, len(auc), float(auc.mean()), float(half), figure, background, flicker)


def save_maps(rows: list[MapRow], folder: str | Path) -> None:
    """Write `maps.json`."""
    text = json.dumps([{**asdict(row), "ratio": row.ratio} for row in rows], indent=1)
    atomic_write(Path(folder, "maps.json"), lambda file: file.write(text.encode()))
