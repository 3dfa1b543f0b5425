"""2D trunks: ResNet, MobileNetV2 and V4, EfficientNet-Lite, with the parameter names of torchvision and timm.

A trunk sees B*T key frames as a batch. What happens between frames is a *temporal module*, made by a maker
that a system hands in, and called by the block itself; nothing is wrapped, so the trunk's own names never
change:

    at_input      residual branch's input          (TSM's place)
    after_conv1   after conv1, bn1, relu           (TEA, TDN and MDT-Net's place)

An inverted residual has one place, the input of a residual branch with a skip, whichever maker is given.

Letters: N = B*T frames, C channels, H, W pixels.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mdtnet.errors import ConfigError
from mdtnet.models.memory import Memory

_counted_as_compiled = False


def whole_graph() -> bool:
    """Whether a compiler takes the network as one graph: then operations are spelled out, without writes into slices
    and gradients by hand, for it to fuse; run one by one they would take more passes."""
    return torch.compiler.is_compiling() or _counted_as_compiled


@contextmanager
def as_compiled() -> Iterator[None]:
    """Let networks compute as they do for a compiler; for counting (`mdtnet.roofline`) and tests."""
    global _counted_as_compiled
    before, _counted_as_compiled = _counted_as_compiled, True
    try:
        yield
    finally:
        _counted_as_compiled = before


class Timeline(NamedTuple):
    """Context of a temporal module, beside its features."""

    num_segments: int
    """T: consecutive rows of the batch that belong to one clip."""
    low_level: Tensor | None = None
    """Stem features of the difference path, [N, C0, H/4, W/4], where a system has them."""
    memory: Memory | None = None
    """Of streams, whose segments come one at a time (`num_segments` 1)."""


class Place(NamedTuple):
    """A place for a temporal module, as its maker sees it."""

    stage: int
    """1 to 4."""
    block: int
    """Index in its stage, from 0."""
    number: int
    """Number among the places of its stage, from 0; less than `block` where blocks before it have none."""
    channels: int
    stem_channels: int
    """Channels that leave the stem."""
    stride: int = 1
    """Of the convolution that comes next."""


Maker = Callable[[Place], nn.Module | None]


def nothing(place: Place) -> None:
    """The maker of a plain 2D network."""


class Block(nn.Module):
    """Interface of a residual block; `ResNet` builds it as `block(inplanes, planes, stride)`."""

    expansion: int
    """Channels that leave the block are `planes` times this."""
    conv1: nn.Conv2d
    bn1: nn.BatchNorm2d
    downsample: nn.Sequential | None
    at_input: nn.Module | None
    temporal: nn.Module | None
    """The temporal module after conv1, bn1, relu; the block calls both."""


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and 34)."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample(inplanes, planes, stride)
        self.at_input = self.temporal = None

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        y = x if self.at_input is None else self.at_input(x, timeline)
        y = self.relu(self.bn1(self.conv1(y)))
        if self.temporal is not None:
            y = self.temporal(y, timeline)
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(Block):
    """1x1, 3x3 (which carries the stride), 1x1 (ResNet-50 and 101)."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample(inplanes, planes * self.expansion, stride)
        self.at_input = self.temporal = None

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        y = x if self.at_input is None else self.at_input(x, timeline)
        y = self.relu(self.bn1(self.conv1(y)))
        if self.temporal is not None:
            y = self.temporal(y, timeline)
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def downsample(inplanes: int, outplanes: int, stride: int) -> nn.Sequential | None:
    """The 1x1 convolution and batch norm beside a residual branch that changes the shape, else None."""
    if stride == 1 and inplanes == outplanes:
        return None
    return nn.Sequential(nn.Conv2d(inplanes, outplanes, 1, stride, bias=False), nn.BatchNorm2d(outplanes))


RESNETS: dict[str, tuple[type[Block], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}
"""Block class and number of blocks in each stage."""


class Trunk(nn.Module):
    """Base class of trunks: `stem`, four `stages`, `pool`; from these `forward` and `difference_stem`."""

    num_features: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    checkpoint_activations: bool = False
    """In training keep the input of each block alone, and compute the block again in the backward pass."""
    pixel_std: Tensor
    pixel_scale: Tensor
    pixel_shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(self.mean).view(3, 1, 1), torch.tensor(self.std).view(3, 1, 1)
        # on the device that the network is on, and in no checkpoint
        for name, value in {"std": std, "scale": 1 / (255 * std), "shift": -mean / std}.items():
            self.register_buffer(f"pixel_{name}", value, persistent=False)

    def stem_layers(self) -> list[nn.Module]:
        """The first layers, before stage 1, in order; the first convolution among them sees the pixels."""
        raise NotImplementedError

    def stage_blocks(self, stage: int) -> list[nn.Module]:
        """The blocks of stage 1 to 4."""
        raise NotImplementedError

    @staticmethod
    def run_block(block: nn.Module, x: Tensor, timeline: Timeline) -> Tensor:
        """One block on [N, C, H, W]."""
        return block(x, timeline)

    def pool(self, x: Tensor) -> Tensor:
        """Last feature map [N, C, H, W] -> [N, num_features]."""
        return x.mean((2, 3))

    def stem(self, x: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] -> stem features."""
        for layer in self.stem_layers():
            x = layer(x)
        return x

    def stage(self, stage: int, x: Tensor, timeline: Timeline) -> Tensor:
        """Stage 1 to 4 on [N, C, H, W]."""
        for block in self.stage_blocks(stage):
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = self._run_twice(block, x, timeline)
            else:
                x = self.run_block(block, x, timeline)
        return x

    def _run_twice(self, block: nn.Module, x: Tensor, timeline: Timeline) -> Tensor:
        return checkpoint(
            self.run_block,
            block,
            x,
            timeline,
            use_reentrant=False,
            preserve_rng_state=False,  # blocks draw nothing
            context_fn=lambda: (nullcontext(), _statistics_kept(block)),
        )

    def forward(self, x: Tensor, num_segments: int = 1, memory: Memory | None = None) -> Tensor:
        """Normalised frames [N, 3, H, W] -> features [N, num_features]; N is a multiple of `num_segments`."""
        return self.over_time(self.before_time(x), Timeline(num_segments, memory=memory))

    def before_time(self, x: Tensor) -> Tensor:
        """Normalised frames [N, 3, H, W] -> features [N, ...] of what sees each frame alone: the stem, the stages
        before the first temporal module, and the pooling where there is none."""
        x, first = self.stem(x), self.first_temporal_stage
        for stage in range(1, first):
            x = self.stage(stage, x, Timeline(1))
        return x if first <= 4 else self.pool(x)

    def over_time(self, x: Tensor, timeline: Timeline) -> Tensor:
        """Features from `before_time` -> [N, num_features]."""
        first = self.first_temporal_stage
        for stage in range(first, 5):
            x = self.stage(stage, x, timeline)
        return self.pool(x) if first <= 4 else x

    @property
    def first_temporal_stage(self) -> int:
        """1 to 4; 5 in a plain 2D network."""
        for stage in (1, 2, 3, 4):
            for block in self.stage_blocks(stage):
                if getattr(block, "at_input", None) is not None or block.temporal is not None:
                    return stage
        return 5

    def difference_stem(self, channels: int, *, frames: int = 0) -> nn.Sequential:
        """A trainable copy of the stem for `channels` input channels, and then for this many frames of 3.

        The first convolution is inflated from the mean of its channels, as in TDN; frames get its weights as they are.
        """
        layers = nn.Sequential(*copy.deepcopy(self.stem_layers()))
        first = next(m for m in layers.modules() if isinstance(m, nn.Conv2d))
        own = first.weight.detach()
        first.weight = nn.Parameter(
            torch.cat((own.mean(1, keepdim=True).repeat(1, channels, 1, 1), *[own] * frames), 1)
        )
        first.in_channels = channels + 3 * frames
        return layers


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Batch norms update copies of their running statistics: a second look at the same batch is not counted."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm)]
    own = [dict(m._buffers) for m in norms]
    for norm, buffers in zip(norms, own):
        norm._buffers.update({name: b if b is None else b.clone() for name, b in buffers.items()})
    try:
        yield
    finally:
        for norm, buffers in zip(norms, own):
            norm._buffers.update(buffers)


class ResNet(Trunk):
    """ResNet (He et al. 2016) with torchvision's names, without its classifier.

    `width` multiplies every channel count; `block(inplanes, planes, stride)` is a block class.
    """

    def __init__(
        self,
        block: type[Block],
        num_blocks: tuple[int, int, int, int],
        *,
        at_input: Maker = nothing,
        after_conv1: Maker = nothing,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        base = max(8, round(64 * width / 8) * 8)
        self.conv1 = nn.Conv2d(3, base, 7, 2, 3, bias=False)
        start_convolutions_(self.conv1)
        self.bn1 = nn.BatchNorm2d(base)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inplanes = base
        for stage, count in enumerate(num_blocks, start=1):
            planes, blocks = base * 2 ** (stage - 1), []
            for i in range(count):
                stride = 2 if i == 0 and stage > 1 else 1
                b = block(inplanes, planes, stride)
                start_convolutions_(b)  # before there are temporal modules in it, which start in their own way
                b.at_input = at_input(Place(stage, i, i, inplanes, base))
                left = stride // b.conv1.stride[0]
                b.temporal = after_conv1(Place(stage, i, i, b.bn1.num_features, base, left))
                inplanes = planes * block.expansion
                blocks.append(b)
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.num_features = inplanes

    def stem_layers(self) -> list[nn.Module]:
        return [self.conv1, self.bn1, self.relu, self.maxpool]

    def stage_blocks(self, stage: int) -> list[nn.Module]:
        return list(getattr(self, f"layer{stage}"))


class InvertedResidualTrunk(Trunk):
    """Shared by all trunks of inverted residuals: the trunk adds the skip itself, so that a temporal module changes the
    residual branch alone."""

    def _place_temporal(self, maker: Maker) -> None:
        stem_channels = last_bn_features(self.stem_layers())
        for stage in (1, 2, 3, 4):
            number = 0
            for i, block in enumerate(self.stage_blocks(stage)):
                skip = bool(_take_skip(block))
                block.add_skip = skip  # type: ignore[assignment]
                channels = next(m for m in block.modules() if isinstance(m, nn.Conv2d)).in_channels
                place = Place(stage, i, number, channels, stem_channels)
                block.temporal = maker(place) if skip else None  # type: ignore[assignment]
                number += skip

    @staticmethod
    def run_block(block: nn.Module, x: Tensor, timeline: Timeline) -> Tensor:
        y = block(x if block.temporal is None else block.temporal(x, timeline))  # type: ignore[operator]
        return x + y if block.add_skip else y


def _take_skip(block: nn.Module) -> bool:
    """Whether torchvision's or timm's block adds its input. Turns that off: the trunk adds it."""
    name = "use_res_connect" if hasattr(block, "use_res_connect") else "has_skip"
    skip = getattr(block, name)
    setattr(block, name, False)
    return skip


class MobileNetV2Trunk(InvertedResidualTrunk):
    """MobileNetV2 (Sandler et al. 2018), torchvision's `features`; split where H halves."""

    SPLITS = (2, 4, 7, 14, 18)

    def __init__(self, *, at_input: Maker = nothing, after_conv1: Maker = nothing, width: float = 1.0) -> None:
        super().__init__()
        from torchvision.models import MobileNetV2  # takes a while, and other trunks do without

        net = MobileNetV2(width_mult=width)
        self.features = net.features
        self.num_features = net.last_channel
        self._place_temporal(at_input if at_input is not nothing else after_conv1)

    def stem_layers(self) -> list[nn.Module]:
        return list(self.features[: self.SPLITS[0]])

    def stage_blocks(self, stage: int) -> list[nn.Module]:
        return list(self.features[self.SPLITS[stage - 1] : self.SPLITS[stage]])

    def pool(self, x: Tensor) -> Tensor:
        return self.features[-1](x).mean((2, 3))


class EfficientNetLiteTrunk(InvertedResidualTrunk):
    """EfficientNet-Lite0, 1 or 2, timm's `tf_efficientnet_lite#`; its pixels are normalised to [-1, 1]."""

    STAGES = ((1,), (2,), (3, 4), (5, 6))
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(
        self, number: int, *, at_input: Maker = nothing, after_conv1: Maker = nothing, width: float = 1.0
    ) -> None:
        super().__init__()
        net = timm_network(f"tf_efficientnet_lite{number}", width)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        self.conv_head, self.bn2 = net.conv_head, net.bn2
        self.num_features = net.num_features
        self._place_temporal(at_input if at_input is not nothing else after_conv1)

    def stem_layers(self) -> list[nn.Module]:
        return [self.conv_stem, self.bn1, self.blocks[0]]

    def stage_blocks(self, stage: int) -> list[nn.Module]:
        return [block for i in self.STAGES[stage - 1] for block in self.blocks[i]]

    def pool(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_head(x)).mean((2, 3))


class MobileNetV4Trunk(InvertedResidualTrunk):
    """MobileNetV4 (Qin et al. 2024) of convolutions, `small` or `medium`, timm's `mobilenetv4_conv_#`."""

    def __init__(
        self, size: str, *, at_input: Maker = nothing, after_conv1: Maker = nothing, width: float = 1.0
    ) -> None:
        super().__init__()
        net = timm_network(f"mobilenetv4_conv_{size}", width)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks
        self.conv_head, self.norm_head = net.conv_head, net.norm_head
        self.num_features = net.head_hidden_size
        self._place_temporal(at_input if at_input is not nothing else after_conv1)

    def stem_layers(self) -> list[nn.Module]:
        return [self.conv_stem, self.bn1]

    def stage_blocks(self, stage: int) -> list[nn.Module]:
        return list(self.blocks[stage - 1])

    def pool(self, x: Tensor) -> Tensor:
        x = self.blocks[4](x).mean((2, 3), keepdim=True)
        return self.norm_head(self.conv_head(x)).flatten(1)


def timm_network(name: str, width: float) -> Any:
    """An image classifier of timm's without its last layer, weights at random.

    Raises:
        ConfigError: `width` is not 1.
    """
    if width != 1:
        raise ConfigError(f"model.width is {width:g}, but {name.removeprefix('tf_')} has width 1 only")
    import timm  # takes a second or two, and other trunks do without

    return timm.create_model(name, num_classes=0)


def last_bn_features(layers: list[nn.Module]) -> int:
    """Channels that leave `layers`: those of the last batch norm in order of construction."""
    norms = [m for layer in layers for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    return norms[-1].num_features


def normalise(frames: Tensor, trunk: Trunk) -> Tensor:
    """Frames as the trunk wants them: uint8 [..., 3, H, W] becomes (x / 255 - mean) / std; float is left alone."""
    if frames.is_floating_point():
        return frames
    return torch.addcmul(trunk.pixel_shift, frames.float(), trunk.pixel_scale)


def start_convolutions_(module: nn.Module) -> None:
    """As torchvision starts a ResNet: normal with variance 2 / fan-out; depthwise convolutions stay as they are."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d) and m.groups == 1:
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


def half_size(frames: Tensor) -> Tensor:
    """Frames [..., H, W] averaged over 2 x 2 pixels, as float; uint8 pixels come out in [0, 1].

    Sums in 16 bits: several times quicker than a float copy of all frames and a pooling of it.
    """
    height, width = frames.shape[-2] // 2 * 2, frames.shape[-1] // 2 * 2
    frames = frames[..., :height, :width]
    if frames.is_floating_point():
        top, bottom = frames[..., 0::2, :], frames[..., 1::2, :]
        both = top + bottom
        return (both[..., 0::2] + both[..., 1::2]) * (1 / 4)
    if frames.is_contiguous():  # two pixels of a row are one number of 16 bits: no strided reads
        two = frames.view(torch.int16)
        rows = (two & 255).add_((two >> 8).bitwise_and_(255))
        return (rows[..., 0::2, :] + rows[..., 1::2, :]).float().mul_(1 / (4 * 255))
    both = frames[..., 0::2, :].to(torch.int16) + frames[..., 1::2, :]
    return (both[..., 0::2] + both[..., 1::2]).float().mul_(1 / (4 * 255))
