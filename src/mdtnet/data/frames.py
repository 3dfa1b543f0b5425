"""One video as resized frames: read, retried where the operating system failed, kept in a cache."""

import hashlib
import logging
import os
import tempfile

import numpy as np
import torch

from mdtnet.config import DataConfig
from mdtnet.data.annotations import Sample
from mdtnet.data.retries import with_retries
from mdtnet.data.transforms import resize_short
from mdtnet.data.video import Choose, Transform, read_clip, scaled_size, stamp
from mdtnet.errors import VideoError

log = logging.getLogger(__name__)
PIXELS = 2
"""Increased whenever reading gives other pixels than before, so that old caches are not used."""


def cached_frames(sample: Sample, data: DataConfig) -> np.ndarray:
    """All frames of a video, resized to `data.short_side`, uint8 `[N, H, W, 3]`; decoded the first time only.

    The name of a cache file depends on the video's path, size and time of change, its part, the short side and the way
    it is read. Files appear whole or not at all, so several processes can fill one cache. Unreadable videos leave no
    file.

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
        return np.load(path, mmap_mode="c")  # copy-on-write: tensors over this array may be modified
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


def resize(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Frames [..., H, W, 3] -> [..., h, w, 3] of this short side; frames of the right size are returned unchanged."""
    if scaled_size(frames.shape[-3:-1], short_side) == frames.shape[-3:-1]:
        return frames
    frames = np.ascontiguousarray(frames)  # torch is three times as slow where there are gaps between rows
    return resize_short(torch.from_numpy(frames).movedim(-1, -3), short_side).movedim(-3, -1).numpy()


def read_resized(
    sample: Sample, data: DataConfig, choose: Choose, num_frames: int | None, crop: Transform | None = None
) -> tuple[np.ndarray, int]:
    """`read_clip` of a sample, resized to `data.short_side` and cropped frame by frame; retried where that can help."""

    def transform(frame: np.ndarray) -> np.ndarray:
        frame = resize(frame, data.short_side)
        return crop(frame) if crop else frame

    return with_retries(
        lambda: read_clip(
            sample.path,
            choose,
            start=sample.start,
            end=sample.end,
            backend=data.backend,
            num_frames=num_frames,
            short_side=data.short_side,
            transform=transform,
        )
    )
