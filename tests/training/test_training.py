"""Training runs of seconds: what they write, and that stopping, resuming and sharing change nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from accelerate.utils import set_seed
from runs import assert_same_state, log_rows, signal_at_step

from mdtnet.checkpoint import load_checkpoint, load_model, save_checkpoint
from mdtnet.config_file import load_yaml, save_yaml
from mdtnet.data.annotations import load_videos, write_list
from mdtnet.data.dataset import ClipBatches
from mdtnet.errors import CheckpointError, ConfigError, DivergedError, VideoError
from mdtnet.models.build import build_model
from mdtnet.pages.report import build_report
from mdtnet.scores import ScoreTable
from mdtnet.system.processes import Interrupted
from mdtnet.training import loop
from mdtnet.training.loop import train


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the same sums in the same order as in the other processes of these tests
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=5)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """TDN, which sees 5 frames per segment, with its classes in another order than the data's."""
    path, config = tmp_path_factory.mktemp("teacher") / "teacher.pt", tiny.config(Path(), Path(), model={"name": "tdn"})
    torch.manual_seed(0)
    save_checkpoint(path, model=build_model(config.model, num_classes=2), config=config, classes=("right", "left"))
    return path


def test_a_run_leaves_everything_a_user_needs(tmp_path, videos):
    config = tiny.config(tmp_path / "run", videos, trackers=("csv", "tensorboard"), save_every=2)
    result = train(config)
    out = tmp_path / "run"
    assert load_yaml(out / "config.yaml") == config
    assert [row["epoch"] for row in log_rows(out)] == ["1", "2"]
    assert result.epochs == 2
    assert result.val_top1 == max(row["val_top1"] for row in result.history)
    assert list((out / "tensorboard").rglob("events*"))
    assert "learning rate 0.16 x 4 / 64 = 0.01" in (out / "train.log").read_text()
    assert (out / "train.log").read_text().count("waiting for data") == 2
    assert all(0 < row["waiting"] < 1 for row in result.history)
    model = load_model(out / "checkpoints" / "best.pt")
    assert model.classes == ("left", "right")
    table = ScoreTable.load(out / "scores.npz")
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["top1"] == result.val_top1 == table.metrics(config.test)["top1"]
    best = load_checkpoint(out / "checkpoints" / "best.pt")
    assert best.metrics["epoch"] == result.best_epoch
    assert best.training_state is None


def test_a_run_that_fails_before_it_starts_leaves_nothing(tmp_path, videos):
    wrong = tiny.config(tmp_path / "run", videos, model={"weights": str(tmp_path / "none.pt")})
    with pytest.raises(CheckpointError, match=r"none\.pt"):
        train(wrong)
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_says_so(tmp_path, videos):
    with pytest.raises(DivergedError, match=r"loss of epoch 1 is nan, .* \(train.lr is 1e\+30\)"):
        train(tiny.config(tmp_path / "run", videos, optimizer="sgd", lr=1e30))
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt").training_state["state"]["epoch"] == 0


def test_training_learns_which_way_the_square_moves(tmp_path, videos):
    model = {"name": "tsm", "dropout": 0.0}
    data = {"num_segments": 4, "flip": False}
    result = train(
        tiny.config(
            tmp_path / "run",
            videos,
            data=data,
            model=model,
            epochs=12,
            optimizer="adamw",
            lr=0.08,
            val_every=12,
        )
    )
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    assert result.history[-1]["train_top1"] >= 0.9


@pytest.mark.parametrize(
    ("number", "recipe_options"),
    [
        (signal.SIGTERM, {}),
        (signal.SIGINT, {"optimizer": "adamw", "ema": 0.9, "accumulate": 2, "clip_grad": 1.0}),
        (signal.SIGINT, {"segments": (1,), "teacher": "teacher.pt"}),
    ],
)
def test_interrupted_and_resumed_is_uninterrupted(tmp_path, videos, teacher, monkeypatch, number, recipe_options):
    if "teacher" in recipe_options:
        recipe_options |= {"teacher": str(teacher)}
    whole, halves = (tiny.config(tmp_path / name, videos, **recipe_options) for name in ("whole", "halves"))
    train(whole)
    with monkeypatch.context() as patch:
        signal_at_step(patch, 3, number)  # the first of three steps of epoch 2: stops after it
        with pytest.raises(Interrupted, match=r"mdtnet train --resume .*halves") as stopped:
            train(halves)
    assert stopped.value.exit_code == 128 + number
    state = load_checkpoint(tmp_path / "halves" / "checkpoints" / "last.pt").training_state["state"]
    assert (state["epoch"], state["step"]) == (1, 1)
    train(halves, resume=True)
    assert_same_state(tmp_path / "whole", tmp_path / "halves")


SCRIPT = """
import os, sys, torch
torch.set_num_threads(1)
from torch.nn.modules.batchnorm import _BatchNorm
from mdtnet.config_file import load_yaml
from mdtnet.training import loop, run_folder

def eval_norms(model):
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()

if "--frozen-norms" in sys.argv:
    loop.set_train_mode = eval_norms
run_folder.time.strftime = lambda *_: "process" + os.environ.get("RANK", "")  # clocks differ
loop.train(load_yaml(sys.argv[1]))
"""


def launch(tmp_path: Path, config, *options: str, processes: int = 0) -> subprocess.Popen:
    script, yaml = tmp_path / "script.py", tmp_path / "run.yaml"
    script.write_text(SCRIPT)
    save_yaml(config, yaml)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    return subprocess.Popen(
        [sys.executable, *launcher, str(script), str(yaml), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )


def test_killed_at_any_moment_it_can_be_resumed(tmp_path, videos):
    killed = tiny.config(tmp_path / "killed", videos, epochs=400, save_every=1)
    process = launch(tmp_path, killed)
    last = tmp_path / "killed" / "checkpoints" / "last.pt"
    try:
        while process.poll() is None and not (last.exists() and log_rows_or_none(tmp_path / "killed")):
            time.sleep(0.01)
        time.sleep(0.213)
    finally:
        process.kill()
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    state = load_checkpoint(last).training_state["state"]
    epochs = state["epoch"] + 2
    train(replace(killed, train=replace(killed.train, epochs=epochs)), resume=True)
    train(replace(killed, out=str(tmp_path / "whole"), train=replace(killed.train, epochs=epochs)))
    assert_same_state(tmp_path / "whole", tmp_path / "killed")


def log_rows_or_none(out: Path) -> list:
    return log_rows(out) if (out / "log.csv").exists() else []


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_equal_one(tmp_path, processes):
    """Same global batch, five steps, frozen batch norms; one process has no readable clip in the last.

    They have no folder yet: all must name the same one. And they have to find out that there is no GPU.
    """
    videos = tiny.write_videos(tmp_path / "videos", per_class=9)
    one = tiny.config(
        tmp_path / "one",
        videos,
        data={"on_unreadable": "skip"},
        model={"name": "mdtnet1", "dropout": 0.0},
        epochs=1,
    )
    *_, empty = ClipBatches(18, batch_size=4 // processes, shuffle=True, seed=0, rank=1, world=processes)
    assert len(empty) == 1
    names = sorted(p.relative_to(videos) for p in videos.rglob("*.mp4"))
    (videos / names[empty[0]]).write_bytes(b"")
    device = "cpu" if torch.accelerator.is_available() else "auto"
    several = launch(
        tmp_path, replace(one, out="", train=replace(one.train, device=device)), "--frozen-norms", processes=processes
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "set_train_mode", lambda model: eval_norms(model))
        train(replace(one, train=replace(one.train, accumulate=processes)))
    output, _ = several.communicate(timeout=200)
    assert several.returncode == 0, output
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == "process0_mdtnet1_resnet18"
    folder.rename(tmp_path / "several")
    a, b = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pt") for name in ("one", "several"))
    start = build_model(one.model, num_classes=2).state_dict()
    assert any((a.model_state[k] - start[k]).abs().max() > 1e-3 for k in start if k.startswith("trunk.conv1"))
    for name, value in a.model_state.items():
        assert torch.allclose(value, b.model_state[name], atol=1e-5, rtol=0), name
    rows = [c.training_state["state"]["history"][0] for c in (a, b)]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], abs=1e-5)
    tables = [ScoreTable.load(tmp_path / name / "scores.npz") for name in ("one", "several")]
    assert tables[0].names == tables[1].names == [str(name) for name in names]
    assert tables[0].errors == tables[1].errors
    assert np.allclose(tables[0].scores, tables[1].scores, atol=1e-4, equal_nan=True)
    assert (tmp_path / "one" / "unreadable.csv").read_text() == (tmp_path / "several" / "unreadable.csv").read_text()


def eval_norms(model):
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def test_loader_processes_change_nothing(tmp_path, videos):
    results = [train(tiny.config(tmp_path / str(n), videos, data={"workers": n})) for n in (0, 2)]
    assert log_rows(results[0].out) == log_rows(results[1].out)


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, videos):
    config = tiny.config(tmp_path / "run", videos, epochs=1)
    train(config)
    before = (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(ConfigError, match=r"already holds a run .*--resume"):
        train(config)
    assert (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes() == before


def test_resume_refuses_what_changes_results_and_allows_more_epochs(tmp_path, videos):
    config = tiny.config(tmp_path / "run", videos, epochs=1)
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(config, resume=True)
    train(config)
    changed = replace(config, model=replace(config.model, dropout=0.25))
    with pytest.raises(ConfigError, match=r"model\.dropout = 0\.25, the run has 0\.5"):
        train(changed, resume=True)
    result = train(replace(config, train=replace(config.train, epochs=2)), resume=True)
    assert [row["epoch"] for row in result.history] == [1, 2]


def test_resume_refuses_other_videos(tmp_path):
    videos = tiny.write_videos(tmp_path / "videos", per_class=3)
    config = tiny.config(tmp_path / "run", videos, epochs=1)
    train(config)
    (videos / "left" / "02.mp4").unlink()
    with pytest.raises(ConfigError, match="had 6 training videos"):
        train(replace(config, train=replace(config.train, epochs=2)), resume=True)


def test_resume_does_without_the_weights_that_the_run_started_from(tmp_path, videos):
    train(tiny.config(tmp_path / "first", videos, epochs=1))
    start = (tmp_path / "first/checkpoints/best.pt").rename(tmp_path / "start.pt")
    config = tiny.config(tmp_path / "run", videos, epochs=1, model={"weights": str(start)})
    train(config)
    start.unlink()
    assert train(replace(config, train=replace(config.train, epochs=2)), resume=True).epochs == 2


def test_resume_refuses_the_optimiser_of_another_version(tmp_path, videos):
    config = tiny.config(tmp_path / "run", videos, epochs=1)
    train(config)
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    content = torch.load(last, weights_only=True)
    content["training"]["optimizer"]["param_groups"].pop()
    torch.save(content, last)
    with pytest.raises(CheckpointError, match=r"last\.pt: the optimiser's state is of another version"):
        train(replace(config, train=replace(config.train, epochs=2)), resume=True)


def test_resume_needs_a_training_state(tmp_path, videos):
    config = tiny.config(tmp_path / "run", videos, epochs=1)
    train(config)
    (tmp_path / "run" / "checkpoints" / "best.pt").replace(tmp_path / "run" / "checkpoints" / "last.pt")
    with pytest.raises(CheckpointError, match="no training state"):
        train(config, resume=True)


@pytest.fixture
def broken(tmp_path) -> Path:
    videos = tiny.write_videos(tmp_path / "videos", per_class=4)
    (videos / "left" / "01.mp4").write_bytes(b"this is no video")
    return videos


def test_an_unreadable_video_is_an_error(tmp_path, broken):
    with pytest.raises(VideoError, match=r"left/01\.mp4"):
        train(tiny.config(tmp_path / "run", broken))


def test_unreadable_videos_are_counted_once_when_skipped(tmp_path, broken):
    result = train(tiny.config(tmp_path / "run", broken, data={"on_unreadable": "skip"}, save_every=1))
    assert [Path(path).name for path in result.unreadable] == ["01.mp4"]
    with open(tmp_path / "run" / "unreadable.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1
    assert rows[0]["path"] == str(broken / "left" / "01.mp4")
    assert rows[0]["reason"]
    assert (tmp_path / "run" / "train.log").read_text().count("left out, cannot be read") == 1
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["unreadable"] == 1
    assert figures["unreadable_wrong"]["top1"] < figures["unreadable_excluded"]["top1"]


def test_all_videos_unreadable_does_not_crash_a_step(tmp_path, broken):
    for path in broken.rglob("*.mp4"):
        path.write_bytes(b"no")
    result = train(tiny.config(tmp_path / "run", broken, data={"on_unreadable": "skip"}))
    assert (len(result.unreadable), result.val_top1) == (8, 0.0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are Unicode")
def test_a_name_that_is_not_utf8(tmp_path, broken):
    name = os.fsdecode(b"caf\xe9.mp4")
    (broken / "left" / name).write_bytes(b"no")
    result = train(tiny.config(tmp_path / "run", broken, data={"on_unreadable": "skip"}, epochs=1))
    assert str(broken / "left" / name) in result.unreadable
    assert b"caf\xe9.mp4" in (tmp_path / "run" / "unreadable.csv").read_bytes()
    assert b"caf\xe9.mp4" in (tmp_path / "run" / "train.log").read_bytes()
    assert build_report(tmp_path / "run").is_file()
    listed = tmp_path / "list.csv"
    videos = load_videos(str(broken))
    write_list(listed, videos, root=str(broken))
    again = load_videos(str(listed), root=str(broken))
    assert [again.name(i) for i in range(len(again))] == [videos.name(i) for i in range(len(videos))]


def test_the_moving_average_is_what_is_tested_and_kept(tmp_path, videos):
    train(tiny.config(tmp_path / "run", videos, ema=0.5))
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    best = load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt")
    raw = last.training_state["model"]
    assert not torch.equal(raw["head.fc.weight"], last.model_state["head.fc.weight"])
    assert not torch.equal(raw["head.fc.weight"], best.model_state["head.fc.weight"])


def test_early_stopping_and_rare_validation(tmp_path, videos):
    result = train(tiny.config(tmp_path / "run", videos, epochs=9, early_stopping=2, lr=0.0, val_every=2))
    assert result.epochs == 4  # best at 2, and 4 is no better
    assert [row.get("val_top1") is not None for row in result.history] == [False, True, False, True]


def test_a_frozen_trunk_does_not_move(tmp_path, videos):
    config = tiny.config(tmp_path / "run", videos, model={"freeze": "trunk"}, epochs=1)
    train(config)
    set_seed(config.train.seed)
    start = build_model(config.model, num_classes=2).state_dict()
    end = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt").model_state
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert moved == {"head.fc.weight", "head.fc.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 3}, r"train\.batch_size is 4, which does not divide by 1 process\(es\) x 3"),
        ({"epochs": 0}, r"train\.epochs is 0, expected at least 1"),
        ({"amp": "fp16"}, r"train\.amp is 'fp16'"),
        ({"device": "gpu"}, r"train\.device is 'gpu', expected auto or cpu"),
        ({"ema": 1.0}, r"train\.ema is 1,"),
    ],
)
def test_recipes_that_make_no_sense(tmp_path, videos, options, message):
    with pytest.raises(ConfigError, match=message):
        train(tiny.config(tmp_path / "run", videos, **options))
    assert not (tmp_path / "run").exists()


def test_bf16_runs_on_a_cpu(tmp_path, videos):
    result = train(tiny.config(tmp_path / "run", videos, amp="bf16", epochs=1))
    assert np.isfinite(result.history[0]["train_loss"])
