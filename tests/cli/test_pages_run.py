"""The commands of the pages on using a network, run one after the other as a reader would."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CLASSES, frames_of_square, make_checkpoint, write_video

from mdtnet.checkpoint import save_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import DataConfig, ModelConfig, RunConfig, TSMConfig
from mdtnet.models.build import build_model

PAGES = Path(__file__).parents[2] / "docs"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
READ = ("predict", "timeline", "features", "live", "pictures", "doctor")
ELSEWHERE = re.compile(r"--engine ray|rtsp://|--live 0|^mdtnet (study|train|serve|test)\b")
"""Commands that need a cluster, a camera or a training."""


def blocks(page: str) -> list[str]:
    """Commands in the blocks of a page, in its order."""
    text = "\n".join(re.findall(r"```[a-z]*\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    found = [line.split("  #")[0].strip() for line in text.splitlines() if line.startswith("mdtnet ")]
    return [command for command in found if not ELSEWHERE.search(command)]


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Path:
    """What the pages suppose a reader to have."""
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    folder = tmp_path_factory.mktemp("reader")
    frames = np.concatenate([frames_of_square(24), frames_of_square(24) // 2, frames_of_square(24)])  # 6 seconds
    videos = ("a.mp4", "day/b.mp4", "c.mp4", "d.mp4")
    for name in ("clip.mp4", "dark.mp4", "day1.mp4", "test/a.mp4", *(f"videos/{name}" for name in videos)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / name, frames[: -len(name)])
    rows = [f"{name},left,0,1\n{name},up,3,4\n" for name in videos]
    (folder / "labels.csv").write_text("path,label,start,end\n" + "".join(rows))
    value = {"ranges": [{"start": 3, "end": 20}], "timelinelabels": ["left"]}
    marks = [{"type": "timelinelabels", "from_name": "videoLabels", "to_name": "video", "value": value}]
    tasks = [{"data": {"video": name, "fps": 12}, "annotations": [{"result": marks}]} for name in videos]
    (folder / "export.json").write_text(json.dumps(tasks))
    for run, system in (("mine", "mdtnet2"), ("mdtnet2", "mdtnet2"), ("tsn", "tsn")):
        (folder / "runs" / run / "checkpoints").mkdir(parents=True)
        make_checkpoint(folder / "runs" / run / "checkpoints/best.pt", system, seconds=1.5)
    online = RunConfig(
        data=DataConfig(num_segments=3, short_side=40, size=32),
        model=ModelConfig(name="tsm", trunk="resnet18", width=0.125, tsm=TSMConfig(causal=True)),
    )
    torch.manual_seed(0)
    save_checkpoint(
        folder / "online.pt", model=build_model(online.model, num_classes=len(CLASSES)), config=online, classes=CLASSES
    )
    assert (
        main(["export", str(folder / "online.pt"), "--stream", "--out", str(folder / "runs/mine/best_stream.onnx")])
        == 0
    )
    checkpoint = folder / "runs/mine/checkpoints/best.pt"
    assert main(["export", str(checkpoint), "--out", str(folder / "best.onnx")]) == 0
    return folder


@pytest.mark.parametrize("page", READ)
def test_every_command_of_the_page_works(page, reader, tmp_path, monkeypatch):
    shutil.copytree(reader, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    commands = blocks((PAGES / f"{page}.md").read_text())
    assert commands
    for command in commands:
        words = shlex.split(command.removeprefix("mdtnet "))
        assert main(words) == 0, command
