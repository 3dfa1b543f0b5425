"""The verbs about data sets: `mdtnet data render`, `prepare`, `check` and `info`."""

import os
from typing import TYPE_CHECKING

from rich.table import Table

from mdtnet.cli.parse import Verb, check_least, config_from
from mdtnet.cli.work import compute, work_arguments
from mdtnet.errors import DataError
from mdtnet.system.terminal import bar, bytes_bar, complain, say, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.cli.work import Rows
    from mdtnet.data.annotations import VideoList
    from mdtnet.data.check import Task
    from mdtnet.data.pack import Task as Tar

SHOWN = 20  # lines of a long listing


def render_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.builtin.render import RenderConfig

    parser.add_argument("out", help="folder to make")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render")
    parser.add_class_arguments(RenderConfig)


def render(options: "Namespace") -> None:
    from mdtnet.builtin.render import RenderConfig, conditions, render_dataset

    config = config_from(RenderConfig, options)
    check_least(1, workers=options.workers)
    summary = render_dataset(options.out, config, workers=options.workers)  # logs what it made
    for line in conditions(config):
        say(line.replace("\n", " "))
    say(f"all settings: {summary.out}/README.md")
    say(f"train on it: mdtnet train --data {summary.out}/train.csv --data.val {summary.out}/val.csv")


def prepare_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.data.prepare import DataSet, Split

    parser.add_argument(
        "name",
        metavar="DATASET",
        type=DataSet,
        help="ucf101, hmdb51, kinetics400, sthv1, sthv2, jester, folder, csv, labelstudio, cvat, activitynet or via",
    )
    parser.add_argument("--root", required=True, help="folder of the videos, however deep they lie")
    parser.add_argument("--out", required=True, help="folder for the lists")
    parser.add_argument("--annotations", default="", help="folder of the official lists, or a list; default: --root")
    parser.add_argument("--classes", default="", help="label map that gives the order of classes")
    parser.add_argument("--split", type=Split, default="1", help="of UCF101 and HMDB51: 1, 2, 3 or all")
    parser.add_argument("--val_fraction", type=float, default=0.2, help="of own videos without a validation part")
    parser.add_argument("--group", default="", help="regular expression with (...) around a video's group")
    _multi_label_argument(parser)
    parser.add_argument("--background", action="store_true", help="also parts in which nothing is labelled")
    parser.add_argument("--attribute", default="", help="the attribute that names the action (cvat, via)")
    parser.add_argument("--fps", type=float, default=0.0, help="rate that a tool counts frames at; 0: each file's own")
    parser.add_argument("--download", action="store_true", help="fetch the official archives (ucf101, hmdb51) first")


def prepare(options: "Namespace") -> None:
    from mdtnet.data.download import download
    from mdtnet.data.prepare import prepare as prepare_lists

    if options.download:
        with bytes_bar() as progress:
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
        background=options.background,
        attribute=options.attribute,
        fps=options.fps,
    )
    table = Table(title=f"{options.name}, {len(done[0].classes)} classes", title_justify="left")
    for column in ("split", "part", "listed", "found", "missing"):
        table.add_column(column, justify="right" if column in ("listed", "found", "missing") else "left")
    for split in done:
        for part, (listed, found) in split.counts.items():
            table.add_row(split.split, part, str(listed), str(found), str(listed - found))
    show(table)
    for split in done:
        if any(listed > found for listed, found in split.counts.values()):
            say(f"missing videos are listed in {split.out}/missing.csv")
        say(f"train with: mdtnet train --config {split.out}/data.yaml --out RUN")


def check_arguments(parser: "ArgumentParser") -> None:
    _list_arguments(parser)
    parser.add_argument("--out", required=True, help="folder for the tables; a check that was stopped goes on there")
    work_arguments(parser, workers=os.cpu_count() or 1)
    parser.add_argument("--min_frames", type=int, default=5, help="videos with fewer frames are too short")
    parser.add_argument("--frame_pattern", default="", help="names of the frames in folders: img_*.jpg")
    parser.add_argument("--other", default="", help="list or folder that no video may be in as well, as of validation")


def check(options: "Namespace") -> None:
    from collections import Counter

    from mdtnet.data.annotations import load_videos
    from mdtnet.data.check import USABLE, Examine, check_videos
    from mdtnet.work.parts import Shard

    def by_engine(tasks: "dict[str, Task]") -> "Rows":
        return compute(Examine(), tasks, options, places=(videos.root,))(list(tasks))

    check_least(1, workers=options.workers, min_frames=options.min_frames)
    videos = _listed(options)
    other = None
    if options.other:
        other = load_videos(options.other, root=options.root, classes=videos.classes, multi_label=videos.multi_label)
    shard = Shard.parse(options.shard)
    with bar(sum(shard.holds(videos.name(i)) for i in range(len(videos))), text="decoding") as progress:
        found = check_videos(
            videos,
            options.out,
            compute=by_engine,
            shard=shard,
            min_frames=options.min_frames,
            frame_pattern=options.frame_pattern,
            other=other,
            progress=progress,
        )
    if found is None:
        say(f"shard {options.shard} is checked; the last of all shards writes the tables into {options.out}")
        return
    for kind, count in Counter(f.kind for f in found.problems).most_common():
        say(f"{count:6} {kind}{' (kept)' if kind in USABLE else ''}")
    say(f"{len(found.clean)} of {len(videos)} videos can be used: {options.out}/clean.csv")
    if found.problems:
        say(f"the problem of each file: {options.out}/problems.csv")
    several = " --data.multi_label true" if videos.multi_label else ""
    say(f"train with: --data.train {options.out}/clean.csv --data.root {videos.root} "
         f"--data.classes {options.out}/classes.txt{several}")  # fmt: skip


def pack_arguments(parser: "ArgumentParser") -> None:
    _list_arguments(parser)
    parser.add_argument("--out", required=True, help="folder for the tar files; packing that was stopped goes on there")
    parser.add_argument("--per_tar", type=int, default=1000, help="videos in a tar file")
    parser.add_argument("--short_side", type=int, default=0, help="code videos anew, in pixels; 0: files as they are")
    work_arguments(parser, workers=1)


def pack(options: "Namespace") -> int:
    from mdtnet.data.pack import CLASSES, INDEX, WriteTar, tasks_of
    from mdtnet.data.pack import pack as pack_videos
    from mdtnet.work.parts import Shard, read_rows

    check_least(1, per_tar=options.per_tar)
    if options.short_side:
        check_least(16, short_side=options.short_side)
    options.timeout *= options.per_tar  # it is that of one video
    videos = _listed(options)
    tasks = tasks_of(videos, per_tar=options.per_tar, short_side=options.short_side)
    shard, job = Shard.parse(options.shard), WriteTar(os.path.abspath(options.out))

    def by_engine(chosen: "dict[str, Tar]") -> "Rows":
        return compute(job, chosen, options, places=(videos.root, options.out))(list(chosen))

    with bar(sum(map(shard.holds, tasks)), text="packing") as progress:
        packed = pack_videos(videos, tasks, options.out, compute=by_engine, shard=shard, progress=progress)
    rows = read_rows(options.out).values()
    failed = [row for row in rows if row["error"] and shard.holds(str(row["name"]))] if packed is None else []
    for row in failed:
        complain(f"{row['name']}: {row['error']}", style="red")
    if failed:
        complain(f"{len(failed)} of {len(tasks)} tar files could not be written; the same command tries them again")
        return 1
    if packed is None:
        say(f"shard {options.shard} is packed; the last of all shards writes {options.out}/{INDEX}")
        return 0
    size = sum(int(str(row["bytes"])) for row in rows)
    say(f"{len(packed)} rows in {len(rows)} tar files, {size / 1e6:.1f} MB: {options.out}/{INDEX}")
    several = " --data.multi_label true" if packed.multi_label else ""
    say(f"train with: --data.train {options.out}/{INDEX} --data.classes {options.out}/{CLASSES}{several}")
    return 0


def info_arguments(parser: "ArgumentParser") -> None:
    _list_arguments(parser)
    parser.add_argument("--sheet", default="", help="also draw a contact sheet: .png or .jpg")


def info(options: "Namespace") -> None:
    import numpy as np

    from mdtnet.data.info import MAX_OPENED, contact_sheet, data_info, histogram

    videos = _listed(options)
    with bar(min(len(videos), MAX_OPENED), text="opening") as progress:
        found = data_info(videos, progress=progress)
    counts = sorted(found.counts.items(), key=lambda item: -item[1])
    several = f", {videos.labels.sum(1).mean():.2f} labels per video" if videos.multi_label else ""
    say(f"{len(videos)} videos, {len(counts)} classes{several}")
    most = max(1, counts[0][1])
    shown = counts if len(counts) <= SHOWN else [*counts[: SHOWN // 2], ("...", -1), *counts[-SHOWN // 2 :]]
    for name, count in shown:
        say(f"{count:8}  {'█' * round(30 * count / most):<30}  {name}" if count >= 0 else "     ...")
    say(f"by the headers of {found.opened} videos, {found.bytes / 1e6:.1f} MB ({found.unopened} cannot be opened):")
    for (width, height), count in found.sizes.most_common(5):
        say(f"{count:8}  {width} x {height} pixels")
    for note in found.notes():
        say(f"note: {note}")
    if len(found.seconds):
        say(f"seconds: median {np.median(found.seconds):.2f}, in total {found.seconds.sum() / 3600:.2f} h")
        for line in histogram(found.seconds):
            say(line)
    if not found.opened:
        raise DataError(f"{options.data}: none of the {found.unopened} videos can be opened")
    if options.sheet:
        say(f"wrote {contact_sheet(videos, options.sheet)}")


def _list_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("data", help="folder of class folders, or list file")
    parser.add_argument("--root", default="", help="folder that the paths in the list are relative to")
    parser.add_argument("--classes", default="", help="file of class names, where labels are numbers")
    _multi_label_argument(parser)


def _multi_label_argument(parser: "ArgumentParser") -> None:
    parser.add_argument("--multi_label", action="store_true", help="rows of the list have several labels: jump|wave")


def _listed(options: "Namespace") -> "VideoList":
    from mdtnet.data.annotations import load_videos

    return load_videos(options.data, root=options.root, classes=options.classes, multi_label=options.multi_label)


VERBS = {
    "data render": Verb(
        "make the built-in data set: class folders of real videos, and list files",
        render_arguments,
        render,
        "  mdtnet data render data/builtin --size 112 --background cluttered",
    ),
    "data prepare": Verb(
        "official layouts, or your own videos -> lists to train and test on",
        prepare_arguments,
        prepare,
        "  mdtnet data prepare ucf101 --root ucf101/ --out ucf101/lists --split all --download\n"
        "  mdtnet data prepare folder --root videos/ --out lists\n"
        "  mdtnet data prepare labelstudio --annotations export.json --root videos/ --out lists --background",
    ),
    "data check": Verb(
        "decode every video: which can be used, and the problems of the others",
        check_arguments,
        check,
        "  mdtnet data check videos/ --out checked",
    ),
    "data pack": Verb(
        "videos as plain tar files with an index, to train from",
        pack_arguments,
        pack,
        "  mdtnet data pack lists/train.csv --root videos/ --out packed/train\n"
        "  mdtnet data pack lists/train.csv --root videos/ --out packed/train --short_side 256 --workers 8",
    ),
    "data info": Verb(
        "videos per class, durations, sizes, a contact sheet",
        info_arguments,
        info,
        "  mdtnet data info videos/ --sheet sheet.png",
    ),
}
