"""Features: each window is what `predict` sees of that part of the video; files say what they are; a rerun adds what
is missing."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from clips import FPS, frames_of_square, make_checkpoint, write_video

import mdtnet
from mdtnet.cli.main import main
from mdtnet.config import FeatureConfig
from mdtnet.data.container import Part
from mdtnet.errors import VideoError
from mdtnet.inference.features import Features, _Cutter, extract

FRAMES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    (folder / "videos").mkdir()
    make_checkpoint(folder / "best.pt")
    write_video(folder / "videos/long.mp4", frames_of_square(FRAMES))
    write_video(folder / "videos/short.mp4", frames_of_square(6))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return mdtnet.Recogniser.load(folder / "best.pt", device="cpu")


def with_fps(model, fps: float):
    """The same network, trained at another rate."""
    from dataclasses import replace

    config = replace(model.config, data=replace(model.config.data, fps=fps))
    return mdtnet.Recogniser(model.model, classes=model.classes, config=config, device="cpu")


@pytest.mark.parametrize(
    ("window", "stride", "fps"), [(1.0, 0.5, 0.0), (0.75, 1.0, 0.0), (1.0, 0.5, 8.0)], ids=["overlap", "gaps", "fps"]
)
def test_a_window_is_what_predict_sees_of_this_part(folder, model, window, stride, fps):
    model, video = with_fps(model, fps), str(folder / "videos/long.mp4")
    found = extract(model, video, FeatureConfig(window, stride, "logits"))
    duration = FRAMES / FPS
    assert len(found.values) == 1 + int((duration - window) / stride + 1e-6)
    assert (found.fps, found.duration) == (fps or FPS, pytest.approx(duration))
    for i, logits in enumerate(found.values):
        part = Part(video, i * stride, i * stride + window)
        expected = model.probabilities(model.views(part))
        scores = np.exp(logits.astype(np.float64))
        assert scores / scores.sum() == pytest.approx(expected, abs=1e-4)


def test_pool_is_what_the_classifier_sees(folder, model):
    video = folder / "videos/long.mp4"
    pool, logits = (extract(model, video, FeatureConfig(1.0, 0.5, layer)).values for layer in ("pool", "logits"))
    weight, bias = (p.detach().numpy() for p in model.model.head.fc.parameters())
    assert pool.dtype == np.float32
    assert pool @ weight.T + bias == pytest.approx(logits, abs=1e-4)


def test_a_video_shorter_than_a_window_is_one_window(folder, model):
    short = extract(model, folder / "videos/short.mp4", FeatureConfig(layer="logits"))
    assert (short.window, short.stride) == (2.56, 0.64)  # 64 frames at 25 a second, and a quarter
    expected = model.predict(folder / "videos/short.mp4", topk=1)
    assert [model.classes[i] for i in short.values.argmax(1)] == [expected.classes[0]]


def test_frames_of_few_windows_are_held(model):
    cutter, most = _Cutter(model.description, 1.0, 0.5), 0
    frames = ((i / 20, np.zeros((40, 60, 3), np.uint8)) for i in range(600))
    count = 0
    for _ in cutter.clips(frames):
        count, most = count + 1, max(most, len(cutter._kept))
    assert count == 1 + (30 - 1) * 2
    assert most <= 21


def test_windows_in_a_gap_show_the_frame_before(model):
    times = (0.0, 0.1, 3.0, 3.1)
    clips = list(_Cutter(model.description, 1.0, 1.0).clips((t, np.full((32, 32, 3), 9 * t, np.uint8)) for t in times))
    assert [clip.max() for clip in clips[:3]] == [0, 0, 0]


def test_rescaling_is_linear_between_the_middles_of_windows():
    values = np.arange(9, dtype=np.float32)[:, None] * [1, -2]
    rows = Features(values, window=2.0, stride=1.0, fps=25, duration=10.0).rescaled()
    assert rows.shape == (100, 2)
    middles = np.arange(100) * 0.1 + 0.05
    assert rows[:, 0] == pytest.approx(np.clip(middles - 1, 0, 8), abs=1e-5)
    assert rows[:, 1] == pytest.approx(-2 * rows[:, 0])


def test_cameras_have_no_features(model):
    with pytest.raises(VideoError, match="has no end"):
        extract(model, 0)


# files


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Run `features` into a folder of its own: exit code, both streams, and that folder."""
    monkeypatch.chdir(folder)

    def run(*words):
        code = main(["features", "best.pt", *words, "--device", "cpu", "--out", str(tmp_path / "out")])
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    run.out = tmp_path / "out"
    return run


def test_files_say_what_they_are_and_a_rerun_adds_what_is_missing(run, folder):
    bad = folder / "videos/bad.mp4"
    bad.write_bytes(b"")
    try:
        assert run("videos", "--window", "1", "--stride", "0.5").code == 1
        about = json.loads((run.out / "long.json").read_text())
        values = np.load(run.out / "long.npy")
        assert (about["window_seconds"], about["stride_seconds"], about["layer"], about["fps"]) == (1, 0.5, "pool", FPS)
        assert about["shape"] == list(values.shape)
        assert not (run.out / "bad.npy").exists()
        (run.out / "long.npy").unlink()
        kept = (run.out / "short.npy").stat().st_mtime_ns
        again = run("videos", "--window", "1", "--stride", "0.5")
        assert np.array_equal(np.load(run.out / "long.npy"), values)
        assert (run.out / "short.npy").stat().st_mtime_ns == kept
        assert "long.npy" in again.out
        assert "short.npy" not in again.out
    finally:
        bad.unlink()
    assert "stride_seconds = 0.5, not 0.25" in run("videos", "--window", "1").err


def test_bmn_is_a_table_of_100_rows_with_a_header(run, folder, model):
    assert run("videos/long.mp4", "--window", "1", "--stride", "0.5", "--format", "bmn").code == 0
    with open(run.out / "videos/long.csv", newline="") as file:
        header, *rows = csv.reader(file)
    expected = extract(model, folder / "videos/long.mp4", FeatureConfig(1.0, 0.5)).rescaled()
    assert len(header) == expected.shape[1]
    assert np.array(rows, dtype=float) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_parts_of_a_list_have_files_of_their_own(run, folder):
    (folder / "parts.csv").write_text("path,start,end\nvideos/long.mp4,0,1.5\nvideos/long.mp4,1.5,3\n")
    assert run("--list", "parts.csv", "--window", "1", "--stride", "0.5").code == 0
    first, second = (np.load(run.out / f"videos/long_{times}.npy") for times in ("0-1.5", "1.5-3"))
    assert first.shape == second.shape == (2, first.shape[1])


def test_what_cannot_work_is_one_line(run, folder):
    (folder / "videos/long.avi").write_bytes(b"")
    try:
        found = run("videos")
        assert (found.code, found.err.count("\n")) == (3, 1)
        assert "would have the names of those of long.avi" in found.err
    finally:
        (folder / "videos/long.avi").unlink()
    assert "window is -1, expected seconds" in run("videos", "--window", "-1").err
    assert main(["features", "best.onnx", "videos", "--out", str(run.out)]) == 2
    assert not run.out.exists()
