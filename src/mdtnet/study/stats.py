"""Rows of a study -> the figures of its tables: means over seeds with 95 % intervals, and paired differences.

A seed's top-1 is that of all its folds together, weighted by the number of videos; its mean class accuracy is the mean
over folds. A seed that lacks a fold does not count. Intervals are Student's t over seeds; one seed has none.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from mdtnet.config import System
from mdtnet.study.contrast import t_quantile
from mdtnet.study.grid import RunKey, Spec, Study
from mdtnet.study.results import RunRow


@dataclass(frozen=True)
class Interval:
    """A mean over `n` values and its 95 % interval, `mean` +- `half`; `half` is None for a single value."""

    n: int
    mean: float
    half: float | None

    @property
    def sure(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.half is not None and abs(self.mean) > self.half


def interval(values: Sequence[float]) -> Interval:
    """Mean and interval of one value or more."""
    n = len(values)
    if n == 1:
        return Interval(1, values[0], None)
    return Interval(n, fmean(values), t_quantile(n - 1) * stdev(values) / math.sqrt(n))


@dataclass(frozen=True)
class Cell:
    """The runs of one system, in one variant, on one data set."""

    data: str
    system: System
    variant: str
    spec: Spec
    """One of its runs."""
    rows: tuple[RunRow, ...]
    """The finished ones."""
    top1: dict[int, float]
    """Seed -> accuracy over all folds, 0 to 1, in the order of the study's seeds."""
    mean_class: dict[int, float]
    """Seed -> mean over folds, weighted as `top1`."""
    pairs: dict[int, float]
    """Seed -> accuracy over all folds that have videos of pairs; empty where none has."""
    incomplete: tuple[int, ...]
    """Seeds that lack a fold."""

    @property
    def gmacs(self) -> float:
        """Cost of all views of a video, 10^9 multiply-adds."""
        return self.rows[0].gmacs * self.rows[0].views


def cells(study: Study, done: dict[RunKey, RunRow]) -> list[Cell]:
    """The cells of the study's grid that have a finished run, in the file's order."""
    grid: dict[tuple[str, System, str], list[Spec]] = defaultdict(list)
    for spec in study.specs:
        grid[spec.data.name, spec.system, spec.variant].append(spec)
    return [cell for key, specs in grid.items() if (cell := _cell(key, specs, done)).rows]


def _cell(key: tuple[str, System, str], specs: list[Spec], done: dict[RunKey, RunRow]) -> Cell:
    seeds: dict[int, list[RunRow | None]] = defaultdict(list)
    for spec in specs:
        seeds[spec.seed].append(done.get(spec.key))
    whole = {seed: [row for row in rows if row] for seed, rows in seeds.items() if all(rows)}
    found = tuple(row for rows in seeds.values() for row in rows if row)
    exclude = specs[0].config.test.on_unreadable == "exclude"

    def counted(row: RunRow) -> int:
        return row.videos - row.unreadable if exclude else row.videos

    return Cell(
        *key,
        spec=specs[0],
        rows=found,
        top1={seed: pooled(rows, lambda row: row.top1, counted) for seed, rows in whole.items()},
        mean_class={seed: pooled(rows, lambda row: row.mean_class, counted) for seed, rows in whole.items()},
        pairs=_pairs(whole, counted),
        incomplete=tuple(seed for seed, rows in seeds.items() if any(rows) and not all(rows)),
    )


def _pairs(whole: dict[int, list[RunRow]], counted: Callable[[RunRow], int]) -> dict[int, float]:
    found = {seed: [row for row in rows if row.pairs is not None] for seed, rows in whole.items()}
    known = all(row.pair_videos for rows in found.values() for row in rows)  # not in rows of earlier versions

    def weight(row: RunRow) -> int:
        return row.pair_videos if known and row.pair_videos else counted(row)

    return {seed: pooled(rows, lambda row: row.pairs or 0.0, weight) for seed, rows in found.items() if rows}


def pooled(rows: Sequence[RunRow], figure: Callable[[RunRow], float], weight: Callable[[RunRow], int]) -> float:
    """Weighted mean of a figure over folds."""
    return sum(figure(row) * weight(row) for row in rows) / sum(map(weight, rows))


def difference(cell: Cell, base: Cell) -> Interval | None:
    """Top-1 of a cell minus that of another, seed by seed; None if they share no seed."""
    shared = [seed for seed in cell.top1 if seed in base.top1]
    return interval([cell.top1[seed] - base.top1[seed] for seed in shared]) if shared else None
