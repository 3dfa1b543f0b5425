"""Tiny videos for tests: a bright square that moves left or right over noise."""

from pathlib import Path

import av
import numpy as np

from mdtnet.config import DataConfig, ModelConfig, RunConfig, TrainConfig


def write_videos(folder: Path, *, per_class: int, seed: int = 0) -> Path:
    """Write `folder/left/*.mp4` and `folder/right/*.mp4`, 24 frames of 40 x 32 pixels; returns `folder`."""
    rng = np.random.default_rng(seed)
    for name, direction in (("left", -1), ("right", 1)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(per_class):
            write_video(folder / name / f"{i:02}.mp4", _moving_square(rng, direction))
    return folder


def _moving_square(rng: np.random.Generator, direction: int) -> np.ndarray:
    frames = np.broadcast_to(rng.integers(0, 90, (32, 40, 3), dtype=np.uint8), (24, 32, 40, 3)).copy()
    top, colour = rng.integers(0, 20), rng.integers(150, 256, 3)
    for t, frame in enumerate(frames[::direction]):
        frame[top : top + 10, t : t + 10] = colour
    return frames


def write_video(path: Path, frames: np.ndarray) -> None:
    """Encode uint8 RGB [N, H, W, 3]."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def config(
    out: Path, train: Path, *, data: dict | None = None, model: dict | None = None, **recipe: object
) -> RunConfig:
    """A run of seconds: TSN on an eighth of a ResNet-18, 2 segments of 32-pixel crops, 2 epochs."""
    return RunConfig(
        out=str(out),
        data=DataConfig(
            **{
                "train": str(train),
                "val": str(train),
                "num_segments": 2,
                "size": 32,
                "short_side": 32,
                **(data or {}),
            }
        ),
        model=ModelConfig(**{"name": "tsn", "trunk": "resnet18", "width": 0.125, "dropout": 0.5, **(model or {})}),
        train=TrainConfig(
            **{"epochs": 2, "batch_size": 4, "lr": 0.16, "device": "cpu", "trackers": ("csv",), **recipe}
        ),
    )
