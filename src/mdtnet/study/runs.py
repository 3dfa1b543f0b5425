"""The runs of a study: each is a process of `mdtnet train`, several at a time; each result becomes a row.

A run's folder is an ordinary run directory; `NAME.yaml` beside it is its config, `NAME.log` its output.
"""

import logging
import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import BinaryIO

import numpy as np
import torch

from mdtnet.builtin.actions import REVERSAL_PAIRS
from mdtnet.builtin.render import render_dataset
from mdtnet.config import GATE_FIGURES, PARTS, DataConfig, EvalConfig, RunConfig, eval_crop_size
from mdtnet.config_file import from_dict, load_yaml, save_yaml, to_dict
from mdtnet.data.annotations import write_list
from mdtnet.data.splits import group_keys, load_split
from mdtnet.errors import ConfigError, DataError, MdtnetError
from mdtnet.measure.cost import Cost, count
from mdtnet.metrics import pair_accuracy, readable
from mdtnet.models.build import build_model
from mdtnet.models.gates import parts_of
from mdtnet.pages.pictures import VARIANTS, saliency_sheet
from mdtnet.scores import ScoreTable, load_figures
from mdtnet.study.grid import PATHS, Spec, Study, hash_of, render_options
from mdtnet.study.predictions import UNREADABLE, add_predictions
from mdtnet.study.results import RESULTS, RunRow, append_row, write_configs
from mdtnet.system.machine import commit, hardware
from mdtnet.system.processes import Signals
from mdtnet.training.run_folder import BEST, LAST, read_history
from mdtnet.work.engines import MOST_STARTS, Engine
from mdtnet.work.remote import LOST, Launch, Process, launch_here, launch_on_ray

if sys.platform != "win32":  # on Windows nothing keeps two studies from the same run
    import fcntl

log = logging.getLogger(__name__)

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.2
ONE_VIEW = EvalConfig()


class StudyFailed(MdtnetError):
    """Some runs failed; the others are finished."""

    exit_code = 5


class StudyStopped(MdtnetError):
    """A signal stopped the study; `exit_code` is 128 + the signal's number."""

    def __init__(self, number: int, study: Study) -> None:
        super().__init__(f"stopped; go on with: mdtnet study {study.path}")
        self.exit_code = 128 + number


@dataclass
class Job:
    """A run in progress: its current process and the commands still to run."""

    spec: Spec
    folder: Path
    config: RunConfig
    commands: list[list[str]]
    started: float = field(default_factory=time.monotonic)
    starts: int = 1
    """Times that it was started; more than once after its node was lost."""
    process: Process | None = None
    signalled: bool = False
    """Whether `process` was sent the signal that stops the study."""
    failure: str = ""
    """Why it cannot be run; empty if it can."""


def run_study(
    study: Study,
    specs: Sequence[Spec],
    *,
    root: str = "",
    jobs: int = 1,
    engine: Engine = "local",
    num_gpus: float = 0.0,
) -> None:
    """Run `specs`, `jobs` at a time, and add a row for each to `results.csv`.

    With `engine` ray each is a process somewhere in a cluster, with one CPU and `num_gpus`; a lost node costs the runs
    that it was working on, which go on elsewhere from their last checkpoints.

    A run that was stopped goes on; one that is finished but has no row gets its row. Relative paths of data are looked
    for in `root` first, then beside the study's file.

    Raises:
        DataError: data are missing.
        StudyFailed: some runs failed.
        StudyStopped: a signal came; the runs have saved their state.
    """
    if jobs < 1:
        raise ConfigError(f"--jobs is {jobs}, expected at least 1")
    write_configs(study)
    asked = {_paths(spec): spec for spec in specs}
    places = {paths: locate(study, spec, root=root, workers=jobs) for paths, spec in asked.items()}
    waiting = [(spec, _resolved(study, spec, places[_paths(spec)])) for spec in specs]
    for name in dict.fromkeys(spec.data.name for spec in specs):
        first = next(s for s in study.specs if s.data.name == name and _paths(s) in places)
        _draw(picture_of(study, name), _resolved(study, first, places[_paths(first)]))
    failed: list[Spec] = []
    paces: dict[str, list[float]] = defaultdict(list)
    with Signals() as signals:
        launch = _launcher(study, [config for _, config in waiting], jobs, engine, num_gpus)
        for job, ok in _finished(study, waiting, jobs, signals, launch):
            done = ok and _note_result(study, job)
            if not done:
                failed.append(job.spec)
                log.error("failed: %s: %s", job.spec, job.failure or _last_words(job.folder))
            paces[job.spec.system].append(time.monotonic() - job.started)
            left = time_left([s for s, _ in waiting], paces) / jobs
            log.info("%d runs to start%s", len(waiting), f", {duration(left)} left" if waiting else "")
        if signals.number:
            raise StudyStopped(signals.number, study)
    if failed:
        raise StudyFailed(f"{len(failed)} of {len(specs)} runs failed: {', '.join(map(str, failed))}")


def time_left(specs: Sequence[Spec], seconds: dict[str, list[float]]) -> float:
    """Estimated seconds of runs one after the other: each as the mean of its system's runs, else of all."""
    known = {system: fmean(values) for system, values in seconds.items() if values}
    every = fmean(known.values()) if known else 0.0
    return sum(known.get(spec.system, every) for spec in specs)


def duration(seconds: float) -> str:
    """Seconds in words, to the minute."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


# ---- data ---------------------------------------------------------------------------------------------


def _paths(spec: Spec) -> tuple[str, ...]:
    """All that decides where a run's data are: the data set, and the paths as written (a variant may change them)."""
    return spec.data.name, *(getattr(spec.config.data, key) for key in PATHS)


def locate(study: Study, spec: Spec, *, root: str, workers: int) -> dict[str, str]:
    """Paths of a run's data on this machine; a built-in set is rendered if need be.

    Raises:
        DataError: a file or folder is missing.
    """
    data, cache = spec.data, {"cache": str(study.out / "cache")}
    if data.render:
        folder = study.out / "data" / f"{data.name}_{hash_of(render_options(data.render))}"
        render_dataset(folder, data.render, workers=workers)
        return cache | {"train": str(folder / "train.csv"), "val": str(folder / "val.csv")}
    if not spec.config.data.train:
        raise ConfigError(f"{study.path}: data '{data.name}': train is empty, expected a folder or a list file")
    paths = {key: getattr(spec.config.data, key) for key in PATHS}
    return cache | {key: str(_found(study, data.name, key, path, root)) for key, path in paths.items() if path}


def _found(study: Study, data: str, key: str, path: str, root: str) -> Path:
    folders = [Path(root), study.path.parent] if root else [study.path.parent]
    for folder in folders:
        if (folder / path).exists():
            return folder / path
    tried = " and ".join(str(folder) for folder in folders)
    hint = "" if root else "; mdtnet study --root FOLDER says where the data are"
    raise DataError(f"{study.path}: data '{data}': {key} is '{path}', which is not in {tried}{hint}")


def picture_of(study: Study, data: str) -> Path:
    """The sheet that shows a data set. It lies beside the data, not in the results, which may be published."""
    return study.out / "pictures" / f"{data}.jpg"


def _draw(path: Path, config: RunConfig) -> None:
    """Draw frames of one training video as networks get them, under every variant of the salience map."""
    video, data = load_split(config.data)[0][0], config.data
    try:
        saliency_sheet(
            video.path,
            path,
            [replace(config.model.saliency, variant=variant) for variant in VARIANTS],
            num_segments=5,
            frame_stride=data.frame_stride,
            exposure=data.exposure,
            start=video.start,
            end=video.end,
        )
    except MdtnetError as error:  # the runs report bad videos themselves
        log.warning("no picture: %s", error)


def _resolved(study: Study, spec: Spec, places: dict[str, str]) -> RunConfig:
    own = {key: value for key, value in places.items() if key != "cache" or not spec.config.data.cache}
    data: DataConfig = from_dict(DataConfig, {**to_dict(spec.config.data), **own})
    return replace(spec.config, out=str(folder_of(study, spec)), data=data)


def folder_of(study: Study, spec: Spec) -> Path:
    """The run directory."""
    return study.out / "runs" / spec.name


# ---- processes ----------------------------------------------------------------------------------------


def _launcher(study: Study, configs: Sequence[RunConfig], jobs: int, engine: Engine, num_gpus: float) -> Launch:
    """How the commands of runs are started; a value of the number of threads that the user has set wins."""
    if engine == "ray":
        threads = {name: os.environ.get(name, "1") for name in THREADS}
        data = {str(Path(config.data.train).absolute()) for config in configs}
        return launch_on_ray(threads, num_gpus=num_gpus, places=[str(study.out.absolute()), *sorted(data)])
    threads = dict.fromkeys(THREADS, str(max(1, (os.cpu_count() or 1) // jobs)))
    return launch_here(threads | os.environ)


def _finished(
    study: Study, waiting: list[tuple[Spec, RunConfig]], jobs: int, signals: Signals, launch: Launch
) -> Iterator[tuple[Job, bool]]:
    """Yield runs as they end, and whether all of their commands succeeded; those that start leave `waiting`."""
    running: list[Job] = []
    with _killed_at_the_end(running):
        while (waiting and not signals.number) or running:
            while waiting and len(running) < jobs and not signals.number:
                running.append(_start(study, *waiting.pop(0), launch))
            if signals.number:
                _pass_on(running, signals.number)
            for job in list(running):
                if (code := _code(job, launch, go_on=not signals.number)) is not None:
                    running.remove(job)
                    if code == LOST and job.starts < MOST_STARTS and not signals.number:
                        log.warning("its machine was lost: %s", job.spec)
                        running.append(_start(study, job.spec, job.config, launch, starts=job.starts + 1))
                    elif code == 0 or not signals.number:
                        yield job, code == 0
            time.sleep(POLL_SECONDS)


@contextmanager
def _killed_at_the_end(running: list[Job]) -> Iterator[None]:
    """Kill the processes that still run when the context ends: none outlives the study."""
    try:
        yield
    finally:
        for job in running:
            if job.process and job.process.poll() is None:
                job.process.kill()
                job.process.wait()


def _pass_on(running: list[Job], number: int) -> None:
    """Send a signal to every process, once."""
    for job in running:
        if job.process and not job.signalled:
            job.process.send_signal(number)
            job.signalled = True


def _start(study: Study, spec: Spec, config: RunConfig, launch: Launch, *, starts: int = 1) -> Job:
    folder = Path(config.out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    job = Job(spec, folder, config, [], starts=starts)
    if not _is_trained(folder, config):
        given = folder.with_name(folder.name + ".yaml")
        save_yaml(config, given)
        resume = ["--resume"] if (folder / LAST).is_file() else []
        job.commands.append(["train", "--config", str(given), *resume])
    tested = bool(job.commands) or (folder / LAST).is_file()
    if has_views(config.test) and not (folder / "test" / "metrics.json").is_file():
        try:
            job.commands.append(_test_command(folder, config))
        except MdtnetError as error:
            job.commands, job.failure = [], str(error)
    if study.knock_out and tested and not job.failure:
        try:
            job.commands += _knock_outs(folder, config)
        except MdtnetError as error:
            job.commands, job.failure = [], str(error)
    if job.commands:
        log.info("%s: %s", "goes on" if "--resume" in job.commands[0] else "starts", spec)
    _launch(job, launch)
    return job


def _launch(job: Job, launch: Launch) -> None:
    """Start the next command, if there is one; the study passes Ctrl-C on."""
    if not job.commands:
        job.process = None
        return
    with open(job.folder.with_name(job.folder.name + ".log"), "ab") as output:
        if not _is_ours(output):
            job.process, job.failure = None, "another process is training this run"
            return
        job.signalled = False
        job.process = launch(job.commands.pop(0), output)


def _is_ours(output: BinaryIO) -> bool:
    """Lock a run's log. Its process inherits the lock and holds it until it ends, even if the study dies first."""
    if sys.platform != "win32":
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _code(job: Job, launch: Launch, *, go_on: bool) -> int | None:
    """The exit code of a run that has ended, else None; after a command that succeeded the next one is started."""
    if job.failure:
        return 1
    code = job.process.poll() if job.process else 0
    if code == 0 and job.commands and go_on:
        _launch(job, launch)
        return None
    return 1 if code == 0 and job.commands else code


def _is_trained(folder: Path, config: RunConfig) -> bool:
    log_file = folder / "log.csv"
    return (
        (folder / "metrics.json").is_file()
        and log_file.is_file()
        and len(read_history(log_file)) >= config.train.epochs
    )


def has_views(test: EvalConfig) -> bool:
    """Whether a test differs from the one after training, which is one clip and its centre crop."""
    keys = ("clips", "crops", "crop_size", "rule", "flip", "segments")
    return any(getattr(test, key) != getattr(ONE_VIEW, key) for key in keys)


def _knock_outs(folder: Path, config: RunConfig) -> list[list[str]]:
    """The same test without each part of the network that was not tested without it yet."""
    with torch.device("meta"):
        parts = parts_of(build_model(replace(config.model, weights=""), num_classes=2))
    missing = [part for part in parts if not (folder / f"without_{part}" / "metrics.json").is_file()]
    return [_test_command(folder, config, without=part) for part in missing]


def _test_command(folder: Path, config: RunConfig, *, without: str = "") -> list[str]:
    """The command that tests the last weights on the validation part, by the config's own protocol."""
    videos = load_split(config.data)[1]
    listed = folder.with_name(folder.name + ".csv")
    write_list(listed, videos, root=str(listed.parent))
    options = {key: value for key, value in to_dict(config.test).items() if value != getattr(ONE_VIEW, key)}
    chosen = [text for key, value in options.items() for text in (f"--{key}", str(value).lower())]
    out = f"without_{without}" if without else "test"
    chosen += ["--without", without] if without else []
    return ["test", str(folder / LAST), "--data", str(listed), "--out", str(folder / out), *chosen]


def _last_words(folder: Path) -> str:
    """The last line of a run's log."""
    path = folder.with_name(folder.name + ".log")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1].removeprefix('mdtnet: ') if lines else 'said nothing'} ({path})"


# ---- results ------------------------------------------------------------------------------------------


def _note_result(study: Study, job: Job) -> bool:
    """Add the row of a run that succeeded and delete the checkpoints that are not kept; False if it cannot be read."""
    try:
        row = collect(study, job.spec, job.folder)
        keep_predictions(study, job.spec, job.folder)
    except (MdtnetError, OSError) as error:
        with open(job.folder.with_name(job.folder.name + ".log"), "a", encoding="utf-8") as file:
            file.write(f"{error}\n")
        return False
    append_row(study.results / RESULTS, row)
    log.info("done: %s: top-1 %.1f %%, training %s", job.spec, 100 * row.top1, duration(row.seconds))
    for name, keep in ((LAST, "last"), (BEST, "best")):
        if study.keep not in (keep, "all"):
            (job.folder / name).unlink(missing_ok=True)
    if study.keep == "none":
        shutil.rmtree((job.folder / LAST).parent, ignore_errors=True)
    return True


def collect(study: Study, spec: Spec, folder: Path) -> RunRow:
    """The row of a finished run.

    Raises:
        DataError: the run is not finished, or its figures are missing.
    """
    history = read_history(folder / "log.csv")
    if len(history) != spec.config.train.epochs:
        raise DataError(f"{folder}: has {len(history)} epochs, expected {spec.config.train.epochs}")
    tested = _tested(spec, folder)
    figures = load_figures(tested)
    cost = cost_of(spec.config, len(figures["classes"]))
    test = spec.config.test
    pairs, pair_videos = _inside_pairs(spec, ScoreTable.load(tested / "scores.npz"))
    return RunRow(
        study=study.name,
        data=spec.data.name,
        system=spec.system,
        variant=spec.variant,
        seed=spec.seed,
        fold=spec.fold,
        trunk=spec.config.model.trunk,
        top1=figures["top1"] or 0.0,
        top5=figures["top5"] if len(figures["classes"]) > 5 else None,
        mean_class=figures["mean_class"] or 0.0,
        pairs=pairs,
        pair_videos=pair_videos,
        **_parts(folder, history[-1]),
        videos=figures["videos"],
        unreadable=figures["unreadable"],
        clips=test.clips,
        crops=test.crops,
        views=test.clips * test.crops * (1 + test.flip),
        gmacs=cost.gmacs,
        parameters=cost.parameters,
        epochs=len(history),
        seconds=sum(row.get("seconds") or 0.0 for row in history),
        machine=hardware(),
        commit=commit(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        config=spec.hash,
    )


def _parts(folder: Path, last: dict[str, float | None]) -> dict[str, float | None]:
    """How far parts are on after the last epoch, and top-1 of the tests with a part silenced, as far as there are."""
    tests = {f"without_{part}": folder / f"without_{part}" for part in PARTS}
    tested = {name: load_figures(path)["top1"] for name, path in tests.items() if (path / "metrics.json").is_file()}
    return {**{name: last.get(name) for name in GATE_FIGURES}, **tested}


def _tested(spec: Spec, folder: Path) -> Path:
    """The folder with the results of a run's test."""
    return folder / "test" if has_views(spec.config.test) else folder


def keep_predictions(study: Study, spec: Spec, folder: Path) -> None:
    """Add the predictions of a finished run to the study's `predictions.csv`.

    Raises:
        DataError: they are missing, or not of the videos that the run was tested on.
    """
    config = load_yaml(folder / "config.yaml")
    videos, table = load_split(config.data)[1], ScoreTable.load(_tested(spec, folder) / "scores.npz")
    if not np.array_equal(videos.labels, table.labels):
        raise DataError(f"{folder}: its scores are not of the {len(videos)} videos of its config")
    scores = table.fuse(config.test.fusion)
    classes = np.where(readable(scores), scores.argmax(1), UNREADABLE).tolist()
    names = [videos.name(i) for i in range(len(videos))]
    keys = group_keys(videos, config.data.group)
    groups = names if keys is None else [f"{spec.fold or 0}.{key}" for key in keys.tolist()]
    add_predictions(
        study.results,
        spec,
        dict(zip(names, classes)),
        labels=dict(zip(names, table.labels.tolist())),
        groups=dict(zip(names, groups)),
        classes=table.classes,
    )


def _inside_pairs(spec: Spec, table: ScoreTable) -> tuple[float | None, int | None]:
    """Accuracy inside pairs of classes that are time reversals, and over how many videos; None without pairs."""
    wanted = REVERSAL_PAIRS if spec.data.pairs is None else spec.data.pairs
    pairs = [pair for pair in wanted if set(pair) <= set(table.classes)]
    if not pairs:
        return None, None
    scores, labels = table.fuse(spec.config.test.fusion), table.labels
    if spec.config.test.on_unreadable == "exclude":
        scores, labels = scores[readable(scores)], labels[readable(scores)]
    found = pair_accuracy(scores, labels, table.classes, pairs)
    return found["accuracy"], found["support"]


def cost_of(config: RunConfig, num_classes: int) -> Cost:
    """Cost of one view of a run's network."""
    with torch.device("meta"):
        model = build_model(replace(config.model, weights=""), num_classes=num_classes)
    return count(model, num_segments=config.data.num_segments, size=eval_crop_size(config.data, config.test))
