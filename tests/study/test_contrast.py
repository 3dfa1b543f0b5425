"""Differences of systems over seeds and clips: coverage of intervals, p-values, Holm, McNemar, ensembles."""

import math
from itertools import product

import numpy as np
import pytest

from mdtnet.study.contrast import contrast, ensemble, holm, mcnemar, t_quantile, t_tail

# Standard deviations of a clip's difficulty (by group and alone), of how it suits a system, and of a seed
GROUP, CLIP, OWN_GROUP, OWN_CLIP, SEED = 0.5, 0.7, 0.15, 0.3, 0.15
MEANS = (0.5, 0.3)


def simulated(
    rng: np.random.Generator, seeds: int, groups: int, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether runs of two systems have clips right, [S, N] each, and the clips' groups, [N]."""
    group = np.repeat(np.arange(groups), size)
    clip = GROUP * rng.normal(size=groups)[group] + CLIP * rng.normal(size=len(group))
    right = []
    for mean in MEANS:
        own = OWN_GROUP * rng.normal(size=groups)[group] + OWN_CLIP * rng.normal(size=len(group))
        seed = SEED * rng.normal(size=(seeds, 1))
        right.append(mean + clip + own + seed + rng.normal(size=(seeds, len(group))) > 0)
    return right[0], right[1], group


def true_difference() -> float:
    scale = math.sqrt(1 + sum(s * s for s in (GROUP, CLIP, OWN_GROUP, OWN_CLIP, SEED)))
    chances = [0.5 * (1 + math.erf(mean / scale / math.sqrt(2))) for mean in MEANS]
    return chances[0] - chances[1]


@pytest.mark.parametrize(("seeds", "groups", "method"), [(24, 50, "bootstrap"), (5, 50, "t"), (24, 8, "t")])
def test_intervals_cover_the_truth_as_often_as_they_say(seeds, groups, method):
    rng, truth = np.random.default_rng(0), true_difference()
    found = [contrast(*simulated(rng, seeds, groups, size=5), draws=600) for _ in range(1000)]
    assert {one.method for one in found} == {method}
    assert 0.93 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.97
    assert np.mean([one.mean for one in found]) == pytest.approx(truth, abs=0.005)
    sure = [one.p < 0.05 for one in found]
    assert np.mean([(one.low > 0 or one.high < 0) == s for one, s in zip(found, sure)]) > 0.99


def test_an_interval_over_seeds_alone_is_too_narrow():
    """Why clips are drawn too: on few clips the same seeds would find another difference."""
    rng, truth = np.random.default_rng(1), true_difference()
    covered = []
    for _ in range(300):
        first, second, _ = simulated(rng, 24, 50, 2)
        means = first.mean(1), second.mean(1)
        half = t_quantile(46) * math.sqrt(sum(m.var(ddof=1) for m in means) / 24)
        covered.append(abs(means[0].mean() - means[1].mean() - truth) <= half)
    assert np.mean(covered) < 0.9


def test_pairing_makes_intervals_narrower_where_seeds_go_together():
    rng = np.random.default_rng(0)
    seed = rng.normal(size=(12, 1))
    first, second = (mean + 2 * seed + rng.normal(size=(12, 400)) > 0 for mean in (0.3, 0.0))
    groups = np.arange(400)
    paired, plain = (contrast(first, second, groups, paired=pairs) for pairs in (True, False))
    assert paired.mean == pytest.approx(plain.mean)
    assert paired.high - paired.low < 0.5 * (plain.high - plain.low)


def test_the_mean_is_that_of_all_clips_and_exchange_turns_it_around():
    rng = np.random.default_rng(0)
    first, second, groups = simulated(rng, 5, 9, 3)
    one, other = contrast(first, second, groups), contrast(second, first, groups)
    assert one.mean == pytest.approx(first.mean() - second.mean())
    assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert other.p == pytest.approx(one.p)


def test_a_bootstrap_repeats():
    first, second, groups = simulated(np.random.default_rng(0), 12, 20, 3)
    assert contrast(first, second, groups) == contrast(first, second, groups)


@pytest.mark.parametrize(("seeds", "groups"), [(1, 20), (5, 1)])
def test_one_unit_has_no_interval(seeds, groups):
    assert contrast(*simulated(np.random.default_rng(0), seeds, groups, 3)) is None


def test_equal_runs_do_not_differ():
    same = np.tile(np.arange(20) % 2 == 0, (12, 1))
    found = contrast(same, same, np.arange(20))
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_mcnemar_counts_clips_on_which_only_one_is_right():
    first, second = np.array([True] * 9 + [False] * 1 + [True] * 50), np.array([False] * 9 + [True] * 1 + [True] * 50)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(first, first) == 1
    assert mcnemar(~first, first) == pytest.approx(2 * sum(math.comb(60, 1) if k else 1 for k in (0, 1)) / 2**60)


def test_an_ensemble_votes():
    predicted = np.array([[0, 2, -1, -1], [1, 2, 1, -1], [1, 0, -1, -1], [0, 2, -1, -1]])
    assert ensemble(predicted).tolist() == [0, 2, 1, -1]


@pytest.mark.parametrize(("df", "value"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (23, 2.06866), (1000, 1.96234)])
def test_quantiles_of_t(df, value):
    assert t_quantile(df) == pytest.approx(value, abs=1e-4)
    assert t_tail(value, df) == pytest.approx(0.05, abs=1e-5)


def test_the_tail_of_t_is_its_integral():
    for t, df in product((0.0, 0.3, 1.5, 4.0), (1.0, 2.5, 7.3, 60.0)):
        x = np.linspace(0, t, 20001)
        front = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
        inside = 2 * np.trapezoid(front * (1 + x * x / df) ** (-(df + 1) / 2), x)
        assert t_tail(t, df) == pytest.approx(1 - inside, abs=1e-7)
