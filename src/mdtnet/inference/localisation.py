"""How well segments in time are found: mean average precision by overlap, accuracy per frame, false alarms.

Overlap is intersection over union (IoU) of two spans of time. Source: the detection task of ActivityNet (Caba Heilbron
et al., CVPR 2015), whose average precision is the area under the precision that no higher recall exceeds.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mdtnet.data.annotations import load_videos
from mdtnet.errors import DataError
from mdtnet.inference.timeline import Segment

IOUS = (0.3, 0.4, 0.5, 0.6, 0.7)
Segments = Mapping[str, Sequence[Segment]]
"""Of each video by its name."""


@dataclass(frozen=True)
class Localisation:
    """Figures of found segments against true ones."""

    map: dict[float, float]
    """IoU -> mean average precision over the true classes."""
    frame_accuracy: float
    """Share of frames whose label, or that nothing happens, is right."""
    false_alarms: float
    """Segments that lie by more than half where nothing is labelled, per minute of such time."""
    quiet_minutes: float
    """Minutes in which nothing is labelled."""


def localisation(found: Segments, truth: Segments, frames: Mapping[str, np.ndarray]) -> Localisation:
    """Figures over all videos of `truth`; `frames` are the times of each video's frames, in seconds, evenly spaced."""
    labels = sorted({s.label for own in truth.values() for s in own})
    precision = {iou: [average_precision(found, truth, label, iou) for label in labels] for iou in IOUS}
    right = total = alarms = 0
    quiet = 0.0
    for name, times in frames.items():
        expected, said = (label_at(times, segments.get(name, ())) for segments in (truth, found))
        right += int((expected == said).sum())
        total += len(times)
        nothing = expected == ""
        quiet += float(nothing.mean()) * float(times[-1] + times[0]) / 60  # frames are shown in their middle
        for s in found.get(name, ()):
            inside = nothing[(times >= s.start) & (times < s.end)]
            alarms += bool(len(inside)) and bool(inside.mean() > 0.5)
    return Localisation(
        {iou: float(np.mean(values)) if values else 0.0 for iou, values in precision.items()},
        right / max(total, 1),
        alarms / quiet if quiet else 0.0,
        quiet,
    )


def frame_times_of(num_frames: int, seconds: float) -> np.ndarray:
    """Middles of evenly spaced frames, in seconds."""
    return (np.arange(num_frames) + 0.5) * seconds / num_frames


def label_at(times: np.ndarray, segments: Iterable[Segment]) -> np.ndarray:
    """Label at each time, of several the one with the best score, empty where there is none."""
    labels = np.full(len(times), "", dtype=object)
    for s in sorted(segments, key=lambda s: s.score):
        labels[(times >= s.start) & (times < s.end)] = s.label
    return labels


def average_precision(found: Segments, truth: Segments, label: str, iou: float) -> float:
    """Of one class: found segments, the best score first, each match the true one that they overlap most.

    A true segment is found once; more of it are wrong.
    """
    true = {name: [s for s in own if s.label == label] for name, own in truth.items()}
    ranked = sorted(
        ((s, name) for name, own in found.items() for s in own if s.label == label), key=lambda pair: -pair[0].score
    )
    taken: set[tuple[str, int]] = set()
    hits = np.zeros(len(ranked))
    for i, (segment, name) in enumerate(ranked):
        free = [(overlap(segment, s), j) for j, s in enumerate(true.get(name, [])) if (name, j) not in taken]
        best, j = max(free, default=(0.0, -1))
        if best >= iou:
            taken.add((name, j))
            hits[i] = 1
    count = sum(map(len, true.values()))
    if not count or not len(ranked):
        return 0.0
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * hits).sum() / count)


def overlap(one: Segment, other: Segment) -> float:
    """Intersection over union of two segments in time."""
    both = min(one.end, other.end) - max(one.start, other.start)
    return max(0.0, both) / (max(one.end, other.end) - min(one.start, other.start))


def video_key(path: str) -> str:
    """Name by which a video is found in labels: the whole path."""
    return os.path.abspath(path)


def read_truth(path: str, root: str = "", *, background: str = "") -> dict[str, list[Segment]]:
    """Labelled parts of videos from a list file; rows of the class `background`, and without a label, are left out.

    Raises:
        DataError: the list cannot be read, or has no parts.
    """
    videos = load_videos(path, root=root, fewest=1)
    found: dict[str, list[Segment]] = {}
    for i in range(len(videos)):
        sample, label = videos[i], videos.label_text(i)
        own = found.setdefault(video_key(sample.path), [])
        if label != background:
            end = np.inf if sample.end is None else sample.end
            own.append(Segment(sample.start or 0.0, end, label, 1.0))
    if videos.times is None:
        raise DataError(f"{path}: has no start and end, expected a list of labelled parts")
    return found
