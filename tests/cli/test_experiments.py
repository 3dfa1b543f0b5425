"""The paper's experiments, `configs/DATASET/SYSTEM.yaml`: recipe, lists, start, and one step of each."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from mdtnet.checkpoint import load_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import SYSTEMS, EvalConfig, RunConfig, protocol_name
from mdtnet.config_file import PRESETS, load_yaml
from mdtnet.data.prepare import prepare
from mdtnet.data.splits import load_split
from mdtnet.models.build import build_model
from mdtnet.training.loop import train

CONFIGS = PRESETS / "configs"
CLASSES = {"ucf101": 2, "hmdb51": 2, "kinetics400": 3, "sthv1": 2, "sthv2": 2}  # of small stand-ins for the data sets
SMALL = ("ucf101", "hmdb51")
PATHS = {(name, system): CONFIGS / name / f"{system}.yaml" for name in CLASSES for system in SYSTEMS}


@pytest.fixture(scope="module")
def experiments() -> dict[tuple[str, str], RunConfig]:
    return {key: load_yaml(path) for key, path in PATHS.items()}


# What they say


def test_every_system_on_every_data_set_and_nothing_else():
    assert sorted(PATHS.values()) == sorted(CONFIGS.glob("*/*.yaml"))


@pytest.mark.parametrize("key", PATHS, ids="/".join)
def test_recipe(experiments, key):
    name, system = key
    config = experiments[key]
    data, model, recipe = config.data, config.model, config.train
    assert (model.name, model.trunk, model.width, model.freeze) == (system, "resnet50", 1.0, "none")
    assert data.num_segments == (16 if name in SMALL else 8)
    assert (data.short_side, data.size, data.crop) == (256, 224, "random")
    assert data.flip == ("swap" if name.startswith("sth") else True)
    assert (recipe.epochs, recipe.schedule, recipe.steps, recipe.decay) == (70, "steps", (30, 40, 50), 0.1)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 1e-4)
    assert (recipe.lr, recipe.batch_size, recipe.clip_grad) == (0.01, 64, 20)
    fine_tuned = name in SMALL
    assert (recipe.partial_bn, recipe.classifier_lr) == (fine_tuned, 5 if fine_tuned else 1)
    assert protocol_name(config.test) == "accurate"
    assert bool(data.val) != bool(data.group)  # a part of its own, or groups split off


@pytest.mark.parametrize("name", CLASSES)
def test_systems_differ_in_nothing_else(experiments, name):
    same = {
        replace(config, out="", model=replace(config.model, name="tsn", weights=""))
        for (of, _), config in experiments.items()
        if of == name
    }
    assert len(same) == 1


def test_starts_are_what_the_kinetics_runs_write(experiments):
    outs = {key: config.out for key, config in experiments.items()}
    assert len(set(outs.values())) == len(outs)
    for (name, system), config in experiments.items():
        start = f"{outs['kinetics400', system]}/checkpoints/best.pt" if name in SMALL else "imagenet"
        assert config.model.weights == start, (name, system)


@pytest.mark.parametrize("system", SYSTEMS)
def test_networks_of_full_size(experiments, system):
    (model,) = {replace(experiments[name, system].model, weights="") for name in CLASSES}
    with torch.device("meta"):
        built = build_model(model, num_classes=400)
    assert built.head.fc.weight.shape == (400, 2048)
    assert sum(p.numel() for p in built.trunk.parameters()) > 23e6


# What they do: a site with the official lists, and few tiny videos that these lists name

STEMS = {
    "ucf101": "v_{label}_g{i:02}_c01",
    "hmdb51": "film{i}_{label}_u_nm_np1_fr_goo_0",
    "kinetics400": "{i:011}_000000_000010",
    "sthv1": "{i}",
    "sthv2": "{i}",
}


def listed(name: str) -> dict[str, list[tuple[str, str]]]:
    """(Stem, class) of the videos of each part."""
    parts = {"train": (0, 1, CLASSES[name] - 1, 0), "val": (1,)}  # labels
    places = enumerate((part, f"Class{label:03}") for part, labels in parts.items() for label in labels)
    found: dict[str, list[tuple[str, str]]] = {"train": [], "val": []}
    for i, (part, label) in places:
        found[part].append((STEMS[name].format(i=i, label=label), label))
    return found


def write_lists(root: Path, name: str) -> None:
    classes = [f"Class{i:03}" for i in range(CLASSES[name])]
    rows = listed(name)
    texts: dict[str, list[str]] = {}
    if name == "ucf101":
        texts["classInd.txt"] = [f"{i} {label}" for i, label in enumerate(classes, start=1)]
        for split in "123":
            texts[f"trainlist0{split}.txt"] = [f"{c}/{v}.avi {int(c[5:]) + 1}" for v, c in rows["train"]]
            texts[f"testlist0{split}.txt"] = [f"{c}/{v}.avi" for v, c in rows["val"]]
    elif name == "hmdb51":
        for label in classes:
            of = [f"{v}.avi {use}" for use, part in ((1, "train"), (2, "val")) for v, c in rows[part] if c == label]
            texts |= {f"{label}_test_split{split}.txt": of for split in "123"}
    elif name == "kinetics400":
        head = "label,youtube_id,time_start,time_end,split"
        gone = [f"{c},gone{i:07},0,10,train" for i, c in enumerate(classes)]
        texts["train.csv"] = [head, *(f"{c},{v[:11]},0,10,train" for v, c in rows["train"]), *gone]
        texts["validate.csv"] = [head, *(f"{c},{v[:11]},0,10,validate" for v, c in rows["val"])]
    else:
        for part, official in (("train", "train"), ("val", "validation")):
            entries = [{"id": v, "template": c} for v, c in rows[part]]
            stem = f"something-something-v{name[-1]}-{official}"
            table = [f"{v};{c}" for v, c in rows[part]]
            texts |= {f"{stem}.csv": table} if name == "sthv1" else {f"{stem}.json": [json.dumps(entries)]}
        numbers = {label: str(i) for i, label in enumerate(classes)}
        texts |= {"something-something-v1-labels.csv": classes} if name == "sthv1" else {
            "something-something-v2-labels.json": [json.dumps(numbers)]
        }  # fmt: skip
    for file, lines in texts.items():
        (root / file).write_text("".join(f"{line}\n" for line in lines))


def write_videos(root: Path, name: str, video: Path, pictures: list[Path]) -> None:
    suffix = {"ucf101": ".avi", "hmdb51": ".avi", "kinetics400": ".mp4", "sthv1": "", "sthv2": ".webm"}[name]
    (root / "videos").mkdir()
    for stem, _ in (row for rows in listed(name).values() for row in rows):
        place = root / "videos" / f"{stem}{suffix}"
        if suffix:
            shutil.copy(video, place)
        else:
            place.mkdir()
            for i, picture in enumerate(pictures, start=1):
                shutil.copy(picture, place / f"{i:05}.jpg")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A working folder with `data/DATASET` as the configs' first lines tell to prepare it."""
    folder = tmp_path_factory.mktemp("site")
    frames = np.random.default_rng(0).integers(0, 256, (20, 36, 40, 3), dtype=np.uint8)
    tiny.write_video(folder / "video.mp4", frames)
    pictures = [folder / f"{i}.jpg" for i in range(len(frames))]
    for path, frame in zip(pictures, frames):
        Image.fromarray(frame).save(path)
    for name in CLASSES:
        root = folder / "data" / name
        root.mkdir(parents=True)
        write_lists(root, name)
        write_videos(root, name, folder / "video.mp4", pictures)
        prepare(name, root=str(root), out=str(root / "lists"), split="all" if name in SMALL else "1")
    return folder


def shrunk(config: RunConfig) -> RunConfig:
    """The same run, small: nothing but sizes, and no weights from the network."""
    weights = "" if config.model.weights == "imagenet" else config.model.weights
    return replace(
        config,
        data=replace(config.data, short_side=32, size=32, workers=0),
        model=replace(config.model, width=0.125, weights=weights),
        train=replace(config.train, epochs=1, batch_size=4, device="cpu", trackers=("csv",)),
    )


@pytest.mark.parametrize("system", SYSTEMS)
def test_one_step_of_each(experiments, site, system, monkeypatch):
    """Every system, and a start from its own run; every data set with one of them: configs differ in nothing else."""
    monkeypatch.chdir(site)
    for name in ("kinetics400", "ucf101", *(("hmdb51", "sthv1", "sthv2") if system == "mdtnet2" else ())):
        check_one_step(name, shrunk(experiments[name, system]))


def check_one_step(name: str, config: RunConfig) -> None:
    learned, held_out = load_split(config.data)
    assert len(learned.classes) == CLASSES[name]
    assert (len(learned), len(held_out)) == ((3, 1) if name in SMALL else (4, 1))
    result = train(config)
    assert (result.epochs, result.unreadable) == (1, {})
    assert math.isfinite(result.history[0]["train_loss"])
    best = load_checkpoint(Path(config.out, "checkpoints/best.pt"))
    assert best.classes == tuple(f"Class{i:03}" for i in range(CLASSES[name]))
    assert best.config.test == EvalConfig(clips=10, crops=3)
    said = Path(config.out, "train.log").read_text()
    assert "learning rate 0.01 x 4 / 64 = 0.000625" in said
    if config.model.weights:
        assert f"start: {config.model.weights} (mdtnet, {config.model.name} on resnet50)" in said
        assert f"start: classifier of 3 classes replaced by a new one of {CLASSES[name]}" in said
        assert "start: afresh head 2\n" in said  # and nothing else


def test_three_splits_and_their_mean_by_command(site, monkeypatch, capsys):
    monkeypatch.chdir(site)
    small = ["--model.weights", "", "--model.width", "0.125", "--data.size", "32", "--data.short_side", "32"]
    small += ["--data.workers", "0", "--train.epochs", "1", "--train.batch_size", "4", "--train.device", "cpu"]
    tests = []
    for split in "123":
        lists, out = f"data/ucf101/lists/split{split}", f"runs/three_{split}"
        given = ["--config", str(PATHS["ucf101", "tsn"]), "--data", f"{lists}/train.csv", "--out", out]
        assert main(["train", *given, *small]) == 0
        tests.append(f"{out}/test")
        tested = ["--data", f"{lists}/val.csv", "--root", "data/ucf101", "--out", tests[-1]]
        assert main(["test", f"{out}/checkpoints/best.pt", *tested, "--device", "cpu"]) == 0
        stored = json.loads(Path(tests[-1], "metrics.json").read_text())["protocol"]
        assert (stored["preset"], stored["crop_size"], stored["num_segments"]) == ("accurate", 32, 16)
    capsys.readouterr()
    assert main(["mean", *tests]) == 0
    assert "mean" in capsys.readouterr().out
