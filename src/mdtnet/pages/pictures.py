"""Motion salience to look at: a contact sheet or an overlay video of one source, and key frames for pages.

Letters: T segments, K frames per segment, n frames, H, W pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, get_args, get_type_hints

import av
import av.container
import numpy as np
import torch
from PIL import Image

from mdtnet.checks import check_ranges
from mdtnet.config import Exposure, MDTNetConfig, SaliencyConfig
from mdtnet.data.exposure import expose
from mdtnet.data.rgb import scaled_size
from mdtnet.data.segments import spread_indices
from mdtnet.data.video import VideoInfo, probe, read_clip
from mdtnet.errors import ConfigError
from mdtnet.models.saliency import floored, frames_saliency
from mdtnet.models.trunk import Trunk
from mdtnet.pages.sheet import SHEETS, checked_output, colour_scale, heat, panels, save_sheet, sheet
from mdtnet.system.files import atomic_write

VIDEOS = (".mp4",)
SHORT_SIDE = 256  # pixels; salience depends on it a little, and networks see frames of about this size
VARIANTS = get_args(get_type_hints(SaliencyConfig)["variant"])
NOTE = "salience 0 to 1; bright everywhere: hardly any motion, passes unchanged"
DEFAULT_FPS = 25  # of sources without a frame rate
KINDS = f"{', '.join(SHEETS)} (contact sheet) or {VIDEOS[0]} (overlay video)"
CHUNK = 16  # frames of an overlay video computed together


@dataclass(frozen=True, eq=False)
class KeyFrames:
    """The key frame of every segment of a video with its salience."""

    frames: np.ndarray
    """uint8 RGB [T, H, W, 3]."""
    salience: np.ndarray
    """float32 [T, H, W] in [0, 1]."""
    indices: np.ndarray
    """int64 [T], the key frames' numbers in the video."""
    num_frames: int
    """Frames of the video."""


def draw_saliency(
    source: str | Path,
    out: str | Path,
    *,
    saliency: SaliencyConfig | None = None,
    num_segments: int = 8,
    frames_per_segment: int = 5,
    frame_stride: int = 1,
    exposure: Exposure = "none",
    all_variants: bool = False,
) -> Path:
    """Show where a video moves: `.png` or `.jpg` gives a contact sheet, `.mp4` an overlay video.

    A sheet shows frames that are `frame_stride` apart, with the brightness that `exposure` gives them; `all_variants`
    shows every variant of the map instead of the one in `saliency`.

    Raises:
        ConfigError: `out` has another extension, is a folder or the source; no segment, fewer than 2 frames per
            segment, or a stride below 1; a number of `saliency` out of its range; an overlay video with all variants,
            a stride or an exposure.
        VideoError: the source cannot be read.
    """
    saliency, out = saliency or SaliencyConfig(), Path(out)
    check_ranges(saliency, part="model.saliency")
    if out.suffix.lower() not in VIDEOS:
        variants = VARIANTS if all_variants else (saliency.variant,)
        configs = [replace(saliency, variant=variant) for variant in variants]
        return saliency_sheet(
            source,
            out,
            configs,
            num_segments=num_segments,
            frames_per_segment=frames_per_segment,
            frame_stride=frame_stride,
            exposure=exposure,
        )
    if all_variants or frame_stride != 1 or exposure != "none":
        raise ConfigError(
            f"{out}: all variants, a frame stride and an exposure are for contact sheets, expected {', '.join(SHEETS)}"
        )
    return overlay_video(source, out, saliency=saliency, frames_per_segment=frames_per_segment)


def saliency_sheet(
    source: str | Path,
    out: str | Path,
    configs: Sequence[SaliencyConfig],
    *,
    num_segments: int = 8,
    frames_per_segment: int = 5,
    frame_stride: int = 1,
    exposure: Exposure = "none",
    start: float | None = None,
    end: float | None = None,
) -> Path:
    """Write one picture with one column per segment: key frames, then per config salience and enhanced frames.

    `start` and `end`, in seconds, bound the part of the video that is shown.

    Raises:
        ConfigError, VideoError: see `draw_saliency`.
    """
    out = checked_output(source, out, SHEETS, KINDS)
    read = _Segments(
        source,
        num_segments=num_segments,
        frames_per_segment=frames_per_segment,
        frame_stride=frame_stride,
        exposure=exposure,
        start=start,
        end=end,
    )
    rows = [("key frame", panels(read.key_frames(configs[0]).frames))]
    for config in configs:
        found = read.key_frames(config)
        name = "salience" if len(configs) == 1 else f"salience:\n{config.variant.replace('_', ' ')}"
        rows.append((name, panels(heat(found.frames, found.salience))))
        rows.append(("enhanced", panels(enhanced(found.frames, found.salience, floor=config.floor))))
    kind = configs[0].variant if len(configs) == 1 else "every variant of"
    counted = f"{num_segments} segments of {frames_per_segment} of {found.num_frames} frames"
    title = f"{Path(source).name}   {kind} salience per {configs[0].window}, {counted}"
    return save_sheet(sheet(title, [f"frame {i}" for i in found.indices], rows, colour_scale(NOTE)), out)


def overlay_video(
    source: str | Path, out: str | Path, *, saliency: SaliencyConfig, frames_per_segment: int = 5
) -> Path:
    """Write an H.264 video: every frame, its salience and the enhanced frame side by side.

    Each frame is the key frame of a window of K that slides over the video, so `window` and `normalise` are
    `segment` whatever `saliency` says. Frames are handled a few at a time, so that long videos fit.

    Raises:
        ConfigError, VideoError: see `draw_saliency`.
    """
    out = checked_output(source, out, VIDEOS, KINDS)
    _check_frames(frames_per_segment)
    info = probe(source)  # the whole video decodes: from here on nothing is left half written

    def write(file: BinaryIO) -> None:
        with av.open(file, "w", format="mp4") as container:
            overlay = _Overlay(container, info, saliency, frames_per_segment)
            read_clip(source, np.arange, num_frames=info.num_frames, transform=overlay.push)
            overlay.finish()

    atomic_write(out, write)
    return out


def read_key_frames(
    source: str | Path,
    *,
    saliency: SaliencyConfig,
    num_segments: int = 8,
    frames_per_segment: int = 5,
    frame_stride: int = 1,
    short_side: int = SHORT_SIDE,
    start: float | None = None,
    end: float | None = None,
    key_frame: int = MDTNetConfig.key_frame,
) -> KeyFrames:
    """The key frames of a video (of its part from `start` to `end`, in seconds) and their salience.

    Segments are those of a test with one clip; frames are scaled to `short_side` pixels first. `key_frame` is the
    index of the key frame in its segment, from 0; in shorter segments it is the last frame.

    Raises:
        ConfigError: a segment has fewer than 2 frames.
        VideoError: the source cannot be read.
    """
    read = _Segments(
        source,
        num_segments=num_segments,
        frames_per_segment=frames_per_segment,
        frame_stride=frame_stride,
        short_side=short_side,
        start=start,
        end=end,
    )
    return read.key_frames(saliency, key_frame)


class _Segments:
    """The frames of a video's segments, read once; see `read_key_frames` for the arguments."""

    def __init__(
        self,
        source: str | Path,
        *,
        num_segments: int,
        frames_per_segment: int,
        frame_stride: int = 1,
        short_side: int = SHORT_SIDE,
        exposure: Exposure = "none",
        start: float | None = None,
        end: float | None = None,
    ) -> None:
        _check_frames(frames_per_segment)
        for name, value in (("num_segments", num_segments), ("frame_stride", frame_stride)):
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")
        self.indices = np.empty(0)

        def choose(num_frames: int) -> np.ndarray:
            self.indices = spread_indices(
                num_frames,
                num_segments=num_segments,
                frames_per_segment=frames_per_segment,
                frame_stride=frame_stride,
            )
            return self.indices

        frames, self.num_frames = read_clip(
            source, choose, start=start, end=end, transform=lambda frame: _resized(frame, short_side)
        )
        self.frames = expose(frames, exposure)  # [T, K, H, W, 3]

    def key_frames(self, saliency: SaliencyConfig, key_frame: int = MDTNetConfig.key_frame) -> KeyFrames:
        salience = frames_saliency(torch.from_numpy(self.frames).permute(0, 1, 4, 2, 3)[None], saliency)[0]
        key = min(key_frame, self.frames.shape[1] - 1)
        return KeyFrames(self.frames[:, key], salience.numpy(), self.indices[:, key], self.num_frames)


def enhanced(frames: np.ndarray, salience: np.ndarray, *, floor: float) -> np.ndarray:
    """Frames as a network sees them: still places fade to the mean colour; uint8 RGB [n, H, W, 3]."""
    mean = np.array(Trunk.mean, dtype=np.float32) * 255
    mask = floored(torch.from_numpy(salience), floor).numpy()[..., None]
    return (mean + mask * (frames - mean)).round().clip(0, 255).astype(np.uint8)


class SlidingSalience:
    """Salience of frames that come one by one: each is the key frame of a window that slides over the video.

    Holds `CHUNK` frames and a window of them, so that long videos fit. `window` and `normalise` are `segment` whatever
    the options say.
    """

    def __init__(self, saliency: SaliencyConfig, window: int) -> None:
        self.saliency, self.window = replace(saliency, window="segment", normalise="segment"), window
        self.key = min(MDTNetConfig.key_frame, window - 1)
        self.frames: list[np.ndarray] = []

    def push(self, frame: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Add the next frame, uint8 RGB [H, W, 3]; gives those that are ready with their salience [H, W], 0 to 1."""
        first = not self.frames
        self.frames += [frame] * (1 + self.key if first else 1)  # the first frame's window starts with copies of it
        if len(self.frames) >= CHUNK + self.window:
            yield from self._ready()

    def finish(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The frames that are left."""
        self.frames += self.frames[-1:] * (self.window - 1 - self.key)
        if self.frames:
            yield from self._ready()

    def _ready(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        stack = torch.from_numpy(np.stack(self.frames))  # [n, H, W, 3]
        windows = stack.unfold(0, self.window, 1).permute(0, 4, 3, 1, 2)  # [n - K + 1, K, 3, H, W]
        salience = frames_saliency(windows[None], self.saliency)[0].numpy()
        yield from zip(self.frames[self.key :], salience)
        self.frames = self.frames[len(salience) :]


class _Overlay:
    """Encodes frames that are pushed one by one."""

    def __init__(
        self, container: av.container.OutputContainer, info: VideoInfo, saliency: SaliencyConfig, window: int
    ) -> None:
        self.floor, self.sliding = saliency.floor, SlidingSalience(saliency, window)
        fps = min(max(info.fps or DEFAULT_FPS, 1), 240)
        self.container = container
        self.stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(10_000))
        self.stream.pix_fmt = "yuv420p"
        height, width = _scaled((info.height, info.width), SHORT_SIDE, multiple=2)
        self.stream.height, self.stream.width = height, 3 * width
        self.stream.options = {"crf": "20", "preset": "veryfast"}

    def push(self, frame: np.ndarray) -> np.ndarray:
        """Add the next frame; returns one pixel of it, all that `read_clip` then has to keep."""
        frame = _resized(frame, SHORT_SIDE, multiple=2)
        self._encode(self.sliding.push(frame))
        return frame[:1, :1]

    def finish(self) -> None:
        self._encode(self.sliding.finish())
        self.container.mux(self.stream.encode())

    def _encode(self, found: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
        for frame, salience in found:
            frames, maps = frame[None], salience[None]
            three = [frames, heat(frames, maps), enhanced(frames, maps, floor=self.floor)]
            picture = av.VideoFrame.from_ndarray(np.concatenate(three, axis=2)[0], format="rgb24")
            self.container.mux(self.stream.encode(picture))


def _check_frames(frames_per_segment: int) -> None:
    if frames_per_segment < 2:
        raise ConfigError(f"frames_per_segment is {frames_per_segment}: motion needs at least 2 frames")


def _scaled(size: tuple[int, ...], short_side: int, multiple: int) -> tuple[int, ...]:
    """A size (height, width) scaled to a short side, both sides multiples of `multiple`."""
    return tuple(multiple * max(1, round(side / multiple)) for side in scaled_size(size, short_side))


def _resized(frame: np.ndarray, short_side: int, *, multiple: int = 1) -> np.ndarray:
    height, width = _scaled(frame.shape[:2], short_side, multiple)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
