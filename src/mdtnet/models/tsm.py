"""TSM: TSN whose residual branches see 1/8 of their channels from the next and 1/8 from the previous segment.

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mdtnet.errors import ConfigError
from mdtnet.models.temporal import Shift
from mdtnet.models.trunk import Maker, Place, Stream, Timeline, normalise
from mdtnet.models.tsn import TSN

Past = Mapping[nn.Module, Tensor]
"""Of each shift of a stream: what it keeps for the next frame, [B, C/8, H, W]."""


class TSM(TSN):
    """Clips [B, T, 1, 3, H, W] -> logits [B, classes]; its trunk is built with `shift_every` at the input.

    A causal one looks at the past alone, and `step` takes a stream frame by frame.
    """

    def step(self, frames: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """One frame of each of B streams [B, 3, H, W], uint8 or normalised -> logits [B, classes] and the new past.

        `past` is what the step before returned; None at the first frame. The mean of the logits of frames 1 to T is
        what the network computes of a clip of these T frames, in eval mode.

        Raises:
            ConfigError: the network is not causal.
        """
        stream = Stream(past or {}, {})
        timeline = Timeline(1, stream=stream)
        x = self.trunk.stem(normalise(frames, self.trunk))
        for stage in (1, 2, 3, 4):
            x = self.trunk.stage(stage, x, timeline)
        if not stream.kept:
            raise ConfigError("this TSM looks ahead: a stream needs one with model.tsm.causal")
        return self.head(self.trunk.pool(x), 1), stream.kept


def causal_shift(x: Tensor, num_segments: int) -> Tensor:
    """Shift of online TSM: the first 1/8 of channels comes from t-1, zeros at the start; the others stay."""
    fold = x.shape[1] // 8
    clips = x.unflatten(0, (-1, num_segments))  # [B, T, C, H, W]
    before = torch.cat((torch.zeros_like(clips[:, :1, :fold]), clips[:, :-1, :fold]), 1)
    return torch.cat((before, clips[:, :, fold:]), 2).flatten(0, 1)


class CausalShift(nn.Module):
    """`causal_shift` as a temporal module, without parameters; of a stream it keeps the last frame's channels."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        if timeline.stream is None:
            return causal_shift(x, timeline.num_segments)
        fold = x.shape[1] // 8
        timeline.stream.kept[self] = x[:, :fold].clone()  # not a view, which would keep all of x
        before = timeline.stream.past.get(self)
        return torch.cat((torch.zeros_like(x[:, :fold]) if before is None else before, x[:, fold:]), 1)


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
