"""The registry: systems x trunks, one literal table each, and the one builder that holds the numbers."""

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import nn

from mdtnet.checks import check_ranges
from mdtnet.errors import ConfigError
from mdtnet.models.mdtnet import MDTNet, MDTNetConfig, excite
from mdtnet.models.pretrained import start_trunk, start_weights, take_over
from mdtnet.models.reading import KeyFrameReading, Reading, widen_stem_
from mdtnet.models.tdn import TDN, differ
from mdtnet.models.tea import SPLITS, TEA, Res2NetBlock, excite_and_aggregate
from mdtnet.models.trunk import (
    RESNETS,
    Block,
    EfficientNetLite0Trunk,
    Maker,
    MobileNetV2Trunk,
    ResNet,
    Trunk,
    nothing,
)
from mdtnet.models.tsm import TSM, shift_every, shift_step
from mdtnet.models.tsn import TSN
from mdtnet.saliency import SaliencyConfig

System = Literal["tsn", "tsm", "tea", "tdn", "mdtnet1", "mdtnet2"]
TrunkName = Literal["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "efficientnet_lite0"]
SYSTEMS: tuple[System, ...] = get_args(System)
TRUNKS: tuple[TrunkName, ...] = get_args(TrunkName)


def resnet(block: type[Block], num_blocks: tuple[int, int, int, int]) -> Callable[..., Trunk]:
    return lambda **keywords: ResNet(block, num_blocks, **keywords)


TRUNK_MAKERS: dict[TrunkName, Callable[..., Trunk]] = {
    "resnet18": resnet(*RESNETS["resnet18"]),
    "resnet34": resnet(*RESNETS["resnet34"]),
    "resnet50": resnet(*RESNETS["resnet50"]),
    "resnet101": resnet(*RESNETS["resnet101"]),
    "mobilenet_v2": MobileNetV2Trunk,
    "efficientnet_lite0": EfficientNetLite0Trunk,
}

OWN_READING: Reading = "without_scene"
"""The salience of MDT-Net2: its key frames without what stands still."""

TEA_TRUNK_MAKERS: dict[TrunkName, Callable[..., Trunk]] = {
    **TRUNK_MAKERS,
    "resnet50": resnet(Res2NetBlock, RESNETS["resnet50"][1]),
    "resnet101": resnet(Res2NetBlock, RESNETS["resnet101"][1]),
}
"""TEA has a Res2Net in the place of a ResNet of bottlenecks."""


def build_model(config: Any, *, num_classes: int) -> nn.Module:
    """Build what a `ModelConfig` (or anything with its fields) names, and start it from `config.weights`.

    The model maps uint8 clips, or float ones that are normalised already, [B, T, K, 3, H, W] to logits [B,
    classes]; K is its `frames_per_segment`. Its `pretrained` is `ImageNet`, `video` or empty, by what it starts from.

    Raises:
        ConfigError: see `check_model`; ImageNet weights that cannot be had, or a width other than 1 where it is not
            possible.
        CheckpointError: weights that are not recognised or of another trunk.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}, expected at least 1")
    check_model(config)
    source = config.weights
    weights = source and start_weights(source, system=config.name, trunk=config.trunk, width=config.width)
    makers = TEA_TRUNK_MAKERS if config.name == "tea" else TRUNK_MAKERS

    def trunk(at_input: Maker = nothing, after_conv1: Maker = nothing) -> Trunk:
        made = makers[config.trunk](at_input=at_input, after_conv1=after_conv1, width=config.width)
        if weights:
            start_trunk(made, weights, source=source)  # now, since TDN and MDT-Net copy its first layers
        return made

    model: Any = _system(config, trunk, num_classes)
    if model.reading.place == "stem":
        widen_stem_(model.trunk)
    model.pretrained = weights and ("ImageNet" if weights.imagenet else "video")
    if weights:
        take_over(model, weights, source=source)
    freeze(model, config.freeze)
    return model


def _system(config: Any, trunk: Callable[..., Trunk], num_classes: int) -> nn.Module:
    def common(made: Trunk, *, causal: bool = False) -> dict[str, Any]:
        """What every system takes, beside its trunk."""
        reading = KeyFrameReading(
            reading_of(config), to=config.input_to, saliency=config.saliency, std=made.std, causal=causal
        )
        return {"trunk": made, "num_classes": num_classes, "dropout": config.dropout, "reading": reading}

    if config.name == "tsn":
        return TSN(**common(trunk()))
    if config.name == "tsm":
        return TSM(**common(trunk(at_input=shift_every(shift_step(config.trunk)))))
    if config.name == "tea":
        splits = SPLITS if TEA_TRUNK_MAKERS[config.trunk] is not TRUNK_MAKERS[config.trunk] else 1
        return TEA(**common(trunk(after_conv1=excite_and_aggregate(splits))))
    if config.name == "tdn":
        return TDN(**common(trunk(after_conv1=differ)))
    parts: MDTNetConfig = config.mdtnet
    mapped = config.name == "mdtnet2" and reading_of(config) == "raw"
    saliency: SaliencyConfig | None = config.saliency if mapped else None
    return MDTNet(**common(trunk(after_conv1=excite(parts)), causal=parts.causal), config=parts, saliency=saliency)


def reading_of(config: Any) -> Reading:
    """How the network of a `ModelConfig` sees its key frames, with the system's own way spelled out."""
    if config.input != "own":
        return config.input
    return OWN_READING if config.name == "mdtnet2" else "raw"


def check_model(config: Any) -> None:
    """See that the numbers of a `ModelConfig` are in their ranges and go together.

    Raises:
        ConfigError: the message names the key, the value and what was expected.
    """
    check_ranges(config, part="model")
    if config.name in ("mdtnet1", "mdtnet2"):
        _check(config.mdtnet)
    _check_reading(config)
    if config.name == "mdtnet2" and reading_of(config) == "raw" and config.saliency.pool % 2:
        raise ConfigError(
            f"model.saliency.pool is {config.saliency.pool}, expected an even number: the network takes its salience "
            "of frames of half size"
        )


def _check_reading(config: Any) -> None:
    """What the way that key frames are seen asks of a system."""
    reading, maps = reading_of(config), config.name in ("mdtnet1", "mdtnet2")
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
    if not (maps and config.mdtnet.causal):
        return
    if reading in ("median", "learned"):
        raise ConfigError(
            f"model.input is '{reading}', which looks at the whole clip: a causal network (model.mdtnet.causal) takes "
            "raw or without_scene"
        )
    saliency: SaliencyConfig = config.saliency
    if config.name == "mdtnet2" and reading == "raw":
        for key, value in (("window", saliency.window), ("normalise", saliency.normalise)):
            if value == "clip":
                raise ConfigError(
                    f"model.saliency.{key} is 'clip', which looks at the whole clip: a causal network "
                    "(model.mdtnet.causal) takes segment"
                )
        if saliency.variant == "without_scene":
            raise ConfigError(
                "model.saliency.variant is 'without_scene', which looks at the whole clip: a causal network "
                "(model.mdtnet.causal) takes model.input without_scene"
            )


def _check(parts: MDTNetConfig) -> None:
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
        raise ConfigError(f"model.mdtnet.dcme_kernels is {list(kernels)}, expected odd sizes, one a scale")
    if len(dilations) != len(kernels) or min(dilations) < 1:
        raise ConfigError(
            f"model.mdtnet.dcme_dilations is {list(dilations)}, expected a number of cells for each of "
            f"{len(kernels)} kernels (model.mdtnet.dcme_kernels)"
        )


def freeze(model: nn.Module, what: str) -> None:
    """Switch off gradients of the trunk's own parameters: none, its `stem`, `stages` 1 to 3 too, or all."""
    trunk: Trunk = model.trunk  # type: ignore[assignment]
    frozen: dict[str, list[nn.Module]] = {"none": [], "stem": trunk.stem_layers(), "trunk": [trunk]}
    frozen["stages"] = trunk.stem_layers() + [b for s in (1, 2, 3) for b in trunk.stage_blocks(s)]
    for module in frozen[what]:
        for name, parameter in module.named_parameters():
            if "temporal." not in name and "at_input." not in name:
                parameter.requires_grad_(False)
