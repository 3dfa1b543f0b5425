"""Exported networks against eager PyTorch on a CPU, interleaved, as ratios.

    python benchmarks/export.py [--models tsn mdtnet2] [--trunks mobilenet_v2 resnet50] [--formats onnx openvino torch]
                                [--int8] [--repeats 7] [--threads 2] [--json FILE]

One clip of 8 segments of 224 x 224 pixels, from uint8 frames to probabilities. Every form does one pass in turn; a
ratio is eager's time over the form's (more is better), median of the turns and in brackets their range. Eager runs
channels-last and in inference mode. Exporting checks each form against eager first, and takes a minute or two for
each MDT-Net.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from mdtnet.checkpoint import load_model, save_checkpoint
from mdtnet.config import DataConfig, ModelConfig, RunConfig
from mdtnet.deployed import Deployed
from mdtnet.export import SUFFIXES, eager, export, load_program
from mdtnet.models.build import build_model

CLASSES = 400
SEGMENTS = 8


def forms(model: str, trunk: str, args: argparse.Namespace, folder: Path) -> dict[str, Callable]:
    """Every form of one network: name -> function of frames."""
    config = RunConfig(
        data=DataConfig(num_segments=SEGMENTS, size=args.size), model=ModelConfig(name=model, trunk=trunk)
    )
    checkpoint = folder / f"{model}_{trunk}.pt"
    built = build_model(config.model, num_classes=CLASSES)
    save_checkpoint(checkpoint, model=built, config=config, classes=[str(i) for i in range(CLASSES)])
    runs = {"eager": eager(load_model(checkpoint).to(memory_format=torch.channels_last))}
    wanted = [(form, precision) for form in args.formats for precision in ("float32", "int8")]
    for form, precision in wanted:
        if precision == "int8" and (not args.int8 or form == "torch"):
            continue
        out = folder / f"{checkpoint.stem}_{precision}{SUFFIXES[form]}"
        export(checkpoint, format=form, out=out, precision=precision)
        name = form if precision == "float32" else f"{form} int8"
        runs[name] = load_program(out) if form == "torch" else Deployed.load(out, threads=args.threads).network
    return runs


def measure(runs: dict[str, Callable], frames: np.ndarray, repeats: int) -> dict[str, dict]:
    """Milliseconds and ratios of each form; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(frames)
            seconds[name].append(time.perf_counter() - start)
    times = {name: values[1:] for name, values in seconds.items()}
    rows = {}
    for name, values in times.items():
        ratios = [a / b for a, b in zip(times["eager"], values)]
        rows[name] = {
            "median_ms": 1e3 * statistics.median(values),
            "best_ms": 1e3 * min(values),
            "ratio": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
            "ratio_of_best": min(times["eager"]) / min(values),
        }
    return rows


def show(results: dict[str, dict], console: Console) -> None:
    table = Table("network", "form", "median ms", "best ms", "ratio to eager", "of the best runs")
    for network, rows in results.items():
        for name, row in rows.items():
            low, high = row["range"]
            table.add_row(
                network,
                name,
                f"{row['median_ms']:.0f}",
                f"{row['best_ms']:.0f}",
                f"{row['ratio']:.2f} ({low:.2f}-{high:.2f})",
                f"{row['ratio_of_best']:.2f}",
            )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["tsn", "mdtnet2"], help="systems (tsn mdtnet2)")
    parser.add_argument("--trunks", nargs="+", default=["mobilenet_v2", "resnet50"], help="2D networks")
    parser.add_argument("--formats", nargs="+", default=list(SUFFIXES), choices=list(SUFFIXES), help="forms (all)")
    parser.add_argument("--int8", action="store_true", help="also the 8-bit forms")
    parser.add_argument("--size", type=int, default=224, help="side of the frames in pixels (224)")
    parser.add_argument("--repeats", type=int, default=7, help="interleaved turns (7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads (all)")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    results = {}
    for trunk in args.trunks:
        for model in args.models:
            with tempfile.TemporaryDirectory() as folder:
                runs = forms(model, trunk, args, Path(folder))
                frames = 5 if model.startswith(("mdtnet", "tdn")) else 1
                shape = (1, SEGMENTS, frames, args.size, args.size, 3)
                clip = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
                results[f"{model} {trunk}"] = measure(runs, clip, args.repeats)
    show(results, Console())
    if args.json:
        packages = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "openvino")
        about = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": args.size,
            "repeats": args.repeats,
            "threads": args.threads,
            "load_before": load,
            "machine": platform.machine(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in packages},
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
