"""Predictions, and the base class of all that predict; without torch."""

import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np

from mdtnet.config import TimelineConfig
from mdtnet.errors import ConfigError, VideoError
from mdtnet.inference.description import check_views
from mdtnet.inference.sources import Source, name_of
from mdtnet.inference.timeline import Scorer, Timeline, make_timeline
from mdtnet.inference.views import Views
from mdtnet.system.files import atomic_write, check_file

Item = TypeVar("Item")
T = TypeVar("T")

NOTHING = "no class is as probable as that"


Best = TypedDict("Best", {"class": str, "probability": float})


class PlainPrediction(TypedDict):
    """A prediction as plain values, fit for JSON."""

    path: str
    predictions: list[Best]
    """The most probable class first."""
    seconds: float
    error: str | None
    damaged: str | None


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one video; `str()` is one readable line."""

    path: str
    """The source."""
    classes: tuple[str, ...]
    """Names of the best classes, the most probable first; empty where the video could not be read, or where none of
    them reaches a threshold that was asked for."""
    probabilities: tuple[float, ...]
    """Their probabilities, 0 to 1."""
    seconds: float
    """Time for reading and computing."""
    error: str = ""
    """Why the video could not be read; empty where it could."""
    damaged: str = ""
    """`2 of 120 frames`: damaged, lost, or missing at the end; empty where none is."""

    def to_dict(self) -> PlainPrediction:
        """The same as plain values, fit for JSON."""
        best: list[Best] = [{"class": name, "probability": p} for name, p in zip(self.classes, self.probabilities)]
        return {
            "path": self.path,
            "predictions": best,
            "seconds": self.seconds,
            "error": self.error or None,
            "damaged": self.damaged or None,
        }

    def __str__(self) -> str:
        best = ", ".join(f"{name} {100 * p:.1f} %" for name, p in zip(self.classes, self.probabilities))
        damage = f" (damaged: {self.damaged})" if self.damaged else ""
        return f"{self.path}: {self.error or best or NOTHING}{damage}"


class Predictor(ABC):
    """A network with all that a video needs on its way to a prediction: `predict` of one, `predict_many` of several."""

    classes: tuple[str, ...]
    """Names of the classes, in the order of `probabilities`."""
    licence: str = ""
    """Licence of its code and terms of its data, where it has a name of the zoo."""

    keeps_state: bool = False
    """Whether `step` takes streams: the network is causal."""

    @abstractmethod
    def step(self, segments: np.ndarray, state: Any = None) -> tuple[np.ndarray, Any]:
        """The next segments of B streams, uint8 [B, K, S, S, 3] -> probabilities [B, classes] and the new state.

        `state` is what the step before gave; None at the beginning. The answer is that on the clip of all segments so
        far, by the mean of the last T segments' scores.

        Raises:
            ConfigError: the network looks ahead (`keeps_state` is false).
        """

    @abstractmethod
    def video(self, source: Source, *, clips: int = 1, crops: int = 1, bgr: bool = False) -> Views:
        """The views of a video that the network sees, V = `clips` * `crops`, and its damage.

        `bgr` says that frames given as arrays have blue first.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `clips` or `crops` is out of range.
        """

    def views(self, source: Source, *, clips: int = 1, crops: int = 1) -> np.ndarray:
        """The pixels of `video`: uint8 [V, T, K, S, S, 3]."""
        return self.video(source, clips=clips, crops=crops).pixels

    @abstractmethod
    def probabilities(self, views: np.ndarray) -> np.ndarray:
        """`views` of one video -> float64 [classes]; they sum to 1, unless trained with `data.multi_label`."""

    @abstractmethod
    def scorer(self) -> Scorer:
        """What classifies the windows of long videos, one video after the other."""

    def timeline(self, source: Source, config: TimelineConfig | None = None) -> Timeline:
        """What happens when in a long video: `.segments` with a start and an end, and the scores of its windows.

        Raises:
            VideoError: the video cannot be read, or is a stream, a part of a video or a folder of frames.
            ConfigError: an option is out of its range, or the length of windows is not known.
        """
        return make_timeline(source, self.scorer(), config)

    def predict(
        self,
        source: Source,
        *,
        topk: int = 5,
        threshold: float | None = None,
        clips: int = 1,
        crops: int = 1,
        bgr: bool = False,
    ) -> Prediction:
        """Classify one video by the mean of `clips` * `crops` views.

        A source is a path, an address, a camera's number, a `Part` of a video, bytes, an open file, or frames: uint8
        RGB [N, H, W, 3] or a list of [H, W, 3], blue first with `bgr`.

        The prediction has the `topk` best classes, or all with at least the probability `threshold`.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `topk`, `threshold`, `clips` or `crops` is out of range.
        """
        (prediction,) = self.predict_many([source], topk=topk, threshold=threshold, clips=clips, crops=crops, bgr=bgr)
        if prediction.error:
            raise VideoError(prediction.path, prediction.error)
        return prediction

    def predict_many(
        self,
        sources: Iterable[Source],
        *,
        topk: int = 5,
        threshold: float | None = None,
        clips: int = 1,
        crops: int = 1,
        workers: int = 0,
        bgr: bool = False,
    ) -> Iterator[Prediction]:
        """Predictions one by one, in the order of the sources.

        A video that cannot be read gives a prediction with `error` and does not stop the others. `workers` threads
        read ahead, one video each.

        Raises:
            ConfigError: `topk`, `threshold`, `clips`, `crops` or `workers` is out of range.
        """
        check_choice(topk, threshold)
        check_views(clips, crops)
        if workers < 0:
            raise ConfigError(f"workers is {workers}, expected 0 or more")

        def read(source: Source) -> tuple[str, Views | VideoError]:
            try:
                return name_of(source), self.video(source, clips=clips, crops=crops, bgr=bgr)
            except VideoError as error:
                return name_of(source), error

        return self._predictions(read_ahead(read, sources, workers), topk, threshold)

    def _predictions(
        self, videos: Iterable[tuple[str, Views | VideoError]], topk: int, threshold: float | None
    ) -> Iterator[Prediction]:
        before = time.perf_counter()
        for path, views in videos:
            error, damage, order, values = "", "", np.empty(0, dtype=np.int64), np.empty(0)
            if isinstance(views, VideoError):
                error = views.reason
            else:
                values, damage = self.probabilities(views.pixels), views.damage
                order = best_classes(values, topk=topk, threshold=threshold)
            yield Prediction(
                path=path,
                classes=tuple(self.classes[i] for i in order),
                probabilities=tuple(values[order].tolist()),
                seconds=time.perf_counter() - before,
                error=error,
                damaged=damage,
            )
            del views  # before the next is read: the views of one video can be hundreds of MB
            before = time.perf_counter()


def read_ahead(read: Callable[[Item], T], items: Iterable[Item], workers: int) -> Iterator[T]:
    """`read` of each item, in order; `workers` threads are that many items ahead, 0 reads when asked."""
    if not workers:
        yield from map(read, items)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def check_choice(topk: int, threshold: float | None) -> None:
    """Check which classes are asked for.

    Raises:
        ConfigError: `topk` or `threshold` is out of range.
    """
    if topk < 1:
        raise ConfigError(f"topk is {topk}, expected at least 1")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}, expected a probability, 0 to 1")


def best_classes(probabilities: np.ndarray, *, topk: int, threshold: float | None) -> np.ndarray:
    """Indices of the best `topk` classes, or of all that reach `threshold`, the most probable first."""
    order = np.argsort(-probabilities, kind="stable")
    return order[:topk] if threshold is None else order[probabilities[order] >= threshold]


def write_json(rows: Iterable[Mapping[str, object]], out: str | Path) -> None:
    """Write predictions (`Prediction.to_dict`, perhaps with more keys) as JSON.

    A crash leaves the old file or the new one.

    Raises:
        ConfigError: `out` is a folder, or its folder is not there.
    """
    out = Path(out)
    check_file(out)
    text = json.dumps(list(rows), indent=1, ensure_ascii=False)
    atomic_write(out, lambda file: file.write(text.encode("utf-8", "replace")))
