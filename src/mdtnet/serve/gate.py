"""Admission: whose requests are taken, how many at once, how many bytes, for how long; before anything is parsed."""

import asyncio
import time
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mdtnet.serve.limits import LOOPBACK, Limits

ENVELOPE = 10_000  # bytes around a file in a form


class Gate:
    """Middleware in front of the application."""

    def __init__(self, app: ASGIApp, limits: Limits, *, loopback: bool) -> None:
        self.app, self.limits, self.loopback = app, limits, loopback
        self.most_bytes = round(limits.max_mb * 1e6) + ENVELOPE
        self.busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif reason := self._foreign(scope):
            await _refuse(403, reason, scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST":
            await self._admit(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _foreign(self, scope: Scope) -> str:
        """Why a page of another site may not ask: it could use a visitor's browser to reach this machine."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if self.loopback and urlsplit(f"//{host}").hostname not in LOOPBACK:
            return f"asked for host '{host}', expected localhost"
        if origin and urlsplit(origin).netloc != host:
            return f"asked by a page of {origin}, expected this server's own"
        return ""

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes:
            await _refuse(413, self._too_large(), scope, receive, send)
        elif self.busy >= self.limits.at_once + self.limits.waiting:
            await _refuse(503, f"busy with {self.busy} requests, try again", scope, receive, send)
        else:
            self.busy += 1
            try:
                await self.app(scope, self._counted(receive), send)
            finally:
                self.busy -= 1

    def _counted(self, receive: Receive) -> Receive:
        """`receive` that counts bytes and seconds while a body arrives."""
        total, deadline, arriving = 0, time.monotonic() + self.limits.timeout, True

        async def counted() -> Message:
            nonlocal total, arriving
            try:
                left = max(0.0, deadline - time.monotonic()) if arriving else None
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise HTTPException(408, f"the upload took more than {self.limits.timeout:g} s") from None
            total += len(message.get("body", b""))
            arriving = arriving and bool(message.get("more_body"))
            if total > self.most_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"larger than {self.limits.max_mb:g} MB"


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
        return
    headers = {"Retry-After": "1"} if status == 503 else {"Connection": "close"}
    await JSONResponse({"detail": reason}, status, headers)(scope, receive, send)
