"""Whatever people call a video -> its frames: files, folders, patterns, lists, URLs, streams, cameras, bytes, arrays.

`read_source` reads chosen frames of a clip, `open_frames` all frames one after the other. A text is an address only if
it starts with `scheme://`; what is behind it reaches no file of this machine. Letters: N frames of H x W pixels.
"""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeGuard, cast
from urllib.parse import urlsplit

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from mdtnet.data.container import FORMATS, Decoder, Part, best_stream, open_video, packets_of, seconds_of, short_reason
from mdtnet.data.images import frame_files, is_picture, read_image
from mdtnet.data.retries import with_retries
from mdtnet.data.rgb import Converter
from mdtnet.data.suffixes import is_image, is_video
from mdtnet.data.video import Reading, Request, read_frames
from mdtnet.errors import VideoError
from mdtnet.system.files import temporary_folder
from mdtnet.zoo.fetch import FetchError, fetch_part

Source = str | Path | Part | int | bytes | BinaryIO | np.ndarray | Sequence[np.ndarray]
"""A path, an address, `-` (standard input), a part of one of them, a camera's number, the bytes of a video file or a
file open for reading, or frames: uint8 `[N, H, W, 3]`, or a list of `[H, W, 3]`."""

STDIN = "-"
FETCHED = ("http", "https")
STREAMED = ("rtsp", "rtsps", "rtmp", "rtmps", "udp")
PROTOCOLS = ("http", "https", "tcp", "tls", "httpproxy", "rtsp", "rtp", "srtp", "rtmp", "rtmps", "udp")
"""Protocols that FFmpeg may use for an address; `file` is none of them."""
STREAM_FORMATS = (*FORMATS, "rtsp", "rtp", "hls", "mpjpeg", "live_flv", "aac", "webvtt")
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("vfwcap", "{}")}
"""Platform -> FFmpeg's name for its cameras, and for one of them."""
TIMEOUT_SECONDS = 10.0
MAX_BYTES = 2**32  # of one address: what goes on for ever must not fill the disk
WATCHED_SECONDS = 5.0
"""How long a stream or a camera is watched for one prediction."""
DEFAULT_FPS = 25.0  # of frames that have no times


def scheme_of(text: str) -> str:
    """`https` of `https://...`; empty for what is no address."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)://", text)
    return found[1].lower() if found else ""


def camera_of(source: Source) -> int | None:
    """The number of a camera: an integer, or a text of digits that names no file."""
    if isinstance(source, int):
        return source
    text = _path(source)
    return int(text) if text and re.fullmatch(r"\d{1,3}", text) and not os.path.exists(text) else None


def is_endless(source: Source) -> bool:
    """Whether a source is a camera or a stream: it has no length, and its frames come at their own pace."""
    return camera_of(source) is not None or scheme_of(_path(source)) in STREAMED


def is_local(path: str) -> bool:
    """Whether a text is the path of a file or folder: no address, no camera, not standard input."""
    return path != STDIN and not scheme_of(path) and camera_of(path) is None


def absolute(path: str) -> str:
    """The path of a local file from the root; addresses and cameras as they are."""
    return os.path.abspath(path) if is_local(path) else path


def name_of(source: Source) -> str:
    """A source in messages and results; without the password of an address."""
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    if (camera := camera_of(source)) is not None:
        return f"camera {camera}"
    if (text := _path(source)) or isinstance(source, str):
        return _without_password(text) + (_part_text(source) if isinstance(source, Part) else "")
    if _is_file(source):
        return str(getattr(source, "name", "file"))
    return f"{len(cast('Sequence[np.ndarray]', source))} frames"


def _path(source: Source) -> str:
    """The path or address; empty for sources without one."""
    if isinstance(source, Part):
        return source.path
    return os.fspath(source) if isinstance(source, str | Path) else ""


def _part_text(part: Part) -> str:
    return "" if part.whole else f"@{part.start or 0:g}-{'' if part.end is None else f'{part.end:g}'}"


def _without_password(text: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", text) if scheme_of(text) else text


def _is_file(source: Source) -> TypeGuard[BinaryIO]:
    return hasattr(source, "read")


# ---- chosen frames of a clip ----------------------------------------------------------------------------


def read_source(source: Source, request: Request, *, bgr: bool = False) -> Reading:
    """Chosen frames of any source; a stream or a camera is watched for `WATCHED_SECONDS`.

    `bgr` says that frames given as arrays have blue first.

    Raises:
        VideoError: it cannot be read.
    """
    frames = frames_in_memory(source, bgr=bgr)
    if frames is not None:
        return _read_array(name_of(source), frames, request)
    if is_endless(source):
        with open_frames(source, short_side=request.short_side) as opened:
            frames = np.stack([pixels for _, pixels in _first_seconds(opened, WATCHED_SECONDS)])
        return _read_array(name_of(source), frames, replace(request, fps=0.0))
    with local_file(source) as part:
        return with_retries(lambda: read_frames(part, request))


def frames_in_memory(source: Source, *, bgr: bool = False) -> np.ndarray | None:
    """Frames that were given as arrays, uint8 RGB `[N, H, W, 3]`; None for every other source.

    Raises:
        VideoError: another type, another shape, frames of several sizes, or none.
    """
    if isinstance(source, str | Path | Part | int | bytes) or _is_file(source):
        return None
    try:
        frames = np.asarray(source)
    except ValueError as error:
        raise VideoError(name_of(source), "frames of several sizes") from error
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        found = f"{frames.dtype} {list(frames.shape)}"
        raise VideoError(name_of(source), f"frames are {found}, expected uint8 [N, H, W, 3]")
    return frames[..., ::-1] if bgr else frames


def _read_array(name: str, frames: np.ndarray, request: Request) -> Reading:
    if request.fps and len(frames) > 1:
        raise VideoError(name, "frames in memory have no times: data.fps cannot be used")
    chosen = request.chosen(np.arange(len(frames), dtype=np.float64))
    change = request.transform or (lambda frame: frame)
    pixels = np.stack([change(frames[i]) for i in chosen.wanted])
    return Reading(chosen.arrange(pixels), chosen.num_frames, 0, len(frames))


def _first_seconds(frames: "Frames", seconds: float) -> Iterator[tuple[float, np.ndarray]]:
    for time, pixels in frames:
        yield time, pixels
        if time >= seconds:
            return


@contextmanager
def local_file(source: Source) -> Iterator[Part]:
    """A source as a file on this machine (or a part of one), which is removed afterwards if it was made for this.

    Addresses are fetched whole; standard input, bytes and open files are written to a temporary file.

    Raises:
        VideoError: an address cannot be fetched, has an unknown scheme, or its file is too large.
    """
    part = source if isinstance(source, Part) else Part(_path(source))
    scheme, name = scheme_of(part.path), name_of(source)
    fill: Callable[[Path], None]
    if scheme and scheme not in FETCHED:
        known = ", ".join((*FETCHED, *STREAMED))
        raise VideoError(name, f"unknown scheme '{scheme}', expected {known}; a file is given by its path")
    if scheme:
        if "@" in urlsplit(part.path).netloc:  # Python's client would take the password for a part of the host's name
            raise VideoError(name, "an http address with a password is not fetched")
        fill = _Fetch(part.path, name)
    elif part.path == STDIN:
        fill = _Copy(sys.stdin.buffer)
    elif isinstance(source, bytes):
        fill = _Write(source)
    elif _is_file(source):
        fill = _Copy(source)
    else:
        yield part
        return
    with temporary_folder(Path(tempfile.gettempdir())) as folder:
        path = Path(folder, "video" + (_suffix(part.path) if scheme else ""))
        fill(path)
        try:
            yield replace(part, path=str(path))
        except VideoError as error:
            if error.path != str(path):
                raise
            raise VideoError(name, error.reason) from error.__cause__


@dataclass(frozen=True)
class _Fetch:
    url: str
    name: str

    def __call__(self, path: Path) -> None:
        try:
            fetch_part(self.url, path, progress=self._check)
        except (FetchError, ValueError) as error:
            raise VideoError(self.name, f"cannot be fetched: {_without_password(short_reason(error))}") from error

    def _check(self, done: int, total: int) -> None:
        if max(done, total) > MAX_BYTES:
            raise VideoError(self.name, f"more than {MAX_BYTES / 2**30:g} GiB are not fetched")


@dataclass(frozen=True)
class _Copy:
    file: BinaryIO

    def __call__(self, path: Path) -> None:
        with open(path, "wb") as out:
            shutil.copyfileobj(self.file, out)


@dataclass(frozen=True)
class _Write:
    content: bytes

    def __call__(self, path: Path) -> None:
        path.write_bytes(self.content)


def _suffix(url: str) -> str:
    """The suffix of an address if it is one of videos or pictures: some formats are recognised by it."""
    path = urlsplit(url).path
    return os.path.splitext(path)[1].lower() if is_video(path) or is_image(path) else ""


# ---- all frames, one after the other --------------------------------------------------------------------


class Frames:
    """Frames of an open source in order; an iteration gives `(seconds after the first frame, uint8 RGB [H, W, 3])`.

    The array is the caller's to keep. Frames of folders and arrays, which have no times, come at 25 per second.

    Raises:
        VideoError: while iterating: the source breaks off, or nothing in it can be decoded.
    """

    def __init__(
        self,
        name: str,
        frames: Iterator[tuple[float, np.ndarray]],
        *,
        fps: float | None = None,
        endless: bool = False,
        decoder: Decoder | None = None,
    ) -> None:
        self.name = name
        self.fps = fps
        """Frames per second that the source states; None: it states none."""
        self.endless = endless
        """A camera or a stream: frames come at their own pace, and are lost if nobody takes them."""
        self._frames, self._decoder = frames, decoder

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        return self._frames

    @property
    def damage(self) -> str:
        """After the iteration: `2 of 120 frames`, damaged, lost, or missing at the end; empty where none is."""
        decoder = self._decoder
        return f"{decoder.damaged} of {decoder.total} frames" if decoder and decoder.damaged else ""


@contextmanager
def open_frames(
    source: Source, *, short_side: int | None = None, bgr: bool = False, stream: bool = False
) -> Iterator[Frames]:
    """Open any source and give its frames one by one, in one pass and in bounded memory.

    Frames are those of `read_source`, turned upright. `short_side`, in pixels, scales them while they become RGB where
    that is quicker, as `Request.short_side`. `stream` opens an http address as it comes instead of fetching it first.

    Raises:
        VideoError: it cannot be opened; while iterating, see `Frames`.
    """
    frames = frames_in_memory(source, bgr=bgr)
    if frames is not None:
        yield Frames(name_of(source), _timed(iter(frames)))
    elif is_endless(source) or (stream and scheme_of(_path(source)) in FETCHED):
        with _open_stream(source) as container:
            yield _stream_frames(name_of(source), container, short_side)
    else:
        with local_file(source) as part, _local_frames(part, name_of(source), short_side) as found:
            yield found


@contextmanager
def _local_frames(part: Part, name: str, short_side: int | None) -> Iterator[Frames]:
    if os.path.isdir(part.path):
        files = [os.path.join(part.path, file) for file in frame_files(part.path)]
        yield Frames(name, _timed(read_image(file, owner=part.path) for file in files))
    elif is_image(part.path) and is_picture(part.path):
        yield Frames(name, _timed(iter([read_image(part.path)])))
    else:
        with open_video(part.path) as (container, stream):
            decoder = Decoder(part, container, stream)
            fps = float(stream.average_rate) if stream.average_rate else None
            yield Frames(name, _converted(name, iter(decoder), short_side), fps=fps, decoder=decoder)


def _timed(frames: Iterator[np.ndarray]) -> Iterator[tuple[float, np.ndarray]]:
    return ((i / DEFAULT_FPS, frame) for i, frame in enumerate(frames))


def _converted(
    name: str, frames: Iterator[tuple[float, av.VideoFrame]], short_side: int | None
) -> Iterator[tuple[float, np.ndarray]]:
    """Decoded frames as upright RGB, all of the size of the first."""
    convert = Converter(name, short_side)
    for seconds, frame in frames:
        yield seconds, np.ascontiguousarray(convert(frame))


@contextmanager
def _open_stream(source: Source) -> Iterator[InputContainer]:
    """Open an address or a camera with FFmpeg, which may use the protocols of streams and no other."""
    name, camera = name_of(source), camera_of(source)
    form, address, options = None, _path(source), {}
    if camera is None:
        options = {"protocol_whitelist": ",".join(PROTOCOLS), "format_whitelist": ",".join(STREAM_FORMATS)}
        options |= {"rtsp_transport": "tcp"} if scheme_of(address).startswith("rtsp") else {}
    else:
        form, pattern = CAMERAS.get(sys.platform, CAMERAS["linux"])
        address = pattern.format(camera)
    try:
        container = av.open(address, "r", format=form, options=options, timeout=TIMEOUT_SECONDS)
    except (av.FFmpegError, OSError, ValueError) as error:
        shown = f"{short_reason(error)} ({address})" if camera is not None else short_reason(error)
        raise VideoError(name, f"cannot be opened: {_without_password(shown)}") from error
    with container:
        yield container


def _stream_frames(name: str, container: InputContainer, short_side: int | None) -> Frames:
    stream = best_stream(container)
    if stream is None or stream.codec_context is None:
        raise VideoError(name, "no video stream")
    stream.thread_type = "SLICE"  # threads that work on several frames hand them out late
    decoded = _decoded_stream(name, container, stream)
    first = next(decoded, None)
    if first is None:
        raise VideoError(name, "no frames")
    fps = float(stream.average_rate) if stream.average_rate else None
    endless = container.duration is None or scheme_of(name) not in FETCHED  # a recorded file behind http ends
    return Frames(name, _converted(name, chain([first], decoded), short_side), fps=fps, endless=endless)


def _decoded_stream(name: str, container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, av.VideoFrame]]:
    """Seconds after the first frame, and frame; a packet that does not decode costs its own frame."""
    start: float | None = None
    count = 0
    try:
        for packet in packets_of(container, stream):
            try:
                frames = stream.decode(packet)
            except av.error.EOFError:
                return
            except av.error.InvalidDataError:
                continue
            for frame in frames:
                seconds = seconds_of(frame, stream, count)
                start = seconds if start is None else start
                count += 1
                yield seconds - start, frame
    except (av.FFmpegError, OSError) as error:
        raise VideoError(name, f"broke off: {short_reason(error)}") from error
