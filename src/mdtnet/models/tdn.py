"""TDN: short-term differences at the stem, long-term differences in the blocks.

Wang et al., "TDN: Temporal Difference Networks for Efficient Action Recognition", CVPR 2021.

Letters: B clips, T segments, K frames per segment, N = B*T, C channels, H, W pixels.
"""

import copy

import torch
from torch import Tensor, nn

from mdtnet.models.consensus import AverageConsensus
from mdtnet.models.memory import Memory
from mdtnet.models.network import Network
from mdtnet.models.reading import KeyFrameReading, beside
from mdtnet.models.temporal import (
    CoarseDifference,
    ConvBN,
    DepthwiseConv,
    HalfSize,
    TemporalModule,
    as_maps,
    by_time,
    combined,
    fan_out_,
    gated,
    reduced_width,
    scaled,
)
from mdtnet.models.trunk import Place, Timeline, Trunk, normalise, whole_graph


class TDN(Network):
    """Clips [B, T, 5, 3, H, W] -> logits [B, classes].

    The trunk is built with `differ` after conv1, and holds its pre-trained weights already, since the
    difference path starts as a copy of its first layers. Both paths are weighed by the T that was trained
    with: `num_segments_trained`, or while that is None the input's T.
    """

    frames_per_segment = 5
    key_frame = 2

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        *,
        dropout: float = 0.5,
        num_segments_trained: int | None = None,
        reading: KeyFrameReading | None = None,
    ) -> None:
        super().__init__(trunk, num_classes, reading=reading)
        self.num_segments_trained = num_segments_trained
        self.half_size = HalfSize()
        self.fine = ShortTermDifference(trunk, beside=self.reading.place == "differences")
        self.head = AverageConsensus(trunk.num_features, num_classes, dropout=dropout)

    @property
    def segments_apart(self) -> bool:
        """Not where the weights of both paths depend on the input's T."""
        return super().segments_apart and self.num_segments_trained is not None

    def before_time(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, ...]:
        """Both paths up to stage 1."""
        timeline = Timeline(x.shape[1])
        frames, differences = self.inputs(x, memory)
        after_stem, after_stage1 = self.fine(differences)
        y = self.fuse(self.trunk.stem(frames), after_stem, timeline)
        del frames, differences, after_stem  # stage 1 is where a small trunk needs most memory
        return (self.fuse(self.trunk.stage(1, y, timeline), after_stage1, timeline),)

    def inputs(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
        """What the stem sees, [N, 3, H, W], and the differences [N, 12, H/2, W/2], perhaps with key frames beside."""
        key = normalise(x[:, :, self.key_frame], self.trunk)  # [B, T, 3, H, W]
        half = self.half_size(x)  # [B, T, 5, 3, H/2, W/2]
        differences = half[:, :, 1:] - half[:, :, :-1]
        if not x.is_floating_point():
            differences = differences / self.trunk.pixel_std
        action = beside(differences.flatten(2, 3).flatten(0, 1), self.reading.beside_differences(key, memory))
        return self.reading.frames(key, memory), action

    def over_time(self, features: tuple[Tensor, ...], num_segments: int, memory: Memory | None = None) -> Tensor:
        (y,) = features
        timeline = Timeline(num_segments, memory=memory)
        for stage in (2, 3, 4):
            y = self.trunk.stage(stage, y, timeline)
        return self.head(self.trunk.pool(y), num_segments)

    def fuse(self, appearance: Tensor, difference: Tensor, timeline: Timeline) -> Tensor:
        """Weighted sum at the appearance's resolution, both [N, C, *, *]."""
        alpha, beta = fusion_weights(self.num_segments_trained or timeline.num_segments)
        return combined(torch.add, alpha * appearance, beta * difference)


def fusion_weights(num_segments: int) -> tuple[float, float]:
    """Weights of appearance and difference in a network trained with T segments."""
    return (0.5, 0.5) if num_segments == 8 else (0.75, 0.25)


class ShortTermDifference(nn.Module):
    """Motion inside segments: copies of the trunk's stem and stage 1 on differences at half resolution."""

    def __init__(self, trunk: Trunk, *, beside: bool = False) -> None:
        super().__init__()
        self.stem = trunk.difference_stem(3 * (TDN.frames_per_segment - 1), frames=int(beside))
        self.stage1 = nn.ModuleList(copy.deepcopy(trunk.stage_blocks(1)))
        self.run_block = trunk.run_block

    def forward(self, differences: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 12, H/2, W/2] -> what is fused after the stem and after stage 1, at half their resolution."""
        after_stem = self.stem(differences)
        y = after_stem
        for block in self.stage1:
            y = self.run_block(block, y, Timeline(1))
        return after_stem, y


class LongTermDifference(TemporalModule):
    """Motion between segments as an excitation, then a depthwise convolution that starts as a shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvBN(channels, reduced_width(channels), 1)
        self.coarse = CoarseDifference(channels)
        self.conv = DepthwiseConv(channels, start="shift")
        fan_out_(self)

    def plain(self, x: Tensor, timeline: Timeline) -> Tensor:
        """x * (1 + E), then the convolution over time."""
        excitation = self.coarse.plain(self.reduce(x), timeline)
        return self.conv.plain(x * (1 + excitation), timeline)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        """The fast form."""
        opened = self.coarse(self.reduce(x), timeline)
        if whole_graph():
            return self.conv(x, timeline, (1 + opened) / 2)
        steps, opened = (by_time(y, timeline.num_segments) for y in (x, opened))  # [B, T, H, W, C]
        excited = gated(steps, x.new_full((), 0.5), [(slice(None), opened)], share=0.5)  # x * (1 + E)
        return self.conv(as_maps(excited), timeline)

    def for_runtime(self, *, steps: bool) -> "RuntimeLongTermDifference":
        return RuntimeLongTermDifference(self, steps=steps)


class RuntimeLongTermDifference(nn.Module):
    """Runtime form of `LongTermDifference`: the 1/2 of x (1 + E) = x (1 + 2 (E + 1/2)) / 2 is in the last weights."""

    def __init__(self, module: LongTermDifference, *, steps: bool) -> None:
        super().__init__()
        self.reduce, self.coarse = module.reduce, module.coarse.for_runtime(steps=steps)
        self.conv = scaled(module.conv.for_runtime(steps=steps), 1 / 2)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        return self.conv(x + x * self.coarse(self.reduce(x), timeline), timeline)


def differ(place: Place) -> LongTermDifference | None:
    """The maker of `LongTermDifference` for stages 2 to 4."""
    return LongTermDifference(place.channels) if place.stage >= 2 else None
