"""Shortcuts give the frames of decoding everything: of whole, odd and mutated files; and they are taken."""

import dataclasses
import random
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from fuzz import mutate_bytes
from shortcuts import compare, slow

from mdtnet.config import DataConfig
from mdtnet.data import plan, video
from mdtnet.data.annotations import Sample
from mdtnet.data.container import Part, open_video
from mdtnet.data.frames import cached_frames
from mdtnet.data.plan import Plans
from mdtnet.data.video import Request, probe, read_frames

KINDS = {
    "closed.mp4": ("libx264", {"g": "12", "bf": "2"}),
    "closed.mkv": ("libx264", {"g": "12", "bf": "0"}),
    "long.mp4": ("libx264", {"g": "250", "bf": "3"}),
    "open.mp4": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1:b-pyramid=normal"}),
    "refresh.mkv": ("libx264", {"g": "12", "x264-params": "intra-refresh=1"}),
    "hevc.mp4": ("libx265", {"g": "12", "x265-params": "log-level=none:pools=1:open-gop=1:min-keyint=12"}),
    "hevc.mkv": ("libx265", {"g": "12", "x265-params": "log-level=none:pools=1:open-gop=0:temporal-layers=1"}),
    "vp9.webm": ("libvpx-vp9", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
    "av1.mp4": ("libsvtav1", {"g": "12", "preset": "12"}),
    "packed.avi": ("mpeg4", {"g": "12", "bf": "2"}),
}


def write_video(path: Path, codec: str, options: dict[str, str], count: int = 60) -> Path:
    """Noise that moves, 64 x 96."""
    ground = np.random.default_rng(0).integers(0, 256, (64, 96 + count, 3), dtype=np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = 96, 64, "yuv420p", Fraction(1, 10)
        for i in range(count):
            frame = np.ascontiguousarray(ground[:, i : i + 96])
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    found = {}
    for name, (codec, options) in KINDS.items():
        if codec in av.codecs_available:
            found[name] = write_video(folder / name, codec, options)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_shortcuts_give_the_frames_of_decoding_everything(videos, name):
    if name not in videos:
        pytest.skip(f"this FFmpeg has no {KINDS[name][0]}")
    taken = compare(videos[name], random.Random(name))
    assert (taken == 0) if name == "packed.avi" else (taken >= 2)


@pytest.mark.parametrize(("name", "most"), [("closed.mp4", 16), ("closed.mkv", 16), ("hevc.mp4", 36), ("open.mp4", 40)])
def test_only_what_is_needed_is_decoded(videos, name, most):
    path = str(videos[name])
    first = read_frames(Part(path), Request(np.arange))
    assert (first.proven, first.decoded) == (True, 60)
    some = read_frames(Part(path), Request(lambda n: np.array([2, 40]), num_frames=60, proven=True))
    assert some.decoded <= most
    np.testing.assert_array_equal(some.pixels, first.pixels[[2, 40]])


def test_a_part_is_decoded_alone(videos, tmp_path, monkeypatch):
    part, decoded = Part(str(videos["closed.mkv"]), 5.0, 5.5), []
    real = video.decode
    monkeypatch.setattr(video, "decode", lambda *a: (decoded.append(f) or f for f in real(*a)))
    monkeypatch.setattr(video, "Decoder", lambda *a: pytest.fail("decoded from the start of the file"))
    assert read_frames(part, Request(np.arange)).num_frames == 5
    assert probe(part.path, start=part.start, end=part.end).num_frames == 5
    assert len(decoded) == 2 * (1 + 60 - 48)  # the first of the file, and from the key frame before the part on
    sample = Sample(part.path, 0, start=part.start, end=part.end)
    assert cached_frames(sample, DataConfig(short_side=64, cache=str(tmp_path))).num_frames == 5


def small_memory(room: int = 4096) -> Plans:
    return Plans(np.zeros((8, 2), dtype=np.int64), np.zeros(room, dtype=np.uint8), threading.Lock())


@pytest.mark.parametrize("name", ["closed.mp4", "hevc.mp4", "vp9.webm", "av1.mp4"])
def test_a_plan_is_kept_as_it_was_read(videos, monkeypatch, name):
    if name not in videos:
        pytest.skip(f"this FFmpeg has no {KINDS[name][0]}")
    part, plans = Part(str(videos[name])), small_memory()
    with open_video(part.path) as opened:
        first = plans.of(part, *opened)
        monkeypatch.setattr(plan, "scan", lambda *a: pytest.fail("read again"))
        kept = plans.of(part, *opened)
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(kept, field.name), getattr(first, field.name), err_msg=field.name)


def test_full_memory_keeps_no_more_plans(videos, monkeypatch):
    part, plans, scans = Part(str(videos["closed.mp4"])), small_memory(room=100), []
    real = plan.scan
    monkeypatch.setattr(plan, "scan", lambda *a: scans.append(a) or real(*a))
    for _ in range(2):
        read_frames(part, Request(np.arange, plans=plans))
    assert len(scans) == 2


def test_damage_before_a_part_and_inside_of_it(videos, tmp_path):
    """Each packet of the file is broken once: the part is read as if everything was decoded."""
    data = videos["closed.mp4"].read_bytes()
    with av.open(str(videos["closed.mp4"])) as source:
        places = [(p.pos, p.size) for p in source.demux(video=0) if p.size]
    for number, (place, size) in enumerate(places[::5]):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(data[: place + size // 2] + bytes(size // 4) + data[place + size // 2 + size // 4 :])
        compare(path, random.Random(number))


def test_a_file_that_changed_is_read_again(videos, tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(videos["closed.mp4"].read_bytes())
    read_frames(Part(str(path)), Request(np.arange))
    path.write_bytes(videos["long.mp4"].read_bytes())
    request = Request(lambda n: np.array([7, 50]), num_frames=60, proven=True)
    frames, _, _ = slow(Part(str(path)))
    np.testing.assert_array_equal(read_frames(Part(str(path)), request).pixels, [frames[7], frames[50]])


def compare_mutants(videos: dict[str, Path], folder: Path, count: int, seed: int) -> int:
    """How many files and parts of mutants were read by a shortcut.

    FFmpeg's HEVC passes over damaged slices without a word, and leaves what was in memory in their place: there only
    the numbers of frames and damage are compared.
    """
    rng, taken = random.Random(seed), 0
    whole = {name: path.read_bytes() for name, path in videos.items()}
    for number in range(count):
        name = rng.choice(sorted(whole))
        path = folder / f"{number}_{name}"
        path.write_bytes(mutate_bytes(whole[name], rng, others=list(whole.values())))
        taken += compare(path, rng, pixels="hevc" not in name)
        path.unlink()  # the file of a failure stays
    return taken


def test_shortcuts_of_mutants(videos, tmp_path):
    assert compare_mutants(videos, tmp_path, 25, seed=0) > 5


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_shortcuts_of_2000_mutants(videos, tmp_path):
    taken = compare_mutants(videos, tmp_path, 2000, seed=1)
    print(f"{taken} of 8000 files and parts by a shortcut")
    assert taken > 400


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_shortcuts_of_real_and_odd_files(shared):
    videos = [
        p for p in sorted(shared.rglob("*")) if p.suffix.lower() in (".mp4", ".mkv", ".webm", ".mov", ".avi", ".3gp")
    ]
    taken = [compare(path, random.Random(str(path))) for path in videos]
    print(
        f"{np.count_nonzero(taken)} of {len(taken)} files read by a shortcut, {sum(taken)} of {4 * len(taken)} readings"
    )
    assert len(taken) > 200
    assert np.mean(np.array(taken) > 0) > 0.5
