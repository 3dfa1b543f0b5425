"""A network as a graph for a runtime: its runtime form, from pixels to probabilities, as torch.export's program.

Letters: B clips, T segments, K frames per segment, H, W pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mdtnet.errors import ExportError
from mdtnet.inference.description import Description, clip_shape
from mdtnet.models.folding import folded
from mdtnet.models.mdtnet import DCME
from mdtnet.models.memory import State
from mdtnet.models.network import Network
from mdtnet.models.stream import Stream
from mdtnet.models.temporal import TemporalModule


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


def pure(model: nn.Module, *, steps: bool = False) -> nn.Module:
    """A copy of the network for runtimes: batch norms taken into the convolutions before them, temporal modules in
    their runtime form (`TemporalModule.for_runtime`), which write into no tensor.

    `steps` writes convolutions over time as sums of steps.
    """
    model = folded(model)
    for module in list(model.modules()):  # from the outside in: a module brings its parts' runtime forms along
        for name, child in list(module.named_children()):
            if isinstance(child, TemporalModule):
                setattr(module, name, child.for_runtime(steps=steps))
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


class StreamToProbabilities(nn.Module):
    """A stream's network, from uint8 segments [B, K, H, W, 3] and a state to probabilities [B, classes] and the next
    state."""

    def __init__(self, stream: Stream, *, multi_label: bool) -> None:
        super().__init__()
        self.stream, self.multi_label = stream, multi_label

    def forward(self, frames: Tensor, state: State | None) -> tuple[Tensor, State]:
        logits, state = self.stream(frames.movedim(-1, 2), state)
        return logits.sigmoid() if self.multi_label else logits.softmax(1), state


def traced_stream(model: Network, description: Description) -> torch.export.ExportedProgram:
    """torch.export's program of `StreamToProbabilities`, for any number of streams.

    Raises:
        ConfigError: the network looks ahead.
        ExportError: torch.export cannot follow it.
    """
    network = folded(model)
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, DCME):
                setattr(module, name, child.for_runtime(steps=True))
    stream = Stream(network, num_segments=description.num_segments)
    whole = StreamToProbabilities(stream, multi_label=description.multi_label).eval()
    example = torch.zeros((2, *clip_shape(description)[1:]), dtype=torch.uint8)
    with torch.no_grad():
        _, state = whole(example, None)
        batch = {0: torch.export.Dim("batch")}
        try:
            return torch.export.export(whole, (example, state), dynamic_shapes=(batch, tuple(batch for _ in state)))
        except (RuntimeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
            raise ExportError(f"torch.export cannot follow the network: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """An error as one line."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def in_trunk(weight: str) -> bool:
    return ".trunk." in weight and ".temporal." not in weight
