"""The server: right answers, bad files and floods refused with a reason, nothing kept, nobody else's pages served."""

import asyncio
import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from clips import frames_of_square, make_checkpoint, write_video
from fastapi.testclient import TestClient
from PIL import Image
from starlette.websockets import WebSocketDisconnect

import mdtnet
from mdtnet.cli.main import main
from mdtnet.serve import reading
from mdtnet.serve.app import make_app
from mdtnet.serve.gate import Gate
from mdtnet.serve.limits import Limits
from mdtnet.serve.service import Service
from mdtnet.system.files import LEFTOVER
from mdtnet.work.isolated import Failure, Pool

LIMITS = Limits(max_mb=0.1, max_seconds=8, at_once=1, waiting=1, cameras=1, timeout=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    make_checkpoint(folder / "best.pt", seconds=2.0)
    write_video(folder / "short.mp4", frames_of_square(24))
    write_video(folder / "long.mp4", frames_of_square(60))  # 5 s
    write_video(folder / "longer.mp4", frames_of_square(108))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return mdtnet.Recogniser.load(folder / "best.pt", device="cpu")


@pytest.fixture(scope="module")
def service(model):
    return Service(model, LIMITS)


@pytest.fixture(scope="module")
def uploads(folder) -> Path:
    """Where uploads lie while they are read."""
    left = folder / "uploads" / f".killed{LEFTOVER}"
    left.mkdir(parents=True)
    (left / "upload.mp4").touch()
    return folder / "uploads"


@pytest.fixture(scope="module")
def client(service, uploads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(uploads))
        with TestClient(make_app(service), base_url="http://localhost") as client:
            assert [path for path in uploads.rglob("*") if path.is_file()] == []  # of a server that was killed
            yield client
    assert list(uploads.iterdir()) == []


def post(client, path: Path, query: str = ""):
    return client.post(f"/v1/predict{query}", files={"video": (path.name, path.read_bytes())})


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))).convert("RGBA"))


# answers


def test_an_upload_gets_the_answer_of_predict_and_is_removed(client, model, folder, uploads):
    expected = model.predict(folder / "short.mp4", topk=3, clips=2)
    reply = post(client, folder / "short.mp4", "?topk=3&clips=2")
    assert reply.status_code == 200
    best = reply.json()["predictions"]
    assert [one["class"] for one in best] == list(expected.classes)
    assert [one["probability"] for one in best] == pytest.approx(expected.probabilities, abs=1e-6)
    assert reply.json()["detail"] is None
    assert [path for path in uploads.rglob("*") if path.is_file()] == []


def test_detail_has_the_scores_of_timeline_and_salience_where_it_moves(client, model, folder):
    detail = post(client, folder / "long.mp4", "?detail=true").json()["detail"]
    assert detail["duration"] == pytest.approx(5, abs=0.1)
    windows, expected = detail["timeline"], model.timeline(folder / "long.mp4")
    edges, scores = expected.cells(expected.windows.stride)
    assert [window["start"] for window in windows] == edges[:-1].round(3).tolist()
    assert [window["end"] for window in windows] == edges[1:].round(3).tolist()
    assert windows[-1]["end"] == detail["duration"]
    for window, cell in zip(windows, scores):
        found = {best["class"]: best["probability"] for best in window["predictions"]}
        assert found == pytest.approx({name: cell[model.classes.index(name)] for name in found}, abs=1e-4)
    shown = detail["salience"]
    maps, frames = pixels(shown["maps"]), pixels(shown["frames"])
    assert maps.shape == frames.shape
    count, height, width = len(shown["times"]), shown["height"], shown["width"]
    assert maps.shape[0] == -(-count // shown["across"]) * height
    middle = count // 2
    top, left = middle // shown["across"] * height, middle % shown["across"] * width
    opaque = maps[top : top + height, left : left + width, 3]
    row, column = np.unravel_index(opaque.argmax(), opaque.shape)
    square = 4 + 2 * 12 * shown["times"][middle]  # its left side of 96 pixels, 20 wide, in rows 20 to 40 of 64
    assert square - 6 <= column * 96 / width <= square + 26
    assert 14 <= row * 64 / height <= 46


def test_windows_of_long_videos_are_further_apart_and_no_longer(model, folder, monkeypatch):
    monkeypatch.setattr(reading, "MOST_WINDOWS", 3)
    upload = reading.Upload(str(folder / "longer.mp4"), model.description, 1, True, 60)
    windows = reading._windows(upload)
    assert len(windows.clips) == 3
    assert np.ptp(windows.timeline.windows.spans, 1) == pytest.approx(2, abs=0.1)
    assert windows.timeline.windows.spans[[0, -1], [0, 1]] == pytest.approx([0, 9], abs=0.1)


def test_short_videos_have_no_timeline_and_pictures_one_moment(client, folder):
    assert post(client, folder / "short.mp4", "?detail=true").json()["detail"]["timeline"] == []
    Image.fromarray(frames_of_square(1)[0]).save(folder / "one.png")
    detail = post(client, folder / "one.png", "?detail=true").json()["detail"]
    assert (detail["duration"], detail["salience"]["times"]) == (0, [0])


def test_the_page_and_its_description_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert "MDT-Net2" in page.text
    assert "://" not in page.text
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert client.get("/healthz").json()["status"] == "ok"
    assert {"/v1/predict", "/healthz"} <= set(client.get("/openapi.json").json()["paths"])
    assert client.get("/docs").status_code == 404


# refusals


def test_bad_files_are_refused_with_the_reason(client, folder):
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "list.m3u8").write_text("#EXTM3U\nhttp://localhost/secret\n")
    for name, reason in {
        "text.mp4": "not a video",
        "empty.mp4": "empty file",
        "list.m3u8": "a playlist",
        "longer.mp4": "a video of 9 s, at most 8 s are taken",
    }.items():
        reply = post(client, folder / name)
        assert reply.status_code == 422
        assert reason in reply.json()["detail"]
        assert str(folder) not in reply.text


def test_a_form_without_a_video_and_options_out_of_range_are_refused(client, folder):
    assert client.post("/v1/predict", files={"other": b"x"}).status_code == 422
    assert post(client, folder / "short.mp4", "?topk=0").status_code == 422


def test_a_reader_that_hangs_or_dies_is_an_answer(service, client, folder, monkeypatch):
    for kind, status in (("timeout", 504), ("crash", 422)):
        failure = Failure(kind, "not done after 20 s")
        monkeypatch.setattr(service._pool, "run", lambda task, timeout_seconds, failure=failure: failure)
        reply = post(client, folder / "short.mp4")
        assert (reply.status_code, reply.json()["detail"]) == (status, "not done after 20 s")


def test_other_sites_may_not_ask(client):
    assert client.get("/healthz", headers={"Host": "other.example"}).status_code == 403
    assert client.get("/healthz", headers={"Origin": "http://other.example"}).status_code == 403
    assert client.get("/healthz", headers={"Origin": "http://localhost"}).status_code == 200
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("ws://localhost/v1/live", headers={"Origin": "http://other.example"}),
    ):
        pass


def upload(app, *, chunks: int, size: int = 10_000, wait: float = 0.0, headers=()) -> tuple[int, str, int]:
    """Status, reason, and number of chunks that were taken of an upload that does not say how long it is."""
    taken, sent = 0, []
    begin = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'

    async def receive():
        nonlocal taken
        await asyncio.sleep(wait)
        taken += 1
        return {
            "type": "http.request",
            "body": (begin if taken == 1 else b"") + bytes(size),
            "more_body": taken < chunks,
        }

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/predict",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x"), *headers],
    }
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])["detail"], taken


def test_bytes_are_counted_while_they_arrive(service):
    app = make_app(service)
    assert upload(app, chunks=1000) == (413, "larger than 0.1 MB", 11)
    assert upload(app, chunks=1000, headers=[(b"content-length", b"10000000")]) == (413, "larger than 0.1 MB", 0)


def test_an_upload_that_trickles_is_ended(model):
    app = make_app(Service(model, Limits(timeout=0.3)))
    status, reason, taken = upload(app, chunks=1000, size=1, wait=0.05)
    assert (status, reason) == (408, "the upload took more than 0.3 s")
    assert taken <= 6


def test_more_than_may_wait_are_told_to_come_again():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 200})

    async def ask(gate) -> dict:
        sent = []

        async def send(message):
            sent.append(message)

        await gate({"type": "http", "method": "POST", "headers": [(b"host", b"localhost")]}, None, send)
        return sent[0]

    async def all_at_once():
        gate = Gate(slow, LIMITS, loopback=True)
        return [*await asyncio.gather(*(ask(gate) for _ in range(5))), await ask(gate)]

    answers = asyncio.run(all_at_once())
    assert [answer["status"] for answer in answers] == [200, 200, 503, 503, 503, 200]
    assert (b"retry-after", b"1") in answers[2]["headers"]


# webcams


def jpeg(frame: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg")
    return file.getvalue()


def test_a_webcam_gets_answers_about_its_last_pictures(client, model):
    with client.websocket_connect("ws://localhost/v1/live") as socket:
        for frame in frames_of_square(8):
            socket.send_bytes(jpeg(frame))
        answer = socket.receive_json()
        assert len(answer["predictions"]) == 5
        assert sum(one["probability"] for one in answer["predictions"]) <= 1
        assert {one["class"] for one in answer["predictions"]} <= set(model.classes)
        assert pixels(answer["salience"]).shape[2] == 4
        for _ in range(8):
            socket.send_bytes(b"no picture")
        while "error" not in answer:  # answers to the pictures before may be on their way
            answer = socket.receive_json()
        with client.websocket_connect("ws://localhost/v1/live") as second:  # one at a time
            with pytest.raises(WebSocketDisconnect) as ended:
                second.receive_json()
            assert ended.value.code == 1013


# processes that read


def test_a_pool_outlives_what_it_runs():
    pool: Pool[str, int] = Pool(eval, 1)
    assert pool.run("1 + 1", timeout_seconds=20) == 2
    died = pool.run("__import__('os').abort()", timeout_seconds=20)
    assert died == Failure("crash", "the decoder's process was ended by SIGABRT")
    assert pool.run("1 + 2", timeout_seconds=20) == 3
    assert pool.run("__import__('time').sleep(60)", timeout_seconds=0.2) == Failure("timeout", "not done after 0.2 s")
    assert pool.run("1 + 3", timeout_seconds=20) == 4
    pool.close()
    assert isinstance(pool.run("1 + 4", timeout_seconds=20), Failure)


# the verb


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--at_once", "0"], "--at_once is 0, expected at least 1"),
        (["--max_mb", "0"], "--max_mb is 0, expected more than 0"),
        (["--certificate", "x.pem"], "--certificate and --key belong together"),
        (["--certificate", __file__, "--key", "none.pem"], "none.pem: no certificate and its key without password"),
        (["--host", "192.0.2.1"], "192.0.2.1:8000 cannot be listened at"),
        (["--port", "70000"], "--port is 70000, expected 0 to 65535"),
    ],
)
def test_wrong_options_are_one_line(words, reason, folder, capsys):
    assert main(["serve", str(folder / "best.pt"), *words]) == 2
    assert reason in capsys.readouterr().err
