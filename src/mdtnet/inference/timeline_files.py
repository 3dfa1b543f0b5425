"""What happens when in videos, as files: JSON, CSV, subtitles, and the forms of ActivityNet and Label Studio."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mdtnet.inference.timeline import Segment, Timeline
from mdtnet.system.terminal import plain

BEST = 5
"""Classes of a second that are written."""


def to_dict(timeline: Timeline) -> dict[str, Any]:
    """Plain values, fit for JSON: segments, and the best classes of each second."""
    edges, scores = timeline.cells(1.0)
    order = (-scores).argsort(1, kind="stable")[:, :BEST].tolist()
    return {
        "path": timeline.path,
        "seconds": round(timeline.windows.duration, 3),
        "frames": timeline.num_frames,
        "damaged": timeline.damaged or None,
        "windows": len(timeline.windows.spans),
        "length": round(timeline.windows.length, 3),
        "stride": round(timeline.windows.stride, 3),
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


def json_text(timelines: Sequence[Timeline]) -> str:
    """A list with one entry per video: `to_dict`."""
    return json.dumps([to_dict(timeline) for timeline in timelines], indent=1, ensure_ascii=False)


def csv_text(timelines: Sequence[Timeline]) -> str:
    """`path,label,start,end,score`: a list that training reads as well."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label", "start", "end", "score"))
    for timeline in timelines:
        for s in timeline.segments:
            rows.writerow((timeline.path, s.label, f"{s.start:.3f}", f"{s.end:.3f}", f"{s.score:.4f}"))
    return text.getvalue()


def names_of(timelines: Sequence[Timeline]) -> list[str]:
    """File names without suffix; a number follows where an earlier video has the same."""
    stems = [Path(timeline.path).stem for timeline in timelines]
    before = [stems[:i].count(stem) for i, stem in enumerate(stems)]
    return [f"{stem}-{count + 1}" if count else stem for stem, count in zip(stems, before)]


def activitynet_text(timelines: Sequence[Timeline]) -> str:
    """A detection submission to ActivityNet: name of a video without suffix and leading `v_` -> its segments."""
    results = {
        name.removeprefix("v_"): [
            {"label": s.label, "score": round(s.score, 4), "segment": [round(s.start, 3), round(s.end, 3)]}
            for s in timeline.segments
        ]
        for name, timeline in zip(names_of(timelines), timelines)
    }
    content = {"version": "VERSION 1.3", "results": results, "external_data": {"used": False, "details": ""}}
    return json.dumps(content, indent=1, ensure_ascii=False)


def labelstudio_text(timelines: Sequence[Timeline]) -> str:
    """Tasks with predictions that Label Studio imports: `TimelineLabels` named `videoLabels` on a `Video` named
    `video`, whose `frameRate` is each task's `fps`. Its frames count from 1."""
    tasks = []
    for timeline in timelines:
        fps = round(timeline.fps, 3)
        result = [
            {
                "id": str(i),
                "from_name": "videoLabels",
                "to_name": "video",
                "type": "timelinelabels",
                "score": round(s.score, 4),
                "value": {
                    "ranges": [{"start": round(s.start * fps) + 1, "end": max(round(s.end * fps), 1)}],
                    "timelinelabels": [s.label],
                },
            }
            for i, s in enumerate(timeline.segments)
        ]
        mean = sum(s.score for s in timeline.segments) / max(len(timeline.segments), 1)
        prediction = {"model_version": "mdtnet", "score": round(mean, 4), "result": result}
        tasks.append({"data": {"video": timeline.path, "fps": fps}, "predictions": [prediction]})
    return json.dumps(tasks, indent=1, ensure_ascii=False)


def srt_text(timeline: Timeline) -> str:
    """SubRip subtitles: one cue per segment."""
    cues = [f"{i}\n{_cue(s, ',')}\n" for i, s in enumerate(timeline.segments, start=1)]
    return "\n".join(cues)


def vtt_text(timeline: Timeline) -> str:
    """WebVTT subtitles: one cue per segment."""
    return "\n".join(["WEBVTT\n", *(f"{_cue(s, '.')}\n" for s in timeline.segments)])


def _cue(segment: Segment, point: str) -> str:
    label = plain(segment.label)
    if point == ".":
        label = label.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{_clock(segment.start, point)} --> {_clock(segment.end, point)}\n{label} ({segment.score:.0%})"


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


OF_ALL: dict[str, tuple[str, Callable[[Sequence[Timeline]], str]]] = {
    "json": ("timeline.json", json_text),
    "csv": ("segments.csv", csv_text),
    "activitynet": ("activitynet.json", activitynet_text),
    "labelstudio": ("labelstudio.json", labelstudio_text),
}
"""Forms of one file for all videos: its name, and its text."""
OF_EACH: dict[str, Callable[[Timeline], str]] = {"srt": srt_text, "vtt": vtt_text}
"""Forms of one file for each video: its text; the suffix is the form's name."""
