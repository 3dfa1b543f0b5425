"""TSN: a 2D network on one frame a segment, average consensus.

Wang et al., "Temporal Segment Networks: Towards Good Practices for Deep Action Recognition", ECCV 2016.
"""

from torch import Tensor

from mdtnet.models.consensus import AverageConsensus
from mdtnet.models.memory import Memory
from mdtnet.models.network import Network
from mdtnet.models.reading import KeyFrameReading
from mdtnet.models.trunk import Timeline, Trunk, normalise


class TSN(Network):
    """Clips [B, T, 1, 3, H, W] -> logits [B, classes]. TSM and TEA differ in their trunk alone."""

    def __init__(
        self, trunk: Trunk, num_classes: int, *, dropout: float = 0.5, reading: KeyFrameReading | None = None
    ) -> None:
        super().__init__(trunk, num_classes, reading=reading)
        self.head = AverageConsensus(trunk.num_features, num_classes, dropout=dropout)

    def before_time(self, x: Tensor, memory: Memory | None = None) -> tuple[Tensor, ...]:
        """Stem and stages without temporal modules; of TSN itself all but the classifier."""
        # no name for the frames, which would keep them in memory beside the largest maps
        return (self.trunk.before_time(self.reading.frames(normalise(x[:, :, 0], self.trunk), memory)),)

    def over_time(self, features: tuple[Tensor, ...], num_segments: int, memory: Memory | None = None) -> Tensor:
        (y,) = features
        return self.head(self.trunk.over_time(y, Timeline(num_segments, memory=memory)), num_segments)
