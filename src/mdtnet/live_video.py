"""What is seen, with the answer drawn into it: as a video file, or in a window."""

import importlib
import importlib.util
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdtnet.config import MDTNetConfig, SaliencyConfig
from mdtnet.data.container import Part
from mdtnet.data.video import Request
from mdtnet.errors import ConfigError
from mdtnet.inference.description import Description
from mdtnet.inference.prediction import Prediction
from mdtnet.inference.resize import resize_short
from mdtnet.inference.sources import open_frames, read_source
from mdtnet.inference.views import clip_table
from mdtnet.live import Answer
from mdtnet.system.files import check_file, is_special, put_in_place, temporary_folder
from mdtnet.system.terminal import plain

BEST = 3  # classes that are drawn
SHORT_SIDE = 256  # pixels of a recorded file, at least
MARK = (255, 214, 60)  # colour of what is said of a key frame
TICKS = 1000  # per second


def draw(frame: np.ndarray, answer: Answer | Prediction | None) -> np.ndarray:
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


def _legible(frame: np.ndarray) -> np.ndarray:
    """A frame large enough to write on: networks may see much smaller ones."""
    return resize_short(frame, SHORT_SIDE) if min(frame.shape[:2]) < SHORT_SIDE else frame


def check_recording(out: str) -> None:
    """Raise ConfigError where `out` is no .mp4 file, or cannot be written."""
    if Path(out).suffix.lower() != ".mp4" or is_special(out):
        raise ConfigError(f"--video is {out}, expected a file that ends in .mp4")
    check_file(out)


class Recorder:
    """Writes an H.264 file; it appears when the recording ends."""

    def __init__(self, out: str) -> None:
        """Raises ConfigError where `out` is no .mp4 file, or cannot be written."""
        check_recording(out)
        self.out, self.stack = Path(out), ExitStack()
        self.part = self.stack.enter_context(temporary_folder(self.out.parent)) / self.out.name
        self.container = av.open(str(self.part), "w", format="mp4")
        self.stream: av.video.stream.VideoStream | None = None
        self.last = -1
        self.newest: Answer | Prediction | None = None
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

    def answer(self, answer: Answer | Prediction) -> None:
        self.newest = answer

    def frame(self, seconds: float, frame: np.ndarray) -> None:
        """Add a frame, uint8 RGB [H, W, 3], shown at `seconds`; later ones are scaled to the size of the first."""
        frame = _legible(frame)
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


def record(
    source: Part, prediction: Prediction, out: str, *, about: Description, saliency: SaliencyConfig | None = None
) -> None:
    """Write a video, H.264, with a prediction of it: bars of the best classes, salience, the key frames marked.

    `about` describes the network, `saliency` its salience maps. Without torch, which computes them, there are none.

    Raises:
        ConfigError: `out` is no .mp4 file, or cannot be written. VideoError: the source cannot be read.
    """
    request = Request(lambda n: np.zeros(1, dtype=np.int64), fps=about.fps, frame_pattern=about.frame_pattern)
    count = read_source(source, request).num_frames
    moments = clip_table(count, about)[0, :, min(MDTNetConfig.key_frame, about.frames_per_segment - 1)]
    with Recorder(out) as recorder, open_frames(source, short_side=SHORT_SIDE) as frames:
        recorder.answer(prediction)
        times: list[float] = []
        for number, (frame, salience) in enumerate(_salient(frames, saliency or SaliencyConfig(), times)):
            place = int(times[number] * about.fps + 1e-6) if about.fps else number
            key = np.flatnonzero(moments == place)
            recorder.frame(times[number], _marked(frame, salience, key[:1] + 1, len(moments)))


def _salient(
    frames: Iterable[tuple[float, np.ndarray]], saliency: SaliencyConfig, times: list[float]
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Each frame and its salience, None without torch; `times` gets the seconds of the frames."""
    if importlib.util.find_spec("torch") is None:
        for seconds, frame in frames:
            times.append(seconds)
            yield frame, None
        return
    from mdtnet.pages.pictures import SlidingSalience

    sliding = SlidingSalience(saliency, MDTNetConfig.frames_per_segment)
    for seconds, frame in frames:
        times.append(seconds)
        yield from sliding.push(frame)
    yield from sliding.finish()


def _marked(frame: np.ndarray, salience: np.ndarray | None, key: np.ndarray, count: int) -> np.ndarray:
    """The frame with its salience over it; the key frame number `key` of `count` with a border and that number."""
    if salience is not None:
        from mdtnet.pages.sheet import COLOURS

        share = 0.6 * (salience - salience.min())[..., None]  # a map that is bright everywhere says nothing
        frame = ((1 - share) * frame + share * COLOURS(salience, bytes=True)[..., :3]).astype(np.uint8)
    if not len(key):
        return frame
    picture = Image.fromarray(frame)
    pen, size = ImageDraw.Draw(picture), max(9, frame.shape[0] // 20)
    pen.rectangle((0, 0, frame.shape[1] - 1, frame.shape[0] - 1), outline=MARK, width=max(2, size // 4))
    pen.text((size, size), f"segment {key[0]} of {count}", fill=MARK, font=ImageFont.load_default(size))
    return np.asarray(picture)


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
        self.picture = _legible(frame)

    def answer(self, answer: Answer) -> None:
        """Show the newest frame with the answer."""
        if self.picture is not None:
            self.cv2.imshow(self.title, np.ascontiguousarray(draw(self.picture, answer)[..., ::-1]))
            self.cv2.waitKey(1)
