"""What a run leaves behind and shows: folder, tables, log file, and a line or a bar on the terminal."""

import csv
import io
import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import rich.console
import rich.progress
from accelerate.utils import broadcast_object_list

from mdtnet.checkpoint import atomic_write, load_checkpoint
from mdtnet.config import RunConfig, to_dict
from mdtnet.errors import CheckpointError, ConfigError, MdtnetError
from mdtnet.gates import FIGURES

log = logging.getLogger(__name__)

CONSOLE = rich.console.Console(stderr=True)  # the bar's; log lines through it appear above the bar
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
    *FIGURES,
)
COLUMNS_MULTI_LABEL = ("epoch", "lr", "train_loss", "val_loss", "val_map", "seconds", "clips_per_s", *FIGURES)
FREE = (
    "out",
    "data.workers",
    "data.cache",
    "train.device",
    "train.trackers",
    "train.epochs",
    "train.save_every",
)
LOG_SECONDS = 10.0  # between lines where there is no terminal
BAR_SECONDS = 0.3  # between updates of the bar
PATIENCE_SECONDS = 3.0  # launchers repeat a signal at once; a user's second Ctrl-C comes later


def new_folder(config: RunConfig) -> str:
    """A folder in `runs/` that the main process's clock names for all."""
    name = f"runs/{time.strftime('%Y-%m-%d_%H%M%S')}_{config.model.name}_{config.model.trunk}"
    return broadcast_object_list([name])[0]


def check_folder(config: RunConfig, *, resume: bool) -> None:
    """See that a new run meets an unused folder, and that a resumed one meets its own.

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
    if not (out / LAST).is_file():
        raise CheckpointError(f"{out}: nothing to resume, there is no {LAST}")
    old, new = (flat(to_dict(c)) for c in (load_checkpoint(out / LAST).config, config))
    for key, value in new.items():
        if key not in FREE and not key.startswith("test.") and old.get(key) != value:
            raise ConfigError(f"{out}: cannot resume with {key} = {value!r}, the run has {old.get(key)!r}")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Write a whole table; a crash leaves the old file or the new one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    atomic_write(path, lambda file: file.write(text.getvalue().encode("utf-8", "surrogateescape")))


class _PatientFile(logging.FileHandler):
    """A log file whose folder may not be there yet: lines wait for it, so that a run that fails early leaves none."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="surrogateescape", delay=True)
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if Path(self.baseFilename).parent.is_dir():
            for line in self._waiting:
                super().emit(line)
            self._waiting.clear()


@contextmanager
def log_file(path: Path, *, active: bool) -> Iterator[None]:
    """Append what the package logs to `path`, from the time its folder is there, and what came before that.

    Nothing where `active` is false.
    """
    if not active:
        yield
        return
    package = logging.getLogger("mdtnet")
    handler, level = _PatientFile(path), package.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    package.addHandler(handler)
    package.setLevel(level or logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        handler.close()


class Interrupted(MdtnetError):
    """A signal stopped training, which has saved its state; `exit_code` is 128 + the signal's number."""

    def __init__(self, number: int, out: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; go on with: mdtnet train --config {Path(out, 'config.yaml')} --resume")
        self.exit_code = 128 + number


class Signals:
    """SIGINT and SIGTERM ask for an orderly end: `number` is the signal that came, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self._when = 0.0
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and time.monotonic() - self._when > PATIENCE_SECONDS:
            raise KeyboardInterrupt  # asked twice: at once, the last checkpoint is whole anyway
        if not self.number:
            self.number, self._when = number, time.monotonic()


def ignore_signals(worker: int) -> None:
    """For loader workers: an end is the main process's business, which needs them to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Display:
    """Progress: a bar on a terminal, else a line every few seconds; nothing where `active` is false."""

    def __init__(self, *, total_steps: int, done_steps: int, active: bool) -> None:
        self._active = active
        self._start = self._shown = time.monotonic()
        self._first, self._total = done_steps, total_steps
        self._bar: rich.progress.Progress | None = None
        if active and CONSOLE.is_terminal:
            columns = (rich.progress.BarColumn(24), rich.progress.TextColumn("{task.description}"))
            self._bar = rich.progress.Progress(*columns, console=CONSOLE)
            self._task = self._bar.add_task("", total=total_steps, completed=done_steps)

    def __enter__(self) -> "Display":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def due(self) -> bool:
        """Whether it is time to show something again; figures may cost a wait for the device."""
        pause = BAR_SECONDS if self._bar else LOG_SECONDS
        return self._active and time.monotonic() - self._shown >= pause

    def show(self, done_steps: int, text: str) -> None:
        """Show `text` and the time left of training, judged from the steps done since the start."""
        self._shown = time.monotonic()
        pace = (self._shown - self._start) / max(1, done_steps - self._first)
        text = f"{text}, {_clock(pace * (self._total - done_steps))} left"
        if self._bar:
            self._bar.update(self._task, completed=done_steps, description=text)
        else:
            log.info("%s", text)

    def note(self, text: str) -> None:
        """Change the bar's text alone."""
        if self._bar:
            self._bar.update(self._task, description=text)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
