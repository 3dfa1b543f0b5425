"""The verb that tests a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb, check_least, config_from, options_of
from mdtnet.cli.results import beside, figures_table
from mdtnet.cli.work import shard_argument
from mdtnet.errors import ConfigError, DataError
from mdtnet.system.terminal import say, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.checkpoint import Checkpoint
    from mdtnet.config import EvalConfig

FITTED = "calibration"
"""Folder, in that of a test, of the scores that a temperature is fitted to."""


def test_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import EvalConfig

    parser.add_argument("checkpoint", help="a checkpoint, such as RUN/checkpoints/best.pt, or a zoo name")
    parser.add_argument("--data", required=True, help="folder of class folders, or list file, to test on")
    parser.add_argument("--root", default="", help="folder that the paths in the list are relative to")
    parser.add_argument("--classes", default="", help="file of class names, where labels are numbers")
    parser.add_argument("--out", default="", help="folder for scores and metrics; default: beside the checkpoint")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--device", default="auto", help="auto, or cpu to keep off an accelerator")
    parser.add_argument(
        "--protocol",
        default="",
        help="a named protocol, `published` for that of a zoo name's figure; default: `test` of the run's config",
    )
    parser.add_argument(
        "--without", default="", help="silence a part: fine, coarse, dcme, stce (MDT-Net, TDN), motion (TEA), reading"
    )
    shard_argument(parser)
    parser.add_argument(
        "--calibrate",
        default="",
        help="also fit a temperature to the videos of this folder or list, which are in neither --data nor the "
        "training: OUT/calibrated.safetensors is the network with it",
    )
    parser.add_class_arguments(EvalConfig)


def test(options: "Namespace") -> None:
    from mdtnet.checks import check_ranges
    from mdtnet.config import PUBLISHED, EvalConfig, protocol_named
    from mdtnet.config_file import to_dict

    named = options.protocol
    preset = to_dict(protocol_named(named)) if named and named != PUBLISHED else None
    check_least(0, workers=options.workers)
    with options_of("test", EvalConfig):
        check_ranges(config_from(EvalConfig, options, preset), part="test")  # before torch loads
    from accelerate import PartialState

    from mdtnet.checkpoint import load_checkpoint, published_protocol
    from mdtnet.evaluation import evaluate_checkpoint, evaluate_shard, protocol
    from mdtnet.scores import check_unused
    from mdtnet.work.parts import Shard

    checkpoint = load_checkpoint(options.checkpoint)
    if named == PUBLISHED:
        preset = to_dict(published_protocol(checkpoint))
    test = config_from(EvalConfig, options, preset or to_dict(checkpoint.config.test))
    how = (named or f"{test.clips}x{test.crops}") + ("_flip" if test.flip else "")
    how += f"_without_{options.without}" if options.without else ""
    out = options.out or beside(options.checkpoint, f"test_{Path(options.data).stem}_{how}")
    part = {"without": options.without} if options.without else {}
    check_unused(out, protocol(checkpoint.config.data, test, data=options.data, checkpoint=options.checkpoint, **part))
    title = f"{test.clips} clip(s) x {test.crops} crop(s)" + (", each also mirrored" if test.flip else "")
    if options.calibrate:
        _check_calibration(options, checkpoint)
    names = ("root", "classes", "device", "workers", "without")
    given = {"test": test, **{name: getattr(options, name) for name in names}}
    with options_of("test", EvalConfig):
        if "shard" in options.given:
            shard = Shard.parse(options.shard)
            figures = evaluate_shard(options.checkpoint, data=options.data, out=out, shard=shard, **given)
            if figures is None:
                say(f"shard {options.shard} is tested; the last of all shards writes the result into {out}")
                return
        else:
            figures = evaluate_checkpoint(options.checkpoint, data=options.data, out=out, **given)
        if options.calibrate:
            evaluate_checkpoint(options.checkpoint, data=options.calibrate, out=Path(out, FITTED), **given)
    if not PartialState().is_main_process:
        return
    show(figures_table(figures, title=title))
    say(f"scores {out}/scores.npz, metrics {out}/metrics.json")
    if figures["unreadable"] == figures["videos"]:
        raise DataError(f"{options.data}: none of the {figures['videos']} videos can be read")
    if options.calibrate:
        _calibrate(options, Path(out), test)


def _check_calibration(options: "Namespace", checkpoint: "Checkpoint") -> None:
    """Before hours of testing: the lists share no video, and there is something to fit."""
    from mdtnet.calibration import check_apart
    from mdtnet.data.annotations import load_videos

    several = checkpoint.config.data.multi_label
    wrong = {"videos have several labels": several, "--without silences a part": options.without}
    wrong["--shard tests some of them"] = "shard" in options.given
    if why := next((why for why, true in wrong.items() if true), ""):
        raise ConfigError(f"--calibrate fits the probabilities of a whole network with one label per video, but {why}")
    classes = options.classes or checkpoint.classes
    judged, fitted = (load_videos(d, root=options.root, classes=classes) for d in (options.data, options.calibrate))
    check_apart(fitted, judged, name=f"--calibrate {options.calibrate}", other=f"--data {options.data}")


def _calibrate(options: "Namespace", out: Path, test: "EvalConfig") -> None:
    from mdtnet.calibration import calibrate
    from mdtnet.scores import ScoreTable

    fitted, judged = (ScoreTable.load(folder / "scores.npz") for folder in (out / FITTED, out))
    found = calibrate(options.checkpoint, fitted, judged, test, out=out / "calibrated.safetensors")
    say(
        f"temperature {found.temperature:.2f}, fitted on {found.fitted_on} videos of {options.calibrate}: calibration "
        f"error {found.before or 0:.2%} -> {found.after or 0:.2%} on {options.data}"
    )
    say(f"calibrated network {out}/calibrated.safetensors")


VERBS = {
    "test": Verb(
        "test a checkpoint on labelled videos",
        test_arguments,
        test,
        "  mdtnet test runs/mine/checkpoints/best.pt --data videos/test --protocol accurate\n"
        "  mdtnet test runs/mine/checkpoints/best.pt --data videos/test --calibrate videos/val",
    ),
}
