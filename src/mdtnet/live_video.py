"""What is seen live, with the answer drawn into it: as a video file, or in a window."""

import importlib
import threading
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdtnet.errors import ConfigError
from mdtnet.live import Answer
from mdtnet.system.files import check_file, is_special, put_in_place, temporary_folder
from mdtnet.system.terminal import plain

BEST = 3  # classes that are drawn
TICKS = 1000  # per second


def draw(frame: np.ndarray, answer: Answer | None) -> np.ndarray:
    """The frame, uint8 RGB [H, W, 3], with the best classes and their bars at its foot; the same shape."""
    if answer is None:
        return frame
    picture = Image.fromarray(frame)
    size = max(9, frame.shape[0] // 20)
    pen, font = ImageDraw.Draw(picture, "RGBA"), ImageFont.load_default(size)
    rows = list(zip(answer.classes, answer.probabilities))[:BEST]
    top, row = frame.shape[0] - len(rows) * (size + 6), size + 6
    for i, (name, probability) in enumerate(rows):
        y = top + i * row
        pen.rectangle((0, y, frame.shape[1], y + row), fill=(0, 0, 0, 130))
        pen.rectangle((0, y, round(probability * frame.shape[1]), y + row), fill=(60, 130, 220, 170))
        pen.text((6, y + 1), f"{plain(name)}  {probability:.0%}", fill=(255, 255, 255), font=font)
    return np.asarray(picture)


class Recorder:
    """Writes an H.264 file; it appears when the recording ends."""

    def __init__(self, out: str) -> None:
        """Raises ConfigError where `out` is no .mp4 file, or cannot be written."""
        if Path(out).suffix.lower() != ".mp4" or is_special(out):
            raise ConfigError(f"--video is {out}, expected a file that ends in .mp4")
        check_file(out)
        self.out, self.stack = Path(out), ExitStack()
        self.part = self.stack.enter_context(temporary_folder(self.out.parent)) / self.out.name
        self.container = av.open(str(self.part), "w", format="mp4")
        self.stream: av.video.stream.VideoStream | None = None
        self.last = -1
        self.newest: Answer | None = None
        self.lock = threading.Lock()  # frames come in the reader's thread

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock, self.stack:
            if self.stream is not None:
                self.container.mux(self.stream.encode())
            self.container.close()
            if self.stream is not None:
                put_in_place(self.part, self.out)

    def answer(self, answer: Answer) -> None:
        self.newest = answer

    def frame(self, seconds: float, frame: np.ndarray) -> None:
        """Add a frame, uint8 RGB [H, W, 3], shown at `seconds`; later ones are scaled to the size of the first."""
        with self.lock:
            if self.stream is None:
                self.stream = self._begin(*frame.shape[:2])
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(draw(frame, self.newest)), format="rgb24")
            picture = picture.reformat(self.stream.width, self.stream.height, "yuv420p")
            self.last = max(self.last + 1, round(TICKS * seconds))
            picture.pts, picture.time_base = self.last, Fraction(1, TICKS)
            self.container.mux(self.stream.encode(picture))

    def _begin(self, height: int, width: int) -> "av.video.stream.VideoStream":
        stream = self.container.add_stream("libx264", rate=30)
        stream.height, stream.width = height // 2 * 2, width // 2 * 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.options = {"crf": "23", "preset": "ultrafast", "tune": "zerolatency"}
        return stream


def required_opencv():
    """OpenCV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("cv2")
    except ImportError as error:
        raise ConfigError("--window: needs OpenCV, which is not installed: pip install 'mdtnet[live]'") from error


class Window:
    """A window by OpenCV; drawn from the thread that asks for answers."""

    def __init__(self, title: str) -> None:
        self.title, self.cv2 = f"mdtnet: {title}", required_opencv()
        self.picture: np.ndarray | None = None

    def __enter__(self) -> "Window":
        try:
            self.cv2.namedWindow(self.title)
        except self.cv2.error as error:
            raise ConfigError(
                "--window: this OpenCV has no windows (opencv-python has, the headless one not)"
            ) from error
        return self

    def __exit__(self, *_: object) -> None:
        self.cv2.destroyAllWindows()

    def frame(self, seconds: float, frame: np.ndarray) -> None:
        self.picture = frame

    def answer(self, answer: Answer) -> None:
        """Show the newest frame with the answer."""
        if self.picture is not None:
            self.cv2.imshow(self.title, np.ascontiguousarray(draw(self.picture, answer)[..., ::-1]))
            self.cv2.waitKey(1)
