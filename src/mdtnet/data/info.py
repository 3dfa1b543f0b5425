"""Overview of a data set: videos per class, durations, frame sizes, a contact sheet.

Durations and sizes come from headers, which is quick and near enough here; `data check` decodes everything.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from mdtnet.data.annotations import VideoList
from mdtnet.data.container import open_video, packets_of
from mdtnet.data.images import frame_files, read_image
from mdtnet.data.labels import class_counts
from mdtnet.data.video import read_clip, stamp
from mdtnet.errors import DataError, VideoError
from mdtnet.system.files import atomic_write
from mdtnet.system.terminal import plain

MAX_OPENED = 2000  # of a longer list, so many videos, spread evenly over it, are opened
MAX_TIMED = 200  # videos whose median length is taken
THUMBNAIL = (160, 120)  # width and height in pixels
PER_CLASS = 4  # pictures per class in a contact sheet
MAX_CLASSES = 40  # rows of a contact sheet
MIXED = 1.05  # ratio of frame rates that is a mixture; 29.97 beside 30 is none
SHOWN_RATES = 4
BAR = 40  # characters of the longest bar of a histogram


@dataclass(frozen=True)
class DataInfo:
    """Videos per class (`counts`); the other figures cover the `opened` videos only."""

    counts: dict[str, int]
    opened: int
    unopened: int
    seconds: np.ndarray
    """float64, durations of the videos that have one in their header."""
    sizes: Counter[tuple[int, int]]
    """(width, height) in pixels -> number of videos."""
    bytes: int
    """Total size of the opened files."""
    rates: Counter[float] = field(default_factory=Counter)
    """Frames per second, to 2 decimals -> number of videos."""
    interlaced: int = 0
    """Videos of two fields per frame."""

    def notes(self) -> list[str]:
        """Sentences on what may be wrong with the videos as they are."""
        found = []
        if self.rates and max(self.rates) > MIXED * min(self.rates):
            shown = ", ".join(f"{rate:g} ({count} videos)" for rate, count in sorted(self.rates.items())[:SHOWN_RATES])
            more = ", ..." if len(self.rates) > SHOWN_RATES else ""
            found.append(f"frames per second differ: {shown}{more}; data.fps draws clips at one rate")
        if self.interlaced:
            found.append(f"{self.interlaced} videos are interlaced: moving edges look like combs")
        return found


def data_info(videos: VideoList, *, progress: Callable[[int], None] | None = None) -> DataInfo:
    """Count videos per class and open up to MAX_OPENED of them."""
    counts = class_counts(videos.labels, len(videos.classes))
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(len(videos), MAX_OPENED)).astype(np.int64))
    seconds: list[float] = []
    sizes: Counter[tuple[int, int]] = Counter()
    rates: Counter[float] = Counter()
    opened = total = interlaced = 0
    for done, i in enumerate(chosen.tolist(), start=1):
        sample = videos[i]
        if header := _header(sample.path):
            opened += 1
            sizes[header.size] += 1
            total += stamp(sample.path)[0]
            part = (sample.end or header.seconds) - (sample.start or 0)
            seconds += [min(part, header.seconds)] if header.seconds else []
            rates.update([round(header.fps, 2)] if header.fps else [])
            interlaced += header.interlaced
        if progress:
            progress(done)
    per_class = dict(zip(videos.classes, counts.tolist()))
    return DataInfo(per_class, opened, len(chosen) - opened, np.array(seconds), sizes, total, rates, interlaced)


def median_seconds(videos: VideoList) -> float:
    """Median length of videos, or of their parts, by up to 200 of them; 0 where none says it, as folders of frames."""
    chosen = np.unique(np.linspace(0, len(videos) - 1, min(len(videos), MAX_TIMED)).astype(np.int64))
    found = []
    for sample in map(videos.__getitem__, chosen.tolist()):
        if sample.end is not None:
            found.append(sample.end - (sample.start or 0.0))
        elif (header := _header(sample.path)) and header.seconds:
            found.append(header.seconds - (sample.start or 0.0))
    return round(float(np.median(found)), 3) if found else 0.0


class _Header(NamedTuple):
    size: tuple[int, int]
    """Width and height in pixels."""
    seconds: float = 0.0
    """0: unknown."""
    fps: float = 0.0
    """0: unknown."""
    interlaced: bool = False


def _header(path: str) -> _Header | None:
    """Facts from the header and the first frame; None where they cannot be read."""
    try:
        if os.path.isdir(path):
            height, width = read_image(os.path.join(path, frame_files(path)[0])).shape[:2]
            return _Header((width, height))
        with open_video(path) as (container, stream):
            seconds = container.duration / av.time_base if container.duration else 0.0
            fps = float(stream.average_rate) if stream.average_rate else 0.0
            packets = packets_of(container, stream)
            first = next((frame for packet in packets for frame in packet.decode()), None)
            interlaced = first is not None and first.interlaced_frame
            return _Header((stream.width, stream.height), seconds, fps, interlaced)
    except (av.FFmpegError, OSError, ValueError, VideoError):
        return None


def histogram(values: np.ndarray, *, bins: int = 10) -> list[str]:
    """A text histogram, one line per bin: its range, its count, a bar. Empty for no values."""
    if not len(values):
        return []
    differ = np.ptp(values) > 1e-6  # parts of one length differ by a rounding, which no bins divide
    counts, edges = np.histogram(values, bins=bins if differ else 1)
    width = len(str(counts.max()))
    return [
        f"{a:8.2f} to {b:8.2f}  {n:>{width}}  {'█' * int(np.ceil(BAR * n / counts.max()))}"
        for a, b, n in zip(edges, edges[1:], counts)
    ]


def contact_sheet(videos: VideoList, path: str | os.PathLike) -> Path:
    """A picture with a row per class (the first MAX_CLASSES): the middle frames of PER_CLASS of its videos.

    The place of a video that cannot be read stays dark.

    Raises:
        DataError: `path` does not end in .png or .jpg, or cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise DataError(f"{path}: a contact sheet is a .png or .jpg")
    shown = [c for c in range(len(videos.classes)) if videos.shows(c).any()][:MAX_CLASSES]
    width, height = THUMBNAIL
    row = height + 16
    sheet = Image.new("RGB", (width * PER_CLASS, row * len(shown)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, label in enumerate(shown):
        draw.text((4, y * row + 2), plain(videos.classes[label]), fill="black")
        for x, i in enumerate(np.flatnonzero(videos.shows(label))[:PER_CLASS].tolist()):
            sheet.paste(_thumbnail(videos, i), (x * width, y * row + 16))
    try:
        kind = "png" if path.suffix.lower() == ".png" else "jpeg"
        atomic_write(path, lambda file: sheet.save(file, kind))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def _thumbnail(videos: VideoList, i: int) -> Image.Image:
    picture = Image.new("RGB", THUMBNAIL, (30, 30, 30))
    sample = videos[i]
    try:
        frame, _ = read_clip(sample.path, lambda n: np.array(n // 2), start=sample.start, end=sample.end)
    except VideoError:
        return picture
    image = ImageOps.contain(Image.fromarray(frame), (THUMBNAIL[0] - 2, THUMBNAIL[1] - 2))
    picture.paste(image, ((THUMBNAIL[0] - image.width) // 2, (THUMBNAIL[1] - image.height) // 2))
    return picture
