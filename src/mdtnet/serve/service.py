"""From what was sent to an answer: read in another process, classified here, with salience and timeline to show."""

import base64
import io
import math
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image

from mdtnet.config import SaliencyConfig
from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.errors import MdtnetError
from mdtnet.inference.prediction import best_classes
from mdtnet.inference.recogniser import Recogniser
from mdtnet.models.saliency import frames_saliency
from mdtnet.pages.sheet import COLOURS
from mdtnet.serve.answers import Answer, Best, Detail, LiveAnswer, Salience, Window
from mdtnet.serve.limits import Limits
from mdtnet.serve.reading import Moments, Pictures, Readout, Refusal, Unscored, Upload, read
from mdtnet.work.isolated import Failure, Pool

ACROSS = 12  # small frames side by side in one picture
MOST_OPAQUE = 0.85  # of a salient place over the frame


class NotAnswered(MdtnetError):
    """A request without an answer; `status` is the HTTP status that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Service:
    """A network and the processes that read for it; its methods may be called from several threads."""

    def __init__(self, model: Recogniser | ExportedRecogniser, limits: Limits) -> None:
        self.model, self.limits, self.description = model, limits, model.description
        self._pool: Pool[Upload | Pictures, Readout | Refusal] = Pool(read, limits.at_once)
        self._network = threading.Lock()  # one request computes with all cores, the others read meanwhile
        config = model.config.model.saliency if isinstance(model, Recogniser) else SaliencyConfig()
        self._saliency = replace(config, window="segment", normalise="segment")

    def predict(self, path: str, *, topk: int = 5, clips: int = 1, detail: bool = False) -> Answer:
        """The answer about a video file; `detail` adds salience over time, and a timeline of a long video.

        Raises:
            NotAnswered: the file cannot be read, or takes too long.
        """
        before = time.perf_counter()
        readout = self._read(Upload(path, self.description, clips, detail, self.limits.max_seconds))
        found = self._best(readout.views, topk)
        shown = None
        if moments := readout.moments:
            windows = self._timeline(readout.windows, topk) if readout.windows else []
            duration = windows[-1].end if windows else moments.duration
            shown = Detail(duration=duration, timeline=windows, salience=self._shown(moments))
        seconds = time.perf_counter() - before
        return Answer(predictions=found, damaged=readout.damage or None, detail=shown, seconds=seconds)

    def live(self, pictures: tuple[bytes, ...], *, topk: int = 5) -> LiveAnswer:
        """The answer about the last frames of a webcam, with the salience of the last.

        Raises:
            NotAnswered: a frame is no JPEG picture.
        """
        before = time.perf_counter()
        readout = self._read(Pictures(pictures, self.description))
        assert readout.moments is not None
        salience = _png(self._salience(readout.moments)[0])
        found = self._best(readout.views, topk)
        return LiveAnswer(predictions=found, salience=salience, seconds=time.perf_counter() - before)

    def close(self) -> None:
        """End the reading processes."""
        self._pool.close()

    def _read(self, task: Upload | Pictures) -> Readout:
        result = self._pool.run(task, timeout_seconds=self.limits.timeout)
        if isinstance(result, Refusal):
            raise NotAnswered(422, result.reason)
        if isinstance(result, Failure):
            raise NotAnswered(504 if result.kind == "timeout" else 422, result.detail)
        return result

    def _best(self, views: np.ndarray, topk: int) -> list[Best]:
        with self._network:
            return self._named(self.model.probabilities(views), topk)

    def _named(self, values: np.ndarray, topk: int) -> list[Best]:
        order = best_classes(values, topk=topk, threshold=None)
        return [Best.model_validate({"class": self.model.classes[i], "probability": values[i]}) for i in order]

    def _timeline(self, windows: Unscored, topk: int) -> list[Window]:
        """Scores over time, one entry per stride."""
        found, scorer, size = windows.timeline, self.model.scorer(), windows.timeline.config.batch_size
        scores = []
        for start in range(0, len(windows.clips), size):
            some = slice(start, start + size)
            with self._network:  # other requests come in between
                scores.append(scorer(windows.clips[some], found.windows.tables[some]))
        found = replace(found, probabilities=np.concatenate(scores))
        edges, cells = found.cells(found.windows.stride)
        spans = pairwise(round(edge, 3) for edge in edges.tolist())
        return [Window(start=a, end=b, predictions=self._named(cell, topk)) for (a, b), cell in zip(spans, cells)]

    def _salience(self, moments: Moments) -> np.ndarray:
        """float32 [n, h, w] in [0, 1], above the least of each moment: a map that is bright everywhere says nothing."""
        frames = torch.from_numpy(moments.frames).movedim(-1, 2)[None]  # [1, n, K, 3, h, w]
        maps = frames_saliency(frames, self._saliency)[0]
        return (maps - maps.amin((1, 2), keepdim=True)).numpy()

    def _shown(self, moments: Moments) -> Salience:
        """Small frames and their salience, side by side in rows of `ACROSS`."""
        frames = moments.frames[:, moments.frames.shape[1] // 2]
        return Salience(
            times=[round(t, 3) for t in moments.times],
            width=frames.shape[2],
            height=frames.shape[1],
            across=ACROSS,
            maps=_png(_side_by_side(self._salience(moments))),
            frames=_data_uri(Image.fromarray(_side_by_side(frames)), "jpeg", quality=85),
        )


def _side_by_side(pictures: np.ndarray) -> np.ndarray:
    """[n, h, w, ...] in rows of `ACROSS`, the last filled up with zeros."""
    rows = math.ceil(len(pictures) / ACROSS)
    filled = np.zeros((rows * ACROSS, *pictures.shape[1:]), dtype=pictures.dtype)
    filled[: len(pictures)] = pictures
    grid = filled.reshape(rows, ACROSS, *pictures.shape[1:]).swapaxes(1, 2)
    return grid.reshape(rows * pictures.shape[1], ACROSS * pictures.shape[2], *pictures.shape[3:])


def _png(salience: np.ndarray) -> str:
    """Salience [h, w] in colour as a PNG that lets still places through, as a data URI."""
    picture = Image.fromarray((salience * 255).round().astype(np.uint8)).convert("P")
    picture.putpalette(COLOURS(np.arange(256), bytes=True)[:, :3].tobytes())
    return _data_uri(picture, "png", transparency=bytes(round(MOST_OPAQUE * i) for i in range(256)))


def _data_uri(picture: Image.Image, kind: str, **options: Any) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
