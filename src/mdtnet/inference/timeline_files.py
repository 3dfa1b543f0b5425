"""What happens when in videos, as files: JSON, CSV, subtitles, and the forms of ActivityNet and Label Studio."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from mdtnet.inference.timeline import Segment, Timeline
from mdtnet.system.terminal import plain

BEST = 5
"""Classes of a second that are written."""


class PlainSegment(TypedDict):
    """A `Segment` as plain values."""

    start: float
    end: float
    label: str
    score: float


class Second(TypedDict):
    """The best classes of a second, or of what is left of it at the end."""

    second: float
    best: dict[str, float]


class PlainTimeline(TypedDict):
    """A timeline as plain values, fit for JSON."""

    path: str
    seconds: float
    """Of the video."""
    frames: int
    fps: float
    damaged: str | None
    windows: int
    """Their number."""
    length: float
    """Seconds of a window."""
    stride: float
    """Seconds from one window to the next."""
    shared: str
    """What overlapping windows had in common, in words."""
    segments: list[PlainSegment]
    scores: list[Second]


def to_dict(timeline: Timeline) -> PlainTimeline:
    """Plain values, fit for JSON: segments, and the best classes of each second."""
    edges, scores = timeline.cells(1.0)
    order = (-scores).argsort(1, kind="stable")[:, :BEST].tolist()
    return {
        "path": timeline.path,
        "seconds": round(timeline.windows.duration, 3),
        "frames": timeline.num_frames,
        "fps": round(timeline.fps, 3),
        "damaged": timeline.damaged or None,
        "windows": len(timeline.windows.spans),
        "length": round(timeline.windows.length, 3),
        "stride": round(timeline.windows.stride, 3),
        "shared": timeline.shared,
        "segments": [
            {"start": round(s.start, 3), "end": round(s.end, 3), "label": s.label, "score": round(s.score, 4)}
            for s in timeline.segments
        ],
        "scores": [
            {
                "second": round(float(start), 3),
                "best": {timeline.classes[c]: round(float(row[c]), 4) for c in best},
            }
            for start, row, best in zip(edges, scores, order)
        ],
    }


def segments_of(timeline: PlainTimeline) -> list[Segment]:
    """The segments again."""
    return [Segment(**segment) for segment in timeline["segments"]]


def json_text(timelines: Sequence[PlainTimeline]) -> str:
    """A list with one entry per video."""
    return json.dumps(timelines, indent=1, ensure_ascii=False)


def csv_text(timelines: Sequence[PlainTimeline]) -> str:
    """`path,label,start,end,score`: a list that training reads as well."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label", "start", "end", "score"))
    for timeline in timelines:
        for s in segments_of(timeline):
            rows.writerow((timeline["path"], s.label, f"{s.start:.3f}", f"{s.end:.3f}", f"{s.score:.4f}"))
    return text.getvalue()


def activitynet_text(timelines: Sequence[PlainTimeline]) -> str:
    """A detection submission to ActivityNet: name of a video without suffix and leading `v_` -> its segments."""
    results = {
        name: [{"label": s.label, "score": s.score, "segment": [s.start, s.end]} for s in segments_of(timeline)]
        for name, timeline in zip(_names_of(timelines), timelines)
    }
    content = {"version": "VERSION 1.3", "results": results, "external_data": {"used": False, "details": ""}}
    return json.dumps(content, indent=1, ensure_ascii=False)


def _names_of(timelines: Sequence[PlainTimeline]) -> list[str]:
    """ActivityNet's names of videos; a number follows where an earlier video has the same."""
    stems = [Path(timeline["path"]).stem.removeprefix("v_") for timeline in timelines]
    before = [stems[:i].count(stem) for i, stem in enumerate(stems)]
    return [f"{stem}-{count + 1}" if count else stem for stem, count in zip(stems, before)]


def labelstudio_text(timelines: Sequence[PlainTimeline]) -> str:
    """Tasks with predictions that Label Studio imports: `TimelineLabels` named `videoLabels` on a `Video` named
    `video`, whose `frameRate` is each task's `fps`. Its frames count from 1."""
    tasks = []
    for timeline in timelines:
        fps, segments = timeline["fps"], segments_of(timeline)
        result = [
            {
                "id": str(i),
                "from_name": "videoLabels",
                "to_name": "video",
                "type": "timelinelabels",
                "score": s.score,
                "value": {
                    "ranges": [{"start": round(s.start * fps) + 1, "end": max(round(s.end * fps), 1)}],
                    "timelinelabels": [s.label],
                },
            }
            for i, s in enumerate(segments)
        ]
        mean = sum(s.score for s in segments) / max(len(segments), 1)
        prediction = {"model_version": "mdtnet", "score": round(mean, 4), "result": result}
        tasks.append({"data": {"video": timeline["path"], "fps": fps}, "predictions": [prediction]})
    return json.dumps(tasks, indent=1, ensure_ascii=False)


def srt_text(timeline: PlainTimeline) -> str:
    """SubRip subtitles: one cue per segment."""
    cues = [f"{i}\n{_cue(s, ',')}\n" for i, s in enumerate(segments_of(timeline), start=1)]
    return "\n".join(cues)


def vtt_text(timeline: PlainTimeline) -> str:
    """WebVTT subtitles: one cue per segment."""
    return "\n".join(["WEBVTT\n", *(f"{_cue(s, '.')}\n" for s in segments_of(timeline))])


def _cue(segment: Segment, point: str) -> str:
    label = plain(segment.label)
    if point == ".":
        label = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}\n{label} ({segment.score:.0%})"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


OF_ALL: dict[str, tuple[str, Callable[[Sequence[PlainTimeline]], str]]] = {
    "json": ("timeline.json", json_text),
    "csv": ("segments.csv", csv_text),
    "activitynet": ("activitynet.json", activitynet_text),
    "labelstudio": ("labelstudio.json", labelstudio_text),
}
"""Forms of one file for all videos: its name, and its text."""
