"""The verb that says what happens when in long videos."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from rich.table import Table

from mdtnet.cli.parse import Verb, config_from
from mdtnet.cli.work import BYTES, Rows, compute, do, from_root, items_of, places, source_arguments, work_arguments
from mdtnet.system.terminal import bar, complain, say, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.config import Values
    from mdtnet.data.container import Part
    from mdtnet.inference.localisation import Localisation
    from mdtnet.inference.timeline import Segment
    from mdtnet.inference.timeline_files import PlainTimeline
    from mdtnet.timelines import Watch

Written = Literal["json", "csv", "activitynet", "labelstudio", "srt", "vtt", "png", "html"]
SHOWN = 40  # segments of a video in the terminal


def timeline_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import TimelineConfig

    parser.add_argument("checkpoint", help="a checkpoint, a zoo name, or an exported file (.onnx, .xml, .pt2)")
    source_arguments(parser, known="video files, folders, patterns, http(s) addresses, - (stdin)")
    parser.add_class_arguments(TimelineConfig)
    parser.add_argument("--out", default="", help="folder for the files of --write; a rerun skips what is there")
    parser.add_argument(
        "--write",
        type=tuple[Written, ...],
        default=("json", "csv", "html"),
        help="json, csv, activitynet, labelstudio: one file for all videos; srt, vtt, png, html: one for each",
    )
    parser.add_argument("--truth", default="", help="labels to judge the segments by: a list with start and end")
    parser.add_argument("--segments", type=int, default=0, help="T; 0: as in the network's own test")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    work_arguments(parser, timeout=0.0)


def timeline(options: "Namespace") -> int:
    from mdtnet.config import TimelineConfig
    from mdtnet.deploy.jobs import check_stems
    from mdtnet.inference.localisation import read_truth
    from mdtnet.inference.timeline import check_timeline
    from mdtnet.system.files import make_folder
    from mdtnet.timelines import Kind, Watch
    from mdtnet.work.parts import read_rows

    config = config_from(TimelineConfig, options)
    check_timeline(config)
    items = items_of(options)
    if options.out:
        check_stems(items)
    truth = read_truth(options.truth, options.root, background=config.background) if options.truth else {}
    kinds = tuple(kind for kind in options.write if kind in get_args(Kind)) if options.out else ()
    job = Watch(options.checkpoint, config, options.out, kinds, options.device, options.segments)
    job.scorer  # noqa: B018  # a wrong checkpoint is one line, not one per video
    about = job.about()
    if options.out:
        make_folder(options.out)
    if options.engine == "ray":
        checkpoint, items = from_root(job.checkpoint, items)
        job = replace(job, checkpoint=checkpoint, out=os.path.abspath(job.out) if job.out else "")
    rows = compute(
        job, items, options, here=lambda chosen: _one_by_one(job, chosen), places=places(items, job.checkpoint, job.out)
    )
    here = options.engine == "local" and not options.workers
    said = _shown(rows, config.high, lambda name: job.files(name, items[name]).values())
    found = do(items, said, options, about, keep=lambda row: job.is_there(row, items), counted=not here)
    every = found if len(found) == len(items) else read_rows(options.out)
    if items.keys() <= every.keys():
        _finish([every[name] for name in items], options, truth)
    else:
        say(f"shard {options.shard} is done; the last of all shards writes the files of all videos into {options.out}")
    failed = sum(bool(row["error"]) for row in found.values())
    if failed:
        complain(f"{failed} of {len(found)} videos could not be read")
    return 1 if failed else 0


def _one_by_one(job: "Watch", items: "dict[str, Part]") -> Rows:
    """Rows that this process computes, each with a bar that follows the video."""
    for name, part in items.items():
        with bar(100, text=name) as progress:
            shown = None if progress is None else lambda done, total: progress(round(100 * done / total))
            row = job((name, part), shown)
        yield name, row


def _shown(
    rows: Callable[[list[str]], Rows], high: float, files: Callable[[str], Iterable[Path]]
) -> Callable[[list[str]], Rows]:
    """The same rows, each said when it comes."""

    def saying(names: list[str]) -> Rows:
        for name, row in rows(names):
            if row["error"]:
                complain(f"{row['path']}: {row['error']}", style="red")
            else:
                _say(cast("PlainTimeline", row), high)
                if written := ", ".join(map(str, files(name))):
                    say(f"wrote {written}")
            yield name, row

    return saying


def _say(found: "PlainTimeline", high: float) -> None:
    from mdtnet.inference.timeline_files import segments_of
    from mdtnet.pages.timeline import clock

    number, lasts = found["windows"], clock(found["seconds"], tenths=True)
    about = f"{number} {'window' if number == 1 else 'windows'} of {found['length']:.2f} s"
    say(f"{found['path']}: {lasts}, {about}, every {found['stride']:.2f} s", style="bold")
    say(f"windows share {found['shared']}")
    if found["damaged"]:
        say(f"damaged: {found['damaged']}")
    segments = segments_of(found)
    table = Table("start", "end", "label", "score")
    for s in segments[:SHOWN]:
        table.add_row(clock(s.start, tenths=True), clock(s.end, tenths=True), s.label, f"{s.score:.1%}")
    if segments:
        show(table)
    else:
        say(f"no class reaches a score of {high:g}")
    if len(segments) > SHOWN:
        say(f"and {len(segments) - SHOWN} more segments")


def _finish(rows: "Iterable[Values]", options: "Namespace", truth: "dict[str, list[Segment]]") -> None:
    """The files of all videos, and the judgement."""
    from mdtnet.inference.timeline_files import OF_ALL
    from mdtnet.system.files import write_text

    own = ("name", "error", BYTES)
    read: Any = [{key: row[key] for key in row if key not in own} for row in rows if not row["error"]]
    for kind in OF_ALL if options.out else ():
        if kind in options.write:
            name, text_of = OF_ALL[kind]
            write_text(Path(options.out, name), text_of(read))
            say(f"wrote {Path(options.out, name)}")
    if options.truth and read:
        _judge(read, truth)


def _judge(found: "Sequence[PlainTimeline]", truth: "dict[str, list[Segment]]") -> None:
    from mdtnet.errors import DataError
    from mdtnet.inference.localisation import frame_times_of, localisation, video_key
    from mdtnet.inference.timeline_files import segments_of

    known = {video_key(one["path"]): one for one in found}
    if not known.keys() & truth.keys():
        raise DataError(f"--truth has none of these videos, expected rows of {next(iter(known), 'them')}")
    figures = localisation(
        {name: segments_of(one) for name, one in known.items()},
        {name: truth.get(name, []) for name in known},
        {name: frame_times_of(one["frames"], one["seconds"]) for name, one in known.items()},
    )
    show(_figures_table(figures, len(known)))


def _figures_table(figures: "Localisation", videos: int) -> Table:
    title = f"against the labels of {videos} video{'s' if videos > 1 else ''}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_row("frames with the right label", f"{figures.frame_accuracy:.1%}")
    for iou, value in figures.map.items():
        table.add_row(f"mAP at IoU {iou:g}", f"{value:.1%}")
    alarms = f"{figures.false_alarms:.2f} in {figures.quiet_minutes:.2f} min"
    table.add_row("false alarms per unlabelled minute", alarms)
    return table


VERBS = {
    "timeline": Verb(
        "what happens when in long videos: segments with start, end, label and score",
        timeline_arguments,
        timeline,
        "  mdtnet timeline runs/mine/checkpoints/best.pt day1.mp4 --out found --write csv,srt,png,html\n"
        "  mdtnet timeline runs/mine/checkpoints/best.pt videos/ --out found --shard 3/16\n"
        "  mdtnet timeline best.onnx day1.mp4 --length 2 --stride 0.5 --truth labels.csv",
    ),
}
