"""Much work as one item -> one row: rows are appended as they come, a rerun skips what is there, shards divide it.

A folder of work holds

    work.json               what is computed: the settings that all of its rows share
    part-003-of-016.jsonl   rows of shard 3 of 16, one JSON object per line, in the order in which they came
    part-003-of-016.done    how many rows it has, once the shard is finished

so that any number of machines that see the same folder can share one piece of work, each with a shard of its own,
and `merge` makes one table of it. An item that fails is a row with `error`, and is tried again by the next run.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mdtnet.config import Plain, Values
from mdtnet.errors import ConfigError, DataError
from mdtnet.system.files import atomic_write, make_folder
from mdtnet.system.locks import locked

FORMAT_VERSION = 1
ABOUT = "work.json"
PART = re.compile(r"part-(\d+)-of-(\d+)\.jsonl")

Compute = Callable[[Sequence[str]], Iterable[tuple[str, Values]]]
"""Names of items -> name and row of each, in the order in which they are done."""


@dataclass(frozen=True)
class Shard:
    """A part of the items, the same on every machine: those with a hash of their name that leaves `number` - 1."""

    number: int = 1
    """From 1."""
    count: int = 1
    """Number of shards."""

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`3/16`, the third of sixteen.

        Raises:
            ConfigError: the text is something else.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ConfigError(f"shard is '{text}', expected NUMBER/COUNT from 1/COUNT to COUNT/COUNT, such as 3/16")
        return cls(int(found[1]), int(found[2]))

    def holds(self, name: str) -> bool:
        """Whether an item is in this shard."""
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1

    @property
    def stem(self) -> str:
        """Name of its files, without suffix."""
        return f"part-{self.number:03}-of-{self.count:03}"


WHOLE = Shard()


def do(
    names: Iterable[str],
    compute: Compute,
    folder: str | Path,
    *,
    about: Values,
    shard: Shard = WHOLE,
    keep: Callable[[Values], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Compute the rows of a shard that are not in the folder yet, and append each as soon as it is there.

    `names` are those of all items, whatever the shard; each row gets its item's as `name`. `about` says what is
    computed: a folder that holds other work is refused. Rows with an `error`, and those that `keep` does not want, are
    computed again. `progress` is called with the items done and the items of the shard. Returns the number of new rows.

    Raises:
        ConfigError: the folder cannot be written to, holds other work, or another process works on the same shard.
        DataError: two items have the same name.
    """
    folder = Path(folder)
    mine = [name for name in _each_once(names) if shard.holds(name)]
    make_folder(folder)
    _claim(folder, about)
    with _part(folder / f"{shard.stem}.jsonl") as part:
        done = {name for name, row in read_rows(folder, keep=keep).items() if _is_good(row, keep)}
        todo = [name for name in mine if name not in done]
        count = len(mine) - len(todo)
        if progress:
            progress(count, len(mine))
        for name, row in compute(todo) if todo else ():
            _append(part, {"name": name, **row})
            count += 1
            if progress:
                progress(count, len(mine))
        if count < len(mine):
            raise DataError(f"{folder}: {len(mine) - count} of {len(mine)} items have no row; the same command goes on")
        finished = json.dumps({"rows": len(mine)}).encode()
        atomic_write(folder / f"{shard.stem}.done", lambda file: file.write(finished))
    return len(todo)


def _is_good(row: Values, keep: Callable[[Values], bool] | None) -> bool:
    return not row.get("error") and (keep is None or keep(row))


def _each_once(names: Iterable[str]) -> list[str]:
    found = list(names)
    if len(set(found)) < len(found):
        twice = next(name for i, name in enumerate(found) if name in found[:i])
        raise DataError(f"{twice}: given twice, expected each item once")
    return found


def _claim(folder: Path, about: Values) -> None:
    """Say what the folder is for, or see that it is for the same.

    Raises:
        ConfigError: it holds other work; the first difference is named.
    """
    path = folder / ABOUT
    ours: Values = json.loads(json.dumps({"format_version": FORMAT_VERSION, **about}))
    if not path.exists():
        text = json.dumps(ours, indent=1, ensure_ascii=False)
        atomic_write(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))
    theirs = read_about(folder)
    for key in dict.fromkeys([*ours, *theirs]):
        if ours.get(key) != theirs.get(key):
            raise ConfigError(
                f"{folder}: holds work with {key} = {theirs.get(key)!r}, not {ours.get(key)!r}: choose another folder"
            )


def read_about(folder: str | Path) -> Values:
    """The settings that the rows of a folder of work share.

    Raises:
        DataError: it is no such folder.
    """
    path = Path(folder, ABOUT)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no {ABOUT}, expected a folder of work") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged, or something else") from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds {str(values)[:50]!r}, expected keys and values")
    version = values.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise DataError(f"{path}: format_version {version}, this mdtnet reads up to {FORMAT_VERSION}: update mdtnet")
    return values


@contextmanager
def _part(path: Path) -> Iterator[BinaryIO]:
    """A part file that nobody else writes to; a line that a crash has cut off is removed.

    Raises:
        ConfigError: another process holds it.
    """
    lock = path.with_suffix(".lock")
    with locked(lock, what=f"{path}: another process is working on this shard"), open(path, "a+b", buffering=0) as raw:
        raw.seek(0)
        content = raw.read() or b""
        raw.truncate(content.rfind(b"\n") + 1)
        yield raw


def _append(part: BinaryIO, row: Values) -> None:
    line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    part.write(line.encode("utf-8", "surrogateescape"))  # one write: a crash leaves whole lines, or a cut last one
    os.fsync(part.fileno())


def read_rows(folder: str | Path, *, keep: Callable[[Values], bool] | None = None) -> dict[str, Values]:
    """Name -> row of all that is done so far, whatever the shard.

    Of several rows of one item the last one without an error that `keep` wants, else the last one. A last line that is
    being written, or that a crash has cut off, is left out.

    Raises:
        DataError: a line is damaged.
    """
    found: dict[str, Values] = {}
    for path in sorted(path for path in Path(folder).iterdir() if PART.fullmatch(path.name)):
        content = path.read_bytes()
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                row: Plain = json.loads(line.decode("utf-8", "surrogateescape"))
            except ValueError as error:
                raise DataError(f"{path}, line {number}: damaged, expected one JSON object") from error
            if not isinstance(row, dict) or not isinstance(row.get("name"), str):
                raise DataError(f"{path}, line {number}: expected an object with a name")
            name = str(row["name"])
            if name not in found or _is_good(row, keep) or not _is_good(found[name], keep):
                found[name] = row
    return found


def merge(folder: str | Path) -> list[Values]:
    """The rows of all shards of a folder, sorted by name.

    Raises:
        DataError: it is no folder of work, or a shard is missing or not finished.
    """
    folder = Path(folder)
    read_about(folder)
    counts = sorted({int(found[2]) for path in folder.iterdir() if (found := PART.fullmatch(path.name))})
    missing = {count: [n for n in range(1, count + 1) if not _is_finished(folder, Shard(n, count))] for count in counts}
    if not missing:
        raise DataError(f"{folder}: nothing is done yet")
    if all(missing.values()):  # of one that was divided anew, one division suffices
        count, shards = min(missing.items(), key=lambda item: len(item[1]) / item[0])
        listed = ", ".join(map(str, shards[:10])) + (" ..." if len(shards) > 10 else "")
        raise DataError(f"{folder}: not finished: shard {listed} of {count}")
    return [row for _, row in sorted(read_rows(folder).items())]


def _is_finished(folder: Path, shard: Shard) -> bool:
    return (folder / f"{shard.stem}.done").exists()


def write_table(rows: Sequence[Values], path: str | Path) -> None:
    """Write merged rows as `.jsonl`, or as `.csv` with a column for every key and JSON in cells that hold more than
    one value.

    Raises:
        ConfigError: another suffix.
    """
    path = Path(path)
    text = io.StringIO(newline="")
    if path.suffix == ".jsonl":
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif path.suffix == ".csv":
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    else:
        raise ConfigError(f"{path}: unknown kind of table '{path.suffix}', expected .csv or .jsonl")
    atomic_write(path, lambda file: file.write(text.getvalue().encode("utf-8", "surrogateescape")))


def _cell(value: Plain) -> Plain:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value
