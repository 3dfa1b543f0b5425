"""One video -> a file of features, as a function that any engine can call."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mdtnet.config import FeatureConfig, FeatureFormat, Values
from mdtnet.data.container import Part
from mdtnet.deploy.jobs import identity, stem_of
from mdtnet.errors import VideoError
from mdtnet.inference.sources import name_of
from mdtnet.system.files import atomic_write, make_folder, write_text

if TYPE_CHECKING:
    from mdtnet.inference.recogniser import Recogniser


@dataclass
class Extract:
    """Writes the features of a video per call, and a description beside them: `NAME.npy`, `NAME.json`."""

    checkpoint: str
    out: str
    """Folder of the files."""
    device: str
    config: FeatureConfig

    @cached_property
    def model(self) -> "Recogniser":
        """The network, read when it is first asked for."""
        from mdtnet.inference.recogniser import Recogniser

        return Recogniser.load(self.checkpoint, device=self.device)

    @cached_property
    def about(self) -> Values:
        """Settings that all files share."""
        from mdtnet.inference.features import windows_for

        description = self.model.description
        window, stride = windows_for(self.config, description)
        return {
            "verb": "features",
            **identity(self.checkpoint),
            "system": description.system,
            "trunk": description.trunk,
            "layer": self.config.layer,
            "window_seconds": window,
            "stride_seconds": stride,
            "format": self.config.format,
        }

    def __getstate__(self) -> dict[str, object]:
        """Without the network: each process reads its own."""
        return {key: value for key, value in vars(self).items() if key != "model"}

    def __call__(self, item: tuple[str, Part]) -> Values:
        """The row of one video, once its files are written."""
        from mdtnet.inference.features import extract

        name, part = item
        try:
            found = extract(self.model, part, self.config)
        except VideoError as error:
            return self.failed(item, error.reason)
        suffix, pack = FORMATS[self.config.format]
        values = found.rescaled() if self.config.format == "bmn" else found.values
        path = Path(self.out, stem_of(name, part))
        facts: Values = {
            "path": name_of(part),
            "file": stem_of(name, part) + suffix,
            "shape": list(values.shape),
            "windows": len(found.values),
            "fps": found.fps,
            "duration_seconds": found.duration,
            "damaged": found.damaged or None,
        }
        make_folder(path.parent)
        write_text(f"{path}.json", json.dumps(self.about | facts, indent=1, ensure_ascii=False) + "\n")
        atomic_write(f"{path}{suffix}", lambda file: file.write(pack(values)))
        return facts | {"error": None}

    def failed(self, item: tuple[str, Part], reason: str) -> Values:
        """The row of a video that cannot be read, or whose process did not survive it."""
        return {"path": name_of(item[1]), "file": None, "error": reason}


def _npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def _csv(values: np.ndarray) -> bytes:
    lines = [",".join(f"c{i}" for i in range(values.shape[1]))]
    lines += [",".join(f"{value:.6g}" for value in row) for row in values]
    return ("\n".join(lines) + "\n").encode()


FORMATS: dict[FeatureFormat, tuple[str, Callable[[np.ndarray], bytes]]] = {"npy": (".npy", _npy), "bmn": (".csv", _csv)}
"""Format -> suffix, and the bytes of an array."""
