"""TEA: TSN whose blocks excite channels by motion and aggregate several temporal ranges.

Li et al., "TEA: Temporal Excitation and Aggregation for Action Recognition", CVPR 2020. Its own trunk is
Res2Net-50 26w 4s (Gao et al. 2019) in ResNet-50's place; on other trunks it is its two modules, without the
hierarchical split.

Letters: N = B*T frames, C channels, c reduced channels, H, W pixels.
"""

import torch
from torch import Tensor, nn

from mdtnet.models.temporal import ConvBN, DepthwiseConv, fan_out_, neighbour_differences
from mdtnet.models.trunk import Block, Maker, Place, Timeline, downsample
from mdtnet.models.tsn import TSN

SPLITS = 4
"""Parts of a Res2Net block's channels."""


class TEA(TSN):
    """Clips [B, T, 1, 3, H, W] -> logits [B, classes]; its trunk is built with `excite_and_aggregate(...)`
    after conv1, from `Res2NetBlock` in the place of bottlenecks."""


class MotionExcitation(nn.Module):
    """x + x * E, E = sigmoid(...) - 1/2, a number per channel, from the pooled difference to the next segment.

    [N, C, H, W] -> [N, C, H, W]. The last segment, which has no next one, has difference 0.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(channels // 16, 6)  # 6 is the narrowest in the official network
        self.reduce = ConvBN(channels, width, 1)
        self.move = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.expand = ConvBN(width, channels, 1)
        fan_out_(self)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        z = self.reduce(x)  # [N, c, H, W]
        forward, _ = neighbour_differences(z, self.move(z), timeline.num_segments)
        y = self.expand(forward.mean((2, 3), keepdim=True))  # [N, C, 1, 1]
        return x + x * (torch.sigmoid(y) - 0.5)


class ExciteAndAggregate(nn.Module):
    """TEA's parts in a block: motion excitation, then a depthwise temporal convolution for each split.

    Called as a whole it applies both, one after the other; `Res2NetBlock` calls the parts itself.
    """

    def __init__(self, channels: int, *, splits: int = 1) -> None:
        super().__init__()
        self.excitation = MotionExcitation(channels)
        width = channels // splits
        # of several splits the last alone starts as a shift: in any case 1/8 of all channels moves each way
        shifts = [DepthwiseConv(width, start="identity") for _ in range(splits - 1)]
        shifts.append(DepthwiseConv(width, start="shift", fraction=splits / 8))
        self.shifts = nn.ModuleList(shifts)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        parts = self.excitation(x, timeline).chunk(len(self.shifts), 1)
        return torch.cat([shift(part, timeline) for shift, part in zip(self.shifts, parts)], 1)


def excite_and_aggregate(splits: int = 1) -> Maker:
    """The maker of `ExciteAndAggregate` for every block of every stage."""

    def make(place: Place) -> ExciteAndAggregate:
        return ExciteAndAggregate(place.channels, splits=splits)

    return make


class Res2NetBlock(Block):
    """Res2Net's bottleneck (26w 4s) with TEA's parts: split i sees the output of split i - 1 before its
    temporal and its spatial convolution, so that ranges in time and space grow from split to split.

    In a stage's first block the splits stay apart, and the last one is pooled instead of passed on.
    """

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        width = planes * 26 // 64
        self.conv1 = nn.Conv2d(inplanes, width * SPLITS, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width * SPLITS)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, stride, 1, bias=False) for _ in range(SPLITS - 1))
        self.bns = nn.ModuleList(nn.BatchNorm2d(width) for _ in range(SPLITS - 1))
        self.conv3 = nn.Conv2d(width * SPLITS, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample(inplanes, planes * self.expansion, stride)
        self.pool = nn.AvgPool2d(3, stride, 1) if self.downsample is not None else nn.Identity()
        self.at_input = self.temporal = None

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.splits(y, timeline)))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))

    def splits(self, x: Tensor, timeline: Timeline) -> Tensor:
        """[N, 4w, H, W] -> [N, 4w, H / stride, W / stride]."""
        temporal: ExciteAndAggregate = self.temporal  # type: ignore[assignment]
        *parts, last = temporal.excitation(x, timeline).chunk(SPLITS, 1)
        done: list[Tensor] = []
        for part, shift, conv, bn in zip(parts, temporal.shifts, self.convs, self.bns):
            if done and self.downsample is None:
                part = part + done[-1]
            done.append(self.relu(bn(conv(shift(part, timeline)))))
        return torch.cat((*done, self.pool(temporal.shifts[-1](last, timeline))), 1)
