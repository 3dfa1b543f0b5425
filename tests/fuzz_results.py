"""Kinds of input of `fuzz` that networks, runs and studies leave: files that are read back."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz import Input, mutate_bytes, mutate_text, mutate_values

from mdtnet.checkpoint import load_model, save_checkpoint, save_safetensors
from mdtnet.config import ModelConfig, RunConfig
from mdtnet.config_file import save_yaml
from mdtnet.inference.description import Description, clip_shape, describe
from mdtnet.models.build import build_model
from mdtnet.pages.report import build_comparison, build_report
from mdtnet.scores import ScoreTable, save_results
from mdtnet.study.grid import load_study
from mdtnet.study.page import build_study
from mdtnet.study.predictions import add_predictions
from mdtnet.study.results import RESULTS, RunRow, append_row, write_configs
from mdtnet.system.files import write_csv
from mdtnet.training.run_folder import COLUMNS

CLASSES = ("a", "b", "c")
STUDY = """systems: [tsn, mdtnet2]
run: {data: {num_segments: 2, size: 32, short_side: 32}, model: {trunk: resnet18, width: 0.125}}
data: {tiny: {render: {train_clips: 2, val_clips: 3, size: 32, fps: 10, actions: [sit_down, stand_up]}}}
seeds: [0, 1]
"""


def make_seeds(folder: Path) -> None:
    """Write a network in two formats, the description of an export, a run, and a study."""
    config = RunConfig(model=ModelConfig(name="tsn", trunk="resnet18", width=0.125))
    torch.manual_seed(0)
    model = build_model(config.model, num_classes=3)
    save_checkpoint(folder / "model.pt", model=model, config=config, classes=CLASSES)
    save_safetensors(folder / "model.safetensors", model=model, config=config, classes=CLASSES)
    described = describe(config, classes=CLASSES, frames_per_segment=1)
    (folder / "description.json").write_text(described.to_json())
    _write_run(folder / "run", config)
    _write_study(folder / "study")


def _write_run(folder: Path, config: RunConfig) -> None:
    """The files that a run and its test leave, of which a report is made."""
    rng, labels = np.random.default_rng(0), np.arange(9) % 3
    table = ScoreTable(
        names=[f"{CLASSES[label]}/{i}.mp4" for i, label in enumerate(labels)],
        labels=labels,
        view_clip=np.array([0, 1]),
        view_crop=np.array([0, 0]),
        scores=rng.normal(size=(9, 2, 3)).astype(np.float32),
        errors=[*[""] * 8, "truncated after 9 frames"],
        classes=CLASSES,
        protocol={"clips": 2, "crops": 1, "crop_size": 56, "num_segments": 8, "fusion": "softmax"},
    )
    table.scores[8] = np.nan
    save_results(folder, table, config.test)
    save_yaml(config, folder / "config.yaml")
    numbers = dict.fromkeys(COLUMNS, 0.5)
    write_csv(folder / "log.csv", COLUMNS, [{**numbers, "epoch": epoch} for epoch in (1, 2, 3)])
    write_csv(folder / "unreadable.csv", ("path", "reason"), [{"path": "c/x.mp4", "reason": "empty file"}])
    (folder / "train.log").write_text("2 epochs\nbest: 0.5\n")


def _write_study(folder: Path) -> None:
    """The results of four runs, of which a study's page is made."""
    folder.mkdir()
    (folder / "study.yaml").write_text(STUDY)
    study = load_study(folder / "study.yaml")
    study = replace(study, results=folder / "results")
    write_configs(study)
    clips = {f"{i}.mp4": i % 2 for i in range(6)}
    about: dict[str, Any] = {"labels": clips, "groups": dict.fromkeys(clips, "a"), "classes": ("sit_down", "stand_up")}
    counts = {"videos": 6, "unreadable": 0, "clips": 1, "crops": 1, "views": 1, "parameters": 9, "epochs": 2}
    texts = {"trunk": "resnet18", "machine": "a laptop", "commit": "abc", "date": "2026-01-01T00:00:00+00:00"}
    for i, spec in enumerate(study.specs):
        key = {"system": spec.system, "variant": spec.variant, "data": spec.data.name, "fold": None, "seed": spec.seed}
        numbers = {"top1": 0.2 * i, "top5": None, "mean_class": 0.2 * i, "pairs": None, "gmacs": 1.0, "seconds": 60.0}
        values: dict[str, Any] = {**key, **numbers, **counts, **texts, "study": "tiny", "config": spec.hash}
        append_row(study.results / RESULTS, RunRow(**values))
        add_predictions(study.results, spec, {name: i % 2 for name in clips}, **about)


def try_checkpoint(given: Input, rng: random.Random) -> str:
    whole = Path(given.seeds, rng.choice(("model.pt", "model.safetensors")))
    path = Path(given.folder, whole.name)
    path.write_bytes(mutate_bytes(whole.read_bytes(), rng, others=[whole.read_bytes()]))
    found, expected = (load_model(p).state_dict() for p in (path, whole))
    if any(not torch.equal(found[key], value) for key, value in expected.items()):
        raise AssertionError("other weights from a changed checkpoint")
    return "read"


def try_description(given: Input, rng: random.Random) -> str:
    """What an exported file says of itself."""
    text = Path(given.seeds, "description.json").read_text()
    if rng.random() < 0.7:
        changed = json.dumps(mutate_values(json.loads(text), rng))
    else:
        changed = mutate_text(text, rng).decode(errors="replace")
    found = Description.from_json(changed, where="x.onnx")
    clip_shape(found), found.to_json()
    [name.upper() for name in found.classes]
    return "read"


def try_run(given: Input, rng: random.Random) -> str:
    """Reports of a run: a damaged file of it is named on the page, or refused."""
    folder = Path(given.folder, "run")
    shutil.copytree(Path(given.seeds, "run"), folder)
    path = rng.choice(sorted(folder.iterdir()))
    if path.suffix == ".npz":
        _change_arrays(path, rng)
    else:
        _change_text(path, rng)
    if path.name != "scores.npz" and rng.random() < 0.5:
        (folder / "scores.npz").unlink()  # `metrics.json` is what is left
    build_report(folder)
    build_comparison([folder, Path(given.seeds, "run")], Path(given.folder, "both.html"))
    return "read"


def try_study(given: Input, rng: random.Random) -> str:
    folder = Path(given.folder, "study")
    shutil.copytree(Path(given.seeds, "study"), folder)
    _change_text(rng.choice([folder / "study.yaml", *sorted((folder / "results").iterdir())]), rng)
    study = load_study(folder / "study.yaml")
    build_study(replace(study, results=folder / "results"))
    return "read"


def _change_text(path: Path, rng: random.Random) -> None:
    text = path.read_text()
    if path.suffix == ".json" and rng.random() < 0.7:
        path.write_text(json.dumps(mutate_values(json.loads(text), rng)))
    else:
        path.write_bytes(mutate_text(text, rng))


def _change_arrays(path: Path, rng: random.Random) -> None:
    """One array cut, of another kind, of another shape, with odd values, or left out; or any bytes of the file."""
    if rng.random() < 0.3:
        path.write_bytes(mutate_bytes(path.read_bytes(), rng, others=[path.read_bytes()]))
        return
    with np.load(path) as file:
        arrays = dict(file)
    name = rng.choice(list(arrays))
    array = arrays[name]
    changes: list[Callable[[], Any]] = [
        lambda: array[: len(array) // 2] if array.ndim else array,
        lambda: array.astype(str),
        lambda: np.full_like(array, rng.choice((0, 1, 77))) if array.dtype.kind != "U" else array[..., None],
        lambda: array.reshape(-1)[:1],
        lambda: array[None],
        lambda: np.zeros(array.shape, np.complex64),
        lambda: array.astype(np.float32) * np.nan if array.dtype.kind in "fi" else np.array(""),
    ]
    arrays[name] = rng.choice(changes)()
    if rng.random() < 0.1:
        del arrays[name]
    np.savez(path, **arrays)
