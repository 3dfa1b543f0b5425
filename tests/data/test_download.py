"""Downloads from a server on this machine: resume, checksum, refusals, archives."""

import hashlib
import os
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mdtnet.data import download as module
from mdtnet.data.download import download, fetch, unpack
from mdtnet.data.official import SOURCES, Archive
from mdtnet.errors import DataError

CONTENT = os.urandom(300_000)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `ranges` False ignores ranges, `cut` bytes end an answer early, once."""

    ranges, cut = True, 0
    asked: list[str | None]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.path != "/file.bin":
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end, self.server.cut = self.server.cut or len(CONTENT), 0
        self.wfile.write(CONTENT[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    server = Server(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def archive(server, *, name: str = "file.bin", content: bytes = CONTENT, hash: str = "sha256") -> Archive:
    return Archive(f"http://127.0.0.1:{server.server_port}/{name}", hash, hashlib.new(hash, content).hexdigest())


@pytest.mark.parametrize("hash", ["sha256", "md5"])
def test_a_whole_file(server, tmp_path, hash):
    seen = []
    fetch(archive(server, hash=hash), tmp_path / "f", progress=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    fetch(archive(server, hash=hash), tmp_path / "f")
    assert server.asked == [None]  # what is there is checked, not fetched
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("ranges", [True, False])
def test_going_on_after_an_interruption(server, tmp_path, ranges):
    server.ranges = ranges
    (tmp_path / "f.part").write_bytes(CONTENT[:1000])
    fetch(archive(server), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_an_answer_that_ends_early_is_continued(server, tmp_path):
    server.cut = 5000
    fetch(archive(server), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=5000-"]


def test_a_part_that_is_whole_is_only_checked(server, tmp_path):
    (tmp_path / "f.part").write_bytes(CONTENT)
    fetch(archive(server), tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(DataError, match=r"sha256 is .* expected"):
        fetch(archive(server, content=b"other"), tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_not_asked_again(server, tmp_path):
    with pytest.raises(DataError, match=r"none\.bin: cannot be downloaded: Not Found"):
        fetch(archive(server, name="none.bin"), tmp_path / "f")
    assert len(server.asked) == 1


def test_no_server_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(Archive("http://127.0.0.1:9/f", "md5", ""), tmp_path / "f")


def test_download_unpacks_once(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "lists.zip", "w") as file:
        file.writestr("lists/classInd.txt", "1 Archery\n")
    digest = hashlib.sha256((tmp_path / "lists.zip").read_bytes()).hexdigest()
    archives = (Archive("http://127.0.0.1:9/lists.zip", "sha256", digest),)
    monkeypatch.setitem(SOURCES, "ucf101", replace(SOURCES["ucf101"], archives=archives))
    download("ucf101", tmp_path)  # it lies there already
    assert (tmp_path / "lists/classInd.txt").read_text() == "1 Archery\n"
    (tmp_path / "lists.zip").unlink()
    download("ucf101", tmp_path)
    with pytest.raises(DataError, match="no plain download"):
        download("jester", tmp_path)


def test_damaged_archives_and_a_missing_program(tmp_path, monkeypatch):
    for name in ("a.zip", "a.rar"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="not a zip archive"):
        unpack(tmp_path / "a.zip", tmp_path)
    monkeypatch.setattr(module.shutil, "which", lambda _: None)
    with pytest.raises(DataError, match="install one of unrar"):
        unpack(tmp_path / "a.rar", tmp_path)


def test_addresses_are_plain_and_have_checksums():
    for archives in (source.archives for source in SOURCES.values()):
        for a in archives:
            assert len(a.digest) == hashlib.new(a.hash).digest_size * 2
            assert a.url.startswith("http")
