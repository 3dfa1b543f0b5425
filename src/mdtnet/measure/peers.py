"""What a user could pick instead: torchvision's video networks, timed and counted at their own input sizes.

Weights are random, which latency does not depend on. Accuracies are those that torchvision publishes with its weights,
at the frames, rate and number of clips that it states with them; nothing of them is measured here.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision.models import video

from mdtnet.inference.description import Description
from mdtnet.measure.cost import Cost, cost_of


class Peer(NamedTuple):
    """A network of `torchvision.models.video`, and the test that its published accuracy is from."""

    weights: str
    """Name of its class of weights, whose metadata hold the accuracy."""
    num_frames: int
    """Frames per clip."""
    fps: float
    """Frames per second that clips are drawn from."""
    num_clips: int
    """Clips per video that are averaged: its accuracy costs as many forward passes."""

    @property
    def published(self) -> Any:
        """Transforms and metadata of its weights; these are not loaded."""
        return getattr(video, self.weights).KINETICS400_V1.value

    @property
    def top1(self) -> float:
        """Accuracy on Kinetics-400 in percent, as published."""
        return self.published.meta["_metrics"]["Kinetics-400"]["acc@1"]

    @property
    def size(self) -> int:
        """Side of the square crop in pixels."""
        return self.published.transforms.keywords["crop_size"][0]


PEERS = {
    "r2plus1d_18": Peer("R2Plus1D_18_Weights", num_frames=16, fps=15, num_clips=5),
    "s3d": Peer("S3D_Weights", num_frames=128, fps=15, num_clips=1),
    "mvit_v2_s": Peer("MViT_V2_S_Weights", num_frames=16, fps=7.5, num_clips=5),
    "swin3d_t": Peer("Swin3D_T_Weights", num_frames=32, fps=15, num_clips=12),
}
"""Name in `torchvision.models.video` -> what is published of it."""


def clip_of(name: str, *, num_frames: int = 0) -> Tensor:
    """A clip as the network takes it, float [1, 3, frames, size, size]; `num_frames` 0 is its own number."""
    peer = PEERS[name]
    return torch.rand(1, 3, num_frames or peer.num_frames, peer.size, peer.size)


def built(name: str) -> nn.Module:
    """The network with random weights, for predictions: batch norms taken into the convolutions before them."""
    model = getattr(video, name)().eval()
    return fuse(model, inplace=True) if any(isinstance(m, nn.BatchNorm3d) for m in model.modules()) else model


def peer_cost(name: str, *, num_frames: int = 0) -> Cost:
    """Parameters and multiply-adds of one clip; nothing is computed."""
    with torch.device("meta"):
        model = getattr(video, name)().eval()
        return cost_of(model, clip_of(name, num_frames=num_frames))


def peer_description(name: str) -> Description:
    """What lies between a video and the network, for timing its preparation: one clip from the video's middle."""
    peer = PEERS[name]
    short_side = max(peer.size, min(peer.published.transforms.keywords["resize_size"]))
    return Description(
        system=name,
        trunk="",
        precision="float32",
        classes=tuple(peer.published.meta["categories"]),
        num_segments=1,
        frames_per_segment=peer.num_frames,
        frame_stride=1,
        sampling="consecutive",
        short_side=short_side,
        size=peer.size,
        fusion="softmax",
        fps=peer.fps,
    )
