"""The verb that says what happens when in long videos."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from mdtnet.cli.parse import Verb, config_from
from mdtnet.cli.work import items_of, source_arguments
from mdtnet.system.terminal import bar, complain, say, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.inference.localisation import Localisation
    from mdtnet.inference.timeline import Timeline

Written = Literal["json", "csv", "srt", "vtt", "activitynet", "labelstudio", "png", "html"]
SHOWN = 40  # segments of a video in the terminal


def timeline_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import TimelineConfig

    parser.add_argument("checkpoint", help="a checkpoint, a zoo name, or an exported file (.onnx, .xml, .pt2)")
    source_arguments(parser, known="video files, folders, patterns, http(s) addresses, - (stdin)")
    parser.add_class_arguments(TimelineConfig)
    parser.add_argument("--out", default="", help="folder for the files of --write")
    parser.add_argument(
        "--write",
        type=tuple[Written, ...],
        default=("json", "csv", "html"),
        help="json, csv, activitynet, labelstudio: one file for all videos; srt, vtt, png, html: one for each",
    )
    parser.add_argument("--truth", default="", help="labels to judge the segments by: a list with start and end")
    parser.add_argument("--segments", type=int, default=0, help="T; 0: as in the network's own test")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def timeline(options: "Namespace") -> int:
    from mdtnet.config import TimelineConfig
    from mdtnet.deploy.load import load
    from mdtnet.errors import VideoError
    from mdtnet.inference.localisation import read_truth
    from mdtnet.inference.timeline import check_timeline, make_timeline
    from mdtnet.system.files import make_folder

    config = config_from(TimelineConfig, options)
    check_timeline(config)
    items = items_of(options)
    truth = read_truth(options.truth, options.root, background=config.background) if options.truth else None
    if options.out:
        make_folder(options.out)
    scorer = load(options.checkpoint, device=options.device, segments=options.segments).scorer()
    found: list[Timeline] = []
    written: list[Path] = []
    for name, part in items.items():
        try:
            with bar(100, text=name) as progress:
                shown = None if progress is None else lambda done, total: progress(round(100 * done / total))
                found.append(make_timeline(part, scorer, config, progress=shown))
        except VideoError as error:
            complain(str(error), style="red")
            continue
        _say(found[-1])
        if options.out:
            written += _write(found, Path(options.out), options.write)
    for path in dict.fromkeys(written):
        say(f"wrote {path}")
    if truth is not None and found:
        _judge(found, truth)
    if len(found) < len(items):
        complain(f"{len(items) - len(found)} of {len(items)} videos could not be read")
    return 1 if len(found) < len(items) else 0


def _say(found: "Timeline") -> None:
    from mdtnet.pages.timeline import clock

    windows, lasts = found.windows, clock(found.windows.duration, tenths=True)
    number = len(windows.spans)
    about = f"{number} {'window' if number == 1 else 'windows'} of {windows.length:.2f} s, every {windows.stride:.2f} s"
    say(f"{found.path}: {lasts}, {about}", style="bold")
    say(f"windows share {found.shared}")
    if found.damaged:
        say(f"damaged: {found.damaged}")
    segments = found.segments
    table = Table("start", "end", "label", "score")
    for s in segments[:SHOWN]:
        table.add_row(clock(s.start, tenths=True), clock(s.end, tenths=True), s.label, f"{s.score:.1%}")
    if segments:
        show(table)
    else:
        say(f"no class reaches a score of {found.config.high:g}")
    if len(segments) > SHOWN:
        say(f"and {len(segments) - SHOWN} more segments")


def _write(found: "Sequence[Timeline]", out: Path, kinds: Sequence[str]) -> list[Path]:
    """The files of the last video, and those of all videos so far: a stop costs the video that it comes in."""
    from mdtnet.inference.timeline_files import OF_ALL, OF_EACH, names_of
    from mdtnet.pages.timeline import build_timeline_page, draw_timeline
    from mdtnet.system.files import write_text

    last, written = found[-1], []
    for kind in kinds:
        if kind in OF_ALL:
            name, text_of_all = OF_ALL[kind]
            path = out / name
            write_text(path, text_of_all(found))
        else:
            path = out / f"{names_of(found)[-1]}.{kind}"
            if kind == "png":
                draw_timeline(last, path)
            elif kind == "html":
                build_timeline_page(last, path)
            else:
                write_text(path, OF_EACH[kind](last))
        written.append(path)
    return written


def _judge(found: "Sequence[Timeline]", truth: "dict[str, list]") -> None:
    from mdtnet.errors import DataError
    from mdtnet.inference.localisation import frame_times_of, localisation, video_key

    known = {video_key(one.path): one for one in found}
    if not known.keys() & truth.keys():
        raise DataError(f"--truth has none of these videos, expected rows of {next(iter(known), 'them')}")
    figures = localisation(
        {name: one.segments for name, one in known.items()},
        {name: truth.get(name, []) for name in known},
        {name: frame_times_of(one.num_frames, one.windows.duration) for name, one in known.items()},
    )
    show(_figures_table(figures, len(known)))


def _figures_table(figures: "Localisation", videos: int) -> Table:
    table = Table(title=f"against the labels of {videos} videos", title_justify="left", show_header=False)
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
        "  mdtnet timeline best.onnx day1.mp4 --length 2 --stride 0.5 --truth labels.csv",
    ),
}
