"""ACTION-Net: TSN whose residual branches are shifted by learned filters and excited along three paths.

Wang et al., "ACTION-Net: Multipath Excitation for Action Recognition", CVPR 2021.

Letters: N = B*T frames, C channels, c reduced channels, H, W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdtnet.models.temporal import ConvBN, DepthwiseConv, neighbour_differences
from mdtnet.models.trunk import Maker, Place, Timeline
from mdtnet.models.tsn import TSN

REDUCTION, NARROWEST = 16, 4
"""Channels are reduced by this factor, to the narrowest of the official network at least."""


class ActionNet(TSN):
    """Clips [B, T, 1, 3, H, W] -> logits [B, classes]; its trunk is built with `act_every` at the input."""


class SpatioTemporalGate(nn.Module):
    """Where and when: a 3 x 3 x 3 convolution of the mean over channels, [N, C, H, W] -> gate [N, 1, H, W].

    In two dimensions, with t-1, t, t+1 as channels: a weight of five could not be channels-last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        mean = x.mean(1).unflatten(0, (-1, timeline.num_segments))  # [B, T, H, W]
        padded = F.pad(mean, (0, 0, 0, 0, 1, 1))
        around = torch.stack((padded[:, :-2], mean, padded[:, 2:]), 2)  # [B, T, 3, H, W]
        return torch.sigmoid(self.conv(around.flatten(0, 1)))


class ChannelGate(nn.Module):
    """Which channels, along time: pooled features, convolved over T, [N, C, H, W] -> gate [N, C, 1, 1]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.conv = nn.Conv1d(width, width, 3, padding=1, bias=False)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        z = self.reduce(x.mean((2, 3), keepdim=True)).flatten(1)  # [N, c]
        z = self.conv(z.unflatten(0, (-1, timeline.num_segments)).transpose(1, 2))  # [B, c, T]
        z = torch.relu(z).transpose(1, 2).flatten(0, 1)  # [N, c]
        return torch.sigmoid(self.expand(z[:, :, None, None]))


class MotionGate(nn.Module):
    """Motion: the pooled difference to the next segment, [N, C, H, W] -> gate [N, C, 1, 1].

    The last segment, which has no next one, has difference 0 and so a gate of 1/2.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = ConvBN(channels, width, 1)
        self.move = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        z = self.reduce(x)  # [N, c, H, W]
        forward, _ = neighbour_differences(z, self.move(z), timeline.num_segments)
        return torch.sigmoid(self.expand(forward.mean((2, 3), keepdim=True)))


class Action(nn.Module):
    """A learned shift s along time, then the sum of s + s * gate over the three gates; [N, C, H, W] as it came."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        width = max(channels // REDUCTION, NARROWEST)
        self.shift = DepthwiseConv(channels, start="shift")
        self.spatiotemporal = SpatioTemporalGate()
        self.channel = ChannelGate(channels, width)
        self.motion = MotionGate(channels, width)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        s = self.shift(x, timeline)
        per_channel = 3 + self.channel(s, timeline) + self.motion(s, timeline)
        return s * (per_channel + self.spatiotemporal(s, timeline))


def act_every(blocks: int) -> Maker:
    """A maker of `Action` before blocks 0, n, 2n, ... of every stage."""

    def make(place: Place) -> Action | None:
        return Action(place.channels) if place.block % blocks == 0 else None

    return make
