"""Decoded frames -> RGB: scaled, upright, all of the size of the first one."""

from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from mdtnet.data.container import short_reason
from mdtnet.errors import VideoError

MAX_ASPECT = 8  # a longer strip is squeezed, so that 2 x 2000 pixels do not become 256 x 256000


@lru_cache
def scaled_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width of a frame whose shorter side becomes `short_side` pixels."""
    longest = short_side * MAX_ASPECT
    height, width = (min(round(side * (short_side / min(size))), longest) for side in size)
    return height, width


class Converter:
    """Frames of one video -> RGB `[H, W, 3]`, upright, a view of memory whose rows can have gaps between them.

    With `short_side` in pixels, YUV frames are scaled to `scaled_size` before they become RGB; all others keep their
    size. Later frames that differ are scaled to the size of the first, and turned as that one.
    """

    def __init__(self, path: str, short_side: int | None) -> None:
        self.path, self.short_side = path, short_side
        self.size: tuple[int, int] | None = None
        self._turned: Orientation | None = None
        self._scale, self._convert = VideoReformatter(), VideoReformatter()

    def see(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width in pixels of all frames when they become RGB; `frame` may be the first."""
        if self.size is None:
            self.size = frame.height, frame.width
            if self.short_side and frame.format.name.startswith("yuv"):
                self.size = scaled_size(self.size, self.short_side)
        return self.size

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The frame as RGB.

        Raises:
            VideoError: it cannot be converted.
        """
        height, width = self.see(frame)
        form = frame.format.name if frame.format.name.startswith("yuv") else "rgb24"
        if self._turned is None:  # of the video; looking at every frame takes as long as a tenth of its conversion
            self._turned = orientation(frame)
        try:
            # Scale first, then convert: swscale has a fast path for each step, none for both at once (twice as slow).
            frame = self._scale.reformat(frame, width, height, form, interpolation="BILINEAR", threads=1)
            array = self._convert.reformat(frame, format="rgb24", interpolation="BILINEAR", threads=1).to_ndarray()
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise VideoError(self.path, f"a frame cannot be converted to RGB: {short_reason(error)}") from error
        return self._turned.apply(array)


class Orientation(NamedTuple):
    """How coded frames become upright: rows and columns exchanged, then rows and columns reversed."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, array: np.ndarray) -> np.ndarray:
        """A view of `[H, W, 3]`."""
        if self.transpose:
            array = array.transpose(1, 0, 2)
        return array[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Height and width of a frame when upright."""
        return (frame.width, frame.height) if self.transpose else (frame.height, frame.width)

    @property
    def mirrored(self) -> bool:
        return (self.transpose + self.flip_rows + self.flip_columns) % 2 == 1

    @property
    def degrees(self) -> int:
        """Rotation counter-clockwise, 0, 180, 90 or -90; 0 where the frames are mirrored."""
        if self.mirrored:
            return 0
        return (90 if self.flip_rows else -90) if self.transpose else 180 * self.flip_rows


def orientation(frame: av.VideoFrame) -> Orientation:
    """Orientation by the frame's display matrix, to quarter turns and mirrors."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(data, av.buffer.Buffer):
        return Orientation()
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), dtype=np.int32).tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(False, d < 0, a < 0)
    return Orientation(True, b < 0, c < 0)
