"""Decode every video of a list once, and report the usable videos and the faults of the others.

A check is a folder of work (`mdtnet.work.parts`): a row per video, appended as videos finish, so that a stopped check
continues there, and shards can divide it. When all are done it also has `checked.csv`, all rows as a table;
`problems.csv`, those with a problem; `clean.csv` and `classes.txt`, the list without unusable videos.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from mdtnet.config import Values
from mdtnet.config_file import from_dict
from mdtnet.data.annotations import VideoList, write_list
from mdtnet.data.archive import ends_of, place_of
from mdtnet.data.container import best_stream, open_container
from mdtnet.data.images import is_regular
from mdtnet.data.video import VideoInfo, probe, stamp
from mdtnet.errors import ConfigError, DataError, VideoError
from mdtnet.system.files import write_csv, write_text
from mdtnet.work import parts
from mdtnet.work.engines import in_processes
from mdtnet.work.isolated import SLOW
from mdtnet.work.parts import WHOLE, Shard

Rows = Iterator[tuple[str, Values]]
TIMEOUT_SECONDS = 300.0  # for one video

USABLE = ("", "header lies", "damaged", "cut short", "repeated")
"""Kinds that stay in the clean list: headers are never trusted, and `data.on_damaged` decides about damaged videos."""

PASSING = ("crash", "timeout")  # kinds that a busy machine can cause

KINDS = (  # how the reason of a VideoError starts -> kind
    ("no such file", "missing"),
    ("no video stream", "no video stream"),
    ("no frames", "no frames"),
    ("cannot be decoded", "no frames"),
)
ENDS = 2**16  # bytes at both ends of a file that are compared, of files of one size


@dataclass(frozen=True)
class Finding:
    """Result of decoding one video. Sizes in pixels after rotation; `seconds` and `fps` are 0 where it has no times."""

    name: str
    kind: str = ""
    """Empty, or `missing`, `not a video`, `no video stream`, `no frames`, `too short`, `frames missing` (from a folder,
    by its list), `cut short` (by its own duration), `damaged`, `header lies`, `repeated`, `crash` or `timeout`."""
    detail: str = ""
    num_frames: int = 0
    height: int = 0
    width: int = 0
    fps: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    changed: int = 0
    """Time of the file's last change, ns; a check that continues decodes changed files again."""
    damaged: int = 0
    """Frames that are damaged, do not decode, or are missing at the end."""
    total: int = 0
    """Frames that should be there."""


@dataclass(frozen=True)
class Check:
    """Result of a check: every finding in the list's order, and the usable videos."""

    out: Path
    findings: list[Finding]
    clean: VideoList

    @property
    def problems(self) -> list[Finding]:
        """Findings with a problem, usable or not."""
        return [finding for finding in self.findings if finding.kind]


@dataclass(frozen=True)
class Task:
    """One video, as its job needs it."""

    name: str
    path: str
    start: float | None
    end: float | None
    min_frames: int
    listed: int
    frame_pattern: str


def check_videos(
    videos: VideoList,
    out: str | os.PathLike,
    *,
    root: str = "",
    compute: Callable[[dict[str, Task]], Rows] | None = None,
    shard: Shard = WHOLE,
    min_frames: int = 5,
    frame_pattern: str = "",
    other: VideoList | None = None,
    progress: Callable[[int], None] | None = None,
) -> Check | None:
    """Decode all videos and write the tables into the folder `out`.

    Args:
        root: folder that paths in the clean list are relative to; empty: that of `videos`.
        compute: runs the job `Examine` on videos; None: a process that a hostile file can end without harm.
        shard: decode these alone.
        min_frames: a video with fewer is `too short`; a segment of MDT-Net and TDN has 5.
        frame_pattern: names of the frames in folders, as `data.frame_pattern`.
        other: videos that none of these may repeat, such as those of validation.
        progress: called with the number of videos done.

    Returns:
        None where videos of other shards are not checked yet: the last shard writes the tables.

    Raises:
        ConfigError: the folder holds other work, or another process works on the same shard.
    """
    out = Path(out)
    samples = ((videos.name(i), videos[i]) for i in range(len(videos)))
    tasks = [Task(name, s.path, s.start, s.end, min_frames, s.num_frames, frame_pattern) for name, s in samples]
    by_name = {task.name: task for task in tasks}  # of a video that is listed twice one is decoded

    def rows(names: Sequence[str]) -> Rows:
        return (compute or _one_process)({name: by_name[name] for name in names})

    def keep(row: Values) -> bool:
        return row["name"] not in by_name or _still_true(_finding(out, row), by_name[str(row["name"])])

    shown = None if progress is None else lambda done, total: progress(done)
    parts.do(
        by_name, rows, out, about={"verb": "data check", "frame_pattern": frame_pattern}, shard=shard, keep=keep,
        progress=shown,
    )  # fmt: skip
    kept = parts.read_rows(out, keep=keep)
    if any(task.name not in kept or not keep(kept[task.name]) for task in tasks if not shard.holds(task.name)):
        return None
    found = [_finding(out, kept[task.name]) for task in tasks]
    findings = _mark_repeats(found, tasks, videos, other)
    good = np.flatnonzero([finding.kind in USABLE for finding in findings])
    check = Check(out, findings, videos.subset(good))
    _write_results(check, root or videos.root)
    return check


def _one_process(tasks: dict[str, Task]) -> Rows:
    return in_processes(Examine(), tasks, workers=1, timeout_seconds=TIMEOUT_SECONDS)


class Examine:
    """Name and video -> the row of a `Finding`."""

    def __call__(self, item: tuple[str, Task], /) -> Values:
        """Decode one video; never raises."""
        return asdict(examine(item[1]))

    def failed(self, item: tuple[str, Task], reason: str, /) -> Values:
        """The row of a video whose process did not survive it."""
        size, changed = _stamp(item[1].path)
        kind = "timeout" if reason.startswith(SLOW) else "crash"
        return asdict(Finding(item[0], kind, reason, bytes=size, changed=changed))


def examine(task: Task) -> Finding:
    """Decode one video; never raises."""
    size, changed = _stamp(task.path)
    try:
        info = probe(task.path, start=task.start, end=task.end, frame_pattern=task.frame_pattern)
    except VideoError as error:
        kind = next((kind for text, kind in KINDS if error.reason.startswith(text)), "not a video")
        return Finding(task.name, kind, error.reason, bytes=size, changed=changed)
    except Exception as error:  # whatever a decoder throws at a damaged file is a property of that file
        return Finding(task.name, "crash", f"{type(error).__name__}: {error}", bytes=size, changed=changed)
    kind, detail = _judge(task, info)
    fps = info.fps or 0.0
    seconds = info.num_frames / fps if fps else 0.0
    return Finding(
        task.name, kind, detail, info.num_frames, info.height, info.width, fps, seconds, size, changed,
        info.damaged, info.total,
    )  # fmt: skip


def _judge(task: Task, info: VideoInfo) -> tuple[str, str]:
    num_frames = info.num_frames
    if num_frames < task.min_frames:
        return "too short", f"{num_frames} frames, at least {task.min_frames} are wanted"
    if os.path.isdir(task.path) and task.listed and task.listed != num_frames:
        return "frames missing", f"{num_frames} frames are there, the list says {task.listed}"
    if info.missing:
        return "cut short", f"damaged: {info.damaged} of {info.total} frames, {info.missing} of them missing at the end"
    if info.damaged:
        return "damaged", f"damaged: {info.damaged} of {info.total} frames"
    whole = task.start is None and task.end is None and not os.path.isdir(task.path)
    stated = _header_frames(task.path) if whole else 0
    if stated and stated != num_frames:
        return "header lies", f"{stated} frames by its header, {num_frames} decode"
    return "", ""


def _mark_repeats(
    findings: list[Finding], tasks: list[Task], videos: VideoList, other: VideoList | None
) -> list[Finding]:
    """Findings; `repeated` where an earlier video, or one of `other`, has the same content and all else is right."""
    first: dict[tuple[object, ...], str] = {}
    if other:
        for i in range(len(other)):
            sample = other[i]
            first.setdefault((*_content(sample.path), sample.start, sample.end), f"{other.name(i)} of the other list")
    marked = []
    for i, (finding, task) in enumerate(zip(findings, tasks)):
        content = _content(task.path)
        earlier = first.setdefault((*content, task.start, task.end), f"{task.name} ({videos.label_text(i)})")
        own = earlier == f"{task.name} ({videos.label_text(i)})"
        if content and not own and finding.kind in ("", "header lies"):
            finding = replace(finding, kind="repeated", detail=f"the same content as {earlier}")
        marked.append(finding)
    return marked


def _content(path: str) -> tuple[object, ...]:
    """Size and digest of both ends of a file; its path where it is a folder, nothing where it cannot be read."""
    try:
        if os.path.isdir(path):
            return (os.path.realpath(path),)
        if not (place_of(path) or is_regular(path)):
            return ()
        size, head, tail = ends_of(path, ENDS)
        return size, hashlib.sha1(head + tail).hexdigest()
    except (OSError, VideoError):
        return ()


def _header_frames(path: str) -> int:
    """Number of frames by the header of a file that decodes; 0 where it says nothing."""
    with open_container(path) as container:
        stream = best_stream(container)
        return stream.frames if stream else 0


def _stamp(path: str) -> tuple[int, int]:
    """`stamp`, or zeros where there is no file."""
    try:
        return stamp(path)
    except (OSError, VideoError):
        return 0, 0


def _still_true(finding: Finding, task: Task) -> bool:
    if (finding.bytes, finding.changed) != _stamp(task.path):
        return False
    if finding.kind in PASSING or finding.detail.startswith("cannot be opened"):
        return False
    short = 0 < finding.num_frames < task.min_frames
    return short == (finding.kind == "too short")  # else another `min_frames` was asked for


def _finding(folder: Path, row: Values) -> Finding:
    try:
        return from_dict(Finding, row)
    except (ConfigError, TypeError) as error:
        raise DataError(f"{folder}: the row of {row['name']!r} is damaged; choose another folder") from error


def _write_results(check: Check, root: str) -> None:
    columns = tuple(f.name for f in fields(Finding))
    write_csv(check.out / "checked.csv", columns, [asdict(f) for f in check.findings])
    rows = [
        {"path": f.name, "problem": f.kind, "detail": f.detail, "left_out": "no" if f.kind in USABLE else "yes"}
        for f in check.problems
    ]
    write_csv(check.out / "problems.csv", ("path", "problem", "detail", "left_out"), rows)
    write_list(check.out / "clean.csv", check.clean, root=root)
    write_text(check.out / "classes.txt", "".join(f"{name}\n" for name in check.clean.classes))
