"""Differences between the runs of `benchmarks/development.py`, with intervals.

    python benchmarks/contrasts.py runs/development --on still --primary "mdtnet2 default" "mdtnet1 default"

For every validation part: each variant against the first of `--primary`, from the predictions of all seeds: a two-way
bootstrap over seeds and clips, or Student's t below ten seeds (`mdtnet.study.contrast`). The difference of the two of
`--primary` on the first part is the one that a study was made for; the others are corrected by Holm's method. Each
rendered clip is a group of its own: its place and its figure are drawn for it alone.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from mdtnet.study.contrast import Contrast, contrast, ensemble, holm, mcnemar


def predictions(out: Path, on: str) -> dict[str, dict[str, np.ndarray]]:
    """Part -> `SYSTEM NAME` -> predicted classes, [S, N], seeds in order; runs of several series are one."""
    found: dict[str, dict[str, dict[int, list[int]]]] = defaultdict(lambda: defaultdict(dict))
    for line in (out / "rows.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["on"] == on and "error" not in row:
            for part, classes in row["predicted"].items():
                found[part][f"{row['system']} {row['name']}"][row["seed"]] = classes
    return {
        part: {name: np.array([seeds[seed] for seed in sorted(seeds)]) for name, seeds in variants.items()}
        for part, variants in found.items()
    }


def show(part: str, variants: dict[str, np.ndarray], labels: np.ndarray, primary: tuple[str, str]) -> None:
    """One part: accuracies, and differences of the first of `primary` to all others."""
    right = {name: classes == labels for name, classes in variants.items()}
    print(f"\n{part}, {len(labels)} clips")
    for name, ours in right.items():
        means = 100 * ours.mean(1)
        spread = f"sd {means.std(ddof=1):4.1f}" if len(means) > 1 else ""
        print(f"  {name:56} n {len(means):2}  {means.mean():5.1f} {spread}")
    groups = np.arange(len(labels))
    first = primary[0]
    found: dict[str, Contrast] = {}
    for other in right:
        if other != first and first in right and (one := contrast(right[first], right[other], groups)):
            found[other] = one
    rest = [other for other in found if other != primary[1]]
    corrected = dict(zip(rest, holm([found[other].p for other in rest])))
    for other, one in found.items():
        voted = mcnemar(ensemble(variants[first]) == labels, ensemble(variants[other]) == labels)
        p = f"p {corrected[other]:.4f} (Holm)" if other in corrected else f"p {one.p:.4f}"
        print(
            f"  {first} - {other}: {100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f}), {p}, "
            f"{one.method}; ensembles p {voted:.4f} (McNemar)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the --out of development.py")
    parser.add_argument("--on", required=True, help="the data set, such as still")
    parser.add_argument("--primary", nargs=2, default=["mdtnet2 default", "mdtnet1 default"], metavar="VARIANT")
    options = parser.parse_args()
    for part, variants in predictions(options.out, options.on).items():
        labels = np.load(options.out / "clips" / f"{part}.npz")["labels"]
        show(part, variants, labels, tuple(options.primary))


if __name__ == "__main__":
    main()
