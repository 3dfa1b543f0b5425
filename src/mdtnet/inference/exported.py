"""An exported network that names what videos show, without torch: `Deployed.load("best.onnx").predict(source)`.

Runs what `mdtnet export` wrote with ONNX Runtime or OpenVINO; PyAV decodes and resizes. All it must know is in the
file. Letters: V views, T segments, K frames a segment, H, W pixels of a frame, S the side of the network's input.
"""

import importlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mdtnet.errors import CheckpointError, ConfigError, VideoError
from mdtnet.inference.prediction import Prediction, Predictor, check_choice, chosen
from mdtnet.inference.views import KEY, Description, Network, read_views

SUFFIXES = (".onnx", ".xml")
VIEWS_AT_ONCE = 4  # memory; a runtime is hardly faster with more


class Deployed(Predictor):
    """An exported network with everything around it that a video needs; the same calls as `Recogniser`."""

    def __init__(self, network: Network, description: Description) -> None:
        self.network, self.description = network, description

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 0) -> "Deployed":
        """Read a `.onnx` or `.xml` file; `threads` 0 leaves their number to the runtime.

        Raises:
            CheckpointError: the file is missing, damaged, or not written by `mdtnet export`.
            ConfigError: the runtime is not installed.
        """
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file")
        network, text = (_openvino if path.suffix == ".xml" else _onnx)(path, threads)
        return cls(network, Description.from_json(text, where=str(path)))

    def predict_many(
        self,
        sources: Iterable[str | Path],
        *,
        topk: int = 5,
        threshold: float | None = None,
        clips: int = 1,
        crops: int = 1,
    ) -> Iterator[Prediction]:
        """Predictions in the order of the sources; a video that cannot be read gives one with `error`.

        Raises:
            ConfigError: `topk`, `threshold`, `clips` or `crops` is out of range.
        """
        check_choice(topk, threshold)
        if clips < 1:
            raise ConfigError(f"clips is {clips}, expected at least 1")
        if crops not in (1, 3):
            raise ConfigError(f"crops is {crops}, expected 1 or 3")
        return (self._prediction(os.fspath(source), topk, threshold, clips, crops) for source in sources)

    def _prediction(self, path: str, topk: int, threshold: float | None, clips: int, crops: int) -> Prediction:
        before, error = time.perf_counter(), ""
        order, probabilities = np.empty(0, dtype=np.int64), np.empty(0)
        try:
            views = read_views(path, self.description, clips=clips, crops=crops)
        except VideoError as failure:
            error = failure.reason
        else:
            probabilities = self.probabilities(views)
            order = chosen(probabilities, topk=topk, threshold=threshold)
        return Prediction(
            path=path,
            classes=tuple(self.description.classes[i] for i in order),
            probabilities=tuple(probabilities[order].tolist()),
            seconds=time.perf_counter() - before,
            error=error,
        )

    def probabilities(self, views: np.ndarray) -> np.ndarray:
        """uint8 views [V, T, K, S, S, 3] of one video -> float64 [classes]; without `multi_label` they sum to 1."""
        starts = range(0, len(views), VIEWS_AT_ONCE)
        each = np.concatenate([self.network(views[i : i + VIEWS_AT_ONCE]) for i in starts]).astype(np.float64)
        if self.description.fusion == "logits":  # a mean of logits is one of logarithms, up to a constant
            product = _geometric_mean(each)
            return product / (product + _geometric_mean(1 - each) if self.description.multi_label else product.sum())
        return each.mean(0)


def _geometric_mean(probabilities: np.ndarray) -> np.ndarray:
    return np.exp(np.log(probabilities.clip(1e-30)).mean(0))


def _onnx(path: Path, threads: int) -> tuple[Network, str]:
    runtime = required("onnxruntime", path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own classes, one for every status
        raise CheckpointError(f"{path}: not an ONNX model that runs here: {_first_line(error)}") from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY, "")
    name = session.get_inputs()[0].name
    return lambda frames: session.run(None, {name: frames})[0], text


def _openvino(path: Path, threads: int) -> tuple[Network, str]:
    runtime = required("openvino", path)
    # float32 even where the CPU could do bfloat16: probabilities are those that were checked at export
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = threads
    try:
        core = runtime.Core()
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", options)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not an OpenVINO model that runs here: {_first_line(error)}") from error
    text = str(model.get_rt_info(KEY).value) if model.has_rt_info(KEY) else ""
    return lambda frames: np.array(compiled(frames)[0]), text


def required(name: str, path: Path) -> Any:
    """The package `name`, which the file `path` needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        extra = "int8" if name == "nncf" else "export"
        raise ConfigError(f"{path}: needs {name}, which is not installed: pip install 'mdtnet[{extra}]'") from error


def _first_line(error: Exception) -> str:
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
