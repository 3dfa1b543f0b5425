"""Files that are written whole or not at all, and checks that they can be."""

import csv
import errno
import io
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mdtnet.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed writes stay there
    fcntl = None  # type: ignore[assignment]

LEFTOVER = ".mdtnet-tmp"
"""End of the names of temporary files."""


def write_csv(path: Path, columns: tuple[str, ...], rows: Sequence[Mapping[str, float | int | str | None]]) -> None:
    """Write a whole table; a crash leaves the old file or the new one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    write_text(path, text.getvalue())


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text as UTF-8; names of files that are not UTF-8 keep their bytes. A crash leaves the old file or
    the new one."""
    atomic_write(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object], *, sync: bool = True) -> None:
    """Let `write(file)` fill a temporary file in the same folder, then put it in the place of `path`.

    With `sync` it is also safe from a power cut once this returns.

    Links are followed. What is no regular file, such as a pipe or a device, is written into and never replaced. Of
    several processes that write the same path at once the last one wins. An `OSError` names `path`.

    Raises:
        ConfigError: `path` is a pipe that nobody reads.
    """
    if is_special(path):
        _write_into(path, write)
        return
    final = Path(os.path.realpath(path))
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(4)}{LEFTOVER}")
    try:
        with open(temporary, "wb") as file, _taken(temporary):  # so that nobody takes it for a leftover
            write(file)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            temporary.chmod(stat.S_IMODE(final.stat().st_mode))
        os.replace(temporary, final)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.strerror:
            error.filename = str(path)
        raise
    if sync and os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def is_special(path: str | Path) -> bool:
    """Whether something is there, behind links too, that is neither a regular file nor a folder; or a file that is
    open already and goes by the name of its number, such as `/dev/stdout`."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    named_by_number = Path(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))
    return not stat.S_ISDIR(mode) and (named_by_number or not stat.S_ISREG(mode))


def _write_into(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    content = io.BytesIO()  # writers of archives go back in their file, which a pipe cannot
    write(content)
    try:
        number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)  # without a reader it would wait for ever
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ConfigError(f"{path}: a pipe or socket that nobody reads") from error
        raise
    os.set_blocking(number, True)
    with open(number, "wb") as file:
        file.write(content.getbuffer())


@contextmanager
def _taken(path: str | Path) -> Iterator[bool]:
    """Hold the lock of a temporary file or folder; False where another process has it, or where there are no locks."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe of that name would be waited for
    try:
        if not fcntl:
            yield False
            return
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(number)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files in a folder whose writers were killed; those that are being written stay."""
    with suppress(OSError):
        for path in Path(folder).iterdir():
            if path.name.startswith(".") and path.name.endswith(LEFTOVER):
                with suppress(OSError), _taken(path) as ours:
                    if ours and path.is_dir():
                        shutil.rmtree(path, ignore_errors=True)
                    elif ours:
                        path.unlink()


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder in `parent` for files that `put_in_place` moves; it goes at the end, or after a kill as a leftover."""
    remove_leftovers(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".", suffix=LEFTOVER) as name, _taken(name):
        yield Path(name)


def put_in_place(made: Path, path: Path) -> None:
    """Move a finished file to `path`, following links there."""
    os.replace(made, os.path.realpath(path))


def make_folder(path: str | Path) -> None:
    """Make a folder where there is none, and check that files can be written into it. Temporary files of killed writes
    go.

    Raises:
        ConfigError: they cannot.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: folder cannot be created or written to: {error.strerror}") from error
    remove_leftovers(path)


def check_file(path: str | Path) -> None:
    """Check that a file can be written, or written anew; its folder must be there. Temporary files of killed writes go.

    Raises:
        ConfigError: it cannot.
    """
    if is_special(path):
        if not os.access(path, os.W_OK):
            raise ConfigError(f"{path}: cannot be written: Permission denied")
        return
    path = Path(os.path.realpath(path))
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written, expected a file name in a folder that exists")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    remove_leftovers(path.parent)
