"""From a video to the views that a network classifies: one road for networks with and without torch.

The views are those of `mdtnet test`, bit for bit. Letters: V views, T segments, K frames per segment, H, W pixels of a
frame, S the side of a crop.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mdtnet.data.exposure import expose
from mdtnet.data.segments import clip_indices
from mdtnet.data.video import Request
from mdtnet.inference.description import Description, check_views
from mdtnet.inference.resize import resize_short
from mdtnet.inference.sources import Source, read_source

Resize = Callable[[np.ndarray, int], np.ndarray]
"""A uint8 frame [H, W, 3] and its new short side in pixels -> the resized frame."""


@dataclass(frozen=True)
class Views:
    """Views of a video as the network needs them, and what was found when it was read."""

    pixels: np.ndarray
    """uint8 [V, T, K, S, S, 3]; view = clip * crops + crop."""
    damage: str
    """`2 of 120 frames`: damaged, lost, or missing at the end; empty where none is."""


def read_views(
    source: Source, description: Description, *, clips: int = 1, crops: int = 1, resize: Resize = resize_short
) -> np.ndarray:
    """The pixels of `read_video`."""
    return read_video(source, description, clips=clips, crops=crops, resize=resize).pixels


def read_video(
    source: Source,
    description: Description,
    *,
    clips: int = 1,
    crops: int = 1,
    bgr: bool = False,
    resize: Resize = resize_short,
) -> Views:
    """Views of a video as the network needs them.

    `bgr` says that frames given as arrays have blue first. `resize` is torch's own where it is loaded: the same
    pixels, sooner.

    Raises:
        VideoError: the video cannot be read.
        ConfigError: `clips` or `crops` is out of range.
    """
    check_views(clips, crops)

    def table(num_frames: int) -> np.ndarray:
        return clip_table(num_frames, description, clips=clips)

    request = Request(
        lambda n: np.unique(table(n)),
        short_side=description.short_side,
        transform=lambda frame: prepared(frame, description, crops=crops, resize=resize),
        fps=description.fps,
        frame_pattern=description.frame_pattern,
    )
    reading = read_source(source, request, bgr=bgr)
    chosen = table(reading.num_frames)
    chosen = np.searchsorted(np.unique(chosen), chosen)
    pixels = views_of(reading.pixels, chosen, description, crops=crops, resize=resize)
    return Views(pixels, f"{reading.damaged} of {reading.decoded} frames" if reading.damaged else "")


def prepared(
    frame: np.ndarray, description: Description, *, crops: int = 1, resize: Resize = resize_short
) -> np.ndarray:
    """A frame [H, W, 3] as `views_of` needs it: resized, and no more of it than its crops lie in."""
    frame, size = resize(frame, description.short_side), description.size
    if description.exposure != "none":  # the brightness of the whole frame counts
        return frame
    return _cut(_at_least(frame, size, resize), crops, size)


def clip_table(num_frames: int, description: Description, *, clips: int = 1) -> np.ndarray:
    """Which frames of a video make up each clip, [clips, T, K]."""
    return clip_indices(
        num_frames,
        rule="uniform",
        num_clips=clips,
        seed=(),
        num_segments=description.num_segments,
        frames_per_segment=description.frames_per_segment,
        frame_stride=description.frame_stride,
        sampling=description.sampling,
    )


def views_of(
    pixels: np.ndarray, table: np.ndarray, description: Description, *, crops: int = 1, resize: Resize = resize_short
) -> np.ndarray:
    """Resized frames [N, H, W, 3], and which of them make up each clip, [clips, T, K] -> views [V, T, K, S, S, 3]."""
    size = description.size
    views = np.empty((len(table) * crops, *table.shape[1:], size, size, 3), dtype=np.uint8)
    for c, indices in enumerate(table):  # one clip at a time: the views themselves are what needs memory
        frames = expose(pixels[indices], description.exposure)
        if min(frames.shape[-3:-1]) < size:
            larger = np.stack([resize(frame, size) for frame in frames.reshape(-1, *frames.shape[-3:])])
            frames = larger.reshape(*indices.shape, *larger.shape[1:])
        for i, (top, left) in enumerate(crop_corners(frames.shape[-3], frames.shape[-2], crops, size)):
            views[c * crops + i] = frames[..., top : top + size, left : left + size, :]
    return views


def crop_corners(height: int, width: int, crops: int, size: int) -> list[tuple[int, int]]:
    """Top left corners of the crops: the centre, or left, centre and right (top, centre and bottom of tall frames)."""
    places = [(2, 2)] if crops == 1 else [(2, p) if width >= height else (p, 2) for p in (0, 2, 4)]
    return [((height - size) * down // 4, (width - size) * right // 4) for down, right in places]


def _at_least(frame: np.ndarray, short_side: int, resize: Resize) -> np.ndarray:
    return resize(frame, short_side) if min(frame.shape[:2]) < short_side else frame


def _cut(frame: np.ndarray, crops: int, size: int) -> np.ndarray:
    """The part of a frame that its crops lie in, so that the rest need not be held; their places in it are the same."""
    corners = crop_corners(frame.shape[0], frame.shape[1], crops, size)
    (top, left), (bottom, right) = corners[0], corners[-1]
    return frame[top : bottom + size, left : right + size]
