"""Run a function on many items in separate processes: a crash or a hang costs one item, not the run."""

import contextlib
import multiprocessing
import queue
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Generic, Literal, TypeVar

START_SECONDS = 60.0  # extra time for the first item of a process, which has to start
Item = TypeVar("Item")
Result = TypeVar("Result")


SLOW = "not done after"  # so many seconds: how the detail of a timeout begins


@dataclass(frozen=True)
class Failure:
    """Reason why an item has no result."""

    kind: Literal["crash", "timeout"]
    detail: str


class _Worker(Generic[Item, Result]):
    """A process that is given one item at a time."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        context = multiprocessing.get_context("spawn")  # no inherited locks, threads or memory
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.fresh, self.since = True, time.monotonic()

    def send(self, item: Item) -> None:
        self.since = time.monotonic()
        with contextlib.suppress(OSError):  # the process is dead already: `receive` reports it
            self.pipe.send(item)

    def receive(self) -> Result | Failure:
        """The result, or a Failure where the process died."""
        try:
            result: Result = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return Failure("crash", _cause(self.process.exitcode or 0))
        self.fresh = False
        return result

    def late(self, seconds: float) -> bool:
        return time.monotonic() - self.since > seconds + (START_SECONDS if self.fresh else 0)

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(function: Callable[[Item], Result], pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    while True:
        try:
            item = pipe.recv()
        except EOFError:  # the parent is gone
            return
        pipe.send(function(item))


def _cause(exit_code: int) -> str:
    if exit_code < 0:
        return f"the decoder's process was ended by {signal.Signals(-exit_code).name}"
    return f"the decoder's process ended with exit code {exit_code}"


def run_isolated(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, timeout_seconds: float
) -> Iterator[tuple[Item, Result | Failure]]:
    """Each item with the function's result or a `Failure`, in the order in which they finish.

    `function` must be importable (a plain function of a module) and must not raise; items and results are pickled.
    """
    waiting, free = iter(items), workers
    busy: dict[Connection, tuple[_Worker[Item, Result], Item]] = {}
    idle: list[_Worker[Item, Result]] = []
    try:
        while True:
            while free and (next_items := list(islice(waiting, 1))):
                worker = idle.pop() if idle else _Worker(function)
                worker.send(next_items[0])
                busy[worker.pipe] = worker, next_items[0]
                free -= 1
            if not busy:
                return
            for pipe, result in _next_results(busy, timeout_seconds):
                worker, item = busy.pop(pipe)
                free += 1
                if isinstance(result, Failure):
                    worker.stop()
                else:
                    idle.append(worker)
                yield item, result
    finally:
        for worker in [*idle, *(worker for worker, _ in busy.values())]:
            worker.stop()


def _next_results(
    busy: dict[Connection, tuple[_Worker[Item, Result], Item]], timeout_seconds: float
) -> list[tuple[Connection, Result | Failure]]:
    """Results of workers that finished within a moment, and failures of those that died or are too late."""
    ready = wait(list(busy), timeout=0.2)
    done: list[tuple[Connection, Result | Failure]] = [(p, busy[p][0].receive()) for p in busy if p in ready]
    late = [p for p, (worker, _) in busy.items() if p not in ready and worker.late(timeout_seconds)]
    return done + [(p, Failure("timeout", f"{SLOW} {timeout_seconds:g} s")) for p in late]


class Pool(Generic[Item, Result]):
    """Processes that run one function for several threads, kept for the next item; they start when they are needed."""

    def __init__(self, function: Callable[[Item], Result], workers: int) -> None:
        """`function` must be importable and must not raise; items and results are pickled."""
        self._function = function
        self._idle: queue.LifoQueue[_Worker[Item, Result] | None] = queue.LifoQueue()
        self._alive: set[_Worker[Item, Result]] = set()
        for _ in range(workers):
            self._idle.put(None)

    def run(self, item: Item, *, timeout_seconds: float) -> Result | Failure:
        """The function's result, or a `Failure`; waits while all processes are busy."""
        worker = self._idle.get()
        try:
            if worker is None:
                worker = _Worker(self._function)
                self._alive.add(worker)
            worker.send(item)
            seconds = timeout_seconds + (START_SECONDS if worker.fresh else 0)
            ready = worker.pipe.poll(seconds)
            result = worker.receive() if ready else Failure("timeout", f"{SLOW} {timeout_seconds:g} s")
            if isinstance(result, Failure):
                worker.stop()
                self._alive.discard(worker)
                worker = None
            return result
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all processes; the items of busy ones fail."""
        for worker in list(self._alive):
            worker.process.kill()
