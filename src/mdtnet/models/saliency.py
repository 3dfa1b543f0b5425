"""Motion salience maps by a temporal Fourier transform (docs/method.md, section 2). Pure functions, no parameters.

Where pixels change over time is where people move; there frames stay as they are, elsewhere they fade towards the
mean colour. Letters: B clips, T segments, K frames per segment, W_n frames per window, H, W pixels, h, w pooled pixels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mdtnet.config import SaliencyConfig
from mdtnet.models.memory import Memory, running_mean

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in luma (ITU-R BT.601)."""


def frames_saliency(frames: Tensor, config: SaliencyConfig, *, std: Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """Salience of frames [B, T, K, 3, H, W] as [B, T, H, W] in [0, 1].

    uint8 frames are pixels; float frames are taken as normalised by a mean (which a transform without u = 0 does not
    see) and `std`, the three channels' standard deviation for pixels in [0, 1].
    """
    if not frames.is_floating_point():
        frames = frames / 255
    return saliency_map(luma(frames, std=std), config)


def saliency_map(luma: Tensor, config: SaliencyConfig) -> Tensor:
    """Salience of luma [B, T, K, H, W] in [0, 1] as [B, T, H, W] in [0, 1]."""
    return resized(pooled_saliency(pool(luma, config.pool), config), luma.shape[-2:])


def luma(frames: Tensor, *, std: Sequence[float] = (1.0, 1.0, 1.0)) -> Tensor:
    """Luma [..., H, W], up to a constant, of float frames [..., 3, H, W] that were divided by `std`."""
    red, green, blue = (weight * s for weight, s in zip(LUMA, std, strict=True))
    return frames[..., 0, :, :] * red + frames[..., 1, :, :] * green + frames[..., 2, :, :] * blue


def resized(saliency: Tensor, size: Sequence[int]) -> Tensor:
    """A map [B, T, h, w] at another size [B, T, H, W], bilinear."""
    return F.interpolate(saliency, tuple(size), mode="bilinear", align_corners=False)


def floored(saliency: Tensor, floor: float) -> Tensor:
    """The mask g + (1 - g) S that frames are multiplied by; a floor g of 1 gives 1 everywhere."""
    return floor + (1 - floor) * saliency


def enhance(frames: Tensor, saliency: Tensor, *, floor: float) -> Tensor:
    """X' = (g + (1 - g) S) X for normalised frames [B, T, K, 3, H, W] and salience [B, T, H, W]."""
    return frames * floored(saliency, floor)[:, :, None, None]


def pool(luma: Tensor, factor: int) -> Tensor:
    """Area-pool luma [B, T, K, H, W] by `factor` (by less where it is smaller)."""
    factor = max(1, min(factor, *luma.shape[-2:]))
    pooled = F.avg_pool2d(luma.flatten(0, 1), factor, ceil_mode=True, count_include_pad=False)
    return pooled.unflatten(0, luma.shape[:2])


def pooled_saliency(
    luma: Tensor, config: SaliencyConfig, *, causal: bool = False, memory: Memory | None = None
) -> Tensor:
    """Salience of pooled luma [B, T, K, h, w] as [B, T, h, w] in [0, 1]: energy, smoothing, contrast, confidence.

    `causal` and `memory`: see `contrast`.
    """
    batch, segments = luma.shape[:2]
    if config.variant == "without_scene":
        energy, strength = contrast(smooth(scene_energy(luma)), config)
        confidence = (strength / max(config.noise, 1e-6)).clamp(max=1).square()
        return 1 - confidence + confidence * energy
    if config.window == "clip":
        luma = luma.flatten(1, 2)[:, None]  # [B, 1, T*K, h, w]: one map for the clip
    window = luma.shape[2]
    amplitude = smooth(amplitude_energy(luma, config.frequency_weights))
    amplitude, strength = contrast(amplitude, config, causal=causal, memory=memory)
    energy = amplitude
    if config.variant != "amplitude":
        energy = smooth(ENERGIES[config.variant](luma, config.noise))
        energy, _ = contrast(energy, config, causal=causal, memory=memory)
    confidence = (strength / (window * max(config.noise, 1e-6))).clamp(max=1).square()  # 0/0 where nothing moves
    salient = 1 - confidence + confidence * energy
    return salient.expand(batch, segments, -1, -1) if config.window == "clip" else salient


def contrast(
    energy: Tensor, config: SaliencyConfig, *, causal: bool = False, memory: Memory | None = None
) -> tuple[Tensor, Tensor]:
    """Median subtracted and clamped at 0, divided by the high quantile, clamped to [0, 1].

    [B, T, h, w] -> the same, and the quantile [B, T or 1, 1, 1] of what the median leaves. The median takes
    compression noise and small camera shake away. Statistics are taken of every second cell of a smooth map, by
    sorting, which exports everywhere. Those of a clip are, for a `causal` network, means of the segments' statistics
    over the past and the present, which a stream's `memory` has.
    """
    of_clip = config.normalise == "clip"
    flat = energy[..., ::2, ::2].flatten(1 if of_clip and not causal else 2).sort(-1).values  # [B, T*h*w], [B, T, h*w]
    shape = (*flat.shape[:-1], *(1,) * (4 - flat.dim() + 1))
    n = flat.shape[-1]
    median = flat[..., (n - 1) // 2].reshape(shape)
    high = (flat[..., math.floor(config.quantile * (n - 1))].reshape(shape) - median).clamp(min=0)
    if of_clip and causal:
        median, high = running_mean(median, memory), running_mean(high, memory)
    return ((energy - median).clamp(min=0) / high.clamp(min=1e-6)).clamp(max=1), high


def smooth(energy: Tensor) -> Tensor:
    """Separable Gaussian smoothing of [B, T, h, w]; sigma is 1/28 of the short side."""
    sigma = min(energy.shape[-2:]) / 28
    radius = math.ceil(2.5 * sigma)
    taps = torch.arange(-radius, radius + 1, device=energy.device, dtype=energy.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    images = F.pad(energy.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    images = F.conv2d(F.conv2d(images, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return images[:, 0].unflatten(0, energy.shape[:2])


def dft(luma: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of F_u, u = 1 .. K//2, over the frames of [B, T, K, h, w]; each [B, T, K//2, h, w].

    A matrix product: for few frames quicker than an FFT. For real input u and K - u are conjugate, so half suffices.
    """
    angles = _angles(luma.shape[2], luma)
    luma = luma - luma[:, :, :1]  # changes u = 0 alone, and keeps a still clip at exactly zero
    waves = torch.cat((angles.cos(), -angles.sin()))  # both in one product
    real, imaginary = torch.einsum("uk,btkhw->btuhw", waves, luma).chunk(2, 2)
    return real, imaginary


def inverse_dft(real: Tensor, imaginary: Tensor, num_frames: int) -> Tensor:
    """Frames [B, T, K, h, w] from half a spectrum u = 1 .. K//2 whose u = 0 is zero; the inverse of `dft`."""
    angles = _angles(num_frames, real)  # [U, K]
    twice = _multiplicity(num_frames, real)[:, None] / num_frames
    cosine, sine = angles.cos() * twice, angles.sin() * twice
    return torch.einsum("uk,btuhw->btkhw", cosine, real) - torch.einsum("uk,btuhw->btkhw", sine, imaginary)


def _angles(num_frames: int, like: Tensor) -> Tensor:
    frequencies = torch.arange(1, num_frames // 2 + 1, device=like.device, dtype=like.dtype)
    times = torch.arange(num_frames, device=like.device, dtype=like.dtype)
    return 2 * math.pi / num_frames * frequencies[:, None] * times  # [U, K]


def _multiplicity(num_frames: int, like: Tensor) -> Tensor:
    """How often each of u = 1 .. K//2 occurs among 1 .. K-1: twice, but the middle one of an even K once."""
    u = torch.arange(1, num_frames // 2 + 1, device=like.device)
    return torch.where(2 * u == num_frames, 1.0, 2.0).to(like.dtype)


def _modulus(real: Tensor, imaginary: Tensor) -> Tensor:
    return (real.square() + imaginary.square() + 1e-16).sqrt()


def amplitude_energy(luma: Tensor, weights: Sequence[float] = ()) -> Tensor:
    """E = sum over u >= 1 of w_u |F_u|; luma [B, T, K, h, w] -> [B, T, h, w]."""
    factors = _multiplicity(luma.shape[2], luma)
    if weights:
        padded = [*weights[: len(factors)], *(0.0,) * (len(factors) - len(weights))]
        factors = factors * torch.tensor(padded, device=luma.device, dtype=luma.dtype)
    return (_modulus(*dft(luma)) * factors.view(-1, 1, 1)).sum(2)


def phase_energy(luma: Tensor, noise: float) -> Tensor:
    """Largest |.| over time of the inverse transform of the spectrum at unit amplitude, without u = 0.

    Amplitudes below the noise of a window are not raised to one: F / (|F| + tau).
    """
    real, imaginary = dft(luma)
    unit = 1 / (_modulus(real, imaginary) + luma.shape[2] * noise)
    return inverse_dft(real * unit, imaginary * unit, luma.shape[2]).abs().amax(2)


def spectral_residual_energy(luma: Tensor, noise: float) -> Tensor:
    """Largest |.| over time of the inverse transform of exp(log |F| - its local average over u) at F's phase.

    u = 0 is left out throughout; amplitudes below the noise are damped as in `phase_energy`.
    """
    real, imaginary = dft(luma)
    damped = _modulus(real, imaginary) + luma.shape[2] * noise
    log = damped.log()
    mirrored = F.pad(log.flatten(3), (0, 0, 1, 1), mode="replicate").unflatten(3, log.shape[3:])  # [B, T, U+2, h, w]
    residual = log - (mirrored[:, :, :-2] + mirrored[:, :, 1:-1] + mirrored[:, :, 2:]) / 3
    gain = residual.exp() / damped
    return inverse_dft(real * gain, imaginary * gain, luma.shape[2]).abs().amax(2)


def difference_energy(luma: Tensor, noise: float) -> Tensor:
    """Mean |Y_{k+1} - Y_k| over the window: the control without Fourier transform."""
    return (luma[:, :, 1:] - luma[:, :, :-1]).abs().mean(2)


def scene_energy(luma: Tensor) -> Tensor:
    """|Y - its mean over the clip|, averaged over a segment's frames: the modulus of what is left of a transform over
    the clip without u = 0, taken back to time; [B, T, K, h, w] -> [B, T, h, w]."""
    luma = luma - luma[:, :1, :1]  # keeps a still clip at exactly zero
    return (luma - luma.mean((1, 2), keepdim=True)).abs().mean(2)


ENERGIES = {
    "phase": phase_energy,
    "spectral_residual": spectral_residual_energy,
    "difference": difference_energy,
}
