"""Results of a study: `results.csv`, a `RunRow` per finished run, and which of them still count.

A row counts as long as its run's config is the one that the study asks for now; otherwise it is stale and left out of
all tables. `configs.json` has the configs, so that a difference can be named.
"""

import csv
import dataclasses
import io
import json
import os
import typing
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mdtnet.builtin.render import RenderConfig
from mdtnet.config import RunConfig, Values
from mdtnet.config_file import LACKED
from mdtnet.errors import DataError, shorten
from mdtnet.study.grid import RunKey, Spec, Study
from mdtnet.system.files import atomic_write

RESULTS = "results.csv"
CONFIGS = "configs.json"
Configs = dict[str, Values]
"""Hash of a run's config -> the config, flat."""


@dataclass(frozen=True)
class RunRow:
    """A finished run, a line of `results.csv`. Accuracies are the last epoch's, 0 to 1."""

    study: str
    data: str
    system: str
    variant: str
    seed: int
    fold: int | None
    trunk: str
    top1: float
    top5: float | None
    mean_class: float
    pairs: float | None
    """Accuracy inside pairs of classes that are time reversals, chance 1/2; None where there are none."""
    pair_videos: int | None = field(default=None, kw_only=True)
    """Videos of these classes; None in rows of earlier versions."""
    without_fine: float | None = field(default=None, kw_only=True)
    """Top-1 of the same weights with the path of fine differences silenced; None where it was not tested. So are:"""
    without_coarse: float | None = field(default=None, kw_only=True)
    without_dcme: float | None = field(default=None, kw_only=True)
    without_stce: float | None = field(default=None, kw_only=True)
    without_motion: float | None = field(default=None, kw_only=True)
    without_reading: float | None = field(default=None, kw_only=True)
    e_coarse: float | None = field(default=None, kw_only=True)
    """Of the last epoch, as in `log.csv`. So are:"""
    e_dcme: float | None = field(default=None, kw_only=True)
    e_stce: float | None = field(default=None, kw_only=True)
    e_motion: float | None = field(default=None, kw_only=True)
    fine_share: float | None = field(default=None, kw_only=True)
    taps_inside: float | None = field(default=None, kw_only=True)
    videos: int
    unreadable: int
    clips: int
    """Clips per video in the test."""
    crops: int
    """Crops per clip."""
    views: int
    """Forward passes per video: clips x crops, twice that where each is also tested mirrored."""
    gmacs: float
    """Cost of one view, 10^9 multiply-adds."""
    parameters: int
    epochs: int
    seconds: float
    """Training time."""
    machine: str
    """Processor, cores and GPUs that it ran on."""
    commit: str
    date: str
    config: str
    """Hash of the config."""

    @property
    def key(self) -> RunKey:
        """The same as its `Spec`'s."""
        return self.system, self.variant, self.data, self.fold, self.seed


COLUMNS = tuple(f.name for f in dataclasses.fields(RunRow))
NEEDED = tuple(f.name for f in dataclasses.fields(RunRow) if f.default is dataclasses.MISSING)
_KINDS = typing.get_type_hints(RunRow)


def read_rows(path: Path) -> list[RunRow]:
    """The rows of a `results.csv`; none where there is no file. Incomplete lines, cut off by a crash, are left out.

    Raises:
        DataError: the file has other columns or values.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not text.strip():
        return []
    table = csv.DictReader(io.StringIO(text, newline=""))
    if missing := set(NEEDED) - set(table.fieldnames or ()):
        raise DataError(f"{path}: not the results of a study, no column '{min(missing)}'")
    whole = [cells for cells in table if all(cells[column] is not None for column in NEEDED) and cells["config"]]
    try:
        return [RunRow(**{c: _value(c, cells[c]) for c in COLUMNS if c in cells}) for cells in whole]
    except ValueError as error:
        raise DataError(f"{path}: not the results of a study: {shorten(str(error), 300)}") from error


def _value(column: str, text: str) -> Any:
    kind = _KINDS[column]
    options = typing.get_args(kind)
    if options:
        return None if text == "" else options[0](text)
    return kind(text)


def append_row(path: Path, row: RunRow) -> None:
    """Add a line in one write: studies that run at the same time, or a crash, leave whole lines.

    An older file keeps its columns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    if not path.exists():
        atomic_write(path, lambda file: file.write((",".join(COLUMNS) + "\n").encode()))
    with open(path, encoding="utf-8", newline="") as old:
        columns = next(csv.reader(old), COLUMNS)
    values = asdict(row)
    cells = (values.get(column) for column in columns)
    writer.writerow("" if v is None else f"{v:.6g}" if isinstance(v, float) else v for v in cells)
    with open(path, "rb+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
    with open(path, "ab", buffering=0) as end:
        end.write((("" if whole else "\n") + text.getvalue()).encode())
        os.fsync(end.fileno())


@dataclass(frozen=True)
class Standing:
    """Which runs are done, and which rows no longer count."""

    done: dict[RunKey, RunRow]
    """Key of a run -> its row."""
    missing: tuple[Spec, ...]
    stale: tuple[tuple[RunRow, str], ...]
    """Rows and the reason why they do not count."""


def standing(study: Study, rows: Iterable[RunRow], configs: Configs) -> Standing:
    """Sort the rows of a study. `configs` is hash -> config of the rows, as `read_configs` gives it."""
    specs = {spec.key: spec for spec in study.specs}
    hashes = {id(spec): spec.hash for spec in study.specs}
    done: dict[RunKey, RunRow] = {}
    stale = []
    for row in rows:
        spec = specs.get(row.key)
        reason = "not in the study" if spec is None else _difference(row, spec, hashes[id(spec)], configs)
        if reason:
            stale.append((row, reason))
        else:
            done[row.key] = row
    return Standing(done, tuple(s for s in study.specs if s.key not in done), tuple(stale))


def _difference(row: RunRow, spec: Spec, hash_now: str, configs: Configs) -> str:
    """Why a row is not of the run that is asked for now; "" if it is.

    An option that did not exist when the run was made is no difference where it has the value now that the run had
    without it: its default, or that of `LACKED`.
    """
    if row.config == hash_now:
        return ""
    then = configs.get(row.config)
    if then is None:
        return f"another config, which is not in {CONFIGS}"
    now, usual = spec.about, _defaults(spec)
    for values in LACKED.values():
        usual |= values
    if row.pairs is not None and not spec.data.render:
        usual["pairs"] = now.get("pairs")  # not in configs of earlier versions
    for key in [*now, *(k for k in then if k not in now)]:
        old, new = then.get(key, usual.get(key)), now.get(key)
        if old != new:
            return f"{key} was {old!r}, is {new!r}"
    return ""


def _defaults(spec: Spec) -> Values:
    render = RenderConfig() if spec.data.render else None
    return replace(spec, config=RunConfig(), data=replace(spec.data, render=render, pairs=None)).about


def read_configs(folder: Path) -> Configs:
    """Hash -> config of the runs in `results.csv`, from `configs.json`; empty without that file.

    Raises:
        DataError: it is damaged.
    """
    path = folder / CONFIGS
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def write_configs(study: Study) -> None:
    """Add the configs of the study's runs to `configs.json`, one per line."""
    known = read_configs(study.results)
    wanted = known | {spec.hash: spec.about for spec in study.specs}
    if wanted != known:
        study.results.mkdir(parents=True, exist_ok=True)
        lines = [f"{json.dumps(key)}: {json.dumps(about, sort_keys=True)}" for key, about in sorted(wanted.items())]
        text = "{\n" + ",\n".join(lines) + "\n}\n"
        atomic_write(study.results / CONFIGS, lambda file: file.write(text.encode()))
