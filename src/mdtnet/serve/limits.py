"""What a server takes before it refuses."""

from dataclasses import dataclass

LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no other machine can reach."""


@dataclass(frozen=True)
class Limits:
    """Bounds of every request, so that no client can take the machine."""

    max_mb: float = 200.0
    """Megabytes (10^6 bytes) of an upload, counted while they arrive."""
    max_seconds: float = 600.0
    """Duration of a video."""
    at_once: int = 2
    """Requests that are worked on at once; each has a decoder process."""
    waiting: int = 8
    """Requests that may wait beside these; more are refused with 503."""
    cameras: int = 2
    """Webcams at once."""
    timeout: float = 60.0
    """Seconds for an upload to arrive, again for its turn to come, and again to read it."""
