"""Development runs: hundreds of small networks on one GPU, in minutes.

    python benchmarks/development.py --out runs/development --root videos/ --jobs 15

Every clip lies decoded in the GPU's memory, and a training step is one CUDA graph, so that a run takes seconds;
`--jobs` processes share the card (start `nvidia-cuda-mps-control -d` first). With `--device cpu` a run takes minutes.
What is trained is the package's own: networks, parameter groups, schedule, sampling of frames, knock-outs. Crops and
mirroring are drawn as `mdtnet train` does, from other random numbers: the same seed is another run there. Results go to
`rows.jsonl`, a line for each run, and runs that are there already are not made again; a table is printed at the end.
`--small` tries all of it on a CPU, with few clips and one epoch.
"""

import argparse
import copy
import json
import multiprocessing
import os
import queue
import re
import time
import traceback
from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdtnet.builtin.render import RenderConfig, encode, render_clip
from mdtnet.config import ModelConfig, TrainConfig
from mdtnet.config_file import from_dict
from mdtnet.data.segments import spread_indices, train_indices
from mdtnet.data.transforms import resize_short
from mdtnet.data.video import read_clip
from mdtnet.models.build import build_model
from mdtnet.models.gates import gate_figures, knocked_out, parts_of
from mdtnet.models.reading import exchange_scenes
from mdtnet.training import recipe

# ---- what is run ----------------------------------------------------------------------------------------

SCRATCH = {"trunk": "resnet18", "width": 0.25, "dropout": 0.2}
STUDY = {
    "optimizer": "adamw",
    "lr": 0.02,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_epochs": 1,
    "clip_grad": 20,
}
IMAGENET = {"trunk": "mobilenet_v2", "weights": "imagenet"}
REAL = {**STUDY, "lr": 0.0024, "warmup_epochs": 2, "classifier_lr": 5}


@dataclass(frozen=True)
class Rendered:
    """A rendered data set: its places and how many clips of each class its parts have."""

    render: RenderConfig
    train: int
    val: int

    @property
    def tests(self) -> tuple[str, ...]:
        """Its validation parts: three where places mislead, one where they say nothing."""
        return ("val", "val_same", "val_neutral") if self.render.scene_bias else ("val",)


CLUTTERED = {"size": 72, "background": "cluttered", "scene_bias": 0.5, "difficulty": 0.5}
MOVING = {"size": 72, "background": "moving", "scene_bias": 0.5}
PLAIN = {"size": 72, "background": "plain", "difficulty": 0.5}
RENDERED = {
    "small": Rendered(RenderConfig(**CLUTTERED, seed=7), 40, 40),
    "large": Rendered(RenderConfig(**CLUTTERED, seed=7), 200, 100),
    "still": Rendered(RenderConfig(**CLUTTERED, seed=301), 200, 100),
    "moving": Rendered(RenderConfig(**MOVING, seed=302), 200, 100),
    "order": Rendered(RenderConfig(**PLAIN, seed=303), 200, 100),
}
"""Name -> data set. `small` and `large` are for development, the others for studies: no choice is made on them."""


@dataclass(frozen=True)
class Protocol:
    """Data and everything that its runs share."""

    train: str
    tests: tuple[str, ...]
    segments: int
    size: int
    short: int
    epochs: int
    batch: int
    stride: int
    model: dict[str, Any]
    recipe: dict[str, Any]
    every: int = 1
    """Trained on every so many of the training clips, as many steps."""


def built_in(name: str, segments: int, size: int, short: int, epochs: int) -> Protocol:
    """Training from scratch on a rendered set."""
    tests = tuple(f"{name}/{part}" for part in RENDERED[name].tests)
    return Protocol(f"{name}/train", tests, segments, size, short, epochs, 16, 2, SCRATCH, STUDY)


PROTOCOLS = {
    "quick": built_in("small", 4, 48, 54, 15),
    "study": built_in("small", 8, 64, 72, 20),
    **{name: built_in(name, 8, 64, 72, 6) for name in ("large", "still", "moving", "order")},
    "still, a quarter": replace(built_in("still", 8, 64, 72, 24), every=4),
    "pushup_phase": Protocol("push_train", ("push_test",), 8, 96, 112, 12, 8, 1, IMAGENET, REAL),
    "ut set 1, odd to even": Protocol("ut_odd", ("ut_even",), 8, 96, 112, 30, 6, 1, IMAGENET, REAL),
    "ut set 1, even to odd": Protocol("ut_even", ("ut_odd",), 8, 96, 112, 30, 6, 1, IMAGENET, REAL),
}

RAW, SCENE = {"input": "raw"}, {"input": "without_scene"}
NONE = {"spatial_difference": "none"}
FIRST = {**NONE, "fine_fusion": "norm", "fine_start": 1.0, "fine_stage1": False, "gate_start": 0.0, "dcme_reach": 0.0}
FIRST_RECIPE = {"decay_norms": True, "offset_lr": 1.0}
AVERAGE = {**NONE, "fine_fusion": "average", "fine_stage1": False}
TDNS = {**NONE, "fine_fusion": "average", "fine_stage1": True}
HALF = {**NONE, "fine_fusion": "norm", "fine_start": 0.5, "fine_stage1": True}
FAST = {"temporal_lr": 10.0}


def fine(**parts: Any) -> dict[str, Any]:
    return {"mdtnet": {**NONE, "fine_fusion": "norm", "fine_start": 1.0, "fine_stage1": False, **parts}}


Variant = tuple[str, str, dict[str, Any], dict[str, Any]]  # name, system, options of the model, of the training

QUICK: list[Variant] = [
    *[("raw", system, RAW, {}) for system in ("tsn", "tsm", "tea", "tdn")],
    *[("without scene", system, SCENE, {}) for system in ("tsn", "tsm", "tea", "tdn")],
    *[("raw, norms decayed", system, RAW, {"decay_norms": True}) for system in ("tsn", "tsm", "tea", "tdn")],
    *[("without median", system, {"input": "median"}, {}) for system in ("tsn", "tdn")],
    *[("learned gain", system, {"input": "learned"}, {}) for system in ("tsn", "tdn")],
    *[("stem of six channels", system, {**SCENE, "input_to": "stem"}, {}) for system in ("tsn", "tdn")],
    ("as before", "mdtnet1", {**RAW, "mdtnet": FIRST}, FIRST_RECIPE),
    ("norm 1", "mdtnet1", {**RAW, **fine()}, {}),
    ("norm 0.5", "mdtnet1", {**RAW, **fine(fine_start=0.5)}, {}),
    ("norm 0.5, stage 1", "mdtnet1", {**RAW, "mdtnet": HALF}, {}),
    ("average", "mdtnet1", {**RAW, "mdtnet": AVERAGE}, {}),
    ("average, stage 1", "mdtnet1", {**RAW, "mdtnet": TDNS}, {}),
    ("average, stage 1, gates from 0", "mdtnet1", {**RAW, "mdtnet": {**TDNS, "gate_start": 0.0}}, {}),
    ("average, stage 1, gates from 1", "mdtnet1", {**RAW, "mdtnet": {**TDNS, "gate_start": 1.0}}, {}),
    ("average, stage 1, temporal_lr 3", "mdtnet1", {**RAW, "mdtnet": TDNS}, {"temporal_lr": 3.0}),
    ("average, stage 1, free offsets", "mdtnet1", {**RAW, "mdtnet": {**TDNS, "dcme_reach": 0.0}}, {"offset_lr": 1.0}),
    ("without scene, as before", "mdtnet2", {**SCENE, "mdtnet": FIRST}, FIRST_RECIPE),
    ("without scene, average", "mdtnet2", {**SCENE, "mdtnet": AVERAGE}, {}),
    ("without scene, average, stage 1", "mdtnet2", {**SCENE, "mdtnet": TDNS}, {}),
    ("the same, gates from 1", "mdtnet2", {**SCENE, "mdtnet": {**TDNS, "gate_start": 1.0}}, {}),
    ("the same, no fine differences", "mdtnet2", {**SCENE, "mdtnet": {**AVERAGE, "fine": False}}, {}),
    ("the same, gradient", "mdtnet2", {**SCENE, "mdtnet": {**TDNS, "spatial_difference": "gradient"}}, {}),
    ("the same, label smoothing 0.1", "mdtnet2", {**SCENE, "mdtnet": TDNS}, {"label_smoothing": 0.1}),
    ("the same, moving average 0.99", "mdtnet2", {**SCENE, "mdtnet": TDNS}, {"ema": 0.99}),
    ("without median, average, stage 1", "mdtnet2", {"input": "median", "mdtnet": TDNS}, {}),
    ("learned gain, average, stage 1", "mdtnet2", {"input": "learned", "mdtnet": TDNS}, {}),
    ("stem of six channels, average, stage 1", "mdtnet2", {**SCENE, "input_to": "stem", "mdtnet": TDNS}, {}),
    ("map per segment, average, stage 1", "mdtnet2", {**RAW, "mdtnet": TDNS, "saliency": {"normalise": "segment"}}, {}),
]
LONG: list[Variant] = [
    *[("raw", system, RAW, {}) for system in ("tsn", "tdn")],
    *[("without scene", system, SCENE, {}) for system in ("tsn", "tdn")],
    ("norm 1", "mdtnet1", {**RAW, **fine()}, {}),
    ("average, stage 1", "mdtnet1", {**RAW, "mdtnet": TDNS}, {}),
    ("without scene, average, stage 1", "mdtnet2", {**SCENE, "mdtnet": TDNS}, {}),
    ("learned gain, average, stage 1", "mdtnet2", {"input": "learned", "mdtnet": TDNS}, {}),
]
NEXT: list[Variant] = [
    ("default", "mdtnet1", {}, {}),
    ("default", "mdtnet2", {}, {}),
    ("without gradient", "mdtnet2", {"mdtnet": HALF}, {}),
    ("without median", "mdtnet2", {"input": "median"}, {}),
    ("exchange 0.5", "mdtnet1", {}, {"exchange": 0.5}),
    ("stem", "mdtnet2", {"input_to": "stem"}, {}),
    ("stem, exchange 0.5", "mdtnet2", {"input_to": "stem"}, {"exchange": 0.5}),
    ("raw", "tdn", {}, {}),
    ("without scene", "tdn", SCENE, {}),
]
EMA = {"ema": 0.99}
LARGE: list[Variant] = [
    *[("raw", system, {}, {}) for system in ("tsn", "tsm", "tdn")],
    ("moving average", "tdn", {}, EMA),
    ("default", "mdtnet1", {}, {}),
    ("moving average", "mdtnet1", {}, EMA),
    ("half the rate", "mdtnet1", {}, {"lr": 0.01}),
    ("average, stage 1", "mdtnet1", {"mdtnet": {"fine_fusion": "average"}}, {}),
    ("default", "mdtnet2", {}, {}),
    ("map, floor 0.2", "mdtnet2", {"saliency": {"floor": 0.2}}, {}),
    ("map without scene, floor 0", "mdtnet2", {"saliency": {"variant": "without_scene", "floor": 0.0}}, {}),
    ("map, in half of the training clips", "mdtnet2", {"saliency": {"drop": 0.5}}, {}),
    ("without median", "mdtnet2", {"input": "median"}, {}),
    ("without scene", "mdtnet2", SCENE, {}),
    ("without median, six-channel stem", "mdtnet2", {"input": "median", "input_to": "stem"}, {}),
]
BOTH: list[Variant] = [("default", system, {}, {}) for system in ("mdtnet1", "mdtnet2")]
BASELINES: list[Variant] = [("default", system, {}, {}) for system in ("tsn", "tsm", "tea", "tdn")]
NO_FINE = {"mdtnet": {"fine": False}}
INPUTS: list[Variant] = [
    *[("without scene", system, SCENE, {}) for system in ("tsn", "tsm", "tea", "tdn", "mdtnet2")],
    *[("without median", system, {"input": "median"}, {}) for system in ("tsn", "tdn", "mdtnet2")],
    ("exchanged scenes in half of the clips", "tdn", {}, {"exchange": 0.5}),
    ("exchanged scenes in half of the clips", "mdtnet1", {}, {"exchange": 0.5}),
    ("no fine differences", "mdtnet1", NO_FINE, {}),
    ("no fine differences", "mdtnet2", NO_FINE, {}),
    ("no fine differences, without scene", "mdtnet2", {**SCENE, **NO_FINE}, {}),
]
"""What every system sees, and the factorial of fine differences and inputs."""
CLIPS: list[Variant] = [
    ("raw", "tsn", RAW, {}),
    ("without scene", "tsn", SCENE, {}),
    ("raw", "tdn", RAW, {}),
    ("raw, temporal_lr 5", "tdn", RAW, {"temporal_lr": 5.0}),
    ("raw, temporal_lr 10", "tdn", RAW, FAST),
    ("raw, temporal_lr 10", "tea", RAW, FAST),
    ("without scene, temporal_lr 10", "tdn", SCENE, FAST),
    ("as before", "mdtnet1", {**RAW, "mdtnet": FIRST}, FIRST_RECIPE),
    ("norm 1, temporal_lr 10", "mdtnet1", {**RAW, **fine()}, FAST),
    ("norm 0.3, temporal_lr 10", "mdtnet1", {**RAW, **fine(fine_start=0.3)}, FAST),
    ("average, temporal_lr 10", "mdtnet1", {**RAW, "mdtnet": AVERAGE}, FAST),
    ("average, stage 1", "mdtnet1", {**RAW, "mdtnet": TDNS}, {}),
    ("average, stage 1, temporal_lr 5", "mdtnet1", {**RAW, "mdtnet": TDNS}, {"temporal_lr": 5.0}),
    ("average, stage 1, temporal_lr 10", "mdtnet1", {**RAW, "mdtnet": TDNS}, FAST),
    ("average, stage 1, gates from 1", "mdtnet1", {**RAW, "mdtnet": {**TDNS, "gate_start": 1.0}}, {}),
    ("average, stage 1, gates from 1, temporal_lr 10", "mdtnet1", {**RAW, "mdtnet": {**TDNS, "gate_start": 1.0}}, FAST),
    ("without scene, average, stage 1, temporal_lr 10", "mdtnet2", {**SCENE, "mdtnet": TDNS}, FAST),
    ("the same, gates from 1", "mdtnet2", {**SCENE, "mdtnet": {**TDNS, "gate_start": 1.0}}, FAST),
    ("learned gain, average, stage 1, temporal_lr 10", "mdtnet2", {"input": "learned", "mdtnet": TDNS}, FAST),
    ("stem, average, stage 1, temporal_lr 10", "mdtnet2", {**SCENE, "input_to": "stem", "mdtnet": TDNS}, FAST),
]
SERIES: dict[str, tuple[tuple[str, ...], list[Variant], int]] = {
    "quick": (("quick",), QUICK, 10),
    "clips": (tuple(PROTOCOLS)[2:], CLIPS, 2),
    "study": (("study",), LONG, 8),
    "next": (("study",), NEXT, 12),
    "large": (("large",), LARGE, 8),
    "still": (("still", "still, a quarter"), BOTH, 24),
    "still, baselines": (("still", "still, a quarter"), BASELINES, 8),
    "still, inputs": (("still, a quarter",), INPUTS, 8),
    "moving": (("moving",), BOTH, 12),
    "moving, baselines": (("moving",), BASELINES, 8),
    "order": (("order",), BASELINES + BOTH, 8),
}
"""Name -> protocols, variants and seeds."""


SILENCED = 600  # clips on which a network is tested with one part silenced, or backwards: a large set's every second


# ---- clips ----------------------------------------------------------------------------------------------


def rendered(folder: Path, name: str, jobs: int, *, few: bool = False) -> None:
    """A rendered set, coded and decoded; with `few` two clips of each class."""
    data = RENDERED[name]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for split in ("train", *data.tests):
            count = 2 if few else data.train if split == "train" else data.val
            wanted = [(action, i, data.render, split) for action in data.render.classes for i in range(count)]
            clips = pool.starmap(_drawn, wanted, chunksize=4)
            _save(folder / name, split, clips, [data.render.classes.index(action) for action, *_ in wanted])


def _drawn(action: str, index: int, config: RenderConfig, split: Any) -> np.ndarray:
    path = Path(f"/tmp/{os.getpid()}.mp4")
    path.write_bytes(encode(render_clip(action, index, config=config, split=split), fps=config.fps))
    return read_clip(str(path), np.arange)[0]


def read_videos(folder: Path, root: Path, jobs: int, every: int) -> None:
    """Fold 0 of pushup_phase by source, set 1 of UT-Interaction by odd and even sequences: centres of 112 pixels."""
    parts: dict[str, list[tuple[Path, int]]] = {}
    for part in ("train", "test"):
        lines = (root / "pushup_phase" / "splits" / f"source_fold0_{part}.txt").read_text().split("\n")
        pairs = [line.split("\t") for line in lines if line]
        parts[f"push_{part}"] = [(root / "pushup_phase" / name, int(label == "raise")) for name, label in pairs]
    files = sorted((root / "ut_interaction" / "set1").rglob("*.avi"))
    numbers = [re.fullmatch(r"\d+_(\d+)_(\d+)", path.stem) for path in files]
    for name, odd in (("ut_odd", 1), ("ut_even", 0)):
        parts[name] = [(p, int(m[2])) for p, m in zip(files, numbers) if m and int(m[1]) % 2 == odd]
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for name, items in parts.items():
            _save(folder, name, pool.map(_centre, [path for path, _ in items[::every]]), [y for _, y in items[::every]])


def _centre(path: Path) -> np.ndarray:
    frames, _ = read_clip(str(path), np.arange, short_side=112)
    small = resize_short(torch.from_numpy(frames).movedim(-1, -3), 112).movedim(-3, -1).numpy()
    top, left = (small.shape[1] - 112) // 2, (small.shape[2] - 112) // 2
    return np.ascontiguousarray(small[:, top : top + 112, left : left + 112])


def _save(folder: Path, name: str, clips: list[np.ndarray], labels: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{name}.npz", frames=np.concatenate(clips), counts=[len(c) for c in clips], labels=labels)


@dataclass(frozen=True)
class Clips:
    """A part of a data set: uint8 frames [sum of counts, H, W, 3] clip after clip, where they begin, labels."""

    frames: Tensor
    counts: np.ndarray
    starts: np.ndarray
    labels: Tensor

    def indices(self, clips: Any, choose: Any) -> np.ndarray:
        """Rows of `frames` [.., T, K] of these clips; `choose(number of frames)` gives each clip's."""
        return np.stack([self.starts[i] + choose(int(self.counts[i])) for i in clips])


@cache
def load(folder: Path, name: str, short: int, device: str) -> Clips:
    """Read a part and put it on the device, its short side resized."""
    content = np.load(folder / f"{name}.npz")
    frames = torch.from_numpy(content["frames"]).to(device)
    if min(frames.shape[1:3]) != short:
        parts = [resize_short(f.movedim(-1, -3), short).movedim(-3, -1) for f in frames.split(2000)]
        frames = torch.cat(parts).contiguous()
    starts = np.concatenate(([0], np.cumsum(content["counts"])[:-1]))
    return Clips(frames, content["counts"], starts, torch.from_numpy(content["labels"]).to(device))


RUN = ("series", "on", "name", "system", "seed")
"""What tells a run from the others."""


# ---- one run --------------------------------------------------------------------------------------------


class Run:
    """A network, the clips it learns from, and its step."""

    def __init__(self, task: dict[str, Any], folder: Path, device: str) -> None:
        self.task, self.folder, self.device = task, folder, device
        self.protocol: Protocol = task["protocol"]
        p = self.protocol
        self.model_config = from_dict(ModelConfig, {**p.model, **task["model"], "name": task["system"]})
        own = {"epochs": p.epochs, "batch_size": p.batch, "seed": task["seed"]}
        self.config: TrainConfig = from_dict(TrainConfig, {**p.recipe, **own, **task["train"]})
        self.clips = load(folder, p.train, p.short, device)
        torch.manual_seed(task["seed"])
        made = build_model(self.model_config, num_classes=int(self.clips.labels.max()) + 1)
        self.model: Any = made.to(device).to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model).eval() if self.config.ema else None
        self.sampling = {"frames_per_segment": self.model.frames_per_segment, "frame_stride": p.stride}
        self.sampling["num_segments"] = p.segments
        self.mean, self.std = (
            torch.tensor(v, device=device).view(3, 1, 1).clone() for v in (self.model.trunk.mean, self.model.trunk.std)
        )
        self.draw()
        graphed = device == "cuda"
        groups = recipe.parameter_groups(self.model, self.config)
        for group in groups:
            group["lr"] = torch.zeros((), device=device) if graphed else 0.0
        self.optimizer = torch.optim.AdamW(groups, capturable=graphed, fused=graphed)
        self.sums = torch.zeros(2, device=device)
        self.graph = self.captured() if graphed else None

    def draw(self) -> None:
        """Order, frames, crops and mirroring of all epochs."""
        p, rng = self.protocol, np.random.default_rng([7, self.task["seed"]])
        chosen, (height, width) = np.arange(0, len(self.clips.counts), p.every), self.clips.frames.shape[1:3]
        self.steps = len(chosen) // p.batch
        shape = (p.epochs, self.steps, p.batch)
        order = np.stack([rng.permutation(chosen)[: self.steps * p.batch].reshape(shape[1:]) for _ in range(p.epochs)])
        rows = self.clips.indices(order.ravel(), lambda n: train_indices(n, rng, **self.sampling))
        y = rng.integers(0, height - p.size + 1, shape)[..., None] + np.arange(p.size)
        x = rng.integers(0, width - p.size + 1, shape)[..., None] + np.arange(p.size)
        x = np.where(rng.random(shape)[..., None] < 0.5, x[..., ::-1], x)
        drawn = (rows.reshape(*shape, *rows.shape[1:]), y, x, self.clips.labels.cpu().numpy()[order])
        self.drawn = [torch.from_numpy(np.ascontiguousarray(part)).to(self.device) for part in drawn]
        self.now = [part[0, 0].clone() for part in self.drawn]

    def normalised(self, pixels: Tensor) -> Tensor:
        """uint8 [B, T, K, S, S, 3] -> [B, T, K, 3, S, S] as the trunk wants it."""
        return (pixels.movedim(-1, 3) / 255 - self.mean) / self.std

    def step(self) -> None:
        """One optimiser step on the clips that `now` describes."""
        rows, y, x, labels = self.now
        self.optimizer.zero_grad(set_to_none=True)
        pixels = self.clips.frames[rows[..., None, None], y[:, None, None, :, None], x[:, None, None, None, :]]
        if self.config.exchange:
            moved = exchange_scenes(pixels.movedim(-1, 3), share=self.config.exchange, key=self.model.key_frame)
            pixels = moved.movedim(3, -1)
        logits = self.model(self.normalised(pixels))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.sums += torch.stack([loss.detach() * len(labels), (logits.argmax(1) == labels).sum().float()])

    def captured(self) -> torch.cuda.CUDAGraph:
        """The step as a graph; weights, statistics and the optimiser's state are then as before."""
        recipe.set_train_mode(self.model)
        before = {name: value.clone() for name, value in self.model.state_dict().items()}
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.step()
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                value.copy_(before[name])
            for state in self.optimizer.state.values():
                for value in state.values():
                    value.zero_()
        return graph

    def train(self) -> list[tuple[float, float]]:
        """Loss and top-1 of each epoch."""
        recipe.set_train_mode(self.model)
        curve = []
        for step in range(self.protocol.epochs * self.steps):
            epoch, place = divmod(step, self.steps)
            if place == 0:
                self.sums.zero_()
            for buffer, part in zip(self.now, self.drawn):
                buffer.copy_(part[epoch, place])
            rate = recipe.learning_rate(step, self.steps, self.config)
            for group in self.optimizer.param_groups:
                if self.graph:
                    group["lr"].fill_(rate * group["lr_scale"])
                else:
                    group["lr"] = rate * group["lr_scale"]
            self.graph.replay() if self.graph else self.step()
            if self.average is not None:
                recipe.update_average(self.average, self.model, decay=self.config.ema, step=step)
            if place == self.steps - 1:
                loss, right = (self.sums / (self.steps * self.protocol.batch)).tolist()
                curve.append((round(loss, 4), round(right, 4)))
        return curve

    @torch.no_grad()
    def logits(self, part: str, *, most: int = 1 << 30, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """Scores of a part, one clip and centre crop each, and its labels.

        With more than `most` clips, every so many of them; `backwards` plays them from the end.
        """
        p, clips = self.protocol, load(self.folder, part, self.protocol.short, self.device)
        chosen = np.arange(0, len(clips.counts), -(-len(clips.counts) // most))
        rows = clips.indices(chosen, lambda n: spread_indices(n, **self.sampling))
        if backwards:
            rows = np.ascontiguousarray(rows[:, ::-1, ::-1])
        top, left = ((side - p.size) // 2 for side in clips.frames.shape[1:3])
        scores = [
            self.tested(self.normalised(clips.frames[chunk][..., top : top + p.size, left : left + p.size, :])).float()
            for chunk in torch.from_numpy(rows).to(self.device).split(96 if self.graph else 16)
        ]
        return torch.cat(scores), clips.labels[torch.from_numpy(chosen).to(self.device)]

    @property
    def tested(self) -> Any:
        return self.model if self.average is None else self.average

    def result(self) -> dict[str, Any]:
        """Train and test: accuracies, gates, and what each part is worth."""
        began = time.monotonic()
        curve = self.train()
        self.tested.eval()
        row = {key: self.task[key] for key in RUN} | {"train": curve[-1]}
        row["predicted"] = {}
        for part in self.protocol.tests:
            scores, labels = self.logits(part)
            row[part] = float((scores.argmax(1) == labels).float().mean())
            row["predicted"][part] = scores.argmax(1).tolist()
        first, most = self.protocol.tests[0], SILENCED
        scores, labels = self.logits(first, most=most)
        backwards, _ = self.logits(first, most=most, backwards=True)
        row["backwards"] = float((backwards.argmax(1) == labels).float().mean())
        top1, row["without"] = float((scores.argmax(1) == labels).float().mean()), {}
        for part in parts_of(self.tested):
            with knocked_out(self.tested, part):
                other, _ = self.logits(first, most=most)
            fall = margins(scores, labels) - margins(other, labels)
            left = float((other.argmax(1) == labels).float().mean())
            row["without"][part] = [left - top1, float(fall.mean() / (fall.std() / len(fall) ** 0.5 + 1e-12))]
        pixels = self.clips.frames[self.drawn[0][0, 0]][..., : self.protocol.size, : self.protocol.size, :]
        row["gates"] = {
            key: round(value, 4) for key, value in gate_figures(self.tested, self.normalised(pixels)).items()
        }
        return {**row, "seconds": round(time.monotonic() - began, 1)}


def margins(scores: Tensor, labels: Tensor) -> Tensor:
    """The right class's score less the best other's, [N]."""
    own = scores.gather(1, labels[:, None])
    return (own - scores.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


# ---- many runs ------------------------------------------------------------------------------------------


def work(tasks: Any, results: Any, folder: Path, device: str) -> None:
    """Run tasks until there are none."""
    torch.set_num_threads(1)
    if device == "cuda":
        _make_capturable()
    while (task := tasks.get()) is not None:
        try:
            results.put(Run(task, folder, device).result())
        except Exception:  # one run's failure is a line of the results
            about = {key: task[key] for key in RUN}
            results.put({**about, "error": traceback.format_exc()[-2000:]})
    results.put(None)


def _make_capturable() -> None:
    """Constants that networks make in a forward pass are kept: a graph cannot copy from the host."""
    make = torch.tensor
    kept: dict[tuple[str, str], Tensor] = {}

    def constant(data: Any, **keywords: Any) -> Tensor:
        if torch.device(keywords.get("device") or "cpu").type != "cuda" or isinstance(data, Tensor):
            return make(data, **keywords)
        key = repr(data), str(sorted(keywords.items(), key=str))
        if key not in kept:  # made before a graph is captured, in the passes that warm up
            kept[key] = make(data, **keywords)
        return kept[key]

    torch.tensor = constant  # type: ignore[assignment]
    torch.Tensor.new_tensor = lambda self, data: constant(data, dtype=self.dtype, device=self.device)  # type: ignore


def run_all(tasks: list[dict], folder: Path, out: Path, jobs: int, device: str, minutes: float) -> list[dict]:
    """All tasks in `jobs` processes; what is done by the end of `minutes` is kept."""
    context = multiprocessing.get_context("spawn")
    waiting, results = context.Queue(), context.Queue()
    for task in [*tasks, *[None] * jobs]:
        waiting.put(task)
    processes = [
        context.Process(target=work, args=(waiting, results, folder, device), daemon=True) for _ in range(jobs)
    ]
    for process in processes:
        process.start()
    rows, alive, end = [], jobs, time.monotonic() + 60 * minutes
    with open(out / "rows.jsonl", "a", encoding="utf-8") as file:
        while alive and time.monotonic() < end:
            try:
                row = results.get(timeout=1)
            except queue.Empty:
                if not any(process.is_alive() for process in processes):
                    break
                continue
            if row is None:
                alive -= 1
                continue
            rows.append(row)
            file.write(json.dumps(row) + "\n")
            file.flush()
    for process in processes:
        process.terminate()
    return rows


def show(rows: list[dict]) -> None:
    """Mean and standard deviation over seeds, in per cent."""
    groups = defaultdict(list)
    for row in rows:
        if "error" in row:
            print(row["system"], row["name"], row["error"])
        else:
            groups[row["on"], row["system"], row["name"]].append(row)
    for (on, system, name), found in groups.items():
        parts = [part for part in PROTOCOLS[on].tests]
        values = 100 * np.array([[row[part] for part in parts] for row in found])
        spread = values.std(0, ddof=1) if len(found) > 1 else np.zeros(len(parts))
        cells = "  ".join(f"{m:5.1f} sd {s:4.1f}" for m, s in zip(values.mean(0), spread))
        print(f"{on:22} {system:8} {name:48} n {len(found):2}  {cells}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for rows.jsonl")
    parser.add_argument("--root", type=Path, help="folder of pushup_phase/ and ut_interaction/, for the series `clips`")
    parser.add_argument("--series", nargs="+", choices=SERIES, default=["quick", "study"])
    parser.add_argument(
        "--on", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS), help="of the series, these alone"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--jobs", type=int, default=15)
    parser.add_argument("--minutes", type=float, default=60, help="of training")
    parser.add_argument("--small", action="store_true", help="a trial on the CPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.out / ("clips_small" if options.small else "clips")
    on = {name for series in options.series for name in SERIES[series][0]} & set(options.on)
    for name in sorted({PROTOCOLS[name].train.partition("/")[0] for name in on} & set(RENDERED)):
        if not (folder / name / f"{RENDERED[name].tests[-1]}.npz").exists():
            rendered(folder, name, options.jobs, few=options.small)
    if "clips" in options.series and not (folder / "ut_even.npz").exists():
        read_videos(folder, options.root, options.jobs, 8 if options.small else 1)
    tasks = []
    for series in options.series:
        protocols, variants, seeds = SERIES[series]
        for seed in range(1 if options.small else seeds):
            for on in (name for name in protocols if name in options.on):
                protocol = PROTOCOLS[on]
                if options.small:
                    protocol = Protocol(**{**vars(protocol), "epochs": 1, "batch": 2})
                tasks += [
                    {"series": series, "on": on, "protocol": protocol, "seed": seed}
                    | dict(zip(("name", "system", "model", "train"), variant))
                    for variant in variants
                ]
    file = options.out / "rows.jsonl"
    before = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {run_of(row) for row in before if "error" not in row}
    tasks = [task for task in tasks if run_of(task) not in done]
    device = "cpu" if options.small else options.device
    show(before + run_all(tasks, folder, options.out, options.jobs, device, options.minutes))


def run_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in RUN)


if __name__ == "__main__":
    main()
