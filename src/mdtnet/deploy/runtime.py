"""Packages that exported forms need, which may be missing; errors of runtimes in one line; networks on streams."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np

from mdtnet.errors import ConfigError
from mdtnet.inference.description import Step


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


class Stepped:
    """A network that takes streams: `step` by step, or called with clips [B, T, K, S, S, 3], whose segments it takes in
    order: probabilities [B, classes] after the last."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return self.answers(clips)[:, -1]

    def answers(self, clips: np.ndarray) -> np.ndarray:
        """Probabilities after every segment, [B, T, classes]."""
        found, state = [], None
        for t in range(clips.shape[1]):
            probabilities, state = self.step(clips[:, t], state)
            found.append(probabilities)
        return np.stack(found, 1)
