"""A trained network that classifies videos: `Recogniser.load(checkpoint).predict(source)`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mdtnet.checkpoint import load_model, warn_of_segments
from mdtnet.config import Layer, RunConfig
from mdtnet.data.frames import resize
from mdtnet.errors import ConfigError
from mdtnet.hub import HubMixin
from mdtnet.inference.description import Description, check_views, describe
from mdtnet.inference.prediction import Predictor
from mdtnet.inference.shared import SharedScorer
from mdtnet.inference.sources import Source
from mdtnet.inference.views import Views, read_video
from mdtnet.models.folding import folded
from mdtnet.models.network import Network
from mdtnet.models.stream import Stream


class Recogniser(Predictor, HubMixin):
    """A network with all that a video needs on its way to a prediction: sampling, resizing, crops, names of classes.

    Video files and folders of frames are read as in the test that the network was made for. `from_pretrained`,
    `save_pretrained` and `push_to_hub` are the Hugging Face Hub's, for local folders too. Predictions come from a
    copy of `model` with batch norms folded.
    """

    def __init__(self, model: Network, *, classes: Sequence[str], config: RunConfig, device: str = "auto") -> None:
        self.device = _device(device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()  # quicker
        self._quick = folded(self.model)
        self.classes = tuple(classes)
        self.licence = model.licence
        self.config = config
        self.keeps_state = model.causal

    @classmethod
    def load(cls, checkpoint: str | Path, *, device: str = "auto", segments: int = 0) -> Self:
        """Read a checkpoint; `device` is `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ...; `segments` is
        T, 0 that of the run's own test.

        Raises:
            CheckpointError: the file is missing, is no checkpoint, or does not fit its network.
            ConfigError: the device is not there, or `segments` is negative.
        """
        _device(device)  # before a large file is read
        if segments < 0:
            raise ConfigError(f"segments is {segments}, expected at least 0")
        model = load_model(checkpoint)
        config = model.config
        if segments:
            warn_of_segments(model, segments, where=str(checkpoint))
            config = replace(config, test=replace(config.test, segments=segments))
        return cls(model, classes=model.classes, config=config, device=device)

    def video(self, source: Source, *, clips: int = 1, crops: int = 1, bgr: bool = False) -> Views:
        """The views of a video that the network sees, V = `clips` * `crops`, and its damage.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `clips` or `crops` is out of range.
        """
        check_views(clips, crops)
        frames = self.model.frames_per_segment
        description = describe(self.config, classes=self.classes, frames_per_segment=frames, crops=crops)
        return read_video(source, description, clips=clips, crops=crops, bgr=bgr, resize=resize)

    @property
    def description(self) -> Description:
        """All that lies between a video and the network, in a test of one crop."""
        frames, seconds = self.model.frames_per_segment, self.model.clip_seconds
        return describe(self.config, classes=self.classes, frames_per_segment=frames, clip_seconds=seconds)

    def read(self, source: Source, *, clips: int = 1, crops: int = 1) -> Tensor:
        """`views` as a tensor in the order of the network, uint8 [V, T, K, 3, S, S]."""
        return torch.from_numpy(self.views(source, clips=clips, crops=crops)).movedim(-1, 3)

    @torch.inference_mode()
    def step(self, segments: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        stream = Stream(self._quick, num_segments=self.config.test.segments or self.config.data.num_segments)
        logits, state = stream(torch.from_numpy(segments).movedim(-1, 2).to(self.device), state)
        return self._activation(logits.double()).cpu().numpy(), state

    @torch.inference_mode()
    def probabilities(self, views: np.ndarray) -> np.ndarray:
        """uint8 views [V, T, K, S, S, 3] of one video -> float64 [classes]; without `multi_label` they sum to 1."""
        chunks = torch.from_numpy(views).movedim(-1, 3).split(self.config.test.batch_size)
        logits = torch.cat([self._quick(chunk.to(self.device)).double().cpu() for chunk in chunks])
        if self.config.test.fusion == "logits":
            return self._activation(logits.mean(0)).numpy()
        return self._activation(logits).mean(0).numpy()

    @torch.inference_mode()
    def features(self, clips: np.ndarray, *, layer: Layer = "pool") -> np.ndarray:
        """uint8 clips [B, T, K, S, S, 3] -> float32 [B, C] of each clip, the mean over its segments.

        `pool` is what the classifier sees, `logits` the scores of the classes before softmax or sigmoid.
        """
        seen: list[Tensor] = []
        with self._quick.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            logits = self._quick(torch.from_numpy(clips).movedim(-1, 3).to(self.device))
        pooled = seen[0].unflatten(0, (len(clips), -1)).mean(1)
        return (logits if layer == "logits" else pooled).float().cpu().numpy()

    def _activation(self, logits: Tensor) -> Tensor:
        return logits.sigmoid() if self.config.data.multi_label else logits.softmax(-1)

    def scorer(self) -> SharedScorer:
        return SharedScorer(self._quick, self.description, self._activation)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device is '{name}', which is not there; expected auto, cpu, cuda, ...") from error
    return device
