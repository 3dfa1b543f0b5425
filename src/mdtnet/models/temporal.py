"""Temporal operations that several systems share: shift, depthwise convolution over time, motion differences.

The function is the truth, the module a holder of its parameters. All take [N, C, H, W] with N = B*T frames of
B clips and give the same shape back. Letters: B clips, T segments, C channels, H, W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdtnet.models.trunk import Timeline


def shift(x: Tensor, num_segments: int, *, fraction: float = 1 / 8) -> Tensor:
    """TSM's shift: the first `fraction` of channels comes from t+1, the next from t-1, zeros at the ends."""
    fold = int(x.shape[1] * fraction)
    out = x.clone()  # keeps channels-last
    old, new = x.unflatten(0, (-1, num_segments)), out.unflatten(0, (-1, num_segments))  # [B, T, C, H, W]
    new[:, :-1, :fold] = old[:, 1:, :fold]
    new[:, -1, :fold] = 0
    new[:, 1:, fold : 2 * fold] = old[:, :-1, fold : 2 * fold]
    new[:, 0, fold : 2 * fold] = 0
    return out


def depthwise_conv(x: Tensor, weight: Tensor, num_segments: int, *, causal: bool = False) -> Tensor:
    """Depthwise convolution over time with kernel 3 and zero padding, as two shifted additions.

    `weight` is [C, 1, 3] as in `nn.Conv1d`: taps for t-1, t, t+1, or with `causal` for t-2, t-1, t.
    """
    first, second, third = weight.reshape(-1, 3, 1, 1).unbind(1)  # [C, 1, 1] each
    out = x * (third if causal else second)
    old, new = x.unflatten(0, (-1, num_segments)), out.unflatten(0, (-1, num_segments))  # [B, T, C, H, W]
    if causal:
        new[:, 1:].addcmul_(old[:, :-1], second)
        new[:, 2:].addcmul_(old[:, :-2], first)
    else:
        new[:, 1:].addcmul_(old[:, :-1], first)
        new[:, :-1].addcmul_(old[:, 1:], third)
    return out


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


def neighbour_differences(z: Tensor, moved: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Differences to the next and to the previous segment; a missing step is zero.

    z is [N, C, H, W], `moved` the same features made comparable (by a convolution).
    Returns forward moved(t+1) - z(t) and backward moved(t-1) - z(t), each [N, C, H, W].
    """
    z, moved = z.unflatten(0, (-1, num_segments)), moved.unflatten(0, (-1, num_segments))  # [B, T, C, H, W]
    forward = F.pad(moved[:, 1:] - z[:, :-1], (0, 0) * 3 + (0, 1))
    backward = F.pad(moved[:, :-1] - z[:, 1:], (0, 0) * 3 + (1, 0))
    return forward.flatten(0, 1), backward.flatten(0, 1)


def reduced(channels: int, reduction: int = 16) -> int:
    """Channels inside a motion module: max(channels / reduction, 8)."""
    return max(channels // reduction, 8)


class ConvBN(nn.Sequential):
    """Convolution without bias, then batch norm (which would swallow the bias); in evaluation they are one."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        conv, bn = self
        if bn.training:
            return bn(conv(x))
        scale = bn.weight * torch.rsqrt(bn.running_var + bn.eps)
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, bn.bias - bn.running_mean * scale, padding=conv.padding)


def neutral_(bn: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Start a batch norm at zero, so that the sigmoid after it starts at 1/2 and its gate at 0."""
    nn.init.zeros_(bn.weight)
    nn.init.zeros_(bn.bias)
    return bn


def fan_out_(module: nn.Module) -> None:
    """Start every 2D convolution, depthwise ones too, as TEA and TDN do: normal with variance 2 / fan-out."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")


class CoarseDifference(nn.Module):
    """Motion between neighbouring segments as an excitation (TDN's multi-scale module; METHOD section 3).

    x + x * E with E = sigmoid(...) - 1/2 averaged over both directions, from three spatial scales.
    `neutral` starts E at 0; `causal` looks backward only.
    """

    def __init__(self, channels: int, *, reduction: int = 16, neutral: bool = True, causal: bool = False) -> None:
        super().__init__()
        width = reduced(channels, reduction)
        self.causal = causal
        self.reduce = ConvBN(channels, width, 1)
        self.move = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.pooled = ConvBN(width, width, 3)
        self.full = ConvBN(width, width, 3)
        self.expand = ConvBN(width, channels, 1)
        if neutral:
            neutral_(self.expand[1])  # type: ignore[arg-type]

    def openness(self, difference: Tensor) -> Tensor:
        """Difference [N, c, H, W] -> how far the gate is open, 0 to 1, 1/2 being neutral; [N, C, H, W]."""
        size = difference.shape[-2:]
        pooled = self.pooled(F.avg_pool2d(difference, 2, ceil_mode=min(size) < 2))
        y = (difference + F.interpolate(pooled, size, mode="nearest") + self.full(difference)) / 3
        return torch.sigmoid(self.expand(y))

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        z = self.reduce(x)
        forward, backward = neighbour_differences(z, self.move(z), timeline.num_segments)
        if self.causal:
            return (x * 0.5).addcmul_(x, self.openness(backward))
        both = self.openness(forward) + self.openness(backward)
        return (x * 0.5).addcmul_(x, both, value=0.5)  # x * (1 + E): few passes over the large map
