"""Video file -> frames: count, exact access by index, and only the wanted frames converted to RGB.

Frame i is the i-th frame that decodes, in presentation order; nothing is believed that a header says. A
folder of JPEG or PNG files is read through the same functions as a video file.

A frame is converted to RGB while it is decoded, if it is chosen, and no frame is kept: memory does not grow with
the video, and the decoder's buffers stay in the processor's cache. What to choose depends on a number of frames
that nobody knows before the end, so that number is guessed from the file's packets; in the few files where decoding
proves the guess wrong, a second pass uses the right one.
"""

import importlib
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageOps

from mdtnet.data.suffixes import is_image
from mdtnet.errors import ConfigError, VideoError

SMALLEST_FRAME = 2  # bytes; AVI files of packed B-frames have packets of one byte that say nothing
PASSES = 3  # two suffice for a file that stays as it is
NONE_CHOSEN = np.empty(0, dtype=np.int64)
THREADS_FROM_PIXELS = 500_000  # starting threads costs more than it saves on smaller frames
MAX_THREADS = 8
LENIENT: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
"""For `av.open`: titles that are no UTF-8 do no harm. PyAV from 19 on reads them without being told."""
MAX_ASPECT = 8  # a longer strip is squeezed, so that 2 x 2000 pixels do not become 256 x 256000

Choose = Callable[[int], np.ndarray]
Transform = Callable[[np.ndarray], np.ndarray]


def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a video file, or of a folder and all frames in it.

    Raises:
        OSError: it is not there.
    """
    stats = [os.stat(path)]
    if os.path.isdir(path):
        stats += [entry.stat() for entry in os.scandir(path) if is_image(entry.name)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


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
        height, width = _one_size(path, (_read_image(path, name) for name in files))
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
    short_side: int | None = None,
    transform: Transform | None = None,
) -> tuple[np.ndarray, int]:
    """Read chosen frames of a video file or a folder of images.

    Args:
        choose: gets the number of frames and returns their indices, from 0, an integer array of any shape. It is
            called again with another number where the first one was a wrong guess.
        start, end: seconds after the first frame; frames are counted within [start, end).
        backend: `auto` and `pyav` are the same; `torchcodec`, where it is installed, gives the same frames.
        num_frames: what an earlier call returned, if any: decoding then stops at the last frame chosen.
        short_side: wanted in pixels. Where it is quicker, in the YUV frames that PyAV decodes, frames are scaled to
            `scaled_size` before they become RGB; all others keep their size, for `transform` to change.
        transform: applied to each chosen frame, uint8 `[H, W, 3]` -> uint8 `[h, w, 3]`, so that full-size
            frames need not be held together; rows of the frame, which is only lent, can have gaps between them.

    Returns:
        uint8 RGB `[*indices.shape, H, W, 3]`, turned upright, and the number of frames.

    Raises:
        VideoError: missing, empty, not a video, no video stream, no frames, or damaged on the way.
        ConfigError: `torchcodec` is wanted but cannot be used.
    """
    path = os.fspath(path)
    collect = partial(_Collected, short_side=short_side, transform=transform)
    if os.path.isdir(path):
        return _read_folder(path, choose, start, end, collect)
    if backend == "torchcodec":
        return _read_torchcodec(path, choose, start, end, num_frames, collect)
    return _read_pyav(path, choose, start, end, num_frames, collect)


def scaled_size(size: Sequence[int], short_side: int) -> tuple[int, int]:
    """Height and width of a frame whose shorter side becomes `short_side` pixels."""
    longest = short_side * MAX_ASPECT
    height, width = (min(round(side * (short_side / min(size))), longest) for side in size)
    return height, width


class _Collected:
    """Chosen frames, as they come, changed by `transform`: `pixels` is uint8 `[total, h, w, 3]` once all are here."""

    def __init__(self, total: int, *, short_side: int | None, transform: Transform | None) -> None:
        self.total, self.short_side, self.transform = total, short_side, transform
        self.done = 0
        self.pixels = np.empty(0, dtype=np.uint8)

    def add(self, frame: np.ndarray) -> None:
        """Take the next frame, `[H, W, 3]`, whose memory may be used again afterwards."""
        if self.transform:
            frame = self.transform(frame)
        if not self.done:
            self.pixels = np.empty((self.total, *frame.shape), dtype=np.uint8)
        self.pixels[self.done] = frame
        self.done += 1


Collect = Callable[[int], _Collected]


def check_backend(backend: str) -> None:
    """Raise ConfigError where `backend` cannot be used here."""
    if backend == "torchcodec":
        try:
            decoders = importlib.import_module("torchcodec.decoders")
            decoders.VideoDecoder(b"")  # new versions look for FFmpeg's libraries only now
        except (ImportError, RuntimeError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            if isinstance(error, ImportError | OSError) or "load" in reason:
                raise ConfigError(f"backend is 'torchcodec', which does not load here: {reason}") from error


def _read_pyav(
    path: str,
    choose: Choose,
    start: float | None,
    end: float | None,
    num_frames: int | None,
    collect: Collect,
) -> tuple[np.ndarray, int]:
    if num_frames is not None:
        indices, wanted, inverse = _chosen(choose, num_frames)
        pixels, _ = _convert(path, start, end, wanted, collect, to_end=False)
        if pixels is not None:
            return _arranged(pixels, indices, inverse), num_frames
    guess, pixels = _guess_frames(path, start, end), None  # and after the above: the file is not what it was
    for _ in range(PASSES):
        indices, wanted, inverse = _chosen(choose, guess) if guess else (NONE_CHOSEN,) * 3
        pixels, count = _convert(path, start, end, wanted, collect, to_end=True)
        if count == 0:
            raise _nothing(path, start, end)
        if count == guess and pixels is not None:
            return _arranged(pixels, indices, inverse), count
        guess = count
    raise VideoError(path, "changes while it is read")


def _guess_frames(path: str, start: float | None, end: float | None) -> int:
    """Number of packets that look like a frame, without decoding them; wrong where a file is unusual or damaged."""
    try:
        with _open(path) as (container, stream):
            packets = (p for p in container.demux(stream) if p.size >= SMALLEST_FRAME and not p.is_discard)
            if start is None and end is None:
                return sum(1 for _ in packets)
            times = _packet_seconds(packets, stream, end)
    except av.FFmpegError:
        return 0  # decoding will tell the reason
    first = min(times, default=0.0)
    return sum(_inside(time - first, start, end) for time in times)


def _packet_seconds(packets: Iterable[av.Packet], stream: Any, end: float | None) -> list[float]:
    """Times at which packets are shown, in seconds, in the order of the file, until all that follow are after `end`."""
    times: list[float] = []
    for packet in packets:
        times.append(_seconds(packet, stream, len(times)))
        if end is not None and packet.dts is not None and packet.dts * packet.time_base > times[0] + end:
            break
    return times


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


def _convert(
    path: str,
    start: float | None,
    end: float | None,
    wanted: np.ndarray,
    collect: Collect,
    *,
    to_end: bool,
) -> tuple[np.ndarray | None, int]:
    """RGB of the frames at the sorted positions `wanted`, and the number of frames decoded.

    The pixels are None where the frames end before the last one wanted. Without `to_end` decoding stops there.
    """
    scale, convert = VideoReformatter(), VideoReformatter()
    size: tuple[int, int] | None = None
    found, count = collect(len(wanted)), 0
    with _open(path) as (container, stream):
        for frame in _frames(path, container, stream, start, end):
            count += 1
            size = size or _size(frame, found.short_side)  # later frames can differ: they are scaled to the first
            if found.done == len(wanted) or count - 1 != wanted[found.done]:
                continue
            found.add(_to_rgb(frame, scale, convert, size))
            if found.done == len(wanted) and not to_end:
                break
    return (found.pixels if found.done == len(wanted) else None), count


def _size(frame: av.VideoFrame, short_side: int | None) -> tuple[int, int]:
    """Height and width that a frame becomes RGB with."""
    if short_side and frame.format.name.startswith("yuv"):
        return scaled_size((frame.height, frame.width), short_side)
    return frame.height, frame.width


def _to_rgb(
    frame: av.VideoFrame, scale: VideoReformatter, convert: VideoReformatter, size: tuple[int, int]
) -> np.ndarray:
    """RGB `[H, W, 3]`, turned upright; a view of memory whose rows can have gaps between them."""
    turns = round(frame.rotation / 90)
    form = frame.format.name if frame.format.name.startswith("yuv") else "rgb24"
    # In two steps, for each of which swscale has fast code, which it has not for both in one: that takes twice as long.
    frame = scale.reformat(frame, size[1], size[0], form, interpolation="BILINEAR", threads=1)
    array = convert.reformat(frame, format="rgb24", interpolation="FAST_BILINEAR", threads=1).to_ndarray()
    return np.rot90(array, turns) if turns else array


@contextmanager
def _open(path: str) -> Iterator[tuple[Any, Any]]:
    """Open a file and its video stream: the first one that is not a cover picture."""
    try:
        if os.path.getsize(path) == 0:
            raise VideoError(path, "empty file")
        container = av.open(path, **LENIENT)
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
                if end is not None and seconds - origin >= end - 1e-6:
                    return
                if not _inside(seconds - origin, start, end):
                    continue
            yield frame
    except (av.FFmpegError, OSError) as error:
        reason = f"truncated after {count} frames" if count else "cannot be decoded"
        raise VideoError(path, f"{reason}: {_short(error)}") from error


def _inside(seconds: float, start: float | None, end: float | None) -> bool:
    """Whether a time after the first frame's is in [start, end)."""
    return (start is None or seconds >= start - 1e-6) and (end is None or seconds < end - 1e-6)


def _seconds(timed: av.VideoFrame | av.Packet, stream: Any, position: int) -> float:
    if timed.pts is not None and timed.time_base:
        return float(timed.pts * timed.time_base)
    return position / float(stream.average_rate or 25)


def _nothing(path: str, start: float | None, end: float | None) -> VideoError:
    if start is None and end is None:
        return VideoError(path, "no frames")
    return VideoError(path, f"no frames between {start or 0:g} s and {'its end' if end is None else f'{end:g} s'}")


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _read_folder(
    path: str, choose: Choose, start: float | None, end: float | None, collect: Collect
) -> tuple[np.ndarray, int]:
    files = _frame_files(path, start, end)
    indices, wanted, inverse = _chosen(choose, len(files))
    frames = [_read_image(path, files[i]) for i in wanted]
    _one_size(path, frames)
    return _arranged(_all_of(frames, collect), indices, inverse), len(files)


def _one_size(path: str, frames: Iterable[np.ndarray]) -> tuple[int, int]:
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        raise VideoError(path, f"frames of different sizes, {sizes[0]} and {sizes[1]}")
    return sizes[0]


def _all_of(frames: Sequence[np.ndarray] | np.ndarray, collect: Collect) -> np.ndarray:
    found = collect(len(frames))
    for frame in frames:
        found.add(frame)
    return found.pixels


def _frame_files(path: str, start: float | None, end: float | None) -> list[str]:
    """Image files in the order of the numbers in their names: frame2 comes before frame10."""
    if start is not None or end is not None:
        raise VideoError(path, "a folder of frames has no times: start and end cannot be used")
    files = [entry.name for entry in os.scandir(path) if is_image(entry.name)]
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
    path: str, choose: Choose, start: float | None, end: float | None, num_frames: int | None, collect: Collect
) -> tuple[np.ndarray, int]:
    """The same frames by torchcodec, where its numbering can be trusted.

    It numbers packets, not decoded frames; where both differ in number (AVI with packed B-frames), and for
    parts of a video, PyAV reads the file.
    """
    check_backend("torchcodec")
    decoders = importlib.import_module("torchcodec.decoders")
    num_frames = num_frames or probe(path).num_frames
    try:
        decoder = decoders.VideoDecoder(path, seek_mode="exact", dimension_order="NHWC")
        if len(decoder) != num_frames or start is not None or end is not None:
            return _read_pyav(path, choose, start, end, None, collect)
        indices, wanted, inverse = _chosen(choose, num_frames)
        pixels = decoder.get_frames_at(wanted.tolist()).data.numpy()
    except RuntimeError as error:
        raise VideoError(path, f"torchcodec: {_short(error)}") from error
    return _arranged(_all_of(pixels, collect), indices, inverse), num_frames
