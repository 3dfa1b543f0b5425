"""Windows of a long video through a network, which computes once what overlapping windows have in common.

Where a network sees its segments apart at first (`Network.segments_apart`), features of a segment are the same in
every window that has it. They are kept until no later window can have it.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mdtnet.data.frames import resize
from mdtnet.inference.description import Description
from mdtnet.inference.timeline import SHARED_FRAMES
from mdtnet.inference.views import Resize
from mdtnet.models.network import Network

Features = tuple[Tensor, ...]
"""Of one segment, each with a first dimension of 1."""


class SharedScorer:
    """A `Scorer` of a network: uint8 clips [B, T, K, S, S, 3] -> probabilities [B, C]."""

    def __init__(self, model: Network, description: Description, activation: Callable[[Tensor], Tensor]) -> None:
        self.model, self.description, self._activation = model, description, activation
        self.apart = model.segments_apart and description.exposure == "none"
        self.computed = 0
        """Segments of this video that features were computed of."""
        self._features: dict[bytes, Features] = {}

    @property
    def resize(self) -> Resize:
        """Torch's own, which is quicker."""
        return resize

    @property
    def shared(self) -> str:
        """What overlapping windows have in common, in words."""
        if not self.apart:
            return SHARED_FRAMES
        if self.model.trunk.first_temporal_stage > 4:
            return "frames, and all of the network but the mean over a window's segments"
        return "frames, and the network before its first temporal module, once per segment"

    def begin(self) -> None:
        self.computed = 0
        self._features.clear()

    @torch.inference_mode()
    def __call__(self, clips: np.ndarray, tables: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(clips).movedim(-1, 3)  # [B, T, K, 3, S, S]
        if not self.apart:
            return self._probabilities(self.model(frames.to(self._device)))
        keys = [[segment.tobytes() for segment in table] for table in tables]
        self._compute(frames, keys)
        every = [self._features[key] for own in keys for key in own]
        features = tuple(torch.cat(parts) for parts in zip(*every))
        self._features = {key: self._features[key] for key in keys[-1]}  # all that the next window can share
        return self._probabilities(self.model.over_time(features, tables.shape[1]))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _probabilities(self, logits: Tensor) -> np.ndarray:
        return self._activation(logits.double()).cpu().numpy()

    def _compute(self, frames: Tensor, keys: list[list[bytes]]) -> None:
        """Features of the segments that are new."""
        places = {key: (b, t) for b, own in enumerate(keys) for t, key in enumerate(own) if key not in self._features}
        if not places:
            return
        new = torch.stack([frames[place] for place in places.values()])[:, None]  # [n, 1, K, 3, S, S]
        new = new.movedim(-3, -1).contiguous().movedim(-1, -3)  # channels last in memory, as of whole clips
        parts = [part.split(1) for part in self.model.before_time(new.to(self._device))]
        self.computed += len(places)
        self._features |= dict(zip(places, zip(*parts)))
