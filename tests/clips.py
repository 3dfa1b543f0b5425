"""A video to look at, a checkpoint that knows six classes, and what it says of a part of a video."""

from pathlib import Path

import av
import numpy as np
import torch

from mdtnet.checkpoint import save_checkpoint
from mdtnet.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from mdtnet.data.container import Part
from mdtnet.data.frames import resize
from mdtnet.data.video import Request, read_frames
from mdtnet.inference.recogniser import Recogniser
from mdtnet.inference.views import clip_table, prepared, views_of
from mdtnet.models.build import build_model

FPS = 12
CLASSES = ("left", "right", "up", "down", "still", "wave")


def frames_of_square(num_frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    """A bright square that moves by 2 pixels a frame over a dark ground with a bright still bar."""
    frames = np.full((num_frames, height, width, 3), 40, dtype=np.uint8)
    frames[:, height - 12 : height - 6] = 230
    for i, frame in enumerate(frames):
        frame[20:40, 4 + 2 * i : 24 + 2 * i] = 220
    return frames


def write_video(path: Path, frames: np.ndarray, *, codec: str = "libx264", pixels: str = "yuv420p") -> Path:
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def make_checkpoint(path: Path, name: str = "mdtnet2", *, seconds: float = 0.0, **test) -> Path:
    """`seconds` is the length of the clips that it is said to be trained on."""
    config = RunConfig(
        data=DataConfig(num_segments=3, short_side=40, size=32, cache=str(path.parent / "cache")),
        model=ModelConfig(name=name, trunk="resnet18", width=0.25),
        test=EvalConfig(**test),
    )
    torch.manual_seed(5)
    model = build_model(config.model, num_classes=len(CLASSES))
    torch.nn.init.normal_(next(iter(model.head.parameters())))  # so that predictions differ
    model.clip_seconds = seconds
    save_checkpoint(path, model=model, config=config, classes=CLASSES)
    return path


def probabilities_of_part(model: Recogniser, path: Path | str, start: float, end: float) -> np.ndarray:
    """Probabilities [classes] of a part of a video in seconds, read as a row of a list is."""
    description = model.description
    request = Request(
        lambda n: clip_table(n, description)[0],
        short_side=description.short_side,
        transform=lambda frame: prepared(frame, description, resize=resize),
        fps=description.fps,
    )
    pixels = read_frames(Part(str(path), start, end), request).pixels
    table = np.arange(pixels.shape[0] * pixels.shape[1]).reshape(1, *pixels.shape[:2])
    return model.probabilities(views_of(pixels.reshape(-1, *pixels.shape[2:]), table, description, resize=resize))
