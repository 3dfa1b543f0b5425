"""Kernels, bytes and FLOPs of a forward pass or a training step, counted without running it, and the time they take at
least on a device of a given bandwidth and peak.

The network runs once on the meta device (shapes alone) and every ATen call is recorded. There are two counts:

- *eager*: each call that computes something is a kernel. It reads its inputs and writes its outputs.
- *fused*: what a compiler makes of the same calls (docs/gpu.md, "Counting before running"). Convolutions, matrix
  products, deformable convolutions and sorting are kernels of their own. A chain of pointwise operations between
  them is one kernel, and so is a reduction together with the chain that leads to it; what stays inside a chain is
  neither written nor read.

Letters: B clips, T segments, K frames per segment.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mdtnet.measure.cost import FORMULAS, component, following
from mdtnet.models.folding import folded, stored_in
from mdtnet.models.trunk import as_compiled

PRODUCTS = {
    *("aten::convolution", "aten::convolution_backward", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    *("torchvision::deform_conv2d", "torchvision::_deform_conv2d_backward", "aten::sort", "aten::topk"),
    "aten::grid_sampler_2d_backward",
}
"""Kernels of their own in both counts: nothing is fused into them."""
REDUCTIONS = {
    *("aten::sum", "aten::mean", "aten::amax", "aten::max", "aten::var", "aten::var_mean", "aten::any", "aten::cumsum"),
    *("aten::_log_softmax", "aten::_softmax", "aten::nll_loss_forward", "aten::linalg_vector_norm"),
}
NEIGHBOURHOODS = {
    *("aten::max_pool2d_with_indices", "aten::avg_pool2d", "aten::_adaptive_avg_pool2d", "aten::grid_sampler_2d"),
    *("aten::upsample_bilinear2d", "aten::max_pool2d_with_indices_backward", "aten::avg_pool2d_backward"),
}
"""Pointwise in what they write, but they read elements several times: an input that is computed from more than one
tensor is written to memory first."""
NORMS = {"aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::native_batch_norm_backward"}
"""A reduction, then a pointwise operation; the first is left out where running statistics are used."""
NOTHING = {"aten::empty", "aten::empty_like", "aten::new_empty", "aten::empty_strided", "aten::new_empty_strided"}
"""Calls that allocate and compute nothing."""
MOST_READS = 4
"""A value computed from more tensors than this and read more than once is written to memory, not computed twice."""


@dataclass(frozen=True)
class Device:
    """Limits of an accelerator; the defaults are the datasheet of an H100 SXM in bf16."""

    bandwidth: float = 3.35e12
    """Bytes per second of its memory."""
    peak: float = 989e12
    """FLOP per second of its matrix units, in the precision that is counted."""
    reached_bandwidth: float = 0.8
    """Share of `bandwidth` that a good kernel reaches."""
    reached_peak: float = 0.6
    launch: float = 3.5e-6
    """Seconds that a kernel takes at least."""


@dataclass(frozen=True)
class Kernel:
    """One kernel: the component it belongs to, the calls in it, bytes read and written, FLOPs of products."""

    component: str
    calls: tuple[str, ...]
    bytes: int
    flops: int

    def seconds(self, device: Device) -> float:
        """The longest of moving its bytes, its FLOPs and being launched."""
        moved = self.bytes / (device.bandwidth * device.reached_bandwidth)
        return max(moved, self.flops / (device.peak * device.reached_peak), device.launch)


@dataclass(frozen=True)
class Count:
    """All kernels of one pass."""

    kernels: tuple[Kernel, ...]

    @property
    def bytes(self) -> int:
        return sum(k.bytes for k in self.kernels)

    @property
    def flops(self) -> int:
        return sum(k.flops for k in self.kernels)

    def seconds(self, device: Device) -> float:
        """Lower bound of the time on a device, kernel after kernel."""
        return sum(k.seconds(device) for k in self.kernels)

    def components(self) -> dict[str, "Count"]:
        """The same by component, in the order of first use."""
        found: dict[str, list[Kernel]] = {}
        for kernel in self.kernels:
            found.setdefault(kernel.component, []).append(kernel)
        return {name: Count(tuple(kernels)) for name, kernels in found.items()}


@dataclass(frozen=True)
class Roofline:
    """Both counts of one network."""

    eager: Count
    fused: Count


def roofline(
    model: nn.Module,
    *,
    batch: int = 1,
    num_segments: int = 8,
    size: int = 224,
    precision: torch.dtype = torch.float32,
    training: bool = False,
) -> Roofline:
    """Count a forward pass of `batch` clips [B, T, K, 3, size, size], or with `training` a step of SGD with momentum.

    A forward pass has its batch norms folded and holds its weights in `precision`, a training step casts them, as
    autocast does. The model is moved to the meta device: build one for this alone.
    """
    frames: int = model.frames_per_segment  # type: ignore[assignment]
    model = model.to("meta").train() if training else stored_in(folded(model.to("meta")), precision)
    model = model.to(memory_format=torch.channels_last)
    clips = torch.empty(batch, num_segments, frames, 3, size, size, dtype=torch.uint8, device="meta")
    step = (lambda: _train(model, clips, precision)) if training else (lambda: _predict(model, clips, precision))
    with as_compiled():
        fused = record(step, model).fused()
    return Roofline(record(step, model).eager(), fused)


def _predict(model: nn.Module, clips: Tensor, precision: torch.dtype) -> Tensor:
    with torch.no_grad(), _Autocast(precision):
        return model(clips)


def _train(model: nn.Module, clips: Tensor, precision: torch.dtype) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
    for parameter in model.parameters():
        parameter.grad = None
        optimizer.state[parameter] = {"momentum_buffer": torch.empty_like(parameter)}
    with _Autocast(precision):
        logits = model(clips)
    loss = F.cross_entropy(logits.float(), torch.empty(len(clips), dtype=torch.long, device="meta"))
    loss.backward()
    optimizer.step()
    return loss


class _Autocast(TorchFunctionMode):
    """Convolutions and matrix products in `dtype`, as `torch.autocast` has them, which knows no meta device."""

    CAST: tuple[Any, ...] = (
        *(F.conv1d, F.conv2d, F.linear, torch.matmul, torch.mm, torch.bmm, torch.einsum),
        *(Tensor.matmul, Tensor.__matmul__, torch.conv1d, torch.conv2d),
    )

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.CAST:
            args = tuple(self._cast(a) for a in args)
            kwargs = {key: self._cast(value) for key, value in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))

    def _cast(self, value: Any) -> Any:
        return value.to(self.dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


Value = tuple[int, int]
"""Storage and version: a write makes a new version."""


@dataclass
class Call:
    """A recorded call, or one of the two parts of a batch norm."""

    name: str
    component: str
    reads: dict[Value, dict[Any, int]]
    """Value -> part of it that is read -> bytes."""
    writes: list[Value]
    elements: int
    """Of the largest tensor that is written; of a reduction, that is read."""
    elements_written: int
    written: dict[Value, int]
    """Value -> bytes of it, when it is written as a whole."""
    moved: int
    """Bytes that the call itself moves."""
    flops: int = 0

    @property
    def fusible(self) -> bool:
        return self.name not in PRODUCTS and not self.name.startswith("aten::_foreach")


class Recorder(TorchDispatchMode):
    """Every call that computes something, and which module it belongs to; backward calls too."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.names = [""]
        self.results: set[Value] = set()
        """Values that outlive the pass."""
        self._versions: Counter[int] = Counter()
        self._made: set[int] = set()
        self._kept: list[Any] = []  # so that no storage takes another's place
        self._forward: list[tuple[int, str]] = []

    # recording

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        inputs = [t for t in tree_leaves((args, kwargs or {})) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        self._kept += [t.untyped_storage() for t in (*inputs, *outputs)]
        where = self._component()
        if func._schema.is_mutable:
            self._record_write(func, name, where, args, inputs)
        elif outputs and not self._is_view(inputs, outputs):
            self._made |= {_storage(t) for t in outputs}
            if name in NORMS:
                self._record_norm(name, where, args, outputs)
            elif name not in NOTHING:
                self._record(name, where, inputs, outputs, _flops(name, args, out))
        return out

    def _component(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            self._forward.append((torch._C._autograd._get_sequence_nr(), component(self.names[-1])))
            return self._forward[-1][1]
        made = node._sequence_nr()  # just before the first call of its forward part was seen
        return next((where for number, where in self._forward if number > made), "training")

    @staticmethod
    def _is_view(inputs: list[Tensor], outputs: list[Tensor]) -> bool:
        return {_storage(t) for t in outputs} <= {_storage(t) for t in inputs}

    def _value(self, tensor: Tensor) -> Value:
        storage = _storage(tensor)
        return storage, self._versions[storage]

    def _record(self, name: str, where: str, inputs: list[Tensor], outputs: list[Tensor], flops: int) -> None:
        reads: dict[Value, dict[Any, int]] = defaultdict(dict)
        for tensor in inputs:
            reads[self._value(tensor)][_part(tensor)] = _bytes(tensor)
        most = max(t.numel() for t in outputs)
        largest = max(inputs if name in REDUCTIONS else outputs, key=Tensor.numel)
        written = {self._value(t): _bytes(t) for t in outputs}
        moved = sum(sum(parts.values()) for parts in reads.values()) + sum(written.values())
        self.calls.append(Call(name, where, dict(reads), list(written), largest.numel(), most, written, moved, flops))

    def _record_write(self, func: Any, name: str, where: str, args: Any, inputs: list[Tensor]) -> None:
        targets = [a for a, s in zip(args, func._schema.arguments) if s.alias_info and s.alias_info.is_write]
        tensors = [t for t in tree_leaves(targets) if isinstance(t, Tensor)]
        only_writes = name in ("aten::copy_", "aten::fill_", "aten::zero_")
        reads: dict[Value, dict[Any, int]] = defaultdict(dict)
        for tensor in inputs:
            if not (only_writes and any(tensor is t for t in tensors)):
                reads[self._value(tensor)][_part(tensor)] = _bytes(tensor)
        moved = sum(sum(parts.values()) for parts in reads.values()) + sum(_bytes(t) for t in tensors)
        written = {}
        for tensor in tensors:
            storage, whole = _storage(tensor), tensor.untyped_storage().nbytes()
            if _bytes(tensor) < whole:  # the rest stays as it was
                reads[self._value(tensor)][("rest", _part(tensor))] = whole - _bytes(tensor)
            self._versions[storage] += 1
            written[self._value(tensor)] = whole
            if storage not in self._made:
                self.results.add(self._value(tensor))
        elements = max((t.untyped_storage().nbytes() // t.element_size() for t in tensors), default=0)
        self.calls.append(Call(name, where, dict(reads), list(written), elements, elements, written, moved))

    def _record_norm(self, name: str, where: str, args: Any, outputs: list[Tensor]) -> None:
        """The statistics, a reduction, and what is computed with them."""
        backward = name == "aten::native_batch_norm_backward"
        maps = [t for t in args[: 2 if backward else 1]]
        rest = [t for t in args[2 if backward else 1 :] if isinstance(t, Tensor)]
        statistics = [t for t in outputs[1:] if t.numel()]
        training = args[7] if backward else args[5]
        if training:
            self._record("aten::var_mean", where, maps, statistics, 0)
            self.calls[-1].moved = 0
        self._record(name, where, [*maps, *rest, *(statistics if training else [])], outputs[:1], 0)
        self.calls[-1].moved += sum(_bytes(t) for t in statistics) if training else 0

    # counting

    def eager(self) -> Count:
        """Each call is a kernel."""
        return Count(tuple(Kernel(c.component, (c.name,), c.moved, c.flops) for c in self.calls if c.moved))

    def fused(self) -> Count:
        """Chains of pointwise operations, and reductions with the chain before them, are kernels."""
        return _Fusion(self.calls, self.results).count()


class _Fusion:
    """Calls in groups that a compiler could run as one kernel.

    A value is *written* to memory if a product reads it, or a reduction or product makes it, if it outlives the pass,
    or if it is costly to compute and read more than once (`MOST_READS`); any other is computed where it is read. A
    written value has a depth, the number of kernels that must have ended before it. Written values of one depth that
    are computed from each other, with the same number of elements, come from one kernel.
    """

    def __init__(self, calls: list[Call], results: set[Value]) -> None:
        self.calls = calls
        self.maker = {value: i for i, call in enumerate(calls) for value in call.writes}
        self.readers: dict[int, set[int]] = defaultdict(set)
        for i, call in enumerate(calls):
            for value in call.reads:
                if value in self.maker:
                    self.readers[self.maker[value]].add(i)
        self.is_result = [bool(results & set(call.writes)) for call in calls]
        self.written: list[bool] = []
        self.depth: list[int] = []
        self.group = list(range(len(calls)))
        self.domain = [(call.elements, call.elements_written) for call in calls]
        self.reads: list[dict[Value, dict[Any, int]]] = []
        """For each call, the parts of values in memory that it is computed from."""
        for i in range(len(calls)):
            self._place(i)

    def _place(self, i: int) -> None:
        reads: dict[Value, dict[Any, int]] = defaultdict(dict)
        for value, parts in self.calls[i].reads.items():
            m = self.maker.get(value)
            if m is None or self.written[m]:
                reads[value].update(parts)
            else:
                whole = self.calls[m].written[value]
                for part, size in parts.items():
                    for inner, found in self.reads[m].items():
                        reads[inner].update({(p, part) if size < whole else p: n for p, n in found.items()})
        self.reads.append(reads)
        before = {self.maker[value]: self._ends_before(value, i) for value in reads if value in self.maker}
        self.depth.append(max((self.depth[m] + ends for m, ends in before.items()), default=0))
        for m, ends in before.items():
            if self.depth[m] == self.depth[i] and not ends:
                self.group[self._root(m)] = self._root(i)
                if self._is_reduced(m):
                    self.domain[i] = self.domain[m]  # in the loop of the reduction
        self.written.append(self._is_written(i))

    def _is_written(self, i: int) -> bool:
        call, readers = self.calls[i], [self.calls[r] for r in self.readers[i]]
        if not readers and not self.is_result[i]:
            return not call.fusible
        if not call.fusible or self.is_result[i] or call.name in REDUCTIONS:
            return True
        if any(not r.fusible or (r.name in NEIGHBOURHOODS and self._num_reads(i) > 1) for r in readers):
            return True
        return self._is_costly(i)

    def _is_costly(self, i: int) -> bool:
        return len(self.readers[i]) > 1 and self._num_reads(i) > MOST_READS

    def _num_reads(self, i: int) -> int:
        return sum(len(parts) for parts in self.reads[i].values())

    def _ends_before(self, value: Value, reader: int) -> bool:
        """Whether the kernel of a written value must have ended before `reader` starts."""
        maker = self.maker[value]
        made, read = self.calls[maker], self.calls[reader]
        if not (made.fusible and read.fusible) or read.name in NEIGHBOURHOODS or self._is_costly(maker):
            return True
        if min(self.reads[reader][value].values()) < made.written[value]:  # read at other places than it is written
            return True
        return self._is_reduced(maker) and (read.name in REDUCTIONS or read.elements > made.elements_written)

    def _is_reduced(self, i: int) -> bool:
        """Whether a value is a reduction's, or computed from one where that ends."""
        return self.calls[i].name in REDUCTIONS or self.domain[i][0] > self.calls[i].elements

    def _root(self, i: int) -> int:
        while self.group[i] != i:
            i = self.group[i]
        return i

    def count(self) -> Count:
        kernels: dict[tuple[int, tuple[int, int]], list[int]] = {}
        for i, written in enumerate(self.written):
            if written:
                kernels.setdefault((self._root(i), self.domain[i]), []).append(i)
        return Count(tuple(self._kernel(ends) for ends in kernels.values()))

    def _kernel(self, ends: list[int]) -> Kernel:
        """The kernel that writes the values of the calls `ends`."""
        reads: dict[Value, dict[Any, int]] = defaultdict(dict)
        own = {value for i in ends for value in self.calls[i].writes}
        for i in ends:
            for value, parts in self.reads[i].items():
                if value not in own:
                    reads[value].update(parts)
        read = sum(self._size(value, parts) for value, parts in reads.items())
        written = sum(
            self.calls[i].written[value]
            for i in ends
            for value in self.calls[i].writes
            if self.is_result[i] or self._leaves(i, ends)
        )
        last = self.calls[ends[-1]]
        flops = sum(self.calls[i].flops for i in ends)
        return Kernel(last.component, tuple(self.calls[i].name for i in ends), read + written, flops)

    def _leaves(self, i: int, ends: list[int]) -> bool:
        """Whether a written value is read outside of its kernel."""
        return any(r not in ends for r in self.readers[i]) or not self.calls[i].fusible

    def _size(self, value: Value, parts: dict[Any, int]) -> int:
        """Bytes of a value that is read in several parts, which may overlap."""
        whole = self.calls[self.maker[value]].written[value] if value in self.maker else max(parts.values())
        return min(sum(parts.values()), whole)


def record(step: Any, model: nn.Module) -> Recorder:
    """Run `step`, which runs `model` on the meta device, and record it; what it returns is a result."""
    recorder = Recorder()
    with following(model, recorder.names), torch.device("meta"), recorder:
        result = step()
    recorder.results |= {recorder._value(t) for t in tree_leaves(result) if isinstance(t, Tensor)}
    return recorder


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    """Bytes of a tensor, each counted once where it is expanded."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride()):
        elements *= size if stride or size == 0 else 1
    return elements * tensor.element_size()


def _part(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _flops(name: str, args: Any, out: Any) -> int:
    if name in FORMULAS:
        return 2 * FORMULAS[name](args, out)
    if name == "aten::convolution_backward":
        grad, weight, wanted = args[0], args[2], args[-1]
        transposed = grad.numel() * weight[0].numel()
        return 2 * transposed * sum(wanted[:2])
    return 0
