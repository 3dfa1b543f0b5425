"""Checkpoints as other people's code writes them, made from networks of ours by the inverse of each table."""

import functools
import json
import re
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MMACTION = (
    (r"trunk\.(.*)downsample\.0\.", r"backbone.\1downsample.conv."),
    (r"trunk\.(.*)downsample\.1\.", r"backbone.\1downsample.bn."),
    (r"trunk\.(.*)conv(\d)\.", r"backbone.\1conv\2.conv."),
    (r"trunk\.(.*)bn(\d)\.", r"backbone.\1conv\2.bn."),
    (r"head\.fc\.", "cls_head.fc_cls."),
)
OFFICIAL = ((r"trunk\.", "base_model."), (r"head\.fc\.", "new_fc."))


def renamed(model: nn.Module, rules: tuple[tuple[str, str], ...], *, shift: bool = False) -> dict[str, Tensor]:
    """The state dict of a TSN or TSM under other names; `shift` wraps as TSM's code does."""
    state = {}
    for key, value in model.state_dict().items():
        for ours, theirs in rules:
            key, count = re.subn(f"^{ours}", theirs, key)
            if count:
                break
        state[re.sub(r"(layer\d\.\d+\.conv1(?:\.conv)?)\.weight", r"\1.net.weight", key) if shift else key] = value
    return state


def of_resnet101(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names that ResNet-101 has: block 1 of stage 3 stands for blocks 6 to 22 too; TSM shifts every other block."""
    state = dict(state)
    for key in list(state):
        if block := re.match(r"(base_model\.layer3(?:_bak)?\.)1(\..*)", key):
            state |= {f"{block[1]}{i}{block[2]}": state[key] for i in range(6, 23)}
    odd = r"(layer\d\.\d*[13579]\.conv1)\.net"  # names only TSM and ACTION-Net have
    state = {re.sub(odd, r"\1", key): value for key, value in state.items()}
    return {key: value for key, value in state.items() if not re.search(r"\d*[13579]\.conv1\.action_", key)}


@functools.cache
def golden_state(golden: Path, name: str) -> dict[str, Tensor]:
    """The official network's state dict by the rule of the golden data."""
    shapes = json.loads((golden / f"{name}_keys.json").read_text())
    return {key: golden_tensor(key, shape) for key, shape in shapes.items()}


def golden_tensor(key: str, shape: list[int]) -> Tensor:
    """The tensor of a state dict that the rule of the golden data makes of its key and shape."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    a = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        a = 1 + 0.1 * abs(a)
    elif key.endswith("running_mean") or (len(shape) == 1 and not key.endswith("weight")):
        a = 0.1 * a
    elif len(shape) == 1:
        a = 1 + 0.1 * a
    else:
        a = a * np.float32(np.sqrt(1 / np.prod(shape[1:])))
    return torch.from_numpy(a)
