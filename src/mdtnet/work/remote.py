"""Commands as processes on the nodes of a Ray cluster, used like a `subprocess.Popen` of this machine."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

from mdtnet.work.engines import check_seen, connect

LOST = 1000
"""Exit code of a process whose node was lost."""
POLL_SECONDS = 0.5


class Process(Protocol):
    """What is used of a process, as `subprocess.Popen` has it."""

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...

    def kill(self) -> None: ...

    def wait(self) -> int: ...


Launch = Callable[[Sequence[str], BinaryIO], Process]
"""Arguments of `mdtnet`, and the file that its output is appended to -> its process."""


def launch_here(environment: Mapping[str, str]) -> Launch:
    """Processes of this machine, each in a group of its own: whoever starts them passes signals on."""

    def launch(arguments: Sequence[str], output: BinaryIO) -> Process:
        return subprocess.Popen(
            [sys.executable, "-m", "mdtnet", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    return launch


def launch_on_ray(environment: Mapping[str, str], *, num_gpus: float = 0.0, places: Sequence[str] = ()) -> Launch:
    """Processes of a Ray cluster, one CPU and `num_gpus` each; `environment` is added to that of the node.

    Every node must see the current folder, and the files and folders `places`, under the same path.

    Raises:
        ConfigError: Ray is not installed, no cluster can be reached, or a node does not see a place.
    """
    ray = connect()
    for place in (os.getcwd(), *places):
        check_seen(ray, place)

    def launch(arguments: Sequence[str], output: BinaryIO) -> Process:
        kind = ray.remote(_Command).options(num_cpus=1, num_gpus=num_gpus or None)
        log = os.path.abspath(os.fsdecode(output.name))
        return _Remote(ray, kind.remote(list(arguments), log, os.getcwd(), dict(environment)), os.dup(output.fileno()))

    return launch


class _Command:
    """An actor that runs one command."""

    def __init__(self, arguments: list[str], log: str, folder: str, environment: dict[str, str]) -> None:
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mdtnet", *arguments],
                env={**os.environ, **environment},
                cwd=folder,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )

    def poll(self) -> int | None:
        return self.process.poll()

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)


def _die_with_parent() -> None:
    """An actor that is killed takes its command along; else that would hold its run's folder for ever."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class _Remote:
    """A process of the cluster; its log stays locked here as long as it runs."""

    def __init__(self, ray: Any, actor: Any, log: int) -> None:
        self.ray, self.actor, self.log = ray, actor, log
        self.code: int | None = None
        self.asked = actor.poll.remote()

    def poll(self) -> int | None:
        if self.code is None and self.ray.wait([self.asked], timeout=0)[0]:
            try:
                self.code = self.ray.get(self.asked)
            except self.ray.exceptions.RayActorError:
                self.code = LOST
            if self.code is None:
                self.asked = self.actor.poll.remote()
            else:
                self._end()
        return self.code

    def send_signal(self, number: int) -> None:
        self.actor.send_signal.remote(number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code

    def _end(self) -> None:
        os.close(self.log)
        self.ray.kill(self.actor)
