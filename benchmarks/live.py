"""Online TSM on MobileNetV2 at 224 pixels, live: an ONNX stream on a file that is played at 25 frames per second.

Prints answers, dropped frames and latency. The weights are random, which changes no time. Needs `mdtnet[export]`.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from mdtnet.builtin.actions import ACTIONS
from mdtnet.builtin.render import RenderConfig, encode, render_clip
from mdtnet.checkpoint import save_checkpoint
from mdtnet.config import ModelConfig, RunConfig, TSMConfig
from mdtnet.deploy.export import export
from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.live import Reader, follow, opener, rhythm_of
from mdtnet.models.build import build_model

FPS = 25


def stream_file(folder: Path) -> Path:
    config = RunConfig(model=ModelConfig(name="tsm", trunk="mobilenet_v2", tsm=TSMConfig(causal=True)))
    network = build_model(config.model, num_classes=27)
    save_checkpoint(folder / "x.pt", model=network, config=config, classes=[str(i) for i in range(27)])
    return export(folder / "x.pt", format="onnx", out=folder / "x.onnx", stream=True).path


def rendered(folder: Path) -> Path:
    """One clip of every action, one after the other, 320 pixels wide."""
    clips = [render_clip(action, config=RenderConfig(size=320), split="val") for action in ACTIONS]
    path = folder / "clips.mp4"
    path.write_bytes(encode(np.concatenate(clips), fps=FPS))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", default="", help="a video of 25 frames/s; default: a rendered one")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = options.video or str(rendered(Path(folder)))
        model = ExportedRecogniser.load(stream_file(Path(folder)), threads=options.threads)
        reader = Reader(opener(video, short_side=model.description.short_side), rhythm_of(model.description))
        latencies = [1000 * answer.latency for answer in follow(model, reader, model.description)]
    late = statistics.quantiles(latencies, n=20)[-1]
    print(
        f"{reader.frames} frames, {len(latencies)} answers ({reader.frames / len(latencies):.2f} frames each), "
        f"{reader.dropped} frames dropped; "
        f"latency {statistics.median(latencies):.0f} ms (median), {late:.0f} ms (95 %); "
        f"{options.threads} threads, torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
