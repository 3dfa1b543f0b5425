"""Loader processes: the shared memory that they need, whether they get on, and their end.

A loader waits for ever where a process of it was stopped, stands still, or died with a lock; here that takes seconds
and ends in one line.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from mdtnet.errors import ConfigError, WorkerError

SHARED_MEMORY = Path("/dev/shm")
MB = 2**20  # as in `docker run --shm-size 64m` and in `df -m`
POLL_SECONDS = 1.0
STOPPED_POLLS = 3  # Ctrl-Z and `fg` reach the processes one after the other
STILL_POLLS = 30  # without a tick of processor time, while the main process waits and no disk is read
END_SECONDS = 5.0
DEATH_SECONDS = 1.0  # the connection to a process breaks a moment before it is gone


def check_shared_memory(need: int, *, workers: int) -> None:
    """Check that `need` bytes fit into the shared memory of this machine, through which processes pass on batches.

    Raises:
        ConfigError: they do not; the message says both sizes and what to do.
    """
    try:
        found = os.statvfs(SHARED_MEMORY)
    except (AttributeError, OSError):  # not Linux
        return
    need *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # every process on this machine has such a loader
    free = found.f_bavail * found.f_frsize
    if workers and need > free:
        raise ConfigError(
            f"{SHARED_MEMORY} has {free // MB} MB, {workers} workers need {-(-need // MB)} MB: take fewer workers "
            f"(0 need none) or smaller batches, or start the container with --shm-size={-(-2 * need // MB)}m"
        )


def ignore_signals(worker: int) -> None:
    """For loader processes: an end is the main process's business, which kills them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def own_signal_of_children() -> Iterator[None]:
    """Keep what this process does when a child dies: nothing within the context, and afterwards what it did before.

    PyTorch's loader would raise in the middle of a training step; a death is seen where the next batch is waited for.
    """
    child = getattr(signal, "SIGCHLD", None)
    if child is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(child, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(child, before or signal.SIG_DFL)


@contextmanager
def watched(processes: Sequence[BaseProcess]) -> Iterator[None]:
    """While the main process waits for `processes`: kill them all once one is stopped or all of them stand still.

    Raises:
        WorkerError: a process was killed, was stopped, stands still, or finds no room in shared memory.
    """
    done, reasons = threading.Event(), list[str]()
    threading.Thread(target=_watch, args=(processes, done, reasons), daemon=True).start()
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        if reason := (reasons or _deaths(processes) or _no_room(error)):
            raise WorkerError(reason[0]) from error
        raise
    finally:
        done.set()


def _watch(processes: Sequence[BaseProcess], done: threading.Event, reasons: list[str]) -> None:
    stopped = still = 0
    before = -1.0
    while not done.wait(POLL_SECONDS):
        states, seconds = _look(processes)
        stopped = stopped + 1 if psutil.STATUS_STOPPED in states else 0
        still = still + 1 if seconds == before and set(states) == {psutil.STATUS_SLEEPING} else 0
        before = seconds
        if stopped >= STOPPED_POLLS:
            which = processes[states.index(psutil.STATUS_STOPPED)]
            reasons.append(f"the loader's process {which.pid} was stopped (SIGSTOP)")
        elif still >= STILL_POLLS:
            reasons.append(
                f"the loader's {len(processes)} processes have stood still for {STILL_POLLS * POLL_SECONDS:g} s: "
                "a dead lock, or files that do not answer; try data.workers 0"
            )
        else:
            continue
        kill(processes)
        return


def _look(processes: Sequence[BaseProcess]) -> tuple[list[str], float]:
    """The state of each process, and the processor time of all, in seconds."""
    states, seconds = [], 0.0
    for process in processes:
        try:
            one = psutil.Process(process.pid)
            states.append(one.status())
            seconds += sum(one.cpu_times()[:2])  # user and system
        except psutil.Error:
            states.append(psutil.STATUS_DEAD)
    return states, seconds


def _deaths(processes: Sequence[BaseProcess]) -> list[str]:
    """A sentence for each process that is no more."""
    dying = wait([process.sentinel for process in processes], DEATH_SECONDS)
    found = []
    for process in processes:
        if process.sentinel not in dying:
            continue
        process.join()
        code = process.exitcode or 0
        cause = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hints = {-signal.SIGKILL: "memory may have run out", -signal.SIGBUS: f"{SHARED_MEMORY} may be full"}
        hint = f": {hints[code]}" if code in hints else ""
        found.append(f"the loader's process {process.pid} {cause}{hint}")
    return found


def _no_room(error: BaseException) -> list[str]:
    text = str(error)
    if "shared memory" not in text and "No space left on device" not in text:
        return []
    return [f"{SHARED_MEMORY} is full: take fewer workers (0 need none), or give it more room (docker: --shm-size)"]


def kill(processes: Sequence[BaseProcess]) -> None:
    """End processes whatever they do, stopped ones too."""
    for process in processes:
        process.kill()


def end(processes: Sequence[BaseProcess]) -> None:
    """Kill processes and wait until they are gone."""
    kill(processes)
    for process in processes:
        process.join(END_SECONDS)


def children() -> set[BaseProcess]:
    """The processes that this one has started through `multiprocessing`."""
    return set(multiprocessing.active_children())
