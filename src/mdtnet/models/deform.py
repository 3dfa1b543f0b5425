"""Deformable convolution: one function, the fastest correct path per device.

Dai et al., "Deformable Convolutional Networks", 2017; the operator is torchvision's `deform_conv2d` with stride 1,
`same` padding and one offset group. On a CPU torchvision samples one channel at a time; here every tap is sampled at
all pixels by `grid_sample`, as one tall picture, and the convolution is a matrix product on the samples as they lie.

Letters: N images, C channels in, O out, H x W pixels, K taps (k * k, or more for several scales).
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

Kernels = tuple[tuple[int, int], ...]
"""Size and dilation of each kernel."""


def deform_conv2d(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, *, dilation: int = 1
) -> Tensor:
    """Convolve with a kernel whose taps are moved, at each pixel, by their own fractional offsets.

    `x` is [N, C, H, W], `offset` [N, 2 * k * k, H, W] in pixels as (dy, dx) per tap in row-major order,
    `weight` [O, C, k, k] with odd k, `bias` [O]; the result is [N, O, H, W] in the type of `x`. Padding is
    dilation * (k - 1) / 2, stride 1; samples are bilinear, and zero is whatever lies outside the image.
    Half types are computed in float32. Equal to `torchvision.ops.deform_conv2d` in value and every gradient
    (first order only); where a sample lies exactly on a pixel the slope of its offset is that to either side.
    torchvision's operator itself on CUDA.

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
) -> Tensor:
    """The sum of several deformable convolutions of one map, such as kernels of two scales, in one pass.

    As `deform_conv2d` with a weight and a dilation (1 where none is given) per kernel; `offset` [N, 2 * the sum of
    k * k, H, W] holds the kernels' offsets one after the other. The cost is the sum too.
    """
    _check(x, offset, weights)
    kernels = tuple((w.shape[-1], d) for w, d in zip(weights, dilations or [1] * len(weights), strict=True))
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    compute = by_torchvision if x.device.type in ("cuda", "meta") else _by_grid_sample
    out = compute(x.to(dtype), offset.to(dtype), [w.to(dtype) for w in weights], kernels)
    if bias is not None:
        out = out + bias.to(dtype).view(1, -1, 1, 1)
    return out.to(x.dtype)


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
    each = zip(offset.split([2 * k * k for k, _ in kernels], 1), weights, kernels)
    parts = [torchvision_deform_conv2d(x, o, w, padding=d * (k // 2), dilation=d) for o, w, (k, d) in each]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def _by_grid_sample(x: Tensor, offset: Tensor, weights: Sequence[Tensor], kernels: Kernels) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return _sampled(x, offset, torch.cat([w.flatten(2) for w in weights], dim=2), kernels)


def _sampled(x: Tensor, offset: Tensor, weight: Tensor, kernels: Kernels) -> Tensor:
    """x [N, C, H, W], offset [N, 2 K, H, W], weight [O, C, K] -> [N, O, H, W]."""
    n, _, h, w = x.shape
    is_traced = torch.compiler.is_compiling() or type(x) is not Tensor  # then what is made is of no use to others
    grid_of = _grid.__wrapped__ if is_traced else _grid
    column, row = grid_of(kernels, h, w, x.dtype, x.device)
    offset = offset.unflatten(1, (-1, 2))  # [N, K, 2, H, W]
    places = (torch.add(column, offset[:, :, 1], alpha=2 / w), torch.add(row, offset[:, :, 0], alpha=2 / h))
    # -3 and 3 lie outside a picture of any size; an infinite place would be weighed by 0 times infinity
    grid = torch.stack(places, -1).clamp(-3, 3).flatten(1, 2)  # [N, K H, W, 2]
    samples = F.grid_sample(x.contiguous(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (weight.flatten(1) @ samples.view(n, -1, h * w)).view(n, -1, h, w)


@lru_cache(maxsize=64)
def _grid(kernels: Kernels, height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the taps lie before they are moved, as `grid_sample` wants it: -1 is one edge of the picture, 1 the other.
    Column and row, each [K, H, W]. Kept, as making it takes as long as sampling a small map."""
    with torch.inference_mode(False):  # for whoever asks next
        taps = [(d * (i // k - k // 2), d * (i % k - k // 2)) for k, d in kernels for i in range(k * k)]
        tap_y, tap_x = torch.tensor(taps, dtype=dtype, device=device)[:, :, None, None].unbind(1)  # [K, 1, 1]
        column = (2 * (torch.arange(width, dtype=dtype, device=device) + tap_x) + 1) / width - 1
        row = (2 * (torch.arange(height, dtype=dtype, device=device)[:, None] + tap_y) + 1) / height - 1
        return column.expand(-1, height, width).contiguous(), row.expand(-1, height, width).contiguous()
