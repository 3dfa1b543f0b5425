"""Locks between processes: held by a file, and gone with the process that holds them, however it ended."""

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mdtnet.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows: two processes are not noticed there
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

BUSY = (errno.EACCES, errno.EAGAIN)


@contextmanager
def locked(path: str | Path, *, what: str) -> Iterator[None]:
    """Hold the lock file `path` within the context; it is removed at the end.

    The lock is not inherited by loader processes, which can outlive a process that was killed.

    Raises:
        ConfigError: another process holds it; the message is `what`, and which process.
    """
    file = _locked_file(Path(path), what)
    try:
        os.truncate(file, 0)
        os.write(file, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        os.close(file)


def _locked_file(path: Path, what: str) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in BUSY:
                holder = os.read(file, 200).decode(errors="replace")
                os.close(file)
                raise ConfigError(f"{what} (process {holder})") from error
            log.warning("warning: %s: this file system has no locks, another process would not be noticed", path)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):  # not one that its holder has just removed
                return file
        os.close(file)
