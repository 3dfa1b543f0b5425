"""Cost of a network: parameters, multiply-adds by component, latency here.

Counted are multiply-adds of convolutions, linear layers and matrix products, as the field counts them, and what its
counters leave out: deformable convolution and the Fourier transform (a matrix product). Elementwise arithmetic,
normalisation, pooling and resampling are free by convention; any other operation is named in `Cost.uncounted`, so that
no figure is silently too small.
"""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401 (registers deform_conv2d)
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from mdtnet.models.network import Network

COMPONENTS = (
    (r"\.temporal\.dcme", "DCME"),
    (r"\.temporal\.stce", "STCE"),
    (r"\.temporal\.coarse", "coarse differences"),
    (r"\.temporal\.conv", "temporal convolution"),
    (r"\.temporal\.reduce", "reduction"),
    (r"\.temporal", "temporal modules"),
    (r"\.at_input\.(spatiotemporal|channel|motion)", "excitations"),
    (r"\.at_input", "temporal shift"),
    (r"^fine", "fine differences"),
    (r"^trunk", "trunk"),
    (r"^head", "classifier"),
    (r"", "salience and input"),
)
"""Pattern on a module's name -> the component it counts for; the first that matches."""

FREE = re.compile(
    r"aten::(_?unsafe_|_)?(add|addcmul|sub|rsub|mul|div|neg|abs|sqrt|square|pow|exp|log|sigmoid|tanh|relu|hardtanh|clamp|sum|mean|"
    r"max|amax|min|maximum|minimum|cumsum|sort|bitwise_and|__and__|__rshift__|native_batch_norm|cudnn_batch_norm|max_pool2d|"
    r"avg_pool2d|adaptive_avg_pool2d|upsample_\w+|replication_pad2d|constant_pad_nd|pad|cat|stack|copy|clone|to_copy|view|"
    r"reshape_alias|unsqueeze|squeeze|select|slice|permute|transpose|t|expand|unbind|split|alias|detach|lift_fresh|"
    r"unfold|as_strided|empty|empty_like|new_empty|zeros|zeros_like|new_zeros|ones|new_ones|rsqrt|full|fill|zero|arange|cos|sin|index|"
    r"unsafe_view|reciprocal|repeat|scalar_tensor|new_full|floor_divide|remainder|flip|where|ge|gt|lt|le|eq)(_)?(\.|$|::|_with_indices|_legit|_2d)"
)


@dataclass(frozen=True)
class Cost:
    """Cost of one view."""

    parameters: int
    """Learned numbers."""
    macs: dict[str, int]
    """Multiply-adds of one view, by component."""
    uncounted: tuple[str, ...]
    """Operations that the counter does not know; empty if the figure is complete."""

    @property
    def gmacs(self) -> float:
        """Multiply-adds of one view, in 10^9."""
        return sum(self.macs.values()) / 1e9


def count(model: Network, *, num_segments: int = 8, size: int = 224) -> Cost:
    """Cost of one view [1, T, K, 3, size, size]; nothing is computed (the network runs on the meta device).

    The model is moved to the meta device: build one for this alone.
    """
    clip = torch.empty(1, num_segments, model.frames_per_segment, 3, size, size, dtype=torch.uint8, device="meta")
    return cost_of(model.to("meta").eval(), clip)


def cost_of(model: nn.Module, clip: Tensor) -> Cost:
    """As `count`, of any network and its input, both on the meta device."""
    counter = _Counter()
    with torch.no_grad(), following(model, counter.names), torch.device("meta"), counter:
        model(clip)
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, dict(counter.macs), tuple(sorted(counter.uncounted)))


def component(module: str) -> str:
    """Component that a module of this name counts for."""
    return next(c for pattern, c in COMPONENTS if re.search(pattern, module))


class _Counter(TorchDispatchMode):
    """Counts every operator that runs, for the module that runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()
        self.uncounted: set[str] = set()
        self.names = [""]

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in FORMULAS:
            self.add(FORMULAS[name](args, out))
        elif not func.is_view and not FREE.match(name + "."):
            self.uncounted.add(name)
        return out

    def add(self, macs: int) -> None:
        self.macs[component(self.names[-1])] += macs


@contextmanager
def following(model: nn.Module, names: list[str]) -> Iterator[None]:
    """Keep the name of the module that is running at the end of `names`."""

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        names.pop()

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda m, x, name=name: names.append(name)))
        handles.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _convolution(args: Sequence[Tensor], out: Tensor) -> int:
    return out.numel() * args[1][0].numel()  # weight [O, C / groups, k, k]


def _deformable(args: Sequence[Tensor], out: Tensor) -> int:
    """k^2 C O H W for the convolution and 4 k^2 C H W for the bilinear samples (docs/method.md, section 8)."""
    x, weight = args[0], args[1]
    taps = weight[0].numel()  # C k k
    return out.numel() * taps + 4 * taps * x.shape[0] * out.shape[2] * out.shape[3]


FORMULAS: dict[str, Callable[[Sequence[Tensor], Tensor], int]] = {
    "aten::convolution": _convolution,
    "aten::addmm": lambda args, out: out.numel() * args[1].shape[-1],
    "aten::mv": lambda args, out: args[0].numel(),
    "aten::mm": lambda args, out: out.numel() * args[0].shape[-1],
    "aten::bmm": lambda args, out: out.numel() * args[0].shape[-1],
    "torchvision::deform_conv2d": _deformable,
    "aten::grid_sampler_2d": lambda args, out: 4 * out.numel(),  # of deformable convolution; a product follows
}


@torch.no_grad()
def latency(model: Network, *, num_segments: int = 8, size: int = 224, repeats: int = 7) -> list[float]:
    """Seconds of `repeats` forward passes of one view, sorted, after one to warm up."""
    device = next(model.parameters()).device
    clip = torch.randint(
        0, 256, (1, num_segments, model.frames_per_segment, 3, size, size), dtype=torch.uint8, device=device
    )
    model.eval()
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        model(clip).cpu()  # waits for an accelerator
        seconds.append(time.perf_counter() - start)
    return sorted(seconds[1:])
