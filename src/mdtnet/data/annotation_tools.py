"""Labels of annotation tools -> parts of videos: Label Studio, CVAT, ActivityNet and VIA, by their documented formats.

What these formats have in common is a `Mark`: a video's name as the tool has it, a label, and a start and an end.
"""

import csv
import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import numpy as np

from mdtnet.data.annotations import Texts, VideoList
from mdtnet.data.container import open_video
from mdtnet.data.folders import is_system
from mdtnet.data.suffixes import is_video
from mdtnet.errors import DataError, shorten

Tool = Literal["labelstudio", "cvat", "activitynet", "via"]
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
LARGEST = 2**30  # bytes of a file of labels


@dataclass(frozen=True)
class Mark:
    """A labelled part of a video; without a label: a video that was looked at, in which nothing is marked."""

    video: str
    label: str = ""
    start: float | None = None
    end: float | None = None
    in_frames: bool = False
    """Start and end count frames, from 0, and not seconds."""
    part: str = ""
    """`train` or `val`, where the tool says it."""


class Marked(NamedTuple):
    """Videos of a tool's labels."""

    videos: VideoList
    parts: list[str]
    """`train`, `val` or nothing, of each row."""
    unmarked: list[str]
    """Videos in which nothing is marked."""
    missing: list[tuple[str, str]]
    """Videos that are not on the disk, and their labels."""


def read_marks(tool: Tool, path: str, *, attribute: str = "") -> list[Mark]:
    """Marks of a file that a tool has exported: .json, .csv, .xml, or a .zip with one of them.

    Args:
        attribute: the attribute that names the action, of CVAT (empty: labels do) and VIA (empty: the only one).

    Raises:
        DataError: the file cannot be read, or is not of this tool.
    """
    name, text = _text_of(path)
    try:
        marks = list(READERS[tool](name, text, attribute))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, ElementTree.ParseError, csv.Error) as error:
        raise DataError(f"{path}: not labels as {tool} exports them: {shorten(str(error))}") from error
    if not any(mark.label for mark in marks):
        raise DataError(f"{path}: no labels in time in it")
    return marks


def marked_videos(
    tool: Tool, path: str, *, root: str, attribute: str = "", fps: float = 0.0, classes: tuple[str, ...] = ()
) -> Marked:
    """The videos of a tool's labels below `root`, as parts of a list; each video is a group.

    Args:
        fps: rate that a tool's frames are counted at; 0: the rate of each file.

    Raises:
        DataError: as `read_marks`; none of the videos is there; or a label is none of `classes`.
    """
    marks, places = read_marks(tool, path, attribute=attribute), _places(root)
    found = [(mark, _place(mark.video, places)) for mark in marks]
    rows = [(mark, place) for mark, place in found if mark.label and place]
    if not rows:
        raise DataError(f"{path}: none of its videos is below {root}, looked for {shorten(marks[0].video)}")
    names = classes or tuple(sorted({mark.label for mark, _ in rows}))
    if strange := next((mark.label for mark, _ in rows if mark.label not in names), ""):
        raise DataError(f"{path}: label '{shorten(strange)}' is not one of the {len(names)} classes")
    rates: dict[str, float] = {}
    times = [_seconds(mark, os.path.join(root, place), fps, rates) for mark, place in rows]
    videos = VideoList(
        names,
        np.array([names.index(mark.label) for mark, _ in rows]),
        os.path.abspath(root),
        Texts.of(place for _, place in rows),
        np.arange(len(rows)),
        np.array(times, dtype=np.float64),
        groups=Texts.of(place for _, place in rows),
    )
    labelled = {place for _, place in rows}
    unmarked = sorted({place for mark, place in found if place and not mark.label} - labelled)
    missing = sorted({(mark.video, mark.label) for mark, place in found if mark.label and not place})
    return Marked(videos, [mark.part for mark, _ in rows], unmarked, missing)


def _seconds(mark: Mark, path: str, fps: float, rates: dict[str, float]) -> tuple[float, float]:
    """Start and end in seconds, NaN where they are not given."""
    start, end = (np.nan if value is None else float(value) for value in (mark.start, mark.end))
    if mark.in_frames:
        if path not in rates:
            rates[path] = fps or _rate(path)
        start, end = start / rates[path], end / rates[path]
    if end <= start or start < 0:
        raise DataError(f"{mark.video}: the part from {start:g} s to {end:g} s, '{mark.label}', is empty")
    return round(start, 3), round(end, 3)


def _rate(path: str) -> float:
    with open_video(path) as (_, stream):
        if not stream.average_rate:
            raise DataError(f"{path}: has no frame rate, by which frames become seconds: give --fps")
        return float(stream.average_rate)


# Files


def _text_of(path: str) -> tuple[str, str]:
    """Name and text of a file, or of the only file of labels in a .zip."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = [i for i in archive.infolist() if i.filename.lower().endswith((".json", ".csv", ".xml"))]
                if len(inside) != 1 or inside[0].file_size > LARGEST:
                    raise DataError(f"{path}: {len(inside)} files of labels in it, expected one .json, .csv or .xml")
                return inside[0].filename, archive.read(inside[0]).decode("utf-8-sig")
        with open(path, encoding="utf-8-sig") as file:
            return path, file.read(LARGEST)
    except (OSError, UnicodeDecodeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _places(root: str) -> dict[str, str]:
    """Name with and without suffix -> path relative to `root` of the videos below it."""
    found: dict[str, str] = {}
    for folder, below, names in os.walk(root):
        below[:] = sorted(name for name in below if not is_system(name))
        for name in sorted(filter(is_video, names)):
            place = os.path.normpath(os.path.join(os.path.relpath(folder, root), name))
            for key in (place, name, os.path.splitext(name)[0]):
                found.setdefault(key, place)
    return found


def _place(video: str, places: dict[str, str]) -> str:
    """Where a video is that a tool knows by a path, an address, or the name that it gave to an upload; or nothing."""
    address = urlsplit(video)
    path = unquote(parse_qs(address.query).get("d", [""])[0] or (address.path if address.scheme else video))
    name = PurePosixPath(path.replace("\\", "/")).name
    for key in (path, name, UPLOADED.sub("", name), os.path.splitext(name)[0], f"v_{name}"):
        if key in places:
            return places[key]
    return ""


# Tools


def _label_studio(name: str, text: str, _: str) -> Iterator[Mark]:
    """JSON (whole, or JSON-MIN) and CSV: `TimelineLabels` in frames from 1, `Labels` in seconds, `Choices`."""
    if name.lower().endswith(".csv"):
        tasks: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    else:
        tasks = json.loads(text)
    for task in tasks:
        data = task.get("data", task)
        video = next((v for v in data.values() if isinstance(v, str) and is_video(_name_in(v))), "")
        if not video:
            raise DataError("a task without a video")
        values = list(_values_of(task))
        yield from _label_studio_marks(video, values) if values else (Mark(video),)


def _name_in(address: str) -> str:
    query = parse_qs(urlsplit(address).query).get("d", [""])[0]
    return query or urlsplit(address).path


def _values_of(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Values of the regions of a task, in whichever export."""
    if "annotations" in task or "completions" in task:
        for annotation in task.get("annotations") or task.get("completions") or []:
            if not annotation.get("was_cancelled"):
                yield from (region["value"] for region in annotation["result"])
        return
    for value in task.values():
        if isinstance(value, str) and value.startswith("["):
            value = json.loads(value)
        if isinstance(value, list):
            yield from (region for region in value if isinstance(region, dict))


def _label_studio_marks(video: str, values: list[dict[str, Any]]) -> Iterator[Mark]:
    for value in values:
        for label in value.get("timelinelabels", []):
            for span in value["ranges"]:
                yield Mark(video, label, span["start"] - 1, span["end"], in_frames=True)
        for label in value.get("labels", []) if "start" in value else []:
            yield Mark(video, label, value["start"], value["end"])
        yield from (Mark(video, label) for label in value.get("choices", []))


def _cvat(name: str, text: str, attribute: str) -> Iterator[Mark]:
    """XML 1.1: tracks of a video, from their first frame to where they are outside; tags of single frames."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError("XML that declares entities is not read")
    root = ElementTree.fromstring(text)
    if root.tag != "annotations":
        raise ValueError(f"its root is <{root.tag}>, expected <annotations>")
    tasks = [task for task in root.iter("task")]
    sources = {task.findtext("id", ""): task.findtext("source") or "" for task in tasks}
    only = root.findtext("meta/source") or next(iter(sources.values()), "") or root.findtext("meta/task/name") or ""
    for track in root.iter("track"):
        video = sources.get(track.get("task_id", "")) or only
        yield from _cvat_spans(video, track, attribute)
    tags: dict[tuple[str, str], list[int]] = {}
    for image in root.iter("image"):
        for tag in image.iter("tag"):
            label = _cvat_label(tag, tag, attribute)
            tags.setdefault((sources.get(image.get("task_id", "")) or only, label), []).append(int(image.attrib["id"]))
    for (video, label), frames in tags.items():
        for run in np.split(np.array(sorted(frames)), np.flatnonzero(np.diff(sorted(frames)) > 1) + 1):
            if label:
                yield Mark(video, label, int(run[0]), int(run[-1]) + 1, in_frames=True)


def _cvat_label(owner: ElementTree.Element, shape: ElementTree.Element, attribute: str) -> str:
    if not attribute:
        return owner.attrib["label"]
    return next((a.text or "" for a in shape.iter("attribute") if a.get("name") == attribute), "")


def _cvat_spans(video: str, track: ElementTree.Element, attribute: str) -> Iterator[Mark]:
    """A track's time in the picture; with an attribute each time in which it keeps a value."""
    shapes = sorted((shape for shape in track if "frame" in shape.attrib), key=lambda s: int(s.attrib["frame"]))
    label, start, last = "", 0, 0
    for shape in shapes:
        frame = int(shape.attrib["frame"])
        now = "" if shape.get("outside") == "1" else _cvat_label(track, shape, attribute)
        if now != label:
            if label:
                yield Mark(video, label, start, frame, in_frames=True)
            label, start = now, frame
        last = frame
    if label:
        yield Mark(video, label, start, last + 1, in_frames=True)


def _activitynet(name: str, text: str, _: str) -> Iterator[Mark]:
    """JSON of the data set: `training` and `validation`; the labels of `testing` are not public."""
    subsets = {"training": "train", "train": "train", "validation": "val", "val": "val"}
    for video, entry in json.loads(text)["database"].items():
        part = subsets.get(entry.get("subset", ""), "")
        if entry.get("subset") == "testing":
            continue
        for annotation in entry.get("annotations", []):
            start, end = annotation["segment"]
            yield Mark(video, annotation["label"], start, end, part=part)
        if not entry.get("annotations"):
            yield Mark(video, part=part)


def _via(name: str, text: str, attribute: str) -> Iterator[Mark]:
    """VIA 3: a project (JSON), or its export of temporal segments (CSV)."""
    rows = _via_project(json.loads(text)) if text.lstrip().startswith("{") else _via_table(text)
    for videos, span, values in rows:
        if len(span) != 2:  # a still frame, or a region without time
            continue
        if not attribute and len(values) > 1:
            raise DataError(f"several attributes, {', '.join(values)}: choose one by --attribute")
        label = values.get(attribute, "") if attribute else next(iter(values.values()), "")
        if label:
            yield from (Mark(video, label, span[0], span[1]) for video in videos)


ViaRow = tuple[list[str], list[float], dict[str, str]]
"""Videos, start and end, value of each attribute."""


def _via_project(project: dict[str, Any]) -> Iterator[ViaRow]:
    for row in project["metadata"].values():
        files = [project["file"][str(f)]["fname"] for f in project["view"][row["vid"]]["fid_list"]]
        yield files, row["z"], _via_values(row["av"], project["attribute"])


def _via_values(values: dict[str, str], attributes: dict[str, Any]) -> dict[str, str]:
    """Values by the names of attributes, choices by their texts."""
    named = {}
    for key, value in values.items():
        about = attributes.get(key, {})
        named[about.get("aname", key)] = about.get("options", {}).get(value, value)
    return named


def _via_table(text: str) -> Iterator[ViaRow]:
    header: list[str] = []
    attributes: dict[str, Any] = {}
    lines = text.splitlines()
    for line in lines:
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CSV_HEADER":
            header = [field.strip() for field in value.split(",")]
        if line.startswith("#") and key.strip() == "ATTRIBUTE":
            attributes = json.loads(value)
    body = [line for line in lines if line.strip() and not line.startswith("#")]
    header = header or next(csv.reader(body[:1]))
    for fields in csv.reader(body):
        if fields == header:
            continue
        row = dict(zip(header, fields))
        if "temporal_coordinates" in row:
            span = json.loads(row["temporal_coordinates"])
        else:
            span = [float(row["temporal_segment_start"]), float(row["temporal_segment_end"])]
        files = row["file_list"]
        videos = json.loads(files) if files.startswith("[") else [files]
        yield videos, span, _via_values(json.loads(row["metadata"]), attributes)


READERS: dict[Tool, Callable[[str, str, str], Iterator[Mark]]] = {
    "labelstudio": _label_studio,
    "cvat": _cvat,
    "activitynet": _activitynet,
    "via": _via,
}
"""Tool -> reader of a file's name, its text, and the attribute that names the action."""
