"""Causal networks on streams: one segment at a time, at the cost of one segment.

At every segment the answer is what the same network gives of the clip of all segments so far, by the mean of the last T
segments' scores. Letters: B streams, T segments, K frames per segment, H, W pixels.
"""

import torch
from torch import Tensor, nn

from mdtnet.errors import ConfigError
from mdtnet.models.memory import Memory, State
from mdtnet.models.network import Network

CAUSAL = "tsn (with raw input), tsm with model.tsm.causal, mdtnet1 and mdtnet2 with model.mdtnet.causal"


class Stream(nn.Module):
    """A causal network that takes streams segment by segment."""

    def __init__(self, network: Network, *, num_segments: int) -> None:
        """`num_segments` is T, over whose last scores the mean is taken.

        Raises:
            ConfigError: T is below 1, or the network looks ahead.
        """
        super().__init__()
        if num_segments < 1:
            raise ConfigError(f"num_segments is {num_segments}, expected at least 1")
        check_causal(network)
        self.network, self.num_segments = network, num_segments

    def forward(self, segments: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """One segment of each of B streams [B, K, 3, H, W], uint8 or normalised -> logits [B, classes] and the state.

        `state` is what the segment before gave, None at the beginning of all streams; a stream whose rows of it are
        zeros begins anew.
        """
        memory = Memory(state, like=segments)
        scores = [self.network(segments[:, None], memory)]
        for _ in range(self.num_segments - 1):
            scores.append(memory.exchange(scores[-1]))  # zeros before the beginning
        mean = torch.stack(scores).sum(0) / (memory.seen + 1).clamp(max=self.num_segments)[:, None]
        return mean, memory.state()

    @torch.no_grad()
    def step(self, segments: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """As `forward`, without gradients: memory does not grow with the stream."""
        return self(segments, state)


def check_causal(network: Network) -> None:
    """Check that a network needs no segment that is yet to come.

    Raises:
        ConfigError: it looks ahead.
    """
    if not network.causal:
        raise ConfigError(f"this {type(network).__name__} looks ahead: a stream needs {CAUSAL}")
