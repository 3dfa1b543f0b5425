"""The demonstration: a data set, two systems trained alike, tests, predictions and pages, on a laptop.

It shows the point of motion: two actions of a reversal pair hold the same frames in opposite order. TSN, which averages
over frames, is at chance inside such pairs; MDT-Net2, which looks at motion, is not.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from mdtnet.builtin.actions import REVERSAL_PAIRS
from mdtnet.builtin.render import RenderConfig, render_dataset
from mdtnet.config import DataConfig, EvalConfig, ModelConfig, RunConfig, System, TrainConfig
from mdtnet.errors import DataError
from mdtnet.evaluation import evaluate_checkpoint
from mdtnet.inference.recogniser import Recogniser
from mdtnet.metrics import pair_accuracy
from mdtnet.pages.pictures import draw_saliency
from mdtnet.pages.report import build_comparison, build_report
from mdtnet.scores import ScoreTable
from mdtnet.system.terminal import headline, say, show
from mdtnet.training.loop import train

COMPARED: tuple[System, ...] = ("tsn", "mdtnet2")
RENDER = RenderConfig(train_clips=40, val_clips=10, size=72)


@dataclass(frozen=True)
class DemoResult:
    """One system's figures on the validation videos, 0 to 1."""

    top1: float
    """Share of videos classified right."""
    pairs: float
    """Share classified right inside reversal pairs, where chance is 1/2."""
    seconds: float
    """Training time."""


def run_config(videos: Path, out: Path, system: System, *, seed: int) -> RunConfig:
    """The run of one system, the same for both but for the system: a narrow ResNet-18 from scratch at 64 pixels."""
    data = DataConfig(
        train=str(videos / "train.csv"),
        val=str(videos / "val.csv"),
        frame_stride=2,
        short_side=72,
        size=64,
        cache=str(out / "cache"),
    )
    model = ModelConfig(name=system, trunk="resnet18", width=0.25, dropout=0.2)
    recipe = TrainConfig(
        epochs=16,
        batch_size=16,
        optimizer="adamw",
        lr=0.02,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=1,
        clip_grad=20,
        val_every=8,
        seed=seed,
    )
    return RunConfig(out=str(out / system), data=data, model=model, train=recipe)


def demo(out: Path, *, seed: int) -> dict[System, DemoResult]:
    """Run everything into the folder `out`; a second call goes on where the first was stopped.

    Raises:
        ConfigError: `out` holds something else.
    """
    headline("1 of 4: the built-in data set")
    videos = out / "videos"
    render_dataset(videos, replace(RENDER, seed=seed), workers=2)  # logs what it made
    headline("2 of 4: train and test TSN and MDT-Net2 alike")
    results = {system: _train_and_test(videos, out, system, seed) for system in COMPARED}
    headline("3 of 4: predict")
    _predict(videos, out)
    headline("4 of 4: pages and pictures")
    for path in _pages(videos, out):
        say(f"wrote {path}")
    show(_table(results))
    return results


def _train_and_test(videos: Path, out: Path, system: System, seed: int) -> DemoResult:
    config = run_config(videos, out, system, seed=seed)
    checkpoint = out / system / "checkpoints" / "last.pt"
    result = train(config, resume=checkpoint.is_file())
    # the last weights, not the best ones: the best were chosen on the videos that are tested here
    figures = evaluate_checkpoint(checkpoint, data=config.data.val, out=out / system / "test", test=EvalConfig())
    table = ScoreTable.load(out / system / "test" / "scores.npz")
    inside = pair_accuracy(table.fuse("softmax"), table.labels, table.classes, REVERSAL_PAIRS)
    seconds = sum(row["seconds"] or 0 for row in result.history)
    return DemoResult(figures["top1"] or 0, inside["accuracy"] or 0, seconds)


def _predict(videos: Path, out: Path) -> None:
    model = Recogniser.load(out / "mdtnet2" / "checkpoints" / "last.pt")
    for source in _examples(videos):
        prediction = model.predict(source, topk=3)
        best = ", ".join(f"{c} {p:.0%}" for c, p in zip(prediction.classes, prediction.probabilities))
        say(f"{source.relative_to(videos)}: {best}")


def _examples(videos: Path) -> list[Path]:
    found = [next(iter(sorted((videos / "val" / name).glob("*.mp4"))), None) for name in REVERSAL_PAIRS[0]]
    if None in found:
        raise DataError(f"{videos}: no validation videos of {' and '.join(REVERSAL_PAIRS[0])}")
    return [path for path in found if path]


def _pages(videos: Path, out: Path) -> list[Path]:
    sheet = draw_saliency(_examples(videos)[0], out / "salience.png")
    runs = [out / system for system in COMPARED]
    return [
        sheet,
        *map(build_report, runs),
        build_comparison(runs, out / "comparison.html", pairs=REVERSAL_PAIRS),
    ]


def _table(results: dict[System, DemoResult]) -> Table:
    table = Table(title="Built-in data set, validation videos", title_justify="left")
    for column in ("", "top-1", "inside reversal pairs (chance 50 %)", "training"):
        table.add_column(column, justify="right" if column else "left")
    for system, r in results.items():
        table.add_row(system, f"{r.top1:.1%}", f"{r.pairs:.1%}", time.strftime("%M:%S", time.gmtime(r.seconds)))
    return table
