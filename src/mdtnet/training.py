"""Training: one loop in a fixed order, the same on a CPU, a GPU and several processes.

Each step takes the next `batch_size` clips of the epoch's order, whatever the number of processes: every
process computes its share, the losses are summed and divided by the number of clips that could be read, and
gradients are summed over processes. All state of the loop is in `checkpoints/last.pt`, so a run that was
stopped goes on as if it had not been.
"""

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, gather_object, set_seed
from torch import Tensor, nn

from mdtnet.checkpoint import fill, load_checkpoint, save_checkpoint
from mdtnet.config import ModelConfig, RunConfig, save_yaml, to_dict
from mdtnet.data.dataset import ClipDataset, ClipLoader, make_loader
from mdtnet.data.transforms import mirror_labels
from mdtnet.errors import CheckpointError, ConfigError, DivergedError, VideoError
from mdtnet.evaluation import ScoreTable, evaluate, load_split, make_accelerator, protocol, save_results
from mdtnet.gates import gate_figures
from mdtnet.models.build import build_model
from mdtnet.models.pretrained import cost_of_start
from mdtnet.models.reading import exchange_scenes, key_frame
from mdtnet.recipe import (
    REFERENCE_BATCH,
    check_config,
    clip_loss,
    freeze_partial_bn,
    learning_rate,
    loss_weights,
    make_optimizer,
    mix_clips,
    rng_state,
    sample_weights,
    set_rng_state,
    set_train_mode,
    sum_over_processes,
    update_average,
)
from mdtnet.runlog import (
    BEST,
    COLUMNS,
    COLUMNS_MULTI_LABEL,
    LAST,
    Display,
    Interrupted,
    Signals,
    check_folder,
    ignore_signals,
    log_file,
    new_folder,
    write_csv,
)

log = logging.getLogger(__name__)

WATCHED_CLIPS = 4  # of the epoch's last step, whose gates `log.csv` shows

Batch = dict[str, Any]  # what the loader gives: `frames`, `label`, `errors`


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    out: Path
    """The run's folder."""
    epochs: int
    """Epochs done."""
    best_epoch: int
    """The epoch, from 1, whose weights are in `checkpoints/best.pt`."""
    val_top1: float | None
    """Top-1 accuracy of these weights on the validation videos, 0 to 1; None where a video can have several labels."""
    val_map: float | None
    """Then their mean average precision, 0 to 1; None otherwise."""
    unreadable: dict[str, str]
    """Path and reason of each video that could not be read."""
    history: list[dict[str, Any]]
    """The rows of `log.csv`."""


@dataclass
class State:
    """Everything of the loop that changes, beside tensors; it is in `last.pt`."""

    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done in this epoch."""
    best_epoch: int = 0
    """Epoch, from 1, of the best validation; 0: none yet."""
    best_top1: float = -1.0
    """The best validation top-1 (of several labels a video: mAP)."""
    seconds: float = 0.0
    """Spent in this epoch before the run was resumed."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Path and reason of each unreadable video."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `log.csv`."""


class Run:
    """The parts of a training run and what is done with them; `train` has the order."""

    def __init__(self, config: RunConfig, accelerator: Accelerator, signals: Signals, *, resume: bool) -> None:
        self.config, self.accelerator, self.signals = config, accelerator, signals
        self.resumed = resume
        self.out, self.state, self.multi_label = Path(config.out), State(), config.data.multi_label
        self.validation = dataclasses.replace(config.test, clips=1, crops=1, crop_size=0, rule="uniform", flip=False)
        set_seed(config.train.seed)
        train_videos, val_videos = load_split(config.data)
        self.classes = train_videos.classes
        weights = "" if resume else config.model.weights  # `last.pt` has them all
        self.model = self._build(dataclasses.replace(config.model, weights=weights))
        self.average = copy.deepcopy(self.model).eval() if config.train.ema else None
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(self.model, config.train))
        frames = int(self.model.frames_per_segment)  # type: ignore[arg-type]
        seed = config.train.seed
        self.train_set = ClipDataset(train_videos, config.data, frames_per_segment=frames, train=True, seed=seed)
        self.val_set = ClipDataset(
            val_videos, config.data, frames_per_segment=frames, train=False, test=self.validation
        )
        self.loss_weights = loss_weights(train_videos.labels, len(self.classes), config.train)
        self.loader = self._make_loader()
        self.steps_per_epoch = math.ceil(self.loader.batch_sampler.num_batches / config.train.accumulate)
        self.sums = self._zeros()
        self.watched: Tensor | None = None
        self.clock = time.monotonic()
        set_seed(config.train.seed, device_specific=True)  # dropout differs between processes

    def _build(self, config: ModelConfig) -> nn.Module:
        train = self.config.train
        model = build_model(config, num_classes=len(self.classes))
        model.trunk.checkpoint_activations = train.checkpoint_activations  # type: ignore[union-attr, assignment]
        if train.partial_bn:
            freeze_partial_bn(model)
        self.synced = train.sync_bn and self.accelerator.num_processes > 1 and self._device.type == "cuda"
        if self.synced:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        return model.to(self._device).to(memory_format=layout)

    @property
    def _device(self) -> torch.device:
        return self.accelerator.device

    @property
    def done_steps(self) -> int:
        """Optimiser steps since the run's start."""
        return self.state.epoch * self.steps_per_epoch + self.state.step

    @property
    def tested(self) -> nn.Module:
        """The weights that are tested and kept: the moving average, where there is one."""
        return self.model if self.average is None else self.average

    def finished(self) -> bool:
        """Whether all epochs are done, or too many of them without a better validation."""
        train, state = self.config.train, self.state
        waited = state.epoch - state.best_epoch if state.best_epoch else 0
        return state.epoch >= train.epochs or 0 < train.early_stopping <= waited

    def _zeros(self) -> Tensor:
        exact = torch.float32 if self._device.type == "mps" else torch.float64
        return torch.zeros(3, dtype=exact, device=self._device)

    def _make_loader(self) -> ClipLoader:
        """This process's share of every part of every step; their order depends on seed and epoch alone."""
        train, accelerator, count = self.config.train, self.accelerator, len(self.train_set)
        part = train.batch_size // train.accumulate
        loader = make_loader(
            self.train_set,
            batch_size=part // accelerator.num_processes,
            shuffle=True,
            seed=train.seed,
            workers=self.config.data.workers,
            drop_last=count > part and count % part == 1,  # batch norm learns nothing good from one clip
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            weights=sample_weights(self.train_set.videos.labels, train),
        )
        loader.worker_init_fn = ignore_signals
        return loader

    def steps(self) -> Iterator[list[Batch]]:
        """What this process computes in each remaining step of the epoch, in at most `accumulate` parts."""
        accumulate = self.config.train.accumulate
        self.clock = time.monotonic()
        self.loader.set_epoch(self.state.epoch, start=self.state.step * accumulate)
        batches = iter(self.loader)
        while parts := list(islice(batches, accumulate)):
            for index, reason in (error for part in parts for error in part["errors"]):
                self._note_unreadable(self.train_set.videos[index].path, reason)
            yield parts

    def _note_unreadable(self, path: str, reason: str) -> None:
        if self.config.data.on_unreadable == "error":
            raise VideoError(path, f"{reason} (data.on_unreadable: skip leaves such videos out)")
        if path not in self.state.unreadable:
            self.state.unreadable[path] = reason
            log.warning("left out, cannot be read: %s: %s", path, reason)

    def agree(self, parts: list[Batch]) -> tuple[int, int]:
        """Over all processes: how many clips this step has, and the signal that came to one of them, or 0."""
        mine = [sum(len(part["label"]) for part in parts), self.signals.number]
        both = self.accelerator.gather(torch.tensor([mine], device=self._device))  # [processes, 2]
        return int(both[:, 0].sum()), int(both[:, 1].max())

    def update(self, parts: list[Batch], num_clips: int) -> None:
        """One optimiser step on the mean loss over the `num_clips` clips of all processes."""
        train = self.config.train
        rate = learning_rate(self.done_steps, self.steps_per_epoch, train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        self.optimizer.zero_grad()
        for part in parts:
            self.accelerator.backward(self._loss(part) / num_clips)
        sum_over_processes(self.model, self.accelerator)
        if train.clip_grad:
            self.accelerator.clip_grad_norm_(self.model.parameters(), train.clip_grad)
        self.optimizer.step()
        if self.average is not None:
            update_average(self.average, self.model, decay=train.ema, step=self.done_steps)

    def _loss(self, part: Batch) -> Tensor:
        """Summed over the part's clips; 0 for a part without any."""
        if not len(part["label"]):
            return self._empty_loss()
        frames, labels = (part[key].to(self._device, non_blocking=True) for key in ("frames", "label"))
        train, weights = self.config.train, self.loss_weights
        mixed, shares = mix_clips(frames, labels, num_classes=len(self.classes), mixup=train.mixup, cutmix=train.cutmix)
        clips = exchange_scenes(mixed[:, 0], share=train.exchange, key=key_frame(self.model))  # [B, T, K, 3, H, W]
        self.watched = clips[:WATCHED_CLIPS]
        with self.accelerator.autocast():
            logits = self.model(clips)
        weights = None if weights is None else weights.to(self._device)
        loss = clip_loss(logits.float(), shares, self.config, weights)
        right = torch.zeros_like(loss) if self.multi_label else (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach(), right, torch.tensor(len(labels), device=loss.device)])
        return loss

    def _empty_loss(self) -> Tensor:
        if not self.synced:
            return torch.zeros((), device=self._device, requires_grad=True)
        # the other processes wait for this one's batch norms
        data, frames = self.config.data, self.model.frames_per_segment
        shape = (1, data.num_segments, frames, 3, data.size, data.size)
        return self.model(torch.zeros(shape, dtype=torch.uint8, device=self._device)).sum() * 0  # type: ignore

    def text(self) -> str:
        """Where the run is, in words; loss and accuracy are this process's."""
        loss, right, clips = self.sums.tolist()
        rate = clips * self.accelerator.num_processes / max(1e-9, self._seconds())
        place = f"epoch {self.state.epoch + 1}/{self.config.train.epochs}"
        place += f", step {self.state.step}/{self.steps_per_epoch}"
        clips = max(1, clips)
        top1 = "" if self.multi_label else f", top-1 {right / clips:.1%}"
        return f"{place}: loss {loss / clips:.3f}{top1}, {rate:.1f} clips/s"

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.clock

    def finish_epoch(self, display: Display) -> None:
        """Validate if it is time, note the epoch's figures, keep the best weights."""
        state, train = self.state, self.config.train
        loss, right, clips = self.accelerator.reduce(self.sums, reduction="sum").tolist()
        if not math.isfinite(loss) and self.accelerator.scaler is None:  # which passes over steps that overflow
            raise DivergedError(
                f"{self.out}: the loss of epoch {state.epoch + 1} is {loss}, training has diverged "
                f"(train.lr is {train.lr:g}); {LAST} is the state before this epoch"
            )
        seconds = self._seconds()
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "lr": learning_rate(self.done_steps - 1, self.steps_per_epoch, train),
            "train_loss": loss / max(1, clips),
            **({} if self.multi_label else {"train_top1": right / max(1, clips)}),
            "seconds": seconds,
            "clips_per_s": clips / max(1e-9, seconds),
            **self._gates(),
        }
        table = None
        if row["epoch"] % train.val_every == 0 or row["epoch"] == train.epochs:
            table = self._validate(display)
            row |= table.validation(self.validation)
        state.epoch, state.step, state.seconds, self.sums = row["epoch"], 0, 0.0, self._zeros()
        state.history.append(row)
        judged = "val_map" if self.multi_label else "val_top1"
        if table is not None and row[judged] > state.best_top1:
            state.best_epoch, state.best_top1 = row["epoch"], row[judged]
            self._keep_best(table)
        self._report(row)

    def _gates(self) -> dict[str, float]:
        """How far the parts of the network are on, seen on clips of the last step."""
        if self.watched is None:
            return {}
        with self.accelerator.autocast():
            return gate_figures(self.model, self.watched)

    def _validate(self, display: Display) -> ScoreTable:
        data = self.config.data
        table = evaluate(
            self.tested,
            self.val_set,
            accelerator=self.accelerator,
            batch_size=self.config.test.batch_size,
            workers=self.config.data.workers,
            protocol=protocol(data, self.validation, data=data.val or f"part of {data.train}"),
            progress=lambda done: display.note(f"validating {done}"),
        )
        for index, reason in enumerate(table.errors):
            if reason:
                self._note_unreadable(self.val_set.videos[index].path, reason)
        return table

    def _keep_best(self, table: ScoreTable) -> None:
        if self.accelerator.is_main_process:
            row = {k: v for k, v in self.state.history[-1].items() if v is not None}
            save_checkpoint(self.out / BEST, model=self.tested, config=self.config, classes=self.classes, metrics=row)
            save_results(self.out, table, self.validation)

    def _report(self, row: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            figures = ", ".join(f"{k} {v:.4g}" for k, v in row.items() if k != "epoch" and v is not None)
            log.info("epoch %d: %s", row["epoch"], figures)
        self.accelerator.log({k: v for k, v in row.items() if v is not None and k != "epoch"}, step=row["epoch"])

    def save(self) -> None:
        """Write `last.pt` and the tables; every process must take part."""
        sums = self.accelerator.reduce(self.sums, reduction="sum").tolist()
        rng = gather_object([rng_state()])
        for found in gather_object([self.state.unreadable]):
            self.state.unreadable |= found
        state = {**dataclasses.asdict(self.state), "seconds": self._seconds() if self.state.step else 0.0}
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            training = {
                "state": state,
                "sums": sums,
                "rng": rng,
                "num_videos": len(self.train_set),
                "optimizer": self.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
                "model": None if self.average is None else dict(self.model.state_dict()),
            }
            save_checkpoint(
                self.out / LAST,
                model=self.tested,
                config=self.config,
                classes=self.classes,
                training_state=training,
                metrics={"epoch": self.state.epoch, "best_epoch": self.state.best_epoch},
            )
            self._write_tables()
        self.accelerator.wait_for_everyone()

    def _write_tables(self) -> None:
        if "csv" in self.config.train.trackers:
            columns = COLUMNS_MULTI_LABEL if self.multi_label else COLUMNS
            write_csv(self.out / "log.csv", columns, self.state.history)
        rows = [{"path": path, "reason": reason} for path, reason in sorted(self.state.unreadable.items())]
        write_csv(self.out / "unreadable.csv", ("path", "reason"), rows)

    def load(self) -> None:
        """Go on from `last.pt`.

        Raises:
            CheckpointError: it does not fit.
            ConfigError: the training data are not the same.
        """
        path = self.out / LAST
        checkpoint = load_checkpoint(path)
        saved = checkpoint.training_state
        if saved is None:
            raise CheckpointError(f"{path}: has no training state, there is nothing to resume")
        if checkpoint.classes != self.classes or saved["num_videos"] != len(self.train_set):
            raise ConfigError(
                f"{path}: the run had {saved['num_videos']} training videos in {len(checkpoint.classes)} "
                f"classes, now {len(self.train_set)} in {len(self.classes)} (or other ones)"
            )
        fill(self.model, saved["model"] or checkpoint.model_state, where=str(path))
        if self.average is not None:
            fill(self.average, checkpoint.model_state, where=str(path))
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.accelerator.scaler and saved["scaler"]:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.state = State(**saved["state"])
        if self.accelerator.is_main_process:
            self.sums += torch.tensor(saved["sums"], dtype=self.sums.dtype, device=self._device)
        if len(saved["rng"]) == self.accelerator.num_processes:  # otherwise dropout is drawn anew
            set_rng_state(saved["rng"][self.accelerator.process_index])

    def open_folder(self) -> None:
        """Write the state before anything is learned: from now on there is something to resume."""
        (self.out / LAST).parent.mkdir(parents=True, exist_ok=True)
        self.save()
        if self.accelerator.is_main_process:
            save_yaml(self.config, self.out / "config.yaml")
            self._start_trackers()

    def result(self) -> TrainResult:
        """How the run ended."""
        s = self.state
        top1, mean_precision = (None, s.best_top1) if self.multi_label else (s.best_top1, None)
        unreadable, history = dict(s.unreadable), list(s.history)
        return TrainResult(self.out, s.epoch, s.best_epoch, top1, mean_precision, unreadable, history)

    def announce(self) -> None:
        """Say what is trained, on what, with which learning rate."""
        if not self.accelerator.is_main_process:
            return
        train, model = self.config.train, self.config.model
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        rate = train.lr * train.batch_size / REFERENCE_BATCH
        log.info("%s on %s, %.2f M trained parameters", model.name, model.trunk, trained / 1e6)
        log.info("%d training and %d validation videos", len(self.train_set), len(self.val_set))
        if not self.resumed and (cost := cost_of_start(str(self.model.pretrained), self.classes)):
            log.warning("warning: %s", cost)
        if self.config.data.flip is True and (mirror_labels(self.classes) != np.arange(len(self.classes))).any():
            log.warning("warning: class names say left and right, and clips are mirrored: data.flip swap or false")
        log.info("learning rate %g x %d / %d = %g", train.lr, train.batch_size, REFERENCE_BATCH, rate)
        log.info("%s, %d process(es)", self._device.type, self.accelerator.num_processes)
        if self.done_steps:
            log.info("resumed at epoch %d, step %d", self.state.epoch + 1, self.state.step)

    def _start_trackers(self) -> None:
        self.accelerator.init_trackers(
            "mdtnet",
            init_kwargs={
                "tensorboard": {"purge_step": self.state.epoch + 1},
                "wandb": {"dir": str(self.out), "name": self.out.name, "config": to_dict(self.config)},
            },
        )

    def close(self) -> None:
        """Let the trackers write what they hold."""
        for tracker in self.accelerator.trackers:
            tracker.finish()


def train(config: RunConfig, *, resume: bool = False) -> TrainResult:
    """Train a model; everything it writes is in the folder `config.out` (empty: a new one in `runs/`).

    Raises:
        ConfigError: options that do not fit together, a folder that holds a run, or (resuming) a changed one.
        DataError: the videos; VideoError: one of them, under `data.on_unreadable: error`.
        CheckpointError: there is nothing to resume, or it is damaged.
        DivergedError: the loss is no number any more.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
    """
    trackers = [name for name in config.train.trackers if name != "csv"]
    accelerator = make_accelerator(
        config.train.device,
        amp=config.train.amp,
        log_with=trackers or None,
        project_config=ProjectConfiguration(logging_dir="runs"),  # until processes can agree on a folder
    )
    config = config if config.out else dataclasses.replace(config, out=new_folder(config))
    accelerator.project_configuration.logging_dir = str(Path(config.out, "tensorboard"))
    torch.backends.cudnn.deterministic = True  # on a GPU the same run gives the same weights
    check_config(config, processes=accelerator.num_processes)
    check_folder(config, resume=resume)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    with log_file(Path(config.out, "train.log"), active=accelerator.is_main_process), Signals() as signals:
        run = Run(config, accelerator, signals, resume=resume)
        if resume:
            run.load()
        run.open_folder()
        try:
            _loop(run)
        finally:
            run.close()
    return run.result()


def _loop(run: Run) -> None:
    train, main = run.config.train, run.accelerator.is_main_process
    total = train.epochs * run.steps_per_epoch
    display = Display(total_steps=total, done_steps=run.done_steps, active=main)
    with display:
        run.announce()
        while not run.finished():
            set_train_mode(run.model)
            for parts in run.steps():
                num_clips, stop = run.agree(parts)
                if stop:
                    run.save()
                    raise Interrupted(stop, run.config.out)
                if num_clips:
                    run.update(parts, num_clips)
                run.state.step += 1
                if display.due():
                    display.show(run.done_steps, run.text())
                if train.save_every and run.done_steps % train.save_every == 0 and run.state.step < run.steps_per_epoch:
                    run.save()
            run.finish_epoch(display)
            run.save()
