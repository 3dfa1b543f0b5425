"""From a model and videos to a score table: every video once, every view of it, logits on disk.

Metrics and reports read the table alone. Letters: N videos, V views, C classes.
"""

import dataclasses
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rich.progress
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor, nn

from mdtnet import metrics
from mdtnet.checkpoint import atomic_write, hardware, load_checkpoint, model_of, versions
from mdtnet.checks import check_ranges, make_folder
from mdtnet.config import DataConfig, TestConfig, nearest, protocol_name, test_crop_size, to_dict
from mdtnet.data.annotations import VideoList, load_videos, split_by_group
from mdtnet.data.dataset import ClipDataset, ClipLoader, make_loader
from mdtnet.data.folds import split_folds
from mdtnet.data.transforms import mirror_labels, stack_clips
from mdtnet.errors import ConfigError, DataError, DivergedError
from mdtnet.gates import knocked_out, parts_of
from mdtnet.models.folding import folded
from mdtnet.runlog import CONSOLE, ignore_signals

Fusion = Literal["logits", "softmax"]
SPLIT_SEED = 0  # runs of different seeds are compared on the same split


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Logits of every view of every video; `save` and `load` keep it in one `.npz`."""

    names: list[str]
    """N paths relative to the data's root: the videos' keys."""
    labels: np.ndarray
    """int64 [N], or bool [N, C] where a video can have several."""
    view_clip: np.ndarray
    """int64 [V], which of the clips a view is."""
    view_crop: np.ndarray
    """int64 [V], which of the crops (left, centre, right) a view is."""
    scores: np.ndarray
    """float32 logits [N, V, C]; NaN where a video could not be read."""
    errors: list[str]
    """N reasons why a video could not be read, "" where it could."""
    classes: tuple[str, ...]
    """C names in label order."""
    protocol: dict[str, Any] = field(default_factory=dict)
    """How it was tested, plain values fit for JSON."""
    view_flip: np.ndarray | None = None
    """bool [V], whether a view is mirrored; None: no view is."""

    @property
    def multi_label(self) -> bool:
        """Whether a video can have several labels."""
        return self.labels.ndim == 2

    def fuse(self, how: Fusion) -> np.ndarray:
        """One row a video, float64 [N, C]: the mean over its views of logits, or else of probabilities."""
        scores = self.scores.astype(np.float64)
        return (scores if how == "logits" else self._activated(scores)).mean(axis=1)

    def probabilities(self, how: Fusion) -> np.ndarray:
        """As `fuse`, each row summing to 1 (unless a video can have several labels), float64 [N, C]."""
        fused = self.fuse(how)
        return self._activated(fused) if how == "logits" else fused

    def _activated(self, logits: np.ndarray) -> np.ndarray:
        return _sigmoid(logits) if self.multi_label else _softmax(logits)

    def unreadable(self) -> dict[str, str]:
        """Name and reason of every video that could not be read."""
        return {name: error for name, error in zip(self.names, self.errors) if error}

    def metrics(self, config: TestConfig) -> dict[str, Any]:
        """Every figure under `config`'s fusion and policy (`metrics.summary`), with protocol and versions."""
        fused = self.fuse(config.fusion)
        figures = metrics.summary(fused, self.labels, self.classes, unreadable=config.on_unreadable)
        about = {"protocol": self.protocol, "versions": versions(), "hardware": hardware()}
        return {**figures, "classes": list(self.classes), **about}

    def validation(self, config: TestConfig) -> dict[str, float | None]:
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
            return cls(
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
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such score table") from error
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: not a score table, or a damaged one") from error


def fuse_tables(tables: Sequence[ScoreTable], how: Fusion, *, names: Sequence[str]) -> ScoreTable:
    """One table of several tests of the same videos, as of networks of 8 and of 16 segments; each counts alike.

    It has one view a test: that test's mean over its own views. A video that one test could not read counts as
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
    parts = [{"scores": name, **table.protocol} for table, name in zip(tables, names)]
    protocol = {"fusion": _fusion_name(how, first.multi_label), "fused": parts}
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


def _fusion_name(how: str, multi_label: bool) -> str:
    """What a result says was averaged."""
    return "sigmoid" if multi_label and how == "softmax" else how


def evaluate(
    model: nn.Module,
    dataset: ClipDataset,
    *,
    accelerator: Accelerator | None = None,
    batch_size: int = 8,
    workers: int = 0,
    protocol: dict[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ScoreTable:
    """Scores of every view of every video of a test `ClipDataset`; the model is left in eval mode.

    Views are computed `batch_size` at a time whatever video they belong to; in the table a mirrored view follows
    the view itself. With an accelerator of several processes each takes every n-th video, and all get the whole
    table. `progress` is called with the number of videos that this process has read.

    Raises:
        DivergedError: scores of a video are not finite numbers.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    loader = make_loader(dataset, batch_size=1, shuffle=False, seed=0, workers=workers, rank=rank, world=processes)
    loader.worker_init_fn = ignore_signals
    errors: dict[int, str] = {}
    model.eval()
    with torch.inference_mode(), accelerator.autocast() if accelerator else nullcontext():
        videos = _readable(loader, errors, progress)
        scores = _view_scores(model, videos, batch_size=batch_size, mirror=_mirror(dataset))
    for more_scores, more_errors in gather_object([(scores, errors)]) if processes > 1 else []:
        scores |= more_scores
        errors |= more_errors
    return _table(dataset, scores, errors, protocol or {})


def _readable(
    loader: ClipLoader, errors: dict[int, str], progress: Callable[[int], None] | None
) -> Iterator[tuple[int, Tensor]]:
    """Index and views [V, T, K, 3, H, W] of each video that can be read; the others go into `errors`."""
    for done, batch in enumerate(loader, start=1):
        errors.update(batch["errors"])
        yield from zip(batch["index"].tolist(), batch["frames"])
        del batch  # before the next is read
        if progress:
            progress(done)


def _views(videos: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """Index and frames [T, K, 3, H, W] of each view: copies, since all views of a video can be hundreds of MB."""
    for index, video in videos:
        yield from ((index, view.clone()) for view in video)
        del video  # before the next is read


def _mirror(dataset: ClipDataset) -> np.ndarray | None:
    """Of a test of mirrored views: which of a mirrored view's scores is that of each class, int64 [C]."""
    if not dataset.test.flip:
        return None
    classes = dataset.videos.classes
    return mirror_labels(classes) if dataset.data.flip == "swap" else np.arange(len(classes))


def _view_scores(
    model: nn.Module, videos: Iterator[tuple[int, Tensor]], *, batch_size: int, mirror: np.ndarray | None
) -> dict[int, np.ndarray]:
    """Logits [V, C] of every video by its index; with `mirror` each view's row is followed by its mirror image's."""
    device = next(model.parameters()).device
    rows: dict[int, list[np.ndarray]] = {}
    views = _views(videos)
    while chunk := list(islice(views, batch_size)):
        frames = stack_clips([view for _, view in chunk]).to(device)
        passes = [model(frames).float().cpu().numpy()]
        if mirror is not None:
            passes.append(model(frames.flip(-1)).float().cpu().numpy()[:, mirror])
        for i, (index, _) in enumerate(chunk):
            rows.setdefault(index, []).extend(scores[i] for scores in passes)
    return {index: np.stack(found) for index, found in rows.items()}


def _table(
    dataset: ClipDataset, scores: dict[int, np.ndarray], errors: dict[int, str], protocol: dict[str, Any]
) -> ScoreTable:
    videos, crops = dataset.videos, dataset.test.crops
    flips = 2 if dataset.test.flip else 1
    views = np.arange(dataset.num_views * flips)
    count = len(videos)
    table = np.full((count, len(views), len(videos.classes)), np.nan, dtype=np.float32)
    for index, rows in scores.items():
        if not np.isfinite(rows).all():  # NaN stands for videos that cannot be read
            raise DivergedError(f"{videos.name(index)}: the network's scores are not finite, so it has diverged")
        table[index] = rows
    return ScoreTable(
        names=[videos.name(i) for i in range(count)],
        labels=np.asarray(videos.labels),
        view_clip=views // flips // crops,
        view_crop=views // flips % crops,
        scores=table,
        errors=[errors.get(i, "") for i in range(count)],
        classes=tuple(videos.classes),
        protocol=protocol,
        view_flip=views % flips == 1,
    )


def make_accelerator(device: str, *, amp: str = "no", **keywords: Any) -> Accelerator:
    """An `Accelerator` on `auto` or `cpu`, whatever an earlier one in this process was set to.

    Raises:
        ConfigError: another device, or mixed precision that the device does not have.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(f"train.device is {device!r}, expected auto or cpu")
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    cpu = device == "cpu" or not torch.accelerator.is_available()  # several processes on it have to be asked for
    accelerator = Accelerator(cpu=cpu, mixed_precision=amp, **keywords)
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise ConfigError(
            f"{started} processes were started, but {accelerator.device.type} takes {accelerator.num_processes}: "
            "start one, or choose the device cpu"
        )
    if amp == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("train.amp is 'fp16', which needs a GPU; on a CPU there is bf16")
    return accelerator


def load_split(data: DataConfig) -> tuple[VideoList, VideoList]:
    """Training and validation videos; without `data.val` the latter are split off, the same for every seed.

    Raises:
        ConfigError: no training videos are given.
        DataError: the videos (see `load_videos`), or they cannot be split.
    """
    if not data.train:
        raise ConfigError("data.train is empty, expected a folder of class folders or a list file")
    videos = load_videos(data.train, root=data.root, classes=data.classes, multi_label=data.multi_label)
    if (data.folds or data.fold) and (data.val or not 0 <= data.fold < data.folds or data.folds < 2):
        raise ConfigError(
            f"data.folds is {data.folds}, data.fold {data.fold}, data.val {data.val!r}; expected at least 2 folds, "
            "a fold from 0 to one less, and no val; or no folds, and fold 0"
        )
    if data.val:
        val = load_videos(data.val, root=data.root, classes=videos.classes, multi_label=data.multi_label)
        return videos, val
    if data.folds:
        return split_folds(videos, folds=data.folds, fold=data.fold, seed=SPLIT_SEED, group=data.group)
    return split_by_group(videos, fraction=data.val_fraction, seed=SPLIT_SEED, group=data.group)


def relabel(videos: VideoList, classes: tuple[str, ...]) -> VideoList:
    """The same videos with labels by the order of `classes`, of which they may use a part.

    Raises:
        DataError: a class of the videos is not in `classes`.
    """
    for name in videos.classes:
        if name not in classes:
            raise DataError(f"class '{name}' is not among the {len(classes)} learned ones{nearest(name, classes)}")
    order = np.array([classes.index(name) for name in videos.classes], dtype=np.int64)
    if not videos.multi_label:
        return dataclasses.replace(videos, classes=classes, labels=order[videos.labels])
    labels = np.zeros((len(videos), len(classes)), dtype=bool)
    labels[:, order] = videos.labels
    return dataclasses.replace(videos, classes=classes, labels=labels)


def save_results(out: Path, table: ScoreTable, config: TestConfig) -> dict[str, Any]:
    """Write `scores.npz` and `metrics.json` into the folder `out`; returns the metrics."""
    out.mkdir(parents=True, exist_ok=True)
    figures = table.metrics(config)
    table.save(out / "scores.npz")
    text = json.dumps(figures, indent=1, allow_nan=False)
    atomic_write(out / "metrics.json", lambda file: file.write(text.encode()))
    return figures


def load_figures(folder: str | Path) -> dict[str, Any]:
    """The `metrics.json` of a run or test.

    Raises:
        DataError: it is not there, or is none.
    """
    path = Path(folder, "metrics.json")
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        best = metrics.headline(figures)
        return {**figures, best: float(figures[best])}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected the folder of a run or of a test") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no metrics of a test, or damaged") from error


def evaluate_checkpoint(
    checkpoint: str | Path,
    *,
    data: str,
    out: str | Path,
    test: TestConfig,
    root: str = "",
    classes: str = "",
    device: str = "auto",
    workers: int = 0,
    without: str = "",
) -> dict[str, Any]:
    """Test a checkpoint on `data`, a folder of class folders or a list; `out` gets scores and metrics.

    Lists are read as those it was trained on, with one label a video or several. Class names must be among the
    checkpoint's; labels that are numbers are positions in the file `classes`,
    or in the checkpoint's own list. Clips are drawn as the checkpoint's config says, views as `test` does. `without`
    names a part of the network that is silenced (`gates.PARTS`), to see what it is worth.

    Returns:
        The content of `metrics.json` (see `metrics.summary`).

    Raises:
        CheckpointError: the checkpoint; DataError: the data, or classes that were not learned; ConfigError: a number
            of `test` out of its range, or a folder that cannot be written into.
        DivergedError: the network's scores are no numbers.
    """
    check_ranges(test, part="test")
    found = load_checkpoint(checkpoint)
    model: Any = model_of(found, where=str(checkpoint))
    if without and without not in parts_of(model):
        known = ", ".join(parts_of(model)) or "none"
        raise ConfigError(
            f"without is '{without}', but {found.config.model.name} as configured has the parts: {known}"
            f"{nearest(without, parts_of(model))}"
        )
    model = folded(model)
    names, several = classes or found.classes, found.config.data.multi_label
    videos = load_videos(data, root=root, classes=names, multi_label=several)
    videos = relabel(videos, found.classes)
    accelerator = make_accelerator(device)
    here = dataclasses.replace(found.config.data, cache="", backend="auto")  # those were of the machine it learned on
    dataset = ClipDataset(videos, here, frames_per_segment=model.frames_per_segment, train=False, test=test)
    if accelerator.is_main_process:
        make_folder(out)  # seen to now: after hours of tests their scores would be lost
    silenced: Any = knocked_out(model, without) if without else nullcontext()  # type: ignore[arg-type]
    said = {"without": without} if without else {}
    with _bar(len(dataset), active=accelerator.is_main_process) as progress, silenced:
        table = evaluate(
            model.to(accelerator.device, memory_format=torch.channels_last),
            dataset,
            accelerator=accelerator,
            batch_size=test.batch_size,
            workers=workers,
            protocol=protocol(found.config.data, test, data=data, checkpoint=str(checkpoint), **said),
            progress=progress,
        )
    if accelerator.is_main_process:
        return save_results(Path(out), table, test)
    return table.metrics(test)


def protocol(data: DataConfig, test: TestConfig, /, **more: Any) -> dict[str, Any]:
    """How videos are tested, as plain values: sampling, sizes in pixels, views, fusion and policy."""
    sampling = {key: getattr(data, key) for key in ("num_segments", "frame_stride", "sampling", "short_side", "size")}
    if data.exposure != "none":
        sampling["exposure"] = data.exposure
    size = {"preset": protocol_name(test), "crop_size": test_crop_size(data, test)}
    order = ["centre"] if test.crops == 1 else ["left", "centre", "right"]
    mirrored = {"flip_labels": "swapped" if data.flip == "swap" else "same"} if test.flip else {}
    fusion = {"fusion": _fusion_name(test.fusion, data.multi_label)}
    return {**sampling, **to_dict(test), **fusion, **size, "crop_order": order, **mirrored, **more}


@contextmanager
def _bar(total: int, *, active: bool) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal."""
    if not (active and CONSOLE.is_terminal):
        yield None
        return
    with rich.progress.Progress(console=CONSOLE) as bar:
        task = bar.add_task("testing", total=total)
        yield lambda done: bar.update(task, completed=done)
