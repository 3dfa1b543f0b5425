"""Checkpoints: weights, config, classes, preprocessing and versions in one file that is safe to load.

A run's file is what `torch.save` makes of plain dicts, lists, numbers, texts and tensors, so that
`torch.load(weights_only=True)` reads it; a finished network's may be safetensors, the rest as JSON in its
metadata. Other people's checkpoints that `models.pretrained` recognises are read as if they were ours.
"""

import dataclasses
import importlib.metadata
import io
import json
import os
import platform
import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from mdtnet.config import DataConfig, ModelConfig, RunConfig, completed, from_dict, to_dict
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.models.build import build_model
from mdtnet.models.pretrained import read_file, recognise

FORMAT = "mdtnet"
FORMAT_VERSION = 1
KEYS = ("model", "config", "classes", "preprocessing", "versions", "metrics", "training")
PACKAGES = ("mdtnet", "torch", "torchvision", "timm", "accelerate", "numpy", "av")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    config: RunConfig
    """The run that made it."""
    classes: tuple[str, ...]
    """Class names in label order."""
    model_state: dict[str, Tensor]
    """The weights to use; of a run with a moving average, the average."""
    training_state: dict[str, Any] | None
    """What a run needs to go on (`last.pt`), or None."""
    preprocessing: dict[str, Any]
    """How pixels become input, spelled out for other programs; empty in other people's files."""
    versions: dict[str, str]
    """Package versions at the time of writing."""
    metrics: dict[str, Any]
    """Epoch and validation figures at the time of writing."""
    format_version: int
    """Layout of the file."""
    num_segments_trained: int | None
    """T in training; None where it is not known, in other people's files."""
    source: dict[str, Any]
    """Of other people's checkpoints: what it is (`kind`), and names in it that nothing is computed with
    (`ignored`); once converted also `file` and `sha256`."""


def save_checkpoint(
    path: str | Path,
    *,
    model: nn.Module,
    config: RunConfig,
    classes: Sequence[str],
    training_state: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint; a crash at any moment leaves the old file or the new one, never half of one.

    `training_state` and `metrics` may hold dicts, lists, tuples, numbers, texts, None and tensors only.
    """
    content = _content(model, config, classes, metrics)
    content |= {"model": dict(model.state_dict()), "training": training_state}
    data = io.BytesIO()  # into a file PyTorch's writer hides why it failed, such as a full disk
    torch.save(content, data)
    atomic_write(path, lambda file: file.write(data.getbuffer()))


def save_safetensors(
    path: str | Path,
    *,
    model: nn.Module,
    config: RunConfig,
    classes: Sequence[str],
    metrics: dict[str, Any] | None = None,
    source: dict[str, Any] | None = None,
) -> None:
    """Write a finished network as safetensors that explain themselves: the metadata's `mdtnet` is JSON with
    all that a checkpoint holds beside the weights, and with what other programs ask first (system, trunk, T,
    classes)."""
    content = _content(model, config, classes, metrics)
    content |= {
        "system": config.model.name,
        "trunk": config.model.trunk,
        "num_classes": len(classes),
        "num_segments_trained": getattr(model, "num_segments_trained", config.data.num_segments),
        "source": source or {},
        "training": None,
    }
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    data = safetensors.torch.save(state, metadata={FORMAT: json.dumps(content)})
    atomic_write(path, lambda file: file.write(data))


def _content(
    model: nn.Module, config: RunConfig, classes: Sequence[str], metrics: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": to_dict(config),
        "classes": list(classes),
        "preprocessing": preprocessing(model, config),
        "versions": versions(),
        "metrics": metrics or {},
    }


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write(file)` fill a temporary file in the same folder, then put it in the place of `path`.

    Of several processes that write the same path at once the last one wins. An `OSError` names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.strerror:
            error.filename = str(path)
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def preprocessing(model: nn.Module, config: RunConfig) -> dict[str, Any]:
    """From decoded frames to input: sampling, sizes in pixels, mean and deviation of RGB in [0, 1]."""
    data = config.data
    trunk: Any = model.trunk
    return {
        "mean": [float(value) for value in trunk.mean],
        "std": [float(value) for value in trunk.std],
        "short_side": data.short_side,
        "size": data.size,
        "num_segments": data.num_segments,
        "frames_per_segment": int(model.frames_per_segment),  # type: ignore[arg-type]
        "frame_stride": data.frame_stride,
        "sampling": data.sampling,
        "exposure": data.exposure,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[name] = "unknown"
    found["torch"] = str(torch.__version__)  # with the build, which the metadata leave out
    return found


def hardware() -> str:
    """The machine in words: processor, cores, accelerators."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():  # platform.processor() is empty or vague on Linux
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    parts = [f"{processor}, {os.cpu_count()} cores"]
    parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "; ".join(parts)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint into main memory, without running anything it holds.

    Raises:
        CheckpointError: the file is missing, is neither ours nor recognised, or is of a newer format.
    """
    content = _read(Path(path))
    try:
        config = from_dict(RunConfig, completed(content["config"]), where=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error} (in the config inside the checkpoint)") from error
    return Checkpoint(
        config=config,
        classes=tuple(content["classes"]),
        model_state=content["model"],
        training_state=content["training"],
        preprocessing=content["preprocessing"],
        versions=content["versions"],
        metrics=content["metrics"],
        format_version=content["format_version"],
        num_segments_trained=content.get("num_segments_trained", config.data.num_segments),
        source=content.get("source", {}),
    )


def _read(path: Path) -> dict[str, Any]:
    content = read_file(path)
    if content.get("format") != FORMAT:
        return _foreign(content, where=str(path))
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version {version}, but this mdtnet reads up to {FORMAT_VERSION}: update mdtnet"
        )
    if missing := [key for key in KEYS if key not in content]:
        raise CheckpointError(f"{path}: damaged checkpoint, without {', '.join(missing)}")
    return content


def _foreign(content: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Somebody else's checkpoint as ours would hold it; classes are called by their numbers."""
    weights = recognise(content, where=where)
    if not weights.num_classes:
        raise CheckpointError(f"{where}: {weights.source} without its classifier, only good as model.weights")
    model: Any = {"name": weights.system, "trunk": weights.trunk}
    return {
        "format_version": FORMAT_VERSION,
        "config": to_dict(RunConfig(data=DataConfig(flip="swap"), model=ModelConfig(**model))),
        "classes": [str(label) for label in range(weights.num_classes)],
        "model": weights.state,
        "preprocessing": {},
        "versions": {},
        "metrics": {},
        "training": None,
        "num_segments_trained": None,
        "source": {"kind": weights.source, "ignored": list(weights.ignored)},
    }


def load_model(path: str | Path, *, num_segments_trained: int | None = None) -> nn.Module:
    """The network of a checkpoint, on the CPU, in eval mode, with `.classes` and `.config` (RunConfig).

    `num_segments_trained` says what other people's files do not: the T of their training, which an official
    TDN's fusion weights depend on.

    Raises:
        CheckpointError: see `load_checkpoint`; or its weights do not fit the network its config describes.
    """
    checkpoint = load_checkpoint(path)
    if num_segments_trained is not None:
        checkpoint = trained_with(checkpoint, num_segments_trained)
    return model_of(checkpoint, where=str(path))


def trained_with(checkpoint: Checkpoint, num_segments: int) -> Checkpoint:
    """The same checkpoint, said to be trained (and by default tested) with T segments."""
    if num_segments < 1:
        raise ConfigError(f"num_segments_trained is {num_segments}, expected at least 1")
    data = dataclasses.replace(checkpoint.config.data, num_segments=num_segments)
    config = dataclasses.replace(checkpoint.config, data=data)
    return dataclasses.replace(checkpoint, config=config, num_segments_trained=num_segments)


def model_of(checkpoint: Checkpoint, *, where: str) -> nn.Module:
    """As `load_model`, of a checkpoint that is already read; errors name `where`."""
    config = dataclasses.replace(checkpoint.config.model, weights="")  # its start is not wanted again
    model: Any = build_model(config, num_classes=len(checkpoint.classes))
    fill(model, checkpoint.model_state, where=where)
    model.classes, model.config = checkpoint.classes, checkpoint.config
    model.num_segments_trained = checkpoint.num_segments_trained  # TDN computes with it
    return model.eval()


def fill(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights into `model`, every name and every shape the same.

    Raises:
        CheckpointError: a name is missing or too many, or a shape differs; the message starts with `where`.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} is {list(state[name].shape)}, expected {list(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(problems[:10])}{more}")
    model.load_state_dict(state)
