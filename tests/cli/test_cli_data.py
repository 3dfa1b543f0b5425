"""The verbs about data sets as a user meets them, from videos on disk to a trained and tested network."""

import json
from pathlib import Path

import pytest
import tiny

from mdtnet.cli.main import main


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tiny.write_videos(tmp_path_factory.mktemp("own") / "videos", per_class=4)
    (folder / "left/03.mp4").write_bytes(b"")
    return folder


TINY = ["--train.epochs", 1, "--train.batch_size", 4, "--data.size", 32, "--data.short_side", 32, "--model", "tsn",
        "--data.num_segments", 2, "--model.width", 0.125, "--trunk", "resnet18",
        "--data.on_unreadable", "skip"]  # fmt: skip


def test_from_videos_to_a_fused_test(videos, tmp_path, capsys):
    lists, best = tmp_path / "lists", tmp_path / "run/checkpoints/best.pt"
    code, out, _ = run(capsys, "data", "prepare", "folder", "--root", videos, "--out", lists, "--val_fraction", 0.25)
    assert code == 0
    assert f"--config {lists}/data.yaml" in out.replace("\n", "")
    assert run(capsys, "train", "--config", lists / "data.yaml", "--out", tmp_path / "run", *TINY)[0] == 0
    common = ["test", best, "--data", lists / "train.csv", "--root", videos, "--classes", lists / "classes.txt"]
    code, out, _ = run(capsys, *common, "--protocol", "accurate", "--out", tmp_path / "accurate")
    assert code == 0
    assert "over 6 videos" in out
    assert "over 5 videos" in out
    stored = json.loads((tmp_path / "accurate/metrics.json").read_text())["protocol"]
    assert (stored["preset"], stored["clips"], stored["crops"], stored["crop_size"]) == ("accurate", 10, 3, 32)
    assert run(capsys, *common, "--protocol", "tea", "--clips", 2, "--out", tmp_path / "tea")[0] == 0
    stored = json.loads((tmp_path / "tea/metrics.json").read_text())["protocol"]
    assert (stored["rule"], stored["clips"], stored["preset"]) == ("random", 2, "")
    code, out, _ = run(capsys, "fuse", tmp_path / "accurate", tmp_path / "tea/scores.npz", "--out", tmp_path / "fused")
    assert code == 0
    figures = json.loads((tmp_path / "fused/metrics.json").read_text())
    assert (figures["videos"], figures["unreadable"]) == (6, 1)
    code, out, _ = run(capsys, "mean", tmp_path / "accurate", tmp_path / "tea")
    assert code == 0
    top1 = [json.loads((tmp_path / name / "metrics.json").read_text())["top1"] for name in ("accurate", "tea")]
    assert f"{sum(top1) / 2:.2%}" in out.splitlines()[-2]
    code, _, err = run(capsys, "fuse", tmp_path / "accurate", tmp_path / "run", "--out", tmp_path / "fused")
    assert code == 3
    assert "other videos" in err


def test_check_and_info(videos, tmp_path, capsys):
    code, out, _ = run(capsys, "data", "check", videos, "--out", tmp_path / "check", "--workers", 1)
    assert code == 0
    assert "1 not a video" in out
    assert "7 of 8 videos can be used" in out
    assert "left/03.mp4,not a video,empty file,yes" in (tmp_path / "check/problems.csv").read_text()
    code, out, _ = run(capsys, "data", "info", videos, "--sheet", tmp_path / "sheet.png")
    assert code == 0
    assert "8 videos, 2 classes" in out
    assert "40 x 32 pixels" in out
    assert "█" in out
    assert (tmp_path / "sheet.png").stat().st_size > 1000


MISTAKES = {
    "data set": (["data", "prepare", "ucf11", "--root", ".", "--out", "x"], 2, "ucf101"),
    "flip": (["train", "--data.flip", "swop"], 2, "'swop', expected one of true, false, swap; did you mean 'swap'"),
    "no lists": (
        ["data", "prepare", "ucf101", "--root", ".", "--out", "x"],
        3,
        "classInd.txt not found in --annotations or --root",
    ),
    "no download": (["data", "prepare", "jester", "--root", ".", "--out", "x", "--download"], 3, "no plain download"),
    "protocol": (["test", "x.pt", "--data", ".", "--protocol", "acurate"], 2, "did you mean 'accurate'"),
    "no scores": (["fuse", "none.npz", "none.npz", "--out", "x"], 3, "no such score table"),
    "no metrics": (["mean", "."], 3, "metrics.json: no such file"),
    "nothing to check": (["data", "check", "nowhere", "--out", "x"], 3, "nowhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_clear_line(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments, expected, words = MISTAKES[mistake]
    code, _, err = run(capsys, *arguments)
    assert code == expected
    assert words in " ".join(err.split())
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
