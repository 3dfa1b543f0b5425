"""Every form that a network can be exported in: one row each, read by export, prediction, help and benchmarks."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from mdtnet.config import Format
from mdtnet.deploy import to_onnx, to_openvino, to_torch
from mdtnet.inference.description import Classify, Description

if TYPE_CHECKING:
    from mdtnet.models.network import Network


class Loader(Protocol):
    """Reads a file: the network that it holds, and the text of its description, empty where it has none."""

    def __call__(self, file: Path, *, threads: int = 0) -> tuple[Classify, str]: ...


class ExportFormat(NamedTuple):
    """A row of `FORMATS`."""

    suffix: str
    """The ending of its files."""
    write: Callable[["Network", Description, np.ndarray, Path], None]
    """(network, description, clips to calibrate with, file)"""
    load: Loader
    extra: str
    """The extra of the package that it needs, as in `pip install 'mdtnet[export]'`; empty: none."""
    packages: tuple[str, ...]
    """What `write` imports of that extra."""
    precisions: tuple[str, ...]
    """Number formats of weights and computation that it can have."""


FORMATS: dict[Format, ExportFormat] = {
    "onnx": ExportFormat(
        ".onnx",
        to_onnx.write,
        to_onnx.load,
        "export",
        ("onnx", "onnxscript", "onnxruntime"),
        ("float32", "half", "int8"),
    ),
    "openvino": ExportFormat(
        ".xml", to_openvino.write, to_openvino.load, "export", ("openvino",), ("float32", "half", "int8")
    ),
    "torch": ExportFormat(".pt2", to_torch.write, to_torch.load, "", (), ("float32", "half")),
}
"""Name -> suffix, writer, loader, extra, packages, precisions. A new form is a file with `write` and `load`, and
a row here."""


def format_of(path: str | Path) -> ExportFormat | None:
    """The form of a file by its suffix; None where it is none of these."""
    return next((form for form in FORMATS.values() if form.suffix == Path(path).suffix), None)
