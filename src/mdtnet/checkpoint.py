"""Checkpoints: weights, config, classes, preprocessing and versions in one file that loads without running code.

The file is what `torch.save` makes of plain dicts, lists, numbers, texts and tensors, so that
`torch.load(weights_only=True)` reads it.
"""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from mdtnet.config import RunConfig, from_dict, to_dict
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.models.build import build_model

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
    """How pixels become input, spelled out for programs that are not this one."""
    versions: dict[str, str]
    """Package versions at the time of writing."""
    metrics: dict[str, Any]
    """Epoch and validation figures at the time of writing."""
    format_version: int
    """Layout of the file."""


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
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": dict(model.state_dict()),
        "config": to_dict(config),
        "classes": list(classes),
        "preprocessing": preprocessing(model, config),
        "versions": versions(),
        "metrics": metrics or {},
        "training": training_state,
    }
    atomic_write(path, lambda file: torch.save(content, file))


def atomic_write(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write(file)` fill a temporary file in the same folder, then put it in the place of `path`, on disk."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def preprocessing(model: nn.Module, config: RunConfig) -> dict[str, Any]:
    """The path from decoded frames to input: sampling, sizes in pixels, and the mean and standard deviation of
    RGB in [0, 1]."""
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


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint into main memory, without running anything it holds.

    Raises:
        CheckpointError: the file is missing, is no checkpoint of this project, or is of a newer format.
    """
    content = _read(Path(path))
    try:
        config = from_dict(RunConfig, content["config"], where=str(path))
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
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch has no one error for "not mine": any of a dozen comes up
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{path}: not an mdtnet checkpoint, or a damaged one ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not an mdtnet checkpoint (a file of other weights, it seems)")
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version {version}, but this mdtnet reads up to {FORMAT_VERSION}: update mdtnet"
        )
    if missing := [key for key in KEYS if key not in content]:
        raise CheckpointError(f"{path}: damaged checkpoint, without {', '.join(missing)}")
    return content


def load_model(path: str | Path) -> nn.Module:
    """The trained network of a checkpoint, on the CPU, in eval mode, with `.classes` and `.config` (RunConfig).

    Raises:
        CheckpointError: see `load_checkpoint`; or its weights do not fit the network its config describes.
    """
    return model_of(load_checkpoint(path), where=str(path))


def model_of(checkpoint: Checkpoint, *, where: str) -> nn.Module:
    """As `load_model`, of a checkpoint that is already read; errors name `where`."""
    config = dataclasses.replace(checkpoint.config.model, weights="")  # its start is not wanted again
    model: Any = build_model(config, num_classes=len(checkpoint.classes))
    fill(model, checkpoint.model_state, where=where)
    model.classes, model.config = checkpoint.classes, checkpoint.config
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
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(problems[:3])}{more}")
    model.load_state_dict(state)
