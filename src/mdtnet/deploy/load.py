"""One door for every file that predicts."""

from pathlib import Path
from typing import TYPE_CHECKING

from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.deploy.formats import format_of
from mdtnet.errors import ConfigError

if TYPE_CHECKING:
    from mdtnet.inference.recogniser import Recogniser


def load(path: str | Path, *, device: str = "auto", segments: int = 0) -> "Recogniser | ExportedRecogniser":
    """A predictor from a file: an exported network by its suffix (`.onnx`, `.xml`, `.pt2`), else a checkpoint.

    Without torch for `.onnx` and `.xml`. `device` is `auto`, `cpu`, `cuda`, ...; `segments` is T, 0 that of the
    network's own test.

    Raises:
        CheckpointError: the file is missing, damaged, or of another kind.
        ConfigError: the device is not there, a runtime is not installed, or `segments` is negative or for an exported
            network.
    """
    if format_of(path):
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device is '{device}', but exported networks run on the CPU here")
        if segments:
            raise ConfigError(f"segments is {segments}, but {path} is exported: its number of segments is fixed")
        return ExportedRecogniser.load(path)
    from mdtnet.inference.recogniser import Recogniser

    return Recogniser.load(path, device=device, segments=segments)
