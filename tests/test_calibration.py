"""Temperatures: found again where they were put in, judged by other videos, and in the network that is written."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

import mdtnet
from mdtnet.calibration import fit_temperature
from mdtnet.checkpoint import load_checkpoint, save_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import EvalConfig
from mdtnet.errors import ConfigError
from mdtnet.metrics import calibration_error
from mdtnet.models.build import build_model
from mdtnet.scores import ScoreTable


def drawn(count: int, temperature: float, views: int = 1) -> ScoreTable:
    """Labels drawn from softmax(logits), and these logits times a temperature as scores."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 5)) * 1.5
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=p) for p in shares])
    scores = np.repeat((logits * temperature).astype(np.float32)[:, None], views, 1)
    zeros = np.zeros(views, dtype=np.int64)
    names = [f"{i}.mp4" for i in range(count)]
    return ScoreTable(names, labels, zeros, zeros, scores, [""] * count, tuple("abcde"))


@pytest.mark.parametrize("fusion", ["softmax", "logits"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_that_was_put_in_is_found(temperature, fusion):
    table, config = drawn(2000, temperature, views=2), EvalConfig(fusion=fusion)
    found = fit_temperature(table, config)
    assert found == pytest.approx(temperature, rel=0.08)
    right = calibration_error(table.sharpened(found).probabilities(fusion), table.labels)
    assert right < 0.03
    if temperature != 1:
        assert calibration_error(table.probabilities(fusion), table.labels) > 3 * right


def test_calibration_error_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [np.nan, np.nan]])
    assert calibration_error(probabilities, np.array([0, 1, 1, 0])) == pytest.approx((abs(2 * 0.9 - 1) + 0.2) / 3)
    assert calibration_error(probabilities[3:], np.array([0])) is None


@pytest.mark.parametrize("rows", ["right", "wrong", "unreadable"])
def test_where_no_temperature_fits(rows):
    table = drawn(20, 1.0)
    best = table.scores[:, 0].argmax(1)
    table = replace(table, labels=best if rows == "right" else (best + 1) % 5 if rows == "wrong" else table.labels)
    if rows == "unreadable":
        table = replace(table, scores=np.full_like(table.scores, np.nan), errors=["empty file"] * 20)
    with pytest.raises(ConfigError, match=r"no temperature from 0\.1 to 10\.0 fits"):
        fit_temperature(table, EvalConfig())


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    videos = tiny.write_videos(tmp_path / "train", per_class=1)
    config = tiny.config(tmp_path, videos, model={"name": "tsn"})
    model = build_model(config.model, num_classes=2)
    torch.nn.init.normal_(model.head.fc.weight, std=0.5)
    save_checkpoint(tmp_path / "best.pt", model=model, config=config, classes=("left", "right"))
    return tmp_path / "best.pt"


def test_the_calibrated_network(checkpoint, tmp_path, capsys):
    for part, seed in (("val", 1), ("test", 2)):
        _label(checkpoint, tiny.write_videos(tmp_path / part, per_class=4, seed=seed))
    words = ["test", str(checkpoint), "--data", str(tmp_path / "test"), "--out", str(tmp_path / "out")]
    assert main([*words, "--calibrate", str(tmp_path / "val"), "--device", "cpu"]) == 0
    assert "fitted on 8 videos" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    noted = load_checkpoint(tmp_path / "out" / "calibrated.safetensors").metrics["calibration"]
    assert noted["before"] == pytest.approx(figures["ece"])
    video = next((tmp_path / "test").rglob("*.mp4"))
    before, after = (
        mdtnet.Recogniser.load(path, device="cpu").predict(video)
        for path in (checkpoint, tmp_path / "out" / "calibrated.safetensors")
    )
    first, other = (np.log(p.probabilities[0] / p.probabilities[1]) for p in (before, after))
    assert first / other == pytest.approx(noted["temperature"], rel=1e-3)


def _label(checkpoint, videos):
    """Put videos into the folder of the class that the network takes them for, every fourth into the other's."""
    network = mdtnet.Recogniser.load(checkpoint, device="cpu")
    for i, video in enumerate(sorted(videos.rglob("*.mp4"))):
        best = network.predict(video).classes[0]
        wrong = {"left": "right", "right": "left"}[best]
        video.rename(videos / (wrong if i % 4 == 3 else best) / f"{i}_{video.name}")


def test_videos_that_judge_are_not_fitted_on(checkpoint, tmp_path, capsys):
    videos = tiny.write_videos(tmp_path / "test", per_class=1)
    words = ["test", str(checkpoint), "--data", str(videos), "--out", str(tmp_path / "out")]
    assert main([*words, "--calibrate", str(videos)]) == 2
    assert "share 2 videos, such as" in capsys.readouterr().err
    assert main([*words, "--calibrate", str(tmp_path / "train"), "--without", "reading"]) == 2
    assert "but --without silences a part" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
