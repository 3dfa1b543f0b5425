"""The pages of the documentation, and what of them is run: commands and Python, page by page, from top to bottom."""

import re
from pathlib import Path
from typing import Literal, NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/datasets/*.md"),
        *ROOT.glob("examples/*.md"),
    )
}
"""README, CHANGELOG, CONTRIBUTING, the pages, the examples'; results are dated and name what there was then."""

SHOWN = ("text", "json", "yaml", "xml", "{eval-rst}")
"""Languages of blocks that are there to be read."""
NOT_RUN = {
    "#!/bin/bash": "a job for SLURM",
    "for n in 1 2 3": "three trainings; tests/cli/test_experiments.py runs them on a stand-in of the data",
    "mdtnet demo": "takes minutes",
    "mdtnet study quick": "takes minutes: make study-quick",
    "mdtnet study order": "takes hours",
    "mdtnet study ut_sets --root": "needs UT-Interaction",
    "mdtnet study ut_sets --engine ray": "needs UT-Interaction, and a cluster",
    "mdtnet predict runs/mine/checkpoints/best.pt --live 0": "a camera",
    "mdtnet predict runs/mine/checkpoints/best.pt --live rtsp": "a camera",
    "mdtnet predict runs/mine/checkpoints/best.pt videos/ --out runs/predicted --engine ray": "a cluster: tests/work",
    "mdtnet train --config ucf101/mdtnet2 --model.weights": "needs UCF101: tests/cli/test_experiments.py",
    "mdtnet test runs/mine/checkpoints/best.pt --data videos/test --calibrate": "a temperature needs more than a few "
    "videos, some of them wrong: tests/test_calibration.py",
    "mdtnet bench --models tsn,mdtnet2 --trunks mobilenet_v2 --formats": "exports take minutes: tests/measure",
    "mdtnet bench --models mdtnet2 --trunks mobilenet_v2,resnet50 --formats": "exports take minutes: tests/measure",
    "mdtnet bench --models tsn,tsm,tea,tdn,mdtnet2 --peers": "large networks take minutes: tests/measure",
    "mdtnet serve": "does not end: tests/serve",
    "curl": "asks that server",
    "torchrun": "starts processes; tests/training and tests/test_evaluation.py run several",
    "pip install": "changes the environment",
    "make ": "a test looks for its target in the Makefile",
    ".venv/bin/pre-commit": "changes the clone",
    "python examples/": "tests/test_examples.py runs them on less",
    "python -m pytest": "a test of its own",
    "python benchmarks/": "a benchmark",
    "ffmpeg": "not a part of the package",
}
"""Beginning of a command or script that is not run here -> why."""
INSTEAD = {
    "--data LIST --protocol published": "--data kinetics.csv --protocol published",
    " --download": "",
    "--shard 3/16": "--shard 1/1",
    "epochs=30, batch_size=8": "epochs=1, batch_size=4",
    'val="videos/val")': 'val="videos/val", num_segments=2, short_side=72, size=64)',
}
"""Words of pages -> what stands in their place here."""
SMALLER = {
    "train": "--train.epochs 1 --train.batch_size 4 --data.workers 0 --data.num_segments 2 --data.short_side 72 "
    "--data.size 64",
    "data render": "--train_clips 1 --val_clips 1 --size 64",
    "bench": "--segments 2 --size 64 --repeats 1",
}
"""Verb -> options that are added: what they change is time."""
GIVEN = {
    "docs/live.md": "import numpy; stream = [numpy.zeros((2, 1, 64, 64, 3), dtype='uint8')] * 3",
    "docs/weights.md": "import torch; video = [torch.zeros(2, 1, 3, 224, 224, dtype=torch.uint8)] * 3",
}
"""Page -> what its Python takes for granted."""
MADE = {
    "README.md": ("runs/mine",),
    "docs/data.md": ("runs/mine",),
    "docs/get-started.md": ("runs/mine",),
    "docs/python.md": ("runs/mine",),
}
"""Page -> what it makes itself of all that the folder holds in which pages are run."""


class Step(NamedTuple):
    """Something to run."""

    kind: Literal["command", "python", "script"]
    text: str


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and content of the blocks of a page."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def lines(block: str) -> list[str]:
    """The commands of a block: lines that go on are joined, comments left out."""
    found = (line.split("#")[0].strip() for line in block.replace("\\\n", " ").splitlines())
    return [" ".join(line.split()) for line in found if line]


def steps(page: str) -> list[Step]:
    """What a page says to run, in its order. Blocks without a language hold one command per line."""
    found = []
    for language, block in blocks(page):
        if language == "":
            found += [Step("command", line) for line in lines(block)]
        elif language not in SHOWN:
            found.append(Step("python" if language == "python" else "script", block))
    return found


def is_run(step: Step) -> bool:
    """Whether a step is run here."""
    return not step.text.startswith(tuple(NOT_RUN))
