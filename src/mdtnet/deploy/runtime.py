"""Packages that exported forms need, which may be missing, and the errors of runtimes in one line."""

import importlib
from pathlib import Path
from types import ModuleType

from mdtnet.errors import ConfigError


def required(name: str, path: Path, *, extra: str = "export") -> ModuleType:
    """The package `name`, which the file `path` needs and `extra` of mdtnet brings.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{path}: needs {name}, which is not installed: pip install 'mdtnet[{extra}]'") from error


def last_line(error: Exception) -> str:
    """A runtime's error in one line: its last, which names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
