"""The verbs about data sets and about results of several runs; `cli` lists them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()

SHOWN = 20  # lines of a long listing


def render_arguments(parser: Any) -> None:
    from mdtnet.builtin.render import RenderConfig

    parser.add_argument("out", help="folder to make")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_class_arguments(RenderConfig)


def render(options: Any) -> None:
    from mdtnet.builtin.render import RenderConfig, conditions, render_dataset
    from mdtnet.config_file import from_dict

    keys = [f for f in RenderConfig.__dataclass_fields__]
    config = from_dict(RenderConfig, {k: options.as_dict()[k] for k in keys}, where="command line")
    summary = render_dataset(options.out, config, workers=options.workers)  # logs what it made
    for line in conditions(config):
        _say(line.replace("\n", " "))
    _say(f"all settings: {summary.out}/README.md")
    console.print(
        f"train on it: mdtnet train --data {summary.out}/train.csv --data.val {summary.out}/val.csv",
        highlight=False,
        soft_wrap=True,
    )


def prepare_arguments(parser: Any) -> None:
    from mdtnet.data.prepare import DataSet, Split

    parser.add_argument("name", type=DataSet, help="ucf101, hmdb51, kinetics400, sthv1, sthv2, jester, folder or csv")
    parser.add_argument("--root", required=True, help="folder of the videos, however deep they lie")
    parser.add_argument("--out", required=True, help="folder for the lists")
    parser.add_argument("--annotations", default="", help="folder of the official lists, or a list; default: --root")
    parser.add_argument("--classes", default="", help="label map whose order of classes is taken")
    parser.add_argument("--split", type=Split, default="1", help="of UCF101 and HMDB51: 1, 2, 3 or all")
    parser.add_argument("--val_fraction", type=float, default=0.2, help="of own videos without a validation part")
    parser.add_argument("--group", default="", help="regular expression whose (...) names a video's group")
    _multi_label_argument(parser)
    parser.add_argument("--download", action="store_true", help="fetch the official archives (ucf101, hmdb51) first")


def prepare(options: Any) -> None:
    from mdtnet.data.download import download
    from mdtnet.data.prepare import prepare as prepare_lists

    if options.download:
        with _bytes_bar("downloading") as progress:
            download(options.name, options.root, progress=progress)
    done = prepare_lists(
        options.name,
        root=options.root,
        out=options.out,
        annotations=options.annotations,
        classes=options.classes,
        split=options.split,
        val_fraction=options.val_fraction,
        group=options.group,
        multi_label=options.multi_label,
    )
    table = Table(title=f"{options.name}, {len(done[0].classes)} classes", title_justify="left")
    for column in ("split", "part", "listed", "found", "missing"):
        table.add_column(column, justify="right" if column in ("listed", "found", "missing") else "left")
    for split in done:
        for part, (listed, found) in split.counts.items():
            table.add_row(split.split, part, str(listed), str(found), str(listed - found))
    console.print(table)
    for split in done:
        if any(listed > found for listed, found in split.counts.values()):
            _say(f"missing videos are listed in {split.out}/missing.csv")
        _say(f"train with: mdtnet train --config {split.out}/data.yaml --out RUN")


def check_arguments(parser: Any) -> None:
    _list_arguments(parser)
    parser.add_argument("--out", required=True, help="folder for the tables; a check that was stopped goes on there")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that decode")
    parser.add_argument("--timeout", type=float, default=300.0, help="longest time for one video, in seconds")
    parser.add_argument("--min_frames", type=int, default=5, help="videos with fewer frames are too short")


def check(options: Any) -> None:
    from collections import Counter

    from mdtnet.data.check import USABLE, check_videos

    videos = _listed(options)
    with _bar("decoding", len(videos)) as progress:
        found = check_videos(
            videos,
            options.out,
            workers=options.workers,
            timeout_seconds=options.timeout,
            min_frames=options.min_frames,
            progress=progress,
        )
    for kind, count in Counter(f.kind for f in found.problems).most_common():
        _say(f"{count:6} {kind}{' (kept)' if kind in USABLE else ''}")
    _say(f"{len(found.clean)} of {len(videos)} videos can be used: {options.out}/clean.csv")
    if found.problems:
        _say(f"what is wrong with which file: {options.out}/problems.csv")
    several = " --data.multi_label true" if videos.multi_label else ""
    _say(f"train with: --data.train {options.out}/clean.csv --data.root {videos.root} "
         f"--data.classes {options.out}/classes.txt{several}")  # fmt: skip


def info_arguments(parser: Any) -> None:
    _list_arguments(parser)
    parser.add_argument("--sheet", default="", help="also draw a contact sheet: .png or .jpg")


def info(options: Any) -> None:
    import numpy as np

    from mdtnet.data.info import MAX_OPENED, contact_sheet, data_info, histogram

    videos = _listed(options)
    with _bar("opening", min(len(videos), MAX_OPENED)) as progress:
        found = data_info(videos, progress=progress)
    counts = sorted(found.counts.items(), key=lambda item: -item[1])
    several = f", {videos.labels.sum(1).mean():.2f} labels a video" if videos.multi_label else ""
    _say(f"{len(videos)} videos, {len(counts)} classes{several}")
    most = max(1, counts[0][1])
    shown = counts if len(counts) <= SHOWN else [*counts[: SHOWN // 2], ("...", -1), *counts[-SHOWN // 2 :]]
    for name, count in shown:
        _say(f"{count:8}  {'█' * round(30 * count / most):<30}  {name}" if count >= 0 else "     ...")
    _say(f"by the headers of {found.opened} videos, {found.bytes / 1e6:.1f} MB ({found.unopened} cannot be opened):")
    for (width, height), count in found.sizes.most_common(5):
        _say(f"{count:8}  {width} x {height} pixels")
    if len(found.seconds):
        _say(f"seconds: median {np.median(found.seconds):.2f}, in all {found.seconds.sum() / 3600:.2f} h")
        for line in histogram(found.seconds):
            _say(line)
    if options.sheet:
        _say(f"wrote {contact_sheet(videos, options.sheet)}")


def _list_arguments(parser: Any) -> None:
    parser.add_argument("data", help="folder of class folders, or list file")
    parser.add_argument("--root", default="", help="folder that the paths in the list are relative to")
    parser.add_argument("--classes", default="", help="file of class names, where labels are numbers")
    _multi_label_argument(parser)


def _multi_label_argument(parser: Any) -> None:
    parser.add_argument("--multi_label", action="store_true", help="rows of the list have several labels: jump|wave")


def _listed(options: Any) -> Any:
    from mdtnet.data.annotations import load_videos

    return load_videos(options.data, root=options.root, classes=options.classes, multi_label=options.multi_label)


def fuse_arguments(parser: Any) -> None:
    parser.add_argument("runs", nargs="+", help="score tables, or folders that hold scores.npz")
    parser.add_argument("--out", required=True, help="folder for the fused scores and metrics")
    parser.add_argument("--fusion", default="softmax", choices=("softmax", "logits"), help="what is averaged")


def fuse(options: Any) -> None:
    from mdtnet.config import TestConfig
    from mdtnet.scores import ScoreTable, fuse_tables, save_results

    paths = [Path(run, "scores.npz") if Path(run).is_dir() else Path(run) for run in options.runs]
    table = fuse_tables([ScoreTable.load(path) for path in paths], options.fusion, names=[str(p) for p in paths])
    figures = save_results(Path(options.out), table, TestConfig(fusion=options.fusion))
    console.print(figures_table(figures, title=f"{len(paths)} score tables, mean of {options.fusion}"))
    _say(f"scores {options.out}/scores.npz, metrics {options.out}/metrics.json")


def mean_arguments(parser: Any) -> None:
    parser.add_argument("runs", nargs="+", help="folders of runs or tests, one a split")


def mean(options: Any) -> None:
    from statistics import fmean

    from mdtnet.errors import DataError
    from mdtnet.metrics import TITLES, headline
    from mdtnet.scores import load_figures

    found = [load_figures(run) for run in options.runs]
    if len({headline(figures) for figures in found}) > 1:
        raise DataError(f"{', '.join(options.runs)}: one label a video in some of these tests, several in others")
    keys = [key for key in ("top1", "mean_class", "map") if key in found[0]]
    table = Table("split", "videos", *(TITLES[key] for key in keys))
    for run, figures in zip(options.runs, found):
        table.add_row(escape(run), str(figures["videos"]), *(f"{figures[key]:.2%}" for key in keys))
    table.add_section()
    means = [f"{fmean(f[key] for f in found):.2%}" for key in keys]
    table.add_row("mean", str(sum(f["videos"] for f in found)), *means)
    console.print(table)


def figures_table(figures: dict[str, Any], *, title: str) -> Table:
    """The figures of `metrics.summary` as a table for the terminal."""
    from mdtnet.metrics import TITLES, headline

    table = Table(title=title, title_justify="left", show_header=False)
    for key, name in TITLES.items():
        if figures.get(key) is not None:
            table.add_row(name, f"{figures[key]:.2%}")
    table.add_row("videos", str(figures["videos"]))
    if figures["unreadable"]:
        table.add_row("unreadable", str(figures["unreadable"]))
        videos, unreadable = figures["videos"], figures["unreadable"]
        for key, name, count in (("wrong", "counted wrong", videos), ("excluded", "excluded", videos - unreadable)):
            value = figures[f"unreadable_{key}"][headline(figures)]
            title = f"{TITLES[headline(figures)]}, unreadable {name}"
            table.add_row(title, f"{value or 0:.2%} over {count} videos" if count else "-")
    return table


def _say(text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal."""
    from mdtnet.terminal import CONSOLE

    if not CONSOLE.is_terminal:
        yield None
        return
    with rich.progress.Progress(*_COLUMNS, console=CONSOLE) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


_COLUMNS = (
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeRemainingColumn(),
)


@contextlib.contextmanager
def _bytes_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    from mdtnet.terminal import CONSOLE

    if not CONSOLE.is_terminal:
        yield None
        return
    columns = (rich.progress.BarColumn(), rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn())
    with rich.progress.Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
