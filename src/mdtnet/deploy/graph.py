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

from mdtnet.errors import ExportError
from mdtnet.models.deform import by_torchvision
from mdtnet.models.folding import folded
from mdtnet.models.mdtnet import DCME, Excitation
from mdtnet.models.tdn import LongTermDifference
from mdtnet.models.temporal import CoarseDifference, DepthwiseConv, Shift, combined
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
    """`DepthwiseConv` as a sum of steps. A convolution, for which time has to lie beside height and width, is quicker
    in ONNX Runtime and slower in OpenVINO."""

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        x = x.unflatten(0, (-1, timeline.num_segments))  # [B, T, C, H, W]
        taps = self.weight.reshape(-1, 3, 1, 1).unbind(1)  # [C, 1, 1] each
        steps = (-2, -1, 0) if self.causal else (-1, 0, 1)
        terms = [(stepped(x, step) if step else x) * tap for step, tap in zip(steps, taps)]
        return (terms[0] + terms[1] + terms[2]).flatten(0, 1)


class PureCoarseDifference(CoarseDifference):
    """`CoarseDifference` in few operations."""

    def prepare(self) -> None:
        _scale(1 / 3, self.expand[0])  # of the mean of three scales

    def forward(self, z: Tensor, timeline: Timeline) -> Tensor:
        here, moved = (y.unflatten(0, (-1, timeline.num_segments)) for y in (z, self.move(z)))  # [B, T, c, H, W]
        differences = [_padded(moved[:, :-1] - here[:, 1:], at_start=True)]
        if not self.causal:
            differences.append(_padded(moved[:, 1:] - here[:, :-1], at_start=False))
        d = torch.stack(differences).flatten(0, 2)  # [directions * N, c, H, W]
        pooled = self.pooled(_halved(d))
        y = d + F.interpolate(pooled, d.shape[-2:], mode="nearest") + self.full(d)
        gates = [torch.sigmoid(self.expand(part)) for part in y.unflatten(0, (len(differences), -1)).unbind(0)]
        return gates[0] + gates[-1]


def _padded(x: Tensor, *, at_start: bool) -> Tensor:
    """Zeros for a missing first or last segment, [B, T-1, ...] -> [B, T, ...]."""
    return F.pad(x, (0, 0) * (x.ndim - 2) + ((1, 0) if at_start else (0, 1)))


def _halved(x: Tensor, *, ceil: bool = False) -> Tensor:
    """Averaged over 2 x 2 cells. Crops are square; a map of one pixel, which OpenVINO does not pool, is left alone."""
    return (
        x if x.shape[-1] < 2 else F.avg_pool2d(x, 2, ceil_mode=ceil and x.shape[-1] % 2 == 1, count_include_pad=False)
    )


class PureLongTermDifference(LongTermDifference):
    """`LongTermDifference` with a constant factor in the weights of its last step."""

    def prepare(self) -> None:
        _scale(1 / 2, self.conv)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        return self.conv(x + x * self.coarse(self.reduce(x), timeline), timeline)


class PureDCME(DCME):
    """`DCME` for all segments at once, by an operator that runtimes have: what there is no neighbour for gets the gate
    of no motion."""

    def moved(self, z: Tensor, offset: Tensor) -> Tensor:
        kernels = [(weight.shape[-1], dilation) for weight, dilation in zip(self.kernels, self.dilations)]
        return by_torchvision(z, offset, list(self.kernels), tuple(kernels))

    def gates(self, z: Tensor, timeline: Timeline) -> list[tuple[Tensor, Tensor]]:
        """Z [N, c, H, W] -> for each direction s [N, C, H, W], and what it is where nothing moves, [T, C]."""
        segments = timeline.num_segments
        if segments == 1:
            return []
        if self.low_level is not None and timeline.low_level is not None:
            z = z + F.adaptive_avg_pool2d(self.low_level(timeline.low_level), (z.shape[-2], z.shape[-1]))
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


class PureExcitation(Excitation):
    """`Excitation` in few passes over the large map; constant factors are in the weights of what follows."""

    def prepare(self) -> None:
        self.directions = 1 if self.dcme is None else len(self.dcme.directions)
        self.parts = max(1, (self.dcme is not None) + (self.stce is not None))
        self.rest = (1 if self.coarse is None else 1 / 2) / self.parts / self.directions
        if self.conv is not None and self.reduce is not None:
            _scale(self.rest, self.conv)

    def forward(self, x: Tensor, timeline: Timeline) -> Tensor:
        if self.reduce is None:
            return x if self.conv is None else self.conv(x, timeline)
        z = self.reduce(x)
        x = combined(torch.mul, x, self.gain(_halved(z, ceil=True) if self.halves else z, timeline))
        return x * self.rest if self.conv is None else self.conv(x, timeline)

    def gain(self, z: Tensor, timeline: Timeline) -> Tensor:
        """As `Excitation.gain`, times 2 for coarse differences, the number of parts and of directions."""
        factor = z.new_full((1, 1, 1), self.parts * self.directions)  # [B, T, C] in the end
        gates = [] if self.dcme is None else self.dcme.gates(z, timeline)  # type: ignore[operator]
        for _, still in gates:
            factor = factor - still
        if self.stce is not None:
            factor = factor + self.directions * self.stce(z, timeline).flatten(2)
        whole = factor[..., None, None]
        for s, _ in gates:
            whole = whole + s.unflatten(0, (-1, timeline.num_segments))
        if self.coarse is not None:
            whole = whole * (1 + self.coarse(z, timeline)).unflatten(0, (-1, timeline.num_segments))
        return whole.expand(z.shape[0] // timeline.num_segments, timeline.num_segments, -1, -1, -1).flatten(0, 1)


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
    Excitation: PureExcitation,
}
"""Class -> the one of the same parts that is easier on a runtime."""


def pure(model: nn.Module, *, steps: bool = False) -> nn.Module:
    """A copy of the network that writes into no tensor, with batch norms taken into the convolutions before them.

    `steps` writes convolutions over time as sums of steps.
    """
    model = folded(model)
    for module in model.modules():
        if steps or not isinstance(module, DepthwiseConv):
            module.__class__ = PURE.get(type(module), type(module))
        if isinstance(module, tuple(PURE.values())) and hasattr(module, "prepare"):
            module.prepare()  # type: ignore[operator]
    return model


def traced(
    network: nn.Module, shape: Sequence[int], *, multi_label: bool = False, half: bool = False
) -> torch.export.ExportedProgram:
    """torch.export's program for clips of `shape`, (T, K, S, S, 3), any number of them: from pixels to probabilities.

    `half` stores weight matrices as float16.

    Raises:
        ExportError: torch.export cannot follow the network.
    """
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


def in_trunk(weight: str) -> bool:
    return ".trunk." in weight and ".temporal." not in weight
