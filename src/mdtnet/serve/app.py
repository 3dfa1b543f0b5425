"""The web application: a page, `POST /v1/predict`, a WebSocket for webcams, `/healthz`."""

import asyncio
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

from fastapi import FastAPI, File, HTTPException, Query, UploadFile, WebSocket
from fastapi.responses import HTMLResponse

from mdtnet import __version__
from mdtnet.pages.page import environment
from mdtnet.serve.answers import REFUSALS, Answer, Health, LiveAnswer
from mdtnet.serve.camera import Camera
from mdtnet.serve.gate import Gate
from mdtnet.serve.service import NotAnswered, Service
from mdtnet.system.files import temporary_folder

TRY_AGAIN = 1013  # why a WebSocket is closed
HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
CSP = "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; \
media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""What the page may load: nothing from elsewhere."""

T = TypeVar("T")


def make_app(service: Service, *, loopback: bool = True) -> FastAPI:
    """The application around a network; `loopback`: only requests for this machine's own names are answered."""
    doors = _Doors(service)
    app = FastAPI(
        title="mdtnet",
        version=__version__,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=doors.lifespan,
    )
    app.add_middleware(Gate, limits=service.limits, loopback=loopback)
    app.add_api_route("/", doors.page, response_class=HTMLResponse, include_in_schema=False)
    app.add_api_route("/healthz", doors.healthz)
    refusals: dict[int | str, dict[str, object]] = {code: {"description": text} for code, text in REFUSALS.items()}
    app.add_api_route("/v1/predict", doors.predict, methods=["POST"], responses=refusals)
    app.add_api_websocket_route("/v1/live", doors.live)
    return app


class _Doors:
    """The functions behind the addresses."""

    def __init__(self, service: Service) -> None:
        self.service, self.limits = service, service.limits
        self.turns = asyncio.Semaphore(service.limits.at_once)
        self.cameras = 0

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Uploads lie in a folder that is removed at the end, or by the next server if this one is killed."""
        with temporary_folder(Path(tempfile.gettempdir())) as folder:
            self.folder = folder
            yield
            self.service.close()

    def page(self) -> HTMLResponse:
        nonce, about = secrets.token_urlsafe(12), self.service.description
        page = environment().get_template("serve.html")
        text = page.render(nonce=nonce, about=about, licence=self.service.model.licence, limits=self.limits)
        return HTMLResponse(text, headers={"Content-Security-Policy": CSP.format(nonce=nonce), **HEADERS})

    def healthz(self) -> Health:
        """Whether the server answers."""
        about = self.service.description
        return Health(
            status="ok", version=__version__, system=about.system, trunk=about.trunk, classes=len(about.classes)
        )

    async def predict(
        self,
        video: Annotated[UploadFile, File(description="a video file or a picture")],
        topk: Annotated[int, Query(ge=1, le=1000, description="classes in the answer")] = 5,
        clips: Annotated[int, Query(ge=1, le=10, description="clips that are averaged")] = 1,
        detail: Annotated[bool, Query(description="also salience over time, and a timeline if it is long")] = False,
    ) -> Answer:
        """Classify a video."""
        path = Path(self.folder, secrets.token_hex(8) + _suffix(video.filename or ""))
        try:
            await asyncio.to_thread(_keep, video, path)
            return await self._in_turn(
                lambda: self.service.predict(os.fspath(path), topk=topk, clips=clips, detail=detail)
            )
        except NotAnswered as error:
            raise HTTPException(error.status, str(error)) from None
        finally:
            path.unlink(missing_ok=True)

    async def live(self, socket: WebSocket) -> None:
        """JPEG pictures in, `LiveAnswer`s or `{"error": ...}` out."""
        await socket.accept()
        if self.cameras >= self.limits.cameras:
            await socket.close(TRY_AGAIN, "as many webcams as this server takes are on")
            return

        async def ask(pictures: tuple[bytes, ...]) -> LiveAnswer:
            return await self._in_turn(lambda: self.service.live(pictures))

        self.cameras += 1
        try:
            seconds = self.service.description.window_seconds
            await Camera(socket, ask, seconds=seconds, timeout=self.limits.timeout).run()
        finally:
            self.cameras -= 1

    async def _in_turn(self, work: Callable[[], T]) -> T:
        """`work` in a thread, when its turn comes."""
        try:
            await asyncio.wait_for(self.turns.acquire(), self.limits.timeout)
        except TimeoutError:
            raise NotAnswered(503, f"busy for {self.limits.timeout:g} s, try again") from None
        try:
            return await asyncio.to_thread(work)
        finally:
            self.turns.release()


def _suffix(name: str) -> str:
    """The ending of a file's name, if it is a plain one: pictures are known by it."""
    found = re.search(r"\.\w{1,5}$", name, re.ASCII)
    return found[0].lower() if found else ""


def _keep(video: UploadFile, path: Path) -> None:
    with open(path, "xb") as file:
        shutil.copyfileobj(video.file, file)
