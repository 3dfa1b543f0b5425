"""Deformable convolution on a CPU: ours against torchvision's operator, interleaved, as ratios.

    python benchmarks/deform.py [--images 7] [--repeats 15] [--threads 2] [--json FILE]

The shapes are those of motion excitation at 224 x 224; times are the fastest runs, in milliseconds. A ratio
is torchvision's time over ours (more is better): that of the fastest runs, and in brackets the median over
neighbouring runs. The first suffers least on a machine that others use too; there OMP_WAIT_POLICY=passive
keeps threads from burning their time waiting for each other. Rows with two kernel sizes are
`deform_conv2d_sum` against torchvision called twice.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mdtnet.models.deform import deform_conv2d_sum
from mdtnet.system.machine import keep_freed_memory

MAPS = ((8, 56), (8, 28), (16, 14), (32, 7))  # channels, side in pixels
KERNELS = ((3,), (5,), (3, 5))


def theirs(x: Tensor, offset: Tensor, weights: list[Tensor]) -> Tensor:
    offsets = offset.split([2 * w.shape[-1] ** 2 for w in weights], 1)
    return sum(torchvision.ops.deform_conv2d(x, o, w, padding=w.shape[-1] // 2) for o, w in zip(offsets, weights))


def measure(function: Callable, inputs: tuple, grad: Tensor) -> dict[str, float]:
    """Seconds of a forward pass alone and of a forward and backward pass."""
    with torch.inference_mode():
        start = time.perf_counter()
        function(*inputs)
        forward = time.perf_counter() - start
    start = time.perf_counter()
    function(*inputs).backward(grad)
    return {"forward": forward, "both": time.perf_counter() - start}


def case(images: int, channels: int, side: int, kernels: tuple[int, ...], repeats: int) -> dict:
    """One row: times in milliseconds and ratios of one shape."""
    x = torch.randn(images, channels, side, side).requires_grad_()
    offset = (2 * torch.randn(images, 2 * sum(k * k for k in kernels), side, side)).requires_grad_()
    weights = [torch.randn(channels, channels, k, k).requires_grad_() for k in kernels]
    inputs, grad = (x, offset, weights), torch.randn(images, channels, side, side)
    for function in (theirs, deform_conv2d_sum):
        measure(function, inputs, grad)
    runs = [(measure(theirs, inputs, grad), measure(deform_conv2d_sum, inputs, grad)) for _ in range(repeats)]
    row: dict = {"channels": channels, "side": side, "kernels": list(kernels)}
    for part in ("forward", "both"):
        ratios = [a[part] / b[part] for a, b in runs]
        fastest = [min(run[i][part] for run in runs) for i in (0, 1)]
        row[part] = {
            "torchvision_ms": 1e3 * fastest[0],
            "ours_ms": 1e3 * fastest[1],
            "best": fastest[0] / fastest[1],
            "median": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
    return row


def show(rows: list[dict], means: dict, console: Console) -> None:
    table = Table("map", "k", "theirs", "ours", "ratio", "theirs", "ours", "ratio")
    table.title = "forward, then forward + backward"
    for row in rows:
        cells = [f"{row['channels']} x {row['side']}²", "+".join(map(str, row["kernels"]))]
        for part in ("forward", "both"):
            v = row[part]
            cells += [
                f"{v['torchvision_ms']:.2f}",
                f"{v['ours_ms']:.2f}",
                f"{v['best']:.1f} ({v['median']:.1f})",
            ]
        table.add_row(*cells)
    console.print(table)
    for name, values in means.items():
        text = ", ".join(f"{part} {v['best']:.2f} ({v['median']:.2f})" for part, v in values.items())
        console.print(f"geometric mean, {name}: {text}")


def geometric_means(rows: list[dict]) -> dict:
    groups = {
        "one kernel": [r for r in rows if len(r["kernels"]) == 1],
        "sum": [r for r in rows if len(r["kernels"]) > 1],
    }
    return {
        name: {
            part: {key: math.exp(statistics.fmean(math.log(r[part][key]) for r in group)) for key in ("best", "median")}
            for part in ("forward", "both")
        }
        for name, group in groups.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=7, help="frame pairs (7)")
    parser.add_argument("--repeats", type=int, default=15, help="interleaved runs of each shape (15)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (all)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args()
    keep_freed_memory()  # as the command line does, for both
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = [case(args.images, channels, side, kernels, args.repeats) for channels, side in MAPS for kernels in KERNELS]
    means = geometric_means(rows)
    show(rows, means, Console())
    if args.json:
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "images": args.images,
            "repeats": args.repeats,
            "threads": args.threads,
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
            "load_before": load,
            "machine": platform.machine(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**about, "geometric_means": means, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
