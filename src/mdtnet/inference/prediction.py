"""What a prediction is, and which videos are meant: what networks with and without torch share."""

import glob
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mdtnet.data.suffixes import is_image, is_video
from mdtnet.errors import ConfigError, DataError, VideoError
from mdtnet.files import check_file

NOTHING = "no class is as probable as that"


@dataclass(frozen=True)
class Prediction:
    """What a video most likely shows; `str()` is one readable line."""

    path: str
    """The source."""
    classes: tuple[str, ...]
    """Names of the best classes, the most probable first; empty where the video could not be read, or where none of
    them reaches a threshold that was asked for."""
    probabilities: tuple[float, ...]
    """Their probabilities, 0 to 1."""
    seconds: float
    """Time taken, reading and computing."""
    error: str = ""
    """Why the video could not be read; empty where it could."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values fit for JSON."""
        best = [{"class": name, "probability": p} for name, p in zip(self.classes, self.probabilities)]
        return {"path": self.path, "predictions": best, "seconds": self.seconds, "error": self.error or None}

    def __str__(self) -> str:
        best = ", ".join(f"{name} {100 * p:.1f} %" for name, p in zip(self.classes, self.probabilities))
        return f"{self.path}: {self.error or best or NOTHING}"


class Predictor(ABC):
    """What a network with and one without torch have in common for their user."""

    @abstractmethod
    def predict_many(
        self,
        sources: Iterable[str | Path],
        *,
        topk: int = 5,
        threshold: float | None = None,
        clips: int = 1,
        crops: int = 1,
    ) -> Iterator[Prediction]:
        """Predictions in the order of the sources; a video that cannot be read gives one with `error`."""

    def predict(
        self,
        source: str | Path,
        *,
        topk: int = 5,
        threshold: float | None = None,
        clips: int = 1,
        crops: int = 1,
    ) -> Prediction:
        """What one video shows; `clips` * `crops` views of it are averaged.

        Of the classes it has the `topk` best, or all with at least the probability `threshold`.

        Raises:
            VideoError: the video cannot be read.
            ConfigError: `topk`, `threshold`, `clips` or `crops` is out of range.
        """
        (prediction,) = self.predict_many([source], topk=topk, threshold=threshold, clips=clips, crops=crops)
        if prediction.error:
            raise VideoError(prediction.path, prediction.error)
        return prediction


def check_choice(topk: int, threshold: float | None) -> None:
    """See that they are in range.

    Raises:
        ConfigError: they are not.
    """
    if topk < 1:
        raise ConfigError(f"topk is {topk}, expected at least 1")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold is {threshold}, expected a probability, 0 to 1")


def chosen(probabilities: np.ndarray, *, topk: int, threshold: float | None) -> np.ndarray:
    """The classes to tell, the most probable first: the best `topk`, or all that reach `threshold`."""
    order = np.argsort(-probabilities, kind="stable")
    return order[:topk] if threshold is None else order[probabilities[order] >= threshold]


def expand_sources(sources: Iterable[str | Path]) -> list[str]:
    """Files, folders and glob patterns -> videos, each once; sorted within a folder or a pattern.

    A folder stands for the videos in it and in the folders below it, or, where it holds images, for itself: a
    video as a folder of frames. A file is taken whatever its extension, even a missing one: reading it tells
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
    found = []
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        videos = sorted(name for name in files if is_video(name))
        if not videos and any(map(is_image, files)):
            found.append(path)
        found += [os.path.join(path, name) for name in videos]
    if not found:
        raise DataError(f"{folder}: no videos in this folder or below it")
    return found


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


def write_json(predictions: Iterable[Prediction], out: str | Path) -> None:
    """Write a list of predictions as JSON; a crash leaves the old file or the new one.

    Raises:
        ConfigError: `out` is a folder, or its folder is not there.
    """
    out = Path(out)
    check_file(out)
    text = json.dumps([prediction.to_dict() for prediction in predictions], indent=1, ensure_ascii=False)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.write_bytes(text.encode("utf-8", "replace"))
    os.replace(temporary, out)
