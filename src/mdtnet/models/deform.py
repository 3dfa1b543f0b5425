"""Deformable convolution: one function, the fastest correct path per device.

Dai et al., "Deformable Convolutional Networks", 2017; the operator is torchvision's `deform_conv2d` with
stride 1, `same` padding and one offset group. On a CPU torchvision samples one channel at a time;
here the map is a table, one row of channels a pixel, and `embedding_bag` sums four weighted rows a sample.

Letters: N images, C channels in, O out, H x W pixels, K taps (k * k, or more for several scales) and
S = N * H * W * K samples. A sample lies between four table rows, its corners: `base` is the upper left one.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.ops import deform_conv2d as torchvision_deform_conv2d

# Images are worked on a few at a time: sampled columns of about this size stay in the cache and are reused by
# the allocator (fresh large blocks cost as much in page faults as the arithmetic).
CHUNK_BYTES = 4 << 20

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
    (first order only on a CPU); torchvision's operator itself on CUDA and under `torch.export`, where it
    becomes ONNX `DeformConv` (opset 19).

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
    k * k, H, W] holds the kernels' offsets one after the other. The cost is the sum too. On a CPU it is faster than one
    kernel after the other, most of all on small maps.
    """
    _check(x, offset, weights)
    kernels = tuple(
        (w.shape[-1], dilation) for w, dilation in zip(weights, dilations or [1] * len(weights), strict=True)
    )
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    out = _dispatch(x.to(dtype), offset.to(dtype), [w.to(dtype) for w in weights], kernels)
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


def _dispatch(x: Tensor, offset: Tensor, weights: list[Tensor], kernels: Kernels) -> Tensor:
    if x.device.type in ("cuda", "meta") or torch.compiler.is_exporting():
        each = zip(offset.split([2 * k * k for k, _ in kernels], 1), weights, kernels)
        parts = [torchvision_deform_conv2d(x, o, w, padding=d * (k // 2), dilation=d) for o, w, (k, d) in each]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
    kernel = torch.cat([w.flatten(2) for w in weights], dim=2) if len(weights) > 1 else weights[0].flatten(2)
    convolve = _DeformConv.apply if x.device.type == "cpu" else _gathered
    return convolve(x, offset, kernel.transpose(1, 2), kernels)


@lru_cache(maxsize=64)
def _grid(kernels: Kernels, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Where the taps of these kernels lie before they are moved, in the zero-framed table: y and x in pixels
    from two above and two left of the image, [2, 1, H, W, K]. Kept, as making it takes as long as sampling a small map.
    """
    with torch.inference_mode(False):  # for whoever asks next
        taps = [(d * (i // k - k // 2), d * (i % k - k // 2)) for k, d in kernels for i in range(k * k)]
        tap_y, tap_x = torch.tensor(taps, dtype=dtype, device=device).t()
        pixels = torch.arange(2, max(height, width) + 2, dtype=dtype, device=device)
        grid = torch.empty(2, 1, height, width, len(taps), dtype=dtype, device=device)
        grid[0] = pixels[:height].view(height, 1, 1) + tap_y
        grid[1] = pixels[:width].view(width, 1) + tap_x
        return grid


def _table(x: Tensor) -> Tensor:
    """A row of channels per pixel, with rows of zeros around: [(N (H + 2) + 2) (W + 2), C].

    The zeros to the right of one image row are also those to the left of the next, and those below an image
    are also above the next one, so two of each serve four sides.
    """
    n, c, h, w = x.shape
    table = x.new_zeros((n * (h + 2) + 2) * (w + 2), c)
    table[2 * (w + 2) :].view(n, h + 2, w + 2, c)[:, :h, :w] = x.permute(0, 2, 3, 1)
    return table


def _moved(offset: Tensor, grid: Tensor) -> Tensor:
    """Sample positions [2, N, H, W, K], in one pass; autograd does not see it."""
    moved = offset.new_empty(2, offset.shape[0], *grid.shape[2:])
    return torch.add(offset.unflatten(1, (-1, 2)).permute(2, 0, 3, 4, 1), grid, out=moved)


def _locate(moved: Tensor) -> tuple[Tensor, Tensor]:
    """The upper left corner of each sample as a table row, [S], and the (y, x) distance from it, [2, S].

    Samples are in the order [N, H, W, K]. `moved` is overwritten. Positions a pixel or more outside are moved to
    where all is zero.
    """
    _, n, h, w, _ = moved.shape
    if h == w:
        moved.clamp_(0, h + 2)
    else:
        moved[0].clamp_(0, h + 2)
        moved[1].clamp_(0, w + 2)
    low = moved.detach().to(torch.int32)  # rounds down, as nothing is negative
    moved.sub_(low)
    image = torch.arange(-2, n * (h + 2) * (w + 2) - 2, (h + 2) * (w + 2), dtype=torch.int32, device=low.device)
    base = low[1].add_(low[0], alpha=w + 2).add_(image.view(n, 1, 1, 1))
    # the clamp keeps NaN offsets (a diverged training) inside the table, where they give NaN results
    return base.clamp_(0, (n * (h + 2) + 1) * (w + 2) - 2).flatten(), moved.flatten(1)


def _corners(base: Tensor, distance: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Table rows and bilinear weights of the four corners of each sample, both [S, 4]."""
    index = base.new_empty(base.shape[0], 4)
    weight = distance.new_empty(base.shape[0], 4)
    y, x = distance
    rest_y, rest_x = 1 - distance
    corners = ((0, rest_y, rest_x), (1, rest_y, x), (width + 2, y, rest_x), (width + 3, y, x))
    for corner, (step, a, b) in enumerate(corners):
        index[:, corner] = base + step
        weight[:, corner] = a * b
    return index, weight


def _bags(table: Tensor, index: Tensor, weight: Tensor, start: Tensor | None = None) -> Tensor:
    """Weighted sums of table rows, one per row of `index` [S, L] or per range of it beginning at `start`."""
    return torch.nn.functional.embedding_bag(index, table, start, mode="sum", per_sample_weights=weight)


class _DeformConv(torch.autograd.Function):
    """x [N, C, H, W], offset [N, 2 K, H, W], kernel [O, K, C] of these kernels -> [N, O, H, W], on a CPU.

    Nothing is kept for the backward pass but the arguments. All sums are in a fixed order: runs repeat.
    """

    @staticmethod
    def forward(ctx, x: Tensor, offset: Tensor, kernel: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(x, offset, kernel)
        ctx.kernels = kernels
        n, _, h, w = x.shape
        grid = _grid(kernels, h, w, x.dtype, x.device)
        out = x.new_empty(n, h, w, kernel.shape[0])
        matrix = kernel.flatten(1).t()
        for part in _chunks(x, kernel):
            index, weight = _corners(*_locate(_moved(offset[part], grid)), w)
            columns = _bags(_table(x[part]), index, weight).view(-1, matrix.shape[0])  # [N H W, K C]
            torch.mm(columns, matrix, out=out[part].view(-1, matrix.shape[1]))
        return out.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, offset, kernel = ctx.saved_tensors
        grid = _grid(ctx.kernels, x.shape[2], x.shape[3], x.dtype, x.device)
        need_x, need_offset, need_kernel, _ = ctx.needs_input_grad
        grad_x = torch.empty_like(x) if need_x else None
        grad_offset = torch.empty_like(offset) if need_offset else None
        grad_kernel = torch.zeros_like(kernel.flatten(1)) if need_kernel else None
        with torch.autocast("cpu", enabled=False):
            for part in _chunks(x, kernel):
                g = grad[part].permute(0, 2, 3, 1).reshape(-1, kernel.shape[0])  # [N H W, O]
                table = _table(x[part])
                base, distance = _locate(_moved(offset[part], grid))
                if grad_kernel is not None:
                    columns = _bags(table, *_corners(base, distance, x.shape[3]))
                    grad_kernel.addmm_(g.t(), columns.view(g.shape[0], -1))
                if grad_x is None and grad_offset is None:
                    continue
                g_samples = (g @ kernel.flatten(1)).view(-1, x.shape[1])  # [S, C]
                if grad_x is not None:
                    grad_x[part] = _scatter(g_samples, base, distance, x[part].shape)
                if grad_offset is not None:
                    slopes = _slopes(table, g_samples, base, distance, x.shape[3])
                    target = grad_offset[part].unflatten(1, (-1, 2)).permute(2, 0, 3, 4, 1)  # [2, N, H, W, K]
                    target.copy_(slopes.view(target.shape))
        return grad_x, grad_offset, None if grad_kernel is None else grad_kernel.view_as(kernel), None


def _chunks(x: Tensor, kernel: Tensor) -> list[slice]:
    """Even slices of the batch whose sampled columns are about `CHUNK_BYTES` each."""
    column_bytes = x.numel() * x.element_size() * kernel.shape[1]
    step = max(1, -(-x.shape[0] // max(1, round(column_bytes / CHUNK_BYTES))))
    return [slice(start, start + step) for start in range(0, x.shape[0], step)]


def _scatter(g: Tensor, base: Tensor, distance: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of `x`: every pixel gathers from the samples around it, sorted by their corner."""
    n, c, h, w = shape
    count = (n * (h + 2) + 2) * (w + 2)
    keys, order = torch.sort(base, stable=True)
    start = torch.searchsorted(keys, torch.arange(count, dtype=keys.dtype))
    y, x = distance[:, order]
    rest_y, rest_x = 1 - y, 1 - x
    out = _bags(g, order, rest_y * rest_x, start)
    for step, weight in ((1, rest_y * x), (w + 2, y * rest_x), (w + 3, y * x)):
        out[step:] += _bags(g, order, weight, start)[:-step]
    return out[2 * (w + 2) :].view(n, h + 2, w + 2, c)[:, :h, :w].permute(0, 3, 1, 2)


def _slopes(table: Tensor, g: Tensor, base: Tensor, distance: Tensor, width: int) -> Tensor:
    """Gradient of the offsets, [2, S]: the slopes of the map along y and x, times the samples' gradient."""
    out = torch.empty_like(distance)
    index = base.new_empty(base.shape[0], 2)
    weight = distance.new_empty(base.shape[0], 2)
    index[:, 0] = base
    ones = g.new_ones(g.shape[1])
    for axis, (along, across) in enumerate(((width + 2, 1), (1, width + 2))):
        index[:, 1] = base + across
        weight[:, 0] = 1 - distance[1 - axis]
        weight[:, 1] = distance[1 - axis]
        slope = _bags(table[along:] - table[:-along], index, weight)
        torch.mv(slope.mul_(g), ones, out=out[axis])
    return out


def _gathered(x: Tensor, offset: Tensor, kernel: Tensor, kernels: Kernels) -> Tensor:
    """The same by plain indexing and autograd, for devices other than CPU and CUDA."""
    n, _, h, w = x.shape
    table = _table(x)
    moved = offset.unflatten(1, (-1, 2)).permute(2, 0, 3, 4, 1) + _grid(kernels, h, w, x.dtype, x.device)
    base, (dy, dx) = _locate(moved)
    top = table[base] * (1 - dx)[:, None] + table[base + 1] * dx[:, None]
    bottom = table[base + w + 2] * (1 - dx)[:, None] + table[base + w + 3] * dx[:, None]
    columns = top * (1 - dy)[:, None] + bottom * dy[:, None]  # [S, C]
    out = columns.view(n * h * w, -1) @ kernel.flatten(1).t()
    return out.view(n, h, w, -1).permute(0, 3, 1, 2)
