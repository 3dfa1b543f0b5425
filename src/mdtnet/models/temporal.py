"""Temporal operations that several systems share: shift, depthwise convolution over time, motion differences.

The function is the truth, the module a holder of its parameters. All take [N, C, H, W] with N = B*T frames of
B clips and give the same shape back. Letters: B clips, T segments, C channels, c reduced channels, H, W pixels.

A module has up to three forms, which compute the same: `plain` is the formula, to be checked by reading, and takes the
segments of streams too; `forward` is the fast form; `for_runtime` builds the runtime form, which exported networks
hold. Runtimes have no views, and turn a slice assignment into a slow scatter: there, steps in time are paddings, and
constant factors are in the weights.
"""

import copy
import importlib.util
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from mdtnet.models.trunk import Timeline, half_size, whole_graph


def shift(x: Tensor, num_segments: int, *, fraction: float = 1 / 8) -> Tensor:
    """TSM's shift: the first `fraction` of channels comes from t+1, the next from t-1, zeros at the ends."""
    fold = int(x.shape[1] * fraction)
    if whole_graph():
        steps = by_time(x, num_segments)
        parts = stepped(steps[..., :fold], 1), stepped(steps[..., fold : 2 * fold], -1), steps[..., 2 * fold :]
        return as_maps(torch.cat(parts, -1))
    return _Shift.apply(x, num_segments, slice(0, fold), slice(fold, 2 * fold))


class _Shift(torch.autograd.Function):
    """Channels `ahead` from t+1, channels `behind` from t-1. Its gradient goes the other way; autograd, which
    knows this of no assignment to a slice, would copy the whole map for each."""

    @staticmethod
    def forward(ctx, x: Tensor, num_segments: int, ahead: slice, behind: slice) -> Tensor:
        ctx.arguments = num_segments, behind, ahead
        out = x.clone()  # keeps channels-last
        old, new = x.unflatten(0, (-1, num_segments)), out.unflatten(0, (-1, num_segments))  # [B, T, C, H, W]
        new[:, :-1, ahead] = old[:, 1:, ahead]
        new[:, -1, ahead] = 0
        new[:, 1:, behind] = old[:, :-1, behind]
        new[:, 0, behind] = 0
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return _Shift.apply(grad, *ctx.arguments), None, None, None


def depthwise_conv(
    x: Tensor, weight: Tensor, num_segments: int, *, causal: bool = False, gain: Tensor | None = None
) -> Tensor:
    """Depthwise convolution over time with kernel 3 and zero padding, of x * gain where a gain is given.

    `weight` is [C, 1, 3] as in `nn.Conv1d`: taps for t-1, t, t+1, or with `causal` for t-2, t-1, t. `gain` is
    [N, C, H, W], or smaller and spread by nearest cell (`combined`).
    """
    if whole_graph():
        steps = (-2, -1, 0) if causal else (-1, 0, 1)
        taps = dict(zip(steps, weight.to(x.dtype).flatten(1).unbind(1)))
        return as_maps(sum(_step(x, gain, num_segments, step) * tap for step, tap in taps.items()))  # type: ignore
    if x.device.type == "cuda" and not torch.is_grad_enabled() and _fits(x, gain):
        return _Steps.apply(x, weight.to(x.dtype), num_segments, causal, gain)
    if gain is not None:
        x = combined(torch.mul, x, gain)
    if x.device.type == "cuda":
        return _Steps.apply(x, weight.to(x.dtype), num_segments, causal, None)
    height, width = x.shape[-2:]
    lines = by_time(x, num_segments).flatten(2, 3).permute(0, 3, 1, 2)  # [B, C, T, H W]: one 2D convolution, one pass
    padding = 2 if causal else 1
    y = F.conv2d(lines, weight[..., None].to(x.dtype), padding=(padding, 0), groups=x.shape[1])
    y = y[:, :, :num_segments].permute(0, 2, 3, 1)  # a causal one has two steps too many
    return as_maps(y.unflatten(2, (height, width)))


def _step(x: Tensor, gain: Tensor | None, num_segments: int, step: int) -> Tensor:
    """x * gain `step` segments later, [B, T, H, W, C]: a compiler then writes the gain to memory, not the product."""
    y = by_time(x, num_segments)
    y = stepped(y, step) if step else y
    if gain is None:
        return y
    gain = by_time(gain, num_segments)
    gain = as_maps(stepped(gain, step) if step else gain)
    if gain.shape[-2:] != (1, 1):
        gain = F.interpolate(gain, x.shape[-2:], mode="nearest")
    return y * by_time(gain, num_segments)


def by_steps(x: Tensor, weight: Tensor, num_segments: int, *, causal: bool = False) -> Tensor:
    """`depthwise_conv` as a sum of steps in time."""
    taps = weight.reshape(-1, 3, 1, 1).unbind(1)  # [C, 1, 1] each
    return summed_steps(x.unflatten(0, (-1, num_segments)), taps, causal=causal).flatten(0, 1)


def summed_steps(x: Tensor, taps: Sequence[Tensor], *, causal: bool) -> Tensor:
    """[B, T, ...] -> the sum of its steps, each times its tap."""
    steps = (-2, -1, 0) if causal else (-1, 0, 1)
    terms = [(stepped(x, step) if step else x) * tap.to(x.dtype) for step, tap in zip(steps, taps)]
    return terms[0] + terms[1] + terms[2]


class _Steps(torch.autograd.Function):
    """`depthwise_conv` on CUDA, where a convolution over time has no fast kernel: by Triton, else as multiply-adds on
    slices of time. By hand for the same reason as `_Shift`. A gain has no gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, num_segments: int, causal: bool, gain: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.num_segments, ctx.first = num_segments, -2 if causal else -1
        return _Steps.summed(x, weight.flatten(1), num_segments, ctx.first, gain)

    @staticmethod
    def summed(x: Tensor, weight: Tensor, num_segments: int, first: int, gain: Tensor | None = None) -> Tensor:
        """The sum of three steps from `first` on, each times its tap; weight [C, 3]."""
        steps = by_time(x, num_segments)
        if (triton := triton_steps()) is not None and x.dtype != torch.float64:
            gain = None if gain is None else by_time(gain, num_segments).contiguous()
            return as_maps(triton.summed_steps(steps.contiguous(), weight, first, gain))
        if gain is not None:
            steps = by_time(combined(torch.mul, x, gain), num_segments)
        taps = dict(zip(range(first, first + 3), weight.unbind(1)))
        out = steps * taps.pop(0)
        for step, tap in taps.items():
            if abs(step) < num_segments:
                out[:, _to(step)].addcmul_(steps[:, _to(-step)], tap)
        return as_maps(out)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _Steps.summed(grad, weight.flatten(1).flip(1), ctx.num_segments, -2 - ctx.first)
        if ctx.needs_input_grad[1]:
            g, x = by_time(grad, ctx.num_segments), by_time(x, ctx.num_segments)
            steps = range(ctx.first, ctx.first + 3)
            taps = [(g[:, _to(s)] * x[:, _to(-s)]).sum((0, 1, 2, 3), dtype=torch.float32) for s in steps]
            grad_weight = torch.stack(taps, 1)[:, None].to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _fits(x: Tensor, gain: Tensor | None) -> bool:
    """Whether the kernel can spread the gain: of the same size, or half of it."""
    size = x.shape[-2:]
    return gain is not None and gain.shape[-2:] in (size, ((size[0] + 1) // 2, (size[1] + 1) // 2))


@cache
def triton_steps() -> ModuleType | None:
    """The module of Triton kernels, where Triton is installed (it comes with PyTorch for CUDA on Linux)."""
    return importlib.import_module("mdtnet.models.triton_steps") if importlib.util.find_spec("triton") else None


def _to(step: int) -> slice:
    """Segments that have one `step` segments later (earlier if negative)."""
    return slice(None, -step) if step > 0 else slice(-step, None)


def stepped(x: Tensor, step: int) -> Tensor:
    """[B, T, ...] -> what is `step` segments later (earlier if negative), zeros where there is nothing."""
    if abs(step) >= x.shape[1]:
        return torch.zeros_like(x)
    return F.pad(x, (0, 0) * (x.ndim - 2) + (-step, step))


def padded(x: Tensor, *, at_start: bool) -> Tensor:
    """Zeros for a missing first or last segment, [B, T-1, ...] -> [B, T, ...]."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + ((1, 0) if at_start else (0, 1)))


class TemporalModule(nn.Module):
    """A module that has a runtime form of its own; without one it is its own runtime form."""

    def fold(self) -> None:
        """Prepare what prediction alone can use (called by `folded`): weights put together, for fewer passes."""

    def for_runtime(self, *, steps: bool) -> nn.Module:
        """A module that computes the same in operations that runtimes do well; this one must be folded (`folded`).

        `steps` writes convolutions over time as sums of steps.
        """
        return self


class HalfSize(TemporalModule):
    """`half_size` as a module, without parameters: all K frames of every segment, [B, T, K, 3, H, W]."""

    def forward(self, frames: Tensor) -> Tensor:
        return half_size(frames)

    def for_runtime(self, *, steps: bool) -> "RuntimeHalfSize":
        return RuntimeHalfSize()


class RuntimeHalfSize(nn.Module):
    """Runtime form of `HalfSize`: a convolution of a segment's frames as channels. Runtimes pool three channels, and
    read every other pixel, more slowly."""

    def forward(self, frames: Tensor) -> Tensor:
        segments, num_frames = frames.shape[1:3]
        x = frames.flatten(0, 1).flatten(1, 2)  # [N, K * 3, H, W]
        share = 1 / 4 if x.is_floating_point() else 1 / (4 * 255)
        weight = torch.eye(x.shape[1])[:, :, None, None].repeat(1, 1, 2, 2) * share
        half = F.conv2d(x.float(), weight, stride=2)
        return half.unflatten(1, (num_frames, 3)).unflatten(0, (-1, segments))


class Shift(TemporalModule):
    """`shift` as a temporal module, without parameters."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        return shift(x, timeline.num_segments)

    def for_runtime(self, *, steps: bool) -> "RuntimeShift":
        return RuntimeShift()


class RuntimeShift(nn.Module):
    """Runtime form of `Shift`: a concatenation."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        x = x.unflatten(0, (-1, timeline.num_segments))  # [B, T, C, H, W]
        fold = x.shape[2] // 8
        parts = stepped(x[:, :, :fold], 1), stepped(x[:, :, fold : 2 * fold], -1), x[:, :, 2 * fold :]
        return torch.cat(parts, 2).flatten(0, 1)


class DepthwiseConv(TemporalModule):
    """`depthwise_conv` that starts as a shift of `fraction` of the channels each way, or as the identity.

    A causal one that starts as a shift takes the first `fraction` from t-1 and leaves the others.
    """

    def __init__(self, channels: int, *, start: str, causal: bool = False, fraction: float = 1 / 8) -> None:
        super().__init__()
        self.causal = causal
        weight = torch.zeros(channels, 1, 3)
        here, fold = (2 if causal else 1), int(channels * fraction)
        weight[:, 0, here] = 1
        if start == "shift" and causal:
            weight[:fold, 0] = torch.tensor([0.0, 1.0, 0.0])
        elif start == "shift":
            weight[:fold, 0] = torch.tensor([0.0, 0.0, 1.0])
            weight[fold : 2 * fold, 0] = torch.tensor([1.0, 0.0, 0.0])
        self.weight = nn.Parameter(weight)

    def plain(self, x: Tensor, timeline: Timeline) -> Tensor:
        """y(t) = w0 x(t-1) + w1 x(t) + w2 x(t+1), or with `causal` w0 x(t-2) + w1 x(t-1) + w2 x(t)."""
        if (memory := timeline.memory) is not None:
            before = memory.exchange(x)
            taps = self.weight.reshape(-1, 3, 1, 1).unbind(1)
            return memory.exchange(before) * taps[0] + before * taps[1] + x * taps[2]
        return by_steps(x, self.weight, timeline.num_segments, causal=self.causal)

    def forward(self, x: Tensor, timeline: Timeline, gain: Tensor | None = None) -> Tensor:
        """The fast form, of x * gain where one is given."""
        return depthwise_conv(x, self.weight, timeline.num_segments, causal=self.causal, gain=gain)

    def for_runtime(self, *, steps: bool) -> nn.Module:
        return RuntimeDepthwiseConv(self) if steps else self


class RuntimeDepthwiseConv(nn.Module):
    """Runtime form of `DepthwiseConv`: a sum of steps. A convolution, for which time has to lie beside height and
    width, is faster in ONNX Runtime and slower in OpenVINO."""

    def __init__(self, conv: DepthwiseConv) -> None:
        super().__init__()
        self.weight, self.causal = conv.weight, conv.causal

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        return by_steps(x, self.weight, timeline.num_segments, causal=self.causal)


def by_time(x: Tensor, num_segments: int) -> Tensor:
    """[N, C, H, W] -> [B, T, H, W, C], in the order of channels-last memory, which steps in time then keep."""
    return x.permute(0, 2, 3, 1).unflatten(0, (-1, num_segments))


def as_maps(x: Tensor) -> Tensor:
    """[B, T, H, W, C] -> [N, C, H, W]."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def combined(operation: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """operation(x, y) for x [N, C, H, W] and y of the same size, of one cell, or smaller and spread by nearest cell.

    A y of half the size is broadcast over 2 x 2 cells rather than enlarged, which saves a pass over the large map.
    """
    size, small = x.shape[-2:], y.shape[-2:]
    if small in (size, (1, 1)):
        return operation(x, y)
    if size != (2 * small[0], 2 * small[1]) or whole_graph():  # compilers and runtimes prefer to enlarge
        return operation(x, F.interpolate(y, size, mode="nearest"))
    cells = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [N, C, h, 2, w, 2]
    return operation(cells, y[:, :, :, None, :, None]).flatten(4).flatten(2, 3)


def neighbour_differences(z: Tensor, moved: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Differences to the next and to the previous segment; a missing step is zero.

    z is [N, C, H, W], `moved` the same features made comparable (by a convolution).
    Returns forward moved(t+1) - z(t) and backward moved(t-1) - z(t), each [N, C, H, W].
    """
    z, moved = by_time(z, num_segments), by_time(moved, num_segments)
    forward = F.pad(moved[:, 1:] - z[:, :-1], (0, 0) * 3 + (0, 1))
    backward = F.pad(moved[:, :-1] - z[:, 1:], (0, 0) * 3 + (1, 0))
    return as_maps(forward), as_maps(backward)


def reduced_width(channels: int, reduction: int = 16) -> int:
    """Channels inside a motion module: max(channels / reduction, 8)."""
    return max(channels // reduction, 8)


class ConvBN(nn.Sequential):
    """Convolution without bias, then batch norm (which would swallow the bias); in evaluation they are one."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        conv: nn.Conv2d
        bn: nn.BatchNorm2d
        conv, bn = self  # type: ignore[assignment]
        if bn.training or bn.running_var is None or bn.running_mean is None:
            return bn(conv(x))
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, bn.bias - bn.running_mean * scale, padding=conv.padding)

    def folded(self) -> nn.Conv2d:
        """One convolution that computes what the two do in evaluation."""
        conv, bn = self
        return fuse_conv_bn_eval(conv, bn)  # type: ignore[arg-type, return-value, type-var]


def start_norm_(bn: nn.BatchNorm2d, scale: float) -> nn.BatchNorm2d:
    """Start a batch norm at this scale and no bias; at 0 a sigmoid after it starts at 1/2, and its gate at 0."""
    nn.init.constant_(bn.weight, scale)
    nn.init.zeros_(bn.bias)
    return bn


def fan_out_(module: nn.Module) -> None:
    """Start every 2D convolution, depthwise ones too, as TEA and TDN do: normal with variance 2 / fan-out."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


def gated(x: Tensor, factor: Tensor, gates: Sequence[tuple[slice, Tensor]], *, share: float) -> Tensor:
    """x * (factor + share * the sum of gates), in few passes over a large map.

    x is [B, T, ...] and `factor` broadcasts to it; a gate comes with the segments of T that it is for, all or all but
    the first or the last.
    """
    if whole_graph():
        for where, gate in gates:
            whole = gate if gate.shape[1] == x.shape[1] else padded(gate, at_start=where.start == 1)
            factor = factor + share * whole
        return x * factor
    return _Gated.apply(x, factor, share, [where for where, _ in gates], *(gate for _, gate in gates))


class _Gated(torch.autograd.Function):
    """By hand for the same reason as `_Shift`."""

    @staticmethod
    def forward(ctx, x: Tensor, factor: Tensor, share: float, places: list[slice], *gates: Tensor) -> Tensor:
        ctx.save_for_backward(x, factor, *gates)
        ctx.share, ctx.places = share, places
        out = x * factor
        for where, gate in zip(places, gates):
            out[:, where].addcmul_(x[:, where], gate, value=share)
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, factor, *gates = ctx.saved_tensors
        grad_x = _Gated.apply(grad, factor, ctx.share, ctx.places, *gates)
        product = grad * x
        grad_factor = product.sum_to_size(factor.shape) if ctx.needs_input_grad[1] else None
        return grad_x, grad_factor, None, None, *(product[:, where] * ctx.share for where in ctx.places)


class CoarseDifference(TemporalModule):
    """Gate that motion between neighbouring segments opens (TDN's multi-scale module; docs/method.md).

    From reduced features, at three spatial scales, in both directions. `start` is the scale of the batch norm before
    the gate at the start, 0 leaves the gate half open; `causal` looks backward only.
    """

    def __init__(self, channels: int, *, reduction: int = 16, start: float = 1.0, causal: bool = False) -> None:
        super().__init__()
        width = reduced_width(channels, reduction)
        self.causal = causal
        self.move = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pooled = ConvBN(width, width, 3)
        self.full = ConvBN(width, width, 3)
        self.expand = ConvBN(width, channels, 1)
        start_norm_(self.expand[1], start)  # type: ignore[arg-type]

    def plain(self, z: Tensor, timeline: Timeline) -> Tensor:
        """[N, c, H, W] -> the excitation E_C, -1/2 to 1/2, where features become x * (1 + E_C); [N, C, H, W]."""
        if (memory := timeline.memory) is not None:
            backward = memory.has_past() * (memory.exchange(self.move(z)) - z)
            return self.openness(backward) - 1 / 2
        forward, backward = neighbour_differences(z, self.move(z), timeline.num_segments)
        if self.causal:
            return self.openness(backward) - 1 / 2
        return (self.openness(backward) + self.openness(forward)) / 2 - 1 / 2

    def openness(self, difference: Tensor) -> Tensor:
        """Difference in one direction [N, c, H, W] -> 0 to 1; [N, C, H, W]."""
        size = difference.shape[-2:]
        pooled = self.pooled(F.avg_pool2d(difference, 2, ceil_mode=bool(min(size) < 2)))
        y = (difference + F.interpolate(pooled, size, mode="nearest") + self.full(difference)) / 3
        return torch.sigmoid_(self.expand(y))

    def forward(self, z: Tensor, timeline: Timeline) -> Tensor:
        """The fast form: [N, c, H, W] -> 2 (E_C + 1/2), from 0 to 2; [N, C, H, W]."""
        forward, backward = neighbour_differences(z, self.move(z), timeline.num_segments)
        if self.causal:
            return 2 * self.openness(backward)
        if self.training:  # each direction has its own batch statistics, as in TDN's code
            return self.openness(backward) + self.openness(forward)
        both = self.openness(torch.cat((backward, forward))).unflatten(0, (2, -1))
        return both[0] + both[1]

    def for_runtime(self, *, steps: bool) -> "RuntimeCoarseDifference":
        return RuntimeCoarseDifference(self)


class RuntimeCoarseDifference(nn.Module):
    """Runtime form of `CoarseDifference`, in few operations: [N, c, H, W] -> 2 (E_C + 1/2), [N, C, H, W]."""

    def __init__(self, coarse: CoarseDifference) -> None:
        super().__init__()
        self.causal, self.move, self.pooled, self.full = coarse.causal, coarse.move, coarse.pooled, coarse.full
        self.expand = scaled(coarse.expand, 1 / 3)  # of the mean of three scales

    def forward(self, z: Tensor, timeline: Timeline) -> Tensor:
        here, moved = (y.unflatten(0, (-1, timeline.num_segments)) for y in (z, self.move(z)))  # [B, T, c, H, W]
        differences = [padded(moved[:, :-1] - here[:, 1:], at_start=True)]
        if not self.causal:
            differences.append(padded(moved[:, 1:] - here[:, :-1], at_start=False))
        d = torch.stack(differences).flatten(0, 2)  # [directions * N, c, H, W]
        pooled = self.pooled(halved(d))
        y = d + F.interpolate(pooled, d.shape[-2:], mode="nearest") + self.full(d)
        gates = [torch.sigmoid(self.expand(part)) for part in y.unflatten(0, (len(differences), -1)).unbind(0)]
        return gates[0] + gates[-1]


def halved(x: Tensor, *, ceil: bool = False) -> Tensor:
    """Averaged over 2 x 2 cells, for runtimes. Crops are square; OpenVINO does not pool a map of one pixel, which is
    left alone."""
    return (
        x if x.shape[-1] < 2 else F.avg_pool2d(x, 2, ceil_mode=ceil and x.shape[-1] % 2 == 1, count_include_pad=False)
    )


M = TypeVar("M", bound=nn.Module)


def scaled(module: M, factor: float) -> M:
    """A copy whose weight is multiplied by `factor`; a bias stays as it is."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        module.weight.mul_(factor)  # type: ignore[operator]
    return module
