"""What a causal network remembers of a stream from one segment to the next, and means over the past.

Letters: B streams, or clips of T segments.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mdtnet.errors import ConfigError

State = tuple[Tensor, ...]
"""Memory of B streams between two segments: [B], the number of segments so far, then [B, ...] in the order in which the
network computes. Rows of zeros are the beginning of a stream."""


class Memory:
    """The state of B streams while one segment of each passes the network.

    Whoever looks at the past reads and writes here, in the same order at every segment.
    """

    def __init__(self, state: State | None, *, like: Tensor) -> None:
        """`state` is what `state()` gave at the segment before, None at the beginning; `like` is [B, ...]."""
        self._past: Sequence[Tensor] | None = None if state is None else state[1:]
        self.seen = torch.zeros(len(like), device=like.device) if state is None else state[0]
        """Segments before this one, [B]."""
        self._kept: list[Tensor] = []

    def exchange(self, value: Tensor) -> Tensor:
        """Keep [B, ...] for the next segment; gives what was kept at the segment before, zeros at the beginning."""
        before = self._before(value)
        self._kept.append(value)
        return before

    def mean(self, value: Tensor) -> Tensor:
        """Mean of [B, ...] over all segments so far."""
        before = self._before(value)
        mean = before + (value - before) / (self.seen + 1).view(-1, *(1,) * (value.dim() - 1))
        self._kept.append(mean)
        return mean

    def has_past(self) -> Tensor:
        """1 where there was a segment before, else 0; [B, 1, 1, 1]."""
        return self.seen.clamp(max=1).view(-1, 1, 1, 1)

    def state(self) -> State:
        """The state after this segment."""
        return (self.seen + 1, *self._kept)

    def _before(self, value: Tensor) -> Tensor:
        if self._past is None:
            return torch.zeros_like(value)
        place = len(self._kept)
        if place >= len(self._past) or self._past[place].shape != value.shape:
            raise ConfigError("this state is of another network, of another size of frames, or of other streams")
        return self._past[place]


def running_mean(x: Tensor, memory: Memory | None = None) -> Tensor:
    """Mean over the past and the present, [B, T, ...] -> the same shape; of a stream (T = 1) by its memory."""
    if memory is not None:
        return memory.mean(x)
    steps = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
    return x.cumsum(1) / steps.view(-1, *(1,) * (x.dim() - 2))
