"""A function on many items in processes of their own: one that crashes or hangs costs its item, not the run."""

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

START_SECONDS = 60.0  # a process may take this long to start before its first item counts as hanging


@dataclass(frozen=True)
class Failure:
    """What became of an item that has no result: `kind` is `crash` or `timeout`."""

    kind: str
    detail: str


class _Worker:
    """A process that is handed one item at a time."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        context = multiprocessing.get_context("spawn")  # no inherited locks, threads or memory
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.fresh, self.since = True, time.monotonic()

    def give(self, item: Any) -> None:
        self.since = time.monotonic()
        with contextlib.suppress(OSError):  # it is dead already: `take` tells
            self.pipe.send(item)

    def take(self) -> Any:
        """The result, or a Failure where the process died."""
        try:
            result = self.pipe.recv()
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


def _serve(function: Callable[[Any], Any], pipe: Connection) -> None:
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
    function: Callable[[Any], Any], items: Iterable[Any], *, workers: int, timeout_seconds: float
) -> Iterator[tuple[Any, Any]]:
    """Each item with `function`'s result, or with a `Failure`, in the order in which they are done.

    `function` must be importable (a plain function of a module) and raise nothing; what goes in and out is pickled.
    """
    waiting, free = iter(items), workers
    busy: dict[Connection, tuple[_Worker, Any]] = {}
    idle: list[_Worker] = []
    try:
        while True:
            while free and (item := next(waiting, busy)) is not busy:
                worker = idle.pop() if idle else _Worker(function)
                worker.give(item)
                busy[worker.pipe] = worker, item
                free -= 1
            if not busy:
                return
            for pipe, result in _finished(busy, timeout_seconds):
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


def _finished(busy: dict[Connection, tuple[_Worker, Any]], timeout_seconds: float) -> list[tuple[Connection, Any]]:
    """Pipes of workers that are done, dead or too late, with what they have to say."""
    ready = wait(list(busy), timeout=0.2)
    done = [(pipe, busy[pipe][0].take()) for pipe in busy if pipe in ready]
    late = [pipe for pipe, (worker, _) in busy.items() if pipe not in ready and worker.late(timeout_seconds)]
    return done + [(pipe, Failure("timeout", f"not done after {timeout_seconds:g} s")) for pipe in late]
