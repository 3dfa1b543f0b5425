"""Networks and trainings whose results are pinned: every option in writing, so that no changed default changes them.

Only names that `mdtnet` itself lists are used, so that this file runs with any revision of the package
(`tests/side_by_side.py` runs it with two).

    python tests/pinned.py

writes `pins.json` anew, with what this revision computes: for a case that is new, or meant to change.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from official import golden_tensor
from torch import Tensor, nn

import mdtnet

PINS = Path(__file__).with_name("pins.json")
NUM_CLASSES = 5
NUM_SEGMENTS = 4
SIDE = 64  # of the input, in pixels
SYSTEMS = ("tsn", "tsm", "tea", "tdn", "mdtnet1", "mdtnet2")
TRUNKS = ("resnet18", "mobilenet_v2")
Values = dict[str, Any]

MODEL: Values = {
    "name": "tsn",
    "trunk": "resnet18",
    "width": 0.25,
    "weights": "",
    "dropout": 0.5,
    "freeze": "none",
    "input": "raw",
    "input_to": "frames",
}
TSM: Values = {"causal": False}
MDTNET: Values = {
    "frames_per_segment": 5,
    "key_frame": 3,
    "fine": True,
    "fine_fusion": "norm",
    "fine_start": 1.0,
    "fine_stage1": False,
    "spatial_difference": "none",
    "gate_start": 0.0,
    "coarse": True,
    "dcme": True,
    "dcme_kernels": (3, 3),
    "dcme_dilations": (1, 2),
    "dcme_deformable": True,
    "dcme_reach": 0.0,
    "dcme_backward": False,
    "dcme_low_level": False,
    "stce": True,
    "excite_every": 2,
    "excite_counts": "blocks",
    "temporal": "shift",
    "reduction": 16,
    "causal": False,
}
SALIENCY: Values = {
    "scene": 0.0,
    "variant": "amplitude",
    "window": "segment",
    "normalise": "segment",
    "to": "both",
    "floor": 0.5,
    "drop": 0.0,
    "quantile": 0.98,
    "noise": 2 / 255,
    "pool": 4,
    "frequency_weights": (),
}
SWITCHES: dict[str, Values] = {
    "frames_per_segment 3": {"frames_per_segment": 3, "key_frame": 1},
    "fine false": {"fine": False},
    "fine_stage1": {"fine_stage1": True},
    "sobel": {"spatial_difference": "sobel"},
    "coarse false": {"coarse": False},
    "dcme false": {"dcme": False},
    "dcme_kernels 3, 5": {"dcme_kernels": (3, 5), "dcme_dilations": (1, 1)},
    "dcme_deformable false": {"dcme_deformable": False},
    "dcme_backward": {"dcme_backward": True},
    "dcme_low_level": {"dcme_low_level": True},
    "stce false": {"stce": False},
    "excite_every 1": {"excite_every": 1},
    "temporal none": {"temporal": "none"},
    "reduction 8": {"reduction": 8},
    "causal": {"causal": True},
    "phase": {"variant": "phase"},
    "spectral_residual": {"variant": "spectral_residual"},
    "difference": {"variant": "difference"},
    "window clip": {"window": "clip"},
    "normalise clip": {"normalise": "clip"},
    "to action": {"to": "action"},
    "to appearance": {"to": "appearance"},
    "floor 0.2, quantile 0.9, pool 2": {"floor": 0.2, "quantile": 0.9, "pool": 2},
    "noise 0.5": {"noise": 0.5},
    "frequency_weights": {"frequency_weights": (1.0, 0.5)},
}
"""Of mdtnet2 on the first trunk: name -> what differs from `MDTNET` and `SALIENCY`."""
CASES: dict[str, Values] = {
    **{f"{system}, {trunk}": {"name": system, "trunk": trunk} for trunk in TRUNKS for system in SYSTEMS},
    "tea, resnet50": {"name": "tea", "trunk": "resnet50", "width": 0.125},
    "mdtnet2, resnet50": {"name": "mdtnet2", "trunk": "resnet50", "width": 0.125},
    "tsm, efficientnet_lite0": {"name": "tsm", "trunk": "efficientnet_lite0", "width": 1.0},
    "tsm, efficientnet_lite1": {"name": "tsm", "trunk": "efficientnet_lite1", "width": 1.0},
    "tsm, mobilenet_v4_small": {"name": "tsm", "trunk": "mobilenet_v4_small", "width": 1.0},
    "mdtnet2, mobilenet_v2, places": {"name": "mdtnet2", "trunk": "mobilenet_v2", "excite_counts": "places"},
    **{f"mdtnet2, {name}": {"name": "mdtnet2", **values} for name, values in SWITCHES.items()},
}
"""Name -> what differs from `MODEL`, `MDTNET` and `SALIENCY`."""

DATA: Values = {
    "root": "",
    "classes": "",
    "multi_label": False,
    "group": "",
    "val_fraction": 0.2,
    "folds": 0,
    "fold": 0,
    "num_segments": 4,
    "frame_stride": 1,
    "sampling": "consecutive",
    "short_side": 40,
    "size": 32,
    "crop": "random",
    "flip": True,
    "color_jitter": 0.2,
    "randaugment": 9,
    "exposure": "none",
    "cache": "",
    "on_unreadable": "error",
    "on_damaged": "use",
    "fps": 0.0,
    "frame_pattern": "",
    "workers": 0,
    "decode_threads": 0,
    "backend": "pyav",
}
TRAIN: Values = {
    "decay_norms": True,
    "offset_lr": 1.0,
    "exchange": 0.0,
    "epochs": 3,
    "batch_size": 4,
    "accumulate": 1,
    "optimizer": "sgd",
    "lr": 0.04,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "steps",
    "steps": (2,),
    "decay": 0.1,
    "warmup_epochs": 0.0,
    "clip_grad": 0.0,
    "classifier_lr": 1.0,
    "temporal_lr": 1.0,
    "label_smoothing": 0.0,
    "class_balance": "none",
    "mixup": 0.0,
    "cutmix": 0.0,
    "partial_bn": False,
    "sync_bn": True,
    "ema": 0.0,
    "segments": (),
    "teacher": "",
    "teacher_weight": 0.5,
    "early_stopping": 0,
    "amp": "no",
    "channels_last": True,
    "checkpoint_activations": False,
    "device": "cpu",
    "seed": 3,
    "save_every": 0,
    "val_every": 1,
    "trackers": ("csv",),
}
TEST: Values = {
    "clips": 1,
    "rule": "uniform",
    "seed": 0,
    "crops": 1,
    "crop_size": 0,
    "flip": False,
    "segments": 0,
    "batch_size": 8,
    "fusion": "softmax",
    "on_unreadable": "wrong",
    "on_damaged": "use",
}
OTHER_DATA: Values = {
    "sampling": "random",
    "crop": "multiscale",
    "flip": "swap",
    "color_jitter": 0.0,
    "randaugment": 0,
    "exposure": "gain",
}
OTHER_RECIPE: Values = {
    "accumulate": 2,
    "optimizer": "adamw",
    "lr": 0.002,
    "schedule": "cosine",
    "warmup_epochs": 1.5,
    "clip_grad": 20.0,
    "classifier_lr": 5.0,
    "temporal_lr": 2.0,
    "label_smoothing": 0.1,
    "class_balance": "weights",
    "mixup": 0.2,
    "cutmix": 1.0,
    "partial_bn": True,
    "ema": 0.5,
}
TRAININGS: dict[str, tuple[Values, Values, Values]] = {
    "tsn": ({"name": "tsn"}, {}, {}),
    "mdtnet2": ({"name": "mdtnet2"}, {}, {}),
    "mdtnet2, another recipe": ({"name": "mdtnet2", "drop": 0.5}, OTHER_DATA, OTHER_RECIPE),
    "tdn, other data": ({"name": "tdn"}, OTHER_DATA, {}),
}
"""Name -> what differs from the model's tables, `DATA` and `TRAIN`. Three epochs of one step over four videos.

MobileNetV2 is not among them: from a random start on so few pixels its batch norms make differences of rounding large.
"""


def filled(default: Any, values: Values) -> Any:
    """A config with these values; what a revision has no option for is left out."""
    return replace(default, **{key: value for key, value in values.items() if hasattr(default, key)})


def model_config(values: Values) -> Any:
    """The `ModelConfig` of a case."""
    default = mdtnet.ModelConfig()
    parts = {"tsm": TSM, "mdtnet": MDTNET, "saliency": SALIENCY}
    own = {
        part: filled(getattr(default, part), {key: values.get(key, value) for key, value in table.items()})
        for part, table in parts.items()
        if hasattr(default, part)
    }
    return filled(default, {key: values.get(key, value) for key, value in MODEL.items()} | own)


def rule_state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """A state dict of weights that its keys alone decide, by the rule of the golden data."""
    return {key: golden_tensor(key, shape) for key, shape in shapes.items()}


def network(name: str) -> nn.Module:
    """The network of a case in eval mode, weights by the rule."""
    model = mdtnet.build_model(model_config(CASES[name]), num_classes=NUM_CLASSES)
    model.load_state_dict(rule_state({key: list(value.shape) for key, value in model.state_dict().items()}))
    return model.eval()


def clips(frames_per_segment: int, count: int = 1) -> Tensor:
    """uint8 clips [count, T, K, 3, SIDE, SIDE]: a bright square that moves over a still, smooth ground, and noise."""
    rng = np.random.default_rng(0)
    place = np.arange(SIDE) / SIDE
    made = np.empty((count, NUM_SEGMENTS, frames_per_segment, 3, SIDE, SIDE))
    for clip in made:
        phase = rng.uniform(0, 3, (3, 1, 1))
        clip[:] = 90 + 60 * np.sin(5 * place[:, None] + 3 * place + phase)
        for t in range(NUM_SEGMENTS):
            for k in range(frames_per_segment):
                left, top = 4 + 9 * t + 2 * k, 10 + 6 * t + k
                clip[t, k, :, top : top + 14, left : left + 14] = rng.uniform(150, 250, (3, 1, 1))
    return torch.from_numpy((made + rng.uniform(-4, 4, made.shape)).round().astype(np.uint8))


def logits(name: str) -> Tensor:
    """What the network of a case computes of one clip, [NUM_CLASSES]."""
    model = network(name)
    with torch.no_grad():
        return model(clips(int(model.frames_per_segment)))[0]


def gradients(name: str) -> dict[str, Tensor]:
    """Gradients of a case's parameters in train mode, and as `loss` the cross-entropy of two clips."""
    model = network(name).train()
    torch.manual_seed(0)  # of dropout
    loss = nn.functional.cross_entropy(model(clips(int(model.frames_per_segment), 2)), torch.tensor([1, 3]))
    loss.backward()
    found = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    return {"loss": loss.detach(), **found}


def losses(name: str, *, videos: Path, out: Path) -> dict[str, list[float]]:
    """Training and validation losses of the three steps of a training; `videos` is a folder of class folders."""
    model, data, recipe = TRAININGS[name]
    default = mdtnet.RunConfig()
    config = replace(
        default,
        out=str(out),
        data=filled(default.data, {"train": str(videos), "val": str(videos), **DATA, **data}),
        model=model_config(model),
        train=filled(default.train, TRAIN | recipe),
        test=filled(default.test, TEST),
    )
    history = mdtnet.train(config).history
    return {key: [row[key] for row in history] for key in ("train_loss", "val_loss")}


def unwritten() -> Iterator[str]:
    """Options of the package that the tables above lack, such as `model.mdtnet.causal`."""
    default = mdtnet.RunConfig()
    tables = {"data": {"train", "val"} | DATA.keys(), "train": TRAIN, "test": TEST}
    tables |= {"model": {"tsm", "mdtnet", "saliency"} | MODEL.keys(), "model.tsm": TSM}
    tables |= {"model.mdtnet": MDTNET, "model.saliency": SALIENCY}
    for part, table in tables.items():
        options = default
        for word in part.split("."):
            options = getattr(options, word)
        yield from (f"{part}.{key}" for key in vars(options) if key not in table)


def write_pins() -> None:
    """Compute everything and write it to `PINS`."""
    pins: Values = {"logits": {name: logits(name).tolist() for name in CASES}, "losses": {}}
    with tempfile.TemporaryDirectory() as folder:
        videos = tiny.write_videos(Path(folder, "videos"), per_class=2)
        for number, name in enumerate(TRAININGS):
            pins["losses"][name] = losses(name, videos=videos, out=Path(folder, str(number)))
    rows = [
        f"  {json.dumps(part)}: {{\n"
        + ",\n".join(f"    {json.dumps(name)}: {json.dumps(values)}" for name, values in found.items())
        + "\n  }"
        for part, found in pins.items()
    ]
    PINS.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    write_pins()
