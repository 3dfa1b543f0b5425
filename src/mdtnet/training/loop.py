"""Training: one loop in a fixed order, the same on a CPU, a GPU and several processes.

All state of the loop is in `checkpoints/last.pt`, so a run that was stopped goes on as if it had not been.
"""

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from mdtnet.checks import check_config
from mdtnet.config import RunConfig
from mdtnet.system.processes import Asked, Interrupted, Signals, make_accelerator
from mdtnet.system.terminal import Display, log_file
from mdtnet.training.recipe import set_train_mode
from mdtnet.training.record import Record
from mdtnet.training.run import Run, TrainResult
from mdtnet.training.run_folder import LAST, check_folder, claimed


def train(config: RunConfig, *, resume: bool = False) -> TrainResult:
    """Train a model; everything it writes is in the folder `config.out` (empty: a new one in `runs/`).

    Raises:
        ConfigError: options that do not fit together, a folder that holds a run, or (resuming) a changed one.
        DataError: the videos.
        VideoError: one of them, under `data.on_unreadable: error`.
        CheckpointError: there is nothing to resume, or it is damaged.
        DivergedError: the loss is no number any more.
        WorkerError: a process that reads videos was killed or does not get on.
        Interrupted: SIGINT or SIGTERM came; the state was saved.
        Asked: it came before there was a state.
    """
    trackers = [name for name in config.train.trackers if name != "csv"]
    accelerator = make_accelerator(
        config.train.device,
        amp=config.train.amp,
        log_with=trackers or None,
        project_config=ProjectConfiguration(logging_dir="runs"),  # until processes can agree on a folder
    )
    torch.backends.cudnn.deterministic = True  # on a GPU the same run gives the same weights
    check_config(config, processes=accelerator.num_processes)
    with claimed(config, main=accelerator.is_main_process) as out:
        return _train(dataclasses.replace(config, out=out), accelerator, resume=resume)


def _train(config: RunConfig, accelerator: Accelerator, *, resume: bool) -> TrainResult:
    accelerator.project_configuration.logging_dir = str(Path(config.out, "tensorboard"))
    check_folder(config, resume=resume)
    accelerator.wait_for_everyone()  # nobody writes before everybody has looked
    begun = Path(config.out, LAST).parent  # a run that fails before leaves nothing, no log either
    with log_file(Path(config.out, "train.log"), begun, active=accelerator.is_main_process), Signals() as signals:
        with signals.at_once():
            run = Run(config, accelerator, signals, resume=resume)
            record = Record(run)
            if resume:
                record.load()
        record.open()
        try:
            _loop(run, record)
        finally:
            run.loader.close()
            record.close()
    return run.result()


def _loop(run: Run, record: Record) -> None:
    """Every step in order until the run is finished: read, agree, update, save; validate after each epoch.

    Raises:
        Interrupted: a signal came to one of the processes; the state was saved.
    """
    train, main = run.config.train, run.accelerator.is_main_process
    total = train.epochs * run.steps_per_epoch
    display = Display(total_steps=total, done_steps=run.done_steps, active=main)
    with display:
        record.announce()
        while not run.finished():
            set_train_mode(run.model)
            for parts in run.steps():
                num_clips, stop = run.agree(parts)
                if stop:
                    record.save()
                    raise Interrupted(stop, run.config.out)
                if not parts:
                    break
                if num_clips:
                    run.update(parts, num_clips)
                run.state.step += 1
                if display.due():
                    display.show(run.done_steps, run.text())
                if train.save_every and run.done_steps % train.save_every == 0 and run.state.step < run.steps_per_epoch:
                    record.save()
            try:
                best = run.finish_epoch(display)
            except Asked as error:
                record.save()
                raise Interrupted(error.args[0], run.config.out) from None
            record.finish_epoch(best)
