"""Files of the zoo on this disk: found, or fetched once and checked ever after."""

import hashlib
import json
import logging
import os
import sys
import zlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mdtnet.errors import CheckpointError
from mdtnet.system.files import atomic_write, make_folder
from mdtnet.zoo.table import Entry, mirror

if TYPE_CHECKING:
    from mdtnet.zoo.fetch import Progress

log = logging.getLogger(__name__)

HOME, OFFLINE = "MDTNET_HOME", "MDTNET_OFFLINE"
"""Environment variables: the cache folder; anything but empty or 0: no downloads."""


class Note(NamedTuple):
    """Facts of a file, noted when it is first seen."""

    sha256: str
    address: str
    """Where it came from; a path of this disk where it was put there by hand."""
    date: str


def store_folder() -> Path:
    """Folder of downloaded checkpoints: `zoo` in `MDTNET_HOME`, or in mdtnet's folder in the platform's cache."""
    if own := os.environ.get(HOME):
        return Path(own).expanduser() / "zoo"
    if sys.platform == "win32":
        cache = Path(os.environ.get("LOCALAPPDATA", "~/AppData/Local"))
    elif sys.platform == "darwin":
        cache = Path("~/Library/Caches")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return cache.expanduser() / "mdtnet" / "zoo"


def is_offline() -> bool:
    """Whether `MDTNET_OFFLINE` forbids downloads."""
    return os.environ.get(OFFLINE, "") not in ("", "0")


def stored_file(entry: Entry) -> Path:
    """Place of the entry's file in the store, in a folder of its name: files of two names can be called the same."""
    return store_folder() / entry.name / entry.file


def local_file(entry: Entry) -> Path | None:
    """The entry's file where it is on this disk: in the store, in a mirror's folder, or beside an own table."""
    for path in (stored_file(entry), *_local_addresses(entry)):
        if path.is_file():
            return path
    return None


def obtain(entry: Entry, *, progress: "Progress | None" = None) -> Path:
    """The entry's file, fetched where it is not on this disk; its digest is that of the first time.

    Several addresses are tried in turn. A download that was interrupted goes on; of several processes one fetches,
    the others wait. The file is never opened here.

    Raises:
        CheckpointError: it cannot be had, or is another file than it was; the message says what to do by hand.
    """
    path = local_file(entry)
    if path is None:
        if is_offline():
            raise CheckpointError(f"{entry.name}: not on this disk, and offline ({OFFLINE}); {_by_hand(entry)}")
        if entry.by_hand and not mirror():
            raise CheckpointError(f"{entry.name}: cannot be fetched automatically; {_by_hand(entry)}")
        path = _fetch(entry, progress)
    _check(entry, path)
    return path


def steps_by_hand(entry: Entry) -> list[str]:
    """How to fetch the file by hand, line by line."""
    target = stored_file(entry)
    if not entry.by_hand:
        return [f"fetch {entry.addresses[0]}", f"put it at {target}"]
    return [
        f"open {entry.addresses[0]} in a browser and download the checkpoint of the model (a .pth or .pth.tar file);",
        f"or with the package gdown: gdown {'--folder ' * ('/folders/' in entry.addresses[0])}{entry.addresses[0]}",
        f"put that file at {target}",
        f"then use the name {entry.name} like any other",
    ]


def _by_hand(entry: Entry) -> str:
    return "; ".join(step.removesuffix(";") for step in steps_by_hand(entry))


def _is_http(address: str) -> bool:
    return address.startswith(("http://", "https://"))


def _addresses(entry: Entry) -> list[str]:
    """Where the file is looked for: in the mirror alone where there is one."""
    own = mirror()
    return [f"{own}/{entry.file}"] if own else list(entry.addresses)


def _local_addresses(entry: Entry) -> list[Path]:
    return [entry.folder / address for address in _addresses(entry) if "://" not in address]


def _fetch(entry: Entry, progress: "Progress | None") -> Path:
    from filelock import FileLock  # neither is needed to list names

    from mdtnet.zoo.fetch import FetchError

    path = stored_file(entry)
    folder = path.parent
    make_folder(folder)
    with FileLock(folder / f"{entry.file}.lock"):
        if path.is_file():  # another process has fetched it meanwhile
            return path
        log.info("%s", entry.licence_line)
        failures = []
        for address in _addresses(entry):
            part = folder / f"{entry.file}.{zlib.crc32(address.encode()):08x}.part"
            try:
                _fetch_from(address, part, entry, progress)
            except FetchError as error:
                failures.append(f"{address}: {error}")
                continue
            _note(entry, sha256(part), address)
            os.replace(part, path)
            for other in folder.glob(f"{entry.file}.*.part"):
                other.unlink()
            return path
    raise CheckpointError(f"{entry.name}: cannot be downloaded ({'; '.join(failures)}); {_by_hand(entry)}")


def _fetch_from(address: str, part: Path, entry: Entry, progress: "Progress | None") -> None:
    from mdtnet.zoo.fetch import FetchError, fetch_part

    if not _is_http(address):
        raise FetchError("no such file" if "://" not in address else "expected an address with http or https")
    log.info("fetching %s", address)
    fetch_part(address, part, progress=progress)
    digest = sha256(part)
    if not digest.startswith(entry.sha256_prefix):
        part.unlink()
        raise FetchError(f"sha256 begins with {digest[:8]}, expected {entry.sha256_prefix}: another file, or damaged")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note_file(entry: Entry) -> Path:
    path = stored_file(entry)
    return path.with_name(f"{path.name}.json")


def _note(entry: Entry, digest: str, address: str) -> None:
    note = Note(digest, address, datetime.now(UTC).isoformat(timespec="seconds"))
    atomic_write(_note_file(entry), lambda file: file.write(json.dumps(note._asdict(), indent=1).encode()))


def noted(entry: Entry) -> Note | None:
    """The facts noted when the entry's file was first seen, or None."""
    try:
        values = json.loads(_note_file(entry).read_text(encoding="utf-8"))
        return Note(str(values["sha256"]), str(values["address"]), str(values["date"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{_note_file(entry)}: cannot be read; delete it to note the file anew") from error


def _check(entry: Entry, path: Path) -> None:
    digest, note = sha256(path), noted(entry)
    if not digest.startswith(entry.sha256_prefix):
        raise CheckpointError(
            f"{path}: sha256 begins with {digest[:8]}, expected {entry.sha256_prefix}: delete it to fetch it again"
        )
    if note is None:
        with suppress(OSError):  # a store that cannot be written into
            stored_file(entry).parent.mkdir(parents=True, exist_ok=True)
            _note(entry, digest, str(path))
    elif digest != note.sha256:
        raise CheckpointError(
            f"{path}: changed since {note.date} (sha256 is {digest}, was {note.sha256}); delete it and "
            f"{_note_file(entry)} to fetch it again"
        )
