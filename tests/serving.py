"""A server in a process of its own, as the command line starts it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """An address, and the process that answers there."""

    address: str
    pid: int


@contextmanager
def serving(checkpoint: Path, *options: str) -> Iterator[Server]:
    """`mdtnet serve` until the end of the context; it must then end within seconds."""
    words = [sys.executable, "-m", "mdtnet", "serve", str(checkpoint), "--port", "0", "--device", "cpu", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        yield Server(line.split(" at ")[1].split()[0], process.pid)
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()
