"""List file -> rows of fields: separator, header, content of the columns.

A list is comma, tab or space separated, with a header row or without. A first row of other names than are known is a
header where the rows below it name videos and it does not.
"""

import csv
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from mdtnet.data.suffixes import is_video
from mdtnet.errors import DataError, shorten

log = logging.getLogger(__name__)

Content = Literal["path", "label", "num_frames", "start", "end", "group", "packed"]
LOOKED_AT = 50  # rows that the layout is found by
IN_WORDS: dict[Content, str] = {"num_frames": "number of frames", "start": "start s", "end": "end s"}


def _named(content: Content, *names: str) -> dict[str, Content]:
    return dict.fromkeys((content, *names), content)


COLUMN_NAMES: dict[str, Content] = {
    **_named("path", "video", "video_name", "video_path", "file", "filename", "file_name", "file_path", "filepath"),
    **_named("path", "clip", "folder", "frame_folder"),
    **_named("label", "labels", "class", "class_name", "action", "tag", "category"),
    **_named("num_frames", "frames", "total_frames"),
    **_named("start", "start_time", "time_start"),
    **_named("end", "end_time", "time_end"),
    **_named("group", "source"),
    **_named("packed"),
}
"""Names in a header row -> content of the column."""


@dataclass(frozen=True)
class Layout:
    """Format of a list file: separator, place of each content, and number of columns."""

    separator: str
    columns: dict[Content, int]
    num_columns: int
    has_header: bool


def read_layout(path: str, root: str, *, multi_label: bool = False, labels: bool = True) -> Layout:
    """Find the layout of the list `path`, whose videos are relative to `root`; without `labels` it needs no label.

    Raises:
        DataError: it is no list, or its columns have no reading that is possible.
    """
    head = [line for _, line in zip(range(1000), lines_of(path)) if line][:LOOKED_AT]
    for separator in ("\t", ",", " "):
        rows = [fields for _, fields in _split(path, head, separator)]
        if rows and min(map(len, rows)) >= 2:
            break
    else:
        if head and not labels:  # one path per row, which may hold spaces
            separator, rows = "\t", [[line] for line in head]
            return Layout(separator, {"path": 0}, 1, COLUMN_NAMES.get(head[0].lower()) == "path")
        raise DataError(
            f"{path}: row {shorten(head[0])!r} is not a path and a label, separated by a comma, a tab or a space"
            if head
            else f"{path}: the list is empty"
        )
    columns = None if labels else _by_path_header(rows[0])
    columns = columns or _by_header(path, root, rows)
    has_header = columns is not None
    if columns is None:
        columns = _without_header(path, rows[0], multi_label=multi_label)
    if not has_header or {"path", "label"} - {COLUMN_NAMES.get(text.lower(), "") for text in rows[0]}:
        order = sorted(columns, key=lambda content: columns[content])
        log.info("%s: read as: %s", path, ", ".join(IN_WORDS.get(content, content) for content in order))
    return Layout(separator, columns, len(rows[0]), has_header)


def _by_path_header(row: list[str]) -> dict[Content, int] | None:
    """Content of the columns that a header names, one of which is the path; others are not looked at."""
    columns = {content: i for i, text in enumerate(row) if (content := COLUMN_NAMES.get(text.lower()))}
    return columns if "path" in columns else None


def _by_header(path: str, root: str, rows: list[list[str]]) -> dict[Content, int] | None:
    """Content of the columns by the first row, or None where it is no header."""
    columns: dict[Content, int] = {}
    for i, text in enumerate(rows[0]):
        if content := COLUMN_NAMES.get(text.lower()):
            columns.setdefault(content, i)
    if {"path", "label"} <= columns.keys():
        return columns
    if any(_names_video(root, text) for text in rows[0]):
        return None
    videos = [i for i in range(len(rows[0])) if _all_videos(root, [row[i] for row in rows[1:] if i < len(row)])]
    if len(videos) != 1 or columns.get("path", videos[0]) != videos[0]:
        return None
    columns["path"] = videos[0]
    others = [i for i in range(len(rows[0])) if i not in columns.values()]
    if "label" not in columns:
        if len(others) != 1:
            raise DataError(
                f"{path}: row 1, {shorten(' | '.join(rows[0]))}, is a header without a known name for the labels: "
                "call the columns path and label"
            )
        columns["label"] = others[0]
    return columns


def _all_videos(root: str, fields: list[str]) -> bool:
    return bool(fields) and all(_names_video(root, text) for text in fields)


def _names_video(root: str, text: str) -> bool:
    return is_video(text) or (bool(text) and os.path.exists(os.path.join(root, text)))


def _without_header(path: str, row: list[str], *, multi_label: bool) -> dict[Content, int]:
    if len(row) == 2:
        return {"path": 0, "label": 1}
    if len(row) == 3 and _is_count(row[1]):
        if _is_count(row[0]) and is_video(row[2]):
            return {"label": 1, "path": 2}
        if is_video(row[0]) or multi_label:
            raise DataError(
                f"{path}: row 1, {shorten(' '.join(row))}, reads as path, number of frames, label: for folders of "
                "frames with one label. Several labels are written 0|3, with multi_label"
            )
        return {"path": 0, "num_frames": 1, "label": 2}
    if len(row) == 4 and all(map(_is_time, row[2:])):
        return {"path": 0, "label": 1, "start": 2, "end": 3}
    raise DataError(
        f"{path}: row 1 has {len(row)} columns, {shorten(' | '.join(row))}: expected 'path label', "
        "'path label start end', 'frame_folder num_frames label', or a header row with path and label"
    )


def read_rows(path: str, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Row number in the file, from 1, and its fields without spaces around them.

    Raises:
        DataError: a row with too few or too many columns.
    """
    needed = max(layout.columns["path"], layout.columns.get("label", 0)) + 1
    skip = layout.has_header
    for row, fields in _split(path, lines_of(path), layout.separator):
        if not fields:
            continue
        if skip:
            skip = False
        elif needed <= len(fields) <= layout.num_columns:
            yield row, fields
        else:
            raise DataError(
                f"{path}: row {row} has {len(fields)} columns, expected {layout.num_columns} "
                "(a separator inside a field needs quotes)"
            )


def _split(path: str, lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    try:
        for fields in reader:
            yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.line_num + 1}: {error}") from error


def lines_of(path: str) -> Iterator[str]:
    """Lines without their ends; comment lines become empty, so that line numbers stay right.

    Raises:
        DataError: the file cannot be read or is not text.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            for line in file:
                if "\0" in line:
                    raise DataError(f"{path}: not a text file")
                yield "" if line.startswith("#") else line.strip(" \n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def field_of(fields: list[str], layout: Layout, content: Content) -> str:
    """A field; empty where the list or the row does not have it."""
    column = layout.columns.get(content, len(fields))
    return fields[column] if column < len(fields) else ""


def read_times(path: str, row: int, fields: list[str], layout: Layout) -> tuple[float, float]:
    """Start and end in seconds; NaN where they are not given.

    Raises:
        DataError: no times, or an empty part.
    """
    texts = [field_of(fields, layout, "start"), field_of(fields, layout, "end")]
    start, end = (_seconds(text) for text in texts)
    if start is None or end is None:
        shown = " and ".join(repr(shorten(text)) for text in texts)
        raise DataError(f"{path}: row {row}: start and end are {shown}, expected seconds, or minutes:seconds")
    if start < 0 or end <= (start if start == start else 0):
        raise DataError(f"{path}: row {row}: the part from {start:g} s to {end:g} s is empty")
    return start, end


def read_count(path: str, row: int, text: str) -> int:
    """Number of frames of a folder; 0 where it is not given.

    Raises:
        DataError: it is no number.
    """
    if text and not re.fullmatch(r"\d{1,9}", text):
        raise DataError(f"{path}: row {row}: number of frames is {shorten(text)!r}, expected a number")
    return int(text or 0)


def _seconds(text: str) -> float | None:
    """Seconds, `minutes:seconds` or `hours:minutes:seconds`; NaN of nothing, None of anything else."""
    if not text:
        return math.nan
    if not _is_time(text):
        return None
    seconds = 0.0
    for part in text.split(":"):
        seconds = 60 * seconds + float(part)
    return seconds if math.isfinite(seconds) else None


def _is_time(text: str) -> bool:
    return len(text) < 100 and re.fullmatch(r"|-?(\d+\.?\d*|\.\d+)|(\d+:){1,2}\d+(\.\d*)?", text) is not None


def _is_count(text: str) -> bool:
    return re.fullmatch(r"\d+", text) is not None
