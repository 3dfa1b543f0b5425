"""Official layouts of data sets -> lists that training reads: `train.csv`, `val.csv`, `classes.txt`, `data.yaml`.

Videos stay where they are. Lists name classes, not numbers, so that a list and a label map that do not belong
together cannot be mixed unnoticed; numbers in a source list count only with the label map they were made with.
"""

import logging
import os
import re
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import yaml

from mdtnet.data.annotation_tools import Marked, Tool, marked_videos
from mdtnet.data.annotations import Texts, VideoList, load_videos, read_classes, write_list
from mdtnet.data.archive import is_there
from mdtnet.data.background import with_background
from mdtnet.data.folders import is_system
from mdtnet.data.official import (
    SOURCES,
    Listed,
    Lists,
    Official,
    Request,
    class_key,
    compare_counts,
    list_files,
    stem_of,
)
from mdtnet.data.splits import split_by_group
from mdtnet.errors import DataError
from mdtnet.system.files import write_csv, write_text

DataSet = Literal[Official, "folder", "csv", Tool]
TOOLS: tuple[Tool, ...] = get_args(Tool)
Split = Literal["1", "2", "3", "all"]

log = logging.getLogger(__name__)

MAX_DEPTH = 4  # folders between the root and a video


@dataclass(frozen=True)
class Prepared:
    """One split: the folder of its lists, its classes in label order, and (listed, found) videos per part."""

    out: Path
    split: str
    classes: tuple[str, ...]
    counts: dict[str, tuple[int, int]]


def prepare(
    name: DataSet,
    *,
    root: str,
    out: str,
    annotations: str = "",
    classes: str = "",
    split: Split = "1",
    val_fraction: float = 0.2,
    group: str = "",
    multi_label: bool = False,
    background: bool = False,
    attribute: str = "",
    fps: float = 0.0,
) -> list[Prepared]:
    """Write the lists of data set `name`; with split `all` into `out/split1` to `out/split3`.

    Args:
        root: folder of the videos, however deep they lie; paths in the lists are relative to it.
        annotations: folder of the official lists (or, for `csv`, a list file); empty: `root`.
        classes: label map that gives the order of classes in place of the official one; names must agree.
        val_fraction, group: for `folder` and `csv` without a validation part, as in `split_by_group`.
        multi_label: for `csv`, as in `load_videos`.
        background: for `csv` and tools, add unlabelled parts, as in `with_background`.
        attribute, fps: for tools, as in `marked_videos`.

    Raises:
        DataError: lists or videos are not there, a list and a label map disagree, or a file that this function
            did not write would be replaced.
    """
    _check_asked(name, root, multi_label=multi_label, background=background)
    official = next((source.splits for key, source in SOURCES.items() if key == name), ("1",))
    if split != "1" and len(official) == 1:
        raise DataError(f"{name} has one official split, not '{split}'")
    splits = official if split == "all" else (split,)
    folders = [Path(out, f"split{s}") if split == "all" else Path(out) for s in splits]
    for folder in folders:
        _check_target(folder)
    if name == "folder" or name == "csv":
        place, fewest = annotations or root, 1 if background else 2
        own = _own_lists(place, root, folders[0], classes, val_fraction, group, multi_label, fewest=fewest)
        return [_write(folders[0], "1", with_background(own) if background else own, root, {}, name)]
    if name == "labelstudio" or name == "cvat" or name == "activitynet" or name == "via":
        if not os.path.isfile(annotations):
            raise DataError(f"--annotations is '{annotations}', expected the file that {name} has exported")
        marked = marked_videos(
            name, annotations, root=root, attribute=attribute, fps=fps, classes=read_classes(classes)
        )
        own = _marked_parts(marked, val_fraction, group)
        own = with_background(own, unmarked=marked.unmarked) if background else own
        absent = [Listed((video,), label) for video, label in marked.missing]
        return [_write(folders[0], "1", own, root, {"train": absent}, name)]
    source, files = SOURCES[name], list_files(annotations or root)
    prepared = []
    for s, folder in zip(splits, folders):
        lists = source.reader(source, Request(files, s, classes))
        compare_counts(name, s, lists)
        found, missing = _on_disk(root, lists, source.extra)
        prepared.append(_write(folder, s, found, root, missing, name))
    return prepared


def _check_asked(name: DataSet, root: str, *, multi_label: bool, background: bool) -> None:
    if not os.path.isdir(root):
        raise DataError(f"{root}: no such folder; --root is the folder of the videos")
    if multi_label and name != "csv":
        raise DataError(f"{name} has one label per video; multi_label is for lists of your own (csv)")
    if background and name != "csv" and name not in TOOLS:
        raise DataError(f"{name} has no unlabelled time; background is for csv, {', '.join(TOOLS)}")


def _check_target(folder: Path) -> None:
    for part in ("train.csv", "val.csv"):
        path = folder / part
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace")[:10] == "path,label":
            raise DataError(f"{path} was not written by this verb and would be replaced; choose another --out")


# Users' own folders and lists


def _own_lists(
    source: str,
    root: str,
    out: Path,
    classes: str,
    fraction: float,
    group: str,
    multi_label: bool,
    fewest: int,
) -> dict[str, VideoList]:
    def load(path: str, classes: str | tuple[str, ...]) -> VideoList:
        in_list = root if os.path.isfile(path) else ""
        return load_videos(path, root=in_list, classes=classes, multi_label=multi_label, fewest=fewest)

    parts = _parts_of(source)
    for path in (source, *parts.values()):
        if Path(path).resolve() in ((out / "train.csv").resolve(), (out / "val.csv").resolve()):
            raise DataError(f"{path} is a source and would be replaced; choose another --out")
    if not parts:
        train, val = split_by_group(load(source, classes), fraction=fraction, seed=0, group=group)
        return {"train": train, "val": val}
    train = load(parts["train"], classes)
    return {"train": train, "val": load(parts["val"], train.classes)}


def _parts_of(source: str) -> dict[str, str]:
    """Folders or lists `train` and `val` inside `source`, where it has both."""
    if not os.path.isdir(source):
        return {}
    found = {}
    for part, names in (("train", ("train", "training")), ("val", ("val", "valid", "validation", "test"))):
        paths = [os.path.join(source, n + suffix) for n in names for suffix in ("", ".csv", ".tsv", ".txt")]
        if existing := [p for p in paths if os.path.exists(p)]:
            found[part] = existing[0]
    return found if len(found) == 2 else {}


# Labels of annotation tools


def _marked_parts(found: Marked, fraction: float, group: str) -> dict[str, VideoList]:
    """Training and validation, as the tool says or split off; a video is in one of them with all its parts."""
    of_part = {part: np.flatnonzero(np.array(found.parts) == part) for part in ("train", "val")}
    if all(map(len, of_part.values())):
        return {part: found.videos.subset(rows) for part, rows in of_part.items()}
    videos = found.videos
    if len({videos.paths[row] for row in videos.rows}) < 2 and not group:
        log.warning("all labels are of one video: its parts are divided at random, so that validation is too easy")
        videos = replace(videos, groups=None)
    train, val = split_by_group(videos, fraction=fraction, seed=0, group=group)
    return {"train": train, "val": val}


# Videos on disk


def _on_disk(
    root: str, lists: Lists, extra: re.Pattern[str] | None
) -> tuple[dict[str, VideoList], dict[str, list[Listed]]]:
    wanted = {stem for rows in lists.parts.values() for listed in rows for stem in listed.stems}
    places = _locate(root, wanted, extra)
    to_number = {class_key(label): i for i, label in enumerate(lists.classes)}
    found, missing = {}, {}
    proven = lists.same_source
    for part, rows in lists.parts.items():
        paths, labels, absent = [], [], []
        for listed in rows:
            path = _pick(places, listed)
            if not path:
                absent.append(listed)
                continue
            if lists.numbers:
                proven |= _agrees(lists, part, path, listed, to_number)
            paths.append(path)
            labels.append(to_number[class_key(listed.label)])
        missing[part] = absent
        if paths:
            column = np.array(labels, dtype=np.int64)
            found[part] = VideoList(lists.classes, column, root, Texts.of(paths), np.arange(len(paths)))
    if not found:
        first = next(listed for rows in lists.parts.values() for listed in rows)
        count = sum(map(len, lists.parts.values()))
        raise DataError(f"{root}: none of the {count} listed videos is there, looked for {first.stems[0]}")
    if not proven:
        raise DataError(
            f"{next(iter(lists.sources.values()))}: labels are numbers, and nothing shows that {lists.proof} is the "
            "label map they were made with: put the two into one folder, or the videos into class folders"
        )
    return found, missing


def _locate(root: str, stems: set[str], extra: re.Pattern[str] | None) -> dict[str, list[str]]:
    """File name without suffix -> paths, relative to `root`, of the videos and frame folders with that name."""
    found: dict[str, list[str]] = {}
    queue = deque([("", 0)])
    while queue:
        place, depth = queue.popleft()
        for entry in sorted(os.scandir(os.path.join(root, place)), key=lambda e: e.name):
            stem = stem_of(entry.name)
            short = extra.sub("", stem) if extra else stem
            if stem in stems or short in stems:
                for name in {stem, short} & stems:
                    found.setdefault(name, []).append(os.path.join(place, entry.name))
            elif depth < MAX_DEPTH and entry.is_dir() and not is_system(entry.name):
                queue.append((os.path.join(place, entry.name), depth + 1))
    return found


def _pick(places: dict[str, list[str]], listed: Listed) -> str:
    """Path of a listed video; of several the one in the folder of its class."""
    for stem in listed.stems:
        if paths := places.get(stem):
            own = [p for p in paths if class_key(os.path.basename(os.path.dirname(p))) == class_key(listed.label)]
            return (own or paths)[0]
    return ""


def _agrees(lists: Lists, part: str, path: str, listed: Listed, to_number: dict[str, int]) -> bool:
    """Whether the video is in the folder of its class; False where its folder is not named after a class."""
    folder = os.path.basename(os.path.dirname(path))
    if class_key(folder) not in to_number:
        return False
    if class_key(folder) != class_key(listed.label):
        raise DataError(
            f"{lists.sources[part]}: '{path}' is '{listed.label}' by {lists.proof}, but lies in folder '{folder}': "
            "the list and the label map are not from one source"
        )
    return True


# Writing


def _write(
    out: Path, split: str, found: dict[str, VideoList], root: str, missing: dict[str, list[Listed]], name: DataSet
) -> Prepared:
    out.mkdir(parents=True, exist_ok=True)
    classes = next(iter(found.values())).classes
    counts = {}
    absent = [(part, listed.stems[0], listed.label) for part, rows in missing.items() for listed in rows]
    for part, videos in found.items():
        kept = videos
        if not missing:  # a user's own list: leave out what is not there
            there = np.array([is_there(videos[i].path) for i in range(len(videos))])
            absent += [(part, videos.name(i), videos.label_text(i)) for i in np.flatnonzero(~there).tolist()]
            kept = videos.subset(np.flatnonzero(there))
        counts[part] = (len(videos) + len(missing.get(part, [])), len(kept))
        write_list(out / f"{part}.csv", kept, root=root)
    for part in missing.keys() - found.keys():
        counts[part] = (len(missing[part]), 0)
    write_text(out / "classes.txt", "".join(f"{c}\n" for c in classes))
    rows = [{"part": part, "video": video, "label": label} for part, video, label in absent]
    write_csv(out / "missing.csv", ("part", "video", "label"), rows)
    data: dict[str, bool | str] = {part: str((out / f"{part}.csv").resolve()) for part in found}
    data |= {"root": os.path.abspath(root), "classes": str((out / "classes.txt").resolve())}
    if (flip := next((source.flip for key, source in SOURCES.items() if key == name), "")) != "":
        data["flip"] = flip
    data |= {"multi_label": True} if next(iter(found.values())).multi_label else {}
    write_text(out / "data.yaml", yaml.safe_dump({"data": data}, sort_keys=False))
    return Prepared(out, split, classes, counts)
