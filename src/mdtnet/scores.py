"""The score table: logits of every view of every video on disk; fused, judged, saved and loaded.

Metrics and reports read the table alone. Letters: N videos, V views, C classes.
"""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mdtnet import metrics
from mdtnet.config import EvalConfig, Plain, Values
from mdtnet.config_file import checked
from mdtnet.errors import ConfigError, DataError
from mdtnet.metrics import Figures
from mdtnet.system.files import atomic_write
from mdtnet.system.machine import hardware, versions

_DAMAGE = (OSError, ValueError, KeyError, EOFError, AttributeError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile make of a damaged archive; the RuntimeErrors are of encryption and unknown versions."""
Fusion = Literal["logits", "softmax"]
DAMAGED = "damaged: "
"""Start of the reason why a damaged video is not judged by its scores (`test.on_damaged`)."""


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Logits of every view of every video; `save` and `load` keep it in one `.npz`."""

    names: list[str]
    """N paths relative to the data's root: the videos' keys."""
    labels: np.ndarray
    """int64 [N], or bool [N, C] where a video can have several."""
    view_clip: np.ndarray
    """int64 [V], the clip of each view."""
    view_crop: np.ndarray
    """int64 [V], the crop (left, centre, right) of each view."""
    scores: np.ndarray
    """float32 logits [N, V, C]; NaN where a video could not be read."""
    errors: list[str]
    """N reasons why a video could not be read, "" where it could."""
    classes: tuple[str, ...]
    """C names in label order."""
    protocol: Values = field(default_factory=dict)
    """How it was tested, plain values fit for JSON."""
    view_flip: np.ndarray | None = None
    """bool [V], whether a view is mirrored; None: no view is."""

    @property
    def multi_label(self) -> bool:
        """Whether a video can have several labels."""
        return self.labels.ndim == 2

    def fuse(self, how: Fusion) -> np.ndarray:
        """One row per video, float64 [N, C]: the mean over its views of logits, or else of probabilities."""
        scores = self.scores.astype(np.float64)
        return (scores if how == "logits" else self._activated(scores)).mean(axis=1)

    def probabilities(self, how: Fusion) -> np.ndarray:
        """As `fuse`, each row summing to 1 (unless a video can have several labels), float64 [N, C]."""
        fused = self.fuse(how)
        return self._activated(fused) if how == "logits" else fused

    def _activated(self, logits: np.ndarray) -> np.ndarray:
        return _sigmoid(logits) if self.multi_label else _softmax(logits)

    def sharpened(self, temperature: float) -> "ScoreTable":
        """The same table with all logits divided by a temperature, more than 0."""
        return replace(self, scores=(self.scores / temperature).astype(np.float32))

    def unreadable(self) -> dict[str, str]:
        """Name and reason of every video that could not be read."""
        return {name: error for name, error in zip(self.names, self.errors) if error}

    def metrics(self, config: EvalConfig) -> Figures:
        """Every figure under `config`'s fusion and policy (`metrics.summary`), with protocol and versions."""
        rows, policy = self._judged(config)
        fused = self.fuse(config.fusion)[rows]
        figures = metrics.summary(fused, self.labels[rows], self.classes, unreadable=policy)
        if not self.multi_label:
            figures["ece"] = metrics.calibration_error(self.probabilities(config.fusion)[rows], self.labels[rows])
        return {
            **figures,
            "classes": list(self.classes),
            "protocol": self.protocol,
            "versions": versions(),
            "hardware": hardware(),
        }

    def _judged(self, config: EvalConfig) -> tuple[np.ndarray, Literal["wrong", "exclude"]]:
        """Rows that the figures are of, bool [N], and how the unreadable ones among them count.

        Damaged videos that `test.on_damaged` made unreadable can count in another way than the others.
        """
        damaged = np.array([error.startswith(DAMAGED) for error in self.errors], dtype=bool)
        if config.on_damaged in ("use", config.on_unreadable):
            return np.ones_like(damaged), config.on_unreadable
        if config.on_damaged == "exclude":
            return ~damaged, config.on_unreadable
        others = np.array([bool(error) for error in self.errors], dtype=bool) & ~damaged
        return ~others, "wrong"

    def validation(self, config: EvalConfig) -> dict[str, float | None]:
        """The figures of `log.csv`: `val_loss`, and `val_top1`, `val_top5` and `val_mean_class`, or `val_map`."""
        figures = self.metrics(config)
        best = metrics.headline(figures)
        found = {f"val_{key}": figures[key] for key in metrics.TITLES if key in figures}
        loss = metrics.log_loss(self.probabilities(config.fusion), self.labels)
        return {"val_loss": loss, **found, f"val_{best}": figures[best] or 0.0}

    def save(self, path: str | Path) -> None:
        """Write the table; a crash leaves the old file or the new one."""
        arrays = {
            "names": np.array(self.names, dtype=str),
            "labels": self.labels,
            "view_clip": self.view_clip,
            "view_crop": self.view_crop,
            "view_flip": np.zeros(len(self.view_clip), dtype=bool) if self.view_flip is None else self.view_flip,
            "scores": self.scores,
            "errors": np.array(self.errors, dtype=str),
            "classes": np.array(self.classes, dtype=str),
            "protocol": np.array(json.dumps(self.protocol)),
        }
        atomic_write(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> "ScoreTable":
        """Read a table.

        Raises:
            DataError: the file is missing or is no score table.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            table = cls(
                names=found["names"].tolist(),
                labels=found["labels"],
                view_clip=found["view_clip"],
                view_crop=found["view_crop"],
                scores=found["scores"],
                errors=found["errors"].tolist(),
                classes=tuple(found["classes"].tolist()),
                protocol=json.loads(str(found["protocol"])),
                view_flip=found.get("view_flip"),  # older tables have none
            )
            table.check()
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such score table") from error
        except _DAMAGE as error:
            raise DataError(f"{path}: not a score table, or a damaged one") from error
        return table

    def check(self) -> None:
        """Raise ValueError where a part is not what it should be, or does not fit the others."""
        videos, views, classes = self.scores.shape
        flips = np.zeros(views, bool) if self.view_flip is None else self.view_flip
        shapes = {
            "scores": (self.scores, "f", (videos, views, classes)),
            "names": (np.array(self.names, dtype=object), "O", (videos,)),
            "errors": (np.array(self.errors, dtype=object), "O", (videos,)),
            "classes": (np.array(self.classes, dtype=object), "O", (classes,)),
            "labels": (self.labels, "b", (videos, classes)) if self.multi_label else (self.labels, "iu", (videos,)),
            "view_clip": (self.view_clip, "iu", (views,)),
            "view_crop": (self.view_crop, "iu", (views,)),
            "view_flip": (flips, "b", (views,)),
        }
        for name, (array, kinds, shape) in shapes.items():
            if array.dtype.kind not in kinds or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {shape}")
        if not all(isinstance(text, str) for text in (*self.names, *self.errors, *self.classes)):
            raise ValueError("a name is no text")
        if not self.multi_label and videos and not 0 <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"labels are {self.labels.min()} to {self.labels.max()}, expected 0 to {classes - 1}")
        unread = [not error for error in self.errors]
        if not np.isfinite(self.scores[unread]).all() or not isinstance(self.protocol, dict):
            raise ValueError("scores of a video that was read are not finite, or the protocol is no dict")


def fuse_tables(tables: Sequence[ScoreTable], how: Fusion, *, names: Sequence[str]) -> ScoreTable:
    """One table of several tests of the same videos, as of networks of 8 and of 16 segments; each counts alike.

    It has one view per test: that test's mean over its own views. A video that one test could not read counts as
    unreadable. `names` name the tables in errors and in the protocol.

    Raises:
        DataError: videos, labels or classes differ.
    """
    first = tables[0]
    views = []
    errors = [""] * len(first.names)
    for table, name in zip(tables, names):
        if table.classes != first.classes:
            raise DataError(f"{name}: other classes, or another order of them, than in {names[0]}")
        place = {video: i for i, video in enumerate(table.names)}
        if len(place) != len(table.names) or place.keys() != set(first.names):
            raise DataError(f"{name}: other videos than in {names[0]}")
        order = np.array([place[video] for video in first.names], dtype=np.int64)
        if not np.array_equal(table.labels[order], first.labels):
            raise DataError(f"{name}: other labels than in {names[0]}")
        fused = table.fuse(how)[order]
        views.append(_logits(fused, first.multi_label) if how == "softmax" else fused)
        errors = [error or table.errors[i] for error, i in zip(errors, order.tolist())]
    scores = np.stack(views, axis=1).astype(np.float32)  # [N, tests, C]
    scores[[i for i, error in enumerate(errors) if error]] = np.nan
    count = np.arange(len(tables))
    parts: list[Plain] = [{"scores": name, **table.protocol} for table, name in zip(tables, names)]
    protocol: Values = {"fusion": fusion_name(how, first.multi_label), "fused": parts}
    return ScoreTable(first.names, first.labels, count, count * 0, scores, errors, first.classes, protocol)


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # of unreadable videos
        return np.exp(-np.logaddexp(0, -scores))


def _logits(probabilities: np.ndarray, multi_label: bool) -> np.ndarray:
    """Scores that give these probabilities."""
    logs = np.log(np.maximum(probabilities, 1e-30))
    return logs - np.log(np.maximum(1 - probabilities, 1e-30)) if multi_label else logs


def fusion_name(how: str, multi_label: bool) -> str:
    """Name of what was averaged, for protocols."""
    return "sigmoid" if multi_label and how == "softmax" else how


def save_results(out: Path, table: ScoreTable, config: EvalConfig) -> Figures:
    """Write `scores.npz` and `metrics.json` into the folder `out`; returns the metrics."""
    out.mkdir(parents=True, exist_ok=True)
    figures = table.metrics(config)
    table.save(out / "scores.npz")
    text = json.dumps(figures, indent=1, allow_nan=False)
    atomic_write(out / "metrics.json", lambda file: file.write(text.encode()))
    return figures


def check_unused(out: str | Path, protocol: Values) -> None:
    """Check that a folder holds no other scores than those of this test, whose it may write anew.

    Raises:
        ConfigError: it holds others; the message says how they differ. DataError: something else of the same name.
    """
    if Path(out, "metrics.json").exists():
        old: Values = load_figures(out).get("protocol", {})
    elif Path(out, "scores.npz").exists():  # of a test that was killed before it wrote its metrics
        old = ScoreTable.load(Path(out, "scores.npz")).protocol
    else:
        return
    for key in dict.fromkeys([*protocol, *old]):
        if old.get(key) != protocol.get(key):
            raise ConfigError(
                f"{out} holds the test with {key} = {old.get(key)!r}, not {protocol.get(key)!r}: choose another folder "
                "with --out"
            )


def load_figures(folder: str | Path) -> Figures:
    """The `metrics.json` of a run or test.

    Raises:
        DataError: it is not there, or is none.
    """
    path = Path(folder, "metrics.json")
    try:
        return _figures(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected the folder of a run or of a test") from error
    except (OSError, ValueError, KeyError, ConfigError) as error:
        raise DataError(f"{path}: no metrics of a test, or damaged") from error


def _figures(text: str) -> Figures:
    found: Figures = checked(Figures, json.loads(text), where="metrics")
    best, rows = metrics.headline(found), found["per_class"]
    keys = ("map",) if best == "map" else ("top1", "top5", "mean_class")
    sums: list[Any] = [found, found["unreadable_wrong"], found["unreadable_excluded"]]
    shares = [found.get("ece"), *(each[key] for each in sums for key in keys)]
    shares += [row["average_precision" if best == "map" else "accuracy"] for row in rows]
    if not all(share is None or 0 <= share <= 1 for share in shares):
        raise ValueError("a share is not from 0 to 1")
    if min(found["videos"], found["unreadable"], *(row["support"] for row in rows)) < 0:
        raise ValueError("a count is less than 0")
    classes = found.get("classes") or [row["name"] for row in rows]
    confusion = found.get("confusion", [])
    if len(classes) != len(rows) or [len(row) for row in confusion] not in ([], [len(rows)] * len(rows)):
        raise ValueError("the classes and their rows do not go together")
    found["unreadable_count_as"]
    return found
