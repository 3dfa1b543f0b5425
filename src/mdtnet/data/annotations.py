"""Folder of class folders, or list file -> videos and their labels.

A `VideoList` keeps columns, not objects: an index of a million videos is a few arrays that loader processes
share.
"""

import csv
import io
import logging
import os
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mdtnet.data.archive import is_there
from mdtnet.data.folders import Found, find_videos, is_system
from mdtnet.data.labels import class_counts, label_sets, label_table, label_text, nearest_class
from mdtnet.data.tables import field_of, lines_of, read_count, read_layout, read_rows, read_times
from mdtnet.errors import DataError, shorten
from mdtnet.system.files import write_text

log = logging.getLogger(__name__)
LabelReader = Callable[[str, list[str], list[int], tuple[str, ...]], tuple[tuple[str, ...], np.ndarray]]
"""`label_table` or `label_sets`."""

SHOWN = 3  # names in a message
NUM_CHECKED = 20  # rows of a list that are checked for on disk


@dataclass(frozen=True)
class Sample:
    """One video: absolute path, label from 0, part in seconds (None: all), group ("" if not given).

    The label is -1 in a list with several labels per video: `VideoList.labels` has them.
    """

    path: str
    label: int
    start: float | None = None
    end: float | None = None
    group: str = ""
    num_frames: int = 0
    """Frames that a folder must have; 0: not given."""


class Texts:
    """Many strings in one block of bytes."""

    def __init__(self, blob: bytes, offsets: np.ndarray) -> None:
        self._blob, self._offsets = blob, offsets  # offsets [N + 1]

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        blob, offsets = bytearray(), array("q", [0])
        for text in texts:
            blob += text.encode("utf-8", "surrogateescape")
            offsets.append(len(blob))
        return cls(bytes(blob), np.frombuffer(offsets, dtype=np.int64))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, i: int) -> str:
        return self._blob[self._offsets[i] : self._offsets[i + 1]].decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class VideoList:
    """Videos in columns. `videos[i]` is a `Sample`; `classes` are in label order.

    `labels` is int64 `[N]`, or bool `[N, C]` where a video can have several labels, or none: `multi_label` says which.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    root: str
    paths: Texts
    rows: np.ndarray  # int64 [N], rows of this list in `paths`, `times` and `groups`, which subsets share
    times: np.ndarray | None = None  # float64 [rows, 2], start and end in seconds, NaN: not given
    groups: Texts | None = None
    num_frames: np.ndarray | None = None  # int64 [rows], of folders of frames
    packed: Texts | None = None  # paths inside of tar files, where the videos lie; `paths` are then names alone

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Sample:
        path = _join(self.root, (self.packed or self.paths)[self.rows[i]])
        start, end = self._part(i)
        group = "" if self.groups is None else self.groups[self.rows[i]]
        num_frames = 0 if self.num_frames is None else int(self.num_frames[self.rows[i]])
        return Sample(path, -1 if self.multi_label else int(self.labels[i]), start, end, group, num_frames)

    @property
    def multi_label(self) -> bool:
        """Whether a video can have several labels."""
        return self.labels.ndim == 2

    def shows(self, label: int) -> np.ndarray:
        """Mask of the videos with this label, bool `[N]`."""
        return self.labels[:, label] if self.multi_label else self.labels == label

    def label_text(self, i: int) -> str:
        """Class name of video `i`, or its class names as in a list: `jump|wave`."""
        return label_text(self.labels[i], self.classes)

    def name(self, i: int) -> str:
        """Key of video `i` in tables: its path relative to the root, with `@start-end` where it is a part."""
        start, end = self._part(i)
        part = "" if start is None and end is None else f"@{start or 0:g}-{'' if end is None else f'{end:g}'}"
        return self.paths[self.rows[i]] + part

    def subset(self, indices: Sequence[int] | np.ndarray) -> "VideoList":
        """Videos at `indices`, in that order, with the same classes."""
        indices = np.asarray(indices, dtype=np.int64)
        return replace(self, labels=self.labels[indices], rows=self.rows[indices])

    def _part(self, i: int) -> tuple[float | None, float | None]:
        if self.times is None:
            return None, None
        start, end = self.times[self.rows[i]].tolist()
        return (None if start != start else start), (None if end != end else end)  # NaN differs from itself


def load_videos(
    path: str, *, root: str = "", classes: str | Sequence[str] = "", multi_label: bool = False, fewest: int = 2
) -> VideoList:
    """Read a folder of class folders, or a list file.

    A list file is comma, tab or space separated, with or without a header row: `path label`, `path label start end`
    (seconds, or minutes:seconds), `frame_folder num_frames label`, or `index label path`; the log says how columns
    without a header are read. Labels are numbers from 0 or names. Blank lines and lines that start with `#` are
    skipped; quotes keep separators inside a field.

    Args:
        root: folder that the paths in a list are relative to; empty: the list's own folder.
        classes: file with one class name per line, or the names themselves, in label order; empty: the names of the
            folders or the list, sorted, or its numbers.
        multi_label: a row of the list has several labels, `jump|wave`, or one, or none.
        fewest: classes that there must be.

    Raises:
        DataError: nothing there, nothing in it, or a label that is no class; the message names file, row and value.
    """
    names = read_classes(classes) if isinstance(classes, str) else tuple(classes)
    if os.path.isdir(path) and multi_label:
        raise DataError(f"{path}: folders give each video one label; multi_label needs a list file")
    if os.path.isdir(path):
        videos = _from_folder(os.path.abspath(path), names)
    elif os.path.isfile(path):
        root = os.path.abspath(root or os.path.dirname(path) or ".")
        videos = _from_list(path, root, names, label_sets if multi_label else label_table)
    else:
        raise DataError(f"{path}: no such file or folder; expected a folder of class folders or a list file")
    _warn_of_classes(path, videos)
    if len(videos.classes) < fewest:
        raise DataError(f"{path}: only one class, '{shorten(videos.classes[0])}'; at least two are needed")
    return videos


def _warn_of_classes(path: str, videos: VideoList) -> None:
    """Log classes that look like one, and those without a video."""
    spelt: dict[str, str] = {}
    for name in videos.classes:
        other = spelt.setdefault(re.sub(r"\s+", " ", unicodedata.normalize("NFKC", name)).strip().casefold(), name)
        if other != name:
            log.warning("%s: classes %r and %r differ in case, spaces or Unicode form only", path, other, name)
    if empty := empty_classes(videos):
        log.warning("%s: no video of %s", path, in_short(empty))


def empty_classes(videos: VideoList) -> list[str]:
    """Classes without a video."""
    counts = class_counts(videos.labels, len(videos.classes))
    return [name for name, count in zip(videos.classes, counts) if not count]


def in_short(names: Sequence[str]) -> str:
    """`'a', 'b' and 3 more`."""
    shown = ", ".join(repr(shorten(name)) for name in names[:SHOWN])
    return f"{shown} and {len(names) - SHOWN} more" if len(names) > SHOWN else shown


def write_list(path: str | os.PathLike, videos: VideoList, *, root: str) -> None:
    """Write a list that `load_videos` reads: `path,label` (names), and times, groups, numbers of frames and places in
    tar files if any.

    Paths are relative to `root`.
    """
    columns = ["path", "label"]
    columns += [] if videos.times is None else ["start", "end"]
    columns += [] if videos.groups is None else ["group"]
    columns += [] if videos.num_frames is None else ["num_frames"]
    columns += [] if videos.packed is None else ["packed"]
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    for i in range(len(videos)):
        sample = videos[i]
        times = () if videos.times is None else tuple("" if t is None else t for t in (sample.start, sample.end))
        group = () if videos.groups is None else (sample.group,)
        counts = () if videos.num_frames is None else (sample.num_frames or "",)
        place = _relative(sample.path, root)
        name, packed = (place, ()) if videos.packed is None else (_listed(videos.paths[videos.rows[i]]), (place,))
        rows.writerow((name, videos.label_text(i), *times, *group, *counts, *packed))
    write_text(os.fspath(path), text.getvalue())


def _join(root: str, path: str) -> str:
    """Path of a video; `..` is resolved textually, without following links, as in `_relative`."""
    return os.path.normpath(os.path.join(root, path))


def _relative(path: str, root: str) -> str:
    return _listed(os.path.relpath(path, root))


def _listed(name: str) -> str:
    """A path as it stands in a list, where a leading # would start a comment."""
    return f"./{name}" if name.startswith("#") else name


def describe(videos: VideoList) -> str:
    """One line for a log: number of videos in all and per class (with many classes: the extremes)."""
    counts = class_counts(videos.labels, len(videos.classes))
    order = np.argsort(-counts, kind="stable") if len(counts) > 20 else np.arange(len(counts))
    shown = [f"{videos.classes[c]} {counts[c]}" for c in order]
    if len(shown) > 20:
        shown = [*shown[:3], "...", *shown[-3:]]
    return f"{len(videos)} videos, {len(counts)} classes: {', '.join(shown)}"


def read_classes(path: str) -> tuple[str, ...]:
    """Class names in label order; numbers of `0 name` lines that count from 0 are removed."""
    if not path:
        return ()
    lines = [line.strip() for line in lines_of(path) if line.strip()]
    _check_utf8(path, "".join(lines))
    numbered = [re.fullmatch(r"(\d+)[\s,]+(.+)", line) for line in lines]
    if all(m and int(m[1]) == i for i, m in enumerate(numbered)):
        lines = [m[2] for m in numbered if m]
    twice = [name for name, count in Counter(lines).items() if count > 1]
    if twice:
        raise DataError(f"{path}: class '{twice[0]}' is named twice")
    if not lines:
        raise DataError(f"{path}: no class names")
    return tuple(lines)


def _from_folder(folder: str, names: tuple[str, ...]) -> VideoList:
    with os.scandir(folder) as entries:
        found = sorted(e.name for e in entries if e.is_dir() and not is_system(e.name))
    if not found:
        raise DataError(f"{folder}: no class folders in it")
    names = names or tuple(found)
    paths: list[str] = []
    labels: list[int] = []
    others: Counter[str] = Counter()
    for name in found:
        if name not in names:
            hint = nearest_class(name, names)
            raise DataError(f"{folder}: folder '{name}' is not one of the {len(names)} classes{hint}")
        try:
            inside = find_videos(os.path.join(folder, name))
        except OSError as error:
            raise DataError(f"{folder}: class folder '{name}' cannot be read: {error.strerror}") from error
        if not inside.videos:
            raise DataError(f"{folder}: class folder '{name}' has no videos{_but(inside.others)}")
        paths += [os.path.normpath(f"{name}/{video}") for video in inside.videos]
        labels += [names.index(name)] * len(inside.videos)
        others += inside.others
    if others:
        log.warning("%s: left out, not videos by their names: %s", folder, Found([], others).left_out())
    return VideoList(names, np.array(labels), folder, Texts.of(paths), np.arange(len(paths)))


def _but(others: Counter[str]) -> str:
    return f", only {Found([], others).left_out()}" if others else ""


def _from_list(path: str, root: str, names: tuple[str, ...], table: LabelReader) -> VideoList:
    layout = read_layout(path, root, multi_label=table is label_sets)
    where, what = layout.columns["path"], layout.columns["label"]
    timed = "start" in layout.columns or "end" in layout.columns
    blob, offsets, codes = bytearray(), array("q", [0]), array("q")
    texts: dict[str, int] = {}  # label as written -> code, in order of appearance
    first_row: list[int] = []  # of each code
    times, groups, packed, counts, keys = array("d"), [], [], array("q"), array("q")
    for row, fields in read_rows(path, layout):
        blob += fields[where].encode("utf-8", "surrogateescape")
        offsets.append(len(blob))
        code = texts.setdefault(fields[what], len(texts))
        if code == len(first_row):
            first_row.append(row)
            _check_utf8(path, fields[what])
        codes.append(code)
        if not timed:
            keys.append(hash(fields[where]))
        else:
            keys.append(hash((fields[where], field_of(fields, layout, "start"), field_of(fields, layout, "end"))))
            times.extend(read_times(path, row, fields, layout))
        if "group" in layout.columns:
            groups.append(field_of(fields, layout, "group"))
        if "packed" in layout.columns:
            packed.append(field_of(fields, layout, "packed") or fields[where])
        if "num_frames" in layout.columns:
            counts.append(read_count(path, row, field_of(fields, layout, "num_frames")))
    if not codes:
        raise DataError(f"{path}: the list is empty")
    paths = Texts(bytes(blob), np.frombuffer(offsets, dtype=np.int64))
    places = Texts.of(packed) if packed else None
    _check_root(path, root, places or paths)
    names, of_code = table(path, list(texts), first_row, names)
    labels = of_code[np.frombuffer(codes, dtype=np.int64)]
    parts = np.frombuffer(times, dtype=np.float64).reshape(-1, 2) if times else None
    videos = VideoList(
        *(names, labels, root, paths, np.arange(len(paths)), parts),
        groups=Texts.of(groups) if groups else None,
        num_frames=np.frombuffer(counts, dtype=np.int64) if counts else None,
        packed=places,
    )
    if videos.multi_label:
        _check_one_row_each(path, videos)
    _warn_of_repeats(path, videos, np.frombuffer(keys, dtype=np.int64))
    return videos


def _warn_of_repeats(path: str, videos: VideoList, keys: np.ndarray) -> None:
    """Log rows with a video that an earlier row has; equal `keys` are equal videos."""
    if repeats := len(keys) - len(np.unique(keys)):
        first = np.unique(keys, return_index=True)[1]
        example = int(np.setdiff1d(np.arange(len(keys)), first)[0])
        log.warning("%s: %d rows repeat a video of another row, such as %r", path, repeats, videos.name(example))


def _check_utf8(path: str, text: str) -> None:
    """Raise DataError where a class name is not text; file names may hold any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8") from error


def _check_one_row_each(path: str, videos: VideoList) -> None:
    """Raise DataError where a video has several rows: each would teach that the labels of the others are wrong."""
    first: dict[str, int] = {}
    for i in range(len(videos)):
        other = first.setdefault(videos.name(i), i)
        if (videos.labels[i] != videos.labels[other]).any():
            raise DataError(f"{path}: '{videos.name(i)}' has several rows; its labels belong in one, joined by '|'")


def _check_root(path: str, root: str, paths: Texts) -> None:
    first = [_join(root, paths[i]) for i in range(min(NUM_CHECKED, len(paths)))]
    if not any(map(is_there, first)):
        raise DataError(f"{path}: none of the first {len(first)} videos is there, looked for {shorten(first[0], 300)}")
