"""Predictions, the base class of all that predict, and which videos a source stands for; without torch."""

import glob
import json
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np

from mdtnet.data.folders import find_videos
from mdtnet.data.suffixes import is_image, is_video
from mdtnet.errors import ConfigError, DataError, VideoError
from mdtnet.inference.description import check_views
from mdtnet.inference.views import Views
from mdtnet.system.files import atomic_write, check_file

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

    @abstractmethod
    def video(self, source: str | Path, *, clips: int = 1, crops: int = 1) -> Views:
        """The views of a video that the network sees, V = `clips` * `crops`, and its damage.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `clips` or `crops` is out of range.
        """

    def views(self, source: str | Path, *, clips: int = 1, crops: int = 1) -> np.ndarray:
        """The pixels of `video`: uint8 [V, T, K, S, S, 3]."""
        return self.video(source, clips=clips, crops=crops).pixels

    @abstractmethod
    def probabilities(self, views: np.ndarray) -> np.ndarray:
        """`views` of one video -> float64 [classes]; they sum to 1, unless trained with `data.multi_label`."""

    def predict(
        self,
        source: str | Path,
        *,
        topk: int = 5,
        threshold: float | None = None,
        clips: int = 1,
        crops: int = 1,
    ) -> Prediction:
        """Classify one video by the mean of `clips` * `crops` views.

        The prediction has the `topk` best classes, or all with at least the probability `threshold`.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `topk`, `threshold`, `clips` or `crops` is out of range.
        """
        (prediction,) = self.predict_many([source], topk=topk, threshold=threshold, clips=clips, crops=crops)
        if prediction.error:
            raise VideoError(prediction.path, prediction.error)
        return prediction

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

        A video that cannot be read gives a prediction with `error` and does not stop the others. `workers` threads
        read ahead, one video each.

        Raises:
            ConfigError: `topk`, `threshold`, `clips`, `crops` or `workers` is out of range.
        """
        check_choice(topk, threshold)
        check_views(clips, crops)
        if workers < 0:
            raise ConfigError(f"workers is {workers}, expected 0 or more")

        def read(path: str) -> tuple[str, Views | VideoError]:
            try:
                return path, self.video(path, clips=clips, crops=crops)
            except VideoError as error:
                return path, error

        paths = (os.fspath(source) for source in sources)
        return self._predictions(read_ahead(read, paths, workers), topk, threshold)

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


def read_ahead(read: Callable[[str], T], paths: Iterable[str], workers: int) -> Iterator[T]:
    """`read` of each path, in order; `workers` threads are that many paths ahead, 0 reads when asked."""
    if not workers:
        yield from map(read, paths)
        return
    pool = ThreadPoolExecutor(workers)
    waiting: deque[Future[T]] = deque()
    try:
        for path in paths:
            waiting.append(pool.submit(read, path))
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


def expand_sources(sources: Iterable[str | Path]) -> list[str]:
    """Files, folders and glob patterns -> videos, each once; sorted within a folder or a pattern.

    A folder stands for the videos in it and in the folders below it, behind links too, or, where it holds images, for
    itself: a video as a folder of frames. A file counts whatever its extension, even a missing one: reading it shows
    what is wrong.

    Raises:
        DataError: a folder without videos, a pattern that nothing matches, or no source at all.
    """
    found: list[str] = []
    for source in (os.fspath(source) for source in sources):
        if os.path.isdir(source):
            found += _in_folder(source)
        elif glob.has_magic(source) and not os.path.exists(source):
            found += _matching(source)
        else:
            found.append(source)
    if not found:
        raise DataError("no videos given: expected files, folders or patterns such as clips/*.mp4")
    return list(dict.fromkeys(found))


def _in_folder(folder: str) -> list[str]:
    try:
        found = find_videos(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    if not found.videos:
        only = f", only {found.left_out()}" if found.others else ""
        raise DataError(f"{folder}: no videos in this folder or below it{only}")
    return [folder if name == "." else os.path.join(folder, name) for name in found.videos]


def _matching(pattern: str) -> list[str]:
    matches = sorted(glob.glob(pattern, recursive=True))
    videos = [path for path in matches if os.path.isfile(path) and is_video(path)]
    frames = [path for path in matches if os.path.isdir(path) and _holds_images(path)]
    if not videos and not frames:
        other = f"; {len(matches)} other files match" if matches else ""
        raise DataError(f"{pattern}: no video matches this pattern{other}")
    return sorted(videos + frames)


def _holds_images(folder: str) -> bool:
    return any(map(is_image, os.listdir(folder)))


def write_json(predictions: Iterable[Prediction], out: str | Path, *, licence: str = "") -> None:
    """Write a list of predictions as JSON, each with the `licence` if there is one.

    A crash leaves the old file or the new one.

    Raises:
        ConfigError: `out` is a folder, or its folder is not there.
    """
    out = Path(out)
    check_file(out)
    about = {"licence": licence} if licence else {}
    rows = [{**prediction.to_dict(), **about} for prediction in predictions]
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    atomic_write(out, lambda file: file.write(text.encode("utf-8", "replace")))
