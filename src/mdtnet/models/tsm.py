"""TSM: TSN whose residual branches see 1/8 of their channels from the next and 1/8 from the previous segment.

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.
"""

import torch
from torch import Tensor, nn

from mdtnet.models.temporal import Shift
from mdtnet.models.trunk import Maker, Place, Timeline
from mdtnet.models.tsn import TSN


class TSM(TSN):
    """Clips [B, T, 1, 3, H, W] -> logits [B, classes]; its trunk is built with `shift_every` at the input."""


def causal_shift(x: Tensor, num_segments: int) -> Tensor:
    """Shift of online TSM: the first 1/8 of channels comes from t-1, zeros at the start; the others stay."""
    fold = x.shape[1] // 8
    clips = x.unflatten(0, (-1, num_segments))  # [B, T, C, H, W]
    before = torch.cat((torch.zeros_like(clips[:, :1, :fold]), clips[:, :-1, :fold]), 1)
    return torch.cat((before, clips[:, :, fold:]), 2).flatten(0, 1)


class CausalShift(nn.Module):
    """`causal_shift` as a temporal module, without parameters; of a stream it remembers the channels that go on."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        if timeline.memory is None:
            return causal_shift(x, timeline.num_segments)
        fold = x.shape[1] // 8
        before = timeline.memory.exchange(x[:, :fold].clone())  # not a view, which would keep all of x
        return torch.cat((before, x[:, fold:]), 1)


def shift_step(trunk: str) -> int:
    """n of `shift_every` in the official networks: 2 for ResNet-101, else 1."""
    return 2 if trunk == "resnet101" else 1


def shift_every(blocks: int, *, causal: bool = False) -> Maker:
    """A maker that shifts before blocks 0, n, 2n, ... of every stage; `causal` ones from the past alone."""

    def make(place: Place) -> Shift | CausalShift | None:
        if place.block % blocks:
            return None
        return CausalShift() if causal else Shift()

    return make
