"""Seconds of each component of a network, by a clock that switches at the borders of modules."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from mdtnet.measure.cost import component


def synchronise(device: str) -> None:
    """Wait until a CUDA device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def clocked(model: nn.Module, device: str) -> Iterator[dict[str, float]]:
    """Seconds of each component while the context lasts; a module's time does not include that of modules inside it."""
    seconds: dict[str, float] = defaultdict(float)
    stack, since, handles = [component("")], [time.perf_counter()], []

    def switch() -> None:
        synchronise(device)
        now = time.perf_counter()
        seconds[stack[-1]] += now - since[0]
        since[0] = now

    def enter(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        switch()
        stack.append(name)

    def leave(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        switch()
        stack.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(partial(enter, component(name))))
        handles.append(module.register_forward_hook(leave))
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
