"""Results of a study -> `results.md`, plots and `study.html`.

Only the study's file, `results.csv` and `predictions.csv` are read.

Latency is the one figure that is measured here: all networks in turns, on this machine; `latency.json` keeps it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from markupsafe import Markup
from PIL import Image

from mdtnet.config import PARTS, SYSTEMS, RunConfig, System, eval_crop_size
from mdtnet.config import Part as NetworkPart
from mdtnet.errors import DataError
from mdtnet.measure.cost import latency as seconds_of
from mdtnet.models.build import build_model
from mdtnet.pages.charts import Dots, Scatter, Strips, data_uri, scatter, strips
from mdtnet.pages.page import environment, write_page
from mdtnet.study.contrast import MANY, Contrast, contrast, ensemble, holm, mcnemar
from mdtnet.study.grid import DEFAULT, Pair, Spec, Study, hash_of
from mdtnet.study.predictions import Predictions, column_name, read_predictions
from mdtnet.study.results import RESULTS, Standing, read_configs, read_rows, standing
from mdtnet.study.runs import duration, picture_of
from mdtnet.study.stats import Cell, Interval, cells, difference, interval
from mdtnet.system.files import atomic_write, write_text
from mdtnet.system.machine import describe_machine

LATENCY = "latency.json"
REPEATS = 7
STALE_SHOWN = 5
STYLE = Markup(  # of plots that stand alone; a page has its own colours
    "<style>svg{--rule:#dde1e6;"
    + "".join(f"--{name}:{system.colour};" for name, system in SYSTEMS.items())
    + "background:#fff;font-family:system-ui,sans-serif}text{fill:#5c646f;font-size:11px}"
    ".name{fill:#1d2127}</style>"
)
READING = (
    "Top-1 is that of the weights after the last epoch, on videos that were not trained on; no epoch was chosen.",
    "± is the half width of a 95 % interval of Student's t over seeds; folds are pooled within a seed "
    "(mean class: averaged). It says how far another set of seeds may differ, not another set of videos.",
    "Differences are paired: the same seed, that is the same order of videos, and the same data and folds. Bold: the "
    "interval lies on one side of zero. With many rows some do so by chance. The same seed on another machine (named "
    "below) may give another result.",
    "A column such as `dcme out` shows what the same weights gain or lose, in points, with that part silenced in the "
    "test: its gates at zero, its path adding nothing, key frames raw.",
    "GMACs are of all views of a video; decoding is not counted, although some networks read more frames per segment.",
)

READING_CONTRASTS = (
    "Contrasts treat seeds and clips as samples: the interval says how far other seeds and other clips of this kind "
    f"may differ. From {MANY} seeds and {MANY} groups of clips (persons, sequences) on it is a two-way bootstrap, with "
    "fewer it is Student's t. Seeds are paired where runs start from the same weights.",
    "p is that of the difference, corrected for the number of contrasts in the study (Holm); the primary contrast, "
    "named beforehand, needs no correction. Ensembles are votes of all seeds; McNemar's exact test compares them.",
)
CONTRAST_COLUMNS = ("contrast", "n", "points", "95 % interval", "by", "p", "corrected", "ensembles %", "p of ensembles")


@dataclass(frozen=True)
class Latency:
    """The content of `latency.json`."""

    machine: dict[str, str | int | float | None] = field(default_factory=dict)
    ms: dict[str, float] = field(default_factory=dict)
    """Network (see `_network`) -> milliseconds of one view."""


@dataclass(frozen=True)
class TableRow:
    """A line of a data set's table."""

    texts: list[str]
    colour: str
    sure: bool
    """Whether the interval of the difference lies on one side of zero."""


@dataclass
class Part:
    """All that page and tables show of one data set."""

    name: str
    words: str
    columns: list[str]
    difference: int
    """Index of the column with differences."""
    rows: list[TableRow]
    has_interval: bool
    contrasts: list[TableRow]
    """Under `CONTRAST_COLUMNS`; empty without predictions."""
    strips: Strips | None
    plots: list[Scatter]
    picture: str
    """A data URI, or ""."""
    files: list[tuple[str, str]] = field(default_factory=list)
    """Title and file name of each plot that was written."""


def build_study(study: Study, *, latency: bool = False) -> list[Path]:
    """Write tables, plots and page into the study's results folder; without a finished run nothing is written.

    With `latency` the networks are timed, unless `latency.json` has them all.

    Returns:
        The files that were written.
    """
    now = standing(study, read_rows(study.results / RESULTS), read_configs(study.results))
    found = cells(study, now.done)
    if not found:
        return []
    times = _latency(study, found, measure=latency)
    contrasts = _contrasts(study, found, read_predictions(study.results))
    parts = [
        _part(study, name, [c for c in found if c.data == name], times, contrasts)
        for name in dict.fromkeys(c.data for c in found)
    ]
    facts, summary, notes = _facts(study, now, times), _summary(study, now), _notes(now, found)
    html = (
        environment()
        .get_template("study.html")
        .render(
            study=study,
            summary=summary,
            notes=notes,
            parts=parts,
            contrast_columns=CONTRAST_COLUMNS,
            reading=_reading(parts),
            facts=facts,
        )
    )
    plots = _plots(study, parts)
    return [*plots, _markdown(study, summary, notes, parts, facts), write_page(study.results / "study.html", html)]


# ---- latency ------------------------------------------------------------------------------------------


def _network(spec: Spec) -> str:
    """Hash of all that decides how long a forward pass takes."""
    model = {key: value for key, value in spec.about.items() if key.startswith("model.")}
    ignored = ("model.weights", "model.dropout", "model.freeze")
    kept = {key: value for key, value in model.items() if key not in ignored}
    return hash_of({**kept, "segments": spec.config.data.num_segments, "size": _size(spec.config)})


def _size(config: RunConfig) -> int:
    return eval_crop_size(config.data, config.test)


def _latency(study: Study, found: Sequence[Cell], *, measure: bool) -> Latency:
    """The known latency; where `measure` is set and a network is missing, it is measured anew."""
    path = study.results / LATENCY
    known = _read_latency(path)
    wanted = {_network(cell.spec): cell.spec.config for cell in found}
    if not measure or wanted.keys() <= known.ms.keys():
        return known
    measured = Latency(describe_machine(), measure_ms(wanted))
    atomic_write(path, lambda file: file.write((json.dumps(asdict(measured), indent=1) + "\n").encode()))
    return measured


def _read_latency(path: Path) -> Latency:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Latency(dict(found["machine"]), dict(found["ms"]))
    except FileNotFoundError:
        return Latency()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def measure_ms(networks: dict[str, RunConfig]) -> dict[str, float]:
    """Median milliseconds of one view of each network; they take turns, so that a disturbance affects all of them."""
    seconds: dict[str, list[float]] = {key: [] for key in networks}
    models = {
        key: build_model(replace(config.model, weights=""), num_classes=10).to(memory_format=torch.channels_last)
        for key, config in networks.items()
    }
    for _ in range(REPEATS):
        for key, config in networks.items():
            segments, size = config.data.num_segments, _size(config)
            seconds[key] += seconds_of(models[key], num_segments=segments, size=size, repeats=1)
    return {key: 1e3 * median(values) for key, values in seconds.items()}


# ---- tables -------------------------------------------------------------------------------------------


def title_of(system: System, variant: str) -> str:
    """Name of a cell in tables."""
    return SYSTEMS[system].title + ("" if variant == DEFAULT else f", {variant}")


def _part(study: Study, name: str, found: list[Cell], times: Latency, contrasts: "Sequence[Difference]") -> Part:
    base = next((c for c in found if (c.system, c.variant) == study.baseline), None)
    has_pairs = any(cell.pairs for cell in found)
    has_ms = any(_network(cell.spec) in times.ms for cell in found)
    compared = f"points to {title_of(*study.baseline)}"
    columns = ["", "n", "top-1 %", "mean class %", *(["in pairs %"] if has_pairs else [])]
    columns += [compared, "GMACs", "M params", *(["ms"] if has_ms else [])]
    silenced = [part for part in PARTS if any(_knock_out(cell, part) is not None for cell in found)]
    columns += [f"{part} out" for part in silenced]
    rows = [_row(cell, base, times, has_pairs=has_pairs, has_ms=has_ms, silenced=silenced) for cell in found]
    drawn = [cell for cell in found if cell.top1]
    return Part(
        name=name,
        words=_words(found),
        columns=columns,
        difference=columns.index(compared),
        rows=rows,
        has_interval=any(len(cell.top1) > 1 for cell in found),
        contrasts=[_contrast_row(one) for one in contrasts if one.first.data == name],
        strips=strips(f"Top-1 on {name}", [_dots(cell, 0.0) for cell in drawn], x_name="top-1 %") if drawn else None,
        plots=_scatters(study, name, drawn, times),
        picture=_picture(picture_of(study, name)),
    )


@dataclass(frozen=True)
class Difference:
    """Two cells on the clips that all of their runs were tested on."""

    first: Cell
    second: Cell
    seeds: tuple[int, int]
    found: Contrast
    corrected: float | None
    """P-value after Holm's correction; None for the primary contrast."""
    ensembles: tuple[float, float]
    """Accuracy of each one's vote over seeds, 0 to 1."""
    mcnemar: float


def _contrasts(study: Study, found: Sequence[Cell], predictions: Predictions) -> list[Difference]:
    """Every cell against the baseline on its data set, and the primary contrast; without those that cannot be had."""
    cell_of = {(cell.data, (cell.system, cell.variant)): cell for cell in found}
    wanted = [(cell.data, (cell.system, cell.variant), study.baseline) for cell in found]
    wanted = [one for one in wanted if one[1] != one[2] and one != study.primary]
    made = []
    for data, first, second in [*([study.primary] if study.primary else []), *wanted]:
        if (data, first) in cell_of and (data, second) in cell_of:
            one = _compare(cell_of[data, first], cell_of[data, second], predictions)
            made += [one] if one else []
    named = [one for one in made if (one.first.data, *_names(one)) == study.primary]
    others = [one for one in made if one not in named]
    corrected = holm([one.found.p for one in others])
    return [*named, *(replace(one, corrected=p) for one, p in zip(others, corrected))]


def _names(one: Difference) -> tuple[Pair, Pair]:
    return (one.first.system, one.first.variant), (one.second.system, one.second.variant)


def _compare(first: Cell, second: Cell, predictions: Predictions) -> Difference | None:
    weights = {cell.spec.config.model.weights for cell in (first, second)}
    shared = [seed for seed in first.top1 if seed in second.top1]
    paired = len(weights) == 1 and weights != {""} and len(shared) > 1
    seeds = [shared, shared] if paired else [list(first.top1), list(second.top1)]
    if any(len({row.config for row in cell.rows}) > 1 for cell in (first, second)):
        return None  # made by versions with other options: folds would be in columns of different names
    columns = [
        [column_name(cell.system, cell.variant, seed, cell.rows[0].config) for seed in part]
        for cell, part in zip((first, second), seeds)
    ]
    exclude = first.spec.config.test.on_unreadable == "exclude"
    clips = predictions.common(first.data, columns, exclude=exclude) if all(columns) else None
    if clips is None:
        return None
    one, other = (part == clips.labels for part in clips.predicted)
    found = contrast(one, other, clips.groups, paired=paired)
    if found is None:
        return None
    votes = [ensemble(part) == clips.labels for part in clips.predicted]
    accuracies = float(votes[0].mean()), float(votes[1].mean())
    return Difference(first, second, (len(one), len(other)), found, None, accuracies, mcnemar(votes[0], votes[1]))


def _contrast_row(one: Difference) -> TableRow:
    first, second = (title_of(system, variant) for system, variant in _names(one))
    seeds = str(one.seeds[0]) if one.seeds[0] == one.seeds[1] else f"{one.seeds[0]}, {one.seeds[1]}"
    low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in (one.found.low, one.found.high))
    p = one.found.p if one.corrected is None else one.corrected
    texts = [
        f"{first} − {second}",
        seeds,
        f"{100 * one.found.mean:+.1f}".replace("-", "−"),
        f"{low} to {high}",
        one.found.method,
        _p(one.found.p),
        "primary" if one.corrected is None else _p(one.corrected),
        f"{100 * one.ensembles[0]:.1f}, {100 * one.ensembles[1]:.1f}",
        _p(one.mcnemar),
    ]
    return TableRow(texts, one.first.system, p < 0.05)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _reading(parts: Sequence[Part]) -> tuple[str, ...]:
    return (*READING, *(READING_CONTRASTS if any(part.contrasts for part in parts) else ()))


def _picture(path: Path) -> str:
    """The data set's sheet as a data URI; "" where no run was made on this machine."""
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        return data_uri(picture, "JPEG")


def _knock_out(cell: Cell, part: NetworkPart) -> float | None:
    """Points that a network gains with a part silenced, the mean over its runs; None where that was not tested."""
    pairs = [(vars(row)[f"without_{part}"], row.top1) for row in cell.rows]
    changes = [100 * (without - top1) for without, top1 in pairs if without is not None]
    return fmean(changes) if changes else None


def _row(
    cell: Cell,
    base: Cell | None,
    times: Latency,
    *,
    has_pairs: bool,
    has_ms: bool,
    silenced: Sequence[NetworkPart],
) -> TableRow:
    own = cell is base
    apart = difference(cell, base) if base and not own else None
    ms = times.ms.get(_network(cell.spec))
    texts = [title_of(cell.system, cell.variant), str(len(cell.top1)), _plus_minus(cell.top1), _mean(cell.mean_class)]
    texts += [_mean(cell.pairs)] if has_pairs else []
    texts += ["–" if apart is None else _signed(apart), _three(cell.gmacs), f"{cell.rows[0].parameters / 1e6:.2f}"]
    texts += ["–" if ms is None else _three(ms * cell.rows[0].views)] if has_ms else []
    changes = [_knock_out(cell, part) for part in silenced]
    texts += ["–" if change is None else f"{change:+.1f}".replace("-", "−") for change in changes]
    return TableRow(texts, cell.system, apart is not None and apart.sure)


def _plus_minus(values: dict[int, float]) -> str:
    if not values:
        return "–"
    found = interval([100 * value for value in values.values()])
    return f"{found.mean:.1f}" + ("" if found.half is None else f" ± {found.half:.1f}")


def _mean(values: dict[int, float]) -> str:
    return f"{100 * sum(values.values()) / len(values):.1f}" if values else "–"


def _three(value: float) -> str:
    """A number in three digits."""
    return f"{value:#.3g}".rstrip(".")


def _signed(found: Interval) -> str:
    text = f"{100 * found.mean:+.1f}".replace("-", "−")
    return text + ("" if found.half is None else f" ± {100 * found.half:.1f}")


def _words(found: list[Cell]) -> str:
    """Training and test of a data set's runs, in one sentence."""
    spec, row = found[0].spec, found[0].rows[0]
    data, model, train = spec.config.data, spec.config.model, spec.config.train
    width = "" if model.width == 1 else f" at {model.width:g} of its width"
    start = {"": "from scratch", "imagenet": "from ImageNet weights"}.get(
        model.weights, f"from {Path(model.weights).name}"
    )
    tested = f"{row.videos} videos" if spec.fold is None else f"{data.folds} folds"
    exposure = "" if data.exposure == "none" else f", exposure by {data.exposure}"
    seeds = max(len(cell.top1) for cell in found)
    text = (
        f"{model.trunk}{width}, {start}; {data.num_segments} segments of {data.size} pixels{exposure}; "
        f"{train.epochs} epochs, {train.optimizer}; tested on {tested}, "
        f"{row.views} view{'s' if row.views > 1 else ''} each"
    )
    return text + ("; one seed, so there are no intervals." if seeds == 1 else ".")


def _summary(study: Study, now: Standing) -> str:
    done, all_of = len(now.done), len(study.specs)
    return f"{done} of {all_of} runs are done." if done < all_of else f"All {done} runs are done."


def _notes(now: Standing, found: list[Cell]) -> list[str]:
    """Rows and seeds that are left out of the tables, in words."""
    reasons = list(dict.fromkeys(reason for _, reason in now.stale))
    notes = [f"{len(now.stale)} stale rows of results.csv: {'; '.join(reasons[:STALE_SHOWN])}"] if reasons else []
    for cell in found:
        if cell.incomplete:
            seeds = ", ".join(map(str, cell.incomplete))
            notes.append(f"{title_of(cell.system, cell.variant)} on {cell.data}: seed {seeds} lacks folds")
    return notes


def _facts(study: Study, now: Standing, times: Latency) -> list[tuple[str, str]]:
    rows = list(now.done.values())
    facts = [
        ("study", study.path.name),
        ("training time in all", duration(sum(row.seconds for row in rows))),
        ("machines", "; ".join(dict.fromkeys(row.machine for row in rows))),
        ("commits", ", ".join(dict.fromkeys(row.commit or "unknown" for row in rows))),
        ("dates", " to ".join(dict.fromkeys((min(r.date for r in rows)[:10], max(r.date for r in rows)[:10])))),
    ]
    if times.ms:
        machine, load = times.machine, times.machine["load"]
        facts.append(
            (
                "ms",
                f"eager, one clip at a time, {machine['threads']} of {machine['cores']} threads of {machine['cpu']}, "
                f"torch {machine['torch']}, load before {f'{load:.1f}' if isinstance(load, float) else 'unknown'}",
            )
        )
    return facts


# ---- plots and Markdown -------------------------------------------------------------------------------


def _dots(cell: Cell, x: float) -> Dots:
    values = [100 * value for value in cell.top1.values()]
    return Dots(title_of(cell.system, cell.variant), cell.system, values, x, interval(values).half)


def _scatters(study: Study, name: str, found: list[Cell], times: Latency) -> list[Scatter]:
    """Accuracy over cost and over time, of the systems in the baseline's variant; none for a single system."""
    shown = [cell for cell in found if cell.variant == study.baseline[1]]
    if len(shown) < 2:
        return []
    charts = [scatter(f"Top-1 in % on {name} over cost", [_dots(c, c.gmacs) for c in shown], x_name="GMACs x views")]
    if all(_network(cell.spec) in times.ms for cell in shown):
        timed = [_dots(c, times.ms[_network(c.spec)] * c.rows[0].views) for c in shown]
        charts.append(scatter(f"Top-1 in % on {name} over measured latency", timed, x_name="ms per video"))
    return charts


def _plots(study: Study, parts: list[Part]) -> list[Path]:
    """Write the page's plots as files; their names go into the parts."""
    macros: Any = environment().get_template("dots.html").module
    written = []
    for part in parts:
        drawn: list[tuple[str, Strips | Scatter]] = [("seeds", part.strips)] if part.strips else []
        drawn += zip(("gmacs", "latency"), part.plots)
        for what, chart in drawn:
            macro = macros.strips if what == "seeds" else macros.scatter
            path = study.results / f"{part.name}_{what}.svg"
            write_text(path, f"{macro(chart, STYLE).strip()}\n")
            part.files.append((chart["title"], path.name))
            written.append(path)
    return written


def _markdown(study: Study, summary: str, notes: list[str], parts: list[Part], facts: list[tuple[str, str]]) -> Path:
    lines = [f"# Study {study.name}", "", summary, ""]
    lines += [f"- Not in the tables: {note}" for note in notes]
    for part in parts:
        lines += ["", f"## {part.name}", "", part.words, ""]
        lines += [_line(part.columns), _line(["---", *["---:"] * (len(part.columns) - 1)])]
        for row in part.rows:
            bold = part.difference if row.sure else -1
            lines.append(_line([f"**{text}**" if i == bold else text for i, text in enumerate(row.texts)]))
        if part.contrasts:
            lines += ["", _line(CONTRAST_COLUMNS), _line(["---", *["---:"] * (len(CONTRAST_COLUMNS) - 1)])]
        for row in part.contrasts:
            lines.append(_line([f"**{text}**" if i == 2 and row.sure else text for i, text in enumerate(row.texts)]))
        lines += ["", *(f"![{title}]({file})" for title, file in part.files)]
    lines += ["", "## How to read this", "", *(f"- {line}" for line in _reading(parts))]
    lines += ["", "## Runs", "", *(f"- {name}: {value}" for name, value in facts), ""]
    path = study.results / "results.md"
    atomic_write(path, lambda file: file.write("\n".join(lines).encode()))
    return path


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
