"""MDT-Net: motion salience, coarse and fine temporal differences, DCME and STCE on a 2D network.

Xu, Cao, Yi: "Video Human Action Recognition by the Fusion of Significant Motion and Coarse-fine Temporal Granularity
Features". The paper fixes the ideas in prose; what is our reading of them is METHOD sections 2 to 6, one switch each.

Letters: B clips, T segments, K frames a segment, N = B*T, C channels, c reduced channels, H, W pixels.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdtnet.config import MDTNetConfig, SaliencyConfig
from mdtnet.models.consensus import AverageConsensus
from mdtnet.models.deform import deform_conv2d_sum
from mdtnet.models.network import Network
from mdtnet.models.saliency import floored, luma, pool, pooled_saliency, resized
from mdtnet.models.temporal import (
    CoarseDifference,
    ConvBN,
    DepthwiseConv,
    as_maps,
    by_time,
    combined,
    gated,
    neutral_,
    reduced,
    started,
)
from mdtnet.models.trunk import Maker, Place, Timeline, Trunk, half_size, last_bn_features, normalise


class MDTNet(Network):
    """Clips [B, T, K, 3, H, W] -> logits [B, classes]; `saliency=None` is MDT-Net1, else MDT-Net2.

    The trunk is built with `excite(config)` after conv1, and holds its pre-trained weights already, since the
    difference path starts as a copy of its first layers.
    """

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        *,
        config: MDTNetConfig,
        saliency: SaliencyConfig | None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(trunk, num_classes)
        self.frames_per_segment, self.key_frame = config.frames_per_segment, config.key_frame
        self.parts = config
        self.saliency = saliency
        self.fine = FineDifference(trunk, config) if config.fine else None
        self.head = AverageConsensus(trunk.num_features, num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        num_segments = x.shape[1]
        appearance, action = self.enhanced(x)
        y = self.trunk.stem(appearance)
        if self.fine is None:
            timeline, after_stage1 = Timeline(num_segments), None
        else:
            y, after_stage1, low_level = self.fine(y, action)
            timeline = Timeline(num_segments, low_level)
        y = self.trunk.stage(1, y, timeline)
        if after_stage1 is not None:
            y = combined(torch.add, y, after_stage1)
        for stage in (2, 3, 4):
            y = self.trunk.stage(stage, y, timeline)
        return self.head(self.trunk.pool(y), num_segments)

    def enhanced(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the two paths see, both normalised: key frames [N, 3, H, W] and differences [N, 3(K-1), H/2, W/2].

        A salience map is one for a segment, so enhancing frames and then subtracting them is the same as
        enhancing their differences: X' = mask * X. The action path and the salience map work on frames of half size.
        """
        std = (1.0, 1.0, 1.0) if not x.is_floating_point() else self.trunk.std
        key = normalise(x[:, :, self.key_frame], self.trunk)  # [B, T, 3, H, W]
        half = half_size(x)  # [B, T, K, 3, H/2, W/2]
        differences = half[:, :, 1:] - half[:, :, :-1]
        if not x.is_floating_point():
            differences = differences / torch.tensor(self.trunk.std, device=x.device).view(3, 1, 1)
        if self.saliency is not None:
            luminance = pool(luma(half, std=std), self.saliency.pool // 2)
            mask = floored(pooled_saliency(luminance, self.saliency), self.saliency.floor)  # [B, T, h, w]
            if self.training and self.saliency.drop:
                dropped = torch.rand(len(mask), 1, 1, 1, device=mask.device) < self.saliency.drop
                mask = mask.masked_fill(dropped, 1.0)
            if self.saliency.to in ("appearance", "both"):
                key = key * resized(mask, x.shape[-2:])[:, :, None]
            if self.saliency.to in ("action", "both"):
                differences = differences * resized(mask, half.shape[-2:])[:, :, None, None]
        return key.flatten(0, 1), differences.flatten(2, 3).flatten(0, 1)


class FineDifference(nn.Module):
    """Short-term motion inside segments, added to the stem's output (METHOD section 3).

    Differences of half size pass a copy of the trunk's own stem and a batch norm, whose scale is the factor of the sum.
    """

    def __init__(self, trunk: Trunk, config: MDTNetConfig) -> None:
        super().__init__()
        self.sobel = config.spatial_difference == "sobel"
        self.stem = trunk.difference_stem(3 * (config.frames_per_segment - 1))
        self.bn = started(nn.BatchNorm2d(last_bn_features(trunk.stem_layers())), config.fine_start)
        self.stage1: nn.ModuleList | None = None
        if config.fine_stage1:
            self.stage1 = nn.ModuleList(copy.deepcopy(trunk.stage_blocks(1)))
            self.bn1 = started(nn.BatchNorm2d(last_bn_features(trunk.stage_blocks(1))), config.fine_start)
        self.run_block = trunk.run_block

    def forward(self, stem: Tensor, differences: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Stem features [N, C, h, w] and differences [N, 3(K-1), H/2, W/2] -> what stage 1 sees, what is added after
        stage 1 (or None) at the difference path's resolution, and that path's own stem features."""
        if self.sobel:
            differences = differences + sobel(differences)
        d = self.stem(differences)
        fused = combined(torch.add, stem, self.bn(d))
        if self.stage1 is None:
            return fused, None, d
        e = d
        for block in self.stage1:
            e = self.run_block(block, e, Timeline(1))
        return fused, self.bn1(e), d


def sobel(x: Tensor) -> Tensor:
    """Sum of the horizontal and the vertical Sobel response of every channel, divided by 8; [N, C, H, W]."""
    kernel = x.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 8
    weight = (kernel + kernel.T).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=x.shape[1])


class Excitation(nn.Module):
    """What MDT-Net does in a block of stages 2 to 4: coarse differences, DCME and STCE, then a temporal convolution.

    y = x * (1 + E_C) * (1 + E_D/2 + E_S/2), with one of the last two alone x * (1 + E_C) * (1 + E). All three come from
    the same reduced features Z, at the resolution that the block will leave with.
    """

    def __init__(self, place: Place, config: MDTNetConfig) -> None:
        super().__init__()
        channels, reduction, causal = place.channels, config.reduction, config.causal
        self.halves = place.stride == 2
        here = place.block % config.excite_every == 0
        coarse, dcme, stce = (here and part for part in (config.coarse, config.dcme, config.stce))
        self.reduce = ConvBN(channels, reduced(channels, reduction), 1) if coarse or dcme or stce else None
        self.coarse = CoarseDifference(channels, reduction=reduction, causal=causal) if coarse else None
        self.dcme = DCME(place, config) if dcme else None
        self.stce = STCE(channels, reduction=reduction, causal=causal) if stce else None
        self.conv = DepthwiseConv(channels, start=config.temporal, causal=causal) if config.temporal != "none" else None

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        if self.reduce is not None:
            z = self.reduce(x)
            if self.halves:
                z = F.avg_pool2d(z, 2, ceil_mode=True, count_include_pad=False)
            x = combined(torch.mul, x, self.gain(z, timeline))
        return x if self.conv is None else self.conv(x, timeline)

    def gain(self, z: Tensor, timeline: Timeline) -> Tensor:
        """Z [N, c, h, w] -> what features are multiplied by, [N, C, h, w] or [N, C, 1, 1].

        In few passes: E_S and the 1/2 of E_D = s - 1/2 are one factor per segment and channel; s is added where a
        segment has a neighbour.
        """
        segments = timeline.num_segments
        share = 1 / max(1, (self.dcme is not None) + (self.stce is not None))
        factor = z.new_ones(1, segments, 1, 1, 1)
        if self.stce is not None:
            factor = factor + share * self.stce(z, timeline)
        gates = [] if self.dcme is None else self.dcme(z, timeline)
        for where, _ in gates:
            inside = torch.zeros_like(factor[:1, :, :1])
            inside[:, where] = share / len(gates) / 2
            factor = factor - inside
        if self.coarse is None and not gates:
            return factor.expand(z.shape[0] // segments, -1, -1, -1, -1).flatten(0, 1)
        if self.coarse is None:
            base = z.new_ones(()).expand(z.shape[0] // segments, segments, *gates[0][1].shape[2:])
        else:
            base = (1 + self.coarse(z, timeline)).unflatten(0, (-1, segments))  # 2 (1 + E_C)
            factor, share = factor / 2, share / 2
        return gated(base, factor, gates, share=share / max(1, len(gates))).flatten(0, 1)


def excite(config: MDTNetConfig) -> Maker:
    """The maker of `Excitation` for stages 2 to 4."""

    def make(place: Place) -> Excitation | None:
        return Excitation(place, config) if place.stage >= 2 else None

    return make


class DCME(nn.Module):
    """Motion excitation by deformable convolutions of several scales (METHOD section 5).

    M_k(t) = DeformConv_k(Z(t+1); offsets from Z(t), Z(t+1)) - Z(t), summed over scales and expanded to a map s in
    (0, 1); the excitation is E_D = s - 1/2, and 0 for the last segment, which has no next one.
    """

    def __init__(self, place: Place, config: MDTNetConfig) -> None:
        super().__init__()
        width = reduced(place.channels, config.reduction)
        self.directions = ("past",) if config.causal else ("next", "past") if config.dcme_backward else ("next",)
        self.dilations = config.dcme_dilations
        self.kernels = nn.ParameterList(dirac(width, k) for k in config.dcme_kernels)
        self.offset = None
        if config.dcme_deformable:
            self.offset = nn.Conv2d(2 * width, 2 * sum(k * k for k in config.dcme_kernels), 3, padding=1)
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.expand = ConvBN(width, place.channels, 1)
        neutral_(self.expand[1])  # type: ignore[arg-type]
        self.low_level = nn.Conv2d(place.stem_channels, width, 1, bias=False) if config.dcme_low_level else None

    def motion(self, here: Tensor, there: Tensor) -> Tensor:
        """Motion from features `here` to `there`, both [M, c, H, W], as [M, c, H, W]."""
        if self.offset is None:
            each = zip(self.kernels, self.dilations)
            plain = [F.conv2d(there, k, padding=d * (k.shape[-1] // 2), dilation=d) for k, d in each]
            return torch.stack(plain).sum(0) - len(plain) * here
        offset = self.offset(torch.cat((here, there), 1))
        # in this order the sum lies in memory as `here` does
        return -len(self.kernels) * here + self.moved(there, offset)

    def moved(self, z: Tensor, offset: Tensor) -> Tensor:
        """Features [M, c, H, W] through the deformable kernels, summed over scales."""
        return deform_conv2d_sum(z, offset, list(self.kernels), dilations=self.dilations)

    def forward(self, z: Tensor, timeline: Timeline) -> list[tuple[slice, Tensor]]:
        """Z [N, c, H, W] -> for each direction, which segments have a neighbour there, their s [B, T-1, C, H, W]."""
        if timeline.num_segments == 1:
            return []
        if self.low_level is not None and timeline.low_level is not None:
            z = z + F.adaptive_avg_pool2d(self.low_level(timeline.low_level), (z.shape[-2], z.shape[-1]))
        z = by_time(z, timeline.num_segments)
        earlier, later = as_maps(z[:, :-1]), as_maps(z[:, 1:])  # [B*(T-1), c, H, W]
        pairs = {"next": (slice(0, -1), earlier, later), "past": (slice(1, None), later, earlier)}
        gates = []
        for where, here, there in (pairs[direction] for direction in self.directions):
            openness = torch.sigmoid_(self.expand(self.motion(here, there)))
            gates.append((where, openness.unflatten(0, (-1, timeline.num_segments - 1))))
        return gates


def dirac(channels: int, kernel: int, *, noise: float = 0.02) -> nn.Parameter:
    """A [c, c, k, k] kernel that starts as the identity plus N(0, noise^2), so that motion starts as a difference."""
    weight = torch.empty(channels, channels, kernel, kernel)
    nn.init.dirac_(weight)
    return nn.Parameter(weight + noise * torch.randn_like(weight))


class STCE(nn.Module):
    """Spatio-temporal channel excitation (METHOD section 6): which channels matter, from when and from where.

    Gives an excitation in (-1/2, 1/2) of [B, T, C, 1, 1], which starts at 0.
    """

    def __init__(self, channels: int, *, reduction: int = 16, causal: bool = False) -> None:
        super().__init__()
        width = reduced(channels, reduction)
        self.causal = causal
        self.time_conv = nn.Conv1d(width, width, 3, padding=0 if causal else 1)
        self.time_expand = nn.Linear(width, channels)
        self.space_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.space_expand = nn.Linear(width, channels, bias=False)  # the sum needs one bias
        for last in (self.time_expand, self.space_expand):
            nn.init.zeros_(last.weight)
        nn.init.zeros_(self.time_expand.bias)

    def forward(self, z: Tensor, timeline: Timeline) -> Tensor:
        """Reduced features [N, c, H, W] -> E_S."""
        z = by_time(z, timeline.num_segments)
        y = torch.sigmoid(self.temporal_branch(z) + self.spatial_branch(z)) - 0.5  # [B, T, C]
        return y[..., None, None]

    def temporal_branch(self, z: Tensor) -> Tensor:
        """[B, T, H, W, c] -> [B, T, C]: correlation of the channels over time."""
        y = z.mean((2, 3)).transpose(1, 2)  # [B, c, T]
        y = self.time_conv(F.pad(y, (2, 0)) if self.causal else y)
        return self.time_expand(F.relu(y).transpose(1, 2))

    def spatial_branch(self, z: Tensor) -> Tensor:
        """[B, T, H, W, c] -> [B, 1, C], or [B, T, C] where each segment sees the mean of the past alone."""
        if self.causal:
            steps = torch.arange(1, z.shape[1] + 1, device=z.device).view(-1, 1, 1, 1)
            mean = z.cumsum(1) / steps
        else:
            mean = z.mean(1, keepdim=True)
        y = F.relu(self.space_conv(as_maps(mean))).mean((2, 3))  # [B or N, c]
        return self.space_expand(y).unflatten(0, (-1, mean.shape[1]))
