"""Reading that is tried again where the operating system failed, as on an unreliable network drive."""

import time
from collections.abc import Callable
from typing import TypeVar

from mdtnet.errors import VideoError

RETRIES = 2
RETRY_SECONDS = 0.1

T = TypeVar("T")


def with_retries(read: Callable[[], T]) -> T:
    """Result of `read()`, called up to three times while failures come from the operating system.

    Raises:
        VideoError: from the last call.
    """
    for _ in range(RETRIES):
        try:
            return read()
        except VideoError as error:
            if not _may_pass(error.__cause__):
                raise
            time.sleep(RETRY_SECONDS)
    return read()


def _may_pass(cause: BaseException | None) -> bool:
    """Whether the operating system caused the failure, so that another try can help."""
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError) and cause.errno is not None
