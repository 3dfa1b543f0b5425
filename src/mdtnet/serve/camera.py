"""A webcam over a WebSocket: JPEG pictures come as fast as its page sends them, answers go as fast as they are made."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from fastapi import WebSocket, WebSocketDisconnect

from mdtnet.serve.answers import LiveAnswer
from mdtnet.serve.service import NotAnswered

FEWEST, MOST = 8, 300
"""Pictures before the first answer, and of one answer at most."""
POLICY = 1008  # why a WebSocket is closed, RFC 6455

Ask = Callable[[tuple[bytes, ...]], Awaitable[LiveAnswer]]


class Camera:
    """The last seconds of a webcam."""

    def __init__(self, socket: WebSocket, ask: Ask, *, seconds: float, timeout: float) -> None:
        """`ask` gives the answer about the pictures of the last `seconds`; a page that sends none for `timeout` seconds
        is closed."""
        self.socket, self.ask, self.seconds, self.timeout = socket, ask, seconds, timeout
        self._kept: deque[tuple[float, bytes]] = deque(maxlen=MOST)
        self._new = asyncio.Event()

    async def run(self) -> None:
        """Until the page goes away or is closed."""
        tasks = [asyncio.create_task(self._take()), asyncio.create_task(self._answer())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):  # it is gone while we send
                await task

    async def _take(self) -> None:
        while True:
            try:
                picture = await asyncio.wait_for(self.socket.receive_bytes(), self.timeout)
            except (TimeoutError, KeyError):  # KeyError: a text
                await self.socket.close(POLICY, f"no picture for {self.timeout:g} s, or a text")
                return
            now = time.monotonic()
            self._kept.append((now, picture))
            while now - self._kept[0][0] > self.seconds:
                self._kept.popleft()
            self._new.set()

    async def _answer(self) -> None:
        while True:
            await self._new.wait()
            self._new.clear()
            if len(self._kept) < FEWEST:
                continue
            try:
                answer = await self.ask(tuple(picture for _, picture in self._kept))
                await self.socket.send_text(answer.model_dump_json(by_alias=True))
            except NotAnswered as error:
                self._kept.clear()
                await self.socket.send_json({"error": str(error)})
