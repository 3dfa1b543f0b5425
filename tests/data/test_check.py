"""Checking a data set: every odd file in its row, crashes and hangs cost one file, a stopped check goes on."""

import csv
from pathlib import Path

import numpy as np
import pytest
import tiny
from misbehave import misbehave
from PIL import Image

from mdtnet.cli.main import main
from mdtnet.data import check as module
from mdtnet.data.annotations import load_videos
from mdtnet.data.check import check_videos
from mdtnet.errors import ConfigError, DataError
from mdtnet.work import isolated
from mdtnet.work.isolated import Failure, run_isolated

ODD = {
    "corrupted.mp4": "damaged",
    **dict.fromkeys(("bitmap.mp4", "test_video.mp4"), "repeated"),
    "result.webm": "not a video",
    "test_case_1185230.mp4": "no frames",
    "invalid_userdata.mp4": "no frames",
    **dict.fromkeys(("video_0.mov", "video_90.mov", "video_180.mov", "video_270.mov", "unordered.mov"), "too short"),
    **dict.fromkeys(("amr_nb_1f.3gp", "amr_wb_1f.3gp", "sine-3s-xhe-aac-44khz-mono.mp4"), "no video stream"),
    **dict.fromkeys(("bipbop-cenc-audioinit.mp4", "bipbop_cbcs_audio_init.mp4"), "no video stream"),
    **dict.fromkeys(("bipbop_480wp_1001kbps-cenc-video-key1-init.mp4", "bipbop_cbcs_video_init.mp4"), "no frames"),
    **dict.fromkeys(
        (
            *("bbb_sunflower_QCIF_30fps_h263_noaudio_1f.3gp", "bbb_sunflower_QCIF_30fps_mp4v_noaudio_1f.mp4"),
            *("h264_white_frame_sar_16_9.mp4", "hevc_white_frame.mp4", "metadata.mp4", "metadata_gnre.mp4"),
            *("minimal.mp4", "tiny_av1.mp4", "video_colr_nclx_and_icc.mp4", "video_colr_nclx_two_colr.mp4"),
        ),
        "too short",
    ),
}
"""Name -> kind of the odd videos that have a problem; the others have none."""


def test_crashes_and_hangs_cost_their_items_alone(monkeypatch):
    monkeypatch.setattr(isolated, "START_SECONDS", 5)
    items = ["a", "crash", "b", "hang", "c", "exit", "d"]
    found = dict(run_isolated(misbehave, items, workers=2, timeout_seconds=0.5))
    assert {k: v for k, v in found.items() if isinstance(v, str)} == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert found["crash"] == Failure("crash", "the decoder's process was ended by SIGSEGV")
    assert found["exit"].detail == "the decoder's process ended with exit code 3"
    assert found["hang"].kind == "timeout"


def test_every_odd_video_is_in_its_row(shared, tmp_path):
    folder = shared / "data/odd_videos"
    videos = load_videos(str(folder))
    check = check_videos(videos, tmp_path)
    kinds = {Path(f.name).name: f.kind for f in check.findings}
    assert {name: kind for name, kind in kinds.items() if kind} == ODD
    details = {Path(f.name).name: f.detail for f in check.findings}
    assert details["corrupted.mp4"] == "damaged: 2 of 50 frames"
    assert details["bitmap.mp4"] == "the same content as moviepy/-video-with-dash-.mp4 (moviepy)"
    assert details["result.webm"] == "empty file"
    with open(tmp_path / "problems.csv") as file:
        assert {Path(r["path"]).name: r["problem"] for r in csv.DictReader(file)} == ODD
    clean = load_videos(str(tmp_path / "clean.csv"), root=str(folder), classes=str(tmp_path / "classes.txt"))
    assert len(clean) == len(videos) - len(ODD) + 3  # damaged and repeated ones stay
    example = next(f for f in check.findings if f.name.endswith("example.mp4"))
    assert (example.num_frames, example.height, example.width, example.seconds) == (50, 480, 640, 2.0)


@pytest.fixture
def folder(tmp_path):
    return tiny.write_videos(tmp_path / "videos", per_class=2)


def test_a_stopped_check_goes_on_and_sees_changes(folder, tmp_path, monkeypatch):
    (folder / "left/00.mp4").write_bytes(b"")
    videos = load_videos(str(folder))
    out = tmp_path / "check"
    first = check_videos(videos.subset([0, 1]), out)
    assert [f.kind for f in first.findings] == ["not a video", ""]
    with open(out / "part-001-of-001.jsonl", "a") as file:
        file.write('{"name": "right/00.mp4", "ki')  # cut off in the middle of a row
    seen = []
    real = module.in_processes
    monkeypatch.setattr(module, "in_processes", lambda job, tasks, **o: seen.extend(tasks) or real(job, tasks, **o))
    done = []
    check = check_videos(videos, out, progress=done.append)
    assert seen == ["right/00.mp4", "right/01.mp4"]
    assert done == [2, 3, 4]
    assert [f.kind for f in check.findings] == ["not a video", "", "", ""]
    assert (out / "checked.csv").read_text().count("right/00.mp4") == 1
    seen.clear()
    tiny.write_video(folder / "left/00.mp4", np.zeros((3, 32, 40, 3), np.uint8))
    check = check_videos(videos, out)
    assert seen == ["left/00.mp4"]
    assert check.findings[0].kind == "too short"
    assert [f.kind for f in check_videos(videos, out, min_frames=2).findings] == [""] * 4
    assert (out / "problems.csv").read_text() == "path,problem,detail,left_out\n"


def test_missing_files_parts_and_frame_folders(folder, tmp_path):
    (folder / "frames").mkdir()
    (folder / "empty").mkdir()
    for i in range(6):
        Image.new("RGB", (20, 10)).save(folder / f"frames/{i}.jpg")
    (folder / "list.csv").write_text(
        "path,label,start,end\nleft/00.mp4,a,0,0.5\nright/00.mp4,b,9,\nnone.mp4,b,,\nframes,a,,\nempty,b,,\n"
    )
    check = check_videos(load_videos(str(folder / "list.csv")), tmp_path / "check")
    assert [f.kind for f in check.findings] == ["", "no frames", "missing", "", "no frames"]
    assert [f.num_frames for f in check.findings] == [12, 0, 0, 6, 0]
    assert (tmp_path / "check/clean.csv").read_text() == "path,label,start,end\nleft/00.mp4,a,0.0,0.5\nframes,a,,\n"


def test_what_a_busy_machine_cut_short_is_looked_at_again(folder, tmp_path, monkeypatch):
    videos = load_videos(str(folder))
    with monkeypatch.context() as patch:
        late = "not done after 60 s"
        patch.setattr(
            module, "in_processes", lambda job, tasks, **o: ((n, job.failed((n, t), late)) for n, t in tasks.items())
        )
        assert {f.kind for f in check_videos(videos, tmp_path / "check").findings} == {"timeout"}
    assert {f.kind for f in check_videos(videos, tmp_path / "check").findings} == {""}


def test_every_frame_of_a_folder_is_read(tmp_path):
    for folder in ("a/frames", "b/frames"):
        (tmp_path / "videos" / folder).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20, 10)).save(tmp_path / "videos" / folder / f"{i}.png")
    videos = load_videos(str(tmp_path / "videos"))
    assert [f.kind for f in check_videos(videos, tmp_path / "check").findings] == ["", ""]
    (tmp_path / "videos/a/frames/4.png").write_bytes(b"")
    first, second = check_videos(videos, tmp_path / "check").findings
    assert (first.kind, first.detail[:11], second.kind) == ("not a video", "frame 4.png", "")


def test_headers_that_lie_are_told_and_kept(shared, tmp_path):
    paths = sorted((shared / "data/ut_interaction").rglob("*.avi"))[:2]
    (tmp_path / "list.csv").write_text("".join(f"{p},{i}\n" for i, p in enumerate(paths)))
    videos = load_videos(str(tmp_path / "list.csv"))
    check = check_videos(videos, tmp_path / "check")
    assert [f.kind for f in check.findings] == ["header lies"] * 2
    assert len(check.clean) == 2
    assert (tmp_path / "check/problems.csv").read_text().count(",no\n") == 2


def test_damage_and_repeats_are_named(shared, tmp_path):
    cases = shared / "cases"
    (tmp_path / "copy.mp4").write_bytes((cases / "lists/v1.mp4").read_bytes())
    rows = [(cases / "video/one_bad_packet.mp4", "a"), (cases / "lists/v1.mp4", "a"), (tmp_path / "copy.mp4", "b")]
    (tmp_path / "list.csv").write_text("".join(f"{path},{label}\n" for path, label in rows))
    videos = load_videos(str(tmp_path / "list.csv"))
    check = check_videos(videos, tmp_path / "check")
    assert [f.kind for f in check.findings] == ["damaged", "", "repeated"]
    assert check.findings[0].detail == "damaged: 2 of 120 frames"
    assert check.findings[2].detail == f"the same content as {videos.name(1)} (a)"
    assert len(check.clean) == 3
    found = check_videos(videos.subset([2]), tmp_path / "other", other=videos.subset([1])).findings
    assert found[0].detail == f"the same content as {videos.name(1)} of the other list"


def test_a_folder_with_fewer_frames_than_listed_is_left_out(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for i in range(6):
            Image.new("RGB", (20, 10), (i, 0, ord(folder))).save(tmp_path / f"{folder}/{i}.png")
    (tmp_path / "list.txt").write_text("a 6 0\nb 7 1\n")
    check = check_videos(load_videos(str(tmp_path / "list.txt")), tmp_path / "check")
    assert [f.kind for f in check.findings] == ["", "frames missing"]
    assert (tmp_path / "check/clean.csv").read_text() == "path,label,num_frames\na,0,6\n"


def test_a_folder_of_something_else_is_no_check(tmp_path, folder):
    out, videos = tmp_path / "check", load_videos(str(folder))
    out.mkdir()
    (out / "work.json").write_text('{"format_version": 1, "verb": "predict"}')
    with pytest.raises(ConfigError, match="holds work with verb"):
        check_videos(videos, out)
    (out / "work.json").unlink()
    check_videos(videos, out)
    part = out / "part-001-of-001.jsonl"
    part.write_text(part.read_text().replace('"num_frames": 24', '"num_frames": "x"'))
    with pytest.raises(DataError, match=r"the row of 'left/00\.mp4' is damaged"):
        check_videos(videos, out)


def test_shards_of_a_check(folder, tmp_path, capsys):
    (folder / "left/00.mp4").write_bytes(b"")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(["data", "check", str(folder), "--out", str(whole), "--workers", "1"]) == 0
    for number in (1, 2, 3):
        assert not (parts / "clean.csv").exists()
        assert (
            main(["data", "check", str(folder), "--out", str(parts), "--workers", "1", "--shard", f"{number}/3"]) == 0
        )
    said = capsys.readouterr().out
    assert said.count("the last of all shards writes the tables") == 2
    assert said.count("3 of 4 videos can be used") == 2
    for name in ("checked.csv", "clean.csv", "problems.csv", "classes.txt"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
