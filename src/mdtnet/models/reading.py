"""The key frames that a network sees: as they are, or without what stands still (docs/method.md, section 2).

A discrete Fourier transform over the key frames of a clip has the scene at frequency u = 0, since that is what no
frame changes; without it, transformed back, there is left what changes in the course of the clip. Every system can
have it. Letters: B clips, T segments, N = B*T, H, W pixels.
"""

import math
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor, nn

from mdtnet.config import Reading, ReadingTo, SaliencyConfig
from mdtnet.models.memory import Memory, running_mean
from mdtnet.models.saliency import contrast, luma, pool, smooth
from mdtnet.models.trunk import Trunk, half_size

READINGS: tuple[Reading, ...] = get_args(Reading)
KNOTS = 4  # of the learned gain, between frequency 0 and half a cycle per segment


def mean_frame(frames: Tensor, *, causal: bool = False, memory: Memory | None = None) -> Tensor:
    """F_0 / T, the static part of [B, T, ...]: the mean over T as [B, 1, ...], or the running mean of the past and the
    present [B, T, ...]."""
    return running_mean(frames, memory) if causal else frames.mean(1, keepdim=True)


def median_frame(frames: Tensor) -> Tensor:
    """The median over T of [B, T, ...] as [B, 1, ...] (of an even T the mean of the middle two): a static part without
    a transform."""
    ordered, last = frames.sort(1).values, frames.shape[1] - 1
    return (ordered[:, last // 2 : last // 2 + 1] + ordered[:, (last + 1) // 2 : (last + 1) // 2 + 1]) / 2


def clip_confidence(
    change: Tensor,
    config: SaliencyConfig,
    *,
    std: tuple[float, ...],
    causal: bool = False,
    memory: Memory | None = None,
) -> Tensor:
    """How sure it is that something moves: c in [0, 1] of changes [B, T, 3, H, W], as [B, 1, 1, 1, 1].

    min(1, q / noise)^2, where q is the high quantile of the smoothed modulus on luma, its median taken off. Of a still
    clip it is 0. `causal` takes the running mean of q over the past and the present: [B, T, 1, 1, 1].
    """
    energy = smooth(pool(luma(change, std=std)[:, :, None], config.pool)[:, :, 0].abs())  # [B, T, h, w]
    _, high = contrast(energy, replace(config, normalise="clip"), causal=causal, memory=memory)
    return (high / max(config.noise, 1e-6)).clamp(max=1).square()[:, :, None]


def frequency_gain(gain: Tensor, num_segments: int) -> Tensor:
    """The matrix [T, T] that multiplies the frequencies of T frames by a gain and transforms them back.

    `gain` is [1 + KNOTS]: the gain of u = 0, then those at u / T = 1/8, 1/4, 3/8, 1/2, linear between them, so that
    one set of numbers does for every T.
    """
    u = torch.arange(num_segments, device=gain.device, dtype=gain.dtype)
    place = torch.minimum(u, num_segments - u) / num_segments * 2 * KNOTS - 1  # -1 at u = 0, KNOTS - 1 at u = T / 2
    hats = (1 - (place.clamp(min=0)[:, None] - torch.arange(KNOTS, device=u.device)).abs()).clamp(min=0)  # [T, KNOTS]
    still = (u == 0).to(gain.dtype)
    of_u = still * gain[0] + (1 - still) * (hats @ gain[1:])
    delay = u[:, None] - u
    return torch.einsum("u,uts->ts", of_u, torch.cos(2 * math.pi / num_segments * u[:, None, None] * delay)) / len(u)


class KeyFrameReading(nn.Module):
    """The change of normalised key frames [B, T, 3, H, W] before a network sees them.

    X' = X + c (G X - X), where G takes the static part away (`floor` of it is left) and c is the clip's confidence:
    a still clip and T = 1 pass unchanged. Differences inside a segment are those of the frames as they are, since all
    K frames of a segment are corrected alike.
    """

    def __init__(
        self,
        reading: Reading = "raw",
        *,
        to: ReadingTo = "frames",
        saliency: SaliencyConfig | None = None,
        std: tuple[float, ...] = Trunk.std,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.reading, self.causal, self.std = reading, causal, std
        self.place: ReadingTo = "frames" if reading == "raw" else to
        self.config = saliency or SaliencyConfig()
        if reading == "learned":
            self.gain = nn.Parameter(torch.cat((torch.zeros(1), torch.ones(KNOTS))))  # starts as `without_scene`

    def frames(self, key: Tensor, memory: Memory | None = None) -> Tensor:
        """Input of the trunk's stem: [N, 3, H, W], or [N, 6, H, W] for a stem of both."""
        if self.reading == "raw" or self.place == "differences":
            return key.flatten(0, 1)
        changed = self(key, memory)
        return (torch.cat((key, changed), 2) if self.place == "stem" else changed).flatten(0, 1)

    def beside_differences(self, key: Tensor, memory: Memory | None = None) -> Tensor | None:
        """More channels for the path of differences, [N, 3, H/2, W/2], or None."""
        if self.reading == "raw" or self.place != "differences":
            return None
        return half_size(self(key, memory)).flatten(0, 1)

    def forward(self, key: Tensor, memory: Memory | None = None) -> Tensor:
        """[B, T, 3, H, W] -> the same shape."""
        if self.reading == "learned":
            changed = torch.einsum("ts,bschw->btchw", frequency_gain(self.gain, key.shape[1]).to(key.dtype), key)
            return key + clip_confidence(key - mean_frame(key), self.config, std=self.std) * (changed - key)
        causal = self.causal
        static = median_frame(key) if self.reading == "median" else mean_frame(key, causal=causal, memory=memory)
        sure = clip_confidence(key - static, self.config, std=self.std, causal=causal, memory=memory)
        return key - sure * (1 - self.config.scene) * static


def beside(differences: Tensor, frames: Tensor | None) -> Tensor:
    """Differences [N, C, h, w] and, where there are any, frames [N, 3, h, w] as more channels of them."""
    return differences if frames is None else torch.cat((differences, frames), 1)


def widen_stem_(trunk: Trunk) -> None:
    """Let the trunk's first convolution see raw and changed key frames, six channels; each with half of its weights."""
    first = next(m for layer in trunk.stem_layers() for m in layer.modules() if isinstance(m, nn.Conv2d))
    first.weight = nn.Parameter(first.weight.detach().repeat(1, 2, 1, 1) / 2)
    first.in_channels *= 2


def exchange_scenes(frames: Tensor, *, share: float, key: int) -> Tensor:
    """Give about `share` of the clips of a batch the static part of the next clip: an augmentation.

    uint8 frames [B, T, K, 3, H, W] -> the same; the static part is the mean of the key frames. Clipped to 0..255.
    """
    if not share or len(frames) < 2:
        return frames
    static = mean_frame(frames[:, :, key].float())[:, :, None]  # [B, 1, 1, 3, H, W]
    other = static.roll(1, 0)
    chosen = (torch.rand(len(frames), device=frames.device) < share).view(-1, *(1,) * 5)
    moved = (frames + torch.where(chosen, other - static, 0.0)).round_().clamp_(0, 255)
    return moved.to(frames.dtype)
