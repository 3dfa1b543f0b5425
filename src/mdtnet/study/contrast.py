"""Difference of two systems from the clips that every run got right: interval, p-value, Holm's correction, McNemar.

Both the seeds of a system and the clips of a test are samples, and they are crossed: every seed meets every clip. The
variance of a difference of means is that over seeds, plus that over clips (by group: a person, a sequence), less the
noise of single clips, which both of them hold. Letters: S seeds, N clips, G groups of clips.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MANY = 10
"""Units (seeds, groups) from which on the interval comes from a bootstrap; with fewer it is Student's t."""
DRAWS = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Contrast:
    """Accuracy of one system minus that of another, -1 to 1, with its 95 % interval and two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float
    method: Literal["bootstrap", "t"]


@dataclass(frozen=True)
class _Variance:
    """Variance of the difference of two means, and its degrees of freedom (Satterthwaite)."""

    value: float
    df: float


def contrast(
    first: NDArray[np.bool_],
    second: NDArray[np.bool_],
    groups: NDArray[np.int64],
    *,
    paired: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Contrast | None:
    """Difference of two systems on the same clips.

    From 10 seeds per system and 10 groups on it is a two-way bootstrap: seeds within each system, clips by group, one
    fewer than there are (Rao and Wu 1988). Such draws count the noise of single clips three times (Owen 2007), so they
    are scaled to the unbiased variance. With fewer units it is Student's t with that variance.

    Args:
        first, second: [S, N], whether a seed's run has a clip right; S may differ.
        groups: [N], 0 to G - 1.
        paired: seeds of both are drawn together, row by row, as where runs start from the same weights.

    Returns:
        None where one seed, or one group, leaves nothing to compute an interval from.
    """
    sizes = np.bincount(groups).astype(np.float64)  # [G]
    one, other = _group_sums(first, groups), _group_sums(second, groups)  # [S, G]
    if min(len(one), len(other), len(sizes)) < 2:
        return None
    samples = [one - other] if paired else [one, -other]
    mean = sum(float(sample.sum(1).mean()) for sample in samples) / len(groups)
    variance = _variance(samples, sizes)
    if variance.value == 0:
        return Contrast(mean, mean, mean, 1.0 if mean == 0 else 0.0, "t")
    if min(len(one), len(other), len(sizes)) < MANY:
        scale = math.sqrt(variance.value)
        half = t_quantile(variance.df) * scale
        return Contrast(mean, mean - half, mean + half, t_tail(mean / scale, variance.df), "t")
    found = _draws(samples, sizes, draws, np.random.default_rng(seed))
    found = mean + (found - found.mean()) * math.sqrt(variance.value / found.var())
    low, high = np.quantile(found, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)).tolist()
    beyond = 1 + min(int((found <= 0).sum()), int((found >= 0).sum()))
    return Contrast(mean, low, high, min(1.0, 2 * beyond / (draws + 1)), "bootstrap")


def _group_sums(right: NDArray[np.bool_], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.stack([np.bincount(groups, row) for row in right.astype(np.float64)])


def _variance(samples: Sequence[NDArray[np.float64]], sizes: NDArray[np.float64]) -> _Variance:
    """Of the sum of the samples' means over clips; a sample is [S, G], sums over the clips of a group."""
    clips, groups = sizes.sum(), len(sizes)
    seeds, noise, weighed = 0.0, 0.0, 0.0
    for sample in samples:
        count, means = len(sample), sample.sum(1) / clips  # [S]
        own = float(means.var(ddof=1)) / count
        rest = sample - sample.mean(0) - np.outer(means - means.mean(), sizes)
        seeds += own
        weighed += own**2 / (count - 1)
        noise += float((rest**2).sum()) / (count - 1) * groups / (groups - 1) / (count * clips**2)
    difference = sum(sample.mean(0) for sample in samples)  # [G]
    rest = difference - difference.sum() / clips * sizes
    over_clips = float((rest**2).sum()) * groups / (groups - 1) / clips**2
    value = max(seeds + over_clips - noise, seeds, over_clips)
    weighed += over_clips**2 / (groups - 1)
    return _Variance(value, value**2 / weighed if weighed else 1.0)


def _draws(
    samples: Sequence[NDArray[np.float64]], sizes: NDArray[np.float64], draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Differences of `draws` two-way resamples, [draws]."""
    by_group = rng.multinomial(len(sizes) - 1, np.full(len(sizes), 1 / len(sizes)), size=draws).astype(np.float64)
    found = np.zeros(draws)
    for sample in samples:
        count = len(sample)
        by_seed = rng.multinomial(count - 1, np.full(count, 1 / count), size=draws) / (count - 1)
        found += ((by_seed @ sample) * by_group).sum(1)
    return found / (by_group @ sizes)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979), in their order; at most 1."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[i])
        corrected[i] = min(1.0, largest)
    return corrected


def ensemble(predicted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class that most of the seeds predict, [S, N] -> [N]; of equally many the smallest. -1 is no prediction."""
    classes = np.arange(max(int(predicted.max(initial=0)), 0) + 1)
    votes = (predicted[:, :, None] == classes).sum(0)  # [N, C]
    return np.where(votes.any(1), votes.argmax(1), -1)


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Two-sided exact p-value for two classifiers on the same clips, [N] each (McNemar 1947)."""
    gained, lost = int((first & ~second).sum()), int((second & ~first).sum())
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**total)  # whole numbers: exact for any number of clips


# ---- Student's t --------------------------------------------------------------------------------------


def t_tail(t: float, df: float) -> float:
    """Probability that Student's t with `df` degrees of freedom (any number above 0) is at least as far from 0."""
    return _incomplete_beta(df / 2, 0.5, df / (df + t * t))


def t_quantile(df: float, level: float = LEVEL) -> float:
    """The value that Student's t stays within with probability `level`, to 1e-9 of itself."""
    front = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    t, step = 0.0, 1.0
    while step > 1e-9 * t:  # Newton's method; the tail is convex, so that it comes from below
        step = (t_tail(t, df) - (1 - level)) / (2 * front * (1 + t * t / df) ** (-(df + 1) / 2))
        t += step
    return t


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # where the fraction converges quickly
        return 1 - _incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    fraction = 1.0
    for m in range(200, 0, -1):  # from the far end; 200 pairs of terms are more than any df needs
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + even / (1 + odd / fraction)
    return front / (1 - (a + b) * x / (a + 1) / fraction)
