"""The temporal convolution as one Triton kernel: each program walks through the segments of a clip, so that every
element is read once and written once. cuDNN has no fast kernel for a depthwise convolution over time.

Letters: B clips, T segments, C channels, H, W pixels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def summed_steps(x: Tensor, weight: Tensor, first_step: int, gain: Tensor | None = None) -> Tensor:
    """The sum over i of w_i u(t + first_step + i), u = x * gain.

    `x` is [B, T, H, W, C], contiguous, `weight` [C, 3]; `first_step` is -1, or -2 (causal) or 0 (its gradient). `gain`
    is [B, T, h, w, C], contiguous, with h and w those of x or half of them (rounded up). The result is of x's shape and
    type.
    """
    batch, segments, height, width, channels = x.shape
    out = torch.empty_like(x)
    halved = gain is not None and gain.shape[2:4] != (height, width)
    elements = height * width * channels
    grid = (triton.cdiv(elements, BLOCK), batch)
    small = 0 if gain is None else gain[0, 0].numel()
    _kernel[grid](
        *(x, weight.contiguous(), x if gain is None else gain, out, elements, small, channels, width),
        (width + 1) // 2,
        T=segments,
        FIRST=first_step,
        GAIN=gain is not None,
        HALVED=halved,
        BLOCK=BLOCK,
    )
    return out


@triton.jit
def _kernel(
    x,
    weight,
    gain,
    out,
    elements,
    small,
    channels,
    width,
    small_width,
    T: tl.constexpr,
    FIRST: tl.constexpr,
    GAIN: tl.constexpr,
    HALVED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < elements
    channel = place % channels
    w0 = tl.load(weight + channel * 3, inside, 0).to(tl.float32)
    w1 = tl.load(weight + channel * 3 + 1, inside, 0).to(tl.float32)
    w2 = tl.load(weight + channel * 3 + 2, inside, 0).to(tl.float32)
    base = tl.program_id(1).to(tl.int64) * T * elements
    gain_base = tl.program_id(1).to(tl.int64) * T * small
    gain_place = place
    if HALVED:
        pixel = place // channels
        gain_place = ((pixel // width // 2) * small_width + pixel % width // 2) * channels + channel
    first = tl.zeros([BLOCK], tl.float32)
    second = tl.zeros([BLOCK], tl.float32)
    for i in range(T + FIRST + 2):  # i is the last of the three segments that are summed
        there = inside & (i < T)
        third = tl.load(x + base + i * elements + place, there, 0).to(tl.float32)
        if GAIN:
            third = third * tl.load(gain + gain_base + i * small + gain_place, there, 0).to(tl.float32)
        t = i - FIRST - 2
        y = first * w0 + second * w1 + third * w2
        tl.store(out + base + t * elements + place, y.to(out.dtype.element_ty), inside & (t >= 0))
        first = second
        second = third
