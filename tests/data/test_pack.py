"""Videos in tar files are the videos that they were; what is wrong with a tar file is one line."""

import csv
import json
import os
import shutil
import tarfile
from collections import defaultdict

import clips
import numpy as np
import pytest
import torch

from mdtnet.cli.main import main
from mdtnet.config import DataConfig, EvalConfig
from mdtnet.data.annotations import load_videos
from mdtnet.data.check import check_videos
from mdtnet.data.dataset import ClipDataset, make_loader
from mdtnet.data.info import data_info
from mdtnet.data.pack import scaled
from mdtnet.data.video import probe, read_clip
from mdtnet.errors import VideoError
from mdtnet.inference.items import find_items

DATA = DataConfig(num_segments=3, short_side=40, size=32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A list of five files in two classes; two rows have parts of one file."""
    folder = tmp_path_factory.mktemp("source")
    for i, name in enumerate(("walk/a.mp4", "walk/b.c.mp4", "run/a.mp4", "run/Ü d.mkv", "long.mp4")):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        clips.write_video(path, np.roll(clips.frames_of_square(24 + i), i, axis=2))
    rows = ["walk/a.mp4,walk,,,p1", "walk/b.c.mp4,walk,,,p2", "run/a.mp4,run,,,p1", "run/Ü d.mkv,run,,,p2"]
    rows += ["long.mp4,walk,0,1,p3", "long.mp4,run,1,2,p3"]
    (folder / "list.csv").write_text("\n".join(["path,label,start,end,group", *rows]))
    return folder


@pytest.fixture(scope="module")
def packed(source):
    out = source / "packed"
    assert main(["data", "pack", str(source / "list.csv"), "--out", str(out), "--per_tar", "2"]) == 0
    return out


def both(source, packed):
    return load_videos(str(source / "list.csv")), load_videos(str(packed / "index.csv"))


def test_clips_are_bit_equal_to_those_of_files(source, packed):
    files, tars = both(source, packed)
    assert [tars.name(i) for i in range(6)] == [files.name(i) for i in range(6)]
    assert [tars[i].group for i in range(6)] == [files[i].group for i in range(6)]
    assert tars.classes == files.classes == ("run", "walk")
    for train, test in ((True, EvalConfig()), (False, EvalConfig(clips=2, crops=3, rule="random"))):
        ours, theirs = (
            ClipDataset(videos, DATA, frames_per_segment=5, train=train, seed=3, test=test) for videos in (tars, files)
        )
        for epoch in range(2):
            ours.set_epoch(epoch)
            theirs.set_epoch(epoch)
            for i in range(6):
                one, other = ours[i], theirs[i]
                assert torch.equal(one["frames"], other["frames"])
                assert one["error"] == other["error"] == ""


def test_loader_processes_and_a_cache_read_them_too(packed, tmp_path):
    videos = load_videos(str(packed / "index.csv"))
    dataset = ClipDataset(videos, DATA, frames_per_segment=5, train=True)
    batches = list(make_loader(dataset, batch_size=3, shuffle=False, seed=0, workers=1))
    cached = ClipDataset(
        videos,
        DataConfig(num_segments=3, short_side=40, size=32, cache=str(tmp_path)),
        frames_per_segment=5,
        train=True,
    )
    assert torch.equal(batches[0]["frames"][1], cached[1]["frames"])
    assert torch.equal(cached[1]["frames"], cached[1]["frames"])  # decoded, then from the cache


def test_a_tar_file_is_as_webdataset_readers_expect_it(source, packed):
    assert sorted(path.name for path in packed.glob("*.tar")) == [f"pack-0000{k}.tar" for k in range(3)]
    samples: dict[str, dict[str, bytes]] = defaultdict(dict)
    for path in packed.glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
            assert [n.split(".")[0] for n in names] == sorted((n.split(".")[0] for n in names), key=names_first(names))
            for member in tar:
                key, _, kind = member.name.partition(".")
                samples[key][kind] = tar.extractfile(member).read()
    assert samples["00000000"]["mp4"] == (source / "walk/a.mp4").read_bytes()
    assert samples["00000000"]["cls"] == b"1"
    assert json.loads(samples["00000000"]["json"]) == [{"path": "walk/a.mp4", "label": "walk", "number": 1}]
    assert "cls" not in samples["00000004"]  # parts with two labels
    assert [row["start"] for row in json.loads(samples["00000004"]["json"])] == [0.0, 1.0]


def names_first(names):
    """Files of one sample stand together: their order is that in which the first one comes."""
    firsts = {}
    for name in names:
        firsts.setdefault(name.split(".")[0], len(firsts))
    return firsts.get


def test_what_reads_paths_reads_them(packed, capsys):
    videos = load_videos(str(packed / "index.csv"))
    assert probe(videos[0].path).num_frames == 24
    assert data_info(videos).opened == 6
    items = find_items([], listed=str(packed / "index.csv"))
    assert list(items)[3:5] == ["run/Ü d.mkv", "long.mp4@0-1"]
    assert read_clip(items["walk/a.mp4"].path, lambda n: np.arange(2))[1] == 24
    with pytest.raises(VideoError, match=r"no such file in .*pack-00000\.tar, which holds 2 others"):
        probe(packed / "pack-00000.tar" / "nothing.mp4")


def test_a_stopped_pack_goes_on_and_another_list_is_refused(source, packed, tmp_path, capsys):
    out = tmp_path / "packed"
    shutil.copytree(packed, out)
    (out / "pack-00001.tar").unlink()
    kept = (out / "pack-00000.tar").stat().st_ino
    command = ["data", "pack", str(source / "list.csv"), "--out", str(out), "--per_tar"]
    assert main([*command, "2"]) == 0
    assert (out / "pack-00000.tar").stat().st_ino == kept
    for name in ("pack-00001.tar", "pack-00001.csv", "index.csv"):
        assert (out / name).read_bytes() == (packed / name).read_bytes()  # the same bytes on any day
    assert main([*command, "3"]) == 2
    assert "holds work with per_tar = 2, not 3" in capsys.readouterr().err
    for path in ("walk/a.mp4", "walk/b.c.mp4", "run/a.mp4", "run/Ü d.mkv", "long.mp4", "list.csv"):
        (tmp_path / "other" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / path, tmp_path / "other" / path)
    assert main(["data", "pack", str(tmp_path / "other" / "list.csv"), *command[3:], "2"]) == 2
    assert "holds work with root = " in capsys.readouterr().err  # the same names, perhaps not the same videos


def test_the_last_shard_writes_the_index(source, packed, tmp_path, capsys):
    for k in (1, 2, 3):
        assert not (tmp_path / "index.csv").exists()
        command = ["data", "pack", str(source / "list.csv"), "--out", str(tmp_path), "--per_tar", "2"]
        assert main([*command, "--shard", f"{k}/3"]) == 0
    assert (tmp_path / "index.csv").read_bytes() == (packed / "index.csv").read_bytes()


def flip(path, place):
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda out: flip(out / "pack-00000.tar", 1500), "holds other bytes than its index says: damaged, or of an"),
        (lambda out: os.truncate(out / "pack-00000.tar", 1500), "is shorter than its index says"),
        (lambda out: shutil.copy(out / "pack-00001.tar", out / "pack-00000.tar"), "than its index says"),
        (lambda out: shutil.copy(out / "pack-00001.csv", out / "pack-00000.csv"), "no such file in"),
        (lambda out: (out / "pack-00000.csv").unlink(), "the index of its tar file, .*pack-00000.csv, is missing"),
        (lambda out: (out / "pack-00000.csv").write_text("name,offset\n"), "is damaged: its columns"),
        (lambda out: (out / "pack-00000.csv").write_bytes(b"name,offset,size,checksum\na,9,,1\n"), "expected numbers"),
        (lambda out: (out / "pack-00000.tar").unlink(), "no such file: there is no"),
    ],
)
def test_what_is_wrong_with_a_tar_file_costs_its_videos_alone(packed, tmp_path, damage, message):
    out = tmp_path / "packed"
    shutil.copytree(packed, out)
    damage(out)
    videos = load_videos(str(out / "index.csv"))
    hurt = [i for i in range(6) if "pack-00000" in videos[i].path]
    dataset = ClipDataset(videos, DATA, frames_per_segment=5, train=True)
    errors = {i: item["error"] for i in range(6) if (item := dataset[i])["error"]}
    assert errors
    assert set(errors) <= set(hurt)
    with pytest.raises(VideoError, match=message):
        probe(videos[next(iter(errors))].path)
    assert check_videos(videos, tmp_path / "check").problems


def test_pictures_need_a_short_side_and_a_missing_video_stops_its_tar_file(source, tmp_path, capsys):
    (tmp_path / "list.csv").write_text(f"{source}/walk/a.mp4,0\n{source}/gone.mp4,1\n")
    command = ["data", "pack", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "gone.mp4: No such file or directory: not packed; mdtnet data check leaves" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.tar"))
    clips.write_video(tmp_path / "now.mp4", clips.frames_of_square(8))
    (tmp_path / "list.csv").write_text(f"{source}/walk/a.mp4,0\n{tmp_path}/now.mp4,1\n")
    assert main([*command[:-1], str(tmp_path / "other")]) == 0


def test_scaled_videos_keep_their_frames_and_times(source, tmp_path):
    out = tmp_path / "scaled"
    assert main(["data", "pack", str(source / "list.csv"), "--out", str(out), "--short_side", "32"]) == 0
    files, tars = both(source, out)
    for i in range(6):
        one, other = files[i], tars[i]
        ours = probe(other.path, start=other.start, end=other.end)
        assert (ours.height, ours.width) == (32, 48)
        assert ours.num_frames == probe(one.path, start=one.start, end=one.end).num_frames
        ours, _ = read_clip(other.path, lambda n: np.array([3]))
        theirs, _ = read_clip(one.path, lambda n: np.array([3]), short_side=32)
        assert np.abs(ours.astype(float) - theirs).mean() < 4
    with open(out / "index.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows[:2]] == ["walk/a.mp4", "walk/b.c.mp4"]
    assert rows[3]["packed"] == "pack-00000.tar/00000003.mp4"


def test_a_folder_of_frames_becomes_a_video_at_25_frames_per_second(source, tmp_path):
    from PIL import Image

    for i, frame in enumerate(clips.frames_of_square(7, height=41, width=63)):
        Image.fromarray(frame).save(tmp_path / f"img_{i}.png")
    (tmp_path / "list.csv").write_text(f"{tmp_path},0\n{source}/walk/a.mp4,1\n")
    sample = load_videos(str(tmp_path / "list.csv"))[0]
    (tmp_path / "v.mp4").write_bytes(scaled(sample, 40))
    info = probe(tmp_path / "v.mp4")
    assert (info.num_frames, info.height, info.width, info.fps) == (7, 40, 60, 25)
