"""The folder of a run: its name, its files, and whether a run may use it."""

import csv
import logging
import math
import time
from pathlib import Path
from typing import Any

from mdtnet.config import GATE_FIGURES, RunConfig
from mdtnet.config_file import flat, to_dict
from mdtnet.errors import CheckpointError, ConfigError, DataError

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
    *GATE_FIGURES,
)
COLUMNS_MULTI_LABEL = ("epoch", "lr", "train_loss", "val_loss", "val_map", "seconds", "clips_per_s", *GATE_FIGURES)
FREE = (
    "out",
    "data.workers",
    "data.cache",
    "train.device",
    "train.trackers",
    "train.epochs",
    "train.save_every",
)


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


def new_folder(config: RunConfig) -> str:
    """A folder in `runs/` that the main process's clock names for all."""
    from accelerate.utils import broadcast_object_list

    name = f"runs/{time.strftime('%Y-%m-%d_%H%M%S')}_{config.model.name}_{config.model.trunk}"
    return broadcast_object_list([name])[0]


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
    old, new = (flat(to_dict(c)) for c in (load_checkpoint(out / LAST).config, config))
    for key, value in new.items():
        if key not in FREE and not key.startswith("test.") and old.get(key) != value:
            raise ConfigError(f"{out}: cannot resume with {key} = {value!r}, the run has {old.get(key)!r}")


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
