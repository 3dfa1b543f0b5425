"""A training run as it computes: data, network, optimiser, and the state that changes from step to step.

Each step takes the next `batch_size` clips of the epoch's order, whatever the number of processes: every
process computes its share, the losses are summed and divided by the number of clips that could be read, and
gradients are summed over processes.
"""

import copy
import dataclasses
import hashlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from mdtnet.config import ModelConfig, RunConfig
from mdtnet.data.annotations import VideoList
from mdtnet.data.dataset import Batch, ClipDataset, ClipLoader, make_loader
from mdtnet.data.frames import clear_cache
from mdtnet.data.info import median_seconds
from mdtnet.data.splits import load_split
from mdtnet.errors import DivergedError, VideoError
from mdtnet.evaluation import evaluate, protocol
from mdtnet.models.build import build_model
from mdtnet.models.gates import gate_figures
from mdtnet.models.network import Network
from mdtnet.models.reading import exchange_scenes
from mdtnet.scores import ScoreTable
from mdtnet.system.processes import Asked, Signals, sum_over_processes
from mdtnet.system.terminal import Display
from mdtnet.training.recipe import (
    clip_loss,
    freeze_partial_bn,
    kept_segments,
    learning_rate,
    loss_weights,
    make_optimizer,
    mix_clips,
    sample_weights,
    teaching_loss,
    update_average,
)
from mdtnet.training.run_folder import LAST
from mdtnet.training.teacher import Teacher

log = logging.getLogger(__name__)

WATCHED_CLIPS = 4  # of the epoch's last step: `log.csv` shows the gates on them
EpochRow = dict[str, float | None]
"""A row of `log.csv`."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended."""

    out: Path
    """The run's folder."""
    epochs: int
    """Epochs done."""
    best_epoch: int
    """The epoch, from 1, that gave the weights in `checkpoints/best.pt`."""
    val_top1: float | None
    """Top-1 accuracy of these weights on the validation videos, 0 to 1; None where a video can have several labels."""
    val_map: float | None
    """Then their mean average precision, 0 to 1; None otherwise."""
    unreadable: dict[str, str]
    """Path and reason of each video that could not be read."""
    history: list[EpochRow]
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
    """The best validation top-1 (with several labels per video: mAP)."""
    seconds: float = 0.0
    """Spent in this epoch before the run was resumed."""
    waited: float = 0.0
    """Seconds of this epoch in which this process waited for data."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Path and reason of each unreadable video."""
    history: list[EpochRow] = field(default_factory=list)
    """Rows of `log.csv`."""
    row: EpochRow | None = None
    """The row of an epoch that is trained, but was stopped in its validation."""


def _digest(*lists: VideoList) -> str:
    """A digest of the names, parts and labels of videos, wherever they lie."""
    found = hashlib.sha256()
    for videos in lists:
        for i in range(len(videos)):
            found.update(f"{videos.name(i)}\0{videos.label_text(i)}\n".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


class Run:
    """The parts of a training run and what they do; `loop` has the order, `record` writes the files."""

    def __init__(self, config: RunConfig, accelerator: Accelerator, signals: Signals, *, resume: bool) -> None:
        self.config, self.accelerator, self.signals = config, accelerator, signals
        self.resumed = resume
        self.out, self.state, self.multi_label = Path(config.out), State(), config.data.multi_label
        self.validation = dataclasses.replace(
            config.test, clips=1, crops=1, crop_size=0, rule="uniform", flip=False, segments=0
        )
        set_seed(config.train.seed)
        train_videos, val_videos = load_split(config.data)
        if config.data.cache and accelerator.is_main_process:
            clear_cache(config.data.cache)
        self.classes = train_videos.classes
        self.videos_digest = _digest(train_videos, val_videos)
        weights = "" if resume else config.model.weights  # `last.pt` has them all
        self.model = self._build(dataclasses.replace(config.model, weights=weights))
        self.model.clip_seconds = median_seconds(train_videos)
        self.average = copy.deepcopy(self.model).eval() if config.train.ema else None
        self.optimizer = accelerator.prepare_optimizer(make_optimizer(self.model, config.train))
        frames, teacher, seed = self.model.frames_per_segment, config.train.teacher, config.train.seed
        self.teacher = Teacher(teacher, self.model, self.classes, self.device) if teacher else None
        read = self.teacher.frames_per_segment if self.teacher else frames
        self.train_set = ClipDataset(train_videos, config.data, frames_per_segment=read, train=True, seed=seed)
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

    def _build(self, config: ModelConfig) -> Network:
        train = self.config.train
        model = build_model(config, num_classes=len(self.classes), classes=self.classes)
        if train.segments:  # TDN computes with it, in the same way whatever a step draws
            model.num_segments_trained = self.config.data.num_segments
        model.trunk.checkpoint_activations = train.checkpoint_activations
        if train.partial_bn:
            freeze_partial_bn(model)
        self.synced = train.sync_bn and self.accelerator.num_processes > 1 and self.device.type == "cuda"
        if self.synced:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        layout = torch.channels_last if train.channels_last else torch.contiguous_format
        return model.to(self.device).to(memory_format=layout)

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.accelerator.device

    @property
    def done_steps(self) -> int:
        """Optimiser steps since the run's start."""
        return self.state.epoch * self.steps_per_epoch + self.state.step

    @property
    def tested(self) -> Network:
        """The weights that are tested and kept: the moving average, where there is one."""
        return self.model if self.average is None else self.average

    def finished(self) -> bool:
        """Whether all epochs are done, or too many of them without a better validation."""
        train, state = self.config.train, self.state
        waited = state.epoch - state.best_epoch if state.best_epoch else 0
        return state.epoch >= train.epochs or 0 < train.early_stopping <= waited

    def _zeros(self) -> Tensor:
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        return torch.zeros(3, dtype=exact, device=self.device)

    def _make_loader(self) -> ClipLoader:
        """This process's share of every part of every step; their order depends on seed and epoch alone."""
        train, accelerator, count = self.config.train, self.accelerator, len(self.train_set)
        part = train.batch_size // train.accumulate
        return make_loader(
            self.train_set,
            batch_size=part // accelerator.num_processes,
            shuffle=True,
            seed=train.seed,
            workers=self.config.data.workers,
            drop_last=count > part and count % part == 1,  # batch norm learns nothing good from one clip
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            weights=sample_weights(self.train_set.videos.labels, train),
            in_hand=train.accumulate,
        )

    def steps(self) -> Iterator[list[Batch]]:
        """The batches of this process in each remaining step of the epoch, at most `accumulate` per step.

        The last list is empty, so that processes also agree at the end of an epoch; it comes early in a process that
        a signal reaches while it waits for data.
        """
        self.clock = time.monotonic()
        self.loader.set_epoch(self.state.epoch, start=self.state.step * self.config.train.accumulate)
        batches = iter(self.loader)
        while True:
            parts = self._next(batches)
            for index, reason in (error for part in parts for error in part["errors"]):
                self.note_unreadable(self.train_set.videos[index].path, reason)
            yield parts
            if not parts:
                return

    def _next(self, batches: Iterator[Batch]) -> list[Batch]:
        start = time.monotonic()
        try:
            with self.signals.at_once():
                return list(islice(batches, self.config.train.accumulate))
        except Asked:
            return []
        finally:
            self.state.waited += time.monotonic() - start

    def note_unreadable(self, path: str, reason: str) -> None:
        """Remember a video that cannot be read.

        Raises:
            VideoError: `data.on_unreadable` is `error`.
        """
        if self.config.data.on_unreadable == "error":
            raise VideoError(path, f"{reason} (data.on_unreadable: skip leaves such videos out)")
        if path not in self.state.unreadable:
            self.state.unreadable[path] = reason
            log.warning("left out, cannot be read: %s: %s", path, reason)

    def agree(self, parts: list[Batch]) -> tuple[int, int]:
        """Over all processes: how many clips this step has, and the signal that came to one of them, or 0."""
        mine = [sum(len(part["label"]) for part in parts), self.signals.number]
        both = self.accelerator.gather(torch.tensor([mine], device=self.device))  # [processes, 2]
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
        frames, labels = (part[key].to(self.device, non_blocking=True) for key in ("frames", "label"))
        train, weights = self.config.train, self.loss_weights
        mixed, shares = mix_clips(frames, labels, num_classes=len(self.classes), mixup=train.mixup, cutmix=train.cutmix)
        key = self.teacher.key_frame if self.teacher else self.model.key_frame
        clips = exchange_scenes(mixed[:, 0], share=train.exchange, key=key)  # [B, T, K, 3, H, W]
        own = self.teacher.seen_by_student(clips) if self.teacher else clips
        self.watched = own[:WATCHED_CLIPS]
        if train.segments:
            own = own[:, kept_segments(own.shape[1], train, step=self.done_steps)]
        with self.accelerator.autocast():
            logits = self.model(own)
            taught = self.teacher(clips) if self.teacher else None
        weights = None if weights is None else weights.to(self.device)
        loss = clip_loss(logits.float(), shares, self.config, weights)
        if taught is not None:
            loss = torch.lerp(loss, teaching_loss(logits.float(), taught.float()), train.teacher_weight)
        right = torch.zeros_like(loss) if self.multi_label else (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss.detach(), right, torch.tensor(len(labels), device=loss.device)])
        return loss

    def _empty_loss(self) -> Tensor:
        if not self.synced:
            return torch.zeros((), device=self.device, requires_grad=True)
        # the other processes wait for this one's batch norms
        data, frames = self.config.data, self.model.frames_per_segment
        shape = (1, data.num_segments, frames, 3, data.size, data.size)
        return self.model(torch.zeros(shape, dtype=torch.uint8, device=self.device)).sum() * 0

    def text(self) -> str:
        """Where the run is, in words; loss and accuracy are this process's."""
        loss, right, clips = self.sums.tolist()
        rate = clips * self.accelerator.num_processes / max(1e-9, self.seconds_in_epoch())
        place = f"epoch {self.state.epoch + 1}/{self.config.train.epochs}"
        place += f", step {self.state.step}/{self.steps_per_epoch}"
        clips = max(1, clips)
        top1 = "" if self.multi_label else f", top-1 {right / clips:.1%}"
        return f"{place}: loss {loss / clips:.3f}{top1}, {rate:.1f} clips/s, waiting for data {self.waiting():.0%}"

    def seconds_in_epoch(self) -> float:
        """Time that this epoch has taken so far, over all parts of a resumed run."""
        return self.state.seconds + time.monotonic() - self.clock

    def waiting(self) -> float:
        """Share of this epoch's time so far in which this process waited for data, 0 to 1."""
        return self.state.waited / max(1e-9, self.seconds_in_epoch())

    def finish_epoch(self, display: Display) -> ScoreTable | None:
        """Validate if it is time, and add the epoch's figures to the history; returns the scores if they are the best.

        Raises:
            DivergedError: the loss is not a finite number.
            Asked: a signal came during validation, which is done again by a resumed run.
        """
        state, train = self.state, self.config.train
        row = state.row = state.row or self._trained()
        epoch = state.epoch + 1
        table, judged = None, -1.0
        if epoch % train.val_every == 0 or epoch == train.epochs:
            table = self._validate(display)
            figures = table.validation(self.validation)
            judged = figures["val_map" if self.multi_label else "val_top1"] or 0.0
            row |= figures
        state.epoch, state.step, state.seconds, state.waited = epoch, 0, 0.0, 0.0
        state.row, self.sums = None, self._zeros()
        state.history.append(row)
        if table is not None and judged > state.best_top1:
            state.best_epoch, state.best_top1 = epoch, judged
            return table
        return None

    def _trained(self) -> EpochRow:
        """The epoch's figures before validation.

        Raises:
            DivergedError: the loss is not a finite number.
        """
        epoch, train = self.state.epoch + 1, self.config.train
        loss, right, clips = self.accelerator.reduce(self.sums, reduction="sum").tolist()
        if not math.isfinite(loss) and self.accelerator.scaler is None:  # which passes over steps that overflow
            raise DivergedError(
                f"{self.out}: the loss of epoch {epoch} is {loss}, training has diverged "
                f"(train.lr is {train.lr:g}); {LAST} is the state before this epoch"
            )
        seconds = self.seconds_in_epoch()
        return {
            "epoch": epoch,
            "lr": learning_rate(self.done_steps - 1, self.steps_per_epoch, train),
            "train_loss": loss / max(1, clips),
            **({} if self.multi_label else {"train_top1": right / max(1, clips)}),
            "seconds": seconds,
            "clips_per_s": clips / max(1e-9, seconds),
            "waiting": self.waiting(),
            **self._gates(),
        }

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
            at_once=self.signals.at_once,
        )
        for index, reason in enumerate(table.errors):
            if reason:
                self.note_unreadable(self.val_set.videos[index].path, reason)
        return table

    def result(self) -> TrainResult:
        """How the run ended."""
        s = self.state
        top1, mean_precision = (None, s.best_top1) if self.multi_label else (s.best_top1, None)
        unreadable, history = dict(s.unreadable), list(s.history)
        return TrainResult(self.out, s.epoch, s.best_epoch, top1, mean_precision, unreadable, history)
