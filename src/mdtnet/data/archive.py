"""Videos inside of plain tar files: `DIR/pack-00003.tar/walk/a.mp4` is a path like that of any other file.

Beside each tar lies its index, `pack-00003.csv`: where each of its files begins, how many bytes it has, and their
checksum, so that one is found without reading those before it.
"""

import csv
import io
import os
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path

from mdtnet.errors import VideoError
from mdtnet.system.files import write_csv

SUFFIX = ".tar"
INSIDE = f"{SUFFIX}{os.sep}"
CHUNK = 2**20
KEPT = 1024  # indices of tar files that a process remembers

_right: set["Place"] = set()  # those that this process has found to have their checksum


@dataclass(frozen=True)
class Member:
    """A file inside of a tar file: `size` bytes from `offset` on, with a checksum (CRC-32)."""

    name: str
    offset: int
    size: int
    checksum: int


@dataclass(frozen=True)
class Place:
    """A member and its tar file."""

    tar: str
    member: Member
    changed: int
    """Time of the tar file's last change, ns."""

    @property
    def address(self) -> str:
        """What FFmpeg reads it by."""
        end = self.member.offset + self.member.size
        return f"subfile,,start,{self.member.offset},end,{end},,:file:{self.tar}"


def place_of(path: str) -> Place | None:
    """Where a video inside of a tar file lies; None of any other path.

    Raises:
        VideoError: the tar file or its index is missing or damaged, or does not hold it.
    """
    if INSIDE not in path:
        return None
    tar, _, name = path.rpartition(INSIDE)
    tar += SUFFIX
    if not os.path.isfile(tar):
        if os.path.lexists(path) or os.path.isdir(tar):  # a folder whose name ends so
            return None
        raise VideoError(path, f"no such file: there is no {tar}")
    index = f"{tar.removesuffix(SUFFIX)}.csv"
    try:
        changed = os.stat(tar).st_mtime_ns
        members = _index(index, os.stat(index).st_mtime_ns)
    except FileNotFoundError as error:
        raise VideoError(path, f"the index of its tar file, {index}, is missing") from error
    except (OSError, ValueError, csv.Error) as error:
        raise VideoError(path, f"the index of its tar file, {index}, is damaged: {error}") from error
    if name not in members:
        raise VideoError(path, f"no such file in {tar}, which holds {len(members)} others by its index")
    return Place(tar, members[name], changed)


@lru_cache(maxsize=KEPT)
def _index(path: str, changed: int) -> dict[str, Member]:
    """Name -> member, by an index that was last changed at that time."""
    text = Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if rows.fieldnames != [field.name for field in fields(Member)]:
        raise ValueError(f"its columns are {rows.fieldnames}")
    return {row["name"]: _member(row) for row in rows}


def _member(row: dict[str, str]) -> Member:
    numbers = [row[key] for key in ("offset", "size", "checksum")]
    if not all(number and len(number) < 19 and number.isdecimal() for number in numbers):
        raise ValueError(f"a row holds {numbers}, expected numbers")
    return Member(row["name"], *map(int, numbers))


def write_index(tar: Path, members: Iterable[Member]) -> None:
    """Write the index of a tar file, beside it."""
    write_csv(tar.with_suffix(".csv"), tuple(f.name for f in fields(Member)), [asdict(m) for m in members])


def check(path: str, place: Place) -> None:
    """Compare a member with its checksum, once in a process.

    Raises:
        VideoError: they differ.
        OSError: it cannot be read.
    """
    if place in _right:
        return
    left, checksum = place.member.size, 0
    with open(place.tar, "rb") as file:
        file.seek(place.member.offset)
        while left and (chunk := file.read(min(CHUNK, left))):
            left, checksum = left - len(chunk), zlib.crc32(chunk, checksum)
    if left or checksum != place.member.checksum:
        reason = "is shorter than its index says" if left else "holds other bytes than its index says"
        raise VideoError(path, f"{place.tar} {reason}: damaged, or of another set")
    _right.add(place)


def file_stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a file, which may be inside of a tar file.

    Raises:
        VideoError: see `place_of`.
        OSError: there is no such file.
    """
    if place := place_of(path):
        return place.member.size, place.changed
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def ends_of(path: str, size: int) -> tuple[int, bytes, bytes]:
    """Size in bytes of a file, which may be inside of a tar file, its first `size` bytes, and its last ones.

    Raises:
        VideoError: see `place_of`.
        OSError: it cannot be read.
    """
    place = place_of(path)
    with open(place.tar if place else path, "rb") as file:
        begin, whole = (place.member.offset, place.member.size) if place else (0, os.fstat(file.fileno()).st_size)
        file.seek(begin)
        head = file.read(min(size, whole))
        file.seek(begin + max(0, whole - size))
        return whole, head, file.read(min(size, whole))


def is_there(path: str) -> bool:
    """Whether there is a file or folder of this path, or a file of this path in a tar file."""
    try:
        return place_of(path) is not None or os.path.exists(path)
    except VideoError:
        return False
