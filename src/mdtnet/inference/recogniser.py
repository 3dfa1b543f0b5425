"""A trained network that names what videos show: `Recogniser.load(checkpoint).predict(source)`."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mdtnet.checkpoint import load_model
from mdtnet.config import RunConfig, TestConfig
from mdtnet.data.annotations import Texts, VideoList
from mdtnet.data.dataset import ClipDataset
from mdtnet.errors import ConfigError, VideoError
from mdtnet.hub import HubMixin
from mdtnet.inference.prediction import Prediction, Predictor, check_choice, chosen
from mdtnet.models.folding import folded
from mdtnet.models.network import Network


class Recogniser(Predictor, HubMixin):
    """A network with everything around it that a video needs: sampling, resizing, crops, names of classes.

    Video files and folders of frames are read as in the test the network was made for. `from_pretrained`,
    `save_pretrained` and `push_to_hub` are the Hugging Face Hub's, for local folders too. Predictions come from a
    copy of `model` with batch norms folded.
    """

    def __init__(self, model: Network, *, classes: Sequence[str], config: RunConfig, device: str = "auto") -> None:
        self.device = _device(device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()  # quicker
        self._quick = folded(self.model)
        self.classes = tuple(classes)
        self.config = config

    @classmethod
    def load(cls, checkpoint: str | Path, *, device: str = "auto") -> "Recogniser":
        """Read a checkpoint; `device` is `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, ...

        Raises:
            CheckpointError: the file is missing, is no checkpoint, or does not fit its network.
            ConfigError: the device is not there.
        """
        _device(device)  # before a large file is read
        model = load_model(checkpoint)
        return cls(model, classes=model.classes, config=model.config, device=device)

    def predict_many(
        self,
        sources: Iterable[str | Path],
        *,
        topk: int = 5,
        threshold: float | None = None,
        clips: int = 1,
        crops: int = 1,
        workers: int = 0,
    ) -> Iterator[Prediction]:
        """Predictions one by one, in the order of the sources.

        A video that cannot be read gives a prediction with `error` and does not stop the others. `workers`
        processes read ahead.

        Raises:
            ConfigError: `topk`, `threshold`, `clips` or `crops` is out of range.
        """
        check_choice(topk, threshold)
        paths = [os.fspath(source) for source in sources]
        dataset = self._dataset(paths, clips, crops)
        return self._predictions(paths, DataLoader(dataset, batch_size=None, num_workers=workers), topk, threshold)

    def read(self, source: str | Path, *, clips: int = 1, crops: int = 1) -> Tensor:
        """What the network is given of a video: uint8 views [V, T, K, 3, S, S], V = `clips` * `crops`.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `clips` or `crops` is out of range.
        """
        path = os.fspath(source)
        item = self._dataset([path], clips, crops)[0]
        if item["error"]:
            raise VideoError(path, item["error"])
        return item["frames"]

    def _dataset(self, paths: list[str], clips: int, crops: int) -> ClipDataset:
        if clips < 1:
            raise ConfigError(f"clips is {clips}, expected at least 1")
        if crops not in (1, 3):
            raise ConfigError(f"crops is {crops}, expected 1 or 3")
        same_crops = crops == self.config.test.crops
        test = TestConfig(clips=clips, crops=crops, crop_size=self.config.test.crop_size if same_crops else 0)  # type: ignore[arg-type]
        count = len(paths)
        videos = VideoList(self.classes, np.zeros(count, dtype=np.int64), "", Texts.of(paths), np.arange(count))
        data = replace(self.config.data, cache="", backend="auto")  # the training machine's own matters
        return ClipDataset(
            videos,
            data,
            frames_per_segment=self.model.frames_per_segment,
            train=False,
            test=test,
        )

    def _predictions(
        self, paths: list[str], items: Iterable[dict], topk: int, threshold: float | None
    ) -> Iterator[Prediction]:
        before = time.perf_counter()
        for path, item in zip(paths, items):
            best: list[tuple[float, int]] = []
            if not item["error"]:
                values = self._probabilities(item["frames"]).numpy()
                best = [(float(values[i]), int(i)) for i in chosen(values, topk=topk, threshold=threshold)]
            now = time.perf_counter()
            yield Prediction(
                path=path,
                classes=tuple(self.classes[i] for _, i in best),
                probabilities=tuple(value for value, _ in best),
                seconds=now - before,
                error=item["error"],
            )
            before = time.perf_counter()

    @torch.inference_mode()
    def _probabilities(self, views: Tensor) -> Tensor:
        """uint8 views [V, T, K, 3, S, S] of one video -> float64 [classes]; without `multi_label` they sum to 1."""
        chunks = views.split(self.config.test.batch_size)
        logits = torch.cat([self._quick(chunk.to(self.device)).double().cpu() for chunk in chunks])
        activated = torch.sigmoid if self.config.data.multi_label else partial(torch.softmax, dim=-1)
        if self.config.test.fusion == "logits":
            return activated(logits.mean(0))
        return activated(logits).mean(0)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device is '{name}', which is not there; expected auto, cpu, cuda, ...") from error
    return device
