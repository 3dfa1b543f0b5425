"""Every entry loads and computes, as far as that can be seen without its file: from the names its code writes."""

import functools
import re
from pathlib import Path

import pytest
import torch
from official import golden_state, of_resnet101
from torch import Tensor

import mdtnet
from mdtnet.config import EvalConfig
from mdtnet.data.transforms import mirror_labels
from mdtnet.models.trunk import RESNETS
from mdtnet.zoo.find import Located
from mdtnet.zoo.table import Entry, entries, entry_named

SAMPLE = (
    "tsn-resnet18-hvu-event-8f",
    "tsm-resnet101-sthv2-8f",
    "tsm-mobilenet_v2-kinetics400-8f",
    "tsm-mobilenet_v2-kinetics400-8f-dense-mit",
    "tsm-mobilenet_v2-jester-online-mit",
    "tsm-resnet50-sthv1-8f-mit",
    "tdn-resnet50-sthv1-16f",
)
OTHERS = [pytest.param(e.name, marks=pytest.mark.slow) for e in entries() if e.name not in SAMPLE]

NORM = ("weight", "bias", "running_mean", "running_var")


def of_mmaction(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names of TSN and TSM on a ResNet as mmaction2 writes them."""
    rules = (
        (r"^base_model\.(.*)downsample\.0\.", r"backbone.\1downsample.conv."),
        (r"^base_model\.(.*)downsample\.1\.", r"backbone.\1downsample.bn."),
        (r"^base_model\.(.*)conv(\d)\.", r"backbone.\1conv\2.conv."),
        (r"^base_model\.(.*)bn(\d)\.", r"backbone.\1conv\2.bn."),
        (r"^new_fc\.", "cls_head.fc_cls."),
    )
    return {functools.reduce(lambda k, rule: re.sub(*rule, k), rules, key): value for key, value in state.items()}


def of_mmaction_mobilenet_v2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names of TSM on MobileNetV2 as mmaction2 writes them."""
    places = [f"layer{s + 1}.{i}" for s, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for i in range(count)]
    shifted = {key.split(".")[2] for key in state if ".net." in key}
    found = {}
    for key, value in state.items():
        name = key.replace("base_model.features.", "").replace("new_fc", "cls_head.fc_cls")
        if name.startswith(("0.", "18.")):
            number, kind, leaf = name.split(".")
            name = f"backbone.conv{1 if number == '0' else 2}.{('conv', 'bn')[int(kind)]}.{leaf}"
        elif inner := re.fullmatch(r"(\d+)\.conv\.(\d)(?:\.net)?\.(\w+)", name):
            number, k, leaf = inner.groups()
            kind = "conv" if int(k) % 3 == 0 else "bn"
            net = "net." if number in shifted and int(k) < 2 else ""
            name = f"backbone.{places[int(number) - 1]}.conv.{int(k) // 3}.{net}{kind}.{leaf}"
        found[name] = value
    return found


def of_resnet18(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names and shapes of a ResNet-18, of those of a ResNet-50."""
    other = re.compile(r"layer\d\.[2-9]|conv3|bn3|downsample|fc")
    found = {key: value for key, value in state.items() if not other.search(key)}
    for stage in (1, 2, 3, 4):
        planes = 64 * 2 ** (stage - 1)
        for block in (0, 1):
            inputs = planes // 2 if block == 0 and stage > 1 else planes
            found[f"base_model.layer{stage}.{block}.conv1.weight"] = torch.randn(planes, inputs, 3, 3) / 30
        if stage > 1:
            start = f"base_model.layer{stage}.0.downsample"
            found[f"{start}.0.weight"] = torch.randn(planes, planes // 2, 1, 1) / 10
            found |= {f"{start}.1.{leaf}": torch.ones(planes) for leaf in NORM}
    return found | {"new_fc.weight": torch.randn(1, 512), "new_fc.bias": torch.randn(1)}


def state_of(entry: Entry, golden: Path) -> dict[str, Tensor]:
    """A state dict with the names that the entry's code writes, and numbers by the rule of the golden data."""
    name = entry.system + ("_mobilenet_v2" if entry.trunk == "mobilenet_v2" else "") + "_online" * entry.causal
    state = dict(golden_state(golden, name))
    state = {"resnet101": of_resnet101, "resnet18": of_resnet18}.get(entry.trunk, dict)(state)
    head = "classifier" if entry.causal else "new_fc"
    features = state[f"{head}.weight"].shape[1]
    state |= {f"{head}.weight": torch.randn(entry.classes, features), f"{head}.bias": torch.randn(entry.classes)}
    if entry.source.startswith("open-mmlab"):
        return (of_mmaction if entry.trunk in RESNETS else of_mmaction_mobilenet_v2)(state)
    return {f"module.{key}": value for key, value in state.items()}


@pytest.mark.parametrize("name", [*SAMPLE, *OTHERS])
def test_the_names_of_its_code_load_and_compute(name, shared, monkeypatch):
    entry = entry_named(name)
    state = state_of(entry, shared / "golden")
    monkeypatch.setattr("mdtnet.checkpoint.located", lambda _: Located(Path(entry.file), entry))
    monkeypatch.setattr("mdtnet.checkpoint.read_file", lambda _: {"state_dict": state})
    model = mdtnet.load_model(name)
    assert model.classes == entry.class_names()
    with torch.no_grad():
        logits = model(torch.randint(0, 256, (1, 2, model.frames_per_segment, 3, 32, 32), dtype=torch.uint8))
    assert logits.shape == (1, entry.classes)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    config = model.config
    assert (config.model.name, config.model.trunk, config.model.tsm.causal) == (entry.system, entry.trunk, entry.causal)
    assert config.data.multi_label == entry.multi_label
    if not entry.causal:
        assert config.data.num_segments == model.num_segments_trained == entry.segments
    assert config.test == (entry.protocol or EvalConfig())
    if config.data.flip == "swap":
        assert (mirror_labels(model.classes) != range(entry.classes)).any()  # the labels do name sides
