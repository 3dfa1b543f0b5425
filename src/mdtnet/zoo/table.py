"""The zoo: public checkpoints of the field, each with its facts; a table that opens without torch.

`table.json` holds what the repositories of the checkpoints say about them. None of the files was fetched here.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mdtnet.config import SYSTEMS, TRUNKS, EvalConfig, Plain, System, TrunkName, Values
from mdtnet.config_file import from_dict
from mdtnet.errors import ConfigError, nearest

TABLE, LABELS = (Path(__file__).with_name(name) for name in ("table.json", "labels.json"))
VERSION = 1
VARIABLE = "MDTNET_ZOO"
"""Environment variable: an own table (a .json file), or a mirror (a folder or an http address) of the files."""

PAPERS: dict[str, str] = {
    "tsn": "Wang et al., Temporal Segment Networks: Towards Good Practices for Deep Action Recognition, ECCV 2016",
    "tsm": "Lin et al., TSM: Temporal Shift Module for Efficient Video Understanding, ICCV 2019",
    "tea": "Li et al., TEA: Temporal Excitation and Aggregation for Action Recognition, CVPR 2020",
    "actionnet": "Wang et al., ACTION-Net: Multipath Excitation for Action Recognition, CVPR 2021",
    "tdn": "Wang et al., TDN: Temporal Difference Networks for Efficient Action Recognition, CVPR 2021",
}
"""System -> the paper to cite."""

RESEARCH = "for research only, under the terms of its owner"
TERMS: dict[str, str] = {
    "kinetics400": "annotations CC BY 4.0, videos belong to their uploaders",
    "kinetics600": "annotations CC BY 4.0, videos belong to their uploaders",
    "kinetics700": "annotations CC BY 4.0, videos belong to their uploaders",
    "minikinetics200": "annotations CC BY 4.0, videos belong to their uploaders",
    "sthv1": RESEARCH,
    "sthv2": RESEARCH,
    "jester": RESEARCH,
    "ucf101": "no licence for other than research",
    "hmdb51": "no licence for other than research",
}
"""Data set -> the terms of its videos."""
CLIP_SECONDS: dict[str, float] = {
    **dict.fromkeys(("kinetics400", "kinetics600", "kinetics700", "minikinetics200"), 10.0),
    **{"sthv1": 4.0, "sthv2": 4.0, "jester": 3.0, "moments": 3.0},
}
"""Data set -> usual length of its clips, by its paper."""
DENSE_SECONDS = 64 / 30
"""Length of the 64 frames of dense training, at the frame rate of most videos."""
NO_TERMS = "terms not known here: ask its owner"


@dataclass(frozen=True)
class Figure:
    """A published accuracy, in percent."""

    words: str
    """Its protocol in words."""
    top1: float | None = None
    top5: float | None = None
    map: float | None = None
    """Mean average precision, where a video has several labels."""
    test: EvalConfig | None = None
    """Its protocol; None where no protocol here does the same."""

    def __str__(self) -> str:
        named = (("top-1", self.top1), ("top-5", self.top5), ("mAP", self.map))
        return ", ".join(f"{name} {value:g} %" for name, value in named if value is not None) + f" ({self.words})"


@dataclass(frozen=True)
class Entry:
    """A public checkpoint: what it is, where it lies, what is published about it."""

    name: str
    """SYSTEM-TRUNK-DATA-Tf, and a word where several share these."""
    system: System
    trunk: TrunkName
    data: str
    """Data set that it was trained on."""
    labels: str
    """Order of its classes, a key of `labels.json` where their names are known."""
    classes: int
    """Number of classes."""
    segments: int
    """T in training."""
    addresses: tuple[str, ...]
    """Addresses of the file, in the order they are tried; relative paths start at the table's folder."""
    licence: str = "not stated"
    """Of its repository; none of these gives the weights a licence of their own."""
    source: str = ""
    """Repository and file that say all this."""
    sha256_prefix: str = ""
    """First digits of the file's SHA-256, where they are published."""
    sampling: Literal["uniform", "dense", "stream"] = "uniform"
    """Frames in training: over the whole video, a window of 64 frames, or one after the other."""
    flip: Literal["true", "false", "swap"] = "false"
    """Whether training mirrored clips, as `DataConfig.flip`."""
    start: str = ""
    """Start of its training; empty where it is not known."""
    published: tuple[Figure, ...] = ()
    causal: bool = False
    """Looks at the past alone (online TSM)."""
    multi_label: bool = False
    """A video can have several labels."""
    by_hand: bool = False
    """The address is a page to fetch the file from by hand."""
    recommended: bool = False
    """In the short list: the best file of its system, trunk and data set."""
    notes: tuple[str, ...] = ()
    folder: Path = field(default=TABLE.parent, compare=False)
    """Folder of its table."""

    @property
    def file(self) -> str:
        """Name of the file on disk."""
        return f"{self.name}.pth" if self.by_hand else self.addresses[0].rpartition("/")[2]

    @property
    def terms(self) -> str:
        """Terms of the data that it was trained on."""
        return TERMS.get(self.data, NO_TERMS)

    @property
    def clip_seconds(self) -> float:
        """Usual length of what it saw of a video in training; 0: not known."""
        return DENSE_SECONDS if self.sampling == "dense" else CLIP_SECONDS.get(self.data, 0.0)

    @property
    def licence_line(self) -> str:
        """The licence of the code and the terms of the data, in one line."""
        return f"{self.name}: {self.licence} (its repository); trained on {self.data}: {self.terms}"

    @property
    def protocol(self) -> EvalConfig | None:
        """Protocol of the published figure: of several, of the one with the most views; None where there is none."""
        tests = [figure.test for figure in self.published if figure.test is not None]
        return tests[-1] if tests else None

    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order, or their numbers where the names are not known here."""
        names = _labels(LABELS).get(self.labels)
        return tuple(names) if names else tuple(str(label) for label in range(self.classes))

    @property
    def has_names(self) -> bool:
        """Whether the names of the classes are known here."""
        return self.labels in _labels(LABELS)


def entries() -> tuple[Entry, ...]:
    """All entries: those of an own table that `MDTNET_ZOO` names, then the shipped ones.

    Raises:
        ConfigError: the own table cannot be read, or an entry of it is wrong.
    """
    own = os.environ.get(VARIABLE, "")
    added = load_table(Path(own)) if own.endswith(".json") else ()
    taken = {entry.name for entry in added}
    return (*added, *(entry for entry in _shipped() if entry.name not in taken))


def mirror() -> str:
    """The mirror that `MDTNET_ZOO` names, a folder or an address without the last slash; else empty."""
    own = os.environ.get(VARIABLE, "")
    return "" if own.endswith(".json") else own.rstrip("/")


def entry_named(name: str) -> Entry | None:
    """The entry of this name, or None."""
    return next((entry for entry in entries() if entry.name == name), None)


def nearest_name(name: str) -> str:
    """A phrase with the name most like `name`; empty if none is like it."""
    return nearest(name, [entry.name for entry in entries()])


def chosen(
    found: Iterable[Entry], *, system: str = "", data: str = "", trunk: str = "", recommended: bool = False
) -> list[Entry]:
    """Those of some entries that fit every word that is given.

    Raises:
        ConfigError: no entry at all has this system, data set or trunk.
    """
    found = list(found)
    for key, word in (("system", system), ("data", data), ("trunk", trunk)):
        known = sorted({getattr(entry, key) for entry in found})
        if word and word not in known:
            raise ConfigError(f"--{key} is '{word}', expected one of {', '.join(known)}{nearest(word, known)}")
        found = [entry for entry in found if not word or getattr(entry, key) == word]
    return [entry for entry in found if entry.recommended or not recommended]


@cache
def _shipped() -> tuple[Entry, ...]:
    return load_table(TABLE)


@cache
def _labels(path: Path) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def load_table(path: Path) -> tuple[Entry, ...]:
    """The entries of a table: JSON, `{"version": 1, "checkpoints": [{...}, ...]}` with the fields of `Entry`.

    Raises:
        ConfigError: it cannot be read, or an entry is wrong; the message names the file, the entry and the key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: table of checkpoints cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a table of checkpoints in JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise ConfigError(f"{path}: not a table of checkpoints of version {VERSION}")
    rows = content.get("checkpoints")
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: without a list 'checkpoints'")
    return tuple(_entry(row, where=f"{path}, checkpoint {i}", folder=path.parent) for i, row in enumerate(rows))


KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "system", "trunk", "data", "labels", "licence", "source", "sha256_prefix"), (str,)),
    **dict.fromkeys(("sampling", "flip", "start", "words"), (str,)),
    **dict.fromkeys(("classes", "segments"), (int,)),
    **dict.fromkeys(("causal", "multi_label", "by_hand", "recommended"), (bool,)),
    **dict.fromkeys(("addresses", "published", "notes"), (list,)),
    **dict.fromkeys(("top1", "top5", "map"), (int, float)),
    "test": (dict,),
}
"""Key of a table -> what its value must be."""

CHOICES: dict[str, tuple[str, ...]] = {
    "system": tuple(SYSTEMS),
    "trunk": TRUNKS,
    "flip": ("true", "false", "swap"),
    "sampling": ("uniform", "dense", "stream"),
}
"""Key of a table -> its values."""


def _entry(row: Plain, *, where: str, folder: Path) -> Entry:
    values = _keys(row, Entry, needed=8, where=where)
    where = f"{where} ({values['name']})"
    for key, known in CHOICES.items():
        if key in values and values[key] not in known:
            raise ConfigError(f"{where}: {key} is {values[key]!r}, expected one of {', '.join(known)}")
    if not re.fullmatch(r"[\w.+-]*\w", values["name"]):  # it is a folder's too
        raise ConfigError(f"{where}: name is {values['name']!r}, expected letters, digits and . _ + -")
    for key in ("classes", "segments"):
        if values[key] < 1:
            raise ConfigError(f"{where}: {key} is {values[key]}, expected at least 1")
    addresses = values.pop("addresses")
    if not addresses or not all(isinstance(address, str) for address in addresses):
        raise ConfigError(f"{where}: addresses is {addresses!r}, expected one text or more")
    if not values.get("by_hand") and addresses[0].endswith("/"):
        raise ConfigError(f"{where}: addresses: {addresses[0]!r} ends without the name of a file")
    figures = tuple(_figure(figure, where=where) for figure in values.pop("published", ()))
    notes = tuple(map(str, values.pop("notes", ())))
    return Entry(**values, addresses=tuple(addresses), published=figures, notes=notes, folder=folder)


def _figure(row: Plain, *, where: str) -> Figure:
    values = _keys(row, Figure, needed=1, where=f"{where}: published")
    if "test" in values:
        values["test"] = from_dict(EvalConfig, values["test"], where=where, prefix="test.")
    return Figure(**values)


def said_values(test: EvalConfig) -> Values:
    """The options of a test that are not what they are by default."""
    return {f.name: getattr(test, f.name) for f in fields(test) if getattr(test, f.name) != f.default}


def _keys(row: Plain, kind: type[Entry] | type[Figure], *, needed: int, where: str) -> dict[str, Any]:
    """A mapping of known keys with values of their kind, the first `needed` of them there."""
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is {row!r}, expected keys and values")
    known = [f.name for f in fields(kind) if f.name in KINDS]
    for key, value in row.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'{nearest(key, known)}")
        if type(value) not in KINDS[key]:
            raise ConfigError(f"{where}: {key} is {value!r}, expected {KINDS[key][-1].__name__}")
    if missing := [key for key in known[:needed] if key not in row]:
        raise ConfigError(f"{where}: without {', '.join(missing)}")
    return dict(row)
