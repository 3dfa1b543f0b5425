"""The verb that shows everything once."""

from pathlib import Path
from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def demo_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("--out", default="runs/demo", help="folder for videos, runs and pages")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and training")


def demo(options: "Namespace") -> None:
    from mdtnet.demo import demo

    demo(Path(options.out), seed=options.seed)


VERBS = {
    "demo": Verb("built-in data set, TSN and MDT-Net2 trained on it, tests, predictions, pages", demo_arguments, demo),
}
