"""`mdtnet timeline` on a long file: time and peak memory.

The file is one clip of every rendered action, 320 pixels at 25 frames/s, again and again. The weights are random, which
changes neither time nor memory; windows are of 4 seconds.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from mdtnet.builtin.actions import ACTIONS
from mdtnet.builtin.render import RenderConfig, render_clip
from mdtnet.checkpoint import save_checkpoint
from mdtnet.config import ModelConfig, RunConfig
from mdtnet.models.build import build_model

FPS = 25


def rendered(path: Path) -> Path:
    config = RenderConfig(size=320, fps=FPS)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "bf": "0"})
        stream.height = stream.width = config.size
        stream.pix_fmt = "yuv420p"
        for frame in np.concatenate([render_clip(action, config=config) for action in ACTIONS]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def repeated(path: Path, out: Path, *, minutes: float) -> Path:
    """The packets of a file again and again, without encoding them anew."""
    with av.open(path) as source, av.open(out, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        base, shown, frames = Fraction(1, FPS), 0, minutes * 60 * FPS
        while shown < frames:
            source.seek(0)
            for packet in source.demux(video=0):
                if packet.pts is not None:
                    packet.stream, packet.time_base, packet.duration = stream, base, 1
                    packet.pts = packet.dts = shown
                    shown += 1
                    container.mux(packet)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--system", default="tsn")
    parser.add_argument("--trunk", default="mobilenet_v2")
    parser.add_argument("--batch_size", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = RunConfig(model=ModelConfig(name=options.system, trunk=options.trunk))
        network = build_model(config.model, num_classes=400)
        classes = [str(i) for i in range(400)]
        save_checkpoint(folder / "x.pt", model=network, config=config, classes=classes)
        video = repeated(rendered(folder / "clips.mp4"), folder / "long.mp4", minutes=options.minutes)
        before = time.perf_counter()
        command = [sys.executable, "-m", "mdtnet", "timeline", folder / "x.pt", video, "--length", "4"]
        subprocess.run([*command, "--out", folder / "out", "--batch_size", str(options.batch_size)], check=True)
        seconds = time.perf_counter() - before
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        print(
            f"{options.system} on {options.trunk}, {options.minutes:g} minutes ({video.stat().st_size / 2**20:.0f} "
            f"MiB): {seconds:.0f} s, peak memory {peak:.2f} GiB; {torch.get_num_threads()} threads, "
            f"torch {torch.__version__}"
        )


if __name__ == "__main__":
    main()
