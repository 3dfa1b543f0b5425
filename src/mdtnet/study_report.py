"""Results of a study -> `results.md`, plots and `study.html`. Only `results.csv` is read, beside the study's file.

Latency is the one figure that is measured here: of all networks in turns, on this machine, kept in `latency.json`.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from markupsafe import Markup
from PIL import Image

from mdtnet.bench import describe_machine
from mdtnet.charts import Dots, data_uri, scatter, strips
from mdtnet.checkpoint import atomic_write
from mdtnet.config import RunConfig, test_crop_size
from mdtnet.cost import latency as seconds_of
from mdtnet.errors import DataError
from mdtnet.gates import PARTS
from mdtnet.models.build import build_model
from mdtnet.report import SYSTEM_TITLES, environment, write_page
from mdtnet.study import DEFAULT, Spec, Study, hash_of
from mdtnet.study_results import RESULTS, Standing, read_configs, read_rows, standing
from mdtnet.study_run import duration, picture_of
from mdtnet.study_stats import Cell, Interval, cells, difference, interval

LATENCY = "latency.json"
REPEATS = 7
STALE_SHOWN = 5
STYLE = Markup(  # of plots that stand alone; a page has its own colours
    "<style>svg{--rule:#dde1e6;--tsn:#6b737e;--tsm:#b0700c;--tea:#18836a;--tdn:#7a5cc0;--mdtnet1:#4f9bd9;"
    "--mdtnet2:#1f5fbf;background:#fff;font-family:system-ui,sans-serif}text{fill:#5c646f;font-size:11px}"
    ".name{fill:#1d2127}</style>"
)
READING = (
    "Top-1 is that of the weights after the last epoch, on videos that were not trained on; no epoch was chosen.",
    "± is the half width of a 95 % interval of Student's t over seeds; folds are pooled within a seed "
    "(mean class: averaged). It says how far another set of seeds may differ, not another set of videos.",
    "Differences are paired: the same seed, that is the same order of videos, and the same data and folds. Bold: the "
    "interval lies on one side of zero. With many rows some do so by chance. The same seed on another machine (named "
    "below) may give another result.",
    "A column such as `dcme out` is what the same weights gain or lose, in points, where that part is silenced in the "
    "test: its gates at zero, its path adding nothing, key frames raw.",
    "GMACs are of all views of a video; a network that reads more frames a segment is not charged for decoding them.",
)


def build_study(study: Study, *, latency: bool = False) -> list[Path]:
    """Write tables, plots and page into the study's results folder; nothing without a finished run.

    With `latency` the networks are timed, unless `latency.json` has them all.

    Returns:
        The files that were written.
    """
    now = standing(study, read_rows(study.results / RESULTS), read_configs(study.results))
    found = cells(study, now.done)
    if not found:
        return []
    times = _latency(study, found, measure=latency)
    parts = [
        _part(study, name, [c for c in found if c.data == name], times) for name in dict.fromkeys(c.data for c in found)
    ]
    about = {"study": study, "summary": _summary(study, now), "notes": _notes(now, found), "parts": parts}
    facts, page = _facts(study, now, times), study.results / "study.html"
    html = environment().get_template("study.html").render(**about, reading=READING, facts=facts)
    return [*_plots(study, parts), _markdown(study, about, facts), write_page(page, html)]


# ---- latency ------------------------------------------------------------------------------------------


def _network(spec: Spec) -> str:
    """What decides how long a forward pass takes, as a hash."""
    model = {key: value for key, value in spec.about.items() if key.startswith("model.")}
    ignored = ("model.weights", "model.dropout", "model.freeze")
    kept = {key: value for key, value in model.items() if key not in ignored}
    return hash_of({**kept, "segments": spec.config.data.num_segments, "size": _size(spec.config)})


def _size(config: RunConfig) -> int:
    return test_crop_size(config.data, config.test)


def _latency(study: Study, found: Sequence[Cell], *, measure: bool) -> dict[str, Any]:
    """`machine`, and `ms`: network -> milliseconds of one view."""
    path = study.results / LATENCY
    known = _read_latency(path)
    wanted = {_network(cell.spec): cell.spec.config for cell in found}
    if not measure or wanted.keys() <= known["ms"].keys():
        return known
    measured = {"machine": describe_machine(), "ms": measure_ms(wanted)}
    atomic_write(path, lambda file: file.write((json.dumps(measured, indent=1) + "\n").encode()))
    return measured


def _read_latency(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"machine": dict(found["machine"]), "ms": dict(found["ms"])}
    except FileNotFoundError:
        return {"machine": {}, "ms": {}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged: {error}") from error


def measure_ms(networks: dict[str, RunConfig]) -> dict[str, float]:
    """Median milliseconds of one view of each network; they take turns, so that a disturbance meets all of them."""
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


def title_of(system: str, variant: str) -> str:
    """A cell's name in tables."""
    return SYSTEM_TITLES[system] + ("" if variant == DEFAULT else f", {variant}")


def _part(study: Study, name: str, found: list[Cell], times: dict[str, Any]) -> dict[str, Any]:
    """What page and tables say of one data set."""
    base = next((c for c in found if (c.system, c.variant) == study.baseline), None)
    has_pairs = any(cell.pairs for cell in found)
    has_ms = any(_network(cell.spec) in times["ms"] for cell in found)
    compared = f"points to {title_of(*study.baseline)}"
    columns = ["", "n", "top-1 %", "mean class %", *(["in pairs %"] if has_pairs else [])]
    columns += [compared, "GMACs", "M params", *(["ms"] if has_ms else [])]
    silenced = [part for part in PARTS if any(_knock_out(cell, part) is not None for cell in found)]
    columns += [f"{part} out" for part in silenced]
    rows = [_row(cell, base, times, has_pairs=has_pairs, has_ms=has_ms, silenced=silenced) for cell in found]
    drawn = [cell for cell in found if cell.top1]
    return {
        "name": name,
        "words": _words(found),
        "columns": columns,
        "difference": columns.index(compared),
        "rows": rows,
        "has_interval": any(len(cell.top1) > 1 for cell in found),
        "strips": strips(f"Top-1 on {name}", [_dots(cell, 0.0) for cell in drawn], x_name="top-1 %") if drawn else None,
        "plots": _scatters(study, name, drawn, times),
        "picture": _picture(picture_of(study, name)),
    }


def _picture(path: Path) -> str:
    """For the page alone; "" where no run was made here."""
    if not path.is_file():
        return ""
    with Image.open(path) as picture:
        return data_uri(picture, "JPEG")


def _knock_out(cell: Cell, part: str) -> float | None:
    """Points that a network gains where a part is silenced, the mean over its runs; None where that was not tested."""
    pairs = [(getattr(row, f"without_{part}"), row.top1) for row in cell.rows]
    changes = [100 * (without - top1) for without, top1 in pairs if without is not None]
    return fmean(changes) if changes else None


def _row(
    cell: Cell, base: Cell | None, times: dict[str, Any], *, has_pairs: bool, has_ms: bool, silenced: Sequence[str]
) -> dict[str, Any]:
    own = cell is base
    apart = difference(cell, base) if base and not own else None
    ms = times["ms"].get(_network(cell.spec))
    texts = [title_of(cell.system, cell.variant), str(len(cell.top1)), _plus_minus(cell.top1), _mean(cell.mean_class)]
    texts += [_mean(cell.pairs)] if has_pairs else []
    texts += ["–" if apart is None else _signed(apart), _three(cell.gmacs), f"{cell.rows[0].parameters / 1e6:.2f}"]
    texts += ["–" if ms is None else _three(ms * cell.rows[0].views)] if has_ms else []
    changes = [_knock_out(cell, part) for part in silenced]
    texts += ["–" if change is None else f"{change:+.1f}".replace("-", "−") for change in changes]
    return {"texts": texts, "colour": cell.system, "sure": apart is not None and apart.sure}


def _plus_minus(values: dict[int, float]) -> str:
    if not values:
        return "–"
    found = interval([100 * value for value in values.values()])
    return f"{found.mean:.1f}" + ("" if found.half is None else f" ± {found.half:.1f}")


def _mean(values: dict[int, float]) -> str:
    return f"{100 * sum(values.values()) / len(values):.1f}" if values else "–"


def _three(value: float) -> str:
    """Three digits."""
    return f"{value:#.3g}".rstrip(".")


def _signed(found: Interval) -> str:
    text = f"{100 * found.mean:+.1f}".replace("-", "−")
    return text + ("" if found.half is None else f" ± {100 * found.half:.1f}")


def _words(found: list[Cell]) -> str:
    """How the runs of a data set were trained and tested."""
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
    """What is left out, in words."""
    reasons = list(dict.fromkeys(reason for _, reason in now.stale))
    notes = [f"{len(now.stale)} stale rows of results.csv: {'; '.join(reasons[:STALE_SHOWN])}"] if reasons else []
    for cell in found:
        if cell.incomplete:
            seeds = ", ".join(map(str, cell.incomplete))
            notes.append(
                f"{title_of(cell.system, cell.variant)} on {cell.data}: seed {seeds}, of which folds are missing"
            )
    return notes


def _facts(study: Study, now: Standing, times: dict[str, Any]) -> list[tuple[str, str]]:
    rows = list(now.done.values())
    facts = [
        ("study", study.path.name),
        ("training time in all", duration(sum(row.seconds for row in rows))),
        ("machines", "; ".join(dict.fromkeys(row.machine for row in rows))),
        ("commits", ", ".join(dict.fromkeys(row.commit or "unknown" for row in rows))),
        ("dates", " to ".join(dict.fromkeys((min(r.date for r in rows)[:10], max(r.date for r in rows)[:10])))),
    ]
    if times["ms"]:
        machine = times["machine"]
        facts.append(
            (
                "ms",
                f"eager, one clip at a time, {machine['threads']} of {machine['cores']} threads of {machine['cpu']}, "
                f"torch {machine['torch']}, load before {machine['load']:.1f}",
            )
        )
    return facts


# ---- plots and Markdown -------------------------------------------------------------------------------


def _dots(cell: Cell, x: float) -> Dots:
    values = [100 * value for value in cell.top1.values()]
    return Dots(title_of(cell.system, cell.variant), cell.system, values, x, interval(values).half)


def _scatters(study: Study, name: str, found: list[Cell], times: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy over cost and over time, of the systems in the baseline's variant; none for a single system."""
    shown = [cell for cell in found if cell.variant == study.baseline[1]]
    if len(shown) < 2:
        return []
    charts = [scatter(f"Top-1 in % on {name} over cost", [_dots(c, c.gmacs) for c in shown], x_name="GMACs x views")]
    if all(_network(cell.spec) in times["ms"] for cell in shown):
        timed = [_dots(c, times["ms"][_network(c.spec)] * c.rows[0].views) for c in shown]
        charts.append(scatter(f"Top-1 in % on {name} over measured latency", timed, x_name="ms a video"))
    return charts


def _plots(study: Study, parts: list[dict[str, Any]]) -> list[Path]:
    """The page's plots as files; their names go into the parts."""
    macros: Any = environment().get_template("dots.html").module
    written = []
    for part in parts:
        drawn = [("seeds", macros.strips, part["strips"])] if part["strips"] else []
        drawn += list(zip(("gmacs", "latency"), [macros.scatter] * 2, part["plots"]))
        part["files"] = []
        for what, macro, chart in drawn:
            path = study.results / f"{part['name']}_{what}.svg"
            path.write_text(f"{macro(chart, STYLE).strip()}\n", encoding="utf-8")
            part["files"].append((chart["title"], path.name))
            written.append(path)
    return written


def _markdown(study: Study, about: dict[str, Any], facts: list[tuple[str, str]]) -> Path:
    lines = [f"# Study {study.name}", "", about["summary"], ""]
    lines += [f"- Not in the tables: {note}" for note in about["notes"]]
    for part in about["parts"]:
        lines += ["", f"## {part['name']}", "", part["words"], ""]
        lines += [_line(part["columns"]), _line(["---", *["---:"] * (len(part["columns"]) - 1)])]
        for row in part["rows"]:
            bold = part["difference"] if row["sure"] else -1
            lines.append(_line([f"**{text}**" if i == bold else text for i, text in enumerate(row["texts"])]))
        lines += ["", *(f"![{title}]({file})" for title, file in part["files"])]
    lines += ["", "## How to read this", "", *(f"- {line}" for line in READING)]
    lines += ["", "## Runs", "", *(f"- {name}: {value}" for name, value in facts), ""]
    path = study.results / "results.md"
    atomic_write(path, lambda file: file.write("\n".join(lines).encode()))
    return path


def _line(texts: Sequence[str]) -> str:
    return "| " + " | ".join(texts) + " |"
