"""Checks made before any work starts: numbers in their ranges, options that go together."""

import importlib.util
import operator
from collections.abc import Callable
from typing import Any

from mdtnet.config import SYSTEMS, DataConfig, EvalConfig, MDTNetConfig, ModelConfig, RunConfig
from mdtnet.errors import ConfigError

RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "at least 1": (
        lambda x: x >= 1,
        "data.num_segments data.frame_stride data.short_side data.size model.mdtnet.frames_per_segment "
        "model.mdtnet.excite_every model.mdtnet.reduction model.saliency.pool train.epochs train.batch_size "
        "train.accumulate train.val_every test.clips test.batch_size",
    ),
    "0 or more": (
        lambda x: x >= 0,
        "data.workers data.decode_threads model.mdtnet.key_frame model.saliency.noise "
        "model.saliency.frequency_weights train.lr train.weight_decay train.steps train.decay train.warmup_epochs "
        "train.classifier_lr train.temporal_lr train.offset_lr model.mdtnet.fine_start model.mdtnet.gate_start "
        "model.mdtnet.dcme_reach",
    ),
    "0 (off) or more": (
        lambda x: x >= 0,
        "data.folds train.clip_grad train.mixup train.cutmix train.early_stopping train.save_every test.crop_size "
        "test.segments",
    ),
    "0 to 1": (
        lambda x: 0 <= x <= 1,
        "data.color_jitter model.saliency.floor model.saliency.drop model.saliency.quantile "
        "model.saliency.scene train.exchange train.teacher_weight",
    ),
    "0 or more and less than 1": (
        lambda x: 0 <= x < 1,
        "model.dropout train.momentum train.label_smoothing train.ema",
    ),
    "more than 0 and less than 1": (lambda x: 0 < x < 1, "data.val_fraction"),
    "more than 0": (lambda x: x > 0, "model.width"),
    "0 (the file's own) to 1000": (lambda x: 0 <= x <= 1000, "data.fps"),
    "0 to 30": (lambda x: 0 <= x <= 30, "data.randaugment"),
    "0 to 4294967295": (lambda x: 0 <= x < 2**32, "train.seed test.seed"),
}
"""Expected range -> its test, and the keys it applies to (for a list: to each number)."""


def check_ranges(config: Any, *, part: str = "") -> None:
    """Check that the numbers of a `RunConfig` are in their ranges, or those of its `part`, such as `model.saliency`.

    Raises:
        ConfigError: the message names the key, the value and what was expected.
    """
    for expected, (fits, keys) in RANGES.items():
        for key in keys.split():
            if not key.startswith(part):
                continue
            value = operator.attrgetter(key[len(part) :].lstrip("."))(config)
            if not all(map(fits, value if isinstance(value, tuple) else (value,))):
                shown = f"[{', '.join(f'{v:.12g}' for v in value)}]" if isinstance(value, tuple) else f"{value:.12g}"
                raise ConfigError(f"{key} is {shown}, expected {expected}")


def check_model(config: ModelConfig) -> None:
    """Check that the numbers of a `ModelConfig` are in their ranges and go together.

    Raises:
        ConfigError: the message names the key, the value and what was expected.
    """
    check_ranges(config, part="model")
    parts = SYSTEMS[config.name].parts
    if "mdtnet" in parts:
        _check_parts(config.mdtnet)
    _check_reading(config)
    if "saliency" in parts and config.input == "raw" and config.saliency.pool % 2:
        raise ConfigError(
            f"model.saliency.pool is {config.saliency.pool}, expected an even number: the network takes its salience "
            "of frames of half size"
        )


def _check_reading(config: ModelConfig) -> None:
    """Check that a system can see its key frames in this way."""
    reading, maps = config.input, "mdtnet" in SYSTEMS[config.name].parts
    has_differences = config.name == "tdn" or (maps and config.mdtnet.fine)
    if config.input_to == "differences" and reading != "raw" and not has_differences:
        raise ConfigError(
            f"model.input_to is 'differences', but {config.name} as configured has no path of differences inside "
            "segments; expected frames or stem"
        )
    if config.name == "mdtnet2" and reading != "raw" and config.saliency.to == "action":
        raise ConfigError(
            f"model.saliency.to is 'action', but under model.input '{reading}' all frames of a segment are corrected "
            "alike and their differences do not change: this would be mdtnet1; expected both, or model.input_to "
            "'differences'"
        )
    causal = causal_by(config)
    if causal and reading in ("median", "learned"):
        raise ConfigError(
            f"model.input is '{reading}', which looks at the whole clip: a causal network ({causal}) takes raw or "
            "without_scene"
        )
    if causal and config.name == "mdtnet2" and reading == "raw":
        if config.saliency.window == "clip":
            raise ConfigError(
                "model.saliency.window is 'clip', which looks at the whole clip: a causal network "
                "(model.mdtnet.causal) takes segment"
            )
        if config.saliency.variant == "without_scene":
            raise ConfigError(
                "model.saliency.variant is 'without_scene', which looks at the whole clip: a causal network "
                "(model.mdtnet.causal) takes model.input without_scene"
            )


def causal_by(config: ModelConfig) -> str:
    """Name of the option by which a network looks at the past alone; empty where it does not."""
    if "mdtnet" in SYSTEMS[config.name].parts and config.mdtnet.causal:
        return "model.mdtnet.causal"
    return "model.tsm.causal" if config.name == "tsm" and config.tsm.causal else ""


def _check_parts(parts: MDTNetConfig) -> None:
    kernels, dilations, frames = parts.dcme_kernels, parts.dcme_dilations, parts.frames_per_segment
    if frames < 2 and parts.fine:
        raise ConfigError(
            f"model.mdtnet.frames_per_segment is {frames}, expected at least 2 for differences (model.mdtnet.fine)"
        )
    if parts.key_frame >= frames:
        raise ConfigError(
            f"model.mdtnet.key_frame is {parts.key_frame}, expected one of the {frames} frames of a segment "
            f"(model.mdtnet.frames_per_segment), counted from 0"
        )
    if not kernels or any(k < 1 or k % 2 == 0 for k in kernels):
        raise ConfigError(f"model.mdtnet.dcme_kernels is {list(kernels)}, expected odd sizes, one per scale")
    if len(dilations) != len(kernels) or min(dilations) < 1:
        raise ConfigError(
            f"model.mdtnet.dcme_dilations is {list(dilations)}, expected a number of cells for each of "
            f"{len(kernels)} kernels (model.mdtnet.dcme_kernels)"
        )


def check_config(config: RunConfig, *, processes: int) -> None:
    """Check that the numbers of a run are in their ranges and make sense together.

    Raises:
        ConfigError: the message names the key, the value and what was expected.
    """
    train = config.train
    check_ranges(config)
    check_model(config.model)
    if train.batch_size % (processes * train.accumulate):
        raise ConfigError(
            f"train.batch_size is {train.batch_size}, which does not divide by "
            f"{processes} process(es) x {train.accumulate} accumulation step(s)"
        )
    if config.data.multi_label and train.class_balance != "none":
        raise ConfigError(f"train.class_balance is '{train.class_balance}', expected none with data.multi_label")
    if train.segments and not 1 <= min(train.segments) <= max(train.segments) < config.data.num_segments:
        raise ConfigError(
            f"train.segments is {list(train.segments)}, expected numbers from 1 to {config.data.num_segments - 1}, "
            f"fewer than data.num_segments"
        )
    if config.data.multi_label and train.teacher:
        raise ConfigError(f"train.teacher is '{train.teacher}', expected none with data.multi_label")
    if "wandb" in train.trackers and not importlib.util.find_spec("wandb"):
        raise ConfigError("train.trackers has wandb, which is not installed: pip install 'mdtnet[wandb]'")


def check_rule(data: DataConfig, test: EvalConfig, frames_per_segment: int) -> None:
    """Raise ConfigError where `test.rule` cannot draw what is asked for."""
    if test.clips < 1:
        raise ConfigError(f"test.clips is {test.clips}, expected at least 1")
    if test.flip and data.flip is False:
        raise ConfigError("test.flip is true, but the network was trained with data.flip false: on no mirror images")
    most = {"tsm_twice": 2, "tdn": 1}.get(test.rule, test.clips)
    if test.clips > most:
        raise ConfigError(f"test.clips is {test.clips}, rule '{test.rule}' has {most}")
    if test.rule == "tsm_twice" and frames_per_segment != 1:
        raise ConfigError(f"test.rule 'tsm_twice' draws 1 frame per segment, this network needs {frames_per_segment}")
    if test.rule in ("dense", "tsm_twice", "tdn") and (data.frame_stride != 1 or data.sampling != "consecutive"):
        raise ConfigError(f"test.rule '{test.rule}' goes with data.frame_stride 1 and data.sampling consecutive only")
