"""Long videos stitched from rendered clips, with and without a class of time in which nothing is labelled.

Between labelled actions a figure stands still, or does something that has no label.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
from clips import probabilities_of_part

from mdtnet.builtin.actions import ACTIONS as ALL_ACTIONS
from mdtnet.builtin.render import RenderConfig, Split, encode, render_clip
from mdtnet.config import DataConfig, ModelConfig, RunConfig, TrainConfig
from mdtnet.config_file import load_yaml
from mdtnet.data.prepare import prepare
from mdtnet.inference.localisation import IOUS, Localisation, frame_times_of, localisation, read_truth
from mdtnet.inference.recogniser import Recogniser
from mdtnet.inference.timeline import Timeline
from mdtnet.training.loop import train

ACTIONS = ("push_box", "wave", "jump", "sit_down")
OTHERS = ("pick_up", "raise_arms", "open_door")
PIXELS = RenderConfig(size=64, fps=15, background="plain")


def stitch(folder: Path, name: str, index: int, split: Split) -> list[tuple[str, str, float, float]]:
    """Write a video in which each action comes twice, and return rows of its labels: path, label, start, end."""
    rng = np.random.default_rng([index, split == "train"])
    pieces: list[np.ndarray] = []
    rows = []
    for i, action in enumerate(rng.permutation(ACTIONS * 2)):
        clip = render_clip(action, 2 * index + i // 4, config=PIXELS, split=split)
        still = np.repeat(clip[:1], rng.integers(15, 45), 0)
        other = [render_clip(OTHERS[i % 3], 8 * index + i, config=PIXELS, split=split)] if i % 2 else []
        start = sum(map(len, [*pieces, still, *other]))
        pieces += [*other, still, clip]
        rows.append((f"{name}.mp4", str(action), start / PIXELS.fps, (start + len(clip)) / PIXELS.fps))
    frames = np.concatenate(pieces)
    noise = rng.integers(-6, 7, frames.shape)
    (folder / f"{name}.mp4").write_bytes(encode((frames + noise).clip(0, 255).astype(np.uint8), fps=PIXELS.fps))
    return rows


def write_list(path: Path, rows: list[tuple[str, str, float, float]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "start", "end"), *rows])
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """`train.csv` and `val.csv` of 20 and 4 videos of about 35 seconds, and `test.csv` of 6 others."""
    folder = tmp_path_factory.mktemp("stitched")
    for part, split, count, first in (("train", "train", 20, 0), ("val", "val", 4, 0), ("test", "val", 6, 4)):
        rows = [row for i in range(count) for row in stitch(folder, f"{part}{i}", first + i, split)]
        write_list(folder / f"{part}.csv", rows)
    return folder


def judged(model: Recogniser, labels: Path) -> tuple[Localisation, dict[str, Timeline]]:
    """Figures of the segments in labelled videos, and what was found in each."""
    truth = read_truth(str(labels), str(labels.parent))
    found = {path: model.timeline(path) for path in truth}
    frames = {path: frame_times_of(one.num_frames, one.windows.duration) for path, one in found.items()}
    return localisation({path: one.segments for path, one in found.items()}, truth, frames), found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_builtin_finds_actions_one_after_the_other(tmp_path):
    """Every action of the built-in set in each of three videos; every window is predicted as that part by itself."""
    rows = []
    for name in ("a", "b", "c"):
        rng, pieces, start = np.random.default_rng(ord(name)), [], 0
        for action in rng.permutation(list(ALL_ACTIONS)):
            pieces.append(render_clip(str(action), ord(name), config=RenderConfig(seed=2), split="val"))
            rows.append((f"{name}.mp4", str(action), start / 30, (start + len(pieces[-1])) / 30))
            start += len(pieces[-1])
        (tmp_path / f"{name}.mp4").write_bytes(encode(np.concatenate(pieces), fps=30))
    model = Recogniser.load("builtin", device="cpu")
    figures, found = judged(model, write_list(tmp_path / "labels.csv", rows))
    print("builtin:", figures)
    path, one = next(iter(found.items()))
    expected = [probabilities_of_part(model, path, *span) for span in one.windows.spans]
    np.testing.assert_allclose(one.probabilities, expected, atol=1e-5)
    assert figures.frame_accuracy > 0.55
    assert all(figures.map[iou] > least for iou, least in zip(IOUS, (0.65, 0.65, 0.65, 0.5, 0.3)))


def trained(videos: Path, *, background: bool) -> Recogniser:
    """TSM after a short training."""
    out = videos / f"background_{background}"
    lists = out / "lists"
    prepare("csv", root=str(videos), annotations=str(videos), out=str(lists), background=background)
    data = load_yaml(lists / "data.yaml").data
    own = {"num_segments": 8, "short_side": 64, "size": 56, "cache": str(out / "cache")}
    config = RunConfig(
        out=str(out / "run"),
        data=DataConfig(**{**vars(data), **own}),
        model=ModelConfig(name="tsm", trunk="resnet18", width=0.25, dropout=0.2),
        train=TrainConfig(
            epochs=15, batch_size=16, lr=0.02, optimizer="adamw", clip_grad=20, val_every=15, device="cpu", seed=1
        ),
    )
    return Recogniser.load(Path(train(config).out, "checkpoints", "best.pt"), device="cpu")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_background_class_lessens_false_alarms(videos):
    """What is measured of both: docs/results/2026-11-27-timeline.md."""
    without, with_it = (judged(trained(videos, background=b), videos / "test.csv")[0] for b in (False, True))
    print("without:", without)
    print("with background:", with_it)
    assert with_it.false_alarms < 0.5 * without.false_alarms
    assert with_it.frame_accuracy > without.frame_accuracy + 0.1
    assert with_it.map[0.5] > without.map[0.5]
    assert with_it.map[0.3] > 0.5
