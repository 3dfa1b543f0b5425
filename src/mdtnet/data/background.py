"""Parts of videos in which nothing is labelled, so that a network learns to say that nothing happens."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mdtnet.config import BACKGROUND
from mdtnet.data.annotations import Texts, VideoList
from mdtnet.data.stream import duration_of, frame_times
from mdtnet.errors import DataError, VideoError

MARGIN = 0.25
"""Share of a part's length that is left between a labelled and an unlabelled part: labels are seldom exact."""

Spans = list[tuple[float, float]]


def with_background(lists: Mapping[str, VideoList], *, unmarked: Sequence[str] = ()) -> dict[str, VideoList]:
    """Training and validation lists with unlabelled parts of their videos as rows more.

    They are as long as the median labelled part, at most as many as those, and spread over all time that no list
    labels; those of a video in both lists go to the first. Their class is `background`; with several labels per video
    they have none.

    Args:
        unmarked: more videos for the first list, relative to its root, in which nothing is labelled.

    Raises:
        DataError: no row has a start and an end, no time is left, or a list is packed.
    """
    if any(videos.packed for videos in lists.values()):
        raise DataError("background needs the list that was packed, expected one without a column 'packed'")
    spans = {name: _spans(videos) for name, videos in lists.items()}
    lengths = [b - a for of_list in spans.values() for own in of_list.values() for a, b in own if np.isfinite(b)]
    if not lengths:
        raise DataError("background needs a list with start and end: other time than theirs is what is unlabelled")
    labelled: dict[str, Spans] = {}
    for of_list in spans.values():
        for path, own in of_list.items():
            labelled.setdefault(path, []).extend(own)
    length, free, found = float(np.median(lengths)), {*labelled, *unmarked}, {}
    for i, (name, videos) in enumerate(lists.items()):
        own_videos = free & {*spans[name], *(() if i else unmarked)}
        free -= own_videos
        quiet = {p: quiet_parts(labelled.get(p, []), _duration(videos, p), length) for p in sorted(own_videos)}
        found[name] = _extended(videos, _spread(quiet, len(videos)))
    if all(len(found[name]) == len(videos) for name, videos in lists.items()):
        raise DataError(f"no unlabelled time of {length:g} s is left in these videos")
    return found


def _spans(videos: VideoList) -> dict[str, Spans]:
    """Video -> its labelled parts in seconds."""
    found: dict[str, Spans] = {}
    for i in range(len(videos)):
        sample = videos[i]
        span = (sample.start or 0.0, np.inf if sample.end is None else sample.end)
        found.setdefault(videos.paths[videos.rows[i]], []).append(span)
    return found


def _duration(videos: VideoList, path: str) -> float:
    try:
        return duration_of(frame_times(f"{videos.root}/{path}"))
    except VideoError:  # it is counted as unreadable where it is used
        return 0.0


def quiet_parts(labelled: Sequence[tuple[float, float]], duration: float, length: float) -> Spans:
    """Parts of `length` seconds in the time that is not labelled, one after the other, each with a margin."""
    margin, time = MARGIN * length, 0.0
    found = []
    for start, end in [*sorted(labelled), (duration + margin, np.inf)]:
        first = time + (margin if time else 0.0)
        count = int((start - margin - first) / length + 1e-6)
        found += [(round(first + i * length, 3), round(first + (i + 1) * length, 3)) for i in range(count)]
        time = max(time, min(end, duration))
    return found


def _spread(quiet: Mapping[str, Spans], most: int) -> list[tuple[str, float, float]]:
    """At most so many parts, evenly from all."""
    every = [(path, *part) for path, parts in quiet.items() for part in parts]
    places = np.linspace(0, len(every) - 1, min(len(every), most)).round().astype(int)
    return [every[i] for i in np.unique(places)]


def _extended(videos: VideoList, parts: list[tuple[str, float, float]]) -> VideoList:
    """The list with these rows more, and the class, which is there even without them."""
    samples = [videos[i] for i in range(len(videos))]
    times = [[np.nan if t is None else t for t in (s.start, s.end)] for s in samples]
    own = [videos.paths[row] for row in videos.rows]
    paths = own + [path for path, _, _ in parts]
    groups = None
    if videos.groups is not None:
        of_path = dict(zip(own, (s.group for s in samples)))
        groups = Texts.of([s.group for s in samples] + [of_path.get(path, path) for path, _, _ in parts])
    classes = videos.classes
    if videos.multi_label:
        labels = np.concatenate((videos.labels, np.zeros((len(parts), len(classes)), dtype=bool)))
    else:
        classes = classes if BACKGROUND in classes else (*classes, BACKGROUND)
        labels = np.concatenate((videos.labels, np.full(len(parts), classes.index(BACKGROUND))))
    return replace(
        videos,
        classes=classes,
        labels=labels,
        paths=Texts.of(paths),
        rows=np.arange(len(paths)),
        times=np.array(times + [list(part[1:]) for part in parts], dtype=np.float64),
        groups=groups,
        num_frames=None,
    )
