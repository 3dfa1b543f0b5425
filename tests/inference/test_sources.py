"""Any source: the same frames from a file, bytes, arrays, an address, a stream; and no local file behind an address."""

import io
import socket
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from clips import frames_of_square, write_video
from PIL import Image

from mdtnet.data.container import Part
from mdtnet.data.video import Request, read_clip
from mdtnet.errors import VideoError
from mdtnet.inference import sources
from mdtnet.inference.sources import camera_of, name_of, open_frames, read_source, scheme_of
from mdtnet.zoo import fetch

FRAMES = frames_of_square(20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A video, the same frames as pictures, and a secret beside the folder that is served."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "web/frames").mkdir(parents=True)
    write_video(folder / "web/a.mp4", FRAMES)
    write_video(folder / "web/a.ts", FRAMES)
    write_video(folder / "secret.ts", FRAMES)
    for i, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"web/frames/{i}.png")
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
    (folder / "web/good.m3u8").write_text(playlist.format("a.ts"))
    (folder / "web/bad.m3u8").write_text(playlist.format(f"file://{folder}/secret.ts"))
    (folder / "web/concat.txt").write_text(f"ffconcat version 1.0\nfile {folder}/secret.ts\n")
    return folder


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder, and one address that points to a local file."""

    def do_GET(self):
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", f"file://{self.directory}/a.mp4")
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def web(folder):
    """The folder's address on a server of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder / "web")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _one_try(monkeypatch):
    monkeypatch.setattr(fetch, "TRIES", 1)


def all_of(source, **options) -> np.ndarray:
    with open_frames(source, **options) as frames:
        return np.stack([pixels for _, pixels in frames])


@pytest.fixture
def expected(folder) -> np.ndarray:
    return read_clip(folder / "web/a.mp4", np.arange)[0]


def test_every_form_of_a_file_gives_its_frames(folder, web, expected):
    path = folder / "web/a.mp4"
    given = [path, str(path), Part(str(path)), path.read_bytes(), io.BytesIO(path.read_bytes()), f"{web}/a.mp4"]
    with open(path, "rb") as file:
        given.append(file)
        for source in given:
            assert np.array_equal(all_of(source), expected), name_of(source)
    assert np.array_equal(all_of(path, short_side=32), read_clip(path, np.arange, short_side=32)[0])


def test_standard_input(folder, expected, monkeypatch):
    with open(folder / "web/a.mp4", "rb") as file:
        monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": file}))
        assert np.array_equal(all_of("-"), expected)


def test_arrays_are_their_frames(folder):
    backwards = np.ascontiguousarray(FRAMES[..., ::-1])
    for source in (FRAMES, list(FRAMES), folder / "web/frames"):
        assert np.array_equal(all_of(source), FRAMES)
    assert np.array_equal(all_of(backwards, bgr=True), FRAMES)
    request = Request(lambda n: np.array([[n - 1, 0], [3, 3]]), transform=lambda frame: frame[::2])
    reading = read_source(FRAMES, request)
    assert np.array_equal(reading.pixels, FRAMES[[[19, 0], [3, 3]], ::2])
    assert np.array_equal(reading.pixels, read_source(folder / "web/frames", request).pixels)


def test_parts_and_times(folder, expected):
    with open_frames(Part(str(folder / "web/a.mp4"), 0.5, 1.0)) as frames:
        assert (frames.name, frames.fps, frames.endless) == (f"{folder}/web/a.mp4@0.5-1", 12, False)
        times, pixels = zip(*frames)
    assert np.allclose(times, np.arange(6, 12) / 12)
    assert np.array_equal(pixels, expected[6:12])


def test_a_playlist_is_a_stream_and_reaches_no_local_file(folder, web, expected):
    assert len(all_of(f"{web}/good.m3u8", stream=True)) == 20
    for address in ("bad.m3u8", "concat.txt"):
        with pytest.raises(VideoError):
            all_of(f"{web}/{address}", stream=True)
    for address in ("good.m3u8", "bad.m3u8", "concat.txt"):
        with pytest.raises(VideoError, match="a playlist, which names other files"):
            all_of(f"{web}/{address}")


def test_an_address_that_points_to_a_local_file_is_refused(web):
    for stream in (False, True):
        with pytest.raises(VideoError, match=f"{web}/away"):
            all_of(f"{web}/away", stream=stream)


@contextmanager
def sending(frames: np.ndarray, count: int):
    """A camera: a transport stream of the frames, again and again, over a loopback socket."""
    import av

    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    stop = threading.Event()

    def send():
        with av.open(f"udp://127.0.0.1:{port}?pkt_size=1316", "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.height, stream.width, stream.pix_fmt, stream.gop_size = *frames.shape[1:3], "yuv420p", 5
            for i in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frames[i % len(frames)], format="rgb24")))
                if stop.wait(0.01):
                    return

    thread = threading.Thread(target=send)
    thread.start()
    yield f"udp://127.0.0.1:{port}"
    stop.set()
    thread.join()


def test_a_stream_is_watched_for_some_seconds(monkeypatch):
    monkeypatch.setattr(sources, "WATCHED_SECONDS", 1.0)
    with sending(frames_of_square(20), 2000) as address:
        reading = read_source(address, Request(np.arange, short_side=32))
    assert 24 <= reading.num_frames <= 30
    assert reading.pixels.shape[1:] == (32, 48, 3)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("file:///etc/passwd", "unknown scheme 'file', expected http, https, rtsp"),
        ("concat:a|b", "no such file"),
        ("http://me:secret@127.0.0.1/a.mp4", "^http://127.0.0.1/a.mp4: an http address with a password"),
        ("rtsp://me:secret@127.0.0.1:9/a", "^rtsp://127.0.0.1:9/a: cannot be opened"),
        ("7", "camera 7: cannot be opened"),
        (b"nothing", "7 bytes: not a video"),
        (np.zeros((2, 4, 4, 3)), "frames are float64 .2, 4, 4, 3., expected uint8"),
        (np.zeros((0, 4, 4, 3), dtype=np.uint8), "0 frames: frames are uint8"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], "2 frames: frames of several sizes"),
    ],
)
def test_bad_sources_are_one_line(source, reason):
    with pytest.raises(VideoError, match=reason) as error:
        all_of(source)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_what_goes_on_for_ever_is_not_fetched(web, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with pytest.raises(VideoError, match=r"more than .* GiB are not fetched"):
        all_of(f"{web}/a.mp4")


def test_only_a_scheme_makes_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("0").mkdir()
    assert (camera_of("0"), camera_of("1"), camera_of(0)) == (None, 1, 0)
    assert [scheme_of(text) for text in ("http:/a", "HTTPS://a", "c:\\a", "a/http://b")] == ["", "https", "", ""]
