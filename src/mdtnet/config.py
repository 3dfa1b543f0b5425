"""Every option of a run, in one place: four frozen dataclasses, one flat YAML, the same names on the command line.

`RunConfig` is `data`, `model`, `train` and `test`; `--train.epochs 30` on the command line, `train: {epochs: 30}` in
YAML and `TrainConfig(epochs=30)` in Python are the same thing.
"""

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from mdtnet.data.exposure import Exposure
from mdtnet.data.segments import TestRule
from mdtnet.errors import ConfigError
from mdtnet.models.build import System, TrunkName
from mdtnet.models.mdtnet import MDTNetConfig
from mdtnet.models.reading import Reading, ReadingTo
from mdtnet.saliency import SaliencyConfig


@dataclass(frozen=True)
class DataConfig:
    """What is learned from, and how clips are drawn from it."""

    train: str = ""
    """Training videos: a folder of class folders, or a list file (CSV, TSV or space separated)."""
    val: str = ""
    """Validation videos, the same forms. Empty: split off from `train`, whole groups at a time."""
    root: str = ""
    """Folder that the paths in list files are relative to. Empty: the list file's own folder."""
    classes: str = ""
    """File with one class name a line, in label order. Empty: names come from folders or lists, sorted."""
    multi_label: bool = False
    """Rows of lists have several labels (`jump|wave`), one or none: learned by binary cross-entropy, judged by mAP."""
    group: str = ""
    """Regular expression on the path whose first (...) names a video's group; a group never crosses the split."""
    val_fraction: float = 0.2
    """Share of the groups that is split off when `val` is empty, 0 to 1."""
    folds: int = 0
    """Cross-validation when `val` is empty: groups are dealt out to this many folds, 2 or more; 0: `val_fraction`."""
    fold: int = 0
    """The fold, from 0, that is the validation part."""
    num_segments: int = 8
    """T, the number of segments a clip is divided into."""
    frame_stride: int = 1
    """Distance in frames between the neighbouring frames of a segment."""
    sampling: Literal["consecutive", "random"] = "consecutive"
    """How a segment's frames are drawn: neighbours from a random start, or sorted random frames."""
    short_side: int = 256
    """Frames are resized to this short side, in pixels, before cropping."""
    size: int = 224
    """Side of the square crop the network sees, in pixels."""
    crop: Literal["random", "multiscale"] = "random"
    """Training crop: a random place, or TSN's multi-scale corner crops (1, .875, .75, .66)."""
    flip: Literal[True, False, "swap"] = True
    """Mirror a training clip with probability 1/2. Where labels name left and right, `swap` gives a mirrored clip the
    label of its mirror image, and false never mirrors."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation jitter in training, 0 to 1; one draw a clip."""
    randaugment: int = 0
    """Strength of RandAugment, 0 (off) to 30 (9 is usual): two random changes of place or colour, one draw a clip."""
    exposure: Exposure = "none"
    """For dark videos: each clip is brought to medium brightness, in training and tests, by one factor (`gain`) or one
    exponent (`gamma`) that its own frames give."""
    cache: str = ""
    """Folder to keep decoded, resized frames in (uint8), so that a video is decoded once. Empty: no cache."""
    on_unreadable: Literal["error", "skip"] = "error"
    """Unreadable training videos: stop with an error, or leave them out, counted and reported."""
    workers: int = 0
    """Data loader processes; 0 decodes in the main process."""
    backend: Literal["auto", "pyav", "torchcodec"] = "auto"
    """Video decoder; `auto` is PyAV. torchcodec's frames are resized by another filter: half a level of difference."""


@dataclass(frozen=True)
class ModelConfig:
    """What is built."""

    name: System = "mdtnet2"
    """The system: tsn, tsm, tea, tdn, mdtnet1 (without salience) or mdtnet2 (with)."""
    trunk: TrunkName = "resnet50"
    """The 2D network that every key frame goes through."""
    width: float = 1.0
    """Channel multiplier of the trunk; pre-trained weights fit 1.0 only."""
    weights: str = ""
    """Start: `imagenet` (torchvision or timm), a checkpoint file, or empty for a random start."""
    dropout: float = 0.5
    """Dropout before the classifier, 0 to 1."""
    freeze: Literal["none", "stem", "stages", "trunk"] = "none"
    """What of the trunk is not trained: nothing, the stem, the stem and stages 1 to 3, or all of it."""
    input: Reading = "own"
    """How key frames are seen: `raw`; `without_scene`, less their mean over the clip; `median`, less their median;
    `learned`, through a learned gain of each frequency in time; `own` is the system's way: without_scene of mdtnet2,
    raw of the others. mdtnet2 with `raw` has the map of `saliency`."""
    input_to: ReadingTo = "frames"
    """Where key frames that are not raw go: in the place of the raw ones (`frames`); beside them into a stem of six
    channels (`stem`); or as three more channels into the path of `differences`, the trunk seeing raw ones."""
    mdtnet: MDTNetConfig = field(default_factory=MDTNetConfig)
    """Components of MDT-Net; other systems ignore them."""
    saliency: SaliencyConfig = field(default_factory=SaliencyConfig)
    """The motion salience map of mdtnet2 with `input: raw`; its noise, quantile, pool and scene are for other inputs
    too."""


@dataclass(frozen=True)
class TrainConfig:
    """How it is trained. The defaults are the paper's recipe (METHOD section 7)."""

    epochs: int = 70
    """Passes over the training videos."""
    batch_size: int = 64
    """Global batch: clips per optimiser step over all processes and accumulation steps."""
    accumulate: int = 1
    """Gradient accumulation: a global batch is computed in this many parts."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = 0.01
    """Learning rate for a global batch of 64; it scales with the batch, and the log says to what."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of weights; batch-norm parameters and biases are not decayed, as in the official recipes of TSN, TSM
    and TEA."""
    decay_norms: bool = False
    """Decay batch-norm parameters and biases too."""
    schedule: Literal["steps", "cosine"] = "steps"
    """Learning-rate schedule after the warm-up."""
    steps: tuple[int, ...] = (30, 40, 50)
    """Epochs after which the learning rate is multiplied by `decay` (schedule `steps`)."""
    decay: float = 0.1
    """Factor at each of `steps`."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up from 0."""
    clip_grad: float = 0.0
    """Largest norm of the gradient; 0 does not clip (20 in the official TSN, TSM and TDN recipes)."""
    classifier_lr: float = 1.0
    """Multiplier of the learning rate for the classifier (5 when fine-tuning in the official recipes)."""
    temporal_lr: float = 1.0
    """Multiplier of the learning rate for new layers: what is neither trunk nor a copy of its layers nor classifier."""
    offset_lr: float = 0.1
    """Multiplier, beside `temporal_lr`, for the layers that move the taps of deformable convolutions."""
    exchange: float = 0.0
    """Share of training clips, 0 to 1, that get another clip's scene: their static part is exchanged."""
    label_smoothing: float = 0.0
    """Label smoothing, 0 to 1."""
    class_balance: Literal["none", "sampling", "weights"] = "none"
    """Rare classes: drawn as often as others (`sampling`), or counted more in the loss (`weights`)."""
    mixup: float = 0.0
    """Mixup of clips: alpha of the Beta distribution that the shares are drawn from; 0 is off."""
    cutmix: float = 0.0
    """CutMix of clips, one box for all frames: alpha as of `mixup`; with both, a coin decides for each batch."""
    partial_bn: bool = False
    """Freeze the statistics and parameters of every batch norm of the trunk but the first."""
    sync_bn: bool = True
    """Synchronise batch norm over processes; takes effect on CUDA."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, which is then what is tested; 0: none."""
    early_stopping: int = 0
    """Stop after this many epochs without a better validation top-1 (`multi_label`: mAP); 0 never stops early."""
    amp: Literal["no", "fp16", "bf16"] = "no"
    """Automatic mixed precision."""
    channels_last: bool = True
    """Channels-last memory format for convolutions."""
    checkpoint_activations: bool = False
    """Compute each block of the trunk again in the backward pass instead of keeping its activations: less memory, more
    time, the same result."""
    device: str = "auto"
    """`auto`, or `cpu` to keep off an accelerator."""
    seed: int = 0
    """Seed of initialisation, order of samples, augmentation and dropout."""
    save_every: int = 0
    """Also write the last checkpoint every this many optimiser steps; 0: only after each epoch."""
    val_every: int = 1
    """Validate after every this many epochs, and after the last."""
    trackers: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ("csv", "tensorboard")
    """Where curves are logged."""


@dataclass(frozen=True)
class TestConfig:
    """How it is tested; stored with every result. `PROTOCOLS` has the named ones."""

    clips: int = 1
    """Clips per video."""
    rule: TestRule = "uniform"
    """How clips are drawn: spread evenly; random with `seed`; TSM's dense or twice; TDN's (docs/protocols.md)."""
    seed: int = 0
    """Of rule `random`: the same clips of a video every time, whatever list it is in."""
    crops: Literal[1, 3] = 1
    """1: the centre crop. 3: left, centre and right (or top, centre and bottom) of the short side."""
    crop_size: int = 0
    """Side of the test crop in pixels; 0: `data.size` for 1 crop, `data.short_side` for 3."""
    flip: bool = False
    """Also test each view mirrored: twice the views. With `data.flip` swap a mirrored view's scores go to the mirror
    labels; a network trained with `data.flip` false is refused."""
    batch_size: int = 8
    """Views per forward pass."""
    fusion: Literal["logits", "softmax"] = "softmax"
    """What is averaged over the views of a video: scores or probabilities (with `data.multi_label`, sigmoids)."""
    on_unreadable: Literal["wrong", "exclude"] = "wrong"
    """Unreadable test videos count as wrong, or are left out; both figures are always shown."""

    __test__ = False  # not a test class, whatever pytest thinks of the name


PROTOCOLS: dict[str, dict[str, Any]] = {
    "efficient": {"clips": 1, "crops": 1},
    "accurate": {"clips": 10, "crops": 3},
    "tsm_kinetics": {"rule": "dense", "clips": 10, "crops": 3, "fusion": "logits"},
    "tsm_something": {"rule": "tsm_twice", "clips": 2, "crops": 3, "fusion": "logits"},
    "tea": {"rule": "random", "clips": 10, "crops": 3, "fusion": "logits"},
    "tdn_kinetics": {"rule": "random", "clips": 10, "crops": 3, "fusion": "softmax"},
    "tdn": {"rule": "tdn", "clips": 1, "crops": 1},
}
"""Named protocols (METHOD section 7): the paper's two, then those of the official code of TSM, TEA and TDN. Three crops
are `data.short_side` pixels wide, 256 by default."""


def protocol_named(name: str) -> dict[str, Any]:
    """The values of a named protocol.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"protocol is '{name}', expected one of {', '.join(PROTOCOLS)}{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def protocol_name(test: TestConfig) -> str:
    """The name of a protocol, or "" where it is none of the named ones."""
    keys = ("clips", "crops", "rule", "fusion", "flip")
    values = [getattr(test, key) for key in keys]
    for name, preset in PROTOCOLS.items():
        named = TestConfig(**preset)
        if values == [getattr(named, key) for key in keys] and not test.crop_size:
            return name
    return ""


def test_crop_size(data: DataConfig, test: TestConfig) -> int:
    """Side of the test crops in pixels."""
    return test.crop_size or (data.size if test.crops == 1 else data.short_side)


test_crop_size.__test__ = False  # type: ignore[attr-defined]  # nor is this


@dataclass(frozen=True)
class RunConfig:
    """One run: data, model, training and testing."""

    out: str = ""
    """Folder of the run: config, logs, checkpoints, scores, report. Empty: a new one in `runs/`, named by the time."""
    data: DataConfig = field(default_factory=DataConfig)
    """Data and sampling."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """System and trunk."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Training recipe."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test protocol."""


BEFORE: dict[str, Any] = {
    "model.input": "raw",
    "model.mdtnet.fine_start": 1.0,
    "model.mdtnet.fine_stage1": False,
    "model.mdtnet.spatial_difference": "none",
    "model.mdtnet.gate_start": 0.0,
    "model.mdtnet.dcme_reach": 0.0,
    "model.saliency.normalise": "segment",
    "train.decay_norms": True,
    "train.offset_lr": 1.0,
}
"""Key -> what a run did whose config does not have it, where that is not today's default: what it learned is loaded and
compared with this."""


def completed(values: dict[str, Any]) -> dict[str, Any]:
    """The config of an earlier run, nested, with the keys of `BEFORE` that it lacks; nothing else is added."""
    done = dict(values)
    for key, value in BEFORE.items():
        *parents, last = key.split(".")
        place = done
        for parent in parents:
            if not isinstance(place.get(parent, {}), dict):
                break  # reading the config says what is wrong with it
            place[parent] = dict(place.get(parent, {}))
            place = place[parent]
        else:
            place.setdefault(last, value)
    return done


def to_dict(config: Any) -> dict[str, Any]:
    """A (nested) config as plain dicts, lists and numbers, fit for YAML and JSON."""
    return {
        f.name: to_dict(v) if dataclasses.is_dataclass(v) else list(v) if isinstance(v, tuple) else v
        for f in dataclasses.fields(config)
        for v in [getattr(config, f.name)]
    }


def from_dict(kind: type, values: Any, *, where: str = "config", prefix: str = "") -> Any:
    """Build a (nested) config dataclass of type `kind` from plain dicts, checking every key and value.

    Raises:
        ConfigError: an unknown key or a wrong value; the message names `where`, the key and the nearest right one.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix or 'the file'} must hold keys and values, not {values!r}")
    hints = typing.get_type_hints(kind)
    built = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise ConfigError(f"{where}: unknown key '{name}'{nearest(str(key), list(hints))}")
        if dataclasses.is_dataclass(hints[key]):
            built[key] = from_dict(hints[key], value, where=where, prefix=f"{name}.")
        else:
            built[key] = _checked(hints[key], value, where=f"{where}: {name}")
    return kind(**built)


def _checked(hint: Any, value: Any, *, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in args):  # True is not 1
            raise ConfigError(
                f"{where} is {value!r}, expected one of {', '.join(map(str, args))}{nearest(str(value), args)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}, expected a list")
        return tuple(_checked(args[0], v, where=where) for v in value)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _checked(args[0], value, where=where)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}, expected {hint.__name__}")
    return value


def nearest(word: str, choices: typing.Iterable[Any]) -> str:
    """A phrase `; did you mean 'x'?` with the choice most like `word`, or nothing if none is like it."""
    matches = difflib.get_close_matches(word.lower(), [str(c) for c in choices], n=1, cutoff=0.5)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def load_yaml(path: str | Path) -> RunConfig:
    """Read a run's YAML file.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key or a wrong value.
    """
    return from_dict(RunConfig, read_yaml(path), where=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file; none of an empty one.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds anything else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {values!r}, expected keys and values")
    return values or {}


def save_yaml(config: RunConfig, path: str | Path) -> None:
    """Write `config` so that `load_yaml` gives it back."""
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")
