"""A network ready to publish: weights, config, a card of measured figures; and the network that the package brings."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml

import mdtnet
from mdtnet import hub
from mdtnet.builtin.actions import ACTIONS
from mdtnet.builtin.render import RenderConfig, render_dataset
from mdtnet.checkpoint import load_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import EvalConfig
from mdtnet.errors import ConfigError, DataError
from mdtnet.evaluation import evaluate_checkpoint
from mdtnet.pages.report import build_report
from mdtnet.training.loop import train
from mdtnet.zoo import find
from mdtnet.zoo.find import BUILTIN_FILE, located

TOOL = Path(__file__).parents[2] / "tools" / "builtin_weights.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of seconds."""
    folder = tmp_path_factory.mktemp("run")
    videos = tiny.write_videos(folder / "videos", per_class=2)
    train(tiny.config(folder / "run", videos, data={"flip": "swap"}))
    return folder / "run"


def test_a_card_has_what_was_measured_and_nothing_of_this_machine(run, tmp_path, capsys):
    best = run / "checkpoints" / "best.pt"
    assert main(["zoo", "push", str(best), "--tests", str(run), "--out", str(tmp_path / "card")]) == 0
    assert "wrote" in capsys.readouterr().out
    card = (tmp_path / "card" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "mdtnet"
    figures = json.loads((run / "metrics.json").read_text())
    assert f"| {figures['top1']:.2%} |" in card
    assert "# TSN on resnet18, 2 classes" in card
    weights = tmp_path / "card" / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in card
    texts = card + (tmp_path / "card" / "config.yaml").read_text() + str(load_checkpoint(weights).config)
    assert str(run.parent) not in texts
    assert mdtnet.load(weights, device="cpu").classes == ("left", "right")


def test_a_card_without_a_test_is_not_written(run, tmp_path):
    with pytest.raises(ConfigError, match="no tests are given"):
        hub.prepare(run / "checkpoints" / "best.pt", tmp_path / "card", tests=[])
    with pytest.raises(DataError, match=r"metrics\.json: no such file"):
        hub.prepare(run / "checkpoints" / "best.pt", tmp_path / "card", tests=[tmp_path])
    figures = json.loads((run / "metrics.json").read_text()) | {"classes": ["a", "b"]}
    (tmp_path / "metrics.json").write_text(json.dumps(figures))
    with pytest.raises(ConfigError, match="other classes"):
        hub.prepare(run / "checkpoints" / "best.pt", tmp_path / "card", tests=[tmp_path])
    assert not (tmp_path / "card").exists()


def test_push_uploads_the_three_files(run, tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, *, exist_ok):
            calls.append(("create", name, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns):
            calls.append(("upload", repo_id, sorted(allow_patterns)))
            return f"hub/{repo_id}"

    monkeypatch.setattr("mdtnet.hub.HfApi", Api)
    hub.prepare(run / "checkpoints" / "best.pt", tmp_path, tests=[run])
    assert hub.push(tmp_path, "user/name") == "hub/user/name"
    assert calls == [
        ("create", "user/name", True),
        ("upload", "user/name", ["README.md", "config.yaml", "model.safetensors"]),
    ]
    (tmp_path / "README.md").unlink()
    with pytest.raises(ConfigError, match=r"without README\.md"):
        hub.push(tmp_path, "user/name")


def test_a_hub_that_refuses_is_one_line(run, tmp_path, monkeypatch):
    class Api:
        def create_repo(self, name, *, exist_ok):
            raise OSError("no network\nhere")

    monkeypatch.setattr("mdtnet.hub.HfApi", Api)
    hub.prepare(run / "checkpoints" / "best.pt", tmp_path, tests=[run])
    with pytest.raises(ConfigError, match=r"user/name: cannot be uploaded to \(no network here\)"):
        hub.push(tmp_path, "user/name")


def test_the_report_says_what_a_run_started_from(run, tmp_path):
    config = tiny.config(tmp_path / "next", run.parent / "videos", model={"weights": str(run / "checkpoints/best.pt")})
    train(config)
    text = build_report(tmp_path / "next").read_text()
    assert ".../best.pt (mdtnet, tsn on resnet18); below, numbers of tensors; taken over head 2, trunk 120;" in text


@pytest.mark.slow
def test_the_command_that_makes_the_builtin_network(tmp_path, monkeypatch):
    """With tiny videos in the place of the built-in set, and in seconds."""
    spec = importlib.util.spec_from_file_location("builtin_weights", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    videos = tiny.write_videos(tmp_path / "videos", per_class=2)
    rows = [f"{videos}/{name}/{i:02}.mp4,{name}\n" for name in ("left", "right") for i in range(2)]
    for place in ("data/train", "data/val", "fresh/val"):
        (tmp_path / "work" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / f"{place}.csv").write_text("".join(rows))
    for module in (tool, find):
        monkeypatch.setattr(module, "BUILTIN_FILE", tmp_path / "package" / "builtin.safetensors")
    (tmp_path / "package").mkdir()
    small = "--train.epochs 1 --train.batch_size 4 --train.device cpu --train.val_every 1 --data.flip swap"
    tool.make(tmp_path / "work", small.split())
    assert located("builtin").path == tmp_path / "package" / "builtin.safetensors"
    assert load_checkpoint("builtin").classes == ("left", "right")
    card = (tmp_path / "package" / "builtin.md").read_text()
    assert 'mdtnet.load("builtin")' in card
    assert "10 clip(s) x 3 crop(s)" in card
    assert mdtnet.load("builtin", device="cpu").predict(videos / "left" / "00.mp4").classes


needs_builtin = pytest.mark.skipif(not BUILTIN_FILE.is_file(), reason="not made yet: make builtin-weights")


@needs_builtin
def test_the_builtin_network_is_small_and_says_what_it_reaches():
    assert BUILTIN_FILE.stat().st_size < 10e6
    card = BUILTIN_FILE.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(BUILTIN_FILE.read_bytes()).hexdigest() in card
    assert load_checkpoint("builtin").classes == tuple(sorted(ACTIONS))


@needs_builtin
def test_the_builtin_network_reaches_on_new_clips_what_its_card_says(tmp_path):
    """Clips that it has not seen; of 60, the share of right ones is within 4 standard errors of the card's."""
    card = BUILTIN_FILE.with_suffix(".md").read_text(encoding="utf-8")
    said = float(re.search(r"\| ([\d.]+)% \|", card)[1]) / 100
    render_dataset(tmp_path / "data", RenderConfig(train_clips=1, val_clips=4, seed=12345), workers=1)
    lists, out = str(tmp_path / "data" / "val.csv"), tmp_path / "test"
    figures = evaluate_checkpoint(BUILTIN_FILE, data=lists, out=out, test=EvalConfig(), device="cpu")
    spread = np.sqrt(said * (1 - said) / figures["videos"])
    assert abs(figures["top1"] - said) <= max(4 * spread, 0.1)
