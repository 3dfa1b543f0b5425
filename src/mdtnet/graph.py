"""A network as a graph for a runtime: the same modules, written for what runtimes do well, and torch.export's program.

Runtimes turn writes into slices into slow scatters and have no views: here steps in time are paddings, and factors
that a linear module can carry are in its weights. Letters: B clips, T segments, N = B*T, C channels, c reduced
channels, H, W pixels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.ops import deform_conv2d

from mdtnet.errors import ExportError
from mdtnet.models.folding import folded
from mdtnet.models.mdtnet import DCME, STCE, Excitation
from mdtnet.models.tdn import LongTermDifference
from mdtnet.models.temporal import CoarseDifference, DepthwiseConv, Shift
from mdtnet.models.trunk import Timeline


class PixelsToProbabilities(nn.Module):
    """The network, from uint8 frames [B, T, K, H, W, 3] to probabilities [B, classes]: of softmax, or of sigmoid."""

    def __init__(self, model: nn.Module, *, multi_label: bool) -> None:
        super().__init__()
        self.model, self.multi_label = model, multi_label

    def forward(self, frames: Tensor) -> Tensor:
        logits = self.model(frames.movedim(-1, 3))
        return logits.sigmoid() if self.multi_label else logits.softmax(1)


class HalfStored(nn.Module):
    """A network whose weight matrices are stored as float16; computation stays float32, on every device."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data = parameter.data.half()

    def forward(self, x: Tensor) -> Tensor:
        whole = {name: parameter.float() for name, parameter in self.model.named_parameters()}
        return functional_call(self.model, whole, (x,))


def stepped(x: Tensor, step: int) -> Tensor:
    """[B, T, ...] -> what is `step` segments later (earlier if negative), zeros where there is nothing."""
    if abs(step) >= x.shape[1]:
        return torch.zeros_like(x)
    return F.pad(x, (0, 0) * (x.ndim - 2) + (-step, step))


class PureShift(Shift):
    """`Shift` by concatenation."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        x = x.unflatten(0, (-1, timeline.num_segments))  # [B, T, C, H, W]
        fold = x.shape[2] // 8
        parts = stepped(x[:, :, :fold], 1), stepped(x[:, :, fold : 2 * fold], -1), x[:, :, 2 * fold :]
        return torch.cat(parts, 2).flatten(0, 1)


class PureDepthwiseConv(DepthwiseConv):
    """`DepthwiseConv` as a sum of steps."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        x = x.unflatten(0, (-1, timeline.num_segments))  # [B, T, C, H, W]
        taps = self.weight.reshape(-1, 3, 1, 1).unbind(1)  # [C, 1, 1] each
        steps = (-2, -1, 0) if self.causal else (-1, 0, 1)
        terms = [(stepped(x, step) if step else x) * tap for step, tap in zip(steps, taps)]
        return (terms[0] + terms[1] + terms[2]).flatten(0, 1)


class PureCoarseDifference(CoarseDifference):
    """`CoarseDifference` in few operations; it gives *twice* what that does, which `pure` makes up for."""

    def prepare(self) -> None:
        _scale(1 / 3, self.expand[0])  # of the mean of three scales

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        z = self.reduce(x)
        here, moved = (y.unflatten(0, (-1, timeline.num_segments)) for y in (z, self.move(z)))  # [B, T, c, H, W]
        differences = [_padded(moved[:, :-1] - here[:, 1:], at_start=True)]
        if not self.causal:
            differences.append(_padded(moved[:, 1:] - here[:, :-1], at_start=False))
        d = torch.stack(differences).flatten(0, 2)  # [directions * N, c, H, W]
        small = min(d.shape[-2:]) < 2  # crops are square: one pixel, which OpenVINO does not pool
        pooled = self.pooled(d if small else F.avg_pool2d(d, 2))
        y = d + F.interpolate(pooled, d.shape[-2:], mode="nearest") + self.full(d)
        gates = [torch.sigmoid(self.expand(part)) for part in y.unflatten(0, (len(differences), -1)).unbind(0)]
        return x + x * (gates[0] + gates[-1])  # 2 x (1 + E), E the mean gate - 1/2


def _padded(x: Tensor, *, at_start: bool) -> Tensor:
    """Zeros for a missing first or last segment, [B, T-1, ...] -> [B, T, ...]."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + ((1, 0) if at_start else (0, 1)))


class PureLongTermDifference(LongTermDifference):
    """`LongTermDifference` that makes up for the coarse differences' factor."""

    def prepare(self) -> None:
        _scale(1 / 2, self.conv)


class PureDCME(DCME):
    """`DCME` for all segments at once: what there is no neighbour for gets the gate of no motion."""

    def gates(self, x: Tensor, timeline: Timeline) -> list[tuple[Tensor, Tensor]]:
        """[N, C, H, W] -> for each direction s [N, C, H, W], and what it is where nothing moves, [T, C]."""
        segments = timeline.num_segments
        z = self.reduce(x)
        if self.low_level is not None and timeline.low_level is not None:
            z = z + F.adaptive_avg_pool2d(self.low_level(timeline.low_level), z.shape[-2:])
        if segments == 1:
            return []
        z = z.unflatten(0, (-1, segments))
        earlier, later = z[:, :-1].flatten(0, 1), z[:, 1:].flatten(0, 1)  # [B*(T-1), c, H, W]
        bias = torch.sigmoid(self.expand[0].bias)[None]  # type: ignore[arg-type]
        rest = torch.full_like(bias, 0.5).expand(segments - 1, -1)
        gates = []
        for direction in self.directions:
            here, there = (earlier, later) if direction == "next" else (later, earlier)
            motion = self.motion(here, there).unflatten(0, (-1, segments - 1))
            s = torch.sigmoid(self.expand(_padded(motion, at_start=direction == "past").flatten(0, 1)))
            gates.append((s, torch.cat((bias, rest) if direction == "past" else (rest, bias))))
        return gates

    def motion(self, here: Tensor, there: Tensor) -> Tensor:
        """As `DCME.motion`, one runtime's operator a kernel."""
        if not self.deformable:
            return super().motion(here, there)
        pair = torch.cat((here, there), 1)
        moved = [
            deform_conv2d(there, conv(pair), kernel, padding=kernel.shape[-1] // 2)
            for conv, kernel in zip(self.offsets, self.kernels)
        ]
        return sum(moved[1:], moved[0]) - len(moved) * here


class PureSTCE(STCE):
    """`STCE` on [N, C, H, W]; what is linear comes before the mean over time, on few channels."""

    def openness(self, x: Tensor, timeline: Timeline) -> Tensor:
        """[N, C, H, W] -> s [B, T, C] in (0, 1)."""
        segments = timeline.num_segments
        y = F.adaptive_avg_pool2d(x, 1).flatten(1).unflatten(0, (-1, segments))  # [B, T, C]
        y = self.time_squeeze(y).transpose(1, 2)
        y = self.time_conv(F.pad(y, (2, 0)) if self.causal else y)
        y = self.time_expand(F.relu(y).transpose(1, 2))
        return torch.sigmoid(y + self.where(x, segments))

    def where(self, x: Tensor, segments: int) -> Tensor:
        """The spatial branch: [N, C, H, W] -> [B, 1 or T, C]."""
        z = self.space_squeeze(x).unflatten(0, (-1, segments))  # [B, T, c, H, W]
        past = torch.arange(1, segments + 1).view(-1, 1, 1, 1)
        mean = z.cumsum(1) / past if self.causal else z.mean(1, keepdim=True)
        y = F.relu(self.space_conv(mean.flatten(0, 1)))
        return self.space_expand(F.adaptive_avg_pool2d(y, 1).flatten(1)).unflatten(0, (-1, mean.shape[1]))


class PureExcitation(Excitation):
    """`Excitation` in few passes over the large map; constant factors are in the weights of what follows."""

    def prepare(self) -> None:
        halved = 1 if self.coarse is None else 1 / 2  # coarse differences come doubled
        if self.dcme is not None:
            _scale(halved, self.dcme.reduce[0])
        if self.stce is not None:
            _scale(halved, self.stce.time_squeeze, self.stce.space_squeeze)
        self.directions = 1 if self.dcme is None else len(self.dcme.directions)
        self.parts = max(1, (self.dcme is not None) + (self.stce is not None))
        self.rest = halved / self.parts / self.directions
        if self.conv is not None:
            _scale(self.rest, self.conv)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        if self.coarse is not None:
            x = self.coarse(x, timeline)
        if self.dcme is not None or self.stce is not None:
            x = self.excited(x, timeline)
        return x * self.rest if self.conv is None else self.conv(x, timeline)

    def excited(self, x: Tensor, timeline: Timeline) -> Tensor:
        """x * (1 + mean of E_D and E_S), times the number of parts and of directions."""
        steps = x.unflatten(0, (-1, timeline.num_segments))  # [B, T, C, H, W]
        factor = x.new_full((1, 1, 1), self.parts * self.directions)  # [B, T, C] in the end
        gates = [] if self.dcme is None else self.dcme.gates(x, timeline)  # type: ignore[operator]
        for _, still in gates:
            factor = factor - still
        if self.stce is not None:
            factor = factor + self.directions * (self.stce.openness(x, timeline) - 0.5)  # type: ignore[operator]
        whole = factor[..., None, None]
        for s, _ in gates:
            whole = whole + s.unflatten(0, (-1, timeline.num_segments))
        return (steps * whole).flatten(0, 1)


def _scale(factor: float, *modules: nn.Module) -> None:
    with torch.no_grad():
        for module in modules:
            module.weight.mul_(factor)  # type: ignore[union-attr, operator]


PURE: dict[type, type] = {
    Shift: PureShift,
    DepthwiseConv: PureDepthwiseConv,
    CoarseDifference: PureCoarseDifference,
    LongTermDifference: PureLongTermDifference,
    DCME: PureDCME,
    STCE: PureSTCE,
    Excitation: PureExcitation,
}
"""Class -> the one of the same parts that is easier on a runtime."""


def pure(model: nn.Module) -> nn.Module:
    """A copy of the network that writes into no tensor, with batch norms taken into the convolutions before them."""
    model = folded(model)
    for module in model.modules():
        module.__class__ = PURE.get(type(module), type(module))
        if isinstance(module, tuple(PURE.values())) and hasattr(module, "prepare"):
            module.prepare()  # type: ignore[operator]
    return model


def traced(
    model: nn.Module, shape: Sequence[int], *, multi_label: bool = False, half: bool = False
) -> torch.export.ExportedProgram:
    """torch.export's program of the whole network for clips of `shape`, (T, K, S, S, 3), any number of them.

    `half` stores weight matrices as float16.

    Raises:
        ExportError: torch.export cannot follow the network.
    """
    network = pure(model)
    whole = PixelsToProbabilities(HalfStored(network) if half else network, multi_label=multi_label).eval()
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    try:
        with torch.no_grad():
            return torch.export.export(whole, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise ExportError(f"torch.export cannot follow the network: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What went wrong, in one line."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
