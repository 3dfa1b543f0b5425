"""The base class of every system: a trunk, a classifier, and what a clip has to hold.

Letters: B clips, T segments, K frames per segment, H, W pixels.
"""

from typing import Literal

from torch import nn

from mdtnet.config import RunConfig
from mdtnet.models.consensus import AverageConsensus
from mdtnet.models.trunk import Trunk


class Network(nn.Module):
    """Clips [B, T, K, 3, H, W], uint8 or normalised float -> logits [B, classes].

    A subclass registers its own modules between `trunk` and `head`, in the order in which they run, since optimisers
    number parameters by that order.
    """

    frames_per_segment: int = 1
    """K."""
    key_frame: int = 0
    """Index in its segment of the frame that the trunk sees, from 0."""
    num_classes: int
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
    licence: str = ""
    """Licence of its code and terms of its data, of a network that was loaded by name."""

    def __init__(self, trunk: Trunk, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.trunk = trunk
