"""Official lists of data sets, and lists of other projects -> file names of videos and their classes.

Labels become names. Numbers in a list get their names from the label map beside it, which they were made with.
`SOURCES`, at the end, is the table of data sets: a new one is a row there, its name in `Official`, and a reader if its
lists are of a new kind.
"""

import csv
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mdtnet.data.suffixes import VIDEO_SUFFIXES
from mdtnet.errors import DataError

log = logging.getLogger(__name__)

Official = Literal["ucf101", "hmdb51", "kinetics400", "sthv1", "sthv2", "jester"]

NUMBERED = re.compile(r"(.+?)(?:[ ,\t]+\d+)?[ ,\t]+(\d+)")  # path, number of frames if given, label
MANY_FOLDERS = 1000  # a folder with more holds videos as frames, not lists


@dataclass(frozen=True)
class Listed:
    """A row of a list: possible file names of the video without suffix, best first, and its class."""

    stems: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class Archive:
    """A file to download: its address, its digest by the algorithm `hash` (of hashlib), its bytes (0: unknown)."""

    url: str
    hash: str
    digest: str
    size: int = 0

    @property
    def name(self) -> str:
        """File name on disk."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class ListFiles:
    """Names of a data set's lists and label maps, official ones first, then those of other projects."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """Lists to read: the files that were found, the split, and the label map that gives the order ("": official)."""

    files: Mapping[str, str]
    split: str
    classes: str


@dataclass(frozen=True)
class Source:
    """A data set: everything that is known of it before its videos are seen."""

    reader: Callable[["Source", Request], "Lists"]
    lists: ListFiles = ListFiles((), (), ())
    """For the reader of tables."""
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Official numbers of training and validation videos, by split."""
    flip: bool | Literal["swap", ""] = ""
    """`data.flip` where labels name left and right; empty: the default."""
    archives: tuple[Archive, ...] = ()
    """Plain downloads, at the addresses that the authors give."""
    splits: tuple[str, ...] = ("1",)
    extra: re.Pattern[str] | None = None
    """Ending of file names on disk that lists do not have."""


@dataclass(frozen=True)
class Lists:
    """Contents of source lists. `numbers`: labels were numbers, and the label map `proof` gave them names."""

    classes: tuple[str, ...]
    parts: dict[str, list[Listed]]
    numbers: bool = False
    proof: str = ""
    same_source: bool = True
    sources: dict[str, str] = field(default_factory=dict)


def list_files(folder: str) -> dict[str, str]:
    """Name -> path of the text files in `folder` and two levels below it; of equal names the first counts."""
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


def _not_found(*names: str) -> DataError:
    return DataError(f"{' or '.join(names)} not found in --annotations or --root (searched two levels deep)")


def _need(files: Mapping[str, str], *names: str) -> str:
    for name in names:
        if name in files:
            return files[name]
    raise _not_found(*names)


def _ucf101(source: Source, request: Request) -> Lists:
    names = read_label_map(_need(request.files, "classInd.txt"))
    parts = {}
    for part, list_name in (("train", f"trainlist0{request.split}.txt"), ("val", f"testlist0{request.split}.txt")):
        path = _need(request.files, list_name)
        parts[part] = [_ucf_row(path, i, line, names) for i, line in enumerate(_lines(path), start=1)]
    return Lists(_in_order(names, names, request.classes), parts)


def _ucf_row(path: str, row: int, line: str, names: tuple[str, ...]) -> Listed:
    """`Class/file.avi`, in training lists followed by the number of the class, from 1."""
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


def _hmdb51(source: Source, request: Request) -> Lists:
    ending = f"_test_split{request.split}.txt"
    names = tuple(sorted(n.removesuffix(ending) for n in request.files if n.endswith(ending)))
    if not names:
        raise _not_found(f"CLASS{ending}")
    parts: dict[str, list[Listed]] = {"train": [], "val": []}
    use = {"1": "train", "2": "val"}  # 0: in neither
    for label in names:
        for line in _lines(request.files[label + ending]):
            file, _, kind = line.rpartition(" ")
            if kind in use:
                parts[use[kind]].append(Listed((os.path.splitext(file)[0],), label))
    return Lists(_in_order(names, names, request.classes), parts)


def _from_table(source: Source, request: Request) -> Lists:
    """Kinetics, Something-Something and Jester: one list per part, and a label map."""
    known, files, classes = source.lists, request.files, request.classes
    sources = {"train": _first(files, known.train), "val": _first(files, known.val)}
    sources = {part: path for part, path in sources.items() if path}
    if not sources:
        raise DataError(f"none of {', '.join(known.train + known.val)} found in --annotations or --root")
    rows = {part: list(read_rows(path)) for part, path in sources.items()}
    if not any(rows.values()):
        raise DataError(f"{', '.join(sources.values())}: no videos in it")
    numbers = all(label.isdigit() for part in rows.values() for _, label in part)
    own_map = _map_beside(next(iter(sources.values())), known.classes)
    if numbers:
        path = own_map or classes
        if not path:
            raise DataError(
                f"{next(iter(sources.values()))}: labels are numbers and no label map lies beside it "
                f"({', '.join(known.classes)}); give the one it was made with by --classes"
            )
        names = read_label_map(path)
        parts = {part: [Listed(s, _name_of(sources[part], n, names)) for s, n in rows[part]] for part in rows}
        order = _in_order(names, names, classes)
        return Lists(order, parts, True, path, bool(own_map), sources)
    used = dict.fromkeys(label for part in rows.values() for _, label in part)
    map_path = own_map or _first(files, known.classes)
    names = read_label_map(map_path) if map_path else tuple(sorted(used))
    order = _in_order(used, names, classes)
    to_name = {class_key(n): n for n in order}
    parts = {part: [Listed(stems, to_name[class_key(label)]) for stems, label in rows[part]] for part in rows}
    return Lists(order, parts, sources=sources)


def _first(files: Mapping[str, str], names: Iterable[str]) -> str:
    return next((files[n] for n in names if n in files), "")


def _map_beside(list_path: str, names: Iterable[str]) -> str:
    folder = os.path.dirname(list_path)
    return next((p for n in names if os.path.exists(p := os.path.join(folder, n))), "")


def _name_of(path: str, number: str, names: tuple[str, ...]) -> str:
    if len(number) > 9 or int(number) >= len(names):
        raise DataError(
            f"{path}: label {_short(number)} is out of range, its label map has {len(names)} classes (from 0)"
        )
    return names[int(number)]


def class_key(name: str) -> str:
    """Letters and digits of a class name, of any script, in lower case: equal for different spellings of one class."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


def _in_order(used: Iterable[str], official: tuple[str, ...], chosen: str) -> tuple[str, ...]:
    """Official order of classes, or that of the label map `chosen`; it must have every class in use."""
    order = read_label_map(chosen) if chosen else official
    keys = {class_key(name) for name in order}
    for name in used:
        if class_key(name) not in keys:
            where = chosen or "the official label map"
            raise DataError(f"{where}: does not have class '{name}' of the lists: they are not from one source")
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
        pairs = _json_map(path)
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
        raise DataError(f"{path}: not a label map: names with numbers from 0 or 1 without gaps, or one name per line")
    if len({class_key(name) for name in names}) < len(names):
        raise DataError(f"{path}: not a label map: a class is named twice")
    return tuple(names)


def read_rows(path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Possible file names (without suffix) and label (a name, or a number from 0) of each row of a list.

    Official JSON of Something-Something V2; `label,youtube_id,time_start,time_end,split` of Kinetics; `id;label` of
    Something-Something V1 and Jester; `path label` and `folder num_frames label` of other projects.

    Raises:
        DataError: the list cannot be read, or is none of these.
    """
    if path.endswith(".json"):
        yield from _json_rows(path)
        return
    lines = _lines(path)
    head = next(lines, "")
    if "youtube_id" in head:
        yield from _kinetics_rows(path, head, lines)
        return
    for i, line in enumerate((head, *lines) if head else (), start=1):
        video, separator, label = line.partition(";")
        if not separator:
            match = NUMBERED.fullmatch(line)
            if match is None:
                raise DataError(
                    f"{path}: row {i} is {_short(repr(line))}, expected 'id;label', 'path label' or 'path frames label'"
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


def _kinetics_rows(path: str, head: str, lines: Iterator[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    try:
        names = [name.strip() for name in next(csv.reader([head]))]
        for row in csv.DictReader(lines, fieldnames=names):
            times = "_".join(f"{int(float(row[key])):06d}" for key in ("time_start", "time_end"))
            yield (f"{row['youtube_id']}_{times}", row["youtube_id"]), row["label"]
    except (csv.Error, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path}: a row is not of the columns label, youtube_id, time_start, time_end ({_short(str(error))})"
        ) from error


def _json(path: str) -> object:
    try:
        with open(path, encoding="utf-8") as file:
            found: object = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {_short(str(error))}") from error
    return found


def _json_map(path: str) -> list[tuple[str, int]]:
    """Names and numbers of a JSON label map."""
    found = _json(path)
    if not isinstance(found, dict) or not all(re.fullmatch(r"\d{1,9}", str(number)) for number in found.values()):
        raise DataError(f"{path}: not a label map: expected names with numbers")
    return [(str(name), int(number)) for name, number in found.items()]


def _json_rows(path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    found = _json(path)
    for i, entry in enumerate(found if isinstance(found, list) else [found], start=1):
        label = (entry.get("template") or entry.get("label")) if isinstance(entry, dict) else None
        if not isinstance(label, str) or "id" not in entry:
            raise DataError(f"{path}: entry {i} is not an object with id and template (or label)")
        yield (str(entry["id"]),), re.sub(r"[\[\]]", "", label)


def _short(text: str) -> str:
    """At most 80 characters of foreign text."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def compare_counts(name: Official, split: str, lists: Lists) -> None:
    """Warn where lists have other numbers of videos than the official ones."""
    official = dict(zip(("train", "val"), SOURCES[name].counts.get(split, ())))
    for part, rows in lists.parts.items():
        if part in official and len(rows) != official[part]:
            log.warning("%s split %s: %d %s videos listed, officially %d", name, split, len(rows), part, official[part])


SOURCES: dict[Official, Source] = {
    "ucf101": Source(
        reader=_ucf101,
        counts={"1": (9537, 3783), "2": (9586, 3734), "3": (9624, 3696)},
        splits=("1", "2", "3"),
        archives=(
            Archive(
                "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
                "sha256",
                "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
                113_943,
            ),
            Archive(
                "https://www.crcv.ucf.edu/data/UCF101/UCF101.rar",
                "md5",
                "6463accf4bbc20fa6418ab7f159e6149",
                6_932_971_618,
            ),
        ),
    ),
    "hmdb51": Source(
        reader=_hmdb51,
        counts={split: (3570, 1530) for split in "123"},
        splits=("1", "2", "3"),
        archives=(
            Archive(
                "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/test_train_splits.rar",
                "sha256",
                "229c94f845720d01eb3946d39f39292ea962d50a18136484aa47c1eba251d2b7",
            ),
            Archive(
                "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10/hmdb51_org.rar",
                "sha256",
                "9e714a0d8b76104d76e932764a7ca636f929fff66279cda3f2e326fa912a328e",
            ),
        ),
    ),
    "kinetics400": Source(  # without counts: it shrinks from year to year
        reader=_from_table,
        extra=re.compile(r"_\d{6}_\d{6}$"),
        lists=ListFiles(
            train=("kinetics-400_train.csv", "kinetics_400_train.csv", "kinetics400_train.csv", "kinetics_train.csv",
                   "kinetics400_train_list_videos.txt", "train.csv"),
            val=("kinetics-400_val.csv", "kinetics_400_val.csv", "kinetics400_val.csv", "kinetics_val.csv",
                 "kinetics400_val_list_videos.txt", "validate.csv", "val.csv"),
            classes=("kinetics_400_labels.csv", "kinetics_label_map_k400.txt", "kinetics_label_map.txt",
                     "kinetics_400_categroies.txt"),
        ),
    ),
    "sthv1": Source(
        reader=_from_table,
        counts={"1": (86_017, 11_522)},
        flip="swap",
        lists=ListFiles(
            train=("something-something-v1-train.csv", "somesomev1_rgb_train_split.txt", "train_videofolder.txt"),
            val=("something-something-v1-validation.csv", "somesomev1_rgb_validation_split.txt",
                 "val_videofolder.txt"),
            classes=("something-something-v1-labels.csv", "category.txt", "sthv1_label_map.txt"),
        ),
    ),
    "sthv2": Source(
        reader=_from_table,
        counts={"1": (168_913, 24_777)},
        flip="swap",
        lists=ListFiles(
            train=("something-something-v2-train.json", "somesomev2_rgb_train_split.txt", "train_videofolder.txt",
                   "train.json"),
            val=("something-something-v2-validation.json", "somesomev2_rgb_validation_split.txt",
                 "val_videofolder.txt", "validation.json"),
            classes=("something-something-v2-labels.json", "category.txt", "sthv2_label_map.txt", "labels.json"),
        ),
    ),
    "jester": Source(
        reader=_from_table,
        counts={"1": (118_562, 14_787)},
        flip=False,
        lists=ListFiles(
            train=("jester-v1-train.csv", "train_videofolder.txt"),
            val=("jester-v1-validation.csv", "val_videofolder.txt"),
            classes=("jester-v1-labels.csv", "category.txt", "jester_label_map.txt"),
        ),
    ),
}  # fmt: skip
"""Every data set with official lists. Digests of archives are those of TFDS and torchvision."""
