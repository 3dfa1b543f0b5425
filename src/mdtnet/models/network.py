"""The base class of every system: a trunk, a classifier, and what a clip has to hold.

Letters: B clips, T segments, K frames per segment, H, W pixels.
"""

from typing import Literal

from torch import Tensor, nn

from mdtnet.config import RunConfig
from mdtnet.models.consensus import AverageConsensus
from mdtnet.models.memory import Memory
from mdtnet.models.reading import KeyFrameReading
from mdtnet.models.trunk import Trunk


class Network(nn.Module):
    """Clips [B, T, K, 3, H, W], uint8 or normalised float -> logits [B, classes].

    With a `Memory` a causal one takes one segment (T = 1) of each of B streams, and gives that segment's logits
    (`models.stream`).

    A subclass registers its own modules between `trunk` and `head`, in the order in which they run, since optimisers
    number parameters by that order. It computes in two steps, `before_time` and `over_time`: overlapping clips can
    share the first where it sees `segments_apart`.
    """

    frames_per_segment: int = 1
    """K."""
    key_frame: int = 0
    """Index in its segment of the frame that the trunk sees, from 0."""
    causal: bool = False
    """Whether no segment sees a later one, so that a stream can be taken segment by segment."""
    num_classes: int
    reading: KeyFrameReading
    trunk: Trunk
    head: AverageConsensus
    num_segments_trained: int | None = None
    """T in training; None where it is not known."""
    pretrained: Literal["", "ImageNet", "video"] = ""
    """Kind of the weights that it started from; empty: random ones."""
    classes: tuple[str, ...] = ()
    """Class names in label order, of a network that was loaded from a checkpoint."""
    config: RunConfig
    """The run that made it, of a network that was loaded from a checkpoint."""
    clip_seconds: float = 0.0
    """Median length of the clips that it was trained on; 0: not known."""
    licence: str = ""
    """Licence of its code and terms of its data, of a network that was loaded by name."""

    def __init__(self, trunk: Trunk, num_classes: int, *, reading: KeyFrameReading | None = None) -> None:
        super().__init__()
        self.reading = reading or KeyFrameReading()
        self.num_classes = num_classes
        self.trunk = trunk

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        return self.over_time(self.before_time(x, memory), x.shape[1], memory)

    @property
    def segments_apart(self) -> bool:
        """Whether `before_time` computes each segment by itself: of clips of one segment the same as of longer ones."""
        return self.reading.reading == "raw"

    def before_time(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, ...]:
        """Clips [B, T, K, 3, H, W] -> features [B*T, ...], all that comes before the first temporal module."""
        raise NotImplementedError

    def over_time(self, features: tuple[Tensor, ...], num_segments: int, memory: Memory | None = None) -> Tensor:
        """Features [B*T, ...] from `before_time` -> logits [B, classes]."""
        raise NotImplementedError
