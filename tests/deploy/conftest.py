"""Videos, a checkpoint, and what was exported from it."""

from pathlib import Path

import numpy as np
import pytest
from clips import frames_of_square, write_video
from exports import make_checkpoint

from mdtnet.cli.main import main


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    """Videos of several shapes in folders named after classes, one of them damaged."""
    folder = tmp_path_factory.mktemp("videos")
    shapes = {"left/a.mp4": (96, 128), "right/b.mp4": (160, 90), "right/c.mp4": (48, 64)}
    for i, (name, (height, width)) in enumerate(shapes.items()):
        (folder / name).parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 60, (18, height, width, 3), dtype=np.uint8)
        write_video(folder / name, frames_of_square(18, height, width) // 2 + noise)
    (folder / "left/bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="session")
def tsn(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("tsn") / "best.pt", "tsn")


@pytest.fixture(scope="session")
def onnx_file(tsn, videos) -> Path:
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    assert main(["export", str(tsn), "--clips", str(videos)]) == 0
    return tsn.with_name("best.onnx")
