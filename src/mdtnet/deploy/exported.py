"""An exported network that classifies videos: `ExportedRecogniser.load("best.onnx").predict(source)`.

Runs what `mdtnet export` wrote with ONNX Runtime or OpenVINO, without torch (a `.pt2` with torch, without the network's
code). All that must be known is in the file. Letters: V views, T segments, K frames per segment, S the side of the
network's input in pixels.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mdtnet.deploy.formats import FORMATS, format_of
from mdtnet.deploy.runtime import Stepped
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.inference.description import Classify, Description
from mdtnet.inference.prediction import Predictor
from mdtnet.inference.sources import Source
from mdtnet.inference.timeline import PlainScorer
from mdtnet.inference.views import Views, read_video

VIEWS_AT_ONCE = 4  # memory; a runtime is hardly faster with more


class ExportedRecogniser(Predictor):
    """An exported network with all that a video needs on its way to a prediction; the same calls as `Recogniser`."""

    def __init__(self, network: Classify, description: Description) -> None:
        self.network, self.description = network, description
        self.keeps_state = isinstance(network, Stepped)
        self.classes, self.licence = description.classes, description.licence

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 0) -> "ExportedRecogniser":
        """Read a file that `mdtnet export` wrote; `threads` 0 leaves their number to the runtime.

        Raises:
            CheckpointError: the file is missing, damaged, or not written by `mdtnet export`.
            ConfigError: the runtime is not installed.
        """
        path = Path(path)
        form = format_of(path)
        if form is None:
            endings = ", ".join(known.suffix for known in FORMATS.values())
            raise CheckpointError(f"{path}: not an exported network, expected a file that ends in one of {endings}")
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        network, text = form.load(path, threads=threads)
        return cls(network, Description.from_json(text, where=str(path)))

    def video(self, source: Source, *, clips: int = 1, crops: int = 1, bgr: bool = False) -> Views:
        """The views of a video that the network sees, V = `clips` * `crops`, and its damage.

        Three crops have the size of the file's input, where a checkpoint's are as large as the short side.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `clips` or `crops` is out of range.
        """
        return read_video(source, self.description, clips=clips, crops=crops, bgr=bgr)

    def step(self, segments: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        if not isinstance(self.network, Stepped):
            raise ConfigError("this exported network takes clips: export it with --stream for streams")
        return self.network.step(segments, state)

    def scorer(self) -> PlainScorer:
        return PlainScorer(self._each, self.description)

    def _each(self, views: np.ndarray) -> np.ndarray:
        """uint8 views [V, T, K, S, S, 3] -> float64 [V, classes]."""
        starts = range(0, len(views), VIEWS_AT_ONCE)
        return np.concatenate([self.network(views[i : i + VIEWS_AT_ONCE]) for i in starts]).astype(np.float64)

    def probabilities(self, views: np.ndarray) -> np.ndarray:
        """uint8 views [V, T, K, S, S, 3] of one video -> float64 [classes]; without `multi_label` they sum to 1."""
        each = self._each(views)
        if self.description.fusion == "logits":  # a mean of logits is one of logarithms, up to a constant
            product = _geometric_mean(each)
            return product / (product + _geometric_mean(1 - each) if self.description.multi_label else product.sum())
        return each.mean(0)


def _geometric_mean(probabilities: np.ndarray) -> np.ndarray:
    return np.exp(np.log(probabilities.clip(1e-30)).mean(0))
