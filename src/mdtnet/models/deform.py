"""Deformable convolution, of several kernels at once.

Dai et al., "Deformable Convolutional Networks", 2017; the operator is torchvision's `deform_conv2d` with stride 1,
`same` padding and one offset group. Here every tap of every kernel is sampled at all pixels by `grid_sample`, as one
tall picture, and the convolution is a matrix product on the samples as they lie.

Letters: N images, C channels in, O out, H x W pixels, K taps (k * k, or more for several scales).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mdtnet.models.trunk import whole_graph

Kernels = tuple[tuple[int, int], ...]
"""Size and dilation of each kernel."""


def deform_conv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, *, dilation: int = 1
) -> Tensor:
    """Convolve with a kernel whose taps are moved, at each pixel, by their own fractional offsets.

    `x` is [N, C, H, W], `offset` [N, 2 * k * k, H, W] in pixels as (dy, dx) per tap in row-major order,
    `weight` [O, C, k, k] with odd k, `bias` [O]; the result is [N, O, H, W] in the type of `x`. Padding is
    dilation * (k - 1) / 2, stride 1; samples are bilinear, and zero is whatever lies outside the image.
    With half types places and samples are computed in float32, the product of samples and kernel in the half type.
    Equal to `torchvision.ops.deform_conv2d` in value and every gradient
    (first order only); where a sample lies exactly on a pixel the slope of its offset is that to either side.

    Cost per image, as this project counts it: k^2 C O H W multiply-adds for the convolution plus 4 k^2 C H W
    for the sampling. Raises `ValueError` when the shapes do not fit each other.
    """
    return deform_conv2d_sum(x, offset, (weight,), bias, dilations=(dilation,))


def deform_conv2d_sum(
    x: Tensor,
    offset: Tensor,
    weights: Sequence[Tensor],
    bias: Tensor | None = None,
    *,
    dilations: Sequence[int] | None = None,
    joined: Tensor | None = None,
) -> Tensor:
    """The sum of several deformable convolutions of one map, such as kernels of two scales, in one pass.

    As `deform_conv2d` with a weight and a dilation (1 where none is given) per kernel; `offset` [N, 2 * the sum of
    k * k, H, W] holds the kernels' offsets one after the other. The cost is the sum too. `joined` is
    `joined_taps(weights)`, where that is at hand.
    """
    _check(x, offset, weights)
    joined = joined_taps(weights) if joined is None else joined
    kernels = tuple((w.shape[-1], d) for w, d in zip(weights, dilations or [1] * len(weights), strict=True))
    with autocast_off(x.device.type):
        out = _sampled(x, offset, joined, kernels)
    return out if bias is None else out + bias.to(out.dtype).view(1, -1, 1, 1)


def joined_taps(weights: Sequence[Tensor]) -> Tensor:
    """Kernels [O, C, k, k] one after the other, [O, C, K]."""
    return torch.cat([w.flatten(2) for w in weights], dim=2)


def _check(x: Tensor, offset: Tensor, weights: Sequence[Tensor]) -> None:
    for weight in weights:
        kernel = weight.shape[-1]
        if weight.ndim != 4 or weight.shape[-2] != kernel or kernel % 2 == 0 or weight.shape[1] != x.shape[1]:
            raise ValueError(f"weight {tuple(weight.shape)}: expected [O, {x.shape[1]}, k, k] with odd k")
    expected = (x.shape[0], 2 * sum(w.shape[-1] ** 2 for w in weights), *x.shape[2:])
    if offset.shape != expected:
        raise ValueError(f"offset {tuple(offset.shape)}: expected {tuple(expected)}")


def by_torchvision(x: Tensor, offset: Tensor, weights: Sequence[Tensor], kernels: Kernels) -> Tensor:
    """As `deform_conv2d_sum` by torchvision's operator, which ONNX (`DeformConv`, opset 19) and OpenVINO know."""
    from torchvision.ops import deform_conv2d as torchvision_deform_conv2d  # takes a second, and only export needs it

    each = zip(offset.split([2 * k * k for k, _ in kernels], 1), weights, kernels)
    parts = [torchvision_deform_conv2d(x, o, w, padding=d * (k // 2), dilation=d) for o, w, (k, d) in each]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def autocast_off(device_type: str) -> AbstractContextManager:
    """Products in the type of their operands; the meta device has no autocast."""
    return nullcontext() if device_type == "meta" else torch.autocast(device_type, enabled=False)


def _sampled(x: Tensor, offset: Tensor, weight: Tensor, kernels: Kernels) -> Tensor:
    """x [N, C, H, W], offset [N, 2 K, H, W], weight [O, C, K] -> [N, O, H, W]."""
    n, _, h, w = x.shape
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    is_traced = whole_graph() or type(x) is not Tensor  # tensors made while tracing must not be cached
    grid_of = _grid.__wrapped__ if is_traced else _grid
    column, row = grid_of(kernels, h, w, dtype, x.device)
    offset = offset.to(dtype).unflatten(1, (-1, 2))  # [N, K, 2, H, W]
    places = (torch.add(column, offset[:, :, 1], alpha=2 / w), torch.add(row, offset[:, :, 0], alpha=2 / h))
    # -3 and 3 lie outside a picture of any size; an infinite place would be weighed by 0 times infinity
    grid = torch.stack(places, -1).clamp(-3, 3)  # [N, K, H, W, 2]
    weight, pixels = weight.to(x.dtype), x.to(dtype)
    if whole_graph():  # channels innermost throughout, as offsets and features lie in memory
        grid = grid.permute(0, 2, 3, 1, 4).flatten(1, 2)  # [N, H W, K, 2]
        samples = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        samples = samples.to(x.dtype).permute(0, 2, 3, 1).flatten(2)  # [N, H W, K C]
        return (samples @ weight.permute(2, 1, 0).flatten(0, 1)).unflatten(1, (h, w)).permute(0, 3, 1, 2)
    grid = grid.flatten(1, 2)  # [N, K H, W, 2]
    samples = F.grid_sample(pixels.contiguous(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (weight.flatten(1) @ samples.to(x.dtype).view(n, -1, h * w)).view(n, -1, h, w)


def _taps(kernels: Kernels, device: torch.device) -> tuple[Tensor, Tensor]:
    """Distance of the taps from the pixel: rows and columns, [K, 1, 1] each."""
    numbers = [torch.arange(k * k, device=device) for k, _ in kernels]
    rows = torch.cat([d * (i // k - k // 2) for i, (k, d) in zip(numbers, kernels)])
    columns = torch.cat([d * (i % k - k // 2) for i, (k, d) in zip(numbers, kernels)])
    return rows[:, None, None], columns[:, None, None]


@lru_cache(maxsize=64)
def _grid(kernels: Kernels, height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the taps lie before they are moved, as `grid_sample` wants it: -1 is one edge of the picture, 1 the other.
    Column and row, each [K, H, W]. Kept, as making it takes as long as sampling a small map."""
    with torch.inference_mode(False):  # for whoever asks next
        tap_y, tap_x = _taps(kernels, device)
        column = (2 * (torch.arange(width, dtype=dtype, device=device) + tap_x) + 1) / width - 1
        row = (2 * (torch.arange(height, dtype=dtype, device=device)[:, None] + tap_y) + 1) / height - 1
        return column.expand(-1, height, width).contiguous(), row.expand(-1, height, width).contiguous()
