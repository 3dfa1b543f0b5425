"""Whether the parts of a network are on: how far its gates open, and what it loses where one part is taken out.

A gate multiplies features by 1 + E, E in (-1/2, 1/2). E at its start may be far from zero and still say nothing; so
beside its size stands what a trained network loses in a test without it (`knocked_out`).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mdtnet.config import GATE_FIGURES, PARTS, Part
from mdtnet.models.mdtnet import DCME, STCE, FineDifference
from mdtnet.models.tdn import TDN, ShortTermDifference, fusion_weights
from mdtnet.models.tea import MotionExcitation
from mdtnet.models.temporal import CoarseDifference


def parts_of(model: nn.Module) -> tuple[Part, ...]:
    """The parts of `PARTS` that a network has."""
    classes: dict[type, Part] = {
        **{FineDifference: "fine", ShortTermDifference: "fine", CoarseDifference: "coarse"},
        **{DCME: "dcme", STCE: "stce", MotionExcitation: "motion"},
    }
    found = {classes[type(module)] for module in model.modules() if type(module) in classes}
    if getattr(getattr(model, "reading", None), "reading", "raw") != "raw" or _map_of(model) is not None:
        found.add("reading")
    return tuple(part for part in PARTS if part in found)


def _map_of(model: nn.Module) -> Any:
    return getattr(model, "saliency", None)


@contextmanager
def knocked_out(model: nn.Module, part: Part) -> Iterator[None]:
    """The network without one part: its gates at 0, its path adding nothing, its frames raw.

    For tests: nothing is learned anew. A network without this part is left as it is.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if hook := _silencer(module, part):
                stack.callback(module.register_forward_hook(hook).remove)
        if part == "reading" and _map_of(model) is not None:
            stack.callback(setattr, model, "saliency", _map_of(model))
            model.saliency = None  # type: ignore[assignment]
        elif part == "reading" and "reading" in parts_of(model):
            reading: Any = model.reading
            own = reading.register_forward_hook(lambda module, inputs, output: inputs[0])
            stack.callback(own.remove)
        yield


def _silencer(module: nn.Module, part: Part) -> Any:
    """A forward hook that silences this module, or None where it is not of this part."""
    if part == "coarse" and isinstance(module, CoarseDifference):
        return lambda m, inputs, output: torch.ones_like(output)
    if part == "dcme" and isinstance(module, DCME):
        return lambda m, inputs, output: [(where, torch.full_like(gate, 0.5)) for where, gate in output]
    if part == "stce" and isinstance(module, STCE):
        return lambda m, inputs, output: torch.zeros_like(output)
    if part == "motion" and isinstance(module, MotionExcitation):
        return lambda m, inputs, output: inputs[0]
    if part == "fine" and isinstance(module, ShortTermDifference):
        return lambda m, inputs, output: tuple(map(torch.zeros_like, output))
    if part == "fine" and isinstance(module, FineDifference):
        return _without_fine
    return None


def _without_fine(module: FineDifference, inputs: tuple[Tensor, Tensor], output: tuple) -> tuple:
    stem, later, own = inputs[0], output[1], output[2]
    alone = module.fused(stem, torch.zeros_like(own))
    return alone, None if later is None else torch.zeros_like(later), own


@torch.no_grad()
def gate_figures(model: nn.Module, clips: Tensor) -> dict[str, float]:
    """`GATE_FIGURES` of clips [B, T, K, 3, H, W], as far as the network has such parts; it is run in eval mode.

    Means are over all places in the network alike.
    """
    sums: dict[str, list[float]] = {}

    def note(name: str, value: Tensor) -> None:
        sums.setdefault(name, []).append(float(value.float()))

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, CoarseDifference):
            note("e_coarse", (output / 2 - 0.5).abs().mean())
        elif isinstance(module, STCE):
            note("e_stce", output.abs().mean())
        elif isinstance(module, DCME):
            for _, gate in output:
                note("e_dcme", (gate - 0.5).abs().mean())
        elif isinstance(module, MotionExcitation):
            x = inputs[0]
            scale = x.abs().sum((2, 3)).clamp(min=1e-12)
            note("e_motion", ((output - x).abs().sum((2, 3)) / scale).mean())
        elif isinstance(module, FineDifference):
            alone = module.fused(inputs[0], torch.zeros_like(output[2]))
            note("fine_share", (output[0] - alone).square().mean().sqrt() / alone.square().mean().sqrt())

    training = model.training
    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_hook(look).remove)
            if isinstance(module, DCME) and module.offset is not None:
                hook = module.offset.register_forward_hook(
                    lambda m, inputs, output, dcme=module: note("taps_inside", inside(output, dcme))
                )
                stack.callback(hook.remove)
        if isinstance(model, TDN):
            _watch_tdn(model, clips.shape[1], note, stack)
        model.eval()(clips)
    model.train(training)
    return {name: sum(sums[name]) / len(sums[name]) for name in GATE_FIGURES if name in sums}


def _watch_tdn(model: TDN, num_segments: int, note: Any, stack: ExitStack) -> None:
    alpha, beta = fusion_weights(model.num_segments_trained or num_segments)
    sizes: list[Tensor] = []

    def after_fine(module: nn.Module, inputs: Any, output: Any) -> None:
        sizes.append(beta * output[0].square().mean().sqrt())

    def after_stem(module: nn.Module, inputs: Any, output: Tensor) -> None:
        note("fine_share", sizes.pop() / (alpha * output.square().mean().sqrt()))

    last = model.trunk.stem_layers()[-1]
    stack.callback(model.fine.register_forward_hook(after_fine).remove)
    stack.callback(last.register_forward_hook(after_stem).remove)


def inside(offset: Tensor, dcme: DCME) -> Tensor:
    """Share of the taps that lie inside the picture; offsets [N, 2 * taps, H, W], in cells, as (dy, dx)."""
    height, width = offset.shape[-2:]
    taps = [
        (d * (i // k - k // 2), d * (i % k - k // 2))
        for k, d in zip((kernel.shape[-1] for kernel in dcme.kernels), dcme.dilations)
        for i in range(k * k)
    ]
    dy, dx = offset.unflatten(1, (-1, 2)).unbind(2)  # [N, taps, H, W]
    places = torch.tensor(taps, device=offset.device, dtype=offset.dtype)[:, :, None, None]
    y = torch.arange(height, device=offset.device)[:, None] + places[:, 0] + dy
    x = torch.arange(width, device=offset.device) + places[:, 1] + dx
    return ((y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)).float().mean()
