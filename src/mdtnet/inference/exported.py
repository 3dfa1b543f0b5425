"""An exported network that names what videos show, without torch: `Deployed.load("best.onnx").predict(source)`.

Runs what `mdtnet export` wrote with ONNX Runtime or OpenVINO; PyAV decodes and resizes. All it must know is in the
file. Letters: V views, T segments, K frames a segment, H, W pixels of a frame, S the side of the network's input.
"""

import importlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mdtnet.data.exposure import Exposure, expose
from mdtnet.data.segments import Sampling, clip_indices
from mdtnet.data.video import read_clip, scaled_size
from mdtnet.errors import CheckpointError, ConfigError, VideoError
from mdtnet.inference.prediction import Prediction, Predictor, check_choice, chosen

SUFFIXES = (".onnx", ".xml")
KEY = "mdtnet"
"""Name of the description among a file's metadata."""
FORMAT_VERSION = 1
VIEWS_AT_ONCE = 4  # memory; a runtime is hardly faster with more

Network = Callable[[np.ndarray], np.ndarray]
"""uint8 [B, T, K, S, S, 3] -> float32 probabilities [B, classes]."""


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself: all that lies between a video and the network, and the names of classes."""

    system: str
    """tsn, tsm, ..."""
    trunk: str
    """resnet50, ..."""
    precision: str
    """float32; half: weights stored as float16; int8: trunk computed in 8 bits."""
    classes: tuple[str, ...]
    """In the order of the probabilities."""
    num_segments: int
    """T, fixed in the file."""
    frames_per_segment: int
    """K, fixed in the file."""
    frame_stride: int
    """Distance in frames between the neighbouring frames of a segment."""
    sampling: Sampling
    """How a segment's frames are drawn."""
    short_side: int
    """Frames are resized to this short side, in pixels, before cropping."""
    size: int
    """S, side of the square crop in pixels, fixed in the file."""
    fusion: str
    """Mean of several views: `softmax` (of probabilities) or `logits`."""
    exposure: Exposure = "none"
    """How a clip's brightness is brought to a middle value."""
    multi_label: bool = False
    """Whether a video can have several labels: probabilities are sigmoids, and do not sum to 1."""
    format_version: int = FORMAT_VERSION
    """Layout of this description."""

    def to_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "Description":
        """Read the metadata of the file `where`.

        Raises:
            CheckpointError: they are not `mdtnet export`'s, or of a newer format.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values["format_version"] > FORMAT_VERSION:
                raise CheckpointError(f"{where}: made by a newer mdtnet: update mdtnet")
            known = {f.name for f in fields(cls)}
            values["classes"] = tuple(values["classes"])
            return cls(**{key: value for key, value in values.items() if key in known})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{where}: not written by mdtnet export (no description inside)") from error


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


def read_views(path: str | Path, description: Description, *, clips: int = 1, crops: int = 1) -> np.ndarray:
    """Views of a video as the network wants them, uint8 [V, T, K, S, S, 3]; view = clip * crops + crop.

    The same frames and the same crops as in a test of the checkpoint, but that three crops are S pixels wide.

    Raises:
        VideoError: the video cannot be read.
    """

    def resize(frame: np.ndarray) -> np.ndarray:
        return resize_short(resize_short(frame, description.short_side), description.size, only_enlarge=True)

    def choose(num_frames: int) -> np.ndarray:
        return clip_table(num_frames, description, clips=clips)

    frames, _ = read_clip(path, choose, short_side=description.short_side, transform=resize)  # [clips, T, K, H, W, 3]
    frames = np.stack([expose(clip, description.exposure) for clip in frames])
    return crop(frames, crops=crops, size=description.size)


def clip_table(num_frames: int, description: Description, *, clips: int = 1) -> np.ndarray:
    """Which frames of a video make up each clip, [clips, T, K]."""
    return clip_indices(
        num_frames,
        rule="uniform",
        num_clips=clips,
        seed=(),
        num_segments=description.num_segments,
        frames_per_segment=description.frames_per_segment,
        frame_stride=description.frame_stride,
        sampling=description.sampling,
    )


def resize_short(frame: np.ndarray, short_side: int, *, only_enlarge: bool = False) -> np.ndarray:
    """Scale uint8 [H, W, 3] so that the shorter of H and W is `short_side` pixels (at least that)."""
    size = scaled_size(frame.shape[:2], short_side)
    if size == frame.shape[:2] or (only_enlarge and short_side <= min(frame.shape[:2])):
        return frame
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))


def crop(frames: np.ndarray, *, crops: int, size: int) -> np.ndarray:
    """Test crops of clips, [clips, T, K, H, W, 3] -> [clips * crops, T, K, S, S, 3], as `data.transforms.views`."""
    height, width = frames.shape[-3:-1]
    places = [(2, 2)] if crops == 1 else [(2, p) if width >= height else (p, 2) for p in (0, 2, 4)]
    boxes = [((height - size) * down // 4, (width - size) * right // 4) for down, right in places]
    views = np.stack([frames[..., y : y + size, x : x + size, :] for y, x in boxes], axis=1)
    return views.reshape(-1, *views.shape[2:])


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
