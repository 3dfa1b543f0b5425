"""Folder -> the videos in it and below it: files and folders of frames, behind links too; others are counted."""

import os
from collections import Counter
from dataclasses import dataclass, field

from mdtnet.data.suffixes import is_image, is_video

SYSTEM = {
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@tmp", "__macosx", "lost+found", "$recycle.bin"),
    *("system volume information", "recycler", "found.000", "__pycache__"),
}
"""Folders of systems and network drives, in lower case."""
BESIDE = {
    *(".txt", ".csv", ".tsv", ".json", ".yaml", ".yml", ".xml", ".md", ".html", ".pdf", ".srt", ".vtt", ".ass", ".sub"),
    *(".log", ".ini", ".db", ".npy", ".npz", ".pkl", ".mat", ".zip", ".rar", ".gz", ".tar", ".md5", ".sha256", ".py"),
}
"""Files that lie beside videos and are no videos."""


@dataclass
class Found:
    """Videos relative to a folder, sorted, and the suffixes of files that are none by their names."""

    videos: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def left_out(self) -> str:
        """`3 .xyz, 1 without a suffix`, or nothing."""
        return ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(self.others.items()))


def is_system(name: str) -> bool:
    """Whether a folder is hidden, or belongs to a system or a network drive."""
    return name.startswith(".") or name.lower() in SYSTEM


def find_videos(folder: str) -> Found:
    """Videos in a folder and below it; a folder of pictures without videos is one video, a folder of frames.

    Links are followed, but no folder is visited twice.

    Raises:
        OSError: the folder cannot be read.
    """
    found = Found()
    _search(folder, "", found, {os.path.realpath(folder)})
    found.videos.sort()
    return found


def _search(root: str, place: str, found: Found, seen: set[str]) -> None:
    pictures = videos = 0
    below: list[str] = []
    with os.scandir(os.path.join(root, place)) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = os.path.join(place, entry.name)
            if entry.is_dir():
                below += [] if is_system(entry.name) else [name]
            elif is_video(entry.name):
                found.videos.append(name)
                videos += 1
            elif is_image(entry.name):
                pictures += 1
            elif not entry.name.startswith(".") and (suffix := _suffix(entry.name)) not in BESIDE:
                found.others[suffix] += 1
    if pictures and not videos:
        found.videos.append(place or ".")
    for name in below:
        real = os.path.realpath(os.path.join(root, name))
        if real not in seen:
            seen.add(real)
            _search(root, name, found, seen)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
