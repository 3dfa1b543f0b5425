"""TSM: TSN whose residual branches see 1/8 of their channels from the next and 1/8 from the previous segment.

Lin et al., "TSM: Temporal Shift Module for Efficient Video Understanding", ICCV 2019.
"""

from mdtnet.models.temporal import Shift
from mdtnet.models.trunk import Maker, Place
from mdtnet.models.tsn import TSN


class TSM(TSN):
    """Clips [B, T, 1, 3, H, W] -> logits [B, classes]; its trunk is built with `shift_every` at the input."""


def shift_step(trunk: str) -> int:
    """n of `shift_every` in the official networks: 2 for ResNet-101, else 1."""
    return 2 if trunk == "resnet101" else 1


def shift_every(blocks: int) -> Maker:
    """A maker that shifts before blocks 0, n, 2n, ... of every stage."""

    def make(place: Place) -> Shift | None:
        return Shift() if place.block % blocks == 0 else None

    return make
