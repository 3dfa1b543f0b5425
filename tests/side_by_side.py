"""Two revisions side by side on one machine: what `pinned.py` computes, compared bit for bit.

    python tests/side_by_side.py [--revision 55f73da] [--threads 1] [--only TEXT]

The revision is taken out of git into a temporary folder; the other side is the working tree. Each side computes in a
process of its own, with this folder's `pinned.py`. Per case the table shows whether logits, gradients and the losses
of three steps are the same to the last bit, and otherwise the largest difference, relative to the case's largest
value, with how many of its tensors differ. Exit code 1 if anything differs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST = "55f73da"
SAME = "same"
Found = dict[str, dict]  # case -> name -> tensor, or a text where the case failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--revision", default=FIRST, help="commit, branch or tag to compare with")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side")
    parser.add_argument("--only", default="", help="only cases whose name has this text in it")
    parser.add_argument("--values", help=argparse.SUPPRESS)  # one side: compute and write to this file
    options = parser.parse_args()
    if options.values:
        compute(Path(options.values), threads=options.threads, only=options.only)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder, "old")
        take_out(options.revision, old)
        before, after = (side(tree, options) for tree in (old, ROOT))
    return show(before, after, options.revision)


def take_out(revision: str, folder: Path) -> None:
    """Write the sources of a revision to a new folder."""
    folder.mkdir()
    archive = folder / "archive.tar"
    done = subprocess.run(["git", "-C", str(ROOT), "archive", f"--output={archive}", revision, "src"], check=False)
    if done.returncode:
        sys.exit(f"--revision is {revision}, expected a commit, branch or tag of {ROOT}")
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)


def side(tree: Path, options: argparse.Namespace) -> Found:
    """What the package in `tree` computes, in a process of its own."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "values.pt")
        command = [sys.executable, __file__, "--values", str(file)]
        command += ["--threads", str(options.threads), "--only", options.only]
        threads = {"OMP_NUM_THREADS": str(options.threads)}
        subprocess.run(command, env=os.environ | threads | {"PYTHONPATH": str(tree / "src")}, cwd=folder, check=True)
        return torch.load(file, weights_only=True)


def compute(file: Path, *, threads: int, only: str) -> None:
    import logging

    import pinned
    import tiny
    import torch

    import mdtnet

    print(f"computing with {mdtnet.__file__}", file=sys.stderr)
    logging.disable()
    torch.set_num_threads(threads)
    found: Found = {}
    for name in filter(lambda name: only in name, pinned.CASES):
        found[f"logits: {name}"] = attempt(lambda name=name: {"logits": pinned.logits(name)})
        found[f"gradients: {name}"] = attempt(lambda name=name: pinned.gradients(name))
    with tempfile.TemporaryDirectory() as folder:
        videos = tiny.write_videos(Path(folder, "videos"), per_class=2)
        for name in filter(lambda name: only in name, pinned.TRAININGS):
            out = Path(folder, str(len(found)))
            found[f"losses: {name}"] = attempt(lambda name=name, out=out: losses(name, videos=videos, out=out))
    torch.save(found, file)


def losses(name: str, *, videos: Path, out: Path) -> dict:
    """Losses of the three steps, and the weights after them."""
    import pinned
    import torch

    both = pinned.losses(name, videos=videos, out=out)
    weights = torch.load(out / "checkpoints" / "last.pt", weights_only=True)["model"]
    return {key: torch.tensor(values, dtype=torch.float64) for key, values in both.items()} | weights


def attempt(case: Callable[[], dict]) -> dict:
    """The values of a case, or what went wrong: one side may have no such system or option."""
    try:
        return case()
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def show(before: Found, after: Found, revision: str) -> int:
    """Print the table; 1 if anything differs."""
    widest, different = max(map(len, before), default=0), 0
    print(f"{'case':{widest}}  {revision} and the working tree")
    for case, old in before.items():
        verdict = compared(old, after[case])
        different += verdict != SAME
        print(f"{case:{widest}}  {verdict}")
    print(f"{len(before) - different} of {len(before)} are the same bit for bit")
    return int(different > 0 or not before)


def compared(old: dict, new: dict) -> str:
    """`SAME`, or the difference in words."""
    import torch

    for tree, values in (("the revision", old), ("the working tree", new)):
        if "error" in values:
            return f"fails in {tree}: {values['error']}"
    if old.keys() != new.keys():
        return f"other names: {', '.join(sorted(old.keys() ^ new.keys())[:3])}"
    changed = [key for key, value in old.items() if not torch.equal(value, new[key])]
    if not changed:
        return SAME
    if shaped := [key for key in changed if old[key].shape != new[key].shape]:
        return f"other shapes: {', '.join(shaped[:3])}"
    largest = max(float(value.abs().max()) for value in old.values() if value.numel())
    differences = {key: float((old[key] - new[key]).abs().max()) for key in changed}
    worst = max(differences, key=differences.__getitem__)
    return f"{differences[worst] / max(largest, 1e-30):.1e} in {worst}, {len(changed)} of {len(old)} differ"


if __name__ == "__main__":
    sys.exit(main())
