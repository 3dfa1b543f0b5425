"""The verb that classifies videos."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mdtnet.cli.live import live, live_arguments
from mdtnet.cli.parse import Verb
from mdtnet.cli.work import (
    compute,
    do,
    flat,
    from_root,
    items_of,
    places,
    source_arguments,
    work_arguments,
)
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import complain, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.cli.work import Rows
    from mdtnet.config import Values
    from mdtnet.data.container import Part
    from mdtnet.deploy.jobs import Predict

BAR = 20  # characters of a probability of 1
NAME = 48  # longest name in a line of its own


def predict_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.deploy.formats import FORMATS

    exported = ", ".join(form.suffix for form in FORMATS.values())
    parser.add_argument(
        "checkpoint", help=f"a checkpoint, a zoo name, or an exported file ({exported}; only .pt2 needs torch)"
    )
    source_arguments(parser)
    parser.add_argument("--topk", type=int, default=5, help="number of classes to show")
    parser.add_argument(
        "--threshold", type=float, help="show every class with at least this probability, 0 to 1, perhaps none"
    )
    parser.add_argument("--clips", type=int, default=1, help="clips per video that are averaged")
    parser.add_argument("--crops", type=int, default=1, help="crops per clip that are averaged: 1 or 3")
    parser.add_argument("--segments", type=int, default=0, help="T; 0: as in the network's own test")
    parser.add_argument("--json", default="", help="also write the predictions to this JSON file")
    parser.add_argument("--csv", default="", help="also write them to this table")
    parser.add_argument("--out", default="", help="folder for results as they come; a rerun skips what is there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    work_arguments(parser)
    live_arguments(parser)


def predict(options: "Namespace") -> int:
    from mdtnet.deploy.jobs import Predict
    from mdtnet.inference.description import check_views
    from mdtnet.inference.prediction import check_choice, write_json
    from mdtnet.system.files import check_file
    from mdtnet.work.parts import write_table

    if options.live:
        return live(options)
    items = items_of(options)
    check_choice(options.topk, options.threshold)
    check_views(options.clips, options.crops)
    for path in filter(None, (options.json, options.csv)):
        check_file(path)
    if options.video and len(items) != 1:
        raise ConfigError(f"--video draws one video, and {len(items)} are given")
    if options.video:
        from mdtnet.live_video import check_recording

        check_recording(options.video)
    if options.csv and not options.csv.endswith(".csv"):
        raise ConfigError(f"--csv is '{options.csv}', expected a file that ends in .csv")
    names = ("checkpoint", "device", "segments", "topk", "threshold", "clips", "crops")
    job = Predict(**{name: getattr(options, name) for name in names})
    job.model  # noqa: B018  # a wrong checkpoint is one line, not one per video
    about = job.about()
    if options.engine == "ray":
        checkpoint, items = from_root(job.checkpoint, items)
        job = replace(job, checkpoint=checkpoint)
    ahead = (os.cpu_count() or 1) if len(items) > 1 else 0
    rows = compute(
        job, items, options, here=lambda chosen: job.many(chosen, ahead=ahead), places=places(items, job.checkpoint)
    )
    width = min(NAME, max(map(len, items)))
    found = do(items, _shown(rows, width if len(items) > 1 else 0), options, about)
    if options.json:
        write_json(({key: row[key] for key in row if key != "name"} for row in found.values()), options.json)
    if options.csv:
        write_table([flat({key: row[key] for key in row if key != "path"}) for row in found.values()], options.csv)
    if options.video:
        _draw(job, items, found, options.video)
    failed = sum(bool(row["error"]) for row in found.values())
    if failed:
        complain(f"{failed} of {len(found)} videos could not be read")
    return 1 if failed else 0


def _draw(job: "Predict", items: "dict[str, Part]", found: "dict[str, Values]", out: str) -> None:
    from mdtnet.deploy.exported import ExportedRecogniser
    from mdtnet.inference.prediction import Prediction
    from mdtnet.live_video import record

    network = job.model
    maps = None if isinstance(network, ExportedRecogniser) else network.config.model.saliency
    for name, row in found.items():
        if not row["error"]:
            best: Any = row["predictions"]
            shown = Prediction(name, tuple(b["class"] for b in best), tuple(b["probability"] for b in best), 0.0)
            record(items[name], shown, out, about=network.description, saliency=maps)
            say(f"wrote {out}")


def _shown(rows: "Callable[[list[str]], Rows]", width: int) -> "Callable[[list[str]], Rows]":
    """The same rows, each said when it comes: one line each, or with bars where `width` is 0."""

    def saying(names: list[str]) -> "Rows":
        for name, row in rows(names):
            _say(name, row, width)
            yield name, row

    return saying


def _say(name: str, row: "Values", width: int) -> None:
    from mdtnet.inference.prediction import NOTHING

    if row["error"]:
        complain(f"{name}: {row['error']}", style="red")
        return
    found = [(str(best["class"]), float(best["probability"])) for best in row["predictions"]]  # type: ignore
    damage = f"  (damaged: {row['damaged']})" if row["damaged"] else ""
    if width:
        best = "   ".join(f"{text} {probability:.1%}" for text, probability in found)
        shown = name if len(name) <= width else f"...{name[3 - width :]}"
        say(f"{shown:<{width}}  {best or NOTHING}{damage}")
        return
    say(f"{name}  ({row['seconds']:.2f} s){damage}", style="bold")
    for text, probability in found:
        say(f"  {probability:6.1%}  {'█' * round(BAR * probability):<{BAR}}  {text}")
    if not found:
        say(f"  {NOTHING}")


VERBS = {
    "predict": Verb(
        "classify videos, each as a whole (see timeline for long ones)",
        predict_arguments,
        predict,
        "  mdtnet predict runs/mine/checkpoints/best.pt clip.mp4 more/*.avi --topk 3 --json out.json\n"
        "  mdtnet predict runs/mine/checkpoints/best.pt videos/ --out runs/predicted --csv predictions.csv\n"
        "  mdtnet predict best.onnx --list clips.csv --root videos --out runs/predicted --shard 3/16\n"
        "  mdtnet predict runs/mine/checkpoints/best.pt --live rtsp://camera/stream --video seen.mp4",
    ),
}
