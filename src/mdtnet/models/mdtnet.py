"""MDT-Net: motion salience, coarse and fine temporal differences, DCME and STCE on a 2D network.

Xu, Cao, Yi: "Video Human Action Recognition by the Fusion of Significant Motion and Coarse-fine Temporal Granularity
Features". The paper fixes the ideas in prose; our readings of it are config switches, see docs/method.md.

Letters: B clips, T segments, K frames per segment, N = B*T, C channels, c reduced channels, H, W pixels.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdtnet.config import MDTNetConfig, SaliencyConfig
from mdtnet.models.consensus import AverageConsensus
from mdtnet.models.deform import by_torchvision, deform_conv2d_sum, joined_taps
from mdtnet.models.memory import Memory, running_mean
from mdtnet.models.network import Network
from mdtnet.models.reading import KeyFrameReading, beside
from mdtnet.models.saliency import floored, luma, pool, pooled_saliency, resized
from mdtnet.models.temporal import (
    CoarseDifference,
    ConvBN,
    DepthwiseConv,
    HalfSize,
    TemporalModule,
    as_maps,
    by_time,
    combined,
    gated,
    halved,
    padded,
    reduced_width,
    scaled,
    start_norm_,
)
from mdtnet.models.trunk import Maker, Place, Timeline, Trunk, last_bn_features, normalise


class MDTNet(Network):
    """Clips [B, T, K, 3, H, W] -> logits [B, classes].

    MDT-Net1 sees frames as they are; MDT-Net2 has a `reading` of its key frames, or a `saliency` map that frames are
    multiplied by.

    The trunk is built with `excite(config)` after conv1, and holds its pre-trained weights already, since the
    difference path starts as a copy of its first layers.
    """

    def __init__(
        self,
        trunk: Trunk,
        num_classes: int,
        *,
        config: MDTNetConfig,
        saliency: SaliencyConfig | None = None,
        reading: KeyFrameReading | None = None,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(trunk, num_classes, reading=reading)
        self.frames_per_segment, self.key_frame = config.frames_per_segment, config.key_frame
        self.parts = config
        self.saliency = saliency
        self.half_size = HalfSize()
        shown = self.reading.place == "differences"
        self.fine = FineDifference(trunk, config, beside=shown) if config.fine else None
        self.head = AverageConsensus(trunk.num_features, num_classes, dropout=dropout)

    @property
    def segments_apart(self) -> bool:
        """Not where a salience map sees the whole clip, as by default."""
        own = self.saliency
        maps_apart = own is None or (own.window == own.normalise == "segment" and own.variant != "without_scene")
        return super().segments_apart and maps_apart

    def before_time(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, ...]:
        """Features after stage 1, and the difference path's own stem features where DCME sees them."""
        appearance, action = self.enhanced(x, memory)
        y, timeline = self.trunk.stem(appearance), Timeline(x.shape[1])
        del appearance  # stage 1 is where a small trunk needs most memory
        if self.fine is None:
            return (self.trunk.stage(1, y, timeline),)
        y, after_stage1, *low_level = self.fine(y, action)
        del action, low_level[self.parts.dcme_low_level :]
        y = self.trunk.stage(1, y, timeline)
        if after_stage1 is not None:
            y = self.fine.fused(y, after_stage1)
        return (y, *low_level)

    def over_time(self, features: tuple[Tensor, ...], num_segments: int, memory: Memory | None = None) -> Tensor:
        y, *low_level = features
        timeline = Timeline(num_segments, low_level[0] if low_level else None, memory)
        for stage in (2, 3, 4):
            y = self.trunk.stage(stage, y, timeline)
        return self.head(self.trunk.pool(y), num_segments)

    def enhanced(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
        """Inputs of the two paths, both normalised: key frames [N, 3, H, W] (6 channels where the stem sees raw and
        changed ones) and differences [N, 3(K-1), H/2, W/2] (3 channels more where they see changed key frames too).

        A salience map is one for a segment, so enhancing frames and then subtracting them is the same as
        enhancing their differences: X' = mask * X. The action path and the salience map work on frames of half size.
        """
        std = (1.0, 1.0, 1.0) if not x.is_floating_point() else self.trunk.std
        key = normalise(x[:, :, self.key_frame], self.trunk)  # [B, T, 3, H, W]
        half = self.half_size(x)  # [B, T, K, 3, H/2, W/2]
        differences = half[:, :, 1:] - half[:, :, :-1]
        if not x.is_floating_point():
            differences = differences / self.trunk.pixel_std
        if self.saliency is not None:
            luminance = pool(luma(half, std=std), self.saliency.pool // 2)
            salience = pooled_saliency(luminance, self.saliency, causal=self.parts.causal, memory=memory)
            mask = floored(salience, self.saliency.floor)  # [B, T, h, w]
            if self.training and self.saliency.drop:
                dropped = torch.rand(len(mask), 1, 1, 1, device=mask.device) < self.saliency.drop
                mask = mask.masked_fill(dropped, 1.0)
            if self.saliency.to in ("appearance", "both"):
                key = key * resized(mask, x.shape[-2:])[:, :, None]
            if self.saliency.to in ("action", "both"):
                differences = differences * resized(mask, half.shape[-2:])[:, :, None, None]
        action = beside(differences.flatten(2, 3).flatten(0, 1), self.reading.beside_differences(key, memory))
        return self.reading.frames(key, memory), action


class FineDifference(nn.Module):
    """Short-term motion inside segments, joined to the stem's output (docs/method.md, section 3).

    Differences of half size pass a copy of the trunk's own stem. `norm` adds them through a batch norm, whose scale is
    the factor of the sum; `average` is the mean of both paths, which have started as the same layers.
    """

    def __init__(self, trunk: Trunk, config: MDTNetConfig, *, beside: bool = False) -> None:
        super().__init__()
        self.spatial, self.average = config.spatial_difference, config.fine_fusion == "average"
        self.differences = 3 * (config.frames_per_segment - 1)
        more = 3 if self.spatial == "gradient" else 0
        self.stem = trunk.difference_stem(self.differences + more, frames=int(beside))
        if not self.average:
            self.bn = start_norm_(nn.BatchNorm2d(last_bn_features(trunk.stem_layers())), config.fine_start)
        self.stage1: nn.ModuleList | None = None
        if config.fine_stage1:
            self.stage1 = nn.ModuleList(copy.deepcopy(trunk.stage_blocks(1)))
            if not self.average:
                self.bn1 = start_norm_(nn.BatchNorm2d(last_bn_features(trunk.stage_blocks(1))), config.fine_start)
        self.run_block = trunk.run_block

    def forward(self, stem: Tensor, differences: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Stem features [N, C, h, w] and differences [N, 3(K-1), H/2, W/2], perhaps with key frames as 3 channels more
        -> what stage 1 sees, what joins after stage 1 (or None) at the difference path's resolution, and that path's
        own stem features."""
        d = self.stem(self.spatially(differences))
        fused = self.fused(stem, d if self.average else self.bn(d))
        if self.stage1 is None:
            return fused, None, d
        e = d
        for block in self.stage1:
            e = self.run_block(block, e, Timeline(1))
        return fused, e if self.average else self.bn1(e), d

    def fused(self, appearance: Tensor, difference: Tensor) -> Tensor:
        """Features [N, C, H, W] of both paths as one, the difference's at its own resolution."""
        joined = combined(torch.add, appearance, difference)
        return joined / 2 if self.average else joined

    def spatially(self, differences: Tensor) -> Tensor:
        """Differences [N, 3(K-1) + 0 or 3, H/2, W/2] with their spatial difference, where it is asked for."""
        if self.spatial == "none":
            return differences
        own, rest = differences[:, : self.differences], differences[:, self.differences :]
        if self.spatial == "sobel":
            return torch.cat((own + sobel(own), rest), 1)
        return torch.cat((own, gradient(own).unflatten(1, (-1, 3)).mean(1), rest), 1)


def sobel(x: Tensor) -> Tensor:
    """Sum of the horizontal and the vertical Sobel response of every channel, divided by 8; [N, C, H, W]."""
    return _sobel(x).sum(2)


def gradient(x: Tensor) -> Tensor:
    """|horizontal| + |vertical| Sobel response of every channel, divided by 8; [N, C, H, W]. A ramp of slope 1 gives 1
    along an axis and 2 along either diagonal."""
    return _sobel(x).abs().sum(2)


def _sobel(x: Tensor) -> Tensor:
    """Horizontal and vertical response, [N, C, 2, H, W]."""
    kernel = x.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]) / 8
    weight = torch.stack((kernel, kernel.T))[:, None].repeat(x.shape[1], 1, 1, 1)  # [2C, 1, 3, 3]
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, groups=x.shape[1]).unflatten(1, (-1, 2))


class Excitation(TemporalModule):
    """MDT-Net in a block of stages 2 to 4: coarse differences, DCME and STCE, then a temporal convolution.

    All three excitations come from the same reduced features Z, at the resolution that the block will leave with.
    `plain` is the formula, also of a stream's segments; `forward`, the fast form, and `RuntimeExcitation` compute the
    same.
    """

    def __init__(self, place: Place, config: MDTNetConfig) -> None:
        super().__init__()
        channels, reduction, causal = place.channels, config.reduction, config.causal
        self.halves = place.stride == 2
        counted = place.number if config.excite_counts == "places" else place.block
        here = counted % config.excite_every == 0
        coarse, dcme, stce = (here and part for part in (config.coarse, config.dcme, config.stce))
        self.reduce = ConvBN(channels, reduced_width(channels, reduction), 1) if coarse or dcme or stce else None
        start = config.gate_start
        self.coarse = CoarseDifference(channels, reduction=reduction, start=start, causal=causal) if coarse else None
        self.dcme = DCME(place, config) if dcme else None
        self.stce = STCE(channels, reduction=reduction, start=start, causal=causal) if stce else None
        self.conv = DepthwiseConv(channels, start=config.temporal, causal=causal) if config.temporal != "none" else None

    def plain(self, x: Tensor, timeline: Timeline) -> Tensor:
        """x (1 + E_C) (1 + E_D/2 + E_S/2), with one of the last two alone x (1 + E_C) (1 + E), convolved over time."""
        e_c, e_d, e_s = self.excitations(x, timeline)
        both = self.dcme is not None and self.stce is not None
        y = x * (1 + e_c)
        y = y * (1 + e_d / 2 + e_s / 2) if both else y * (1 + e_d + e_s)
        return y if self.conv is None else self.conv.plain(y, timeline)

    def excitations(self, x: Tensor, timeline: Timeline) -> list[Tensor]:
        """E_C, E_D, E_S, each from -1/2 to 1/2 and [N, C, H, W] or a number per channel; 0 where a part is left out."""
        z = None if self.reduce is None else self.reduced_features(x)
        found = []
        for part in (self.coarse, self.dcme, self.stce):
            e = x.new_zeros(1, 1, 1, 1) if part is None or z is None else part.plain(z, timeline)
            found.append(e if e.shape[-2:] == (1, 1) else F.interpolate(e, x.shape[-2:], mode="nearest"))
        return found

    def reduced_features(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> Z [N, c, h, w]; half of H, W (rounded up) where the next convolution has stride 2."""
        z = self.reduce(x)  # type: ignore[misc]
        return F.avg_pool2d(z, 2, ceil_mode=True, count_include_pad=False) if self.halves else z

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        """The fast form."""
        if timeline.memory is not None:
            return self.plain(x, timeline)
        gain = None if self.reduce is None else self.gain(self.reduced_features(x), timeline)
        if self.conv is not None:
            return self.conv(x, timeline, gain)
        return x if gain is None else combined(torch.mul, x, gain)

    def for_runtime(self, *, steps: bool) -> "RuntimeExcitation":
        return RuntimeExcitation(self, steps=steps)

    def gain(self, z: Tensor, timeline: Timeline) -> Tensor:
        """Z [N, c, h, w] -> what features are multiplied by, [N, C, h, w] or [N, C, 1, 1].

        In few passes: E_S and the 1/2 of E_D = s - 1/2 are one factor per segment and channel; s is added where a
        segment has a neighbour. Maps here are [B, T, h, w, C].
        """
        segments = timeline.num_segments
        share = 1 / max(1, (self.dcme is not None) + (self.stce is not None))
        factor = z.new_ones(1, segments, 1, 1, 1)
        if self.stce is not None:
            factor = factor + share * self.stce(z, timeline)
        gates = [] if self.dcme is None else self.dcme(z, timeline)
        for where, _ in gates:
            factor = factor - share / len(gates) / 2 * has_neighbour(z, segments, where)
        if self.coarse is None and not gates:
            return as_maps(factor.expand(z.shape[0] // segments, -1, -1, -1, -1))
        if self.coarse is None:
            base = z.new_ones(()).expand(z.shape[0] // segments, segments, *gates[0][1].shape[2:])
        else:
            base = by_time(1 + self.coarse(z, timeline), segments)  # 2 (1 + E_C)
            factor, share = factor / 2, share / 2
        return as_maps(gated(base, factor, gates, share=share / max(1, len(gates))))


def has_neighbour(like: Tensor, segments: int, where: slice) -> Tensor:
    """1 for the segments in `where`, else 0; [1, T, 1, 1, 1]."""
    inside = like.new_zeros(1, segments, 1, 1, 1)
    inside[:, where] = 1
    return inside


class RuntimeExcitation(nn.Module):
    """Runtime form of `Excitation`: few passes over the large map; constant factors are in the weights that follow."""

    def __init__(self, module: Excitation, *, steps: bool) -> None:
        super().__init__()
        self.halves, self.reduce, self.stce = module.halves, module.reduce, module.stce
        self.coarse = None if module.coarse is None else module.coarse.for_runtime(steps=steps)
        self.dcme = None if module.dcme is None else module.dcme.for_runtime(steps=steps)
        self.num_directions = 1 if self.dcme is None else len(self.dcme.directions)
        self.num_parts = max(1, (self.dcme is not None) + (self.stce is not None))
        self.rest = (1 if self.coarse is None else 1 / 2) / self.num_parts / self.num_directions
        self.conv = None if module.conv is None else module.conv.for_runtime(steps=steps)
        if self.conv is not None and self.reduce is not None:
            self.conv = scaled(self.conv, self.rest)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        if self.reduce is None:
            return x if self.conv is None else self.conv(x, timeline)
        z = self.reduce(x)
        x = combined(torch.mul, x, self.gain(halved(z, ceil=True) if self.halves else z, timeline))
        return x * self.rest if self.conv is None else self.conv(x, timeline)

    def gain(self, z: Tensor, timeline: Timeline) -> Tensor:
        """As `Excitation.gain`, times 2 for coarse differences, the number of parts and of directions."""
        factor = z.new_full((1, 1, 1), self.num_parts * self.num_directions)  # [B, T, C] in the end
        gates = [] if self.dcme is None else self.dcme(z, timeline)
        for _, still in gates:
            factor = factor - still
        if self.stce is not None:
            factor = factor + self.num_directions * self.stce(z, timeline).flatten(2)
        whole = factor[..., None, None]
        for s, _ in gates:
            whole = whole + s.unflatten(0, (-1, timeline.num_segments))
        if self.coarse is not None:
            whole = whole * (1 + self.coarse(z, timeline)).unflatten(0, (-1, timeline.num_segments))
        return whole.expand(z.shape[0] // timeline.num_segments, timeline.num_segments, -1, -1, -1).flatten(0, 1)


def excite(config: MDTNetConfig) -> Maker:
    """The maker of `Excitation` for stages 2 to 4."""

    def make(place: Place) -> Excitation | None:
        return Excitation(place, config) if place.stage >= 2 else None

    return make


class DCME(TemporalModule):
    """Motion excitation by deformable convolutions of several scales (docs/method.md, section 5).

    M_k(t) = DeformConv_k(Z(t+1); offsets from Z(t), Z(t+1)) - Z(t), summed over scales and expanded to a map s in
    (0, 1); the excitation is E_D = s - 1/2, and 0 for the last segment, which has no next one.
    """

    def __init__(self, place: Place, config: MDTNetConfig) -> None:
        super().__init__()
        width = reduced_width(place.channels, config.reduction)
        self.directions = ("past",) if config.causal else ("next", "past") if config.dcme_backward else ("next",)
        self.dilations = config.dcme_dilations
        self.kernels = nn.ParameterList(dirac(width, k) for k in config.dcme_kernels)
        self.offset = None
        if config.dcme_deformable:
            self.offset = Offsets(width, sum(k * k for k in config.dcme_kernels), reach=config.dcme_reach)
        self.expand = ConvBN(width, place.channels, 1)
        start_norm_(self.expand[1], config.gate_start)  # type: ignore[arg-type]
        self.low_level = nn.Conv2d(place.stem_channels, width, 1, bias=False) if config.dcme_low_level else None
        self.joined: nn.Parameter | None = None  # the kernels' taps side by side, once folded

    def plain(self, z: Tensor, timeline: Timeline) -> Tensor:
        """Z [N, c, H, W] -> E_D [N, C, H, W], the mean over directions."""
        if (memory := timeline.memory) is not None:
            here = self.features(z, timeline)
            openness = torch.sigmoid(self.expand(self.motion(here, memory.exchange(here))))
            return memory.has_past() * (openness - 1 / 2)
        parts = [padded(s - 1 / 2, at_start=where.start == 1) for where, s in self(z, timeline)]  # [B, T, H, W, C]
        return as_maps(torch.stack(parts).mean(0)) if parts else z.new_zeros(1, 1, 1, 1)

    def forward(self, z: Tensor, timeline: Timeline) -> list[tuple[slice, Tensor]]:
        """The fast form: Z [N, c, H, W] -> for each direction, which segments have a neighbour there, and their
        s [B, T-1, H, W, C]."""
        gates = []
        for direction, here, there in self.pairs(z, timeline):
            openness = torch.sigmoid_(self.expand(self.motion(here, there)))
            where = slice(0, -1) if direction == "next" else slice(1, None)
            gates.append((where, by_time(openness, timeline.num_segments - 1)))
        return gates

    def pairs(self, z: Tensor, timeline: Timeline) -> list[tuple[str, Tensor, Tensor]]:
        """For each direction Z of the segments that have a neighbour there and Z of that, [B*(T-1), c, H, W] each."""
        if timeline.num_segments == 1:
            return []
        steps = by_time(self.features(z, timeline), timeline.num_segments)
        earlier, later = as_maps(steps[:, :-1]), as_maps(steps[:, 1:])
        pairs = {"next": (earlier, later), "past": (later, earlier)}
        return [(direction, *pairs[direction]) for direction in self.directions]

    def features(self, z: Tensor, timeline: Timeline) -> Tensor:
        """Z [N, c, H, W] with low-level features of the difference path, where they are asked for."""
        if self.low_level is None or timeline.low_level is None:
            return z
        return z + F.adaptive_avg_pool2d(self.low_level(timeline.low_level), (z.shape[-2], z.shape[-1]))

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
        joined = None if self.joined is None else self.joined.permute(2, 1, 0)
        return deform_conv2d_sum(z, offset, list(self.kernels), dilations=self.dilations, joined=joined)

    def fold(self) -> None:
        if self.offset is not None:
            taps = joined_taps([k.detach() for k in self.kernels]).permute(2, 1, 0).contiguous()  # [K, C, O]
            self.joined = nn.Parameter(taps, requires_grad=False)

    def for_runtime(self, *, steps: bool) -> "RuntimeDCME":
        return RuntimeDCME(self)


class RuntimeDCME(DCME):
    """Runtime form of `DCME`: all segments at once, by an operator that runtimes have; a segment without a neighbour
    gets the gate of "no motion"."""

    def __init__(self, dcme: DCME) -> None:
        nn.Module.__init__(self)  # of the parts of another
        self.directions, self.dilations, self.kernels = dcme.directions, dcme.dilations, dcme.kernels
        self.offset, self.expand, self.low_level = dcme.offset, dcme.expand, dcme.low_level

    def moved(self, z: Tensor, offset: Tensor) -> Tensor:
        kernels = tuple((weight.shape[-1], dilation) for weight, dilation in zip(self.kernels, self.dilations))
        return by_torchvision(z, offset, list(self.kernels), kernels)

    def forward(self, z: Tensor, timeline: Timeline) -> list[tuple[Tensor, Tensor]]:  # type: ignore[override]
        """Z [N, c, H, W] -> for each direction s [N, C, H, W], and what it is where nothing moves, [T, C]."""
        bias = torch.sigmoid(self.expand.bias)[None]  # type: ignore[arg-type]
        rest = torch.full_like(bias, 0.5).expand(timeline.num_segments - 1, -1)
        gates = []
        for direction, here, there in self.pairs(z, timeline):
            motion = self.motion(here, there).unflatten(0, (-1, timeline.num_segments - 1))
            s = torch.sigmoid(self.expand(padded(motion, at_start=direction == "past").flatten(0, 1)))
            gates.append((s, torch.cat((bias, rest) if direction == "past" else (rest, bias))))
        return gates


class Offsets(nn.Conv2d):
    """Offsets of the taps, from features of both key frames [M, 2c, H, W]: [M, 2 * taps, H, W], (dy, dx) in cells.

    Starts at zero; a `reach` other than 0 is the furthest, by reach * tanh(offset / reach), of slope 1 at the start.
    """

    def __init__(self, channels: int, taps: int, *, reach: float) -> None:
        super().__init__(2 * channels, 2 * taps, 3, padding=1)
        self.reach = reach
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        offset = super().forward(x)
        return self.reach * torch.tanh(offset / self.reach) if self.reach else offset


def dirac(channels: int, kernel: int, *, noise: float = 0.02) -> nn.Parameter:
    """A [c, c, k, k] kernel that starts as the identity plus N(0, noise^2), so that motion starts as a difference."""
    weight = torch.empty(channels, channels, kernel, kernel)
    nn.init.dirac_(weight)
    return nn.Parameter(weight + noise * torch.randn_like(weight))


class STCE(TemporalModule):
    """Spatio-temporal channel excitation (docs/method.md, section 6): which channels matter, by time and place.

    Gives an excitation in (-1/2, 1/2) of [B, T, C, 1, 1]. Its last layers start at N(0, `start`^2), or at 0.
    """

    def __init__(self, channels: int, *, reduction: int = 16, start: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        width = reduced_width(channels, reduction)
        self.causal = causal
        self.time_conv = nn.Conv1d(width, width, 3, padding=0 if causal else 1)
        self.time_expand = nn.Linear(width, channels)
        self.space_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.space_expand = nn.Linear(width, channels, bias=False)  # the sum needs one bias
        for last in (self.time_expand, self.space_expand):
            nn.init.normal_(last.weight, std=start) if start else nn.init.zeros_(last.weight)
        nn.init.zeros_(self.time_expand.bias)
        self.joined: nn.Linear | None = None  # both expansions side by side, once folded

    def plain(self, z: Tensor, timeline: Timeline) -> Tensor:
        """Reduced features [N, c, H, W] -> E_S, [N, C, 1, 1]."""
        return as_maps(self(z, timeline).expand(z.shape[0] // timeline.num_segments, -1, -1, -1, -1))

    def forward(self, z: Tensor, timeline: Timeline) -> Tensor:
        """Reduced features [N, c, H, W] -> E_S, [B, T, 1, 1, C]."""
        z = by_time(z, timeline.num_segments)
        time, space = self.temporal_branch(z, timeline.memory), self.spatial_branch(z, timeline.memory)
        if self.joined is not None:
            y = self.joined(torch.cat((time, space.expand_as(time)), -1))
        else:
            y = self.time_expand(time) + self.space_expand(space)
        return (torch.sigmoid(y) - 0.5)[:, :, None, None]

    def fold(self) -> None:
        weight = torch.cat((self.time_expand.weight, self.space_expand.weight), 1).detach()
        self.joined = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
        self.joined.weight = nn.Parameter(weight, requires_grad=False)
        self.joined.bias = self.time_expand.bias

    def temporal_branch(self, z: Tensor, memory: Memory | None = None) -> Tensor:
        """[B, T, H, W, c] -> [B, T, c]: correlation of the channels over time."""
        y = z.mean((2, 3)).transpose(1, 2)  # [B, c, T]
        if memory is not None:
            before = memory.exchange(y)
            y = torch.cat((memory.exchange(before), before, y), 2)
        elif self.causal:
            y = F.pad(y, (2, 0))
        return F.relu(self.time_conv(y)).transpose(1, 2)

    def spatial_branch(self, z: Tensor, memory: Memory | None = None) -> Tensor:
        """[B, T, H, W, c] -> [B, 1, c], or [B, T, c] where each segment sees the mean of the past alone."""
        mean = running_mean(z, memory) if self.causal else z.mean(1, keepdim=True)
        y = F.relu(self.space_conv(as_maps(mean))).mean((2, 3))  # [B or N, c]
        return y.unflatten(0, (-1, mean.shape[1]))
