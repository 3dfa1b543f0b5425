"""The folder of a run: its name, its files, and whether a run may use it."""

import csv
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from mdtnet.config import GATE_FIGURES, RunConfig
from mdtnet.config_file import flat, to_dict
from mdtnet.errors import CheckpointError, ConfigError, DataError, MdtnetError
from mdtnet.system.files import make_folder, remove_leftovers
from mdtnet.system.locks import locked

log = logging.getLogger(__name__)

LAST = Path("checkpoints", "last.pt")
BEST = Path("checkpoints", "best.pt")
COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_top1",
    "val_loss",
    "val_top1",
    "val_top5",
    "val_mean_class",
    "seconds",
    "clips_per_s",
    "waiting",
    *GATE_FIGURES,
)
COLUMNS_MULTI_LABEL = (
    *("epoch", "lr", "train_loss", "val_loss", "val_map", "seconds", "clips_per_s", "waiting"),
    *GATE_FIGURES,
)
FREE = (
    "out",
    "data.workers",
    "data.decode_threads",
    "data.cache",
    "train.device",
    "train.trackers",
    "train.epochs",
    "train.save_every",
)
"""Options that a resumed run may change."""
PLACES = ("data.train", "data.val", "data.root", "data.classes")
"""Options that it may change as long as the videos have the same names, parts and labels: data that have moved."""
LOCK = ".lock"

RUN_FILES = ("config.yaml", "log.csv", "scores.npz", "metrics.json")
"""Files of a run that a report reads."""


def check_is_run(folder: str | Path) -> None:
    """Check that a folder holds something of a run.

    Raises:
        DataError: it does not, or is no folder.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder}: no such run directory")
    if not any(Path(folder, name).exists() for name in RUN_FILES):
        raise DataError(f"{folder}: not a run directory (no {', '.join(RUN_FILES[:-1])} or {RUN_FILES[-1]})")


@contextmanager
def claimed(config: RunConfig, *, main: bool) -> Iterator[str]:
    """The folder of a run, which no other run has as long as the context lasts; the same in all processes.

    It is `config.out`, or a new one in `runs/` that the main process names. An empty one is removed at the end.

    Raises:
        ConfigError: another run has it, or it cannot be written into.
    """
    from accelerate.utils import broadcast_object_list

    with ExitStack() as stack:
        said = [config.out, ""]
        if main:
            try:
                said[0] = stack.enter_context(_claimed(config))
            except MdtnetError as error:
                said[1] = str(error)
        out, problem = broadcast_object_list(said)
        if problem:
            raise ConfigError(problem)
        yield out


@contextmanager
def _claimed(config: RunConfig) -> Iterator[str]:
    out = Path(config.out or "runs")
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        if not config.out:
            out = _new_folder(config)
            made.insert(0, out)
        make_folder(out)
        with locked(out / LOCK, what=f"{out}: another process is training there"):
            for folder in (out, (out / LAST).parent):
                remove_leftovers(folder)
            yield str(out)
    finally:
        with suppress(OSError):  # not empty
            for folder in made:
                folder.rmdir()


def _new_folder(config: RunConfig) -> Path:
    """Make a folder in `runs/` with a name that no other process has made."""
    name = f"{time.strftime('%Y-%m-%d_%H%M%S')}_{config.model.name}_{config.model.trunk}"
    make_folder("runs")
    for number in count(2):
        out = Path("runs", name)
        try:
            out.mkdir()
            return out
        except FileExistsError:
            name = f"{name.removesuffix(f'-{number - 1}')}-{number}"
    raise AssertionError


def check_folder(config: RunConfig, *, resume: bool) -> None:
    """Check that a new run meets an unused folder, and that a resumed one meets its own.

    Raises:
        ConfigError: the folder holds a run, or the run to resume had another config (the key is named).
        CheckpointError: there is nothing to resume, or `last.pt` is damaged.
    """
    out = Path(config.out)
    if not resume:
        for name in (LAST, Path("config.yaml"), Path("log.csv")):
            if (out / name).exists():
                raise ConfigError(f"{out} already holds a run ({name}): go on with --resume, or choose another --out")
        return
    from mdtnet.checkpoint import load_checkpoint

    if not (out / LAST).is_file():
        raise CheckpointError(f"{out}: nothing to resume, there is no {LAST}")
    saved = load_checkpoint(out / LAST)
    knows_videos = "videos" in (saved.training_state or {})
    free = (*FREE, *PLACES) if knows_videos else FREE  # an older version did not write which videos they are
    old, new = (flat(to_dict(c)) for c in (saved.config, config))
    for key, value in new.items():
        if key not in free and not key.startswith("test.") and old.get(key) != value:
            raise ConfigError(f"{out}: cannot resume with {key} = {value!r}, the run has {old.get(key)!r}")


def config_of_run(place: str | Path) -> RunConfig:
    """The config of the run to resume, by its folder or its `checkpoints/last.pt`; its `out` is where it lies now.

    Raises:
        CheckpointError: there is nothing to resume, or it is damaged.
    """
    from mdtnet.checkpoint import load_checkpoint

    last = Path(place, LAST) if Path(place).is_dir() else Path(place)
    if last.name != LAST.name or last.parent.name != LAST.parent.name:
        raise CheckpointError(f"{place}: cannot be resumed, expected the folder of a run or its {LAST}")
    if not last.is_file():
        raise CheckpointError(f"{place}: nothing to resume, there is no {LAST}")
    return dataclasses.replace(load_checkpoint(last).config, out=str(last.parent.parent))


def read_history(path: Path) -> list[dict[str, float | None]]:
    """The rows of a `log.csv`; what is no finite number is None."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: finite_number(value) for key, value in row.items() if key} for row in csv.DictReader(file)]


def finite_number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
