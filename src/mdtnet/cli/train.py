"""The verb that trains."""

from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb, config_from
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.config import RunConfig


def train_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import RunConfig

    parser.add_argument(
        "--config", metavar="FILE", default="", help="YAML file of a run; command-line options override it"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with the run in this folder, or in --out, exactly where it was",
    )
    parser.add_class_arguments(RunConfig)


def train(options: "Namespace") -> None:
    from mdtnet.checks import check_model, check_ranges

    config = run_config(options)
    check_ranges(config)  # now too: before the seconds that torch needs to load
    check_model(config.model)
    from accelerate import PartialState

    from mdtnet.pages.report import build_report
    from mdtnet.training.loop import train

    result = train(config, resume=options.resume is not None)
    if not PartialState().is_main_process:
        return
    page = build_report(result.out)
    name, best = ("top-1", result.val_top1) if result.val_map is None else ("mAP", result.val_map)
    say(f"\nbest epoch {result.best_epoch}: validation {name} {best:.1%}")
    if result.unreadable:
        say(f"{len(result.unreadable)} unreadable videos were left out: {result.out}/unreadable.csv")
    say(f"checkpoint {result.out}/checkpoints/best.pt")
    say(f"report     {page}")


def run_config(options: "Namespace") -> "RunConfig":
    """The values of the YAML file, or of the run to resume, with the command line's over them."""
    from mdtnet.config import RunConfig
    from mdtnet.config_file import load_yaml, to_dict

    if options.resume:
        from mdtnet.training.run_folder import config_of_run

        if options.config or "out" in options.given:
            raise ConfigError("--resume RUN has its config and its folder: expected no --config and no --out")
        return config_from(RunConfig, options, to_dict(config_of_run(options.resume)))
    base = to_dict(load_yaml(options.config)) if options.config else {}
    return config_from(RunConfig, options, base)


VERBS = {
    "train": Verb(
        "train a network on your videos",
        train_arguments,
        train,
        "  mdtnet train --data videos/ --model mdtnet2 --trunk mobilenet_v2 --model.weights imagenet\n"
        "  mdtnet train --config builtin --train.epochs 30 --out runs/mine\n"
        "  mdtnet train --resume runs/mine\n\n"
        "--data, --model and --trunk stand for --data.train, --model.name and --model.trunk.",
    ),
}
