"""A long video -> a row that says what happens when, and files to look at, as a function that any engine can call."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from mdtnet.config import TimelineConfig, Values
from mdtnet.data.container import Part
from mdtnet.deploy.jobs import identity, stem_of
from mdtnet.errors import VideoError
from mdtnet.inference.sources import name_of
from mdtnet.inference.timeline import Progress, Scorer, Timeline, make_timeline
from mdtnet.inference.timeline_files import PlainTimeline, srt_text, to_dict, vtt_text
from mdtnet.pages.timeline import build_timeline_page, draw_timeline
from mdtnet.system.files import make_folder, write_text

Kind = Literal["srt", "vtt", "png", "html"]
"""A file of each video; its suffix."""


@dataclass
class Watch:
    """Says what happens when in a video per call, and writes files of it; options are those of `mdtnet timeline`."""

    checkpoint: str
    config: TimelineConfig
    out: str = ""
    """Folder of the files."""
    kinds: tuple[Kind, ...] = ()
    """The files of each video."""
    device: str = "auto"
    segments: int = 0

    @cached_property
    def scorer(self) -> Scorer:
        """The network, read when it is first asked for."""
        from mdtnet.deploy.load import load

        return load(self.checkpoint, device=self.device, segments=self.segments).scorer()

    def __getstate__(self) -> dict[str, object]:
        """Without the network: each process reads its own."""
        return {key: value for key, value in vars(self).items() if key != "scorer"}

    def about(self) -> Values:
        """Settings that all rows share."""
        options = {key: value for key, value in asdict(self.config).items() if key != "batch_size"}
        return {"verb": "timeline", **identity(self.checkpoint), "segments": self.segments, **options}

    def __call__(self, item: tuple[str, Part], progress: Progress | None = None) -> Values:
        """The row of one video, once its files are written."""
        try:
            found = make_timeline(item[1], self.scorer, self.config, progress=progress)
        except VideoError as error:
            return self.failed(item, error.reason)
        row = to_dict(found)
        for kind, path in self.files(*item).items():
            make_folder(path.parent)
            WRITERS[kind](found, row, path)
        return cast("Values", row) | {"error": None}

    def files(self, name: str, part: Part) -> dict[Kind, Path]:
        """Where the files of a video are."""
        return {kind: Path(self.out, f"{stem_of(name, part)}.{kind}") for kind in self.kinds}

    def is_there(self, row: Values, items: Mapping[str, Part]) -> bool:
        """Whether the files of a video that has a row are there."""
        name = str(row["name"])
        return name not in items or all(map(os.path.exists, self.files(name, items[name]).values()))

    def failed(self, item: tuple[str, Part], reason: str) -> Values:
        """The row of a video that cannot be read, or whose process did not survive it."""
        return {"path": name_of(item[1]), "error": reason}


WRITERS: dict[Kind, Callable[[Timeline, PlainTimeline, Path], object]] = {
    "srt": lambda found, row, path: write_text(path, srt_text(row)),
    "vtt": lambda found, row, path: write_text(path, vtt_text(row)),
    "png": lambda found, row, path: draw_timeline(found, path),
    "html": lambda found, row, path: build_timeline_page(found, path),
}
