"""Kills of training, test, predict, export and cache writing at random moments: nothing is lost, nothing hangs.

    python tests/killtest.py [--kills 100] [--seed 0] [--kinds train,cache,test,predict,export]

Each kill (SIGKILL or SIGTERM) hits a process at a random moment of the time that it needs. What it leaves must be
whole: checkpoints, tables and predictions are there or not, cache files have their checksum. Done once more, or
resumed, it must give what an uninterrupted process gives, and leave no temporary file. The exit code is 1 if one does
not.
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import tiny
import torch
from runs import assert_same_state

from mdtnet.checkpoint import load_checkpoint
from mdtnet.cli.main import main as command
from mdtnet.config_file import load_yaml, save_yaml
from mdtnet.data.frames import _load
from mdtnet.scores import ScoreTable
from mdtnet.system.files import LEFTOVER
from mdtnet.training.run_folder import BEST, LAST

TIMEOUT_SECONDS = 120.0
END_SECONDS = 15.0  # from SIGTERM to the end


class Place:
    """A folder with videos and what uninterrupted processes make of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos = tiny.write_videos(folder / "videos", per_class=6)
        self.whole = self.config("whole")
        self.seconds: dict[str, float] = {}
        for kind in KINDS:
            start = time.monotonic()
            code = ended(begin(self.words(kind, "whole", fresh=True), folder / "log.txt"))
            self.seconds[kind] = time.monotonic() - start
            assert code == 0, f"{kind} without a kill: exit code {code}: {(folder / 'log.txt').read_text()[-500:]}"

    def config(self, name: str) -> Path:
        """A YAML file of a run of three epochs that saves after every step."""
        cache = str(self.folder / name / "cache") if name.startswith("cache") else ""
        config = tiny.config(
            self.folder / name / "run", self.videos, data={"cache": cache}, epochs=3, save_every=1, ema=0.9
        )
        path = self.folder / f"{name}.yaml"
        save_yaml(config, path)
        return path

    def words(self, kind: str, name: str, *, fresh: bool) -> list[str]:
        """The command of a kind, which writes into the folder `name`; of training to begin or to go on."""
        out, best = self.folder / name, str(self.folder / "whole" / "run" / BEST)
        out.mkdir(exist_ok=True)
        if kind in ("train", "cache"):
            config = self.config("cache_whole" if (kind, name) == ("cache", "whole") else name)
            run = Path(load_yaml(config).out)
            return (
                ["train", "--config", str(config)]
                if fresh or not (run / LAST).exists()
                else ["train", "--resume", str(run)]
            )
        return {
            "test": ["test", best, "--data", str(self.videos), "--out", str(out / "test"), "--clips", "2"],
            "predict": ["predict", best, str(self.videos), "--json", str(out / "found.json")],
            "export": ["export", best, "--format", "torch", "--out", str(out / "net.pt2")],
        }[kind]


def begin(words: list[str], log: Path) -> int:
    """Start a command in a fork of this process, which has imported everything."""
    if number := os.fork():
        return number
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        code = command(words)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(number: int, *, seconds: float = TIMEOUT_SECONDS) -> int:
    """The exit code of a process; one that takes longer is killed and an error."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(number, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(number, signal.SIGKILL)
    os.waitpid(number, 0)
    raise AssertionError(f"hangs: not ended after {seconds:g} s")


def check_whole(place: Place, kind: str, name: str) -> None:
    """What a killed process left is old or new, and never half of it."""
    out = place.folder / name
    for path in out.rglob("*.pt"):
        load_checkpoint(path)
    for path in out.rglob("scores.npz"):
        ScoreTable.load(path)
    for path in (*out.rglob("metrics.json"), *out.glob("found.json")):
        json.loads(path.read_text())
    for path in out.rglob("cache/*/*.npy"):
        _load(str(path), check=True)
    if (out / "net.pt2").exists():  # not read here: autograd's threads do not outlive the next fork
        words = ["predict", str(out / "net.pt2"), str(next(place.videos.rglob("*.mp4")))]
        assert ended(begin(words, out / "log.txt")) == 0, (out / "log.txt").read_text()[-500:]


def check_same(place: Place, kind: str, name: str) -> None:
    """The result is that of the uninterrupted process."""
    out, whole = place.folder / name, place.folder / "whole"
    if kind in ("train", "cache"):
        assert_same_state(whole / "run", out / "run")
    elif kind == "test":
        ours, theirs = (ScoreTable.load(folder / "test" / "scores.npz") for folder in (out, whole))
        assert np.array_equal(ours.scores, theirs.scores)
        assert json.loads((out / "test" / "metrics.json").read_text())["videos"] == len(ours.names)
    elif kind == "predict":
        ours, theirs = (
            [row["predictions"] for row in json.loads((folder / "found.json").read_text())] for folder in (out, whole)
        )
        assert ours == theirs
    left = [path for path in out.rglob(f"*{LEFTOVER}")] + [path for path in out.rglob(".lock")]
    assert not left, f"left behind: {left}"


KINDS: dict[str, int] = {"train": 5, "cache": 4, "test": 5, "predict": 5, "export": 1}
"""Kind -> how many of twenty kills."""


def kill_one(place: Place, kind: str, name: str, rng: random.Random) -> str:
    """Kill a process and look at what it left; how it ended, in a word."""
    number = rng.choice((signal.SIGKILL, signal.SIGTERM))
    log = place.folder / f"{name}.txt"
    process = begin(place.words(kind, name, fresh=True), log)
    time.sleep(rng.uniform(0, 1.05 * place.seconds[kind]))
    os.kill(process, number)
    code = ended(process, seconds=END_SECONDS)
    assert code in (0, 143, -number), f"exit code {code}: {log.read_text()[-500:]}"
    assert "Traceback" not in log.read_text(), log.read_text()[-500:]
    check_whole(place, kind, name)
    again = ended(begin(place.words(kind, name, fresh=False), log))
    assert again == 0, f"once more: exit code {again}: {log.read_text()[-500:]}"
    check_same(place, kind, name)
    return "was done before" if code == 0 else f"ended by {number.name}"


def run(kills: int, *, seed: int = 0, kinds: tuple[str, ...] = tuple(KINDS)) -> tuple[Counter[str], list[str]]:
    """So many kills: how they ended, by kind, and a line for each that lost something."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    each = [kind for kind in kinds for _ in range(KINDS[kind])]
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        for i in range(kills):
            kind = each[(7 * i) % len(each)]
            try:
                counts[f"{kind}: {kill_one(place, kind, f'{kind}_{i}', random.Random(f'{seed}.{i}'))}"] += 1
            except Exception as error:
                counts[f"{kind}: FAILED"] += 1
                failures.append(f"kill {i} (seed {seed}): {kind}: {type(error).__name__}: {error}")
                print(failures[-1], flush=True)
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.monotonic()
    counts, failures = run(options.kills, seed=options.seed, kinds=tuple(options.kinds.split(",")))
    for what, count in sorted(counts.items()):
        print(f"{count:7} {what}")
    print(f"{counts.total()} kills in {time.monotonic() - start:.0f} s, {len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
