"""Frames are exact: lossless videos with known pixels; every odd file gives frames or one clear reason."""

import json
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from mdtnet.data import container, video
from mdtnet.data.container import packets_of
from mdtnet.data.rgb import Converter, scaled_size
from mdtnet.data.video import check_backend, probe, read_clip
from mdtnet.errors import ConfigError, VideoError

CODECS = {"ffv1": ("bgr0", ".mkv"), "libx264rgb": ("rgb24", ".mp4"), "png": ("rgb24", ".mov")}


def known_frames(count: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Noise with the frame number in the first pixel, [N, H, W, 3]."""
    frames = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    frames[:, 0, 0] = np.arange(count)[:, None]
    return frames


def write_video(path, frames: np.ndarray, codec: str = "ffv1", rotation: int = 0, fps: int = 10) -> str:
    pix_fmt = CODECS.get(codec, ("yuv420p", ""))[0]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.time_base = Fraction(1, fps)
        if codec == "libx264rgb":
            stream.options = {"qp": "0"}
        if rotation and not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        if rotation:
            stream.set_display_rotation(rotation)
        for array in frames:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())
    return str(path)


def all_frames(n: int) -> np.ndarray:
    return np.arange(n)


@pytest.mark.parametrize("codec", CODECS)
def test_lossless_frames_are_bit_equal(tmp_path, codec):
    frames = known_frames(40)
    path = write_video(tmp_path / f"v{CODECS[codec][1]}", frames, codec)
    indices = np.array([[3, 4, 5], [39, 39, 0]])
    for known in (None, 40):
        pixels, count = read_clip(path, lambda n: indices, num_frames=known)
        assert count == 40
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, frames[indices])
    info = probe(path)
    assert (info.num_frames, info.height, info.width, info.fps, info.rotation) == (40, 24, 32, 10.0, 0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (17, 33), (40, 6)])
def test_odd_sizes(tmp_path, height, width):
    frames = known_frames(3, height, width)
    pixels, _ = read_clip(write_video(tmp_path / "v.mkv", frames), all_frames)
    np.testing.assert_array_equal(pixels, frames)


def test_lossy_frames_are_those_of_the_default_conversion(tmp_path):
    path = write_video(tmp_path / "v.mp4", np.kron(known_frames(20, 5, 7), np.ones((1, 8, 8, 1), np.uint8)), "mpeg4")
    with av.open(path) as container:
        expected = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    pixels, _ = read_clip(path, all_frames)
    assert np.abs(pixels.astype(int) - expected).mean() < 2


@pytest.mark.parametrize("guess", [0, 1, 29, 31, 100])
def test_a_wrong_guess_of_the_count_changes_nothing(tmp_path, monkeypatch, guess):
    frames = known_frames(30)
    path = write_video(tmp_path / "v.mkv", frames)
    monkeypatch.setattr(video, "_read_planned", lambda *a: None)
    monkeypatch.setattr(video, "_times", lambda *a: np.arange(guess))
    pixels, count = read_clip(path, lambda n: np.array([n - 1, n // 2]))
    np.testing.assert_array_equal(pixels, frames[[29, 15]])
    assert count == 30


def test_the_count_is_guessed_right_so_that_one_pass_does(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4", known_frames(30), "mpeg4")
    counts = []
    for start, end in [(None, None), (0.5, 1.2), (0.5, None), (None, 1.2)]:
        read_clip(path, lambda n: counts.append(n) or np.array([0]), start=start, end=end)
    assert counts == [30, 7, 25, 12]


def test_known_count_stops_decoding_early_and_survives_a_shorter_file(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mkv", known_frames(30))
    decoded = []
    real = container.Decoder._frames
    monkeypatch.setattr(container.Decoder, "_frames", lambda self: (decoded.append(1) or f for f in real(self)))
    read_clip(path, lambda n: np.array([4]), num_frames=30)
    assert len(decoded) == 5
    pixels, count = read_clip(path, lambda n: np.array([n - 1]), num_frames=50)
    assert count == 30
    assert pixels[0, 0, 0, 0] == 29


def test_only_chosen_frames_are_converted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mkv", known_frames(30))
    converted = []
    real = Converter.__call__
    monkeypatch.setattr(Converter, "__call__", lambda *a: converted.append(1) or real(*a))
    read_clip(path, lambda n: np.array([[1, 5], [5, 7]]))
    assert len(converted) == 3


def test_seconds_select_frames(tmp_path):
    path = write_video(tmp_path / "v.mkv", known_frames(30), fps=10)
    pixels, count = read_clip(path, all_frames, start=0.5, end=1.2)
    assert count == probe(path, start=0.5, end=1.2).num_frames == 7
    assert pixels[:, 0, 0, 0].tolist() == [5, 6, 7, 8, 9, 10, 11]
    with pytest.raises(VideoError, match="no frames between 9 s and 10 s"):
        read_clip(path, all_frames, start=9, end=10)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotation_is_applied(tmp_path, rotation):
    frames = known_frames(3)
    path = write_video(tmp_path / "v.mp4", frames, "libx264rgb", rotation=rotation)
    pixels, _ = read_clip(path, all_frames)
    np.testing.assert_array_equal(pixels, np.rot90(frames, rotation // 90, axes=(1, 2)))
    assert (probe(path).height, probe(path).width) == pixels.shape[1:3]


def test_transform_sees_each_chosen_frame(tmp_path):
    frames = known_frames(10)
    path = write_video(tmp_path / "v.mkv", frames)
    pixels, _ = read_clip(path, lambda n: np.array([8, 1]), transform=lambda frame: frame[:5, :4])
    np.testing.assert_array_equal(pixels, frames[[8, 1], :5, :4])


@pytest.mark.parametrize("short_side", [48, 144])
@pytest.mark.parametrize("rotation", [0, 90])
def test_frames_are_scaled_before_they_are_rgb(tmp_path, short_side, rotation):
    """swscale's filter on YUV against Pillow's on RGB: chroma has half the size, so it may differ at edges."""
    wave = np.sin(np.linspace(0, 3, 128)) * np.cos(np.linspace(0, 2, 96))[:, None]  # [96, 128]
    frames = np.stack([128 + 100 * np.stack([wave, -wave, wave * i / 3], -1) for i in range(3)]).astype(np.uint8)
    path = write_video(tmp_path / "v.mp4", frames, "libx264", rotation=rotation)
    whole, _ = read_clip(path, all_frames)
    small, _ = read_clip(path, all_frames, short_side=short_side)
    size = scaled_size(whole.shape[1:3], short_side)
    assert small.shape[1:3] == size
    expected = [np.asarray(Image.fromarray(f).resize(size[::-1], Image.Resampling.BILINEAR)) for f in whole]
    assert np.abs(small - np.stack(expected).astype(int)).mean() < 2
    assert np.abs(small[:, ::-1, ::-1] - np.stack(expected).astype(int)).mean() > 8  # the bound can fail


def test_rgb_videos_keep_their_size_for_the_transform(tmp_path):
    frames = known_frames(3)
    path = write_video(tmp_path / "v.mkv", frames)
    np.testing.assert_array_equal(read_clip(path, all_frames, short_side=8)[0], frames)


def test_folder_of_frames_in_numeric_order(tmp_path):
    frames = known_frames(12)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"img_{i}.png")  # img_10 comes after img_2
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "._img_0.png").write_bytes(b"what macOS keeps beside a file")
    pixels, count = read_clip(tmp_path, lambda n: np.array([[0, 10], [2, 2]]))
    assert count == probe(tmp_path).num_frames == 12
    np.testing.assert_array_equal(pixels, frames[[[0, 10], [2, 2]]])


def test_bad_folders_of_frames(tmp_path):
    with pytest.raises(VideoError, match="no frames"):
        read_clip(tmp_path, all_frames)
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    with pytest.raises(VideoError, match=r"frame a\.jpg cannot be read"):
        read_clip(tmp_path, all_frames)
    with pytest.raises(VideoError, match="no times"):
        read_clip(tmp_path, all_frames, start=1)


def test_bad_files(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello " * 100)
    whole = write_video(tmp_path / "v.mkv", known_frames(30))
    for name, reason in [
        ("no.mp4", "no such file"),
        ("empty.mp4", "empty file"),
        ("text.mp4", "not a video"),
    ]:
        with pytest.raises(VideoError, match=reason) as caught:
            read_clip(tmp_path / name, all_frames)
        assert caught.value.path == str(tmp_path / name)
    data = Path(whole).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: len(data) // 2])  # a clean cut leaves whole frames: a shorter video
    assert probe(tmp_path / "cut.mkv").num_frames < 30


def test_torchcodec_is_never_a_silent_choice(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mkv", known_frames(5))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match="torchcodec"):
        read_clip(path, all_frames, backend="torchcodec")


def test_torchcodec_gives_the_same_frames(tmp_path):
    try:
        check_backend("torchcodec")
    except ConfigError as error:
        pytest.skip(str(error))
    frames = known_frames(20)
    path = write_video(tmp_path / "v.mkv", frames)
    pixels, count = read_clip(path, lambda n: np.array([[19, 3]]), backend="torchcodec")
    assert count == 20
    np.testing.assert_array_equal(pixels, frames[[[19, 3]]])


def _reason(row: dict) -> str:
    """What PROBE.jsonl says of a bad file, in this project's words."""
    if row["bytes"] == 0:
        return "empty file"
    if row["err"] == "no video stream":
        return "no video stream"
    return "cannot be decoded"


def test_every_odd_video_gives_its_frames_or_a_reason(shared, capfd):
    folder = shared / "data" / "odd_videos"
    rows = [json.loads(line) for line in (folder / "PROBE.jsonl").read_text().splitlines()]
    assert len(rows) > 30
    for row in rows:
        path = folder / row["p"].replace("mp4parse/mp4parse", "mp4parse")
        if row["p"] == "decord/corrupted.mp4":  # decoding stopped at its bad packet once
            assert (probe(path).num_frames, probe(path).damaged) == (49, 2)
            continue
        if "err" in row or row["n"] == 0:
            reason = _reason(row) if "err" in row else "no frames"
            with pytest.raises(VideoError, match=reason):
                read_clip(path, lambda n: np.array([n - 1]))
            continue
        width, height = map(int, row["size"][0].split("x"))
        size = (width, height) if row["rot"] in (90, -90) else (height, width)
        pixels, count = read_clip(path, lambda n: np.array([0, n - 1]))
        assert (count, pixels.shape[1:3]) == (row["n"], size), row["p"]
    assert capfd.readouterr() == ("", "")


def test_no_open_files_are_left_behind(shared, tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("needs /proc")
    good = write_video(tmp_path / "v.mkv", known_frames(5))
    broken = str(shutil.copy(shared / "data/odd_videos/mp4parse/test_case_1185230.mp4", tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read_clip(good, lambda n: np.array([0]), num_frames=5)
        with pytest.raises(VideoError):
            read_clip(broken, lambda n: np.array([0]))
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_memory_does_not_grow_with_the_number_of_reads(tmp_path):
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc")
    path = write_video(tmp_path / "v.mp4", known_frames(12, 96, 128), "mpeg4")

    def read(times: int) -> int:
        for _ in range(times):
            read_clip(path, lambda n: np.array([0, n - 1]))
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = read(100)
    assert read(400) - before < 4 * 2**20  # one lost frame a read would be 7 MiB or more, a lost decoder far more


def test_packets_of_a_stream_that_appears_on_the_way_are_passed_over():
    """As in a damaged transport stream, where PyAV has no such stream and its generator ends."""
    left = iter([1, 2, IndexError("list index out of range"), 3])

    def demux(stream):
        for packet in left:
            if isinstance(packet, Exception):
                raise packet
            yield packet

    assert list(packets_of(SimpleNamespace(demux=demux), None)) == [1, 2, 3]
