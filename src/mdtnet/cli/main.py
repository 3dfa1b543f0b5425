"""The command line: one verb per job, each of which parses its options and calls one function.

Exit codes: 0 success, 1 some videos could not be read (`predict`) or a bug, 2 usage or configuration, or a file that
the operating system refuses (no permission, a full disk), 3 data, 4 checkpoint, 5 runs of a study failed, 6 a training
diverged, 7 a loader's process was killed or hangs, 130 interrupted, 143 terminated.
"""

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from rich.table import Table

from mdtnet import __version__
from mdtnet.cli import (
    completion,
    convert,
    data,
    demo,
    doctor,
    features,
    measure,
    pictures,
    predict,
    results,
    serve,
    study,
    test,
    timeline,
    train,
    work,
    zoo,
)
from mdtnet.cli.parse import Verb, parse
from mdtnet.errors import ConfigError, MdtnetError, nearest
from mdtnet.system.machine import keep_freed_memory
from mdtnet.system.terminal import complain, log_to_terminal, mistake, say, show

GROUPS: dict[str, dict[str, Verb]] = {
    "Begin": demo.VERBS | doctor.VERBS,
    "Data": data.VERBS,
    "Train and test": train.VERBS | test.VERBS | results.VERBS | study.VERBS,
    "Use": predict.VERBS | timeline.VERBS | features.VERBS | serve.VERBS | work.VERBS | convert.VERBS | zoo.VERBS,
    "Look inside": pictures.VERBS,
    "Measure": measure.VERBS,
}
"""Heading of the overview -> its verbs; every family of verbs is a file of its own."""
GROUPS["Begin"] |= completion.verbs(GROUPS)
VERBS: dict[str, Verb] = {name: verb for verbs in GROUPS.values() for name, verb in verbs.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mdtnet ARGV`; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--offline" in arguments:  # an option of every verb
        from mdtnet.zoo.store import OFFLINE

        arguments.remove("--offline")
        os.environ[OFFLINE] = "1"
    keep_freed_memory()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that its encoding lacks is shown as `?`
        sys.stdout.reconfigure(errors="replace")
    came: list[int] = []
    try:
        with _signals(came):
            return _main(arguments)
    except KeyboardInterrupt as error:
        return _stopped(error.args[0] if error.args else signal.SIGINT)
    except MdtnetError as error:
        if came:  # a library has made an error of its own of the signal
            return _stopped(came[0])
        mistake(str(error))
        return error.exit_code
    except BrokenPipeError:  # `mdtnet models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if not error.strerror:  # not the operating system's word
            raise
        mistake(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return ConfigError.exit_code
    except Exception:
        if came:  # an import that was cut off by the signal leaves modules without their names
            return _stopped(came[0])
        raise


@contextmanager
def _signals(came: list[int]) -> Iterator[None]:
    """SIGTERM ends like Ctrl-C: temporary files go, processes are ended, nothing is left half-written. The number of a
    signal that comes is added to `came`."""

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():  # Python allows it nowhere else
        yield
        return
    heard = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped(number: int) -> int:
    name = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    complain(f"mdtnet: {name}")
    return 128 + number


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_overview(GROUPS)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        say(f"mdtnet {__version__}")
        return 0
    first, rest = arguments[0], arguments[1:]
    below = [name.split()[1] for name in VERBS if name.startswith(f"{first} ")]
    alone = not rest or rest[0].startswith("-")
    if below and alone and first not in VERBS:
        if rest and rest[0] in ("-h", "--help"):
            _print_overview({title: _below(first, verbs) for title, verbs in GROUPS.items() if _below(first, verbs)})
            return 0
        raise ConfigError(f"mdtnet {first} needs one of: {', '.join(below)}")
    name, rest = (f"{first} {rest[0]}", rest[1:]) if below and not alone else (first, rest)
    if name not in VERBS:
        raise ConfigError(f"no such verb: {name}{nearest(name, VERBS)} (mdtnet --help lists them)")
    options = parse(name, VERBS[name], rest)
    log_to_terminal()
    return VERBS[name].run(options) or 0


def _below(first: str, verbs: dict[str, Verb]) -> dict[str, Verb]:
    return {name: verb for name, verb in verbs.items() if name.startswith(f"{first} ")}


def _print_overview(groups: dict[str, dict[str, Verb]]) -> None:
    say(f"mdtnet {__version__}: efficient recognition of human actions in video")
    width = max(len(name) for verbs in groups.values() for name in verbs)
    for title, verbs in groups.items():
        say(f"\n{title}", style="bold")
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column(min_width=len("mdtnet ") + width, no_wrap=True)
        for name, verb in verbs.items():
            table.add_row(f"mdtnet {name}", verb.help)
        show(table)
    say("\nmdtnet VERB --help lists a verb's options.")
