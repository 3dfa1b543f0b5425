"""`predictions.csv` of a study: the class that each run predicts for each clip, one row per clip, one column per run.

A column is named SYSTEM/VARIANT/SEED/HASH. The hash is that of the run's config: a stale run and its successor have two
columns. Folds of a run share a column; each fills the rows of the clips that it is tested on.
"""

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mdtnet.errors import DataError, shorten
from mdtnet.study.grid import Spec
from mdtnet.system.files import atomic_write

if sys.platform != "win32":
    import fcntl

PREDICTIONS = "predictions.csv"
ABOUT = ("data", "clip", "group", "class", "label")
UNREADABLE = -1
ClipKey = tuple[str, str]
"""Data set and clip."""


@dataclass
class Predictions:
    """The content of a `predictions.csv`."""

    clips: dict[ClipKey, tuple[str, str, int]] = field(default_factory=dict)
    """Clip -> its group, the name of its class, and the class's index."""
    columns: dict[str, dict[ClipKey, int]] = field(default_factory=dict)
    """Column of a run -> the class that it predicts for each of its clips; -1 where the clip could not be read."""

    def common(self, data: str, columns: Sequence[Sequence[str]], *, exclude: bool = False) -> "Clips | None":
        """Runs of several systems, one list of columns each, on the clips of a data set that all of them have.

        With `exclude`, clips that a run could not read are left out; otherwise they count as wrong.

        Returns:
            None where a column is missing, or no clip is common to all.
        """
        names = [name for part in columns for name in part]
        if not names or any(name not in self.columns for name in names):
            return None
        clips = [key for key in self.clips if key[0] == data and all(key in self.columns[name] for name in names)]
        if exclude:
            clips = [key for key in clips if all(self.columns[name][key] != UNREADABLE for name in names)]
        if not clips:
            return None
        labels = np.array([self.clips[key][2] for key in clips])
        predicted = [np.array([[self.columns[name][key] for key in clips] for name in part]) for part in columns]
        groups = np.unique([self.clips[key][0] for key in clips], return_inverse=True)[1]
        return Clips(predicted, labels, groups)


@dataclass(frozen=True, eq=False)
class Clips:
    """Predictions of several systems on N common clips."""

    predicted: list[NDArray[np.int64]]
    """Per system, [S, N]."""
    labels: NDArray[np.int64]
    """[N]."""
    groups: NDArray[np.int64]
    """Number of each clip's group, [N]."""


def column_name(system: str, variant: str, seed: int, config: str) -> str:
    """Name of a run's column; `config` is the hash of its config."""
    return f"{system}/{variant}/{seed}/{config}"


def read_predictions(folder: Path) -> Predictions:
    """The predictions of a study's runs; none without the file.

    Raises:
        DataError: the file is damaged.
    """
    path, found = folder / PREDICTIONS, Predictions()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return found
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    table = csv.reader(io.StringIO(text, newline=""))
    head = next(table, [])
    if tuple(head[: len(ABOUT)]) != ABOUT:
        raise DataError(f"{path}: not the predictions of a study, expected the columns {', '.join(ABOUT)}")
    found.columns = {name: {} for name in head[len(ABOUT) :]}
    try:
        for data, clip, group, name, label, *cells in table:
            found.clips[data, clip] = (group, name, int(label))
            for column, cell in zip(found.columns.values(), cells, strict=True):
                if cell:
                    column[data, clip] = int(cell)
    except ValueError as error:
        raise DataError(f"{path}: line {table.line_num} is damaged: {shorten(str(error), 300)}") from error
    return found


def add_predictions(
    folder: Path,
    spec: Spec,
    predicted: Mapping[str, int],
    *,
    labels: Mapping[str, int],
    groups: Mapping[str, str],
    classes: Sequence[str],
) -> None:
    """Add a run's predictions, clip -> class, in the place of those that its column has for these clips.

    Raises:
        DataError: the file is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        found = read_predictions(folder)
        column = found.columns.setdefault(column_name(spec.system, spec.variant, spec.seed, spec.hash), {})
        for clip, value in predicted.items():
            key = (spec.data.name, clip)
            found.clips[key] = (groups[clip], classes[labels[clip]], labels[clip])
            column[key] = value
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*ABOUT, *found.columns])
        for key, about in found.clips.items():
            writer.writerow([*key, *about, *(column.get(key, "") for column in found.columns.values())])
        atomic_write(folder / PREDICTIONS, lambda file: file.write(text.getvalue().encode()))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder, so that studies that run at the same time keep each other's columns (not on Windows)."""
    if sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
