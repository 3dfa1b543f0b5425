"""The verb that classifies videos."""

from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb
from mdtnet.system.terminal import complain, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.inference.prediction import Prediction

BAR = 20  # characters of a probability of 1


def predict_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.deploy.formats import FORMATS

    exported = ", ".join(form.suffix for form in FORMATS.values())
    parser.add_argument(
        "checkpoint", help=f"a checkpoint, a zoo name, or an exported file ({exported}; only .pt2 needs torch)"
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="+",
        help="video files, folders of videos, frame folders, or glob patterns",
    )
    parser.add_argument("--topk", type=int, default=5, help="number of classes to show")
    parser.add_argument("--threshold", type=float, help="show every class with at least this probability, 0 to 1")
    parser.add_argument("--clips", type=int, default=1, help="clips per video that are averaged")
    parser.add_argument("--crops", type=int, default=1, help="crops per clip that are averaged: 1 or 3")
    parser.add_argument("--segments", type=int, default=0, help="T; 0: as in the network's own test")
    parser.add_argument("--json", default="", help="also write the predictions to this JSON file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def predict(options: "Namespace") -> int:
    from mdtnet.deploy.load import load
    from mdtnet.inference.prediction import expand_sources, write_json
    from mdtnet.system.files import check_file

    sources = expand_sources(options.sources)
    if options.json:
        check_file(options.json)
    model = load(options.checkpoint, device=options.device, segments=options.segments)
    found = []
    for prediction in model.predict_many(
        sources, topk=options.topk, threshold=options.threshold, clips=options.clips, crops=options.crops
    ):
        found.append(prediction)
        _say(prediction)
    if options.json:
        write_json(found, options.json, licence=model.licence)
    unread = sum(bool(prediction.error) for prediction in found)
    if unread:
        complain(f"{unread} of {len(found)} videos could not be read")
    return 3 if unread else 0


def _say(prediction: "Prediction") -> None:
    from mdtnet.inference.prediction import NOTHING

    if prediction.error:
        complain(f"{prediction.path}: {prediction.error}", style="red")
        return
    say(f"{prediction.path}  ({prediction.seconds:.2f} s)", style="bold")
    for name, probability in zip(prediction.classes, prediction.probabilities):
        say(f"  {probability:6.1%}  {'█' * round(BAR * probability):<{BAR}}  {name}")
    if not prediction.classes:
        say(f"  {NOTHING}")


VERBS = {
    "predict": Verb(
        "classify videos",
        predict_arguments,
        predict,
        "  mdtnet predict runs/mine/checkpoints/best.pt clip.mp4 more/*.avi --topk 3 --json out.json",
    ),
}
