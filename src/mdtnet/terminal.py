"""Output while something runs: console, progress bar, log lines, log file."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import rich.progress

log = logging.getLogger(__name__)
CONSOLE = rich.console.Console(stderr=True)  # the bar's; log lines through it appear above the bar
LOG_SECONDS = 10.0  # between lines where there is no terminal
BAR_SECONDS = 0.3  # between updates of the bar


class _PatientFile(logging.FileHandler):
    """Log file that buffers until its folder exists: a run that fails early leaves nothing behind."""

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


@contextmanager
def bar(total: int, *, active: bool) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal."""
    if not (active and CONSOLE.is_terminal):
        yield None
        return
    with rich.progress.Progress(console=CONSOLE) as bar:
        task = bar.add_task("testing", total=total)
        yield lambda done: bar.update(task, completed=done)
