"""Video file -> frames: count, exact access by index, and only the wanted frames converted to RGB.

Frame i is the i-th frame that decodes, in presentation order; headers are never trusted. A folder of JPEG or PNG files
is read through the same functions as a video file.

A chosen frame is converted to RGB while it is decoded, and no frame is kept: memory does not grow with the video, and
the decoder's buffers stay in the processor's cache. The choice depends on the number of frames, which is only known at
the end; so it is guessed from the file's packets, and in the few files where decoding proves the guess wrong, a second
pass uses the right number.
"""

import importlib
import multiprocessing
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from PIL import Image, ImageOps

from mdtnet.data.suffixes import is_image
from mdtnet.errors import ConfigError, VideoError

SMALLEST_FRAME = 2  # bytes; AVI files of packed B-frames have packets of one byte without a frame
PASSES = 3  # two suffice for a file that does not change
THREADS_FROM_PIXELS = 500_000  # starting threads costs more than it saves on smaller frames
MAX_THREADS = 8
MAX_ASPECT = 8  # a longer strip is squeezed, so that 2 x 2000 pixels do not become 256 x 256000

Choose = Callable[[int], np.ndarray]
Transform = Callable[[np.ndarray], np.ndarray]


def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a video file, or of a folder with all its frames.

    Raises:
        OSError: there is no such file or folder.
    """
    stats = [os.stat(path)]
    if os.path.isdir(path):
        stats += [entry.stat() for entry in os.scandir(path) if is_image(entry.name)]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


@dataclass(frozen=True)
class Part:
    """A video, or its part in seconds after the first frame, [start, end); None: its own start or end."""

    path: str
    start: float | None = None
    end: float | None = None

    @property
    def whole(self) -> bool:
        return self.start is None and self.end is None

    def has(self, seconds: float) -> bool:
        """Whether the time after the first frame lies in the part."""
        return (self.start is None or seconds >= self.start - 1e-6) and not self.is_over(seconds)

    def is_over(self, seconds: float) -> bool:
        return self.end is not None and seconds >= self.end - 1e-6

    def no_frames(self) -> VideoError:
        if self.whole:
            return VideoError(self.path, "no frames")
        end = "its end" if self.end is None else f"{self.end:g} s"
        return VideoError(self.path, f"no frames between {self.start or 0:g} s and {end}")


@dataclass(frozen=True)
class VideoInfo:
    """Facts from decoding: number of frames and their size in pixels after rotation.

    `fps` is None where the file has none. `rotation`, in degrees counter-clockwise, is included in the size.
    """

    num_frames: int
    height: int
    width: int
    fps: float | None
    codec: str
    rotation: int


def probe(path: str | os.PathLike, *, start: float | None = None, end: float | None = None) -> VideoInfo:
    """Decode a whole video, or its part from `start` to `end` in seconds, and describe it.

    Raises:
        VideoError: as `read_clip`.
    """
    path = os.fspath(path)
    part = Part(path, start, end)
    if os.path.isdir(path):
        files = _frame_files(part)
        height, width = _one_size(path, (_read_image(path, name) for name in files))
        return VideoInfo(len(files), height, width, None, os.path.splitext(files[0])[1][1:].lower(), 0)
    with _open(path) as (container, stream):
        count, first = 0, None
        for frame in _frames(part, container, stream):
            first = first or frame
            count += 1
        if first is None:
            raise part.no_frames()
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
        choose: maps the number of frames to the indices of the wanted ones, from 0, an integer array of any shape. It
            is called again with another number where the first was a wrong guess.
        start, end: seconds after the first frame; frames are counted within [start, end).
        backend: `auto` and `pyav` are the same; `torchcodec`, where it is installed, gives the same frames.
        num_frames: returned by an earlier call, if any: decoding then stops at the last chosen frame.
        short_side: in pixels. Where that is quicker (YUV frames decoded by PyAV), frames are scaled to `scaled_size`
            before they become RGB; all others keep their size, for `transform` to change.
        transform: applied to each chosen frame, uint8 `[H, W, 3]` -> uint8 `[h, w, 3]`, so that full-size frames are
            never held together. It may not keep the frame; rows of the frame can have gaps between them.

    Returns:
        uint8 RGB `[*indices.shape, H, W, 3]`, turned upright, and the number of frames.

    Raises:
        VideoError: missing, empty, not a video, no video stream, no frames, or damaged.
        ConfigError: `torchcodec` is wanted but cannot be used.
    """
    part = Part(os.fspath(path), start, end)
    request = Request(choose, num_frames, short_side, transform)
    if os.path.isdir(part.path):
        return _read_folder(part, request)
    if backend == "torchcodec":
        return _read_torchcodec(part, request)
    return _read_pyav(part, request)


def scaled_size(size: Sequence[int], short_side: int) -> tuple[int, int]:
    """Height and width of a frame whose shorter side becomes `short_side` pixels."""
    longest = short_side * MAX_ASPECT
    height, width = (min(round(side * (short_side / min(size))), longest) for side in size)
    return height, width


@dataclass(frozen=True)
class Request:
    """Wanted frames: arguments of `read_clip`, explained there."""

    choose: Choose
    num_frames: int | None
    short_side: int | None
    transform: Transform | None

    def chosen(self, num_frames: int) -> "Chosen":
        """The choice among `num_frames` frames."""
        indices = np.asarray(self.choose(num_frames))
        wanted, inverse = np.unique(indices, return_inverse=True)
        if wanted[0] < 0 or wanted[-1] >= num_frames:
            raise IndexError(f"frames {wanted[0]} to {wanted[-1]} chosen of a video of {num_frames}")
        return Chosen(indices.shape, wanted, inverse.reshape(-1))


@dataclass(frozen=True)
class Chosen:
    """Chosen frames: `wanted` are their indices, each once and sorted; `inverse` puts these into the chosen order."""

    shape: tuple[int, ...]
    wanted: np.ndarray
    inverse: np.ndarray

    def arrange(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of the `wanted` frames `[U, H, W, 3]` in the chosen order and shape, `[*shape, H, W, 3]`."""
        if not np.array_equal(self.inverse, np.arange(len(pixels))):
            pixels = pixels[self.inverse]
        return pixels.reshape(self.shape + pixels.shape[1:])


NO_FRAMES = Chosen((0,), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


class _Collector:
    """Collects chosen frames, changed by `transform`: `pixels` is uint8 `[total, h, w, 3]` once all are there."""

    def __init__(self, total: int, transform: Transform | None) -> None:
        self.total, self.transform = total, transform
        self.done = 0
        self.pixels = np.empty(0, dtype=np.uint8)

    def add(self, frame: np.ndarray) -> None:
        """Copy the next frame, `[H, W, 3]`."""
        if self.transform:
            frame = self.transform(frame)
        if not self.done:
            self.pixels = np.empty((self.total, *frame.shape), dtype=np.uint8)
        self.pixels[self.done] = frame
        self.done += 1

    @property
    def full(self) -> bool:
        return self.done == self.total


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


def _read_pyav(part: Part, request: Request) -> tuple[np.ndarray, int]:
    if request.num_frames is not None:
        chosen = request.chosen(request.num_frames)
        pixels, _ = _decode(part, request, chosen.wanted, to_end=False)
        if pixels is not None:
            return chosen.arrange(pixels), request.num_frames
    guess = _guess_frames(part)  # after a wrong `num_frames`, too: the file has changed
    for _ in range(PASSES):
        chosen = request.chosen(guess) if guess else NO_FRAMES
        pixels, count = _decode(part, request, chosen.wanted, to_end=True)
        if count == 0:
            raise part.no_frames()
        if count == guess and pixels is not None:
            return chosen.arrange(pixels), count
        guess = count
    raise VideoError(part.path, "changes while it is read")


def _guess_frames(part: Part) -> int:
    """Number of packets that look like a frame, without decoding them; wrong where a file is unusual or damaged."""
    try:
        with _open(part.path) as (container, stream):
            packets = (p for p in container.demux(stream) if p.size >= SMALLEST_FRAME and not p.is_discard)
            if part.whole:
                return sum(1 for _ in packets)
            times = _packet_seconds(packets, stream, part.end)
    except av.FFmpegError:
        return 0  # decoding will find the reason
    first = min(times, default=0.0)
    return sum(part.has(time - first) for time in times)


def _packet_seconds(packets: Iterable[av.Packet], stream: VideoStream, end: float | None) -> list[float]:
    """Presentation times of packets in seconds, in the order of the file, until all that follow are after `end`."""
    times: list[float] = []
    for packet in packets:
        times.append(_seconds(packet, stream, len(times)))
        if end is not None and packet.dts is not None and packet.dts * packet.time_base > times[0] + end:
            break
    return times


def _decode(part: Part, request: Request, wanted: np.ndarray, *, to_end: bool) -> tuple[np.ndarray | None, int]:
    """RGB of the frames at the sorted positions `wanted`, and the number of frames decoded.

    The pixels are None where the frames end before the last one wanted. Without `to_end` decoding stops there.
    """
    scale, convert = VideoReformatter(), VideoReformatter()
    size: tuple[int, int] | None = None
    found, count = _Collector(len(wanted), request.transform), 0
    with _open(part.path) as (container, stream):
        for frame in _frames(part, container, stream):
            count += 1
            size = size or _size(frame, request.short_side)  # later frames can differ: they are scaled to the first
            if found.full or count - 1 != wanted[found.done]:
                continue
            found.add(_to_rgb(frame, scale, convert, size))
            if found.full and not to_end:
                break
    return (found.pixels if found.full else None), count


def _size(frame: av.VideoFrame, short_side: int | None) -> tuple[int, int]:
    """Height and width in pixels of a frame when it becomes RGB."""
    if short_side and frame.format.name.startswith("yuv"):
        return scaled_size((frame.height, frame.width), short_side)
    return frame.height, frame.width


def _to_rgb(
    frame: av.VideoFrame, scale: VideoReformatter, convert: VideoReformatter, size: tuple[int, int]
) -> np.ndarray:
    """RGB `[H, W, 3]`, turned upright; a view of memory whose rows can have gaps between them."""
    turns = round(frame.rotation / 90)
    form = frame.format.name if frame.format.name.startswith("yuv") else "rgb24"
    # Scale first, then convert: swscale has a fast path for each step, none for both at once (twice as slow).
    frame = scale.reformat(frame, size[1], size[0], form, interpolation="BILINEAR", threads=1)
    array = convert.reformat(frame, format="rgb24", interpolation="FAST_BILINEAR", threads=1).to_ndarray()
    return np.rot90(array, turns) if turns else array


def open_container(path: str) -> InputContainer:
    """Open a file with FFmpeg; titles that are not UTF-8 do no harm."""
    if int(av.__version__.split(".")[0]) >= 19:  # needs no option for that
        return av.open(path, "r")
    return av.open(path, "r", metadata_errors="ignore")


@contextmanager
def _open(path: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its video stream: the first that is not a cover picture."""
    try:
        if os.path.getsize(path) == 0:
            raise VideoError(path, "empty file")
        container = open_container(path)
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


def _num_threads(codec: VideoCodecContext) -> int:
    in_worker = multiprocessing.parent_process() is not None
    if in_worker or codec.width * codec.height < THREADS_FROM_PIXELS:
        return 1
    return min(os.cpu_count() or 1, MAX_THREADS)


def _frames(part: Part, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Decoded frames of a part."""
    count = 0
    origin: float | None = None
    try:
        for frame in container.decode(stream):
            count += 1
            if not part.whole:
                seconds = _seconds(frame, stream, count - 1)
                origin = seconds if origin is None else origin
                if part.is_over(seconds - origin):
                    return
                if not part.has(seconds - origin):
                    continue
            yield frame
    except (av.FFmpegError, OSError) as error:
        reason = f"truncated after {count} frames" if count else "cannot be decoded"
        raise VideoError(part.path, f"{reason}: {_short(error)}") from error


def _seconds(timed: av.VideoFrame | av.Packet, stream: VideoStream, position: int) -> float:
    if timed.pts is not None and timed.time_base:
        return float(timed.pts * timed.time_base)
    return position / float(stream.average_rate or 25)


def _short(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _read_folder(part: Part, request: Request) -> tuple[np.ndarray, int]:
    files = _frame_files(part)
    chosen = request.chosen(len(files))
    frames = [_read_image(part.path, files[i]) for i in chosen.wanted]
    _one_size(part.path, frames)
    return chosen.arrange(_collect(frames, request.transform)), len(files)


def _one_size(path: str, frames: Iterable[np.ndarray]) -> tuple[int, int]:
    sizes = sorted({frame.shape[:2] for frame in frames})
    if len(sizes) > 1:
        raise VideoError(path, f"frames of different sizes, {sizes[0]} and {sizes[1]}")
    return sizes[0]


def _collect(frames: Sequence[np.ndarray] | np.ndarray, transform: Transform | None) -> np.ndarray:
    found = _Collector(len(frames), transform)
    for frame in frames:
        found.add(frame)
    return found.pixels


def _frame_files(part: Part) -> list[str]:
    """Image files in the order of the numbers in their names: frame2 comes before frame10."""
    if not part.whole:
        raise VideoError(part.path, "a folder of frames has no times: start and end cannot be used")
    files = [entry.name for entry in os.scandir(part.path) if is_image(entry.name)]
    if not files:
        raise VideoError(part.path, "no frames (.jpg or .png) in this folder")
    return sorted(files, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])


def _read_image(folder: str, name: str) -> np.ndarray:
    try:
        with Image.open(os.path.join(folder, name)) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise VideoError(folder, f"frame {name} cannot be read") from error


def _read_torchcodec(part: Part, request: Request) -> tuple[np.ndarray, int]:
    """The same frames from torchcodec, where its numbering can be trusted.

    It numbers packets, not decoded frames; where the two numbers differ (AVI with packed B-frames), and for parts of a
    video, PyAV reads the file.
    """
    check_backend("torchcodec")
    decoders = importlib.import_module("torchcodec.decoders")
    num_frames = request.num_frames or probe(part.path).num_frames
    try:
        decoder = decoders.VideoDecoder(part.path, seek_mode="exact", dimension_order="NHWC")
        if len(decoder) != num_frames or not part.whole:
            return _read_pyav(part, replace(request, num_frames=None))
        chosen = request.chosen(num_frames)
        pixels = decoder.get_frames_at(chosen.wanted.tolist()).data.numpy()
    except RuntimeError as error:
        raise VideoError(part.path, f"torchcodec: {_short(error)}") from error
    return chosen.arrange(_collect(pixels, request.transform)), num_frames
