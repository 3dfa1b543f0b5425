"""`predict` over many videos: results as they come, a rerun, shards, and a network that was replaced."""

import csv
import json
import subprocess
import sys
import time

import pytest
import tiny
from clips import make_checkpoint

from mdtnet.cli.main import main
from mdtnet.work.parts import read_rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Videos, one of them damaged, and a checkpoint."""
    videos = tiny.write_videos(tmp_path / "videos", per_class=2)
    (videos / "left/bad.mp4").write_bytes(b"")
    make_checkpoint(tmp_path / "best.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_rerun_adds_what_is_missing_and_a_table_has_all(folder, capsys):
    words = ["predict", "best.pt", "videos", "--device", "cpu", "--out", "found"]
    assert main([*words, "--shard", "2/2"]) in (0, 1)
    assert main([*words, "--shard", "1/2"]) in (0, 1)
    capsys.readouterr()
    assert main(["merge", "found", "--out", "all.csv"]) == 1  # one video could not be read
    with open("all.csv", newline="") as file:
        merged = list(csv.DictReader(file))
    assert len(merged) == 5
    assert main([*words, "--csv", "again.csv"]) == 1  # divided anew; the bad one alone is tried again
    err = capsys.readouterr().err
    assert "4 of 5 videos were in found already" in err
    assert "1 of 5 videos could not be read" in err
    with open("again.csv", newline="") as file:
        again = list(csv.DictReader(file))
    bad = [row for row in again if row["error"]]
    assert [row["name"] for row in bad] == ["left/bad.mp4"]


def test_another_video_of_the_same_name_is_done_anew(folder, capsys):
    """Folders of one structure, one after the other into the same results."""
    other = tiny.write_videos(folder / "other", per_class=1, seed=3)
    (other / "right/00.mp4").write_bytes((folder / "videos/right/00.mp4").read_bytes())
    words = ["--device", "cpu", "--out", "found"]
    assert main(["predict", "best.pt", "videos", *words]) == 1
    capsys.readouterr()
    assert main(["predict", "best.pt", "other", *words]) == 0
    shown = capsys.readouterr()
    assert "1 of 2 videos were in found already" in shown.err
    assert shown.out.startswith("left/00.mp4")


def test_another_network_of_the_same_name_is_other_work(folder, capsys):
    words = ["predict", "best.pt", "videos", "--device", "cpu", "--out", "found"]
    assert main(words) == 1
    before = sorted((folder / "found").iterdir())
    make_checkpoint(folder / "best.pt", "tsn")
    assert main(words) == 2
    assert "found: holds work with sha256 = " in capsys.readouterr().err
    assert sorted((folder / "found").iterdir()) == before
    assert "sha256" in json.loads((folder / "found/work.json").read_text())


def test_a_wrong_checkpoint_is_one_line_and_no_rows(folder, capsys):
    (folder / "wrong.pt").write_bytes(b"nothing")
    assert main(["predict", "wrong.pt", "videos", "--out", "found", "--workers", "2"]) == 4
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (folder / "found").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_videos_go_on_after_a_kill(folder):
    """Names of two videos and of a damaged one: rows are there as they come, and none is done twice."""
    many = folder / "many"
    many.mkdir()
    for i in range(1000):
        name = "left/bad.mp4" if i % 100 == 0 else f"{('left', 'right')[i % 2]}/00.mp4"
        (many / f"{i:03}.mp4").symlink_to(folder / "videos" / name)
    words = [sys.executable, "-m", "mdtnet", "predict", "best.pt", "many", "--device", "cpu", "--out", "found"]
    part = folder / "found/part-001-of-001.jsonl"
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not part.exists() or part.read_bytes().count(b"\n") < 200:
        assert first.poll() is None
        time.sleep(0.05)
    first.kill()
    first.wait()
    kept = len(read_rows(folder / "found"))
    again = subprocess.run(words, capture_output=True, text=True)
    assert again.returncode == 1
    assert "10 of 1000 videos could not be read" in again.stderr
    assert again.stdout.count("%") > 0
    rows = [json.loads(line)["name"] for line in part.read_text().splitlines()]
    assert len(set(rows)) == 1000
    assert len(rows) - 1000 <= kept // 100 + 1  # those that could not be read were tried again
