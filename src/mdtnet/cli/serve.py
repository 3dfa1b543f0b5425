"""The verb that opens a page."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb, check_least, config_from
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import complain, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.serve.limits import Limits


def serve_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.serve.limits import Limits

    parser.add_argument("checkpoint", help="a checkpoint, a zoo name, or an exported file")
    parser.add_argument("--host", default="127.0.0.1", help="address; 0.0.0.0: everyone who reaches this machine")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--certificate", default="", help="PEM file for TLS, which webcams of other machines need")
    parser.add_argument("--key", default="", help="PEM file of the certificate's key")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_class_arguments(Limits)


def serve(options: "Namespace") -> None:
    from mdtnet.deploy.runtime import required
    from mdtnet.serve.limits import LOOPBACK, Limits

    for package in ("fastapi", "uvicorn", "python_multipart", "websockets"):
        required(package, Path("mdtnet serve"), extra="serve")
    limits = config_from(Limits, options)
    _check(limits, options)
    door = _bound(options.host, options.port)
    from mdtnet.deploy.load import load
    from mdtnet.serve.run import run

    loopback = options.host in LOOPBACK
    model = load(options.checkpoint, device=options.device)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{'https' if options.certificate else 'http'}://{host}:{door.getsockname()[1]}"
    say(f"{options.checkpoint} is served at {address} (Ctrl-C stops)")
    if not loopback:
        complain("everyone who reaches this address can send videos: there is no login")
    run(model, limits, door, loopback=loopback, certificate=options.certificate, key=options.key)


def _check(limits: "Limits", options: "Namespace") -> None:
    check_least(1, at_once=limits.at_once)
    check_least(0, waiting=limits.waiting, cameras=limits.cameras)
    if not 0 <= options.port < 2**16:
        raise ConfigError(f"--port is {options.port}, expected 0 to 65535")
    for name in ("max_mb", "max_seconds", "timeout"):
        if getattr(limits, name) <= 0:
            raise ConfigError(f"--{name} is {getattr(limits, name):g}, expected more than 0")
    if bool(options.certificate) != bool(options.key):
        raise ConfigError("--certificate and --key belong together")
    if options.certificate:
        import ssl

        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(options.certificate, options.key, password="")
        except OSError as error:
            pair = f"{options.certificate} and {options.key}"
            raise ConfigError(
                f"{pair}: no certificate and its key without password, as PEM: {error.strerror}"
            ) from error


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens at this address, before a network is loaded: who comes early waits."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen()
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be listened at: {error.strerror or error}") from error
    return door


VERBS = {
    "serve": Verb(
        "open a page on this machine: drop a video or use the webcam; an HTTP API",
        serve_arguments,
        serve,
        "  mdtnet serve runs/mine/checkpoints/best.pt\n  mdtnet serve best.onnx --port 9000 --max_mb 50",
    ),
}
