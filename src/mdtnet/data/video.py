"""Video file -> frames: count, exact access by index, and only the wanted frames converted to RGB.

Frame i is the i-th frame that decodes, in presentation order; nothing is believed that a header says. A
folder of JPEG or PNG files is read through the same functions as a video file.

Decoding is cheap and conversion to RGB is not, so all frames are decoded, kept as the decoder's own (small,
reference counted) buffers, and converted only where chosen. Videos too long for that are decoded twice.
"""

import importlib
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from mdtnet.errors import ConfigError, VideoError

KEEP_BYTES = 256 * 2**20  # decoded frames held at once; above it a video is decoded twice
THREADS_FROM_PIXELS = 500_000  # starting threads costs more than it saves on smaller frames
MAX_THREADS = 8
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

Choose = Callable[[int], np.ndarray]
Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class VideoInfo:
    """What a video really holds: frames that decode and their size in pixels after rotation.

    `fps` is None where the file does not say. `rotation`, in degrees counter-clockwise, is applied in the
    size.
    """

    num_frames: int
    height: int
    width: int
    fps: float | None
    codec: str
    rotation: int


def probe(path: str | os.PathLike, *, start: float | None = None, end: float | None = None) -> VideoInfo:
    """Decode a whole video (or its part from `start` to `end`, in seconds) and say what it holds.

    Raises:
        VideoError: as `read_clip`.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        files = _frame_files(path, start, end)
        height, width = _read_image(path, files[0]).shape[:2]
        return VideoInfo(len(files), height, width, None, os.path.splitext(files[0])[1][1:].lower(), 0)
    with _open(path) as (container, stream):
        count, first = 0, None
        for frame in _frames(path, container, stream, start, end):
            first = first or frame
            count += 1
        if first is None:
            raise _nothing(path, start, end)
        height, width = first.height, first.width
        if first.rotation % 180:
            height, width = width, height
        fps = float(stream.average_rate) if stream.average_rate else None
        return VideoInfo(count, height, width, fps, stream.codec_context.name, first.rotation)


def read_clip(
    path: str | os.PathLike,
    choose: Choose,
    *,
    start: float | None = None,
    end: float | None = None,
    backend: str = "auto",
    num_frames: int | None = None,
    transform: Transform | None = None,
) -> tuple[np.ndarray, int]:
    """Read chosen frames of a video file or a folder of images.

    Args:
        choose: gets the number of frames and returns their indices, from 0, an integer array of any shape.
        start, end: seconds after the first frame; frames are counted within [start, end).
        backend: `auto` and `pyav` are the same; `torchcodec`, where it is installed, gives the same frames.
        num_frames: what an earlier call returned, if any: decoding then stops at the last frame chosen.
        transform: applied to each chosen frame, uint8 `[H, W, 3]` -> uint8 `[h, w, 3]`, so that full-size
            frames need not be held together.

    Returns:
        uint8 RGB `[*indices.shape, H, W, 3]`, turned upright, and the number of frames.

    Raises:
        VideoError: missing, empty, not a video, no video stream, no frames, or damaged on the way.
        ConfigError: `torchcodec` is wanted but cannot be used.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        return _read_folder(path, choose, start, end, transform)
    if backend == "torchcodec":
        return _read_torchcodec(path, choose, start, end, transform)
    return _read_pyav(path, choose, start, end, num_frames, transform)


def check_backend(backend: str) -> None:
    """Raise ConfigError where `backend` cannot be used here."""
    if backend == "torchcodec":
        try:
            importlib.import_module("torchcodec.decoders")
        except (ImportError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"backend is 'torchcodec', which does not load here: {reason}") from error


def _read_pyav(
    path: str,
    choose: Choose,
    start: float | None,
    end: float | None,
    num_frames: int | None,
    transform: Transform | None,
) -> tuple[np.ndarray, int]:
    kept: list[av.VideoFrame] | None = None
    known = num_frames
    if num_frames is None:
        kept, num_frames = _decode_all(path, start, end)
    indices, wanted, inverse = _chosen(choose, num_frames)
    if kept is not None:
        pixels = _convert(kept, wanted, transform)
    else:
        with _open(path) as (container, stream):
            pixels = _convert(_frames(path, container, stream, start, end), wanted, transform)
    if pixels is None:
        if known is None:
            raise VideoError(path, "changed while it was read")
        return _read_pyav(path, choose, start, end, None, transform)  # the file is not what it was
    return _arranged(pixels, indices, inverse), num_frames


def _decode_all(path: str, start: float | None, end: float | None) -> tuple[list[av.VideoFrame] | None, int]:
    """All frames, or None where they are too large to hold, and their number."""
    kept: list[av.VideoFrame] | None = []
    count = held = 0
    with _open(path) as (container, stream):
        for frame in _frames(path, container, stream, start, end):
            count += 1
            if kept is not None:
                kept.append(frame)
                held += sum(plane.buffer_size for plane in frame.planes)
                if held > KEEP_BYTES:
                    kept = None
    if count == 0:
        raise _nothing(path, start, end)
    return kept, count


def _chosen(choose: Choose, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    indices = np.asarray(choose(num_frames))
    wanted, inverse = np.unique(indices, return_inverse=True)
    if wanted[0] < 0 or wanted[-1] >= num_frames:
        raise IndexError(f"frames {wanted[0]} to {wanted[-1]} chosen of a video of {num_frames}")
    return indices, wanted, inverse.reshape(-1)


def _arranged(pixels: np.ndarray, indices: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """The pixels of the sorted unique frames `[U, H, W, 3]` in the order and shape of `indices`."""
    if not np.array_equal(inverse, np.arange(len(pixels))):
        pixels = pixels[inverse]
    return pixels.reshape(indices.shape + pixels.shape[1:])


def _convert(frames: Iterable[av.VideoFrame], wanted: np.ndarray, transform: Transform | None) -> np.ndarray | None:
    """RGB of the frames at the sorted positions `wanted`, or None where the frames end before the last."""
    reformatter = VideoReformatter()
    size: tuple[int, int] | None = None
    pixels: np.ndarray | None = None
    done = 0
    for i, frame in enumerate(frames):
        size = size or (frame.width, frame.height)  # later frames can differ: they are scaled to the first
        if i != wanted[done]:
            continue
        rgb = _to_rgb(frame, reformatter, *size)
        rgb = transform(rgb) if transform else rgb
        if pixels is None:
            pixels = np.empty((len(wanted), *rgb.shape), dtype=np.uint8)
        pixels[done] = rgb
        done += 1
        if done == len(wanted):
            return pixels
    return None


def _to_rgb(frame: av.VideoFrame, reformatter: VideoReformatter, width: int, height: int) -> np.ndarray:
    # At an unchanged size the flags alter nothing but the time taken.
    rgb = reformatter.reformat(
        frame, width=width, height=height, format="rgb24", interpolation="FAST_BILINEAR", threads=1
    )
    array = rgb.to_ndarray()
    turns = round(frame.rotation / 90)
    return np.ascontiguousarray(np.rot90(array, turns)) if turns else array


@contextmanager
def _open(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a file and its video stream: the first one that is not a cover picture."""
    try:
        if os.path.getsize(path) == 0:
            raise VideoError(path, "empty file")
        container = av.open(path, metadata_errors="ignore")
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except av.error.InvalidDataError as error:
        raise VideoError(path, "not a video, or damaged at its start") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, f"cannot be opened: {_short(error)}") from error
    with container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(path, "no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise VideoError(path, "no decoder for its codec")
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _num_threads(stream.codec_context)
        yield container, stream


def _num_threads(codec: Any) -> int:
    in_worker = multiprocessing.parent_process() is not None
    if in_worker or codec.width * codec.height < THREADS_FROM_PIXELS:
        return 1
    return min(os.cpu_count() or 1, MAX_THREADS)


def _frames(path: str, container: Any, stream: Any, start: float | None, end: float | None) -> Iterator[av.VideoFrame]:
    """Decoded frames whose time after the first frame lies in [start, end)."""
    count = 0
    origin: float | None = None
    try:
        for frame in container.decode(stream):
            count += 1
            if start is not None or end is not None:
                seconds = _seconds(frame, stream, count - 1)
                origin = seconds if origin is None else origin
                if start is not None and seconds - origin < start - 1e-6:
                    continue
                if end is not None and seconds - origin >= end - 1e-6:
                    return
            yield frame
    except (av.FFmpegError, OSError) as error:
        reason = f"truncated after {count} frames" if count else "cannot be decoded"
        raise VideoError(path, f"{reason}: {_short(error)}") from error


def _seconds(frame: av.VideoFrame, stream: Any, position: int) -> float:
    if frame.pts is not None and frame.time_base:
        return float(frame.pts * frame.time_base)
    return position / float(stream.average_rate or 25)


def _nothing(path: str, start: float | None, end: float | None) -> VideoError:
    if start is None and end is None:
        return VideoError(path, "no frames")
    return VideoError(path, f"no frames between {start or 0:g} s and {'its end' if end is None else f'{end:g} s'}")


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _read_folder(
    path: str, choose: Choose, start: float | None, end: float | None, transform: Transform | None
) -> tuple[np.ndarray, int]:
    files = _frame_files(path, start, end)
    indices, wanted, inverse = _chosen(choose, len(files))
    frames = [_read_image(path, files[i]) for i in wanted]
    shapes = sorted({frame.shape for frame in frames})
    if len(shapes) > 1:
        raise VideoError(path, f"frames of different sizes, {shapes[0][:2]} and {shapes[1][:2]}")
    pixels = np.stack([transform(frame) for frame in frames] if transform else frames)
    return _arranged(pixels, indices, inverse), len(files)


def _frame_files(path: str, start: float | None, end: float | None) -> list[str]:
    """Image files in the order of the numbers in their names: frame2 comes before frame10."""
    if start is not None or end is not None:
        raise VideoError(path, "a folder of frames has no times: start and end cannot be used")
    files = [entry.name for entry in os.scandir(path) if entry.name.lower().endswith(IMAGE_SUFFIXES)]
    if not files:
        raise VideoError(path, "no frames (.jpg or .png) in this folder")
    return sorted(files, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])


def _read_image(folder: str, name: str) -> np.ndarray:
    try:
        with Image.open(os.path.join(folder, name)) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoError(folder, f"frame {name} cannot be read") from error


def _read_torchcodec(
    path: str, choose: Choose, start: float | None, end: float | None, transform: Transform | None
) -> tuple[np.ndarray, int]:
    """The same frames by torchcodec, where its numbering can be trusted.

    It numbers packets, not decoded frames; where both differ in number (AVI with packed B-frames), and for
    parts of a video, PyAV reads the file.
    """
    check_backend("torchcodec")
    decoders = importlib.import_module("torchcodec.decoders")
    num_frames = probe(path).num_frames
    try:
        decoder = decoders.VideoDecoder(path, seek_mode="exact", dimension_order="NHWC")
        if len(decoder) != num_frames or start is not None or end is not None:
            return _read_pyav(path, choose, start, end, None, transform)
        indices, wanted, inverse = _chosen(choose, num_frames)
        pixels = decoder.get_frames_at(wanted.tolist()).data.numpy()
    except RuntimeError as error:
        raise VideoError(path, f"torchcodec: {_short(error)}") from error
    if transform:
        pixels = np.stack([transform(frame) for frame in pixels])
    return _arranged(pixels, indices, inverse), num_frames
