"""Plain downloads: a file from an http address, resumed where an earlier attempt stopped."""

import logging
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

log = logging.getLogger(__name__)

CHUNK = 2**20
TRIES = 5
TIMEOUT_SECONDS = 60
PAUSE_SECONDS = 1.0  # before the second attempt; twice that before each later one

Progress = Callable[[int, int], None]
"""Called with the number of bytes so far and in all (0: not known)."""


class FetchError(Exception):
    """An address gave no file; `str(error)` is the reason, without the address."""


def fetch_part(url: str, part: Path, *, size: int = 0, progress: Progress | None = None) -> None:
    """Download `url` into `part`, which may hold the beginning already; `size` in bytes, 0 where it is not known.

    A server that cannot be reached, is too slow or stops in the middle is asked `TRIES` times; one that refuses, once.

    Raises:
        FetchError: there is no such file, an answer that is no file, or no whole answer after all attempts.
    """
    for attempt in range(TRIES):
        try:
            return _continue(url, part, size, progress)
        except (OSError, HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
            if refused or attempt == TRIES - 1:
                raise FetchError(str(getattr(error, "reason", error)) or type(error).__name__) from error
            log.warning("%s: %s; trying again", url, error)
            time.sleep(PAUSE_SECONDS * 2**attempt)


def _continue(url: str, part: Path, size: int, progress: Progress | None) -> None:
    """Append the missing end of a file; a server that cannot continue in the middle sends the whole file again."""
    have = part.stat().st_size if part.exists() else 0
    if size and have == size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise FetchError("answers with a web page instead of a file")
            _copy(answer, part, have if answer.status == 206 else 0, progress)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing after the last byte: the file is whole
            raise


def _copy(answer: HTTPResponse, part: Path, start: int, progress: Progress | None) -> None:
    length = int(answer.headers.get("Content-Length") or 0)
    total, done = (start + length if length else 0), start
    with open(part, "ab" if start else "wb") as file:
        while block := answer.read(CHUNK):
            file.write(block)
            done += len(block)
            if progress:
                progress(done, total)
    if done < total:
        raise ConnectionError(f"ended after {done} of {total} bytes")
