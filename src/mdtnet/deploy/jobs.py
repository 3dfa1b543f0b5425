"""One video -> one row, as a function that any engine can call: the network is loaded once per process."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, cast

from mdtnet.config import Values
from mdtnet.data.container import Part
from mdtnet.data.suffixes import is_video
from mdtnet.errors import DataError
from mdtnet.inference.prediction import Prediction
from mdtnet.inference.sources import name_of, scheme_of

if TYPE_CHECKING:
    from mdtnet.deploy.exported import ExportedRecogniser
    from mdtnet.inference.recogniser import Recogniser


@dataclass
class Predict:
    """Classifies a video per call; options are those of `mdtnet predict`."""

    checkpoint: str
    device: str = "auto"
    segments: int = 0
    topk: int = 5
    threshold: float | None = None
    clips: int = 1
    crops: int = 1

    @cached_property
    def model(self) -> "Recogniser | ExportedRecogniser":
        """The network, read when it is first asked for."""
        from mdtnet.deploy.load import load

        return load(self.checkpoint, device=self.device, segments=self.segments)

    def __getstate__(self) -> dict[str, object]:
        """Without the network: each process reads its own."""
        return {key: value for key, value in vars(self).items() if key != "model"}

    def about(self) -> Values:
        """Settings that all rows share."""
        named = ("segments", "topk", "threshold", "clips", "crops")
        return {"verb": "predict", **identity(self.checkpoint), **{name: getattr(self, name) for name in named}}

    def many(self, items: Mapping[str, Part], *, ahead: int) -> Iterator[tuple[str, Values]]:
        """Name and row of each video, in this process; `ahead` threads read."""
        found = self.model.predict_many(
            items.values(),
            topk=self.topk,
            threshold=self.threshold,
            clips=self.clips,
            crops=self.crops,
            workers=ahead,
        )
        about: Values = {"licence": self.model.licence} if self.model.licence else {}
        for name, prediction in zip(items, found, strict=True):
            yield name, cast("Values", prediction.to_dict()) | about

    def __call__(self, item: tuple[str, Part]) -> Values:
        """The row of one video."""
        ((_, row),) = self.many(dict([item]), ahead=0)
        return row

    def failed(self, item: tuple[str, Part], reason: str) -> Values:
        """The row of a video whose process did not survive it."""
        return cast("Values", Prediction(name_of(item[1]), (), (), 0.0, error=reason).to_dict())


def identity(checkpoint: str) -> Values:
    """Name and digest of a network's file: another one under its name is other work."""
    about: Values = {"checkpoint": checkpoint}
    weights = Path(checkpoint).with_suffix(".bin") if checkpoint.endswith(".xml") else checkpoint
    if os.path.isfile(weights):
        with open(weights, "rb") as file:
            about["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return about


def stem_of(name: str, part: Part) -> str:
    """Where a video's files lie in the folder of work, without suffix: its path where that is relative and leads
    nowhere up, else the last of its path; followed by `_1-2.5` for a part in seconds."""
    text, _, times = name.rpartition("@") if not part.whole else (name, "", "")
    path = PurePath(text)
    outside = path.is_absolute() or ".." in path.parts or scheme_of(text)
    path = path.with_suffix("") if is_video(text) else path
    stem = path.name if outside else path.as_posix()
    return f"{stem}_{times}" if times else stem


def check_stems(items: Mapping[str, Part], *taken: str) -> None:
    """Check that every video has files of its own; `taken` are files that others have.

    Raises:
        DataError: two have the same, or one has one of these.
    """
    found = {Path(name).stem: name for name in taken}
    for name, part in items.items():
        if (other := found.setdefault(stem_of(name, part), name)) != name:
            raise DataError(f"{name}: its files would have the names of those of {other}: use a folder for each")
