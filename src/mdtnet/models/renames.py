"""Our names for everybody's names: one literal table a source of checkpoints, facts and nothing else.

In a table `#` stands for a number; the last part of a name (weight, bias, running_mean, ...) stays as it is.
An empty right side is what an official network holds but never computes with.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Renames = Mapping[str, str]

OFFICIAL_TSN: Renames = {
    "base_model.conv1": "trunk.conv1",
    "base_model.bn1": "trunk.bn1",
    "base_model.layer#.#.conv#": "trunk.layer#.#.conv#",
    "base_model.layer#.#.bn#": "trunk.layer#.#.bn#",
    "base_model.layer#.#.downsample.#": "trunk.layer#.#.downsample.#",
    "base_model.fc": "head.fc",  # where it was trained without dropout
    "new_fc": "head.fc",
}

OFFICIAL_TSM: Renames = {**OFFICIAL_TSN, "base_model.layer#.#.conv1.net": "trunk.layer#.#.conv1"}

OFFICIAL_TEA: Renames = {
    **OFFICIAL_TSN,
    "base_model.layer#.#.convs.#": "trunk.layer#.#.convs.#",
    "base_model.layer#.#.bns.#": "trunk.layer#.#.bns.#",
    "base_model.layer#.#.me.conv1": "trunk.layer#.#.temporal.excitation.reduce.0",
    "base_model.layer#.#.me.bn1": "trunk.layer#.#.temporal.excitation.reduce.1",
    "base_model.layer#.#.me.conv2": "trunk.layer#.#.temporal.excitation.move",
    "base_model.layer#.#.me.conv3": "trunk.layer#.#.temporal.excitation.expand.0",
    "base_model.layer#.#.me.bn3": "trunk.layer#.#.temporal.excitation.expand.1",
    "base_model.layer#.#.shifts.#.conv": "trunk.layer#.#.temporal.shifts.#",
}

OFFICIAL_TDN: Renames = {
    "base_model.conv1": "trunk.conv1",
    "base_model.bn1": "trunk.bn1",
    "base_model.conv1_temp": "",
    "base_model.conv1_5.#": "fine.stem.#",
    "base_model.resnext_layer1.#.conv#": "fine.stage1.#.conv#",
    "base_model.resnext_layer1.#.bn#": "fine.stage1.#.bn#",
    "base_model.resnext_layer1.#.downsample.#": "fine.stage1.#.downsample.#",
    "base_model.layer#_bak.#.conv#": "trunk.layer#.#.conv#",
    "base_model.layer#_bak.#.bn#": "trunk.layer#.#.bn#",
    "base_model.layer#_bak.#.downsample.#": "trunk.layer#.#.downsample.#",
    "base_model.layer#_bak.#.mse.conv1": "trunk.layer#.#.temporal.reduce.0",
    "base_model.layer#_bak.#.mse.bn1": "trunk.layer#.#.temporal.reduce.1",
    "base_model.layer#_bak.#.mse.conv2": "trunk.layer#.#.temporal.coarse.move",
    "base_model.layer#_bak.#.mse.conv3_smallscale2": "trunk.layer#.#.temporal.coarse.pooled.0",
    "base_model.layer#_bak.#.mse.bn3_smallscale2": "trunk.layer#.#.temporal.coarse.pooled.1",
    "base_model.layer#_bak.#.mse.conv3_smallscale4": "trunk.layer#.#.temporal.coarse.full.0",
    "base_model.layer#_bak.#.mse.bn3_smallscale4": "trunk.layer#.#.temporal.coarse.full.1",
    "base_model.layer#_bak.#.mse.conv3": "trunk.layer#.#.temporal.coarse.expand.0",
    "base_model.layer#_bak.#.mse.bn3": "trunk.layer#.#.temporal.coarse.expand.1",
    "base_model.layer#_bak.#.shift.conv": "trunk.layer#.#.temporal.conv",
    "new_fc": "head.fc",
}

OFFICIAL_ACTION: Renames = {
    **OFFICIAL_TSM,
    "base_model.layer#.#.conv1.action_shift": "trunk.layer#.#.at_input.shift",
    "base_model.layer#.#.conv1.action_p1_conv1": "trunk.layer#.#.at_input.spatiotemporal.conv",
    "base_model.layer#.#.conv1.action_p2_squeeze": "trunk.layer#.#.at_input.channel.reduce",
    "base_model.layer#.#.conv1.action_p2_conv1": "trunk.layer#.#.at_input.channel.conv",
    "base_model.layer#.#.conv1.action_p2_expand": "trunk.layer#.#.at_input.channel.expand",
    "base_model.layer#.#.conv1.action_p3_squeeze": "trunk.layer#.#.at_input.motion.reduce.0",
    "base_model.layer#.#.conv1.action_p3_bn1": "trunk.layer#.#.at_input.motion.reduce.1",
    "base_model.layer#.#.conv1.action_p3_conv1": "trunk.layer#.#.at_input.motion.move",
    "base_model.layer#.#.conv1.action_p3_expand": "trunk.layer#.#.at_input.motion.expand",
}

MMACTION_TSN: Renames = {
    "backbone.conv1.conv": "trunk.conv1",
    "backbone.conv1.bn": "trunk.bn1",
    "backbone.layer#.#.conv#.conv": "trunk.layer#.#.conv#",
    "backbone.layer#.#.conv#.bn": "trunk.layer#.#.bn#",
    "backbone.layer#.#.downsample.conv": "trunk.layer#.#.downsample.0",
    "backbone.layer#.#.downsample.bn": "trunk.layer#.#.downsample.1",
    "cls_head.fc_cls": "head.fc",
}

MMACTION_TSM: Renames = {**MMACTION_TSN, "backbone.layer#.#.conv1.conv.net": "trunk.layer#.#.conv1"}

RESNET: Renames = {
    "conv1": "trunk.conv1",
    "bn1": "trunk.bn1",
    "layer#.#.conv#": "trunk.layer#.#.conv#",
    "layer#.#.bn#": "trunk.layer#.#.bn#",
    "layer#.#.downsample.#": "trunk.layer#.#.downsample.#",
    "fc": "head.fc",
}

RES2NET: Renames = {
    **RESNET,
    "layer#.#.convs.#": "trunk.layer#.#.convs.#",
    "layer#.#.bns.#": "trunk.layer#.#.bns.#",
}

MOBILENET_V2: Renames = {
    "features.#.#": "trunk.features.#.#",
    "features.#.conv.#": "trunk.features.#.conv.#",
    "features.#.conv.#.#": "trunk.features.#.conv.#.#",
    "classifier.1": "head.fc",
}

MOBILENET_V2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)
"""Blocks of each stage of MobileNetV2; they are features 1 to 17."""
MOBILENET_V2_SHIFTED = (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)
"""Features that TSM shifts: those with an expansion and a skip."""


def _flat_mobilenet_v2(start: str, *, shifted: tuple[int, ...] = ()) -> dict[str, str]:
    """MobileNetV2 whose blocks are one flat list, as TSM's code has it; in front of every name stands `start`."""
    names = {f"{start}features.{i}.#": f"trunk.features.{i}.#" for i in (0, 18)}
    first = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
    others = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}
    for i in range(1, 18):
        for theirs, ours in (first if i == 1 else others).items():
            net = ".net" if i in shifted and theirs == "0" else ""
            names[f"{start}features.{i}.conv.{theirs}{net}"] = f"trunk.features.{i}.conv.{ours}"
    return names


OFFICIAL_TSN_MOBILENET_V2: Renames = {
    **_flat_mobilenet_v2("base_model."),
    "base_model.classifier": "head.fc",  # where it was trained without dropout
    "new_fc": "head.fc",
}

OFFICIAL_TSM_MOBILENET_V2: Renames = {
    **_flat_mobilenet_v2("base_model.", shifted=MOBILENET_V2_SHIFTED),
    "base_model.classifier": "head.fc",
    "new_fc": "head.fc",
}

OFFICIAL_ONLINE_TSM: Renames = {**_flat_mobilenet_v2(""), "classifier": "head.fc"}


def _mmaction_mobilenet_v2(*, shifted: tuple[int, ...] = ()) -> dict[str, str]:
    names = {
        "backbone.conv1.conv": "trunk.features.0.0",
        "backbone.conv1.bn": "trunk.features.0.1",
        "backbone.conv2.conv": "trunk.features.18.0",
        "backbone.conv2.bn": "trunk.features.18.1",
        "cls_head.fc_cls": "head.fc",
    }
    for i, place in _numbered(*MOBILENET_V2_BLOCKS):
        stage, block = map(int, place.split("."))
        theirs, number = f"backbone.layer{stage + 1}.{block}.conv", i + 1
        ours = f"trunk.features.{number}.conv"
        last = 1 if number == 1 else 2
        for k in range(last):
            shifts = number in shifted and k == 0
            names |= {f"{theirs}.{k}.conv{'.net' * shifts}": f"{ours}.{k}.0", f"{theirs}.{k}.bn": f"{ours}.{k}.1"}
            if shifts:  # its source wraps the convolution with its batch norm, as a ResNet's the convolution alone
                names |= {f"{theirs}.{k}.net.conv": f"{ours}.{k}.0", f"{theirs}.{k}.net.bn": f"{ours}.{k}.1"}
        names |= {f"{theirs}.{last}.conv": f"{ours}.{last}", f"{theirs}.{last}.bn": f"{ours}.{last + 1}"}
    return names


EFFICIENTNET_LITE: Renames = {
    "conv_stem": "trunk.conv_stem",
    "bn1": "trunk.bn1",
    "blocks.#.#.conv_dw": "trunk.blocks.#.#.conv_dw",
    "blocks.#.#.conv_pw": "trunk.blocks.#.#.conv_pw",
    "blocks.#.#.conv_pwl": "trunk.blocks.#.#.conv_pwl",
    "blocks.#.#.bn#": "trunk.blocks.#.#.bn#",
    "conv_head": "trunk.conv_head",
    "bn2": "trunk.bn2",
    "classifier": "head.fc",
}


MOBILENET_V4: Renames = {
    "conv_stem": "trunk.conv_stem",
    "bn1": "trunk.bn1",
    "blocks.#.#.conv": "trunk.blocks.#.#.conv",
    "blocks.#.#.conv_exp": "trunk.blocks.#.#.conv_exp",
    "blocks.#.#.conv_pwl": "trunk.blocks.#.#.conv_pwl",
    "blocks.#.#.bn#": "trunk.blocks.#.#.bn#",
    **{
        f"blocks.#.#.{part}.{layer}": f"trunk.blocks.#.#.{part}.{layer}"
        for part in ("dw_start", "pw_exp", "dw_mid", "pw_proj")
        for layer in ("conv", "bn")
    },
    "conv_head": "trunk.conv_head",
    "norm_head": "trunk.norm_head",
    "classifier": "head.fc",
}


def _numbered(*stages: int) -> list[tuple[int, str]]:
    """Blocks of all stages counted through: their number and `stage.block`."""
    return list(enumerate(f"{stage}.{block}" for stage, count in enumerate(stages) for block in range(count)))


MMACTION_TSN_MOBILENET_V2: Renames = _mmaction_mobilenet_v2()

MMACTION_TSM_MOBILENET_V2: Renames = _mmaction_mobilenet_v2(shifted=MOBILENET_V2_SHIFTED)

TIMM_MOBILENET_V2: Renames = {
    "conv_stem": "trunk.features.0.0",
    "bn1": "trunk.features.0.1",
    "blocks.0.0.conv_dw": "trunk.features.1.conv.0.0",
    "blocks.0.0.bn1": "trunk.features.1.conv.0.1",
    "blocks.0.0.conv_pw": "trunk.features.1.conv.1",
    "blocks.0.0.bn2": "trunk.features.1.conv.2",
    **{
        f"blocks.{block}.{name}": f"trunk.features.{number + 1}.conv.{ours}"
        for number, block in _numbered(*MOBILENET_V2_BLOCKS)[1:]
        for name, ours in {
            "conv_pw": "0.0",
            "bn1": "0.1",
            "conv_dw": "1.0",
            "bn2": "1.1",
            "conv_pwl": "2",
            "bn3": "3",
        }.items()
    },
    "conv_head": "trunk.features.18.0",
    "bn2": "trunk.features.18.1",
    "classifier": "head.fc",
}


def _published_lite(*stages: int) -> dict[str, str]:
    """EfficientNet-Lite as published for PyTorch, its blocks in one list; `stages` are their numbers per stage."""
    inside = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
    }
    return {
        "_conv_stem": "trunk.conv_stem",
        "_bn0": "trunk.bn1",
        "_blocks.0._depthwise_conv": "trunk.blocks.0.0.conv_dw",
        "_blocks.0._bn1": "trunk.blocks.0.0.bn1",
        "_blocks.0._project_conv": "trunk.blocks.0.0.conv_pw",
        "_blocks.0._bn2": "trunk.blocks.0.0.bn2",
        **{
            f"_blocks.{number}.{theirs}": f"trunk.blocks.{block}.{ours}"
            for number, block in _numbered(*stages)[1:]
            for theirs, ours in inside.items()
        },
        "_conv_head": "trunk.conv_head",
        "_bn1": "trunk.bn2",
        "_fc": "head.fc",
    }


LITE0_PYTORCH: Renames = _published_lite(1, 2, 2, 3, 3, 4, 1)

LITE12_PYTORCH: Renames = _published_lite(1, 3, 3, 4, 4, 5, 1)
"""Of EfficientNet-Lite1 and Lite2, which differ in their widths alone."""


@dataclass(frozen=True)
class Source:
    """A kind of checkpoint: what it is called, the system it holds, our names for its names."""

    name: str
    system: str
    renames: Renames
    imagenet: bool = False
    """Weights of an image classifier, a start for every system."""
    causal: bool = False
    """Online: it looks at the past alone."""


SOURCES = (
    Source("official TSN", "tsn", OFFICIAL_TSN),
    Source("official TSM", "tsm", OFFICIAL_TSM),
    Source("official TEA", "tea", OFFICIAL_TEA),
    Source("official TDN", "tdn", OFFICIAL_TDN),
    Source("official ACTION-Net", "actionnet", OFFICIAL_ACTION),
    Source("mmaction2 TSN", "tsn", MMACTION_TSN),
    Source("mmaction2 TSM", "tsm", MMACTION_TSM),
    Source("official TSN on MobileNetV2", "tsn", OFFICIAL_TSN_MOBILENET_V2),
    Source("official TSM on MobileNetV2", "tsm", OFFICIAL_TSM_MOBILENET_V2),
    Source("official online TSM", "tsm", OFFICIAL_ONLINE_TSM, causal=True),
    Source("mmaction2 TSN on MobileNetV2", "tsn", MMACTION_TSN_MOBILENET_V2),
    Source("mmaction2 TSM on MobileNetV2", "tsm", MMACTION_TSM_MOBILENET_V2),
    Source("torchvision or timm ResNet", "tsn", RESNET, imagenet=True),
    Source("timm Res2Net", "tea", RES2NET, imagenet=True),
    Source("torchvision MobileNetV2", "tsn", MOBILENET_V2, imagenet=True),
    Source("timm MobileNetV2", "tsn", TIMM_MOBILENET_V2, imagenet=True),
    Source("timm EfficientNet-Lite", "tsn", EFFICIENTNET_LITE, imagenet=True),
    Source("timm MobileNetV4", "tsn", MOBILENET_V4, imagenet=True),
    Source("EfficientNet-Lite0", "tsn", LITE0_PYTORCH, imagenet=True),
    Source("EfficientNet-Lite1 or 2", "tsn", LITE12_PYTORCH, imagenet=True),
)
"""In the order they are tried: the first that has a place for every name is it."""

FLAT_MOBILENET_V2 = Source("MobileNetV2 that TSM starts from", "tsn", OFFICIAL_ONLINE_TSM, imagenet=True)
"""Has the names of the official online TSM, but the 1000 classes of ImageNet."""

OTHER_NETWORKS: Mapping[str, str] = {
    ".tam.": "temporal adaptive modules (TANet)",
    ".offset_net.": "temporal interlacing (TIN)",
    ".consensus.": "a relation head (TRN)",
    ".neck.": "a temporal pyramid (TPN)",
    ".non_local_block.": "non-local blocks",
    ".nl.": "non-local blocks",
}
"""Part of a name -> what has it, of networks near to those above that are not among the systems here."""
