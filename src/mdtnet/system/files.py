"""Files that are written whole or not at all, and checks that they can be."""

import csv
import io
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mdtnet.errors import ConfigError


def write_csv(path: Path, columns: tuple[str, ...], rows: Sequence[Mapping[str, float | int | str | None]]) -> None:
    """Write a whole table; a crash leaves the old file or the new one."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    atomic_write(path, lambda file: file.write(text.getvalue().encode("utf-8", "surrogateescape")))


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write(file)` fill a temporary file in the same folder, then put it in the place of `path`.

    Of several processes that write the same path at once the last one wins. An `OSError` names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.strerror:
            error.filename = str(path)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_folder(path: str | Path) -> None:
    """Make a folder where there is none, and check that files can be written into it.

    Raises:
        ConfigError: they cannot.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: folder cannot be created or written to: {error.strerror}") from error


def check_file(path: str | Path) -> None:
    """Check that a file can be written, or written anew; its folder must be there.

    Raises:
        ConfigError: it cannot.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written, expected a file name in a folder that exists")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
