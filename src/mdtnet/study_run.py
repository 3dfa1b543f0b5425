"""The runs of a study: each a process of `mdtnet train`, several at a time, whose results become rows.

A run's folder is an ordinary run directory; `NAME.yaml` beside it is what it is started with, `NAME.log` what it said.
"""

import logging
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any, BinaryIO

import torch

from mdtnet.checkpoint import hardware
from mdtnet.config import RunConfig, TestConfig, save_yaml, test_crop_size, to_dict
from mdtnet.cost import Cost, count
from mdtnet.data.annotations import write_list
from mdtnet.data.synthetic import REVERSAL_PAIRS, render_dataset
from mdtnet.errors import ConfigError, DataError, MdtnetError
from mdtnet.evaluation import ScoreTable, load_figures, load_split
from mdtnet.gates import FIGURES, PARTS, parts_of
from mdtnet.metrics import pair_accuracy, readable
from mdtnet.models.build import build_model
from mdtnet.pictures import VARIANTS, contact_sheet
from mdtnet.report import read_history
from mdtnet.runlog import BEST, LAST, Signals
from mdtnet.study import PATHS, Spec, Study, hash_of, rendered
from mdtnet.study_results import RESULTS, Row, append_row, write_configs

try:
    import fcntl
except ImportError:  # Windows: there nothing keeps two studies from the same run
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLL_SECONDS = 0.2
ONE_VIEW = TestConfig()


class StudyFailed(MdtnetError):
    """Some runs failed; the others are done."""

    exit_code = 5


class StudyStopped(MdtnetError):
    """A signal stopped the study; `exit_code` is 128 + the signal's number."""

    def __init__(self, number: int, study: Study) -> None:
        super().__init__(f"stopped; go on with: mdtnet study {study.path}")
        self.exit_code = 128 + number


@dataclass
class Job:
    """A run on its way: the commands that are left of it, and the process of the first of them."""

    spec: Spec
    folder: Path
    commands: list[list[str]]
    started: float = field(default_factory=time.monotonic)
    process: subprocess.Popen | None = None
    failure: str = ""
    """Why it cannot be run; "" while nothing says so."""


def run_study(study: Study, specs: Sequence[Spec], *, root: str = "", jobs: int = 1) -> None:
    """Run `specs`, `jobs` at a time, and add a row for each to `results.csv`.

    A run that was stopped goes on; one that is finished but has no row gets its row. `root` is where relative paths of
    data are looked for first, then beside the study's file.

    Raises:
        DataError: data that are not there. StudyFailed: some runs failed. StudyStopped: a signal came; the runs have
        saved their state.
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
        for job, ok in _finished(study, waiting, jobs, signals):
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
    """Seconds that runs will take one after the other, by the mean of their system's, else of all."""
    known = {system: fmean(values) for system, values in seconds.items() if values}
    every = fmean(known.values()) if known else 0.0
    return sum(known.get(spec.system, every) for spec in specs)


def duration(seconds: float) -> str:
    """In words, to the minute."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


# ---- data ---------------------------------------------------------------------------------------------


def _paths(spec: Spec) -> tuple[str, ...]:
    """What decides where a run's data are: the data set and the paths as written, which a variant may change."""
    return spec.data.name, *(getattr(spec.config.data, key) for key in PATHS)


def locate(study: Study, spec: Spec, *, root: str, workers: int) -> dict[str, str]:
    """Paths of a run's data, as they are on this machine; a built-in set is rendered if need be.

    Raises:
        DataError: a file or folder that is not there.
    """
    data, cache = spec.data, {"cache": str(study.out / "cache")}
    if data.render:
        folder = study.out / "data" / f"{data.name}_{hash_of(rendered(data.render))}"
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
    """The sheet that shows a data set: it stays beside the data, and out of the results, which others may publish."""
    return study.out / "pictures" / f"{data}.jpg"


def _draw(path: Path, config: RunConfig) -> None:
    """Frames of one training video as networks get them, and what every variant of the salience map makes of them."""
    video, data = load_split(config.data)[0][0], config.data
    try:
        contact_sheet(
            video.path,
            path,
            [replace(config.model.saliency, variant=variant) for variant in VARIANTS],
            num_segments=5,
            frame_stride=data.frame_stride,
            exposure=data.exposure,
            start=video.start,
            end=video.end,
        )
    except MdtnetError as error:  # the runs themselves say what a bad video means to them
        log.warning("no picture: %s", error)


def _resolved(study: Study, spec: Spec, places: dict[str, str]) -> RunConfig:
    own = {key: value for key, value in places.items() if key != "cache" or not spec.config.data.cache}
    return replace(spec.config, out=str(folder_of(study, spec)), data=replace(spec.config.data, **own))  # type: ignore[arg-type]


def folder_of(study: Study, spec: Spec) -> Path:
    """The run directory."""
    return study.out / "runs" / spec.name


# ---- processes ----------------------------------------------------------------------------------------


def _finished(
    study: Study, waiting: list[tuple[Spec, RunConfig]], jobs: int, signals: Signals
) -> Iterator[tuple[Job, bool]]:
    """Runs as they end, and whether all of their commands succeeded; `waiting` loses those that are started."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    environment = dict.fromkeys(THREADS, threads) | os.environ  # who sets them means them
    running: list[Job] = []
    with _ended(running):
        while (waiting and not signals.number) or running:
            while waiting and len(running) < jobs and not signals.number:
                running.append(_start(study, *waiting.pop(0), environment))
            if signals.number:
                _pass_on(running, signals.number)
            for job in list(running):
                if (code := _code(job, environment, go_on=not signals.number)) is not None:
                    running.remove(job)
                    if code == 0 or not signals.number:
                        yield job, code == 0
            time.sleep(POLL_SECONDS)


@contextmanager
def _ended(running: list[Job]) -> Iterator[None]:
    """No process outlives the study."""
    try:
        yield
    finally:
        for job in running:
            if job.process and job.process.poll() is None:
                job.process.kill()
                job.process.wait()


def _pass_on(running: list[Job], number: int) -> None:
    """A signal to every run, once."""
    for job in running:
        if job.process and not getattr(job.process, "told", False):
            job.process.send_signal(number)
            job.process.told = True  # type: ignore[attr-defined]


def _start(study: Study, spec: Spec, config: RunConfig, environment: dict[str, str]) -> Job:
    folder = Path(config.out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    job = Job(spec, folder, [])
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
    _launch(job, environment)
    return job


def _launch(job: Job, environment: dict[str, str]) -> None:
    """Start the next of the commands, if there is one, in a group of its own: Ctrl-C reaches it through the study."""
    if not job.commands:
        job.process = None
        return
    command = [sys.executable, "-m", "mdtnet", *job.commands.pop(0)]
    with open(job.folder.with_name(job.folder.name + ".log"), "ab") as output:
        if not _is_ours(output):
            job.process, job.failure = None, "another process is at this run"
            return
        job.process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL, start_new_session=True
        )


def _is_ours(output: BinaryIO) -> bool:
    """Lock a run's log; its process inherits the lock and holds it as long as it lives, whatever the study does."""
    if fcntl:
        try:
            fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _code(job: Job, environment: dict[str, str], *, go_on: bool) -> int | None:
    """The exit code of a run that ended, else None; the next of its commands is started where there is one."""
    if job.failure:
        return 1
    code = job.process.poll() if job.process else 0
    if code == 0 and job.commands and go_on:
        _launch(job, environment)
        return None
    return 1 if code == 0 and job.commands else code


def _is_trained(folder: Path, config: RunConfig) -> bool:
    log_file = folder / "log.csv"
    return (
        (folder / "metrics.json").is_file()
        and log_file.is_file()
        and len(read_history(log_file)) >= config.train.epochs
    )


def has_views(test: TestConfig) -> bool:
    """Whether a test is another one than that after training, of one clip and its centre."""
    keys = ("clips", "crops", "crop_size", "rule", "flip")
    return any(getattr(test, key) != getattr(ONE_VIEW, key) for key in keys)


def _knock_outs(folder: Path, config: RunConfig) -> list[list[str]]:
    """The same test without each part of the network that was not tested without it yet."""
    with torch.device("meta"):
        parts = parts_of(build_model(replace(config.model, weights=""), num_classes=2))
    missing = [part for part in parts if not (folder / f"without_{part}" / "metrics.json").is_file()]
    return [_test_command(folder, config, without=part) for part in missing]


def _test_command(folder: Path, config: RunConfig, *, without: str = "") -> list[str]:
    """The last weights on the validation part, by the config's own protocol."""
    videos = load_split(config.data)[1]
    listed = folder.with_name(folder.name + ".csv")
    write_list(listed, videos, root=str(listed.parent))
    options = {key: value for key, value in to_dict(config.test).items() if value != getattr(ONE_VIEW, key)}
    chosen = [text for key, value in options.items() for text in (f"--{key}", str(value).lower())]
    out = f"without_{without}" if without else "test"
    chosen += ["--without", without] if without else []
    return ["test", str(folder / LAST), "--data", str(listed), "--out", str(folder / out), *chosen]


def _last_words(folder: Path) -> str:
    """The last line that a run said."""
    path = folder.with_name(folder.name + ".log")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1].removeprefix('mdtnet: ') if lines else 'said nothing'} ({path})"


# ---- results ------------------------------------------------------------------------------------------


def _note_result(study: Study, job: Job) -> bool:
    """Add the row of a run that ended well and drop checkpoints nobody wants; False where it cannot be read."""
    try:
        row = collect(study, job.spec, job.folder)
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


def collect(study: Study, spec: Spec, folder: Path) -> Row:
    """The row of a finished run.

    Raises:
        DataError: the run is not finished, or its figures are not there.
    """
    history = read_history(folder / "log.csv")
    if len(history) != spec.config.train.epochs:
        raise DataError(f"{folder}: has {len(history)} epochs, expected {spec.config.train.epochs}")
    tested = folder / "test" if has_views(spec.config.test) else folder
    figures = load_figures(tested)
    cost = cost_of(spec.config, len(figures["classes"]))
    test = spec.config.test
    return Row(
        study=study.name,
        data=spec.data.name,
        system=spec.system,
        variant=spec.variant,
        seed=spec.seed,
        fold=spec.fold,
        trunk=spec.config.model.trunk,
        top1=figures["top1"],
        top5=figures["top5"] if len(figures["classes"]) > 5 else None,
        mean_class=figures["mean_class"],
        **_inside_pairs(spec, ScoreTable.load(tested / "scores.npz")),
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


def _parts(folder: Path, last: dict[str, Any]) -> dict[str, Any]:
    """How far parts are on after the last epoch, and top-1 of the tests with a part silenced, as far as there are."""
    tests = {f"without_{part}": folder / f"without_{part}" for part in PARTS}
    tested = {name: load_figures(path)["top1"] for name, path in tests.items() if (path / "metrics.json").is_file()}
    return {**{name: last.get(name) for name in FIGURES}, **tested}


def _inside_pairs(spec: Spec, table: ScoreTable) -> dict[str, Any]:
    wanted = REVERSAL_PAIRS if spec.data.pairs is None else spec.data.pairs
    pairs = [pair for pair in wanted if set(pair) <= set(table.classes)]
    if not pairs:
        return {"pairs": None}
    scores, labels = table.fuse(spec.config.test.fusion), table.labels
    if spec.config.test.on_unreadable == "exclude":
        scores, labels = scores[readable(scores)], labels[readable(scores)]
    found = pair_accuracy(scores, labels, table.classes, pairs)
    return {"pairs": found["accuracy"], "pair_videos": found["support"]}


def cost_of(config: RunConfig, num_classes: int) -> Cost:
    """Cost of one view of a run's network."""
    with torch.device("meta"):
        model = build_model(replace(config.model, weights=""), num_classes=num_classes)
    return count(model, num_segments=config.data.num_segments, size=test_crop_size(config.data, config.test))


def commit() -> str:
    """Of the repository that this package lies in, marked where the package was changed since; "" without one."""
    package = Path(__file__).parent
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", str(package), *words], capture_output=True, text=True, check=True
            ).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", str(package)])
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("-dirty" if changed else "")
