"""A network and one video, as explanations need them: the clip that it sees, and what it says.

Letters: T segments, K frames per segment, S pixels of the square crop.
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mdtnet.data.container import Part
from mdtnet.data.frames import resize
from mdtnet.data.retries import with_retries
from mdtnet.data.video import Request, read_frames
from mdtnet.inference.description import Description, describe
from mdtnet.inference.prediction import Prediction
from mdtnet.inference.recogniser import Recogniser
from mdtnet.inference.views import clip_table, read_views
from mdtnet.models.saliency import frames_saliency

SALIENT_FRAMES = 5  # of a segment, for networks that see fewer than motion needs


@dataclass(frozen=True, eq=False)
class Subject:
    """A network, its clip of the video, and its prediction."""

    path: str
    """Of the checkpoint."""
    source: str
    network: Recogniser
    clip: Tensor
    """uint8 [1, T, K, 3, S, S]."""
    prediction: Prediction
    """With all classes."""

    @classmethod
    def of(cls, path: str | Path, source: str | Path, device: str) -> "Subject":
        """Load a checkpoint, read the video, and classify it.

        Raises:
            CheckpointError, VideoError: a file cannot be read.
            ConfigError: the device is not there.
        """
        network = Recogniser.load(path, device=device)
        prediction = network.predict(source, topk=len(network.classes))
        return cls(os.fspath(path), os.fspath(source), network, network.read(source), prediction)

    @property
    def name(self) -> str:
        """The run's folder, the system and its trunk, in two lines."""
        file = Path(self.path).absolute()
        run = file.parent.parent.name if file.parent.name == "checkpoints" else file.stem
        return f"{run}\n{self.network.config.model.name} on {self.network.config.model.trunk}"

    @property
    def device_clip(self) -> Tensor:
        """`clip` where the network is."""
        return self.clip.to(self.network.device)

    def key_frames(self, segments: np.ndarray) -> np.ndarray:
        """uint8 RGB [n, S, S, 3]."""
        return self.clip[0, segments, self.network.model.key_frame].movedim(1, -1).numpy()

    @cached_property
    def frame_numbers(self) -> np.ndarray:
        """Which frames of the video the key frames are, from 0, [T]; with `data.fps`, frames at that rate."""
        about = self._description()
        request = Request(lambda n: np.zeros(1, dtype=np.int64), fps=about.fps, frame_pattern=about.frame_pattern)
        count = with_retries(lambda: read_frames(Part(self.source), request)).num_frames
        numbers: np.ndarray = clip_table(count, about)[0, :, self.network.model.key_frame]
        return numbers

    @cached_property
    def salience(self) -> np.ndarray:
        """Salience of each segment in the crop, float32 [T, S, S] in [0, 1], by the options of the network's config."""
        clip = self.clip
        if clip.shape[2] < 2:  # read more frames around the same moments
            about = replace(self._description(), frames_per_segment=SALIENT_FRAMES)
            clip = torch.from_numpy(read_views(self.source, about, resize=resize)).movedim(-1, 3)
        return frames_saliency(clip, self.network.config.model.saliency)[0].numpy()

    def _description(self) -> Description:
        network = self.network
        return describe(network.config, classes=network.classes, frames_per_segment=network.model.frames_per_segment)


def spread(count: int, columns: int) -> np.ndarray:
    """Indices of the segments (or pairs) that are shown: `columns` of `count`, evenly spread; 0: all."""
    shown = min(columns or count, count)
    return (2 * np.arange(shown) + 1) * count // (2 * shown)
