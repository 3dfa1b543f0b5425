"""`timeline` from a terminal: every file that it writes, the judgement, and videos that cannot be read."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from clips import frames_of_square, make_checkpoint, write_video
from PIL import Image

from mdtnet.cli.main import main

KINDS = "json,csv,activitynet,labelstudio,srt,vtt,png,html"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    frames = np.concatenate([frames_of_square(20), frames_of_square(20) // 2])
    (tmp_path / "day").mkdir()
    for path in ("a.mp4", "day/a.mp4"):
        write_video(tmp_path / path, frames)
    (tmp_path / "bad.mp4").write_bytes(b"")
    make_checkpoint(tmp_path / "best.pt", "tsn")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS = ["--length", "1", "--low", "0.1", "--high", "0.2", "--out", "found"]


def test_every_file_and_the_judgement(folder, capsys):
    """Two videos of one name, and one that is empty."""
    (folder / "truth.csv").write_text("path,label,start,end\na.mp4,left,0,2\nday/a.mp4,up,1,3\n")
    words = [*WORDS, "--write", KINDS, "--truth", "truth.csv"]
    assert main(["timeline", "best.pt", "a.mp4", "day/a.mp4", "bad.mp4", *words]) == 1
    shown = capsys.readouterr()
    assert "bad.mp4: " in shown.err
    assert "1 of 3 videos could not be read" in shown.err
    assert "mAP at IoU 0.5" in shown.out
    names = {path.relative_to("found").as_posix() for path in Path("found").rglob("*.*")}
    each = {f"{stem}.{kind}" for stem in ("a", "day/a") for kind in ("srt", "vtt", "png", "html")}
    of_all = {"timeline.json", "segments.csv", "activitynet.json", "labelstudio.json"}
    assert names == {*each, *of_all, "work.json", "part-001-of-001.jsonl", "part-001-of-001.done"}
    found = json.loads((folder / "found/timeline.json").read_text())
    assert [one["path"] for one in found] == ["a.mp4", "day/a.mp4"]
    assert [score["second"] for score in found[0]["scores"]] == [0, 1, 2, 3]
    assert len(found[0]["segments"]) == (folder / "found/segments.csv").read_text().count("\na.mp4,")
    assert list(json.loads((folder / "found/activitynet.json").read_text())["results"]) == ["a", "a-2"]
    assert Image.open(folder / "found/a.png").size[0] == 1200
    page = (folder / "found/a.html").read_text()
    assert "http" not in page
    assert all(f'<th scope="row">{segment["label"]}</th>' in page for segment in found[0]["segments"])


def test_shards_and_a_rerun_add_up_to_the_whole(folder, capsys):
    """What was done is not done again, what could not be read is; the last shard writes the files of all videos."""
    words = ["timeline", "best.pt", "a.mp4", "day/a.mp4", "bad.mp4", *WORDS]
    assert main([*words, "--shard", "1/2"]) + main([*words, "--shard", "2/2"]) == 1  # one of them has the bad one
    assert "the last of all shards writes" in capsys.readouterr().out
    of_all = Path("found/segments.csv").read_text()
    page = Path("found/a.html").stat().st_mtime_ns
    Path("found/day/a.html").unlink()
    shutil.copy("a.mp4", "bad.mp4")
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "1 of 3 videos were in found already" in shown.err
    assert Path("found/a.html").stat().st_mtime_ns == page
    assert "wrote found/day/a.html" in shown.out
    assert Path("found/segments.csv").read_text().startswith(of_all)
    assert len(json.loads(Path("found/timeline.json").read_text())) == 3
    assert main([*words, "--high", "0.3"]) == 2
    assert "holds work with high = 0.2, not 0.3" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_find_the_same(folder):
    words = ["timeline", "best.pt", "a.mp4", "day/a.mp4", "bad.mp4", *WORDS[:-1]]
    assert [main([*words, "one"]), main([*words, "two", "--workers", "2"])] == [1, 1]
    assert Path("one/timeline.json").read_text() == Path("two/timeline.json").read_text()
    assert Path("two/day/a.html").exists()


def test_mistakes_are_one_line(folder, capsys):
    for words, code, message in (
        (["a.mp4"], 2, "give seconds"),
        (["a.mp4", "--length", "1", "--low", "0.7"], 2, "0 <= low <= high <= 1"),
        (["a.mp4", "--length", "1", "--truth", "none.csv"], 3, "none.csv"),
        (["--length", "1"], 3, "no videos given"),
        (["a.mp4", "--length", "1", "--shard", "1/2"], 2, "--shard needs --out"),
        (["a.mp4", "./a.mp4", "--length", "1", "--out", "x"], 3, "its files would have the names of those of a.mp4"),
    ):
        assert main(["timeline", "best.pt", *words]) == code
        err = capsys.readouterr().err.strip()
        assert message in err
        assert len(err.splitlines()) == 1
