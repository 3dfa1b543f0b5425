"""The scripts of `examples` do what they say, on little data."""

import runpy
import sys
from pathlib import Path

import pytest
import tiny
import torch
from clips import frames_of_square, write_video
from fastapi.testclient import TestClient
from official import OFFICIAL, renamed
from zoo.loopback import serve, write_table

from mdtnet.checkpoint import load_checkpoint, save_checkpoint
from mdtnet.config import ModelConfig, RunConfig, TSMConfig
from mdtnet.models.build import build_model

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=5)


@pytest.fixture
def run(monkeypatch, capsys):
    """A script with its arguments -> what it prints."""

    def run(name: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_own_videos(run, videos, tmp_path):
    options = ["--weights", "", "--epochs", 1, "--size", 32, "--workers", 0]
    said = run("own_videos.py", videos, "--test", videos, "--out", tmp_path / "own", *options)
    assert "epoch 1 is the best" in said
    assert "of 10 videos" in said
    assert "confusion" in (tmp_path / "own" / "report.html").read_text().lower()


def test_fine_tune_from_a_name(run, videos, tmp_path, monkeypatch):
    model = build_model(ModelConfig(name="tsn", trunk="resnet18"), num_classes=101)
    torch.save({"state_dict": {f"module.{k}": v for k, v in renamed(model, OFFICIAL).items()}}, tmp_path / "x.pth")
    server = serve()
    server.files["/x.pth"] = (tmp_path / "x.pth").read_bytes()
    monkeypatch.setenv("MDTNET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MDTNET_ZOO", str(write_table(tmp_path / "zoo.json", f"{server.address}/x.pth")))
    monkeypatch.setenv("MDTNET_OFFLINE", "")
    said = run("fine_tune.py", "tsn-resnet18-mine-2f", videos, "--out", tmp_path / "tuned", "--epochs", 1, "--size", 32)
    server.shutdown()
    server.server_close()
    assert "tsn, knows 101 classes" in said
    tuned = load_checkpoint(tmp_path / "tuned" / "checkpoints" / "best.pt")
    assert (tuned.classes, tuned.config.data.num_segments) == (("left", "right"), 2)


def test_compare_systems(run, videos, tmp_path):
    small = ["--trunk", "resnet18", "--width", 0.125, "--weights", "", "--epochs", 1, "--size", 32, "--seeds", 2]
    said = run("compare_systems.py", videos, videos, "--out", tmp_path / "compared", "--systems", "tsn", "tsm", *small)
    assert "tsm less tsn: " in said
    assert "±" in said


def test_live_gestures(run, tmp_path):
    config = ModelConfig(name="tsm", trunk="resnet18", width=0.125, tsm=TSMConfig(causal=True))
    model = build_model(config, num_classes=2)
    save_checkpoint(tmp_path / "x.pt", model=model, config=RunConfig(model=config), classes=("left", "right"))
    video = write_video(tmp_path / "clip.mp4", frames_of_square(24))
    said = run("live_gestures.py", tmp_path / "x.pt", video, "--sure", 0)
    assert "sliding window" not in said
    assert any(name in said for name in ("left  ", "right  "))
    assert "24 frames, " in said


def test_fastapi_app(videos):
    app = runpy.run_path(str(EXAMPLES / "fastapi_app.py"))["create_app"]("builtin")
    client = TestClient(app)
    assert len(client.get("/classes").json()) == 12
    with open(videos / "left" / "00.mp4", "rb") as file:
        found = client.post("/actions?topk=2", files={"video": file})
    assert found.status_code == 200
    assert len(found.json()["actions"]) == 2
    refused = client.post("/actions", files={"video": b"no video"})
    assert (refused.status_code, "detail" in refused.json()) == (422, True)
