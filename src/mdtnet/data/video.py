"""Video file -> frames: count, exact access by index, and only the wanted frames converted to RGB.

Frame i is the i-th frame that decodes, in presentation order; headers are never trusted. With `fps` it is the frame
that is shown at i / fps seconds. A folder of pictures is read through the same functions as a video file.

A chosen frame is converted to RGB while it is decoded, and no frame is kept: memory does not grow with the video, and
the decoder's buffers stay in the processor's cache. The choice depends on the number of frames, which is only known at
the end; so it is guessed from the file's packets, and in the few files where decoding proves the guess wrong, a second
pass uses the right number.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from mdtnet.data.archive import file_stamp, place_of
from mdtnet.data.container import Decoder, Part, open_video, short_reason
from mdtnet.data.decoders import TORCHCODEC, why_torchcodec_fails
from mdtnet.data.images import frame_files, is_picture, is_regular, read_image
from mdtnet.data.plan import OWN, Plan, PlanError, Plans, decode
from mdtnet.data.rgb import Converter, orientation
from mdtnet.data.suffixes import is_image
from mdtnet.errors import ConfigError, VideoError

PASSES = 3  # two suffice for a file that does not change

Choose = Callable[[int], np.ndarray]
Transform = Callable[[np.ndarray], np.ndarray]


def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns of a video file, or of a folder with all its frames.

    Raises:
        OSError: there is no such file or folder.
        VideoError: its tar file does not hold it.
    """
    if not os.path.isdir(path):
        return file_stamp(path)
    stats = [os.stat(path), *(entry.stat() for entry in os.scandir(path) if is_image(entry.name))]
    return sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)


@dataclass(frozen=True)
class VideoInfo:
    """Facts from decoding: number of frames and their size in pixels as shown.

    `fps` is None where the file has none. `rotation`, in degrees counter-clockwise, and `mirrored` are what was done to
    the coded frames, and are included in the size.
    """

    num_frames: int
    height: int
    width: int
    fps: float | None
    codec: str
    rotation: int
    mirrored: bool = False
    damaged: int = 0
    """Frames that are damaged, do not decode, or are missing at the end."""
    total: int = 0
    """Frames that should be there."""
    missing: int = 0
    """Frames missing at the end, by the file's own duration."""
    interlaced: bool = False
    """Two fields per frame: moving edges look like combs."""


def probe(
    path: str | os.PathLike, *, start: float | None = None, end: float | None = None, frame_pattern: str = ""
) -> VideoInfo:
    """Decode a whole video, or its part from `start` to `end` in seconds, and describe it.

    Raises:
        VideoError: as `read_clip`.
    """
    part = Part(os.fspath(path), start, end)
    if files := _pictures(part, frame_pattern):
        *_, last = _of_one_size(part.path, files)
        height, width = last.shape[:2]
        kind = os.path.splitext(files[0])[1][1:].lower()
        return VideoInfo(len(files), height, width, None, kind, 0, total=len(files))
    return (_probe_planned(part) if part.start is not None else None) or _probe_file(part)


def _probe_file(part: Part, *, threads: int = 0) -> VideoInfo:
    with open_video(part.path, threads=threads) as (container, stream):
        decoder = Decoder(part, container, stream)
        seen = _Seen()
        for _, frame in decoder:
            seen.add(frame)
        if decoder.unsure:
            return _probe_file(part, threads=1)
        if seen.first is None:
            raise part.no_frames()
        info = seen.info(stream, seen.first)
    return replace(
        info, num_frames=decoder.num_frames, damaged=decoder.damaged, total=decoder.total, missing=decoder.missing
    )


def _probe_planned(part: Part) -> VideoInfo | None:
    """Decode a part alone; None where the file is not as its packets say, or is damaged."""
    with open_video(part.path, strict=True) as (container, stream):
        plan, seen = OWN.of(part, container, stream), _Seen()
        if plan is None or not plan.trusted or not len(inside := plan.inside(part)):
            return None
        try:
            for position, frame in decode(plan, plan.groups(plan.to_prove(part)), container, stream):
                if inside[0] <= position <= inside[-1]:
                    seen.add(frame)
        except (PlanError, av.FFmpegError, OSError):
            return None
        info = seen.info(stream, seen.first) if seen.first else None
    return replace(info, num_frames=len(inside), total=len(inside)) if info else None


class _Seen:
    """Facts that decoded frames tell."""

    def __init__(self) -> None:
        self.first: av.VideoFrame | None = None
        self.interlaced = False

    def add(self, frame: av.VideoFrame) -> None:
        self.first = self.first or frame
        self.interlaced |= frame.interlaced_frame

    def info(self, stream: VideoStream, first: av.VideoFrame) -> VideoInfo:
        """All but the numbers of frames."""
        turned = orientation(first)
        height, width = turned.size(first)
        return VideoInfo(
            num_frames=0,
            height=height,
            width=width,
            fps=float(stream.average_rate) if stream.average_rate else None,
            codec=stream.codec_context.name,
            rotation=turned.degrees,
            mirrored=turned.mirrored,
            interlaced=self.interlaced,
        )


@dataclass(frozen=True)
class Reading:
    """Chosen frames of a video, uint8 RGB `[*indices.shape, H, W, 3]`, and how the video was."""

    pixels: np.ndarray
    num_frames: int
    """Frames in all, which indices are below; with `fps`, frames at that rate."""
    damaged: int = 0
    """Of the frames decoded for this: damaged, lost, or missing at the end."""
    decoded: int = 0
    """Frames decoded for this, with those lost or missing."""
    proven: bool = False
    """Each packet is one frame, without damage, as far as the video or its part goes."""


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
    """Chosen frames of a video file or a folder of pictures, and their number: see `read_frames`."""
    request = Request(choose, num_frames, short_side=short_side, transform=transform)
    reading = read_frames(Part(os.fspath(path), start, end), request, backend=backend)
    return reading.pixels, reading.num_frames


@dataclass(frozen=True)
class Request:
    """Wanted frames of a video."""

    choose: Choose
    """Maps the number of frames to the indices of the wanted ones, from 0, an integer array of any shape. It is called
    again with another number where the first was a wrong guess."""
    num_frames: int | None = None
    """Returned by an earlier reading, if any: decoding then stops at the last chosen frame."""
    proven: bool = False
    """That reading was `proven`: then only the chosen frames are decoded, and those that they refer to."""
    short_side: int | None = None
    """In pixels. Where that is quicker (YUV frames decoded by PyAV), frames are scaled to `scaled_size` before they
    become RGB; all others keep their size, for `transform` to change."""
    transform: Transform | None = None
    """Applied to each chosen frame, uint8 `[H, W, 3]` -> uint8 `[h, w, 3]`, so that full-size frames are never held
    together. It may not keep the frame; rows of the frame can have gaps between them."""
    fps: float = 0.0
    """Frames per second that indices count; 0: the frames of the file, whatever their times."""
    frame_pattern: str = ""
    """Names of the frames in a folder (`img_*.jpg`); empty: its only sequence of colour pictures."""
    listed: int = 0
    """Number of frames that a folder must have; 0: any."""
    threads: int = 0
    """Threads that decode a video file; 0: one, or several for large frames."""
    plans: Plans = OWN
    """Where plans of files are kept."""

    def chosen(self, times: np.ndarray) -> "Chosen":
        """The choice among frames shown at `times`, in seconds from 0, sorted."""
        shown = ticks(times, self.fps) if self.fps else None
        num_frames = len(times) if shown is None else len(shown)
        indices = np.asarray(self.choose(num_frames))
        if indices.min() < 0 or indices.max() >= num_frames:
            raise IndexError(f"frames {indices.min()} to {indices.max()} chosen of a video of {num_frames}")
        wanted, inverse = np.unique(indices if shown is None else shown[indices], return_inverse=True)
        return Chosen(num_frames, indices.shape, wanted, inverse.reshape(-1))


@dataclass(frozen=True)
class Chosen:
    """Chosen frames: `wanted` are their positions, each once and sorted; `inverse` puts these into the chosen order."""

    num_frames: int
    shape: tuple[int, ...]
    wanted: np.ndarray
    inverse: np.ndarray

    def arrange(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels of the `wanted` frames `[U, H, W, 3]` in the chosen order and shape, `[*shape, H, W, 3]`."""
        if not np.array_equal(self.inverse, np.arange(len(pixels))):
            pixels = pixels[self.inverse]
        return pixels.reshape(self.shape + pixels.shape[1:])


def ticks(times: np.ndarray, fps: float) -> np.ndarray:
    """Positions of the frames that are shown at 0, 1 / fps, 2 / fps, ... seconds, int64; `times` are sorted, from 0."""
    period = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps  # the last frame stays as long as most
    count = max(1, round((float(times[-1]) + period) * fps))
    return np.maximum(np.searchsorted(times, np.arange(count) / fps + 1e-3, side="right") - 1, 0)


def read_frames(part: Part, request: Request, *, backend: str = "auto") -> Reading:
    """Read chosen frames of a video file or a folder of pictures.

    Args:
        part: its start and end are seconds after the first frame; frames are counted within [start, end).
        backend: `auto` and `pyav` are the same; `torchcodec`, where it is installed, gives the same frames.

    Raises:
        VideoError: missing, empty, not a video, no video stream, or nothing that decodes; a folder that has no times,
            no single sequence of pictures, or another number of frames than is listed.
        ConfigError: `torchcodec` is wanted but cannot be used.
    """
    if files := _pictures(part, request.frame_pattern):
        return _read_pictures(part, files, request)
    if backend == TORCHCODEC:
        return _read_torchcodec(part, request)
    return _read_pyav(part, request)


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
    if backend == TORCHCODEC and (reason := why_torchcodec_fails()):
        raise ConfigError(f"backend is 'torchcodec', which does not load here: {reason}")


# ---- video files ----------------------------------------------------------------------------------------


def _read_pyav(part: Part, request: Request) -> Reading:
    plan = None
    if request.num_frames is None or request.proven:
        with open_video(part.path, threads=request.threads, strict=True) as (container, stream):
            plan = request.plans.of(part, container, stream)
            if plan and (reading := _read_planned(part, request, plan, container, stream)):
                return reading
    if request.num_frames is not None and (reading := _read_known(part, request)):
        return reading
    guess = _times(part, plan or _plan_of(part, request))
    for _ in range(PASSES):
        chosen = request.chosen(guess) if len(guess) else None
        pass_ = _decode(part, request, chosen.wanted if chosen else np.empty(0, dtype=np.int64), to_end=True)
        if not len(pass_.times):
            raise part.no_frames()
        if chosen and pass_.pixels is not None and _same_times(guess, pass_.times, request):
            return Reading(chosen.arrange(pass_.pixels), chosen.num_frames, pass_.damaged, pass_.decoded)
        guess = pass_.times
    raise VideoError(part.path, "changes while it is read")


def _read_planned(
    part: Part, request: Request, plan: Plan, container: InputContainer, stream: VideoStream
) -> Reading | None:
    """The chosen frames, decoding what the plan says; None where the file is not as its packets say."""
    times = _times(part, plan)
    chosen = request.chosen(times) if plan.trusted and len(times) else None
    if chosen is None or request.num_frames not in (None, chosen.num_frames):
        return None
    wanted = plan.inside(part)[chosen.wanted]
    proven = request.proven and request.num_frames is not None
    groups = plan.groups(wanted if proven else plan.to_prove(part))
    convert, found = Converter(part.path, request.short_side), _Collector(len(wanted), request.transform)
    try:
        for position, frame in decode(plan, groups, container, stream):
            if not found.full and position == wanted[found.done]:
                found.add(convert(frame))
    except (PlanError, av.FFmpegError, OSError):
        return None
    decoded = sum(len(group.packets) for group in groups) if proven else len(times)
    return Reading(chosen.arrange(found.pixels), chosen.num_frames, 0, decoded, proven=True)


def _plan_of(part: Part, request: Request) -> Plan | None:
    with open_video(part.path) as (container, stream):
        return request.plans.of(part, container, stream)


def _read_known(part: Part, request: Request) -> Reading | None:
    """The chosen frames of a video that has `request.num_frames`; None where it has another number."""
    guess = _times(part, _plan_of(part, request)) if request.fps else np.arange(request.num_frames or 0)
    chosen = request.chosen(guess) if len(guess) else None
    if chosen and chosen.num_frames == request.num_frames:
        pass_ = _decode(part, request, chosen.wanted, to_end=False)
        if pass_.pixels is not None:
            return Reading(chosen.arrange(pass_.pixels), chosen.num_frames, pass_.damaged, pass_.decoded)
    return None


def _same_times(guess: np.ndarray, times: np.ndarray, request: Request) -> bool:
    return len(guess) == len(times) and (not request.fps or np.allclose(guess, times, atol=1e-3))


def _times(part: Part, plan: Plan | None) -> np.ndarray:
    """Times of the packets of a part that look like a frame, from 0; wrong where a file is unusual or damaged."""
    return np.empty(0) if plan is None else _from_zero(plan.seconds[plan.inside(part)])


def _from_zero(times: np.ndarray) -> np.ndarray:
    return np.maximum.accumulate(times - times[0]) if len(times) else times


class _Pass(NamedTuple):
    """Result of decoding once: the wanted pixels, None where the frames end before; times of the frames decoded."""

    pixels: np.ndarray | None
    times: np.ndarray
    damaged: int
    decoded: int


def _decode(part: Part, request: Request, wanted: np.ndarray, *, to_end: bool, careful: bool = False) -> _Pass:
    """Decode once and convert the frames at the sorted positions `wanted`; without `to_end` only up to the last one."""
    convert = Converter(part.path, request.short_side)
    found, times = _Collector(len(wanted), request.transform), list[float]()
    places = iter(wanted.tolist())
    place = next(places, None)
    with open_video(part.path, threads=1 if careful else request.threads) as (container, stream):
        decoder = Decoder(part, container, stream)
        for seconds, frame in decoder:
            convert.see(frame)
            if len(times) == place:
                found.add(convert(frame))
                place = next(places, None)
            times.append(seconds)
            if place is None and not to_end:
                break
        unsure = decoder.unsure
    if unsure:
        return _decode(part, request, wanted, to_end=to_end, careful=True)
    pixels = found.pixels if found.full else None
    return _Pass(pixels, _from_zero(np.array(times)), decoder.damaged, decoder.total)


# ---- pictures -------------------------------------------------------------------------------------------


def _pictures(part: Part, pattern: str) -> list[str]:
    """Names of the pictures in a folder, or the name of one picture; empty for a video file."""
    if os.path.isdir(part.path):
        if not part.whole:
            raise VideoError(part.path, "a folder of frames has no times: start and end cannot be used")
        return frame_files(part.path, pattern)
    return [part.path] if is_image(part.path) and is_regular(part.path) and is_picture(part.path) else []


def _read_pictures(part: Part, files: list[str], request: Request) -> Reading:
    if request.fps and len(files) > 1:
        raise VideoError(part.path, "a folder of frames has no times: data.fps cannot be used")
    if request.listed and request.listed != len(files):
        raise VideoError(part.path, f"{len(files)} frames are there, its list says {request.listed}")
    chosen = request.chosen(np.arange(len(files), dtype=np.float64))
    pixels = _collect(_of_one_size(part.path, (files[i] for i in chosen.wanted)), len(chosen.wanted), request)
    return Reading(chosen.arrange(pixels), chosen.num_frames, 0, len(chosen.wanted))


def _of_one_size(place: str, names: Iterable[str]) -> Iterator[np.ndarray]:
    size: tuple[int, ...] | None = None
    for name in names:
        frame = read_image(name) if name == place else read_image(os.path.join(place, name), owner=place)
        size = size or frame.shape
        if frame.shape != size:
            raise VideoError(place, f"frames of different sizes, {size[:2]} and {frame.shape[:2]}")
        yield frame


def _collect(frames: Iterable[np.ndarray], count: int, request: Request) -> np.ndarray:
    found = _Collector(count, request.transform)
    for frame in frames:
        found.add(frame)
    return found.pixels


# ---- another decoder ------------------------------------------------------------------------------------


def _read_torchcodec(part: Part, request: Request) -> Reading:
    """The same frames from torchcodec, where its numbering and its frames can be trusted.

    It numbers packets, not decoded frames. Where the two numbers differ (AVI with packed B-frames), and for damaged or
    mirrored videos, parts, other frame rates, and files in a tar file, PyAV reads the file.
    """
    check_backend(TORCHCODEC)
    decoders = importlib.import_module("torchcodec.decoders")
    with open_video(part.path) as (container, stream):
        index = stream.index
        _, first = next(iter(Decoder(part, container, stream)), (0.0, None))
        plain = part.whole and not request.fps and first is not None and not orientation(first).mirrored
        plain = plain and not place_of(part.path)
    if request.num_frames is None and plain:
        info = probe(part.path)
        num_frames, plain = info.num_frames, not info.damaged
    else:
        num_frames = request.num_frames or 0
    try:
        decoder = decoders.VideoDecoder(part.path, stream_index=index, seek_mode="exact", dimension_order="NHWC")
        if not plain or len(decoder) != num_frames:
            return _read_pyav(part, replace(request, num_frames=None))
        chosen = request.chosen(np.arange(num_frames))
        pixels = decoder.get_frames_at(chosen.wanted.tolist()).data.numpy()
    except RuntimeError as error:
        raise VideoError(part.path, f"torchcodec: {short_reason(error)}") from error
    return Reading(chosen.arrange(_collect(pixels, len(pixels), request)), num_frames, 0, len(chosen.wanted))
