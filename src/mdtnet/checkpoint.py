"""Checkpoints: weights, config, classes, preprocessing and versions in one file that is safe to load.

A run's file is what `torch.save` makes of plain dicts, lists, numbers, texts and tensors, so that
`torch.load(weights_only=True)` reads it; a finished network's may be safetensors, the rest as JSON in its
metadata. Other people's checkpoints that `models.pretrained` recognises are read as if they were ours.
"""

import dataclasses
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import safetensors.torch
import torch
from torch import Tensor, nn

from mdtnet.config import PUBLISHED, DataConfig, EvalConfig, ModelConfig, RunConfig, Values
from mdtnet.config_file import CONFIG_VERSION, from_dict, to_dict, upgraded
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.models.build import build_model
from mdtnet.models.network import Network
from mdtnet.models.pretrained import DIGEST, digest, read_file, recognise
from mdtnet.system.files import atomic_write
from mdtnet.system.machine import versions
from mdtnet.zoo.find import located
from mdtnet.zoo.table import Entry

log = logging.getLogger(__name__)

FORMAT = "mdtnet"
FORMAT_VERSION = 1
KINDS: dict[str, tuple[type, ...]] = {
    "model": (dict,),
    "config": (dict,),
    "classes": (list, tuple),
    "preprocessing": (dict,),
    "versions": (dict,),
    "metrics": (dict,),
    "training": (dict, type(None)),
}
"""Keys of a checkpoint file, and what their values must be."""


class Rng(TypedDict):
    """State of every random number generator of a process."""

    python: tuple[int, Sequence[int], float | None]
    numpy: tuple[str, Tensor, int, int, float]
    torch: Tensor
    cuda: list[Tensor]


class TrainingState(TypedDict):
    """State that a run resumes from, beside the weights."""

    state: dict[str, Any]
    """Fields of `training.run.State`."""
    sums: list[float]
    """Loss, right predictions and clips of this epoch so far."""
    rng: list[Rng]
    """One per process."""
    num_videos: int
    """Training videos."""
    videos: NotRequired[str]
    """Digest of the names, parts and labels of the training and validation videos; missing in older files."""
    optimizer: dict[str, Any]
    """Its `state_dict`."""
    scaler: dict[str, Any] | None
    """That of the gradient scaler, where there is one."""
    model: dict[str, Tensor] | None
    """The weights that are trained, where a moving average is what is tested."""


class Source(TypedDict, total=False):
    """Where other people's weights come from."""

    kind: str
    """Whose they are, such as `official TSM`."""
    ignored: list[str]
    """Names in the file that nothing is computed with."""
    file: str
    """Name of the file, once converted."""
    sha256: str
    """Its digest, once converted."""
    name: str
    """The name that it was given by."""
    licence: str
    """Of its repository, and the terms of the data that it was trained on."""
    published: str
    """Its published figure, where a protocol here repeats it."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    config: RunConfig
    """The run that made it."""
    classes: tuple[str, ...]
    """Class names in label order."""
    model_state: dict[str, Tensor]
    """The weights to use; of a run with a moving average, the average."""
    training_state: TrainingState | None
    """State that a run resumes from (in `last.pt`), or None."""
    preprocessing: Values
    """How pixels become input, spelled out for other programs; empty in other people's files."""
    versions: dict[str, str]
    """Package versions at the time of writing."""
    metrics: Values
    """Epoch and validation figures at the time of writing."""
    format_version: int
    """Layout of the file."""
    num_segments_trained: int | None
    """T in training; None where it is not known, in other people's files."""
    source: Source
    """Of other people's checkpoints: where they come from; empty in ours."""

    @property
    def clip_seconds(self) -> float:
        """Median length of the training clips; 0 where it is not known."""
        seconds = self.preprocessing.get("clip_seconds") or 0.0
        return seconds if isinstance(seconds, float) else 0.0


def save_checkpoint(
    path: str | Path,
    *,
    model: Network,
    config: RunConfig,
    classes: Sequence[str],
    training_state: TrainingState | None = None,
    metrics: Values | None = None,
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
    model: Network,
    config: RunConfig,
    classes: Sequence[str],
    metrics: Values | None = None,
    source: Source | None = None,
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
    state, text = {name: value.contiguous() for name, value in model.state_dict().items()}, json.dumps(content)
    data = safetensors.torch.save(state, metadata={FORMAT: text, DIGEST: digest(state, text)})
    atomic_write(path, lambda file: file.write(data))


def _content(model: Network, config: RunConfig, classes: Sequence[str], metrics: Values | None) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config_version": CONFIG_VERSION,
        "config": to_dict(config),
        "classes": list(classes),
        "preprocessing": preprocessing(model, config),
        "versions": versions(),
        "metrics": metrics or {},
    }


def preprocessing(model: Network, config: RunConfig) -> Values:
    """From decoded frames to input: sampling, sizes in pixels, mean and deviation of RGB in [0, 1]."""
    data = config.data
    return {
        "mean": [float(value) for value in model.trunk.mean],
        "std": [float(value) for value in model.trunk.std],
        "short_side": data.short_side,
        "size": data.size,
        "num_segments": data.num_segments,
        "frames_per_segment": model.frames_per_segment,
        "frame_stride": data.frame_stride,
        "sampling": data.sampling,
        "exposure": data.exposure,
        "clip_seconds": model.clip_seconds,
    }


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, a file or a name of the zoo, into main memory, without running anything it holds.

    One that is given by name comes with its class names, its T, and the protocol of its published figure.

    Raises:
        CheckpointError: the file is missing, is neither ours nor recognised, or is of a newer format; or a name is
            not known, cannot be fetched, or its file is another network than the zoo's table says.
    """
    file, entry = located(path)
    content = _read(file)
    try:
        version = content.get("config_version", 1)  # the first versions of files did not say it
        config: RunConfig = from_dict(RunConfig, upgraded(content["config"], version, where=str(path)), where=str(path))
    except ConfigError as error:
        raise CheckpointError(f"{error} (in the config inside the checkpoint)") from error
    checkpoint = Checkpoint(
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
    return with_facts(checkpoint, entry) if entry else checkpoint


def with_facts(checkpoint: Checkpoint, entry: Entry) -> Checkpoint:
    """The same checkpoint with what the zoo knows of it: class names, T, flip, and the published protocol.

    One that says all this itself, as ours do, keeps its own.

    Raises:
        CheckpointError: it is another network than the entry says.
    """
    config = checkpoint.config
    found = (config.model.name, config.model.trunk, config.model.tsm.causal, len(checkpoint.classes))
    if found != (entry.system, entry.trunk, entry.causal, entry.classes):
        raise CheckpointError(
            f"{entry.name}: the file holds {found[0]} on {found[1]} with {found[3]} classes, expected {entry.system} "
            f"on {entry.trunk} with {entry.classes}"
        )
    source: Source = {**checkpoint.source, "name": entry.name, "licence": entry.licence_line}
    if checkpoint.preprocessing:  # other people's files have none
        return dataclasses.replace(checkpoint, source=source)
    if not entry.has_names:
        log.info("%s: the names of its classes are not known here: they are shown as numbers", entry.name)
    stream = entry.sampling == "stream"
    data = dataclasses.replace(
        config.data,
        num_segments=config.data.num_segments if stream else entry.segments,
        flip=entry.flip if entry.flip == "swap" else entry.flip == "true",
        multi_label=entry.multi_label,
    )
    test = entry.protocol or config.test
    if entry.protocol:
        source["published"] = str(entry.published[-1])
    return dataclasses.replace(
        checkpoint,
        preprocessing={"clip_seconds": entry.clip_seconds},
        config=dataclasses.replace(config, data=data, test=test),
        classes=entry.class_names(),
        num_segments_trained=None if stream else entry.segments,
        source=source,
    )


def published_protocol(checkpoint: Checkpoint) -> EvalConfig:
    """The protocol of the published figure of a checkpoint that was given by name.

    Raises:
        ConfigError: nothing is published of it that a protocol here could repeat.
    """
    if "published" not in checkpoint.source:
        raise ConfigError(f"protocol is '{PUBLISHED}', but no figure of this checkpoint is published (see mdtnet zoo)")
    return checkpoint.config.test


def _read(path: Path) -> dict[str, Any]:
    content = read_file(path)
    if content.get("format") != FORMAT:
        return _foreign(content, where=str(path))
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format_version {version}, but this mdtnet reads up to {FORMAT_VERSION}: update mdtnet"
        )
    if missing := [key for key in KINDS if key not in content]:
        raise CheckpointError(f"{path}: damaged checkpoint, without {', '.join(missing)}")
    for key, kinds in KINDS.items():
        if not isinstance(content[key], kinds):
            kind, expected = type(content[key]).__name__, kinds[0].__name__
            raise CheckpointError(f"{path}: damaged checkpoint, {key} is a {kind}, expected a {expected}")
    return content


def _foreign(content: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Somebody else's checkpoint as ours would hold it; classes are called by their numbers."""
    weights = recognise(content, where=where)
    if not weights.num_classes:
        raise CheckpointError(f"{where}: {weights.source} without its classifier, only good as model.weights")
    values: Values = {"name": weights.system, "trunk": weights.trunk, "tsm": {"causal": weights.causal}}
    model = from_dict(ModelConfig, values, where=where)
    return {
        "format_version": FORMAT_VERSION,
        "config_version": CONFIG_VERSION,
        "config": to_dict(RunConfig(data=DataConfig(flip="swap"), model=model)),
        "classes": [str(label) for label in range(weights.num_classes)],
        "model": weights.state,
        "preprocessing": {},
        "versions": {},
        "metrics": {},
        "training": None,
        "num_segments_trained": None,
        "source": {"kind": weights.source, "ignored": list(weights.ignored)},
    }


def load_model(path: str | Path, *, num_segments_trained: int | None = None) -> Network:
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


def model_of(checkpoint: Checkpoint, *, where: str) -> Network:
    """As `load_model`, of a checkpoint that is already read; errors name `where`."""
    config = dataclasses.replace(checkpoint.config.model, weights="")  # its start is not wanted again
    model = build_model(config, num_classes=len(checkpoint.classes))
    fill(model, checkpoint.model_state, where=where)
    model.classes, model.config = checkpoint.classes, checkpoint.config
    model.licence = checkpoint.source.get("licence", "")
    model.clip_seconds = checkpoint.clip_seconds
    model.num_segments_trained = checkpoint.num_segments_trained  # TDN computes with it
    return model.eval()


def warn_of_segments(model: Network, num_segments: int, *, where: str) -> None:
    """Say it where a network that relates segments is used with another T than it was trained with."""
    trained, config = model.num_segments_trained, model.config
    if trained is None or (config.model.name == "tsn" and config.model.input == "raw"):
        return  # not known, or segments are seen one by one
    known = sorted({trained, *config.train.segments})
    if num_segments not in known:
        log.warning(
            "%s: used with %d segments, but trained with %s: accuracy may be lower than with these (train.segments "
            "trains for several)",
            where,
            num_segments,
            ", ".join(map(str, known)),
        )


def fill(model: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Copy weights into `model`, every name and every shape the same, every number finite.

    Raises:
        CheckpointError: a name is missing or too many, a shape differs, or a number is not finite; the message starts
            with `where`.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in own]
    problems += [
        f"{name} is {list(state[name].shape)}, expected {list(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    problems += [
        f"{name} has numbers that are not finite" for name in own if name in state and not state[name].isfinite().all()
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise CheckpointError(f"{where}: weights do not fit the model: {'; '.join(problems[:10])}{more}")
    model.load_state_dict(state)
