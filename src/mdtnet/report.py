"""Run directories -> self-contained HTML pages that open offline: one run in depth, or several side by side.

Only files are read: config, training log, score table, list of unreadable videos, and for key frames the
videos of the most confident mistakes. No model runs here. Whatever is missing is named on the page.
"""

import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, PackageLoader
from PIL import Image

from mdtnet import metrics, pictures
from mdtnet.charts import Line, chart, confusion, data_uri
from mdtnet.checkpoint import atomic_write
from mdtnet.config import DataConfig, RunConfig, TestConfig, load_yaml, to_dict
from mdtnet.data.labels import label_text
from mdtnet.errors import ConfigError, DataError, MdtnetError, VideoError
from mdtnet.evaluation import ScoreTable

SYSTEM_TITLES = {
    "tsn": "TSN",
    "tsm": "TSM",
    "tea": "TEA",
    "tdn": "TDN",
    "mdtnet1": "MDT-Net1",
    "mdtnet2": "MDT-Net2",
}
NUM_MISTAKES = 10
STRIP_SEGMENTS = 8  # at most so many key frames in a strip
STRIP_HEIGHT = 96  # pixels
UNREADABLE_SHOWN = 50


@dataclass
class Run:
    """What a run directory holds; None or empty where a file is missing, and `missing` says so in words."""

    folder: Path
    title: str = ""
    trunk: str = ""
    colour: str = "mdtnet2"
    config: RunConfig | None = None
    history: list[dict[str, float | None]] = field(default_factory=list)
    table: ScoreTable | None = None
    figures: dict[str, Any] | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def build_report(run_dir: str | Path) -> Path:
    """Write `report.html` into a run directory and return its path.

    Raises:
        DataError: there is no such directory, or nothing of a run in it.
    """
    run = read_run(run_dir)
    page = (
        environment()
        .get_template("report.html")
        .render(
            run=run,
            figures=run.figures,
            several=metrics.headline(run.figures or {}) == "map",
            best=metrics.headline(run.figures or {}),
            title=metrics.TITLES[metrics.headline(run.figures or {})],
            protocol=protocol_in_words(run),
            charts=_charts([run]),
            confusion=_confusion(run),
            per_class=_per_class(run),
            mistakes=_mistakes(run),
            unreadable=list(run.unreadable.items())[:UNREADABLE_SHOWN],
            config=_config_text(run),
            facts=_facts(run),
        )
    )
    return write_page(run.folder / "report.html", page)


def build_comparison(run_dirs: Sequence[str | Path], out: str | Path, *, pairs: Sequence[tuple[str, str]] = ()) -> Path:
    """Write one page that shows several runs side by side, in the order given.

    Args:
        out: the HTML file.
        pairs: classes that are each other's time reversal; accuracy inside them is shown where given.

    Raises:
        DataError: a run directory is missing or empty.
        ConfigError: `out` is a folder, or no run is given.
    """
    if not run_dirs:
        raise ConfigError("a comparison needs at least one run directory")
    runs = [read_run(folder) for folder in run_dirs]
    _tell_apart(runs)
    page = (
        environment()
        .get_template("comparison.html")
        .render(
            runs=runs,
            protocols=[protocol_in_words(run) for run in runs],
            inside=[_inside_pairs(run, pairs) for run in runs] if pairs else [],
            pairs=pairs,
            charts=_charts(runs),
            confusions=[_confusion(run) for run in runs],
            same_videos=_same_videos(runs),
            facts=[_facts(run) for run in runs],
            columns=_columns(runs),
        )
    )
    return write_page(Path(out), page)


# ---- reading ------------------------------------------------------------------------------------------


def read_run(run_dir: str | Path) -> Run:
    """Read what there is of a run.

    Raises:
        DataError: no such directory, or nothing of a run in it.
    """
    run = Run(Path(run_dir))
    if not run.folder.is_dir():
        raise DataError(f"{run_dir}: no such run directory")
    run.config = _attempt(run, "config.yaml", load_yaml)
    run.history = _attempt(run, "log.csv", read_history) or []
    run.table = _attempt(run, "scores.npz", ScoreTable.load)
    run.figures = _figures(run)
    if run.config is None and run.figures is None and not run.history:
        raise DataError(f"{run_dir}: not a run directory (no config.yaml, log.csv, scores.npz or metrics.json)")
    run.unreadable = _unreadable(run)
    run.title = run.folder.resolve().name
    if run.config is not None:
        run.colour, run.trunk = run.config.model.name, run.config.model.trunk
        run.title = SYSTEM_TITLES[run.colour]
    return run


def _attempt(run: Run, name: str, read: Callable[[Path], Any]) -> Any:
    """The content of a file of the run, or None with a line in `run.missing`."""
    path = run.folder / name
    if not path.is_file():
        run.missing.append(f"{name} is not there")
        return None
    try:
        return read(path)
    except (MdtnetError, ValueError, OSError, csv.Error) as error:  # ValueError: text and JSON that are none
        run.missing.append(f"{name} cannot be read ({str(error).replace(str(path), name)})")
        return None


def read_history(path: Path) -> list[dict[str, float | None]]:
    """The rows of a `log.csv`; what is no finite number is None."""
    with open(path, newline="", encoding="utf-8") as file:
        return [{key: _number(value) for key, value in row.items() if key} for row in csv.DictReader(file)]


def _read_figures(path: Path) -> dict[str, Any]:
    figures = json.loads(path.read_text(encoding="utf-8"))
    needed = {"per_class", "unreadable_wrong"}
    if not isinstance(figures, dict) or not needed | {metrics.headline(figures)} <= figures.keys():
        raise ValueError("not the figures of a test")
    return figures


def _read_reasons(path: Path) -> dict[str, str]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if "path" not in (rows.fieldnames or ()):
            raise ValueError("no column 'path'")
        return {row["path"] or "": row.get("reason") or "" for row in rows}


def _number(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _figures(run: Run) -> dict[str, Any] | None:
    """Figures of the score table, else those that were written down; what computed them is in the latter alone."""
    written = _attempt(run, "metrics.json", _read_figures)
    if run.table is None or not len(run.table.names):
        return written
    made_by = {"versions": {}, "hardware": ""}
    made_by |= {key: written[key] for key in made_by if written and key in written}
    return {**run.table.metrics(_protocol(run)), **made_by}


def _protocol(run: Run) -> TestConfig:
    """How the score table came about: what it says itself goes before the config of the training."""
    test = run.config.test if run.config else TestConfig()
    said = run.table.protocol if run.table else {}
    return replace(test, **{f.name: said[f.name] for f in fields(TestConfig) if f.name in said})


def _unreadable(run: Run) -> dict[str, str]:
    """Name and reason of every video that could not be read, in training or in the test."""
    listed = _attempt(run, "unreadable.csv", _read_reasons) or {}
    found = {_relative(path, run): reason for path, reason in listed.items()}
    return found | (run.table.unreadable() if run.table else {})


def _roots(run: Run) -> list[Path]:
    """Folders that video names may be relative to."""
    data = run.config.data if run.config else DataConfig()
    recorded = run.table.protocol.get("data", "") if run.table else ""
    roots = []
    for source in (recorded, data.val, data.train):
        if source:
            folder = Path(source) if Path(source).is_dir() else Path(data.root or Path(source).parent)
            roots.append(folder)
    return roots


def _relative(path: str, run: Run) -> str:
    """A path as pages show it: relative to a root of the data, else without its folders."""
    for root in _roots(run):
        if Path(path).is_relative_to(root.absolute()):
            return Path(path).relative_to(root.absolute()).as_posix()
    return _shortened(path)


def _shortened(value: Any) -> Any:
    """Absolute paths lose all but their last part; everything else stays."""
    if isinstance(value, dict):
        return {key: _shortened(v) for key, v in value.items()}
    if isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()):
        return f".../{PureWindowsPath(value).name}"
    return value


# ---- words and tables ---------------------------------------------------------------------------------


def protocol_in_words(run: Run) -> str:
    """How the run was tested, one sentence; "" where nothing says so."""
    if run.figures is None or (run.config is None and run.table is None):
        return ""
    test, data = _protocol(run), run.config.data if run.config else DataConfig()
    said = run.table.protocol if run.table else {}
    short_side = said.get("short_side", data.short_side)
    size = test.crop_size or (said.get("size", data.size) if test.crops == 1 else short_side)
    clips = "1 clip a video" if test.clips == 1 else f"{test.clips} clips a video"
    crops = "centre crop" if test.crops == 1 else f"{test.crops} crops"
    segments = said.get("num_segments", data.num_segments)
    text = f"{clips}, {crops} of {size} pixels from a short side of {short_side}, {segments} segments"
    if said.get("data"):
        text = f"videos of {Path(said['data']).name}, {text}"
    views = test.clips * test.crops * (2 if test.flip else 1)
    if views > 1:
        fused = "scores" if test.fusion == "logits" else "probabilities"
        text += f"{', each also mirrored' if test.flip else ''}, {fused} averaged over {views} views"
    return text


def _per_class(run: Run) -> list[dict[str, Any]]:
    """Classes that were tested, best first, with what they are judged by as `value`."""
    rows = (run.figures or {}).get("per_class", [])
    valued = [{**row, "value": row.get("accuracy", row.get("average_precision"))} for row in rows]
    return sorted((row for row in valued if row["value"] is not None), key=lambda row: (-row["value"], row["name"]))


def _config_text(run: Run) -> str:
    if run.config is None:
        return ""
    return yaml.safe_dump(_shortened(to_dict(run.config)), sort_keys=False, allow_unicode=True)


def _facts(run: Run) -> list[tuple[str, str]]:
    """Versions, hardware and time, as pairs for a table."""
    figures, facts = run.figures or {}, []
    seconds = sum(row.get("seconds") or 0 for row in run.history)
    if seconds:
        facts.append(("training", f"{len(run.history)} epochs in {_duration(seconds)}"))
    speeds = [row.get("clips_per_s") or 0.0 for row in run.history]
    if any(speeds):
        facts.append(("speed", f"{np.median(speeds):.3g} training clips a second (median)"))
    if figures.get("hardware"):
        facts.append(("hardware", str(figures["hardware"])))
    return facts + [(name, str(value)) for name, value in figures.get("versions", {}).items()]


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _columns(runs: list[Run]) -> dict[str, str]:
    """Figures of a comparison: those of one label a video, of several, or both where runs differ in that."""
    several = {run.table.multi_label for run in runs if run.table}
    columns = {"top1": "Top-1", "mean_class": "Mean class accuracy"} if several != {True} else {}
    return columns | ({"map": "mAP"} if True in several else {})


def _inside_pairs(run: Run, pairs: Sequence[tuple[str, str]]) -> dict[str, Any] | None:
    names = {name for pair in pairs for name in pair}
    if run.table is None or run.table.multi_label or not names <= set(run.table.classes):
        return None
    fused = run.table.fuse(_protocol(run).fusion)
    return metrics.pair_accuracy(fused, run.table.labels, run.table.classes, pairs)


def _same_videos(runs: list[Run]) -> bool:
    return len({tuple(sorted(run.table.names)) if run.table else () for run in runs}) == 1


def _tell_apart(runs: list[Run]) -> None:
    """Different titles and colours: runs of one system get their folders' names and colours by order."""
    if len({run.title for run in runs}) < len(runs):
        for run in runs:
            run.title = f"{run.title} {run.folder.resolve().name}"
    if len({run.colour for run in runs}) < len(runs):
        for i, run in enumerate(runs):
            run.colour = list(SYSTEM_TITLES)[-1 - i % len(SYSTEM_TITLES)]


# ---- charts -------------------------------------------------------------------------------------------


def _charts(runs: list[Run]) -> list[dict[str, Any]]:
    """Loss, top-1 (or mAP) and, for a single run, the learning rate over epochs; without those that have no points."""
    if len(runs) == 1:
        lines = {
            "Loss": [("train_loss", "training", "muted"), ("val_loss", "validation", runs[0].colour)],
            "Top-1, %": [("train_top1", "training", "muted"), ("val_top1", "validation", runs[0].colour)],
            "mAP, %": [("val_map", "validation", runs[0].colour)],
            "Learning rate": [("lr", "", runs[0].colour)],
            "Mean size of the gates": [
                ("e_coarse", "coarse differences", "tdn"),
                ("e_dcme", "DCME", "mdtnet2"),
                ("e_stce", "STCE", "tsm"),
                ("e_motion", "motion excitation", "tea"),
            ],
            "Share of the path of fine differences": [("fine_share", "", runs[0].colour)],
            "Share of DCME's taps inside the picture": [("taps_inside", "", runs[0].colour)],
        }
        plans = {title: [(runs[0], *line) for line in group] for title, group in lines.items()}
    else:
        plans = {
            "Training loss": [(run, "train_loss", run.title, run.colour) for run in runs],
            "Validation top-1, %": [(run, "val_top1", run.title, run.colour) for run in runs],
            "Validation mAP, %": [(run, "val_map", run.title, run.colour) for run in runs],
        }
    charts = []
    for title, plan in plans.items():
        scale = 100 if "%" in title else 1
        found = [Line(label, colour, _points(run, key, scale)) for run, key, label, colour in plan]
        if any(line.points for line in found):
            width = 360 if len(runs) == 1 else 480
            charts.append(chart(title, [line for line in found if line.points], width=width))
    return charts


def _points(run: Run, key: str, scale: float) -> list[tuple[float, float]]:
    return [
        (row.get("epoch") or 0, scale * value) for row in run.history for value in [row.get(key)] if value is not None
    ]


def _confusion(run: Run) -> dict[str, Any] | None:
    if run.figures is None or not run.figures.get("confusion"):
        return None
    classes = run.figures.get("classes") or [row["name"] for row in run.figures["per_class"]]
    return {
        "title": run.title,
        "colour": run.colour,
        **confusion(np.array(run.figures["confusion"]), classes),
    }


# ---- mistakes -----------------------------------------------------------------------------------------


def _mistakes(run: Run) -> list[dict[str, Any]]:
    """The most confident mistakes with names, probabilities and, where the video is there, pictures."""
    if run.table is None:
        return []
    probabilities = run.table.probabilities(_protocol(run).fusion)
    found = metrics.confident_mistakes(probabilities, run.table.labels, count=NUM_MISTAKES)
    classes, labels = run.table.classes, run.table.labels
    return [
        {
            **mistake,
            "name": run.table.names[mistake["index"]],
            "true": label_text(labels[mistake["index"]], classes) or "none of the classes",
            "predicted": classes[mistake["predicted"]],
            **_strips(run, run.table.names[mistake["index"]]),
        }
        for mistake in found
    ]


def _strips(run: Run, name: str) -> dict[str, str]:
    """`frames` and `salience` as data URIs, or `reason` why there are none."""
    path, start, end = _locate(run, name)
    if path is None:
        return {"reason": "the video is not where the run found it"}
    config = run.config or RunConfig()
    try:
        found = pictures.read_key_frames(
            path,
            saliency=config.model.saliency,
            num_segments=min(config.data.num_segments, STRIP_SEGMENTS),
            frames_per_segment=max(2, config.model.mdtnet.frames_per_segment),
            frame_stride=config.data.frame_stride,
            short_side=config.data.short_side,
            start=start,
            end=end,
        )
    except VideoError as error:
        return {"reason": error.reason}
    heat = pictures.heat(found.frames, found.salience)
    return {"frames": _strip(found.frames), "salience": _strip(heat)}


def _locate(run: Run, name: str) -> tuple[Path | None, float | None, float | None]:
    """The video of a key of the score table, and its part in seconds where the key ends in `@start-end`."""
    match = re.fullmatch(r"(.+)@([\d.]+)-([\d.]*)", name)
    choices: list[tuple[str, float | None, float | None]] = [(name, None, None)]
    if match:
        choices.append((match[1], _number(match[2]), _number(match[3])))
    for root in _roots(run):
        for path, start, end in choices:
            if (root / path).exists():
                return root / path, start, end
    return None, None, None


def _strip(frames: np.ndarray) -> str:
    """Pictures [T, H, W, 3] side by side as a data URI."""
    height, width = frames.shape[1:3]
    size = (max(1, round(width * STRIP_HEIGHT / height)), STRIP_HEIGHT)
    small = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR)) for f in frames]
    gap = np.full((STRIP_HEIGHT, 2, 3), 128, dtype=np.uint8)
    parts = [part for frame in small for part in (frame, gap)][:-1]
    return data_uri(Image.fromarray(np.concatenate(parts, axis=1)), "JPEG")


# ---- pages --------------------------------------------------------------------------------------------


@lru_cache
def environment() -> Environment:
    """The templates of pages."""
    environment = Environment(loader=PackageLoader("mdtnet"), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    return environment


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def write_page(out: Path, page: str) -> Path:
    """Write a page and return its path.

    Raises:
        ConfigError: `out` is a folder.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder, expected the name of an HTML file")
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, lambda file: file.write(page.encode("utf-8", "replace")))
    return out
