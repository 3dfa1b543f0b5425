"""Archives of data sets: downloaded with resume and checksum, then unpacked.

Only UCF101 and HMDB51 have plain downloads; the other data sets require an account or an agreement first.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

from mdtnet.data.official import SOURCES, Archive
from mdtnet.errors import DataError
from mdtnet.fetch import FetchError, Progress, fetch_part

log = logging.getLogger(__name__)

UNPACKERS = {  # programs that unpack .rar -> their arguments before the archive and before the folder
    "unrar": (["x", "-o-", "-idq"], []),
    "unar": (["-skip", "-quiet"], ["-output-directory"]),
    "7z": (["x", "-aos", "-bso0"], ["-o"]),
    "bsdtar": (["-x", "-k", "-f"], ["-C"]),
}


def download(name: str, root: str | os.PathLike, *, progress: Progress | None = None) -> None:
    """Fetch and unpack the archives of data set `name` into the folder `root`.

    An archive that is there already is only checked. Unpacked archives are marked, so a second call does nothing.

    Raises:
        DataError: this data set has no plain download, a download fails, a checksum differs, or nothing here
            unpacks .rar.
    """
    archives = SOURCES[name].archives if name in SOURCES else ()
    if not archives:
        with_one = " and ".join(other for other, source in SOURCES.items() if source.archives)
        raise DataError(f"{name} has no plain download, only {with_one} have; see docs/datasets")
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        done = root / f"{archive.name}.unpacked"
        if done.exists():
            continue
        path = root / archive.name
        fetch(archive, path, progress=progress)
        unpack(path, root)
        done.touch()


def fetch(archive: Archive, path: Path, *, progress: Progress | None = None) -> None:
    """Download one file; an interrupted download goes on where it stopped, from `path` + `.part`.

    `progress` is called with the number of bytes so far and in all (0: unknown).

    Raises:
        DataError: the server cannot be reached or refuses, or the checksum differs; the wrong file is removed.
    """
    if not path.exists():
        part = path.with_name(f"{path.name}.part")
        try:
            fetch_part(archive.url, part, size=archive.size, progress=progress)
        except FetchError as error:
            raise DataError(f"{archive.url}: cannot be downloaded: {error}") from error
        if archive.size and part.stat().st_size != archive.size:
            log.warning("%s has %d bytes, expected %d", archive.url, part.stat().st_size, archive.size)
        _check(archive, part)
        os.replace(part, path)
    else:
        _check(archive, path)


def _check(archive: Archive, path: Path) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, archive.hash).hexdigest()
    if found != archive.digest:
        path.unlink()
        raise DataError(f"{path}: {archive.hash} is {found}, expected {archive.digest}; removed, try again")


def unpack(path: Path, folder: Path) -> None:
    """Unpack a .zip or .rar into `folder`; archives inside it (HMDB51: one per class) are unpacked beside it.

    Raises:
        DataError: it is damaged, or nothing here unpacks .rar.
    """
    if path.suffix == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        except zipfile.BadZipFile as error:
            raise DataError(f"{path}: not a zip archive, or damaged") from error
        return
    before = {p for p in folder.glob("*.rar")}
    _unpack_rar(path, folder)
    for inner in sorted({p for p in folder.glob("*.rar")} - before):
        _unpack_rar(inner, folder)
        inner.unlink()


def _unpack_rar(path: Path, folder: Path) -> None:
    program = next((p for p in UNPACKERS if shutil.which(p)), None)
    if program is None:
        raise DataError(f"{path}: install one of {', '.join(UNPACKERS)} to unpack .rar files, then run this again")
    before, target = UNPACKERS[program]
    place = [f"-o{folder}"] if target == ["-o"] else [*target, f"{folder}{os.sep}"]
    found = subprocess.run([program, *before, str(path), *place], capture_output=True, text=True, check=False)
    if found.returncode:
        said = " ".join((found.stderr or found.stdout).split())[-200:]
        raise DataError(f"{path}: {program} cannot unpack it: {said}")
