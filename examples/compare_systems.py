"""Do two systems differ on your videos? Train both with several seeds, and look at the interval of the difference.

    python examples/compare_systems.py videos/train videos/val --systems tsn mdtnet2 --seeds 5 --out runs/compared

Each seed of each system is a run; a run that is finished is not repeated, so the command can be stopped, and more seeds
can be added. The difference is paired by seed. If its 95 % interval holds zero, these runs do not decide the question.
"""

import argparse
from pathlib import Path

import yaml

from mdtnet.cli.main import main as mdtnet
from mdtnet.study.grid import load_study
from mdtnet.study.results import RESULTS, read_configs, read_rows, standing
from mdtnet.study.stats import Interval, cells, difference, interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", help="folder of class folders, or a list file")
    parser.add_argument("val", help="other videos, in the same form")
    parser.add_argument("--systems", nargs=2, default=["tsn", "mdtnet2"], help="the first is what is compared with")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="runs/compared", help="folder of runs and results")
    parser.add_argument("--trunk", default="mobilenet_v2")
    parser.add_argument("--weights", default="imagenet", help="start of both")
    parser.add_argument("--width", type=float, default=1.0, help="of the trunk; 1 with weights")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--size", type=int, default=224, help="side of the crop that the networks see, in pixels")
    options = parser.parse_args()

    study = {
        "out": str(Path(options.out).absolute()),
        "run": {
            "data": {"size": options.size, "short_side": options.size * 8 // 7},
            "model": {"trunk": options.trunk, "weights": options.weights, "width": options.width},
            "train": {"epochs": options.epochs, "batch_size": 8, "schedule": "cosine", "clip_grad": 20},
        },
        "systems": options.systems,
        "data": {"own": {"train": str(Path(options.train).absolute()), "val": str(Path(options.val).absolute())}},
        "seeds": list(range(options.seeds)),
    }
    file = Path(options.out, "study.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(study))
    if code := mdtnet(["study", str(file), "--no_latency"]):
        raise SystemExit(code)

    found = load_study(file)
    now = standing(found, read_rows(found.results / RESULTS), read_configs(found.results))
    base, other = cells(found, now.done)
    for cell in (base, other):
        print(f"{cell.system}: {points(interval(list(cell.top1.values())))} % right")
    gain = difference(other, base)
    if gain:
        print(f"{other.system} less {base.system}: {points(gain)}: {'they differ' if gain.sure else 'not decided'}")


def points(found: Interval) -> str:
    """A mean and its 95 % interval, in percent."""
    return f"{100 * found.mean:.1f}" if found.half is None else f"{100 * found.mean:.1f} ± {100 * found.half:.1f}"


if __name__ == "__main__":
    main()
