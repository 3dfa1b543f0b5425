"""Official lists of data sets, and those of other projects: which videos there are and what they show.

Labels come out as names. Numbers in a list are given names by the label map they were made with: the one beside it.
"""

import csv
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from mdtnet.data.suffixes import VIDEO_SUFFIXES
from mdtnet.errors import DataError

log = logging.getLogger(__name__)

LIST_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "kinetics400": {
        "train": ("kinetics-400_train.csv", "kinetics_400_train.csv", "kinetics400_train.csv", "kinetics_train.csv",
                  "kinetics400_train_list_videos.txt", "train.csv"),
        "val": ("kinetics-400_val.csv", "kinetics_400_val.csv", "kinetics400_val.csv", "kinetics_val.csv",
                "kinetics400_val_list_videos.txt", "validate.csv", "val.csv"),
        "classes": ("kinetics_400_labels.csv", "kinetics_label_map_k400.txt", "kinetics_label_map.txt",
                    "kinetics_400_categroies.txt"),
    },
    "sthv1": {
        "train": ("something-something-v1-train.csv", "somesomev1_rgb_train_split.txt", "train_videofolder.txt"),
        "val": ("something-something-v1-validation.csv", "somesomev1_rgb_validation_split.txt", "val_videofolder.txt"),
        "classes": ("something-something-v1-labels.csv", "category.txt", "sthv1_label_map.txt"),
    },
    "sthv2": {
        "train": ("something-something-v2-train.json", "somesomev2_rgb_train_split.txt", "train_videofolder.txt",
                  "train.json"),
        "val": ("something-something-v2-validation.json", "somesomev2_rgb_validation_split.txt", "val_videofolder.txt",
                "validation.json"),
        "classes": ("something-something-v2-labels.json", "category.txt", "sthv2_label_map.txt", "labels.json"),
    },
    "jester": {
        "train": ("jester-v1-train.csv", "train_videofolder.txt"),
        "val": ("jester-v1-validation.csv", "val_videofolder.txt"),
        "classes": ("jester-v1-labels.csv", "category.txt", "jester_label_map.txt"),
    },
}  # fmt: skip
"""Data set -> names of its lists and label maps, official ones first, then those of other projects."""

OFFICIAL_COUNTS = {
    "ucf101": {"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)},
    "hmdb51": {split: (3570, 1530) for split in "123"},
    "sthv1": {"1": (86_017, 11_522)},
    "sthv2": {"1": (168_913, 24_777)},
    "jester": {"1": (118_562, 14_787)},
}
"""Videos in the training and validation lists, by split. Kinetics-400 shrinks from year to year."""

NUMBERED = re.compile(r"(.+?)(?:[ ,\t]+\d+)?[ ,\t]+(\d+)")  # path, number of frames if given, label
MANY_FOLDERS = 1000  # a folder with more is videos as frames, and no place for lists


@dataclass(frozen=True)
class Listed:
    """A video in a list: its possible file names without suffix, best first, and its class."""

    stems: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Lists:
    """What source lists say. `numbers` tells where labels were numbers: `proof` is then what gave them names."""

    classes: tuple[str, ...]
    parts: dict[str, list[Listed]]
    numbers: bool = False
    proof: str = ""
    same_source: bool = True
    sources: dict[str, str] = field(default_factory=dict)


def list_files(folder: str) -> dict[str, str]:
    """Name -> path of the text files in `folder` and two levels below; the first of a name counts."""
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder; --annotations is the folder of the official lists")
    found: dict[str, str] = {}
    level = [folder]
    for _ in range(3):
        below: list[str] = []
        for place in level:
            entries = sorted(os.scandir(place), key=lambda e: e.name)
            for entry in entries:
                if entry.name.lower().endswith((".txt", ".csv", ".json")):
                    found.setdefault(entry.name, entry.path)
            folders = [e.path for e in entries if e.is_dir()]
            below += folders if len(folders) <= MANY_FOLDERS else []
        level = below
    return found


def _need(files: dict[str, str], *names: str) -> str:
    for name in names:
        if name in files:
            return files[name]
    raise DataError(f"no {' or '.join(names)} in --annotations, else in --root, nor two folders below")


def _ucf101(name: str, files: dict[str, str], split: str, classes: str) -> Lists:
    names = read_label_map(_need(files, "classInd.txt"))
    parts = {}
    for part, list_name in (("train", f"trainlist0{split}.txt"), ("val", f"testlist0{split}.txt")):
        path = _need(files, list_name)
        parts[part] = [_ucf_row(path, i, line, names) for i, line in enumerate(_lines(path), start=1)]
    return Lists(_in_order(names, names, classes), parts)


def _ucf_row(path: str, row: int, line: str, names: tuple[str, ...]) -> Listed:
    """`Class/file.avi`, in training lists with the class's number from 1."""
    video, _, number = line.partition(" ")
    folder, _, file = video.rpartition("/")
    if folder not in names:
        raise DataError(f"{path}: row {row}: class '{folder}' is not in classInd.txt")
    if number and (not number.strip().isdigit() or names.index(folder) + 1 != int(number)):
        raise DataError(
            f"{path}: row {row}: '{folder}' has label {number}, but {names.index(folder) + 1} in classInd.txt: "
            "the two are not from one source"
        )
    return Listed((os.path.splitext(file)[0],), folder)


def _hmdb51(name: str, files: dict[str, str], split: str, classes: str) -> Lists:
    ending = f"_test_split{split}.txt"
    names = tuple(sorted(n.removesuffix(ending) for n in files if n.endswith(ending)))
    if not names:
        raise DataError(f"no CLASS{ending} in --annotations, else in --root, nor two folders below")
    parts: dict[str, list[Listed]] = {"train": [], "val": []}
    use = {"1": "train", "2": "val"}  # 0: in neither
    for label in names:
        for line in _lines(files[label + ending]):
            file, _, kind = line.rpartition(" ")
            if kind in use:
                parts[use[kind]].append(Listed((os.path.splitext(file)[0],), label))
    return Lists(_in_order(names, names, classes), parts)


def _from_table(name: str, files: dict[str, str], split: str, classes: str) -> Lists:
    """Kinetics, Something-Something and Jester: one list a part, and a label map."""
    known = LIST_NAMES[name]
    sources = {part: _first(files, known[part]) for part in ("train", "val")}
    sources = {part: path for part, path in sources.items() if path}
    if not sources:
        raise DataError(f"none of {', '.join(known['train'] + known['val'])} in --annotations, else in --root")
    rows = {part: list(read_rows(path)) for part, path in sources.items()}
    if not any(rows.values()):
        raise DataError(f"{', '.join(sources.values())}: no videos in it")
    numbers = all(label.isdigit() for part in rows.values() for _, label in part)
    own_map = _map_beside(next(iter(sources.values())), known["classes"])
    if numbers:
        path = own_map or classes
        if not path:
            raise DataError(
                f"{next(iter(sources.values()))}: labels are numbers and no label map lies beside it "
                f"({', '.join(known['classes'])}); give the one it was made with by --classes"
            )
        names = read_label_map(path)
        parts = {part: [Listed(s, _named(sources[part], n, names)) for s, n in rows[part]] for part in rows}
        order = _in_order(names, names, classes)
        return Lists(order, parts, True, path, bool(own_map), sources)
    used = dict.fromkeys(label for part in rows.values() for _, label in part)
    map_path = own_map or _first(files, known["classes"])
    names = read_label_map(map_path) if map_path else tuple(sorted(used))
    order = _in_order(used, names, classes)
    to_name = {class_key(n): n for n in order}
    parts = {part: [Listed(stems, to_name[class_key(label)]) for stems, label in rows[part]] for part in rows}
    return Lists(order, parts, sources=sources)


READERS: dict[str, Callable[[str, dict[str, str], str, str], Lists]] = {
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    **dict.fromkeys(LIST_NAMES, _from_table),
}


def _first(files: dict[str, str], names: Iterable[str]) -> str:
    return next((files[n] for n in names if n in files), "")


def _map_beside(list_path: str, names: Iterable[str]) -> str:
    folder = os.path.dirname(list_path)
    return next((p for n in names if os.path.exists(p := os.path.join(folder, n))), "")


def _named(path: str, number: str, names: tuple[str, ...]) -> str:
    if int(number) >= len(names):
        raise DataError(f"{path}: label {number} is out of range, its label map has {len(names)} classes (from 0)")
    return names[int(number)]


def class_key(name: str) -> str:
    """What two spellings of a class have in common."""
    return re.sub(r"[^a-z0-9]+", "", name.lower())


def _in_order(used: Iterable[str], official: tuple[str, ...], chosen: str) -> tuple[str, ...]:
    """The official order of classes, or that of the label map `chosen`; every class in use must be in it."""
    order = read_label_map(chosen) if chosen else official
    keys = {class_key(name) for name in order}
    for name in used:
        if class_key(name) not in keys:
            where = chosen or "the official label map"
            raise DataError(f"{where}: has no class '{name}', which the lists have: they are not from one source")
    if chosen and len(order) != len(official):
        raise DataError(f"{chosen}: has {len(order)} classes, the official label map {len(official)}")
    return order


def read_label_map(path: str) -> tuple[str, ...]:
    """Class names in label order from a JSON of name -> number, or lines `name`, `number name` or `name number`.

    Numbers count from 0 or from 1. Brackets around placeholders are dropped.

    Raises:
        DataError: it cannot be read, a number is missing, or a name occurs twice.
    """
    if path.endswith(".json"):
        pairs = [(str(name), int(number)) for name, number in _json(path).items()]
    else:
        lines = [line for line in _lines(path) if line.lower() not in ("id,name", "name,id")]
        before = [re.fullmatch(r"(\d+)[\s,]+(.+)", line) for line in lines]
        after = [re.fullmatch(r"(.+?)[\t,]\s*(\d+)", line) for line in lines]
        if lines and all(before):
            pairs = [(m[2], int(m[1])) for m in before if m]
        elif lines and all(after):
            pairs = [(m[1], int(m[2])) for m in after if m]
        else:
            pairs = [(line, i) for i, line in enumerate(lines)]
    pairs.sort(key=lambda pair: pair[1])
    names = [re.sub(r"[\[\]]", "", name).strip('" ') for name, _ in pairs]
    first = pairs[0][1] if pairs else 0
    if not pairs or first > 1 or [number for _, number in pairs] != list(range(first, first + len(pairs))):
        raise DataError(f"{path}: not a label map: names with numbers from 0 or 1 without gaps, or one name a line")
    if len({class_key(name) for name in names}) < len(names):
        raise DataError(f"{path}: not a label map: a class is named twice")
    return tuple(names)


def read_rows(path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Possible file names (without suffix) and label, a name or a number from 0, of each row of a list.

    Official JSON of Something-Something V2; `label,youtube_id,time_start,time_end,split` of Kinetics; `id;label` of
    Something-Something V1 and Jester; `path label` and `folder num_frames label` of other projects.

    Raises:
        DataError: it cannot be read or is none of these.
    """
    if path.endswith(".json"):
        for entry in _json(path):
            yield (str(entry["id"]),), re.sub(r"[\[\]]", "", entry.get("template") or entry["label"])
        return
    lines = _lines(path)
    head = next(lines, "")
    if "youtube_id" in head:
        for row in csv.DictReader(lines, fieldnames=[n.strip() for n in next(csv.reader([head]))]):
            times = "_".join(f"{int(float(row[key])):06d}" for key in ("time_start", "time_end"))
            yield (f"{row['youtube_id']}_{times}", row["youtube_id"]), row["label"]
        return
    for i, line in enumerate((head, *lines) if head else (), start=1):
        video, separator, label = line.partition(";")
        if not separator:
            match = NUMBERED.fullmatch(line)
            if match is None:
                raise DataError(
                    f"{path}: row {i} is {line!r}, expected 'id;label', 'path label' or 'path frames label'"
                )
            video, label = match[1], match[2]
        yield (stem_of(os.path.basename(video)),), label


def stem_of(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            yield from (line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _json(path: str):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error


def compare_counts(name: str, split: str, lists: Lists) -> None:
    official = dict(zip(("train", "val"), OFFICIAL_COUNTS.get(name, {}).get(split, ())))
    for part, rows in lists.parts.items():
        if part in official and len(rows) != official[part]:
            log.warning("%s split %s: %d %s videos listed, officially %d", name, split, len(rows), part, official[part])
