"""Temporal operations that several systems share: shift, depthwise convolution over time, motion differences.

The function is the truth, the module a holder of its parameters. All take [N, C, H, W] with N = B*T frames of
B clips and give the same shape back. Letters: B clips, T segments, C channels, H, W pixels.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdtnet.models.trunk import Timeline


def shift(x: Tensor, num_segments: int, *, fraction: float = 1 / 8) -> Tensor:
    """TSM's shift: the first `fraction` of channels comes from t+1, the next from t-1, zeros at the ends."""
    fold = int(x.shape[1] * fraction)
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


def depthwise_conv(x: Tensor, weight: Tensor, num_segments: int, *, causal: bool = False) -> Tensor:
    """Depthwise convolution over time with kernel 3 and zero padding.

    `weight` is [C, 1, 3] as in `nn.Conv1d`: taps for t-1, t, t+1, or with `causal` for t-2, t-1, t.
    """
    height, width = x.shape[-2:]
    lines = by_time(x, num_segments).flatten(2, 3).permute(0, 3, 1, 2)  # [B, C, T, H W]: one 2D convolution, one pass
    padding = 2 if causal else 1
    y = F.conv2d(lines, weight[..., None].to(x.dtype), padding=(padding, 0), groups=x.shape[1])
    y = y[:, :, :num_segments].permute(0, 2, 3, 1)  # a causal one has two steps too many
    return as_maps(y.unflatten(2, (height, width)))


class Shift(nn.Module):
    """`shift` as a temporal module, without parameters."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        return shift(x, timeline.num_segments)


class DepthwiseConv(nn.Module):
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

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        return depthwise_conv(x, self.weight, timeline.num_segments, causal=self.causal)


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
    if size != (2 * small[0], 2 * small[1]) or torch.compiler.is_exporting():  # runtimes prefer to enlarge
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


def reduced(channels: int, reduction: int = 16) -> int:
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
        return F.conv2d(x, weight, bn.bias - bn.running_mean * scale, padding=conv.padding)  # type: ignore[arg-type]


def started(bn: nn.BatchNorm2d, scale: float) -> nn.BatchNorm2d:
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

    x is [B, T, C, H, W] and `factor` broadcasts to it; a gate comes with the segments of T that it is for.
    """
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


class CoarseDifference(nn.Module):
    """How far motion between neighbouring segments opens a gate (TDN's multi-scale module; METHOD section 3).

    From reduced features, at three spatial scales, in both directions. `start` is the scale of the batch norm before
    the gate at the start, 0 leaves the gate half open; `causal` looks backward only.
    """

    def __init__(self, channels: int, *, reduction: int = 16, start: float = 1.0, causal: bool = False) -> None:
        super().__init__()
        width = reduced(channels, reduction)
        self.causal = causal
        self.move = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pooled = ConvBN(width, width, 3)
        self.full = ConvBN(width, width, 3)
        self.expand = ConvBN(width, channels, 1)
        started(self.expand[1], start)  # type: ignore[arg-type]

    def forward(self, z: Tensor, timeline: Timeline) -> Tensor:
        """[N, c, H, W] -> 2 (E + 1/2), from 0 to 2, where x * (1 + E) is the excitation; [N, C, H, W]."""
        forward, backward = neighbour_differences(z, self.move(z), timeline.num_segments)
        if self.causal:
            return 2 * self.openness(backward)
        if self.training:  # each direction has its own batch statistics, as in TDN's code
            return self.openness(backward) + self.openness(forward)
        both = self.openness(torch.cat((backward, forward))).unflatten(0, (2, -1))
        return both[0] + both[1]

    def openness(self, difference: Tensor) -> Tensor:
        """Difference in one direction [N, c, H, W] -> 0 to 1; [N, C, H, W]."""
        size = difference.shape[-2:]
        pooled = self.pooled(F.avg_pool2d(difference, 2, ceil_mode=min(size) < 2))
        y = (difference + F.interpolate(pooled, size, mode="nearest") + self.full(difference)) / 3
        return torch.sigmoid_(self.expand(y))
