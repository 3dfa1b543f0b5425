"""The processes of a run: accelerator, sums over processes, signals."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mdtnet.errors import ConfigError, MdtnetError

PATIENCE_SECONDS = 3.0  # launchers repeat a signal at once; a user's second Ctrl-C comes later


class Interrupted(MdtnetError):
    """A signal stopped training, which has saved its state; `exit_code` is 128 + the signal's number."""

    def __init__(self, number: int, out: str) -> None:
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name}; go on with: mdtnet train --resume {out}")
        self.exit_code = 128 + number


class Asked(KeyboardInterrupt):
    """A signal asked for the end; its number is `args[0]`."""


class Signals:
    """SIGINT and SIGTERM ask for an orderly end: `number` is the signal that came, or 0."""

    def __init__(self) -> None:
        self.number = 0
        self._when = 0.0
        self._at_once = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self._old = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal ends what is being done, such as waiting for data; one that came before ends it too.

        Raises:
            Asked: it came.
        """
        self._at_once = True
        try:
            if self.number:
                raise Asked(self.number)
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and time.monotonic() - self._when > PATIENCE_SECONDS:
            raise KeyboardInterrupt  # asked twice: at once, the last checkpoint is whole anyway
        if not self.number:
            self.number, self._when = number, time.monotonic()
        if self._at_once:
            raise Asked(self.number)


def make_accelerator(device: str, *, amp: str = "no", **keywords: Any) -> Accelerator:
    """An `Accelerator` on `auto` or `cpu`, whatever an earlier one in this process was set to.

    Raises:
        ConfigError: another device, or mixed precision that the device does not have.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(f"train.device is {device!r}, expected auto or cpu")
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    cpu = device == "cpu" or not torch.accelerator.is_available()  # several processes on it have to be asked for
    accelerator = Accelerator(cpu=cpu, mixed_precision=amp, **keywords)
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise ConfigError(
            f"{started} processes were started, but {accelerator.device.type} takes {accelerator.num_processes}: "
            "start one, or choose the device cpu"
        )
    if amp == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("train.amp is 'fp16', which needs a GPU; on a CPU there is bf16")
    return accelerator


def sum_over_processes(model: nn.Module, accelerator: Accelerator) -> None:
    """Sum gradients over processes, and average the running statistics of batch norms in training.

    In place of `DistributedDataParallel`, which wants a non-empty batch and the same graph in every process.
    """
    if accelerator.num_processes == 1:
        return
    sums: list[Tensor] = []
    means: list[Tensor] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            sums.append(parameter.grad)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
            means += [buffer for buffer in (module.running_mean, module.running_var) if buffer is not None]
    flat = torch.cat([t.reshape(-1) for t in sums] + [t.reshape(-1) / accelerator.num_processes for t in means])
    flat = accelerator.reduce(flat, reduction="sum")
    for tensor, part in zip(sums + means, flat.split([t.numel() for t in sums + means])):
        tensor.copy_(part.view(tensor.shape))
