"""The mistakes a user can make, each one clear line and an exit code.

Everything that the command line reports without a traceback derives from `MdtnetError`; the exit code says what kind
of mistake it was: 0 success, 1 bug, 2 usage or configuration, or a file that the operating system refuses, 3 data,
4 checkpoint, 5 some runs of a study failed, 6 a training diverged, 7 a loader's process was killed or hangs,
128 + N stopped by signal N.
"""

import difflib
import re
from collections.abc import Iterable

LONGEST = 900  # characters of a message


class MdtnetError(Exception):
    """Base class; `str(error)` is one line that names the file, the value and what was expected.

    It has at most `LONGEST` characters, whatever foreign text is in it: of longer ones, words without end lose their
    middle first.
    """

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__()
        if len(text) > LONGEST:
            text = re.sub(r"\S{200,}", lambda word: f"{word[0][:100]}...{word[0][-60:]}", text)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


class ConfigError(MdtnetError):
    """A wrong key, value or combination of options."""

    exit_code = 2


class DataError(MdtnetError):
    """Something is wrong with the data set: missing folder, empty class, label out of range."""

    exit_code = 3


class VideoError(DataError):
    """One video cannot be read. `path` is the file, `reason` a short phrase (for tables and counts)."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["VideoError"], tuple[str, str]]:  # crosses process borders in loader workers
        return VideoError, (self.path, self.reason)


class CheckpointError(MdtnetError):
    """A file is not a checkpoint of this project, or does not fit what it is loaded into."""

    exit_code = 4


class DivergedError(MdtnetError):
    """The loss or the scores of a network are not finite numbers any more."""

    exit_code = 6


class WorkerError(MdtnetError):
    """A process that reads videos for another was killed, was stopped, or stands still."""

    exit_code = 7


class ExportError(CheckpointError):
    """A network that cannot be exported, or whose exported form does not compute the same."""


def nearest(word: str, choices: Iterable[str | int]) -> str:
    """A phrase `; did you mean 'x'?` with the choice most like `word`, or nothing if none is like it."""
    matches = difflib.get_close_matches(word.lower(), map(str, choices), n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def shorten(text: str, longest: int = 80) -> str:
    """Foreign text for a message: at most so many characters, and those that do not print as `\\x1b`."""
    text = text[: longest - 3] + "..." if len(text) > longest else text
    return text if text.isprintable() else repr(text)[1:-1]
