"""A trained network whose scores another one learns beside the labels.

Letters: B clips, T segments, K frames per segment, C classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mdtnet.checkpoint import load_model
from mdtnet.errors import ConfigError
from mdtnet.models.folding import folded
from mdtnet.models.network import Network


class Teacher:
    """The network of a checkpoint, as it is; clips that are read have the frames that teacher and student need."""

    def __init__(self, checkpoint: str, student: Network, classes: Sequence[str], device: torch.device) -> None:
        """Raises CheckpointError (see `load_model`), or ConfigError where it has other classes, or another K above 1
        than the student."""
        model = load_model(checkpoint)
        if sorted(model.classes) != sorted(classes):
            odd = sorted(set(model.classes) ^ set(classes))
            raise ConfigError(
                f"train.teacher {checkpoint} has {len(model.classes)} classes, the data {len(classes)}; "
                f"{odd[0] if odd else 'a name'} is only in one of them"
            )
        self.own, self.student = (network.frames_per_segment for network in (model, student))
        if 1 not in (self.own, self.student) and self.own != self.student:
            raise ConfigError(
                f"train.teacher {checkpoint} sees {self.own} frames per segment and the student {self.student}, "
                "expected the same number, or 1 for one of them"
            )
        self.frames_per_segment = max(self.own, self.student)
        """K of the clips that are read."""
        self.key_frame = (model if self.own > 1 else student).key_frame
        self.order = [model.classes.index(name) for name in classes]
        self.model = folded(model).to(device).to(memory_format=torch.channels_last)

    def seen_by_student(self, clips: Tensor) -> Tensor:
        """uint8 [B, T, K, 3, H, W] with the student's K."""
        return self._frames(clips, self.student)

    @torch.no_grad()
    def __call__(self, clips: Tensor) -> Tensor:
        """Logits [B, C] in the order of the student's classes, of clips that were read."""
        logits: Tensor = self.model(self._frames(clips, self.own))
        return logits[:, self.order]

    def _frames(self, clips: Tensor, count: int) -> Tensor:
        return clips if count == clips.shape[2] else clips[:, :, self.key_frame : self.key_frame + 1]
