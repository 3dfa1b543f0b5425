"""The verb that writes features of videos for other tools."""

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb, config_from
from mdtnet.cli.work import Rows, compute, do, from_root, items_of, places, source_arguments, work_arguments
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import complain, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.config import Values


def features_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import FeatureConfig

    parser.add_argument("checkpoint", help="a checkpoint or a zoo name")
    source_arguments(parser, known="video files, folders, patterns, frame folders, http(s) addresses, - (stdin)")
    parser.add_argument("--out", required=True, help="folder of the files; a rerun skips what is there")
    parser.add_class_arguments(FeatureConfig)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    work_arguments(parser, timeout=0.0)


def features(options: "Namespace") -> int:
    from mdtnet.config import FeatureConfig
    from mdtnet.deploy.features import Extract
    from mdtnet.deploy.formats import format_of
    from mdtnet.deploy.jobs import check_stems
    from mdtnet.system.files import make_folder
    from mdtnet.work.parts import ABOUT

    if format_of(options.checkpoint):
        raise ConfigError(f"{options.checkpoint}: an exported network gives probabilities alone, expected a checkpoint")
    items = items_of(options)
    check_stems(items, ABOUT)
    config = config_from(FeatureConfig, options)
    job = Extract(options.checkpoint, options.out, options.device, config)
    about = job.about  # a wrong checkpoint or option is one line, not one per video
    make_folder(options.out)
    if options.engine == "ray":
        checkpoint, items = from_root(job.checkpoint, items)
        job = replace(job, checkpoint=checkpoint, out=os.path.abspath(job.out))
    rows = compute(job, items, options, places=places(items, job.checkpoint, job.out))
    found = do(items, _shown(rows), options, about, keep=lambda row: _is_there(options.out, row))
    failed = sum(bool(row["error"]) for row in found.values())
    if failed:
        complain(f"{failed} of {len(found)} videos could not be read")
    return 1 if failed else 0


def _is_there(out: str, row: "Values") -> bool:
    return os.path.exists(os.path.join(out, str(row["file"])))


def _shown(rows: "Callable[[list[str]], Rows]") -> "Callable[[list[str]], Rows]":
    """The same rows, each said when it comes."""

    def saying(names: list[str]) -> "Rows":
        for name, row in rows(names):
            if row["error"]:
                complain(f"{name}: {row['error']}", style="red")
            else:
                shape = " x ".join(map(str, row["shape"]))  # type: ignore[arg-type]
                say(f"{name}  {row['file']}  {shape}" + (f"  (damaged: {row['damaged']})" if row["damaged"] else ""))
            yield name, row

    return saying


VERBS = {
    "features": Verb(
        "write a feature vector per window of long videos, for other tools",
        features_arguments,
        features,
        "  mdtnet features runs/mine/checkpoints/best.pt videos/ --out features\n"
        "  mdtnet features runs/mine/checkpoints/best.pt videos/ --out features --window 2 --stride 0.5 --format bmn",
    ),
}
