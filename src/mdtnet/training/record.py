"""The files of a training run: checkpoints, tables, log lines, trackers; and resuming from them."""

import dataclasses
import logging

import numpy as np
import torch
from accelerate.utils import gather_object

from mdtnet.checkpoint import TrainingState, fill, load_checkpoint, save_checkpoint
from mdtnet.config import Values
from mdtnet.config_file import save_yaml, to_dict
from mdtnet.data.transforms import mirror_labels
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.models.pretrained import cost_of_start
from mdtnet.scores import ScoreTable, save_results
from mdtnet.system.files import write_csv
from mdtnet.training.recipe import (
    REFERENCE_BATCH,
    rng_state,
    set_rng_state,
)
from mdtnet.training.run import EpochRow, Run, State
from mdtnet.training.run_folder import BEST, COLUMNS, COLUMNS_MULTI_LABEL, LAST

log = logging.getLogger(__name__)


class Record:
    """Writes the files of a `Run` into its folder, and reads them to resume it."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def save(self) -> None:
        """Write `last.pt` and the tables; every process must take part."""
        sums = self.run.accelerator.reduce(self.run.sums, reduction="sum").tolist()
        rng = gather_object([rng_state()])
        for found in gather_object([self.run.state.unreadable]):
            self.run.state.unreadable |= found
        state = {
            **dataclasses.asdict(self.run.state),
            "seconds": self.run.seconds_in_epoch() if self.run.state.step else 0.0,
        }
        scaler = self.run.accelerator.scaler
        if self.run.accelerator.is_main_process:
            training: TrainingState = {
                "state": state,
                "sums": sums,
                "rng": rng,
                "num_videos": len(self.run.train_set),
                "videos": self.run.videos_digest,
                "optimizer": self.run.optimizer.state_dict(),
                "scaler": scaler.state_dict() if scaler else None,
                "model": None if self.run.average is None else dict(self.run.model.state_dict()),
            }
            save_checkpoint(
                self.run.out / LAST,
                model=self.run.tested,
                config=self.run.config,
                classes=self.run.classes,
                training_state=training,
                metrics={"epoch": self.run.state.epoch, "best_epoch": self.run.state.best_epoch},
            )
            self._write_tables()
        self.run.accelerator.wait_for_everyone()

    def _write_tables(self) -> None:
        if "csv" in self.run.config.train.trackers:
            columns = COLUMNS_MULTI_LABEL if self.run.multi_label else COLUMNS
            write_csv(self.run.out / "log.csv", columns, self.run.state.history)
        rows = [{"path": path, "reason": reason} for path, reason in sorted(self.run.state.unreadable.items())]
        write_csv(self.run.out / "unreadable.csv", ("path", "reason"), rows)

    def load(self) -> None:
        """Go on from `last.pt`.

        Raises:
            CheckpointError: it does not fit.
            ConfigError: the training data are not the same.
        """
        path = self.run.out / LAST
        checkpoint = load_checkpoint(path)
        saved = checkpoint.training_state
        if saved is None:
            raise CheckpointError(f"{path}: has no training state, there is nothing to resume")
        if checkpoint.classes != self.run.classes or saved["num_videos"] != len(self.run.train_set):
            raise ConfigError(
                f"{path}: the run had {saved['num_videos']} training videos in {len(checkpoint.classes)} "
                f"classes, now {len(self.run.train_set)} in {len(self.run.classes)} (or other ones)"
            )
        if saved.get("videos", self.run.videos_digest) != self.run.videos_digest:
            raise ConfigError(
                f"{path}: the run had other training or validation videos: expected the same names, in the same order, "
                "with the same parts and labels"
            )
        fill(self.run.model, saved["model"] or checkpoint.model_state, where=str(path))
        if self.run.average is not None:
            fill(self.run.average, checkpoint.model_state, where=str(path))
        try:
            self.run.optimizer.load_state_dict(saved["optimizer"])
        except ValueError as error:  # other parameter groups than those of this version
            raise CheckpointError(
                f"{path}: the optimiser's state is of another version of mdtnet and cannot be resumed: start a new run "
                f"with --model.weights {path}"
            ) from error
        if self.run.accelerator.scaler and saved["scaler"]:
            self.run.accelerator.scaler.load_state_dict(saved["scaler"])
        self.run.state = State(**saved["state"])
        if self.run.accelerator.is_main_process:
            self.run.sums += torch.tensor(saved["sums"], dtype=self.run.sums.dtype, device=self.run.device)
        if len(saved["rng"]) == self.run.accelerator.num_processes:  # otherwise dropout is drawn anew
            set_rng_state(saved["rng"][self.run.accelerator.process_index])

    def open(self) -> None:
        """Write the state before anything is learned: from now on there is something to resume."""
        (self.run.out / LAST).parent.mkdir(parents=True, exist_ok=True)
        self.save()
        if self.run.accelerator.is_main_process:
            save_yaml(self.run.config, self.run.out / "config.yaml")
            self._start_trackers()

    def finish_epoch(self, best: ScoreTable | None) -> None:
        """Log the epoch's figures, keep the weights where they are the `best`, and save the state."""
        if best is not None:
            self._keep(best)
        self._log(self.run.state.history[-1])
        self.save()

    def _keep(self, table: ScoreTable) -> None:
        if self.run.accelerator.is_main_process:
            row: Values = {k: v for k, v in self.run.state.history[-1].items() if v is not None}
            save_checkpoint(
                self.run.out / BEST,
                model=self.run.tested,
                config=self.run.config,
                classes=self.run.classes,
                metrics=row,
            )
            save_results(self.run.out, table, self.run.validation)

    def _log(self, row: EpochRow) -> None:
        if self.run.accelerator.is_main_process:
            shown = {k: v for k, v in row.items() if k not in ("epoch", "waiting") and v is not None}
            figures = ", ".join(f"{k} {v:.4g}" for k, v in shown.items())
            log.info("epoch %d: %s, waiting for data %.0f%%", row["epoch"], figures, 100 * (row.get("waiting") or 0))
        self.run.accelerator.log({k: v for k, v in row.items() if v is not None and k != "epoch"}, step=row["epoch"])

    def announce(self) -> None:
        """Say what is trained, on what, with which learning rate."""
        if not self.run.accelerator.is_main_process:
            return
        train, model = self.run.config.train, self.run.config.model
        trained = sum(p.numel() for p in self.run.model.parameters() if p.requires_grad)
        rate = train.lr * train.batch_size / REFERENCE_BATCH
        log.info("%s on %s, %.2f M trained parameters", model.name, model.trunk, trained / 1e6)
        log.info("%d training and %d validation videos", len(self.run.train_set), len(self.run.val_set))
        if not self.run.resumed and (cost := cost_of_start(str(self.run.model.pretrained), self.run.classes)):
            log.warning("warning: %s", cost)
        if (
            self.run.config.data.flip is True
            and (mirror_labels(self.run.classes) != np.arange(len(self.run.classes))).any()
        ):
            log.warning("warning: class names say left and right, and clips are mirrored: data.flip swap or false")
        log.info("learning rate %g x %d / %d = %g", train.lr, train.batch_size, REFERENCE_BATCH, rate)
        log.info("%s, %d process(es)", self.run.device.type, self.run.accelerator.num_processes)
        if self.run.done_steps:
            log.info("resumed at epoch %d, step %d", self.run.state.epoch + 1, self.run.state.step)

    def _start_trackers(self) -> None:
        self.run.accelerator.init_trackers(
            "mdtnet",
            init_kwargs={
                "tensorboard": {"purge_step": self.run.state.epoch + 1},
                "wandb": {"dir": str(self.run.out), "name": self.run.out.name, "config": to_dict(self.run.config)},
            },
        )

    def close(self) -> None:
        """Let the trackers write what they hold."""
        for tracker in self.run.accelerator.trackers:
            tracker.finish()
