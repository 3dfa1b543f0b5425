"""Geometry of charts for pages: lines, dots and confusion matrices as numbers that a template draws."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from PIL import Image

LABELLED_CLASSES = 60  # a confusion matrix of more has no names
LABEL_LENGTH = 22  # characters of a class name beside a matrix


Tick = tuple[float, str]
"""Its place along an axis, and its text."""


class Frame(TypedDict):
    """The parts that every chart has, in units of its view box."""

    title: str
    summary: str
    """In words, for those who do not see it."""
    box: tuple[float, float]
    """Width and height."""
    frame: tuple[float, float, float, float]
    """Left, right, top and bottom of the plot inside the box."""
    x_ticks: list[Tick]


class DrawnLine(TypedDict):
    """A curve of a `LineChart`."""

    label: str
    colour: str
    path: str
    """Points of an SVG polyline."""
    end: tuple[float, float]
    label_y: float


class LineChart(Frame):
    """Curves over epochs."""

    y_ticks: list[Tick]
    lines: list[DrawnLine]


class DrawnDots(TypedDict):
    """A series of a `Scatter`: dots at one `x`."""

    label: str
    colour: str
    x: float
    mean: float
    dots: list[float]
    label_y: float


class Scatter(Frame):
    """Repeated measurements over a quantity."""

    x_name: str
    y_ticks: list[Tick]
    series: list[DrawnDots]


class Strip(TypedDict):
    """A row of `Strips`: dots at one `y`."""

    label: str
    colour: str
    y: float
    mean: float
    dots: list[float]
    line: list[float]
    """Both ends of the interval."""


class Strips(Frame):
    """One row of dots per thing."""

    x_name: str
    rows: list[Strip]


class Confused(TypedDict):
    """A frequent mistake."""

    true: str
    predicted: str
    count: int
    of: int
    """Videos of the true class."""


class Confusion(TypedDict):
    """A confusion matrix as cells of (count, share of the row)."""

    classes: Sequence[str]
    cell: int
    margin: int
    rows: list[list[tuple[int, float]]]
    """Empty where `picture` stands for it."""
    picture: str
    """A data URI, or ""."""
    frequent: list[Confused]


@dataclass(frozen=True)
class Line:
    """A curve: its label, colour name, and points (epoch, value)."""

    label: str
    colour: str
    points: list[tuple[float, float]]


def chart(title: str, lines: list[Line], *, width: int = 360, height: int = 220) -> LineChart:
    """Geometry of a line chart, in units of its view box; every line has at least one point."""
    longest = max(len(line.label) for line in lines)
    left, right, top, bottom = 44.0, width - 12 - 6.2 * longest, 12.0, height - 34.0
    epochs = [x for line in lines for x, _ in line.points]
    values = [y for line in lines for _, y in line.points]
    x_ticks = _ticks(min(epochs), max(epochs), whole=True)
    y_ticks = _ticks(min(0.0, *values), max(values), whole=False)
    x = _scale(min(epochs), max(epochs), left, right)
    y = _scale(y_ticks[0], y_ticks[-1], bottom, top)
    ends = _spread([y(line.points[-1][1]) for line in lines], 13, top, bottom)
    return {
        "title": title,
        "summary": f"{title} over epochs. " + " ".join(_in_words(line) for line in lines),
        "box": (width, height),
        "frame": (left, right, top, bottom),
        "x_ticks": [(x(tick), f"{tick:g}") for tick in x_ticks if min(epochs) <= tick <= max(epochs)],
        "y_ticks": [(y(tick), f"{tick:g}") for tick in y_ticks],
        "lines": [
            {
                "label": line.label,
                "colour": line.colour,
                "path": " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points),
                "end": (x(line.points[-1][0]), y(line.points[-1][1])),
                "label_y": end,
            }
            for line, end in zip(lines, ends)
        ],
    }


def _in_words(line: Line) -> str:
    first, last = line.points[0][1], line.points[-1][1]
    return f"{line.label or 'It'} goes from {first:.3g} to {last:.3g}.".capitalize()


def _ticks(low: float, high: float, *, whole: bool) -> list[float]:
    high = high if high > low else low + 1
    from matplotlib.ticker import MaxNLocator

    return list(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high))


def _scale(low: float, high: float, first: float, last: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: round(first + (last - first) * (value - low) / span, 1)


def _spread(wanted: list[float], gap: float, top: float, bottom: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart, so that labels do not overlap."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = dict.fromkeys(order, 0.0)
    previous = top - gap
    for i in order:
        placed[i] = previous = max(wanted[i], previous + gap)
    limit = bottom + gap
    for i in reversed(order):
        placed[i] = limit = min(placed[i], limit - gap)
    return [placed[i] for i in range(len(wanted))]


@dataclass(frozen=True)
class Dots:
    """Repeated measurements of one thing: its label, colour name, their values, and where it lies along x."""

    label: str
    colour: str
    values: list[float]
    x: float = 0.0
    half: float | None = None
    """Half width of the interval about their mean."""

    @property
    def mean(self) -> float:
        """Mean of the values."""
        return sum(self.values) / len(self.values)


def scatter(title: str, series: list[Dots], *, x_name: str, width: int = 480, height: int = 280) -> Scatter:
    """Geometry of values over x: one dot per value, a bar at each mean, names at the right.

    Series of equal x stand side by side.
    """
    longest = max(len(dots.label) for dots in series)
    left, right, top, bottom = 44.0, width - 16 - 6.2 * longest, 12.0, height - 38.0
    low, high = min(d.x for d in series), max(d.x for d in series)
    margin = 0.08 * ((high - low) or high or 1.0)
    y_values = [y for dots in series for y in dots.values]
    y_ticks = _ticks(min(y_values), max(y_values), whole=False)
    y = _scale(y_ticks[0], y_ticks[-1], bottom, top)
    x = _scale(low - margin, high + margin, left, right)
    places = _apart([x(dots.x) for dots in series], 16)
    labels = _spread([y(dots.mean) for dots in series], 13, top, bottom)
    return {
        "title": title,
        "summary": f"{title}. " + " ".join(f"{d.label}: {d.mean:.3g} at {d.x:.3g}." for d in series),
        "box": (width, height),
        "frame": (left, right, top, bottom),
        "x_name": x_name,
        "x_ticks": [(x(t), f"{t:g}") for t in _ticks(low, high, whole=False) if low - margin <= t <= high + margin],
        "y_ticks": [(y(tick), f"{tick:g}") for tick in y_ticks],
        "series": [
            {
                "label": d.label,
                "colour": d.colour,
                "x": at,
                "mean": y(d.mean),
                "dots": [y(v) for v in d.values],
                "label_y": label,
            }
            for d, at, label in zip(series, places, labels)
        ],
    }


def strips(title: str, series: list[Dots], *, x_name: str, width: int = 720) -> Strips:
    """Geometry of one row per series: one dot per value, a bar at the mean, a line for the interval."""
    left, right, row = 16 + 6.6 * max(len(dots.label) for dots in series), width - 16.0, 22
    ends = [v for d in series for v in (*d.values, d.mean - (d.half or 0), d.mean + (d.half or 0))]
    ticks = _ticks(max(0.0, min(ends)), min(100.0, max(ends)), whole=False)
    scale = _scale(ticks[0], ticks[-1], left, right)
    bottom = 6.0 + row * len(series)
    return {
        "title": title,
        "summary": f"{title}. " + " ".join(f"{d.label}: {d.mean:.3g}." for d in series),
        "box": (width, bottom + 36),
        "frame": (left, right, 6.0, bottom),
        "x_name": x_name,
        "x_ticks": [(scale(tick), f"{tick:g}") for tick in ticks],
        "rows": [
            {
                "label": d.label,
                "colour": d.colour,
                "y": 6.0 + row * (i + 0.5),
                "mean": scale(d.mean),
                "dots": [scale(v) for v in d.values],
                "line": [min(max(scale(d.mean + s * (d.half or 0)), left), right) for s in (-1, 1)],
            }
            for i, d in enumerate(series)
        ],
    }


def _apart(wanted: list[float], gap: float) -> list[float]:
    """Positions near the wanted ones; those closer than `gap` are spread around their middle."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []
    for i in order:
        if groups and wanted[i] - wanted[groups[-1][-1]] < gap:
            groups[-1].append(i)
        else:
            groups.append([i])
    placed = list(wanted)
    for group in groups:
        middle = sum(wanted[i] for i in group) / len(group)
        for place, i in enumerate(group):
            placed[i] = round(middle + gap * (place - (len(group) - 1) / 2), 1)
    return placed


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Confusion:
    """A confusion matrix, counts [C, C] (row true, column predicted), as cells of count and share of the row.

    With more than 60 classes it is one picture without names.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    labelled = len(classes) <= LABELLED_CLASSES
    return {
        "classes": classes,
        "cell": 36 if len(classes) <= 14 else 24,
        "margin": 14 + 7 * min(max(map(len, classes)), LABEL_LENGTH),
        "rows": [list(zip(*row)) for row in zip(counts.tolist(), shares.tolist())] if labelled else [],
        "picture": "" if labelled else _alpha_picture(shares),
        "frequent": _frequent_confusions(counts, classes),
    }


def _frequent_confusions(counts: np.ndarray, classes: Sequence[str]) -> list[Confused]:
    wrong = counts * (1 - np.eye(len(counts), dtype=counts.dtype))
    order = np.argsort(-wrong, axis=None, kind="stable")[:5]
    cells = [divmod(int(cell), len(counts)) for cell in order]
    return [
        {"true": classes[i], "predicted": classes[j], "count": int(wrong[i, j]), "of": int(counts[i].sum())}
        for i, j in cells
        if wrong[i, j]
    ]


def _alpha_picture(shares: np.ndarray) -> str:
    """Shares [C, C] as the opacity of a blue picture, which suits a light and a dark page."""
    pixels = np.zeros((*shares.shape, 4), dtype=np.uint8)
    pixels[..., :3] = (44, 104, 200)
    pixels[..., 3] = np.sqrt(shares) * 255  # single mistakes stay visible
    return data_uri(Image.fromarray(pixels), "PNG")


def data_uri(image: Image.Image, kind: str) -> str:
    """An image as a `data:` address; `kind` is PNG or JPEG."""
    file = io.BytesIO()
    image.save(file, kind, quality=82)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
