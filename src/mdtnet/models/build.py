"""The registry: systems x trunks, one literal table each, and the one builder that holds the numbers."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from mdtnet.checks import causal_by, check_model
from mdtnet.config import ModelConfig, System, TrunkName
from mdtnet.errors import ConfigError
from mdtnet.models.actionnet import ActionNet, act_every
from mdtnet.models.mdtnet import MDTNet, excite
from mdtnet.models.network import Network
from mdtnet.models.pretrained import start_trunk, start_weights, take_over
from mdtnet.models.reading import KeyFrameReading, widen_stem_
from mdtnet.models.tdn import TDN, differ
from mdtnet.models.tea import SPLITS, TEA, Res2NetBlock, excite_and_aggregate
from mdtnet.models.trunk import (
    RESNETS,
    Block,
    EfficientNetLiteTrunk,
    Maker,
    MobileNetV2Trunk,
    MobileNetV4Trunk,
    ResNet,
    Trunk,
    nothing,
)
from mdtnet.models.tsm import TSM, shift_every, shift_step
from mdtnet.models.tsn import TSN


def resnet(block: type[Block], num_blocks: tuple[int, int, int, int]) -> Callable[..., Trunk]:
    return lambda **keywords: ResNet(block, num_blocks, **keywords)


TRUNK_MAKERS: dict[TrunkName, Callable[..., Trunk]] = {
    "resnet18": resnet(*RESNETS["resnet18"]),
    "resnet34": resnet(*RESNETS["resnet34"]),
    "resnet50": resnet(*RESNETS["resnet50"]),
    "resnet101": resnet(*RESNETS["resnet101"]),
    "mobilenet_v2": MobileNetV2Trunk,
    "mobilenet_v4_small": partial(MobileNetV4Trunk, "small"),
    "mobilenet_v4_medium": partial(MobileNetV4Trunk, "medium"),
    "efficientnet_lite0": partial(EfficientNetLiteTrunk, 0),
    "efficientnet_lite1": partial(EfficientNetLiteTrunk, 1),
    "efficientnet_lite2": partial(EfficientNetLiteTrunk, 2),
}

TEA_TRUNK_MAKERS: dict[TrunkName, Callable[..., Trunk]] = {
    **TRUNK_MAKERS,
    "resnet50": resnet(Res2NetBlock, RESNETS["resnet50"][1]),
    "resnet101": resnet(Res2NetBlock, RESNETS["resnet101"][1]),
}
"""TEA has a Res2Net in the place of a ResNet of bottlenecks."""


def build_model(config: ModelConfig, *, num_classes: int, classes: Sequence[str] = ()) -> Network:
    """Build what a config names, and start it from `config.weights`.

    The network maps uint8 clips, or float ones that are normalised already, [B, T, K, 3, H, W] to logits [B,
    classes]; K is its `frames_per_segment`. `classes` are the names of the classes, if known: a classifier to start
    from is used only if it is for the same ones, and gets their order.

    Raises:
        ConfigError: see `checks.check_model`; ImageNet weights that cannot be had, or a width other than 1 where it is
            not possible.
        CheckpointError: weights that are not recognised or of another trunk.
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes is {num_classes}, expected at least 1")
    check_model(config)
    source = config.weights
    weights = start_weights(source, system=config.name, trunk=config.trunk, width=config.width) if source else None
    makers = TEA_TRUNK_MAKERS if config.name == "tea" else TRUNK_MAKERS

    def trunk(at_input: Maker = nothing, after_conv1: Maker = nothing) -> Trunk:
        made = makers[config.trunk](at_input=at_input, after_conv1=after_conv1, width=config.width)
        if weights:
            start_trunk(made, weights, source=source)  # now, since TDN and MDT-Net copy its first layers
        return made

    model = MAKERS[config.name](config, trunk, num_classes)
    model.causal = bool(causal_by(config)) or (config.name == "tsn" and config.input == "raw")
    if model.reading.place == "stem":
        widen_stem_(model.trunk)
    if weights:
        model.pretrained = "ImageNet" if weights.imagenet else "video"
        take_over(model, weights, source=source, classes=classes)
    freeze(model, config.freeze)
    return model


def _reading(config: ModelConfig, trunk: Trunk, *, causal: bool = False) -> KeyFrameReading:
    return KeyFrameReading(config.input, to=config.input_to, saliency=config.saliency, std=trunk.std, causal=causal)


def _tsn(config: ModelConfig, trunk: Callable[..., Trunk], num_classes: int) -> TSN:
    made = trunk()
    return TSN(made, num_classes, dropout=config.dropout, reading=_reading(config, made))


def _tsm(config: ModelConfig, trunk: Callable[..., Trunk], num_classes: int) -> TSM:
    shifts = shift_every(shift_step(config.trunk), causal=config.tsm.causal)
    made = trunk(at_input=shifts)
    return TSM(made, num_classes, dropout=config.dropout, reading=_reading(config, made, causal=config.tsm.causal))


def _tea(config: ModelConfig, trunk: Callable[..., Trunk], num_classes: int) -> TEA:
    splits = SPLITS if TEA_TRUNK_MAKERS[config.trunk] is not TRUNK_MAKERS[config.trunk] else 1
    made = trunk(after_conv1=excite_and_aggregate(splits))
    return TEA(made, num_classes, dropout=config.dropout, reading=_reading(config, made))


def _tdn(config: ModelConfig, trunk: Callable[..., Trunk], num_classes: int) -> TDN:
    made = trunk(after_conv1=differ)
    return TDN(made, num_classes, dropout=config.dropout, reading=_reading(config, made))


def _actionnet(config: ModelConfig, trunk: Callable[..., Trunk], num_classes: int) -> ActionNet:
    made = trunk(at_input=act_every(shift_step(config.trunk)))
    return ActionNet(made, num_classes, dropout=config.dropout, reading=_reading(config, made))


def _mdtnet(config: ModelConfig, trunk: Callable[..., Trunk], num_classes: int) -> MDTNet:
    made, parts = trunk(after_conv1=excite(config.mdtnet)), config.mdtnet
    reading = _reading(config, made, causal=parts.causal)
    saliency = config.saliency if config.name == "mdtnet2" and reading.reading == "raw" else None
    return MDTNet(made, num_classes, config=parts, saliency=saliency, dropout=config.dropout, reading=reading)


MAKERS: dict[System, Callable[[ModelConfig, Callable[..., Trunk], int], Network]] = {
    "tsn": _tsn,
    "tsm": _tsm,
    "tea": _tea,
    "tdn": _tdn,
    "actionnet": _actionnet,
    "mdtnet1": _mdtnet,
    "mdtnet2": _mdtnet,
}
"""One maker per row of `config.SYSTEMS`: it calls `trunk` with its makers of temporal modules, and adds the rest."""


def freeze(model: Network, what: str) -> None:
    """Switch off gradients of the trunk's own parameters: none, its `stem`, `stages` 1 to 3 too, or all."""
    trunk = model.trunk
    frozen: dict[str, list[nn.Module]] = {"none": [], "stem": trunk.stem_layers(), "trunk": [trunk]}
    frozen["stages"] = trunk.stem_layers() + [b for s in (1, 2, 3) for b in trunk.stage_blocks(s)]
    for module in frozen[what]:
        for name, parameter in module.named_parameters():
            if "temporal." not in name and "at_input." not in name:
                parameter.requires_grad_(False)
