"""The terminal: what a command says and shows, progress, log lines, log file, and one line for a mistake.

Results go to standard output through `say` and `show`; progress, log lines and mistakes to standard error.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.live import Live
from rich.status import Status
from rich.table import Table
from rich.text import Text

log = logging.getLogger(__name__)


CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters that a terminal or a reader of lines obeys: control characters, line ends, changes of direction."""


def plain(text: str, *, lines: bool = False) -> str:
    """Text with `\\x1b` and the like in the place of control characters; with `lines` it may have several lines."""
    return CONTROLS.sub(lambda m: m[0] if lines and m[0] == "\n" else m[0].encode("unicode_escape").decode(), text)


class _PlainConsole(Console):
    """Texts are shown as they are: no markup, no emoji codes, no control characters."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(plain(text, lines=True), **options)


OUTPUT = _PlainConsole()
CONSOLE = _PlainConsole(stderr=True)  # the bar's; log lines through it appear above the bar
LOG_SECONDS = 10.0  # between lines where there is no terminal
BAR_SECONDS = 0.3  # between updates of the bar


def say(text: str = "", *, style: str | None = None) -> None:
    """Print a line as it is: nothing in it is markup, nothing is coloured or wrapped."""
    OUTPUT.out(plain(text, lines=True), style=style, highlight=False)


def show(table: Table) -> None:
    """Print a table; the texts in its cells are shown as they are."""
    OUTPUT.print(table)


def headline(text: str) -> None:
    """Print a heading over the width of the terminal."""
    OUTPUT.rule(text)


def complain(text: str, *, style: str | None = None) -> None:
    """Print a line on standard error as it is."""
    CONSOLE.out(plain(text), style=style, highlight=False)


def mistake(message: str) -> None:
    """Print the one line of a user's mistake."""
    CONSOLE.print(Text.assemble(("mdtnet:", "bold red"), " ", plain(message)), soft_wrap=True)


def working() -> Status:
    """A line that changes while something runs (`update`), on a terminal alone."""
    return OUTPUT.status("")


@contextmanager
def watch() -> Iterator[Callable[[str], None] | None]:
    """Text that is replaced in place: gives the function that replaces it, or None where there is no terminal."""
    if not OUTPUT.is_terminal:
        yield None
        return
    with Live(console=OUTPUT, auto_refresh=False) as view:
        yield lambda text: view.update(Text(text), refresh=True)


def log_to_terminal() -> None:
    """Print what the package logs, above a progress bar where there is one."""
    handler: logging.Handler = logging.StreamHandler()
    if CONSOLE.is_terminal:
        from rich.logging import RichHandler

        handler = RichHandler(console=CONSOLE, show_time=False, show_level=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.getLogger("mdtnet").setLevel(logging.INFO)


class _OneLine(logging.Formatter):
    """A message is one line, whatever names are in it; a traceback has its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = plain(record.message)
        return super().formatMessage(record)


class _PatientFile(logging.FileHandler):
    """Log file that buffers until a folder exists: a run that fails early leaves nothing behind."""

    def __init__(self, path: Path, begun: Path) -> None:
        super().__init__(path, encoding="utf-8", errors="surrogateescape", delay=True)
        self._begun = begun
        self._waiting: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._waiting.append(record)
        if self._begun.is_dir():
            for line in self._waiting:
                super().emit(line)
            self._waiting.clear()


@contextmanager
def log_file(path: Path, begun: Path, *, active: bool) -> Iterator[None]:
    """Append what the package logs to `path`, once the folder `begun` exists; lines from before are kept until then.

    Does nothing where `active` is false.
    """
    if not active:
        yield
        return
    package = logging.getLogger("mdtnet")
    handler, level = _PatientFile(path, begun), package.level
    handler.setFormatter(_OneLine("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
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
            columns = (rich.progress.BarColumn(24), rich.progress.TextColumn("{task.description}", markup=False))
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
        """Whether it is time to show something again: the figures to show can cost a wait for the device."""
        pause = BAR_SECONDS if self._bar else LOG_SECONDS
        return self._active and time.monotonic() - self._shown >= pause

    def show(self, done_steps: int, text: str) -> None:
        """Show `text` and an estimate of the time left, from the steps since the start."""
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
def bar(total: int, *, text: str = "testing", active: bool = True) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal: a function for the number done so far; None where nothing is shown."""
    if not (active and CONSOLE.is_terminal):
        yield None
        return
    columns = (
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
    )
    with rich.progress.Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def bytes_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A progress bar of a download on a terminal: a function for the bytes so far and in all (0: not known)."""
    if not CONSOLE.is_terminal:
        yield None
        return
    columns = (rich.progress.BarColumn(), rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn())
    with rich.progress.Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
