"""What a user names -> videos with names: files, folders, patterns, addresses, cameras, and lists of parts."""

import glob
import math
import os
from collections.abc import Iterable
from pathlib import Path

from mdtnet.data.container import Part
from mdtnet.data.folders import find_videos
from mdtnet.data.suffixes import is_image, is_video
from mdtnet.data.tables import field_of, read_layout, read_rows, read_times
from mdtnet.errors import DataError
from mdtnet.inference.sources import name_of, scheme_of


def find_items(sources: Iterable[str | Path], *, listed: str = "", root: str = "") -> dict[str, Part]:
    """Name -> video of all sources, and of the list file `listed`, whose paths are relative to `root`.

    Names are paths as they are given; those in a single folder, and those of a list, are relative to it.

    Raises:
        DataError: see `expand_sources` and `read_list`; or two videos have one name.
    """
    sources = [os.fspath(source) for source in sources]
    if listed:
        place = root or os.path.dirname(listed)
        found = {name_of(part): _placed(packed, place) for part, packed in read_list(listed, root)}
        return found | ({path: Part(path) for path in expand_sources(sources)} if sources else {})
    paths = expand_sources(sources)
    if len(sources) == 1 and os.path.isdir(sources[0]) and paths != sources:
        return {os.path.relpath(path, sources[0]): Part(path) for path in paths}
    return {name_of(path): Part(path) for path in paths}


def _placed(part: Part, root: str) -> Part:
    return part if scheme_of(part.path) else Part(os.path.join(root, part.path), part.start, part.end)


def read_list(path: str, root: str = "") -> list[tuple[Part, Part]]:
    """Videos of a list file, with `start` and `end` where it has these columns; labels are not looked at.

    Each is a pair: as it is named, and where it lies, which differ in a list of packed videos.

    A list has a header row with `path`, or one path per row, or rows as those of `load_videos`.

    Raises:
        DataError: it cannot be read, or a row has no reading.
    """
    layout = read_layout(path, root or os.path.dirname(path), labels=False)
    found = []
    for row, fields in read_rows(path, layout):
        start, end = read_times(path, row, fields, layout)
        times = [None if math.isnan(time) else time for time in (start, end)]
        named, packed = field_of(fields, layout, "path"), field_of(fields, layout, "packed")
        found.append((Part(named, *times), Part(packed or named, *times)))
    if not found:
        raise DataError(f"{path}: the list is empty")
    return found


def expand_sources(sources: Iterable[str | Path]) -> list[str]:
    """Files, folders and glob patterns -> videos, each once; sorted within a folder or a pattern.

    A folder stands for the videos in it and in the folders below it, behind links too, or, where it holds images, for
    itself: a video as a folder of frames. A file counts whatever its extension, even a missing one: reading it shows
    what is wrong. Addresses, cameras and `-` stand for themselves.

    Raises:
        DataError: a folder without videos, a pattern that nothing matches, or no source at all.
    """
    found: list[str] = []
    for source in (os.fspath(source) for source in sources):
        if os.path.isdir(source):
            found += _in_folder(source)
        elif glob.has_magic(source) and not os.path.exists(source) and not scheme_of(source):
            found += _matching(source)
        else:
            found.append(source)
    if not found:
        raise DataError("no videos given: expected files, folders or patterns such as clips/*.mp4")
    return list(dict.fromkeys(found))


def _in_folder(folder: str) -> list[str]:
    try:
        found = find_videos(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    if not found.videos:
        only = f", only {found.left_out()}" if found.others else ""
        raise DataError(f"{folder}: no videos in this folder or below it{only}")
    return [folder if name == "." else os.path.join(folder, name) for name in found.videos]


def _matching(pattern: str) -> list[str]:
    matches = sorted(glob.glob(pattern, recursive=True))
    videos = [path for path in matches if os.path.isfile(path) and is_video(path)]
    frames = [path for path in matches if os.path.isdir(path) and _holds_images(path)]
    if not videos and not frames:
        other = f"; {len(matches)} other files match" if matches else ""
        raise DataError(f"{pattern}: no video matches this pattern{other}")
    return sorted(videos + frames)


def _holds_images(folder: str) -> bool:
    return any(map(is_image, os.listdir(folder)))
