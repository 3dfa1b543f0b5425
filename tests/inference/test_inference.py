"""From a checkpoint and files to predictions."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CLASSES, frames_of_square, make_checkpoint, write_video
from PIL import Image

import mdtnet
from mdtnet.config import DataConfig, EvalConfig
from mdtnet.data import dataset
from mdtnet.data.annotations import Texts, VideoList, load_videos
from mdtnet.data.dataset import ClipDataset
from mdtnet.errors import CheckpointError, ConfigError, DataError, VideoError
from mdtnet.inference import sources as opened
from mdtnet.inference.items import expand_sources, find_items
from mdtnet.inference.prediction import read_ahead, write_json
from mdtnet.inference.recogniser import Recogniser


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two good videos and a bad one in class folders, and a checkpoint."""
    folder = tmp_path_factory.mktemp("inference")
    for name in ("left/a.mp4", "right/b.mp4"):
        (folder / "videos" / name).parent.mkdir(parents=True)
        write_video(folder / "videos" / name, frames_of_square(20 if name == "left/a.mp4" else 33))
    (folder / "videos/right/bad.mp4").write_bytes(b"")
    make_checkpoint(folder / "best.pt")
    return folder


@pytest.fixture(scope="module")
def model(folder) -> Recogniser:
    return Recogniser.load(folder / "best.pt", device="cpu")


def test_three_lines(folder):
    model = mdtnet.Recogniser.load(folder / "best.pt", device="cpu")
    prediction = model.predict(folder / "videos/left/a.mp4")
    assert str(prediction).startswith(f"{folder / 'videos/left/a.mp4'}: {prediction.classes[0]} ")


def test_number_of_segments(folder):
    video = folder / "videos/left/a.mp4"
    assert Recogniser.load(folder / "best.pt", device="cpu", segments=3).views(video).shape[1] == 3
    with pytest.raises(ConfigError, match="segments is -1, expected at least 0"):
        Recogniser.load(folder / "best.pt", segments=-1)


def test_prediction_is_sorted_and_sums_to_one(model, folder):
    prediction = model.predict(folder / "videos/left/a.mp4", topk=99)
    assert set(prediction.classes) == set(CLASSES)
    assert sum(prediction.probabilities) == pytest.approx(1)
    assert sorted(prediction.probabilities, reverse=True) == list(prediction.probabilities)
    assert prediction.seconds > 0
    best = model.predict(folder / "videos/left/a.mp4", topk=2)
    assert best.classes == prediction.classes[:2]


@pytest.mark.parametrize("fusion", ["softmax", "logits"])
def test_equals_the_test_of_the_same_video(folder, fusion):
    """Frames of `ClipDataset`, put through the network by hand, several views at that."""
    model = Recogniser.load(make_checkpoint(folder / f"{fusion}.pt", fusion=fusion, batch_size=4), device="cpu")
    videos = load_videos(str(folder / "videos"), classes=CLASSES)
    data = dataset.ClipDataset(
        videos,
        DataConfig(num_segments=3, short_side=40, size=32),
        frames_per_segment=5,
        train=False,
        test=EvalConfig(clips=2, crops=3),
    )
    with torch.inference_mode():
        logits = model.model(data[1]["frames"]).double()  # right/b.mp4, [6, classes]
    expected = logits.softmax(1).mean(0) if fusion == "softmax" else logits.mean(0).softmax(0)
    prediction = model.predict(folder / "videos/right/b.mp4", clips=2, crops=3, topk=6)
    found = dict(zip(prediction.classes, prediction.probabilities))
    assert [found[name] for name in CLASSES] == pytest.approx(expected.tolist(), abs=1e-6)


def test_from_a_folder_of_the_hub(model, folder, tmp_path):
    model.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    again = Recogniser.from_pretrained(tmp_path, device="cpu")
    assert again.config == model.config
    one, other = (m.predict(folder / "videos/right/b.mp4", clips=2, crops=3) for m in (model, again))
    assert (one.classes, one.probabilities) == (other.classes, other.probabilities)
    assert "library_name: mdtnet" in (tmp_path / "README.md").read_text()
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such checkpoint file"):
        Recogniser.from_pretrained(tmp_path)


def test_unreadable_videos_do_not_stop_the_others(model, folder, tmp_path):
    sources = [*expand_sources([folder / "videos"]), tmp_path / "missing.mp4", folder / "best.pt"]
    found = list(model.predict_many(sources))
    assert [bool(p.error) for p in found] == [False, False, True, True, True]
    assert found[2].classes == ()
    assert "empty file" in str(found[2])
    assert "no such file" in found[3].error
    with pytest.raises(VideoError, match="empty file"):
        model.predict(folder / "videos/right/bad.mp4")


def test_workers_give_the_same(model, folder):
    sources = expand_sources([folder / "videos"])
    alone, read_ahead = (list(model.predict_many(sources, workers=n)) for n in (0, 1))
    assert [(p.path, p.classes, p.probabilities) for p in alone] == [
        (p.path, p.classes, p.probabilities) for p in read_ahead
    ]


def test_no_more_is_read_ahead_than_there_are_workers():
    started = []

    def read(path):
        started.append(path)
        return path.upper()

    found = read_ahead(read, iter("abcdef"), 2)
    assert started == []
    assert next(found) == "A"
    assert len(started) <= 3
    assert list(found) == list("BCDEF")
    stopped = read_ahead(read, iter("abcdef"), 1)
    next(stopped)
    stopped.close()
    assert len(started) <= 6 + 3


def test_failures_of_the_system_are_tried_again(model, folder, monkeypatch):
    tries, read = [], opened.read_frames

    def shaky(part, *args, **options):
        tries.append(part)
        if len(tries) < 3:
            raise VideoError(part.path, "cannot be opened") from OSError(5, "Input/output error")
        return read(part, *args, **options)

    monkeypatch.setattr("mdtnet.data.retries.RETRY_SECONDS", 0)
    monkeypatch.setattr(opened, "read_frames", shaky)
    assert model.predict(folder / "videos/left/a.mp4").classes
    assert len(tries) == 3
    with pytest.raises(VideoError, match="no such file"):
        model.predict(folder / "none.mp4")
    assert len(tries) == 4


@pytest.mark.parametrize(("name", "count"), [("tsn", 3), ("tsm", 3), ("mdtnet1", 15)])
def test_only_the_frames_a_system_needs_are_converted(folder, monkeypatch, name, count):
    read, counts = opened.read_frames, []

    def counted(*args, **keywords):
        reading = read(*args, **keywords)
        counts.append(len(reading.pixels.reshape(-1, *reading.pixels.shape[-3:])))
        return reading

    monkeypatch.setattr(opened, "read_frames", counted)
    model = Recogniser.load(make_checkpoint(folder / f"{name}.pt", name), device="cpu")
    model.predict(folder / "videos/left/a.mp4")
    assert counts == [count]
    assert not (folder / "cache").exists()


def test_folder_of_frames(model, tmp_path):
    for i, frame in enumerate(frames_of_square(12)):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    assert expand_sources([tmp_path]) == [str(tmp_path)]
    assert model.predict(tmp_path).classes


def test_wrong_options(model, folder):
    video = folder / "videos/left/a.mp4"
    for keywords in ({"topk": 0}, {"threshold": -0.1}, {"clips": 0}, {"crops": 2}):
        with pytest.raises(ConfigError, match=f"{next(iter(keywords))} is"):
            model.predict(video, **keywords)
    with pytest.raises(ConfigError, match="device is 'warp'"):
        Recogniser.load(folder / "best.pt", device="warp")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        Recogniser.load(folder / "worst.pt")


def test_expand_sources(tmp_path):
    names = [
        "b.mp4",
        "a.AVI",
        "notes.txt",
        "sub/c.webm",
        "sub/.hidden/d.mp4",
        "sub/._c.webm",
        "no_frames/._1.jpg",
        "frames/2.jpg",
        "frames/10.jpg",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def expanded(*sources):
        return [Path(p).relative_to(tmp_path).as_posix() for p in expand_sources([tmp_path / s for s in sources])]

    everything = ["a.AVI", "b.mp4", "frames", "sub/c.webm"]
    assert expanded("") == everything
    assert expanded("b.mp4", "") == ["b.mp4", "a.AVI", "frames", "sub/c.webm"]
    assert expanded("*.mp4") == ["b.mp4"]
    assert expanded("*") == ["a.AVI", "b.mp4", "frames"]
    assert expanded("**/*") == everything
    assert expanded("notes.txt", "gone.mp4") == ["notes.txt", "gone.mp4"]
    (tmp_path / "odd[1].mp4").touch()
    assert expanded("odd[1].mp4") == ["odd[1].mp4"]


def test_nothing_found(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="no videos in this folder"):
        expand_sources([tmp_path])
    with pytest.raises(DataError, match=r"\*\.mp4: no video matches"):
        expand_sources([tmp_path / "*.mp4"])
    with pytest.raises(DataError, match="no video matches this pattern; 1 other"):
        expand_sources([tmp_path / "*.txt"])
    with pytest.raises(DataError, match="no videos given"):
        expand_sources([])


def test_json(model, folder, tmp_path):
    write_json(
        (p.to_dict() for p in model.predict_many(expand_sources([folder / "videos"]), topk=2)), tmp_path / "out.json"
    )
    first, _, last = json.loads((tmp_path / "out.json").read_text())
    assert [set(p) for p in first["predictions"]] == [{"class", "probability"}] * 2
    assert first["error"] is None
    assert last["predictions"] == []
    assert last["error"] == "empty file"
    with pytest.raises(ConfigError, match="cannot be written"):
        write_json([], tmp_path / "nowhere" / "out.json")


def test_odd_files_give_a_prediction_or_a_reason(model, shared):
    sources = expand_sources([shared / "data" / "odd_videos"])
    found = list(model.predict_many(sources))
    assert [p.path for p in found] == sources
    assert all(bool(p.error) != bool(p.classes) for p in found)
    assert all(np.isfinite(p.probabilities).all() for p in found)


def test_damage_is_shown_with_the_prediction(model, shared):
    found = model.predict(shared / "cases/video/one_bad_packet.mp4")
    assert found.classes
    assert found.damaged == found.to_dict()["damaged"] == "2 of 120 frames"
    assert str(found).endswith("(damaged: 2 of 120 frames)")


def test_frames_are_drawn_by_time_where_the_network_was_trained_so(folder, shared, tmp_path):
    path = make_checkpoint(tmp_path / "timed.pt", "tsn")
    timed = Recogniser.load(path, device="cpu")
    by_frames = timed.views(shared / "cases/video/vfr.mp4")
    timed.config = replace(timed.config, data=replace(timed.config.data, fps=25))
    by_time = timed.views(shared / "cases/video/vfr.mp4")
    assert (by_frames != by_time).any()
    dataset = ClipDataset(
        VideoList(
            ("a", "b"), np.zeros(1, dtype=np.int64), "", Texts.of([str(shared / "cases/video/vfr.mp4")]), np.arange(1)
        ),
        timed.config.data,
        frames_per_segment=1,
        train=False,
    )
    np.testing.assert_array_equal(dataset[0]["frames"].movedim(3, -1).numpy(), by_time)


def test_videos_behind_links_are_found(shared, tmp_path):
    (tmp_path / "0.mp4").touch()
    (tmp_path / "a").symlink_to(shared / "cases/folders/real")
    assert len(expand_sources([tmp_path])) == 5


def test_names_are_relative_to_a_single_folder_or_the_list(folder, tmp_path):
    assert list(find_items([folder / "videos"])) == ["left/a.mp4", "right/b.mp4", "right/bad.mp4"]
    assert list(find_items([folder / "videos", "http://x/a.mp4"]))[-2:] == [
        f"{folder}/videos/right/bad.mp4",
        "http://x/a.mp4",
    ]
    for text in ("path,start,end\nleft/a.mp4,0.5,1\nright/b.mp4,,\n", "left/a.mp4 x 0.5 1\nright/b.mp4 y 0 1\n"):
        (tmp_path / "list.csv").write_text(text)
        found = find_items([], listed=str(tmp_path / "list.csv"), root=str(folder / "videos"))
        assert next(iter(found)) == "left/a.mp4@0.5-1"
        assert (found["left/a.mp4@0.5-1"].start, found["left/a.mp4@0.5-1"].end) == (0.5, 1.0)
        if "path" not in text:
            break
    (tmp_path / "list.txt").write_text("left/a.mp4\nright/b.mp4\n")
    found = find_items([], listed=str(tmp_path / "list.txt"), root=str(folder / "videos"))
    assert [part.path for part in found.values()] == [f"{folder}/videos/{name}" for name in found]
    (tmp_path / "list.txt").write_text("")
    with pytest.raises(DataError, match="the list is empty"):
        find_items([], listed=str(tmp_path / "list.txt"))


def test_arrays_and_bytes_are_predicted_as_their_files(model, folder, tmp_path):
    frames = frames_of_square(20)
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frames/{i}.png")
    expected = model.predict(tmp_path / "frames").probabilities
    assert model.predict(frames).probabilities == expected
    assert model.predict(list(frames[..., ::-1]), bgr=True).probabilities == expected
    video = folder / "videos/left/a.mp4"
    assert model.predict(video.read_bytes()).probabilities == model.predict(video).probabilities
