"""A folder with a small thing under every name that pages use: videos, labels, runs, exports, public checkpoints."""

import csv
import json
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli.test_experiments import write_lists, write_videos
from documentation import exports
from official import MMACTION, renamed
from PIL import Image
from tiny import write_video
from torchvision.models import MobileNet_V2_Weights, ResNet50_Weights, mobilenet_v2, resnet50

from mdtnet.builtin.render import RenderConfig, encode, render_clip, render_dataset
from mdtnet.checkpoint import save_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import ModelConfig, RunConfig, TSMConfig
from mdtnet.models.build import build_model
from mdtnet.zoo.table import TABLE, entry_named

CLASSES = ("jump", "wave")
MARKS = {"a.mp4": "jump", "b.mp4": "jump", "c.mp4": "jump", "e.mp4": "wave", "f.mp4": "wave", "g.mp4": "wave"}
TINY = (
    "--train.epochs 1 --train.batch_size 4 --train.device cpu --data.num_segments 2 --data.short_side 72 "
    "--data.size 64 --trunk resnet18 --model.width 0.25 --data parts/train --data.val parts/val"
)
STUDY = {
    "run": {
        "data": {"num_segments": 2, "short_side": 40, "size": 32},
        "model": {"trunk": "resnet18", "width": 0.125, "weights": ""},
        "train": {"epochs": 1, "batch_size": 4, "device": "cpu"},
    },
    "systems": ["tsn"],
    "data": {"own": {"train": "videos", "val": "test"}},
    "seeds": [0, 1],
}
DATASETS = {"ucf101": ".", "hmdb51": ".", "kinetics400": "annotations", "sthv1": ".", "sthv2": "."}
"""Official data set -> where its lists are."""


def make_home(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Fill a folder; public weights and ImageNet's are found through environment variables."""
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as here:
        here.chdir(home)
        make_videos()
        make_labels()
        make_runs()
        make_datasets()
    patch.setenv("MDTNET_HOME", str(folder / "cache"))
    patch.setenv("MDTNET_ZOO", str(make_zoo(folder / "zoo")))
    patch.setenv("TORCH_HOME", str(make_imagenet(folder / "torch")))
    return home


def make_videos() -> None:
    """`parts` has clips in train, val and test; `videos` and `test` have clips a to h, by class."""
    render_dataset("parts", RenderConfig(train_clips=4, val_clips=2, size=72, actions=CLASSES))
    render_dataset("other", RenderConfig(train_clips=1, val_clips=2, size=72, actions=CLASSES, seed=1))
    shutil.move("other/val", "parts/test")
    names = iter("abcdefgh")
    for action in CLASSES:
        Path("videos", action).mkdir(parents=True)
        for path in sorted(Path("parts/train", action).glob("*.mp4")):
            shutil.copy(path, f"videos/{action}/{next(names)}.mp4")
    shutil.copytree("videos", "test")
    for name in ("clip.mp4", "dark.mp4", "a.mp4", "b.mp4"):
        shutil.copy("videos/jump/a.mp4", name)
    clips = [render_clip(action, index, config=RenderConfig(size=72)) for index in range(3) for action in CLASSES]
    Path("day1.mp4").write_bytes(encode(np.concatenate(clips), fps=30))
    Path("more").mkdir()
    write_video(Path("more/a.avi"), clips[0])


def make_labels() -> None:
    """Lists, and what annotation tools export."""
    paths = {path.name: f"{path.parent.name}/{path.name}" for path in sorted(Path("videos").rglob("*.mp4"))}
    several = ("jump|wave", "jump", "wave", "")
    write_rows("my_list.csv", "path,label", ((path, path.partition("/")[0]) for path in paths.values()))
    write_rows("my_labels.csv", "path,label", ((path, several[i % 4]) for i, path in enumerate(paths.values())))
    write_rows("labels.csv", "path,label,start,end", ((paths[v], label, 0.1, 0.5) for v, label in MARKS.items()))
    write_rows("LIST", "path,label", [("clip.mp4", "jump")])
    write_rows("kinetics.csv", "path,label", [("clip.mp4", "abseiling")])
    Path("classes.txt").write_text("jump\nwave\n")
    Path("export.json").write_text(exports.label_studio(MARKS))
    with zipfile.ZipFile("task.zip", "w") as archive:
        archive.writestr("annotations.xml", exports.cvat(MARKS))
    Path("activity_net.v1-3.min.json").write_text(exports.activitynet(MARKS))
    Path("project.json").write_text(exports.via(MARKS))
    Path("mine.yaml").write_text(yaml.safe_dump(STUDY))
    command("data prepare csv --root videos --annotations my_list.csv --out lists")


def write_rows(name: str, header: str, rows: Iterable[tuple[object, ...]]) -> None:
    with open(name, "w", newline="") as file:
        csv.writer(file).writerows([header.split(","), *rows])


def make_runs() -> None:
    """Two small runs, tests and exports of the quick one, and files of other people's networks."""
    command(f"train {TINY} --model tsn --out runs/mine")
    command(f"train {TINY} --model mdtnet2 --out runs/mdtnet2")
    best = "runs/mine/checkpoints/best.pt"
    command(f"test {best} --data parts/val --protocol accurate --out runs/mine/test_val_accurate")
    for name in ("eight", "sixteen"):
        shutil.copytree("runs/mine/test_val_accurate", f"runs/{name}/test")
    shutil.copytree("runs/mine", "runs/tsn")
    for options in ("--format onnx", "--format torch", "--stream"):
        command(f"export {best} --clips parts/test {options}")
    shutil.copy("runs/mine/best.onnx", "best.onnx")
    shutil.copy("runs/mine/best.onnx.json", "best.onnx.json")
    model = build_model(ModelConfig(name="tsn", trunk="resnet18"), num_classes=len(CLASSES))
    for name in ("tdn.pth", "mine.pth"):
        torch.save({"state_dict": renamed(model, MMACTION)}, name)
    shutil.copytree(Path(__file__).parents[2] / "docs/results/ut_sets", "docs/results/ut_sets")


def command(words: str) -> None:
    assert main(words.split()) == 0, words


def make_datasets() -> None:
    """Stand-ins for data sets with official lists: these lists, and few tiny videos that they name."""
    frames = np.random.default_rng(0).integers(0, 256, (20, 72, 80, 3), dtype=np.uint8)
    write_video(Path("noise.mp4"), frames)
    pictures = [Path(f"{i:05}.jpg") for i in range(1, len(frames) + 1)]
    for path, frame in zip(pictures, frames):
        Image.fromarray(frame).save(path)
    for name, lists in DATASETS.items():
        root = Path("data", name)
        (root / lists).mkdir(parents=True)
        write_lists(root / lists, name)
        write_videos(root, name, Path("noise.mp4"), pictures)
    for number in ("1", "2"):
        place = Path("jester/20bn-jester-v1", number)
        place.mkdir(parents=True)
        for path in pictures:
            shutil.copy(path, place)
    for name, text in {
        "train": "1;Swiping Left\n",
        "validation": "2;Swiping Left\n",
        "labels": "Swiping Left\n",
    }.items():
        Path(f"jester/jester-v1-{name}.csv").write_text(text)


def make_zoo(folder: Path) -> Path:
    """A table with names of the zoo whose files lie beside it: random weights under their own names."""
    folder.mkdir()
    names = ("tsm-resnet50-kinetics400-8f", "tsm-resnet50-sthv2-8f", "tsm-mobilenet_v2-jester-online-mit")
    rows = [row for row in json.loads(TABLE.read_text())["checkpoints"] if row["name"] in names]
    for row in rows:
        row["addresses"] = [f"{row['name']}.pth"]
        row.pop("sha256_prefix", None)
        config = ModelConfig(name=row["system"], trunk=row["trunk"], tsm=TSMConfig(causal=row.get("causal", False)))
        model = build_model(config, num_classes=row["classes"])
        if config.tsm.causal:
            classes = entry_named(row["name"]).class_names()
            save_checkpoint(folder / row["addresses"][0], model=model, config=RunConfig(model=config), classes=classes)
        else:
            torch.save({"state_dict": renamed(model, MMACTION, shift=True)}, folder / row["addresses"][0])
    (folder / "table.json").write_text(json.dumps({"version": 1, "checkpoints": rows}))
    return folder / "table.json"


def make_imagenet(folder: Path) -> Path:
    """A cache of torch.hub with random weights in the place of ImageNet's."""
    place = folder / "hub" / "checkpoints"
    place.mkdir(parents=True)
    for network, weights in ((mobilenet_v2, MobileNet_V2_Weights), (resnet50, ResNet50_Weights)):
        torch.save(network().state_dict(), place / weights.IMAGENET1K_V1.url.rpartition("/")[2])
    return folder
