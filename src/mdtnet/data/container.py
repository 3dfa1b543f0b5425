"""Local video file -> decoded frames in presentation order, with their times; damage is counted and passed over.

A path is always the name of a local file, whatever it looks like: no address, no pattern of numbers, and no playlist
that names other files.
"""

import io
import multiprocessing
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from mdtnet.data import archive
from mdtnet.data.images import MAX_PIXELS
from mdtnet.data.suffixes import is_image
from mdtnet.errors import VideoError

FORMATS = (
    *("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "mpeg", "mpegts", "flv", "gif", "ogg", "apng", "dv"),
    *("mpegvideo", "h261", "h263", "h264", "hevc", "vvc", "m4v", "av1", "obu", "ivf", "mjpeg", "vc1", "dirac"),
    *("mxf", "gxf", "nut", "rm", "swf", "wtv", "yuv4mpegpipe", "flic", "nsv", "vivo", "dhav", "ty", "nuv", "smjpeg"),
)  # fmt: skip
"""Demuxers of FFmpeg that are used: those of files that hold their own frames."""
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0\r", b"v=0\n")
THREADS_FROM_PIXELS = 500_000  # starting threads costs more than it saves on smaller frames
MAX_THREADS = 8
SMALLEST_FRAME = 2  # bytes; AVI files of packed B-frames have packets of one byte without a frame
STALLED = 3  # failures of the demuxer in a row, after which nothing follows
AT_END = 2  # frames by which a file may be shorter than its header says without being cut short


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

    def inside(self, seconds: np.ndarray) -> np.ndarray:
        """`has` of each time, bool."""
        found = np.ones(len(seconds), dtype=bool) if self.start is None else seconds >= self.start - 1e-6
        return found if self.end is None else found & (seconds < self.end - 1e-6)

    def is_over(self, seconds: float) -> bool:
        return self.end is not None and seconds >= self.end - 1e-6

    def no_frames(self) -> VideoError:
        if self.whole:
            return VideoError(self.path, "no frames")
        end = "its end" if self.end is None else f"{self.end:g} s"
        return VideoError(self.path, f"no frames between {self.start or 0:g} s and {end}")


def open_container(path: str) -> InputContainer:
    """Open a local file with FFmpeg; titles that are not UTF-8 do no harm.

    Raises:
        OSError, ValueError: it cannot be opened.
        VideoError: its tar file does not hold it.
    """
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)}
    source: str | io.BytesIO = f"file:{path}"
    if place := archive.place_of(path):
        source, options["protocol_whitelist"] = place.address, "file,subfile"
    elif "%" in os.path.basename(path) and is_image(path):  # FFmpeg takes `%03d` for a pattern; bytes have no name
        source = io.BytesIO(Path(path).read_bytes())
    if int(av.__version__.split(".")[0]) >= 19:  # needs no option for titles
        return av.open(source, "r", options=options)
    return av.open(source, "r", options=options, metadata_errors="ignore")


@contextmanager
def open_video(path: str, *, threads: int = 0, strict: bool = False) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and its best video stream, to be decoded by so many threads; 0: one, or several for large frames.

    A `strict` decoder fails where it would otherwise pass over a small fault without a word.

    Raises:
        VideoError: missing, no regular file, empty, not a video, a playlist, or without a stream that can be decoded.
    """
    container = _open(path)
    with container:
        stream = best_stream(container)
        if stream is None:
            raise VideoError(path, "no video stream")
        codec = stream.codec_context
        if codec is None:
            raise VideoError(path, "no decoder for its codec")
        if codec.width * codec.height > MAX_PIXELS:
            raise VideoError(
                path, f"frames of {codec.width} x {codec.height} pixels, more than {MAX_PIXELS} are not read"
            )
        stream.thread_type = "AUTO"
        codec.thread_count = threads or _num_threads(codec)
        codec.options = {"max_pixels": str(MAX_PIXELS)}  # frames can be larger than the header says
        if strict:
            codec.options = {**codec.options, "err_detect": "explode"}
        yield container, stream


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Packets in the order of the file, the last one empty; left early, it closes PyAV's own, which loses memory."""
    while True:
        try:
            yield from container.demux(stream)
            return
        except (
            IndexError
        ):  # a packet of a stream that has appeared on the way, which PyAV does not know: go on after it
            continue


def _num_threads(codec: VideoCodecContext) -> int:
    in_worker = multiprocessing.parent_process() is not None
    if in_worker or codec.width * codec.height < THREADS_FROM_PIXELS:
        return 1
    return min(os.cpu_count() or 1, MAX_THREADS)


def _open(path: str) -> InputContainer:
    try:
        place = archive.place_of(path)
        if place:
            archive.check(path, place)
        elif not stat.S_ISREG(os.stat(path).st_mode):
            raise VideoError(path, "not a regular file")
        size, start, _ = archive.ends_of(path, 16)
        if size == 0:
            raise VideoError(path, "empty file")
        if reason := _refused(start):
            raise VideoError(path, reason)
        return open_container(path)
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except av.error.InvalidDataError as error:
        raise VideoError(path, "not a video, or damaged at its start") from error
    except av.error.ArgumentError as error:  # a format that is not on the list
        raise VideoError(path, "not a video of a known format, or damaged at its start") from error
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise VideoError(path, f"cannot be opened: {short_reason(error)}") from error


def _refused(start: bytes) -> str:
    """Reason why a file that starts like this is not given to FFmpeg, or nothing."""
    if start.startswith(PLAYLISTS):
        return "a playlist, which names other files"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "a WebP picture: convert it to a video first"
    if start[4:12] in (b"ftypavif", b"ftypavis"):
        return "an AVIF picture: convert it to a video first"
    return ""


def best_stream(container: InputContainer) -> VideoStream | None:
    """Stream that players show: no picture beside the video, then the default stream, then the largest, then the first.

    A stream of one frame is a picture beside the video if there is another.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return max(streams, key=_rank, default=None)


def _rank(stream: VideoStream) -> tuple[bool, bool, bool, int]:
    codec = stream.codec_context
    size = codec.width * codec.height if codec else 0
    return codec is not None, stream.frames != 1, bool(stream.disposition & Disposition.default), size


class Decoder:
    """Frames of a part of a video; after the iteration: how many, and how much is damaged.

    A packet that does not decode costs its frame, not those that follow. What several threads make of damaged frames is
    not the same every time: a video that is `unsure` has to be decoded again by one.
    """

    def __init__(self, part: Part, container: InputContainer, stream: VideoStream) -> None:
        self.part, self._container, self._stream = part, container, stream
        self.num_frames = 0
        """Decoded frames of the part."""
        self.corrupt = 0
        """Decoded frames that FFmpeg marks as damaged."""
        self.lost = 0
        """Packets that do not decode."""
        self.missing = 0
        """Frames that should follow by the file's own duration."""
        self._first_error = ""
        self._packet_times: list[int] = []
        self._frame_times: list[int] = []
        self._decoded = 0  # frames, also those before the part
        self._last = 0.0
        self._lost_before = 0  # the last decoded frame
        self._origin: float | None = None
        self._period = 1 / float(stream.average_rate or 25)

    @property
    def damaged(self) -> int:
        """Frames that are damaged, lost or missing."""
        return self.corrupt + self.lost + self.missing

    @property
    def unsure(self) -> bool:
        return self.damaged > 0 and self._stream.codec_context.thread_count > 1

    @property
    def total(self) -> int:
        """Frames that should be there."""
        return self.num_frames + self.lost + self.missing

    def __iter__(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Seconds after the first frame, and frame.

        Raises:
            VideoError: the file cannot be read, or nothing in it can be decoded.
        """
        whole = self.part.whole
        for frame in self._frames():
            seconds = frame.time  # quicker than by fractions
            if seconds is None:
                seconds = self._decoded * self._period
            if self._origin is None:
                self._origin = seconds
            self._last = seconds = seconds - self._origin
            self._lost_before = self.lost
            self._decoded += 1
            if not whole:
                if self.part.is_over(seconds):
                    return
                if not self.part.has(seconds):
                    self.lost = self.corrupt = self._lost_before = 0  # before the part
                    continue
            self.num_frames += 1
            if (pts := frame.pts) is not None:
                self._frame_times.append(pts)
            self.corrupt += frame.is_corrupt
            yield seconds, frame
        if not self._decoded and self._first_error:
            raise VideoError(self.part.path, f"cannot be decoded: {self._first_error}")
        if self.part.end is None:
            after = self.lost - self._lost_before
            self.missing = missing_at_end(self._stream, self._decoded, self._last, lost=self.lost, lost_after=after)
        self.lost = max(self.lost, self._holes())

    def _frames(self) -> Iterator[av.VideoFrame]:
        failures = 0
        while failures < STALLED:
            try:
                for packet in packets_of(self._container, self._stream):
                    failures = 0
                    yield from self._decode(packet)
                return
            except av.error.InvalidDataError as error:  # what can still be read may follow
                failures += 1
                self._lose(error)
            except (av.FFmpegError, OSError) as error:
                raise VideoError(self.part.path, f"cannot be read: {short_reason(error)}") from error
        yield from self._decode(None)

    def _decode(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Frames that a packet completes; without a packet those that are left."""
        if packet is not None and packet.size >= SMALLEST_FRAME and not packet.is_discard:
            time = packet.dts if packet.pts is None else packet.pts
            self._packet_times += () if time is None else (time,)
        try:
            return self._stream.decode(packet)
        except av.error.EOFError:
            return []
        except (av.FFmpegError, ValueError) as error:
            if packet is not None and packet.size:
                self._lose(error)
            return []
        except MemoryError as error:
            raise VideoError(self.part.path, "not enough memory to decode it") from error

    def _lose(self, error: Exception) -> None:
        self._first_error = self._first_error or short_reason(error)
        self.lost += 1

    def _holes(self) -> int:
        """Packets whose frames were left out without an error: no decoded frame is near their time."""
        base = self._stream.time_base
        frames, packets = np.unique(self._frame_times), np.unique(self._packet_times)
        if not base or not len(frames):
            return 0
        if not self.part.whole:
            packets = packets[(packets >= frames[0]) & (packets <= frames[-1])]
        after = np.searchsorted(frames, packets).clip(0, len(frames) - 1)
        distance = np.minimum(abs(packets - frames[after]), abs(packets - frames[np.maximum(after - 1, 0)]))
        return int((distance > 0.75 * self._period / float(base)).sum())


def missing_at_end(stream: VideoStream, decoded: int, last: float, *, lost: int = 0, lost_after: int = 0) -> int:
    """Frames between the last and the end by the header, where it says one.

    Args:
        decoded: frames; `last` is the time of the last one in seconds after the first.
        lost: packets that did not decode; `lost_after` of them after the last frame.
    """
    duration, base = stream.duration, stream.time_base
    if not decoded or not duration or not base:
        return 0
    period = 1 / float(stream.average_rate or 25)
    missing = round((float(duration * base) - last) / period) - 1 - lost_after
    stated = stream.frames - decoded - lost if stream.frames else missing
    return missing if min(missing, stated) > AT_END else 0


def seconds_of(timed: av.VideoFrame | av.Packet, stream: VideoStream, position: int) -> float:
    """Presentation time in seconds; where there is none, by the position in the stream."""
    if timed.pts is not None and timed.time_base:
        return float(timed.pts * timed.time_base)
    return position / float(stream.average_rate or 25)


def short_reason(error: BaseException) -> str:
    """One line of an error of FFmpeg or the operating system."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
