"""RunFiles directories -> self-contained HTML pages that open offline: one run in depth, or several side by side.

Only files are read: config, training log, score table, list of unreadable videos, and for key frames the
videos of the most confident mistakes. No model runs here. Whatever is missing is named on the page.
"""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NotRequired, TypedDict, TypeVar

import numpy as np
import yaml
from PIL import Image

from mdtnet import metrics
from mdtnet.config import SYSTEMS, DataConfig, EvalConfig, RunConfig
from mdtnet.config_file import flat, from_dict, load_yaml, nested, to_dict
from mdtnet.data.labels import label_text
from mdtnet.errors import ConfigError, DataError, MdtnetError, VideoError
from mdtnet.metrics import Figures
from mdtnet.pages.charts import Confusion, Line, LineChart, chart, confusion, data_uri
from mdtnet.pages.page import environment, write_page
from mdtnet.scores import ScoreTable, load_figures
from mdtnet.training.run_folder import check_is_run, finite_number, read_history

NUM_MISTAKES = 10
STRIP_SEGMENTS = 8  # at most so many key frames in a strip
STRIP_HEIGHT = 96  # pixels
UNREADABLE_SHOWN = 50


Content = TypeVar("Content")


class Strip(TypedDict):
    """Pictures of a video as data URIs, or the reason why there are none."""

    frames: NotRequired[str]
    salience: NotRequired[str]
    reason: NotRequired[str]


class TitledConfusion(Confusion):
    """A confusion matrix and the run that it is of."""

    title: str
    colour: str


@dataclass
class RunFiles:
    """Contents of a run directory; None or empty where a file is missing, and `missing` says so in words."""

    folder: Path
    title: str = ""
    trunk: str = ""
    colour: str = "mdtnet2"
    config: RunConfig | None = None
    history: list[dict[str, float | None]] = field(default_factory=list)
    table: ScoreTable | None = None
    figures: Figures | None = None
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
            several=_headline(run) == "map",
            best=_headline(run),
            title=metrics.TITLES[_headline(run)],
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


def read_run(run_dir: str | Path) -> RunFiles:
    """Read the files of a run; those that are missing or damaged are named in `missing`.

    Raises:
        DataError: no such directory, or nothing of a run in it.
    """
    check_is_run(run_dir)
    run = RunFiles(Path(run_dir))
    run.config = _attempt(run, "config.yaml", partial(load_yaml, unversioned=1))  # runs of version 1 did not say it
    run.history = _attempt(run, "log.csv", read_history) or []
    run.table = _attempt(run, "scores.npz", ScoreTable.load)
    run.figures = _figures(run)
    if run.config is None and run.figures is None and not run.history:
        raise DataError(f"{run_dir}: not a run directory: {'; '.join(run.missing)}")
    run.unreadable = _unreadable(run)
    run.title = run.folder.resolve().name
    if run.config is not None:
        run.colour, run.trunk = run.config.model.name, run.config.model.trunk
        run.title = SYSTEMS[run.config.model.name].title
    return run


def _attempt(run: RunFiles, name: str, read: Callable[[Path], Content]) -> Content | None:
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


def _headline(run: RunFiles) -> metrics.Metric:
    return metrics.headline(run.figures) if run.figures else "top1"


def _read_reasons(path: Path) -> dict[str, str]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if "path" not in (rows.fieldnames or ()):
            raise ValueError("no column 'path'")
        return {row["path"] or "": row.get("reason") or "" for row in rows}


def _figures(run: RunFiles) -> Figures | None:
    """Figures of the score table, else those of `metrics.json`, which alone has versions and hardware."""
    written = _attempt(run, "metrics.json", lambda path: load_figures(path.parent))
    if run.table is None or not len(run.table.names):
        return written
    figures = run.table.metrics(_test_config(run))
    written = written or {}
    figures["versions"], figures["hardware"] = written.get("versions", {}), written.get("hardware", "")
    return figures


def _test_config(run: RunFiles) -> EvalConfig:
    """The protocol of the score table: its own record, else the test options of the training's config."""
    test = run.config.test if run.config else EvalConfig()
    said = run.table.protocol if run.table else {}
    own = {f.name: said[f.name] for f in fields(EvalConfig) if f.name in said}
    if own.get("fusion") == "sigmoid":  # the name of `softmax` where a video can have several labels
        own["fusion"] = "softmax"
    return from_dict(EvalConfig, to_dict(test) | own, where=f"{run.folder}/scores.npz")


def _unreadable(run: RunFiles) -> dict[str, str]:
    """Name -> reason, for every video that could not be read in training or in the test."""
    listed = _attempt(run, "unreadable.csv", _read_reasons) or {}
    found = {_relative(path, run): reason for path, reason in listed.items()}
    return found | (run.table.unreadable() if run.table else {})


def _roots(run: RunFiles) -> list[Path]:
    """Folders that video names may be relative to."""
    data = run.config.data if run.config else DataConfig()
    recorded = str(run.table.protocol.get("data", "")) if run.table else ""
    roots = []
    for source in (recorded, data.val, data.train):
        if source:
            folder = Path(source) if Path(source).is_dir() else Path(data.root or Path(source).parent)
            roots.append(folder)
    return roots


def _relative(path: str, run: RunFiles) -> str:
    """A path as pages show it: relative to a root of the data, else without its folders."""
    for root in _roots(run):
        if Path(path).is_relative_to(root.absolute()):
            return Path(path).relative_to(root.absolute()).as_posix()
    return _shortened(path)


def _shortened(text: str) -> str:
    """An absolute path loses all but its last part; other texts stay."""
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute():
        return f".../{PureWindowsPath(text).name}"
    return text


# ---- words and tables ---------------------------------------------------------------------------------


def protocol_in_words(run: RunFiles) -> str:
    """The test protocol in one sentence; "" if it is not known."""
    if run.figures is None or (run.config is None and run.table is None):
        return ""
    test, data = _test_config(run), run.config.data if run.config else DataConfig()
    said = run.table.protocol if run.table else {}
    short_side = said.get("short_side", data.short_side)
    size = test.crop_size or (short_side if test.crops == 3 else said.get("size", data.size))
    clips = "1 clip per video" if test.clips == 1 else f"{test.clips} clips per video"
    crops = "centre crop" if test.crops == 1 else f"{test.crops} crops"
    segments = said.get("num_segments", data.num_segments)
    text = f"{clips}, {crops} of {size} pixels from a short side of {short_side}, {segments} segments"
    if said.get("data"):
        text = f"videos of {Path(str(said['data'])).name}, {text}"
    views = test.clips * test.crops * (2 if test.flip else 1)
    if views > 1:
        fused = "scores" if test.fusion == "logits" else "probabilities"
        text += f"{', each also mirrored' if test.flip else ''}, {fused} averaged over {views} views"
    return text


def _per_class(run: RunFiles) -> list[tuple[metrics.ClassRow, float]]:
    """Classes that were tested, best first, each with its accuracy or average precision."""
    rows = run.figures.get("per_class", []) if run.figures else []
    valued = [(row, row.get("accuracy", row.get("average_precision"))) for row in rows]
    known = [(row, value) for row, value in valued if value is not None]
    return sorted(known, key=lambda found: (-found[1], found[0]["name"]))


def _config_text(run: RunFiles) -> str:
    if run.config is None:
        return ""
    values = flat(to_dict(run.config))
    shown = {key: _shortened(value) if isinstance(value, str) else value for key, value in values.items()}
    return yaml.safe_dump(nested(shown, where="config"), sort_keys=False, allow_unicode=True)


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """Start, versions, hardware and time, as pairs for a table."""
    figures, facts = run.figures or {}, _start(run)
    seconds = sum(row.get("seconds") or 0 for row in run.history)
    if seconds:
        facts.append(("training", f"{len(run.history)} epochs in {_duration(seconds)}"))
    speeds = [row.get("clips_per_s") or 0.0 for row in run.history]
    if any(speeds):
        facts.append(("speed", f"{np.median(speeds):.3g} training clips per second (median)"))
    if figures.get("hardware"):
        facts.append(("hardware", str(figures["hardware"])))
    return facts + [(name, str(value)) for name, value in figures.get("versions", {}).items()]


def _start(run: RunFiles) -> list[tuple[str, str]]:
    """The start of the network, and how many tensors it took over, as the log of the training says."""
    try:
        text = (run.folder / "train.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    said = re.findall(r"^[-\d]+ [:\d]+ start: (.*)$", text, re.MULTILINE)
    return [("start", "; ".join(re.sub(r"^(?:/|[A-Za-z]:\\).*[/\\]", ".../", line) for line in said))] if said else []


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _columns(runs: list[RunFiles]) -> dict[str, str]:
    """Key -> heading of a comparison's figures: for one label per video, for several, or both where runs differ."""
    several = {run.table.multi_label for run in runs if run.table}
    columns = {"top1": "Top-1", "mean_class": "Mean class accuracy"} if several != {True} else {}
    return columns | ({"map": "mAP"} if True in several else {})


def _inside_pairs(run: RunFiles, pairs: Sequence[tuple[str, str]]) -> metrics.PairFigures | None:
    names = {name for pair in pairs for name in pair}
    if run.table is None or run.table.multi_label or not names <= set(run.table.classes):
        return None
    fused = run.table.fuse(_test_config(run).fusion)
    return metrics.pair_accuracy(fused, run.table.labels, run.table.classes, pairs)


def _same_videos(runs: list[RunFiles]) -> bool:
    return len({tuple(sorted(run.table.names)) if run.table else () for run in runs}) == 1


def _tell_apart(runs: list[RunFiles]) -> None:
    """Give runs different titles and colours: those of one system get their folders' names, and colours by order."""
    if len({run.title for run in runs}) < len(runs):
        for run in runs:
            run.title = f"{run.title} {run.folder.resolve().name}"
    if len({run.colour for run in runs}) < len(runs):
        for i, run in enumerate(runs):
            run.colour = list(SYSTEMS)[-1 - i % len(SYSTEMS)]


# ---- charts -------------------------------------------------------------------------------------------


def _charts(runs: list[RunFiles]) -> list[LineChart]:
    """Loss, top-1 (or mAP) and, for a single run, the learning rate over epochs; charts without points are left out."""
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


def _points(run: RunFiles, key: str, scale: float) -> list[tuple[float, float]]:
    return [
        (row.get("epoch") or 0, scale * value) for row in run.history for value in [row.get(key)] if value is not None
    ]


def _confusion(run: RunFiles) -> TitledConfusion | None:
    if run.figures is None or not run.figures.get("confusion"):
        return None
    classes = run.figures.get("classes") or [row["name"] for row in run.figures["per_class"]]
    return {
        "title": run.title,
        "colour": run.colour,
        **confusion(np.array(run.figures["confusion"]), classes),
    }


# ---- mistakes -----------------------------------------------------------------------------------------


class ShownMistake(TypedDict):
    """A mistake in words, with the pictures of its video."""

    name: str
    true: str
    predicted: str
    confidence: float
    label_confidence: float | None
    strip: Strip


def _mistakes(run: RunFiles) -> list[ShownMistake]:
    """The most confident mistakes with names, probabilities and, where the video is there, pictures."""
    if run.table is None:
        return []
    probabilities = run.table.probabilities(_test_config(run).fusion)
    found = metrics.confident_mistakes(probabilities, run.table.labels, count=NUM_MISTAKES)
    classes, labels = run.table.classes, run.table.labels
    return [
        {
            "name": run.table.names[mistake["index"]],
            "true": label_text(labels[mistake["index"]], classes) or "none of the classes",
            "predicted": classes[mistake["predicted"]],
            "confidence": mistake["confidence"],
            "label_confidence": mistake.get("label_confidence"),
            "strip": _strip_of(run, run.table.names[mistake["index"]]),
        }
        for mistake in found
    ]


def _strip_of(run: RunFiles, name: str) -> Strip:
    """Key frames of a video of the score table and their salience."""
    path, start, end = _locate(run, name)
    if path is None:
        return {"reason": "the video is no longer where the run found it"}
    from mdtnet.pages import pictures  # computes with torch

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
            key_frame=config.model.mdtnet.key_frame,
        )
    except VideoError as error:
        return {"reason": error.reason}
    heat = pictures.heat(found.frames, found.salience)
    return {"frames": _strip(found.frames), "salience": _strip(heat)}


def _locate(run: RunFiles, name: str) -> tuple[Path | None, float | None, float | None]:
    """The video of a key of the score table, and its part in seconds where the key ends in `@start-end`."""
    match = re.fullmatch(r"(.+)@([\d.]+)-([\d.]*)", name)
    choices: list[tuple[str, float | None, float | None]] = [(name, None, None)]
    if match:
        choices.append((match[1], finite_number(match[2]), finite_number(match[3])))
    for root in _roots(run):
        for path, start, end in choices:
            if (root / path).exists():
                return root / path, start, end
    return None, None, None


def _strip(frames: np.ndarray) -> str:
    """Pictures uint8 [T, H, W, 3] side by side, as a data URI."""
    height, width = frames.shape[1:3]
    size = (max(1, round(width * STRIP_HEIGHT / height)), STRIP_HEIGHT)
    small = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BILINEAR)) for f in frames]
    gap = np.full((STRIP_HEIGHT, 2, 3), 128, dtype=np.uint8)
    parts = [part for frame in small for part in (frame, gap)][:-1]
    return data_uri(Image.fromarray(np.concatenate(parts, axis=1)), "JPEG")
