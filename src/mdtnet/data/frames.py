"""One video as resized frames: read, retried where the operating system failed, kept in a cache."""

import hashlib
import logging
import os
import struct
import zlib
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import torch

from mdtnet.config import DataConfig
from mdtnet.data.annotations import Sample
from mdtnet.data.container import Part
from mdtnet.data.plan import OWN, Plans
from mdtnet.data.retries import with_retries
from mdtnet.data.rgb import scaled_size
from mdtnet.data.transforms import resize_short
from mdtnet.data.video import Reading, Request, Transform, read_frames, stamp
from mdtnet.errors import VideoError
from mdtnet.system.files import atomic_write, remove_leftovers

log = logging.getLogger(__name__)
PIXELS = 3
"""Increased whenever reading gives other pixels than before, so that old caches are not used."""
TRAILER = struct.Struct("<4sIII")
"""End of a cache file: MAGIC, checksum (CRC-32) of all before it, damaged frames, decoded frames."""
MAGIC = b"mdt1"


def cached_frames(sample: Sample, data: DataConfig, *, check: bool = True, plans: Plans = OWN) -> Reading:
    """All frames of a video, resized to `data.short_side`, uint8 `[N, H, W, 3]`; decoded the first time only.

    The name of a cache file depends on the video's path, size and time of change, its part, the short side and the way
    it is read. Files appear whole or not at all, so several processes can fill one cache. Unreadable videos leave no
    file. With `check` the pixels must have the checksum of the file, else it is made again.

    Raises:
        VideoError: as `read_frames`.
    """
    try:
        size, changed = stamp(sample.path)
    except OSError as error:
        raise VideoError(sample.path, "no such file") from error
    part = (sample.path, changed, size, sample.start, sample.end, sample.num_frames)
    key = (*part, data.short_side, data.backend, data.fps, data.frame_pattern, PIXELS)
    name = hashlib.sha1(repr(key).encode("utf-8", "surrogateescape")).hexdigest()
    path = os.path.join(data.cache, name[:2], f"{name}.npy")
    try:
        return _load(path, check=check)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s: damaged (%s), made again", path, error)
    reading = read_resized(sample, data, Request(np.arange, plans=plans))
    _save_whole(path, reading)
    return reading


def _load(path: str, *, check: bool) -> Reading:
    """A cache file.

    Raises:
        OSError, ValueError: missing or damaged.
    """
    content = np.memmap(path, dtype=np.uint8, mode="r")
    if len(content) <= TRAILER.size:
        raise ValueError("too short")
    magic, checksum, damaged, decoded = TRAILER.unpack(content[-TRAILER.size :].tobytes())
    if magic != MAGIC:
        raise ValueError("not a whole file of this cache")
    if check and zlib.crc32(content[: -TRAILER.size].data) != checksum:
        raise ValueError("its checksum is wrong")
    pixels = np.load(path, mmap_mode="c")  # copy-on-write: tensors over this array may be modified
    return Reading(pixels, len(pixels), damaged, decoded)


def _save_whole(path: str, reading: Reading) -> None:
    def write(file: BinaryIO) -> None:
        np.save(file, reading.pixels)
        file.flush()
        checksum = zlib.crc32(np.memmap(file.name, dtype=np.uint8, mode="r").data)
        file.write(TRAILER.pack(MAGIC, checksum, reading.damaged, reading.decoded))

    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        atomic_write(path, write, sync=False)  # a power cut is found by the checksum
    except OSError as error:
        log.warning("%s: cannot be cached: %s", path, error.strerror)


def clear_cache(folder: str) -> None:
    """Remove the temporary files in a cache whose writers were killed."""
    if os.path.isdir(folder):
        for path in os.scandir(folder):
            if path.is_dir():
                remove_leftovers(path.path)


def resize(frames: np.ndarray, short_side: int) -> np.ndarray:
    """Frames [..., H, W, 3] -> [..., h, w, 3] of this short side; frames of the right size are returned unchanged."""
    if scaled_size(frames.shape[-3:-1], short_side) == frames.shape[-3:-1]:
        return frames
    frames = np.ascontiguousarray(frames)  # torch is three times as slow where there are gaps between rows
    return resize_short(torch.from_numpy(frames).movedim(-1, -3), short_side).movedim(-3, -1).numpy()


def read_resized(sample: Sample, data: DataConfig, request: Request, crop: Transform | None = None) -> Reading:
    """`read_frames` of a sample, resized to `data.short_side` and cropped frame by frame; retried where that helps.

    `request` says which frames, and what is known of the video; the rest of it is set here.
    """

    def transform(frame: np.ndarray) -> np.ndarray:
        frame = resize(frame, data.short_side)
        return crop(frame) if crop else frame

    part = Part(sample.path, sample.start, sample.end)
    request = replace(
        request,
        short_side=data.short_side,
        transform=transform,
        fps=data.fps,
        frame_pattern=data.frame_pattern,
        listed=sample.num_frames,
        threads=data.decode_threads,
    )
    return with_retries(lambda: read_frames(part, request, backend=data.backend))
