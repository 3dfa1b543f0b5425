"""Run the application until it is stopped."""

import socket

import uvicorn

from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.inference.recogniser import Recogniser
from mdtnet.serve.app import make_app
from mdtnet.serve.limits import Limits
from mdtnet.serve.service import Service

CONNECTIONS = 256
MOST_PICTURE = 500_000  # bytes of a webcam's picture


def run(
    model: Recogniser | ExportedRecogniser,
    limits: Limits,
    door: socket.socket,
    *,
    loopback: bool,
    certificate: str = "",
    key: str = "",
) -> None:
    """Answer at a bound socket; `loopback` takes requests for this machine's own names alone."""
    config = uvicorn.Config(
        make_app(Service(model, limits), loopback=loopback),
        log_level="warning",
        ssl_certfile=certificate or None,
        ssl_keyfile=key or None,
        limit_concurrency=CONNECTIONS,
        ws_max_size=MOST_PICTURE,
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[door])
