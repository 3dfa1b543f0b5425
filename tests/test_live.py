"""Live: files at their speed, streams over http that break off, a camera that is not there, what is too slow."""

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from clips import frames_of_square, write_video

from mdtnet import live as module
from mdtnet.checkpoint import save_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import DataConfig, ModelConfig, RunConfig, TSMConfig
from mdtnet.errors import ConfigError, VideoError
from mdtnet.inference import sources
from mdtnet.inference.description import Description
from mdtnet.inference.recogniser import Recogniser
from mdtnet.live import Reader, Rhythm, _Sampler, follow, opener, rhythm_of
from mdtnet.live_video import draw
from mdtnet.models.build import build_model

CLASSES = ("left", "right", "still")
NUM_FRAMES = 24  # 2 seconds at 12 frames/s


def checkpoint(path, name: str, **model):
    config = RunConfig(
        data=DataConfig(num_segments=3, short_side=40, size=32),
        model=ModelConfig(**{"name": name, "trunk": "resnet18", "width": 0.125, **model}),
    )
    torch.manual_seed(0)
    network = build_model(config.model, num_classes=len(CLASSES))
    torch.nn.init.normal_(network.head.fc.weight)
    save_checkpoint(path, model=network, config=config, classes=CLASSES)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("live")
    write_video(made / "clip.mp4", frames_of_square(NUM_FRAMES))
    checkpoint(made / "tsm.pt", "tsm", tsm=TSMConfig(causal=True))
    checkpoint(made / "tea.pt", "tea")
    return made


def description(**values) -> Description:
    plain = {"system": "tsm", "trunk": "resnet18", "precision": "float32", "classes": CLASSES, "num_segments": 8}
    plain |= {"frames_per_segment": 1, "frame_stride": 1, "sampling": "consecutive", "short_side": 40, "size": 32}
    return Description(**{**plain, "fusion": "softmax", **values})


# which frames


def picked(rhythm: Rhythm, fps: float, count: int) -> list[list[int]]:
    sampler, found = _Sampler(rhythm), []
    for i in range(count):
        whole = sampler.add(i / fps, np.full((1, 1, 3), i, dtype=np.uint8))
        if whole is not None:
            found.append(whole[:, 0, 0, 0].tolist())
    return found


def test_a_segment_every_eight_frames_unless_told_otherwise():
    rhythm = rhythm_of(description())
    assert rhythm.seconds == pytest.approx(0.32)
    assert picked(rhythm, 25, 25) == [[0], [8], [16], [24]]
    assert picked(rhythm_of(description(), segment_seconds=0.2), 25, 16) == [[0], [5], [10], [15]]
    for wrong in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="segment_seconds is"):
            rhythm_of(description(), segment_seconds=wrong)


def test_the_frames_of_a_segment_are_those_of_training():
    assert picked(rhythm_of(description(frames_per_segment=3)), 25, 20) == [[0, 1, 2], [8, 9, 10], [16, 17, 18]]
    assert picked(rhythm_of(description(frames_per_segment=3, frame_stride=2)), 25, 14) == [[0, 2, 4], [8, 10, 12]]
    by_time = description(frames_per_segment=3, fps=10.0)  # 0.8 s per segment, frames 0.1 s apart
    assert picked(rhythm_of(by_time), 30, 34) == [[0, 3, 6], [24, 27, 30]]
    spread = description(frames_per_segment=4, sampling="random")
    assert picked(rhythm_of(spread), 25, 16) == [[0, 2, 4, 6], [8, 10, 12, 14]]


def test_after_a_gap_segments_begin_at_once():
    sampler = _Sampler(Rhythm(1.0, 1, 1, 0.0))
    frame = np.zeros((1, 1, 3), dtype=np.uint8)
    assert [sampler.add(t, frame) is not None for t in (0.0, 0.9, 1.0, 5.5, 6.0, 6.5)] == [1, 0, 1, 1, 0, 1]


# files


def test_answers_of_a_file_are_those_of_the_stream(folder):
    model = Recogniser.load(folder / "tsm.pt", device="cpu")
    rhythm = rhythm_of(model.description, segment_seconds=1 / 3)  # every fourth frame
    began = time.monotonic()
    reader = Reader(opener(str(folder / "clip.mp4"), short_side=40), rhythm)
    answers = list(follow(model, reader, model.description, topk=3))
    assert 1.8 < time.monotonic() - began < 6  # at its speed
    assert (reader.frames, reader.dropped) == (NUM_FRAMES, 0)
    assert [answer.seconds for answer in answers] == pytest.approx([i / 3 for i in range(6)], abs=0.01)
    with av.open(str(folder / "clip.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24", width=60, height=40) for f in container.decode(video=0)][::4]
    state = None
    for answer, frame in zip(answers, frames):
        wanted, state = model.step(frame[None, None, 4:36, 14:46], state)
        found = dict(zip(answer.classes, answer.probabilities))
        assert [found[name] for name in CLASSES] == pytest.approx(wanted[0], abs=0.02)  # another way to RGB
    assert all(0 < answer.latency < 2 for answer in answers)


def test_networks_that_look_ahead_see_windows(folder, capsys, tmp_path):
    out = tmp_path / "answers.jsonl"
    arguments = ["predict", str(folder / "tea.pt"), "--live", str(folder / "clip.mp4"), "--segment_seconds", "0.33"]
    assert main([*arguments, "--json", str(out), "--topk", "2"]) == 0
    said = capsys.readouterr()
    assert "tea runs as a sliding window" in said.err
    assert "each answer costs 3 segments" in said.err.replace("\n", " ")
    assert f"4 answers to {NUM_FRAMES} frames, 0 dropped; latency" in said.err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 4  # six segments: none before there are three
    assert [len(line["predictions"]) for line in lines] == [2] * 4
    assert said.out.count("dropped)") == 4


def test_what_is_seen_is_written(folder, tmp_path, capsys):
    out = tmp_path / "seen.mp4"
    arguments = ["predict", str(folder / "tsm.pt"), "--live", str(folder / "clip.mp4"), "--json", "-"]
    assert main([*arguments, "--video", str(out)]) == 0
    said = capsys.readouterr()
    assert all("latency" in json.loads(line) for line in said.out.splitlines())
    assert "tsm keeps its state" in said.err
    with av.open(str(out)) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == NUM_FRAMES
    assert frames[0].height == 256  # to be read: the network sees 40 pixels
    assert frames[-1].time == pytest.approx(23 / 12, abs=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["seen.mp4"]


@pytest.mark.parametrize("torch_there", [True, False])
def test_a_video_with_its_prediction(folder, tmp_path, monkeypatch, torch_there):
    if not torch_there:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    out = tmp_path / "seen.mp4"
    assert main(["predict", str(folder / "tsm.pt"), str(folder / "clip.mp4"), "--video", str(out)]) == 0
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    assert len(frames) == NUM_FRAMES
    assert frames[0].shape[0] == 256
    edge = [frame[:2].mean((0, 1)) for frame in frames]
    assert [i for i, colour in enumerate(edge) if colour[0] - colour[2] > 60] == [4, 12, 20]  # in yellow: T = 3
    above = frames[9][10:150]  # of a grey frame that is no key frame, above the bars
    assert ((above[..., 0] - above[..., 2]).max() > 60) == torch_there  # salience is warm


def test_the_best_classes_are_drawn_at_the_foot():
    frame = np.full((80, 120, 3), 40, dtype=np.uint8)
    assert draw(frame, None) is frame
    answer = module.Answer(0.0, ("left",), (0.5,), 0.1, 1, 0)
    drawn = draw(frame, answer)
    assert np.array_equal(drawn[:60], frame[:60])
    assert not np.array_equal(drawn[-10:, :60], drawn[-10:, 60:])


# streams


class Flaky(BaseHTTPRequestHandler):
    """A stream of JPEG frames without an end, which breaks off after 12 frames."""

    def do_GET(self):
        self.server.asked += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for frame in self.server.jpegs[:12]:
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(frame)}\r\n\r\n"
            self.wfile.write(head.encode() + frame + b"\r\n")
            time.sleep(0.03)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def stream():
    from io import BytesIO

    from PIL import Image

    server = ThreadingHTTPServer(("127.0.0.1", 0), Flaky)
    server.asked, server.jpegs = 0, []
    for frame in frames_of_square(12):
        out = BytesIO()
        Image.fromarray(frame).save(out, "JPEG")
        server.jpegs.append(out.getvalue())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_stream_that_breaks_off_is_opened_again_and_begins_anew(folder, stream, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.05)
    model = Recogniser.load(folder / "tsm.pt", device="cpu")
    notes, fresh = [], []
    url = f"http://127.0.0.1:{stream.server_address[1]}/"
    reader = Reader(opener(url, short_side=40), Rhythm(0.1, 1, 1, 0.0), note=notes.append)
    put = reader._put
    monkeypatch.setattr(reader, "_put", lambda segment: (fresh.append(segment.fresh), put(segment))[1])
    for answer in follow(model, reader, model.description):
        assert len(answer.classes) == 3
        if stream.asked >= 3:
            break
    assert stream.asked >= 3
    assert fresh.count(True) >= 2
    assert "trying again in 0.05 s" in notes[0]


def test_a_stream_that_was_never_there_is_one_line(folder, capsys):
    assert main(["predict", str(folder / "tsm.pt"), "--live", "http://127.0.0.1:9/x"]) == 3
    assert "http://127.0.0.1:9/x: cannot be opened" in capsys.readouterr().err.replace("\n", " ")


def test_an_address_reaches_no_file_of_this_machine(folder, capsys):
    for source in ("concat://x", "file:///etc/passwd", "ftp://x/y.mp4"):
        assert main(["predict", str(folder / "tsm.pt"), "--live", source]) == 3
        said = " ".join(capsys.readouterr().err.split())
        assert f"{source}: unknown scheme '{source.partition(':')[0]}', expected http, https, rtsp" in said


# cameras and slow networks


def test_a_camera_gives_rgb_and_what_is_too_slow_is_counted(monkeypatch, folder):
    """FFmpeg's own test pictures stand for a camera's."""
    monkeypatch.setitem(sources.CAMERAS, sys.platform, ("lavfi", "color=c=blue:s=64x48:r=200,realtime"))
    seen = []

    def slow(segments, state):
        time.sleep(0.05)
        seen.append(segments)
        return np.array([[0.2, 0.3, 0.5]]), state

    model = SimpleNamespace(keeps_state=True, step=slow, classes=CLASSES)
    reader = Reader(opener("0", short_side=40), Rhythm(0.0, 1, 1, 0.0))
    answers = follow(model, reader, description())
    answer = [next(answers) for _ in range(3)][-1]
    answers.close()
    assert answer.dropped > 3
    assert answer.frames > answer.dropped
    assert seen[0].shape == (1, 1, 32, 32, 3)
    assert seen[0][0, 0, 5, 5] == pytest.approx([0, 0, 255], abs=3)


def test_a_camera_that_is_not_there_is_one_line():
    reader = Reader(opener("97", short_side=40), Rhythm(0.1, 1, 1, 0.0))
    with pytest.raises(VideoError, match="camera 97: cannot be opened"):
        list(follow(SimpleNamespace(keeps_state=True), reader, description()))


def test_mistakes(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    start, clip = ["predict", str(folder / "tsm.pt"), "--live"], str(folder / "clip.mp4")
    wrong = [
        ([*start, clip, "--window"], 2, "--window: needs OpenCV, which is not installed: pip install 'mdtnet[live]'"),
        ([*start, clip, "--crops", "3"], 2, "--live does not go with --crops"),
        ([*start, clip, "--video", "x.avi"], 2, "--video is x.avi, expected a file that ends in .mp4"),
        ([*start, clip, "--segment_seconds", "-1"], 2, "segment_seconds is -1"),
        ([*start, str(tmp_path / "no.mp4")], 3, "no.mp4: no such file"),
        (
            ["predict", str(folder / "tsm.pt"), clip, "--video", "x.avi"],
            2,
            "--video is x.avi, expected a file that ends",
        ),
        (
            ["predict", str(folder / "tsm.pt"), clip, "no.mp4", "--video", "x.mp4"],
            2,
            "--video draws one video, and 2 are",
        ),
        (["predict", str(folder / "tsm.pt"), clip, "--live", clip], 2, f"--live does not go with {clip}"),
    ]
    for arguments, code, words in wrong:
        assert main(arguments) == code
        assert words in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []
