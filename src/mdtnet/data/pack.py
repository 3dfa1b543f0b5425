"""A list of videos -> plain tar files with an index, for storage that is slow with many small files.

The result is a folder of work (`mdtnet.work.parts`, a row per tar file) that also has

    pack-00003.tar   some of the videos, in random order: 00000012.avi, 00000012.cls (its label's number) and
                     00000012.json (its rows in the list), as readers of WebDataset expect them
    pack-00003.csv   where each of them begins (`mdtnet.data.archive`)
    index.csv        the list, in its own order and with its own names, and where each video lies
    classes.txt      its classes
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import numpy as np

from mdtnet.config import Values
from mdtnet.data.annotations import Sample, Texts, VideoList, write_list
from mdtnet.data.archive import SUFFIX, Member, ends_of, place_of, write_index
from mdtnet.data.container import Decoder, Part, open_video, short_reason
from mdtnet.data.frames import resize
from mdtnet.data.images import frame_files, is_picture, read_image
from mdtnet.data.rgb import Converter
from mdtnet.data.suffixes import is_image
from mdtnet.errors import VideoError
from mdtnet.system.files import atomic_write, write_text
from mdtnet.work import parts
from mdtnet.work.parts import WHOLE, Shard

Rows = Iterator[tuple[str, Values]]

INDEX, CLASSES = "index.csv", "classes.txt"
CLOCK = 90_000  # ticks per second of scaled videos
FOLDER_FPS = Fraction(25)  # of scaled folders of frames, which have no times
CODING = {"crf": "18", "g": "12", "bf": "0", "preset": "veryfast"}  # a key frame is never far: single frames are wanted


@dataclass(frozen=True)
class Video:
    """A video to be packed: its number, which is its name in the tar file, and its rows in the list."""

    number: int
    sample: Sample
    rows: list[Values]

    @property
    def key(self) -> str:
        return f"{self.number:08}"


@dataclass(frozen=True)
class Task:
    """One tar file."""

    videos: list[Video]
    short_side: int
    """In pixels; 0: the files as they are."""


def pack(
    videos: VideoList,
    tasks: dict[str, Task],
    out: str | os.PathLike,
    *,
    compute: Callable[[dict[str, Task]], Rows] | None = None,
    shard: Shard = WHOLE,
    progress: Callable[[int], None] | None = None,
) -> VideoList | None:
    """Write all tar files, `tasks` of `tasks_of(videos)`, and the list of what is in them, into the folder `out`.

    Args:
        compute: runs the job `WriteTar(out)` on tar files; None: here, one after the other.
        shard: write these tar files alone.
        progress: called with the number of tar files done.

    Returns:
        The list of packed videos; None where tar files of other shards are not written yet, or some have an error, as
        the rows of the folder say.

    Raises:
        ConfigError: the folder holds other work, or another process works on the same shard.
    """
    out = Path(out)

    def rows(names: Sequence[str]) -> Rows:
        chosen = {name: tasks[name] for name in names}
        job = WriteTar(os.fspath(out))
        return compute(chosen) if compute else ((name, job((name, task))) for name, task in chosen.items())

    def keep(row: Values) -> bool:
        name = str(row["name"])
        return not row.get("error") and (out / name).exists() and (out / name).with_suffix(".csv").exists()

    first = next(iter(tasks.values()))
    about: Values = {"verb": "data pack", "list": _digest(videos), "per_tar": len(first.videos)}
    about |= {"short_side": first.short_side, "root": videos.root}  # other videos can have the same names
    shown = None if progress is None else lambda done, total: progress(done)
    parts.do(tasks, rows, out, about=about, shard=shard, keep=keep, progress=shown)
    kept = parts.read_rows(out, keep=keep)
    if not all(name in kept and keep(kept[name]) for name in tasks):
        return None
    packed = _packed(videos, tasks, out)
    write_list(out / INDEX, packed, root=os.fspath(out))
    write_text(out / CLASSES, "".join(f"{name}\n" for name in videos.classes))
    return packed


def tasks_of(videos: VideoList, *, per_tar: int = 1000, short_side: int = 0) -> dict[str, Task]:
    """Name of each tar file -> what is in it, at most `per_tar` videos.

    The order is random: who reads them one after the other has no other. A file that several rows of the list have
    parts of is packed once. With `short_side`, in pixels, videos are coded anew as H.264 of this short side.
    """
    found: dict[str, Video] = {}
    for i in range(len(videos)):
        sample, label = videos[i], videos.label_text(i)
        row: Values = {"path": videos.paths[videos.rows[i]], "label": label}
        row |= {"number": sample.label} if not videos.multi_label else {}
        row |= {key: value for key, value in (("start", sample.start), ("end", sample.end)) if value is not None}
        found.setdefault(sample.path, Video(len(found), sample, [])).rows.append(row)
    every = list(found.values())
    order = np.random.default_rng(0).permutation(len(every)).tolist()
    return {
        f"pack-{k:05}{SUFFIX}": Task([every[i] for i in order[first : first + per_tar]], short_side)
        for k, first in enumerate(range(0, len(order), per_tar))
    }


def _packed(videos: VideoList, tasks: dict[str, Task], out: Path) -> VideoList:
    """The list, with the place of each video."""
    place = {
        video.sample.path: f"{tar}/{video.key}{_suffix(video, task)}"
        for tar, task in tasks.items()
        for video in task.videos
    }
    places = [""] * len(videos.paths)
    for i, row in enumerate(videos.rows.tolist()):
        places[row] = place[videos[i].path]
    return replace(videos, root=os.path.abspath(out), packed=Texts.of(places), num_frames=None)


def _digest(videos: VideoList) -> str:
    digest = hashlib.sha256()
    for i in range(len(videos)):
        digest.update(f"{videos.name(i)}\0{videos.label_text(i)}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _suffix(video: Video, task: Task) -> str:
    return ".mp4" if task.short_side else Path(video.sample.path).suffix.lower()


@dataclass
class WriteTar:
    """Writes a tar file per call, whole or not at all, and its index."""

    out: str

    def __call__(self, item: tuple[str, Task], /) -> Values:
        name, task = item
        try:
            size = write_tar(Path(self.out, name), task)
        except VideoError as error:
            return {"videos": 0, "bytes": 0, "error": f"{error}: not packed; mdtnet data check leaves such videos out"}
        return {"videos": len(task.videos), "bytes": size, "error": ""}

    def failed(self, item: tuple[str, Task], reason: str, /) -> Values:
        """The row of a tar file whose process did not survive it."""
        return {"videos": 0, "bytes": 0, "error": reason}


def write_tar(path: Path, task: Task) -> int:
    """Write one tar file and its index; returns its bytes.

    Raises:
        VideoError: a video cannot be read, or is a folder of frames that is to stay as it is.
    """
    checksums: dict[str, int] = {}

    def write(file: BinaryIO) -> None:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for video in task.videos:
                name = video.key + _suffix(video, task)
                checksums[name] = _add_scaled(tar, name, video, task) if task.short_side else _add(tar, name, video)
                if len(video.rows) == 1 and "number" in video.rows[0]:
                    _add_bytes(tar, f"{video.key}.cls", str(video.rows[0]["number"]).encode())
                _add_bytes(tar, f"{video.key}.json", json.dumps(video.rows).encode())

    atomic_write(path, write)
    with tarfile.open(path) as tar:
        members = [Member(m.name, m.offset_data, m.size, checksums[m.name]) for m in tar if m.name in checksums]
    write_index(path, members)
    return path.stat().st_size


def _add(tar: tarfile.TarFile, name: str, video: Video) -> int:
    """Add a file as it is; returns its checksum."""
    path = video.sample.path
    if os.path.isdir(path) or is_image(path):
        raise VideoError(path, "pictures are packed with a short side alone, which makes a video of them")
    try:
        place = place_of(path)
        size, _, _ = ends_of(path, 1)
        with open(place.tar if place else path, "rb") as file:
            file.seek(place.member.offset if place else 0)
            source = _Summed(file)
            tar.addfile(_about(name, size), source)  # type: ignore[arg-type]  # all that it does is read
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from error
    return source.checksum


class _Summed:
    """A file that is read once, and its checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.checksum = file, 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.checksum = zlib.crc32(content, self.checksum)
        return content


def _add_scaled(tar: tarfile.TarFile, name: str, video: Video, task: Task) -> int:
    content = scaled(video.sample, task.short_side)
    _add_bytes(tar, name, content)
    return zlib.crc32(content)


def _add_bytes(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    tar.addfile(_about(name, len(content)), io.BytesIO(content))


def _about(name: str, size: int) -> tarfile.TarInfo:
    """What a tar file says of a file: the same on every machine and day."""
    found = tarfile.TarInfo(name)
    found.size = size
    return found


def scaled(sample: Sample, short_side: int) -> bytes:
    """A video, or a folder of frames at 25 frames per second, as H.264 in mp4, upright, with the same frames and times.

    Raises:
        VideoError: it cannot be read.
    """
    try:
        content = _coded(_frames(sample, short_side))
    except (av.FFmpegError, ValueError, MemoryError) as error:
        raise VideoError(sample.path, f"cannot be coded anew: {short_reason(error)}") from error
    if not content:
        raise Part(sample.path).no_frames()
    return content


def _coded(frames: Iterator[tuple[Fraction, float, np.ndarray]]) -> bytes:
    """A file of these frames; no bytes without a frame."""
    buffer, stream, last = io.BytesIO(), None, -1
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        for fps, seconds, pixels in frames:
            stream = stream or _stream(container, pixels, fps)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(stream.width, stream.height, "yuv420p", interpolation="BILINEAR", threads=1)
            last = max(last + 1, round(seconds * CLOCK))  # in damaged files two frames can have one time
            frame.pts, frame.time_base = last, Fraction(1, CLOCK)
            container.mux(stream.encode(frame))
        if stream is None:
            return b""
        container.mux(stream.encode())
    return buffer.getvalue()


def _stream(container: Any, pixels: np.ndarray, fps: Fraction) -> Any:
    stream = container.add_stream("libx264", rate=fps)
    height, width = (max(2, round(side / 2) * 2) for side in pixels.shape[:2])  # halves of pixels have one colour
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.codec_context.time_base = Fraction(1, CLOCK)
    stream.thread_count = 1
    stream.options = CODING
    return stream


def _frames(sample: Sample, short_side: int) -> Iterator[tuple[Fraction, float, np.ndarray]]:
    """Frames per second, and of each frame seconds after the first one and RGB `[H, W, 3]` of this short side."""
    path = sample.path
    if os.path.isdir(path) or (is_image(path) and is_picture(path)):
        files = [os.path.join(path, name) for name in frame_files(path)] if os.path.isdir(path) else [path]
        for i, file in enumerate(files):
            yield FOLDER_FPS, float(i / FOLDER_FPS), resize(read_image(file, owner=path), short_side)
        return
    convert = Converter(path, short_side)
    with open_video(path, threads=1) as (container, stream):
        for seconds, frame in Decoder(Part(path), container, stream):
            yield stream.average_rate or FOLDER_FPS, seconds, resize(convert(frame), short_side)
