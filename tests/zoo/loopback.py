"""A server on this machine that serves named files, badly where it is told to, and tables that name it."""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Server(ThreadingHTTPServer):
    """Serves `files` by path; `cut` bytes end an answer early, once; `pause` seconds before an answer."""

    daemon_threads = True
    cut, pause, kind, ranges = 0, 0.0, "application/octet-stream", True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        """Of the server, without the last slash."""
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """Ranges, and the server's faults."""

    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        time.sleep(self.server.pause)
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", self.server.kind)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end, self.server.cut = self.server.cut or len(content), 0
        self.wfile.write(content[start:end])

    def log_message(self, *_: object) -> None:
        pass


def serve() -> Server:
    """A running server; end it with `shutdown` and `server_close`."""
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def write_table(path: Path, *addresses: str, content: bytes = b"", name: str = "tsn-resnet18-mine-2f", **more) -> Path:
    """A table of one entry; with `content` the digest prefix is that of it."""
    row = {
        "name": name,
        "system": "tsn",
        "trunk": "resnet18",
        "data": "mine",
        "labels": "ucf101",
        "classes": 101,
        "segments": 2,
        "addresses": list(addresses),
        "licence": "MIT",
        "source": "tests",
        **more,
    }
    if content:
        row["sha256_prefix"] = hashlib.sha256(content).hexdigest()[:8]
    path.write_text(json.dumps({"version": 1, "checkpoints": [row]}), encoding="utf-8")
    return path
