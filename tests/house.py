"""`make house`: how quick the command line answers, how well typed the package is, how its files depend on each other.

CPU seconds are of whole processes, user and system, the median of 5 with a warm file cache; no command here may need
torch. A figure beyond its limit is marked, and then the exit code is 1.
"""

import re
import resource
import subprocess
import sys
import tempfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median

from test_imports import FLOORS, ON_THE_GROUND, PACKAGE, imports, modules, room

from mdtnet.cli.main import VERBS

REPEATS = 5
MOST_SECONDS = 0.5
MOST_ANY, MOST_IGNORES = 6, 1  # per 1000 lines
MOST_ENTRIES = 28


def commands(folder: Path) -> dict[str, list[str]]:
    """What is typed -> arguments; the files that it needs are written into `folder`."""
    config, empty = folder / "key.yaml", folder / "empty"
    config.write_text("train: {epoch: 3}\n")
    empty.mkdir()
    return {
        "trian": ["trian"],
        "train --train.epoch 3": ["train", "--train.epoch", "3"],
        "train --config (wrong key)": ["train", "--config", str(config)],
        "report EMPTY": ["report", str(empty)],
        **{f"{verb} --help": [*verb.split(), "--help"] for verb in VERBS},
    }


def cpu_seconds(arguments: list[str]) -> float:
    """CPU time of `mdtnet ARGUMENTS`, median of 5 after one to warm the file cache."""
    found = []
    for _ in range(REPEATS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "mdtnet", *arguments], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(found[1:])


def per_thousand(pattern: str) -> float:
    """Matches per 1000 lines of the package."""
    texts = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    return 1000 * sum(len(re.findall(pattern, text)) for text in texts) / sum(text.count("\n") for text in texts)


def arrows() -> dict[tuple[str, str], int]:
    """(room, other room) -> number of files' imports from one into the other."""
    found: dict[tuple[str, str], int] = {}
    for module, path in modules().items():
        for other in imports(path) if module != "__init__" else ():
            pair = room(module), room(other)
            if pair[0] != pair[1]:
                found[pair] = found.get(pair, 0) + 1
    return found


def circles() -> int:
    """1 where files import each other in a circle, else 0."""
    try:
        list(TopologicalSorter({m: imports(p) for m, p in modules().items() if m != "__init__"}).static_order())
    except CycleError:
        return 1
    return 0


def main() -> int:
    """Print every figure beside its limit."""
    failed = 0

    def show(name: str, value: float, most: float, digits: int = 0) -> None:
        nonlocal failed
        failed += value > most
        print(f"{name:34} {value:8.{digits}f}  at most {most:g}{'   <-- too much' if value > most else ''}")

    print("CPU seconds")
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in commands(Path(folder)).items():
            show(f"  mdtnet {name}", cpu_seconds(arguments), MOST_SECONDS, 2)
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    found = arrows()
    up = sum(n for (a, b), n in found.items() if floor[b] <= floor[a] and (a, b) not in ON_THE_GROUND)
    entries = [path for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()]
    entries = [path for path in entries if path.name != "__pycache__"]
    print("Types, per 1000 lines")
    show("  Any", per_thousand(r"\bAny\b"), MOST_ANY, 1)
    show("  type: ignore", per_thousand("type: ignore"), MOST_IGNORES, 1)
    print(f"Layout ({sum(found.values())} imports between rooms)")
    show("  entries at the package's root", len(entries), MOST_ENTRIES)
    show("  arrows up", up, 0)
    show("  circles", circles(), 0)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
