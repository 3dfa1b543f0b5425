"""Networks as programs of torch.export (`.pt2`), in float32 or with weights stored as float16."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdtnet.deploy.runtime import last_line
from mdtnet.errors import CheckpointError
from mdtnet.inference.description import KEY, Classify, Description, clip_shape

if TYPE_CHECKING:
    from mdtnet.models.network import Network

INSIDE = f"{KEY}.json"


def write(model: "Network", description: Description, views: np.ndarray, file: Path) -> None:
    """Write a program that torch runs without this package; `views` are not needed."""
    import torch

    from mdtnet.deploy.graph import traced
    from mdtnet.models.folding import folded

    half = description.precision == "half"
    program = traced(folded(model), clip_shape(description), multi_label=description.multi_label, half=half)
    torch.export.save(program, file, extra_files={INSIDE: description.to_json()})


def load(file: Path, *, threads: int = 0) -> tuple[Classify, str]:
    """The network of a file, and its description; `threads` is torch's own affair.

    Raises:
        CheckpointError: the file is not such a program.
    """
    import torch

    about = {INSIDE: ""}
    try:
        program = torch.export.load(file, extra_files=about).module()
    except Exception as error:  # of whichever layer notices first
        raise CheckpointError(f"{file}: not a torch.export program that runs here: {last_line(error)}") from error

    @torch.inference_mode()
    def run(frames: np.ndarray) -> np.ndarray:
        return program(torch.from_numpy(frames)).numpy()

    return run, about[INSIDE]
