"""One video as resized frames: read, retried where the operating system failed, kept in a cache."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mdtnet.config import DataConfig
from mdtnet.data.annotations import Sample
from mdtnet.data.retries import with_retries
from mdtnet.data.transforms import resize_short
from mdtnet.data.video import read_clip, scaled_size, stamp
from mdtnet.errors import VideoError

log = logging.getLogger(__name__)
Change = Callable[[np.ndarray], np.ndarray]
PIXELS = 2
"""Raised whenever reading gives other pixels than before, so that no old cache is taken for a new one."""


def cached_frames(sample: Sample, data: DataConfig) -> np.ndarray:
    """All frames of a video, resized to `data.short_side`, uint8 `[N, H, W, 3]`; decoded the first time only.

    A file in the cache is named after the video's path, size and time of change, its part, the short side and how
    it is read, and appears whole or not at all, so that several processes can fill one cache. Unreadable videos leave
    nothing there.

    Raises:
        VideoError: as `read_clip`.
    """
    try:
        size, changed = stamp(sample.path)
    except OSError as error:
        raise VideoError(sample.path, "no such file") from error
    key = (sample.path, changed, size, sample.start, sample.end, data.short_side, data.backend, PIXELS)
    name = hashlib.sha1(repr(key).encode("utf-8", "surrogateescape")).hexdigest()
    path = os.path.join(data.cache, name[:2], f"{name}.npy")
    try:
        return np.load(path, mmap_mode="c")  # private: a tensor on it may be written to
    except (OSError, ValueError, EOFError):  # not there yet, or damaged
        pixels, _ = read_resized(sample, data, np.arange, None)
        _save_whole(path, pixels)
        return pixels


def _save_whole(path: str, pixels: np.ndarray) -> None:
    temporary = ""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(path), suffix=".part", delete=False) as file:
            temporary = file.name
            np.save(file, pixels)
        os.replace(temporary, path)
    except OSError as error:
        log.warning("%s: cannot be cached: %s", path, error.strerror)
        if temporary and os.path.exists(temporary):
            os.remove(temporary)


def whole(frames: np.ndarray) -> np.ndarray:
    return frames


def resized(frames: np.ndarray, short_side: int) -> np.ndarray:
    """[..., H, W, 3] -> [..., h, w, 3]; frames that have the size already are given back."""
    if scaled_size(frames.shape[-3:-1], short_side) == frames.shape[-3:-1]:
        return frames
    frames = np.ascontiguousarray(frames)  # torch is three times as slow where there are gaps between rows
    return resize_short(torch.from_numpy(frames).movedim(-1, -3), short_side).movedim(-3, -1).numpy()


def read_resized(
    sample: Sample, data: DataConfig, choose: Any, num_frames: int | None, cut: Change = whole
) -> tuple[np.ndarray, int]:
    return with_retries(
        lambda: read_clip(
            sample.path,
            choose,
            start=sample.start,
            end=sample.end,
            backend=data.backend,
            num_frames=num_frames,
            short_side=data.short_side,
            transform=lambda frame: cut(resized(frame, data.short_side)),
        )
    )
