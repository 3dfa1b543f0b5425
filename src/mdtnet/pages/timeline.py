"""What happens when in a video, to look at: a picture, and a page that opens offline."""

from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import Image, ImageDraw

from mdtnet.inference.timeline import Timeline
from mdtnet.pages.charts import data_uri
from mdtnet.pages.page import environment, write_page
from mdtnet.system.files import atomic_write
from mdtnet.system.terminal import plain

PALETTE = ("#1f5fbf", "#b0700c", "#18836a", "#b8456f", "#7a5cc0", "#4f9bd9", "#6b737e", "#8a6d1f", "#2f7d32", "#a33a2a")
MOST_ROWS = 12
COLUMNS = 900
"""Steps of the shading of a row."""
WIDTH, ROW, NAMES, THUMBNAIL = 1200, 34, 190, 84  # pixels of the picture


class Bar(TypedDict):
    """A segment: its place along the row, 0 to 1, and its text."""

    left: float
    width: float
    text: str


class Row(TypedDict):
    """A class over time."""

    label: str
    colour: str
    scores: np.ndarray
    """Probabilities over time, at most COLUMNS."""
    bars: list[Bar]


def rows_of(timeline: Timeline) -> list[Row]:
    """The classes with segments, the one that lasts longest first, then those with the best scores; 12 at most."""
    duration = timeline.windows.duration
    _, scores = timeline.cells(max(timeline.windows.stride, duration / COLUMNS))
    segments = timeline.segments
    lasts = {label: sum(s.end - s.start for s in segments if s.label == label) for label in timeline.classes}
    order = sorted(range(len(timeline.classes)), key=lambda c: (-lasts[timeline.classes[c]], -scores[:, c].max()))
    return [
        {
            "label": timeline.classes[c],
            "colour": PALETTE[i % len(PALETTE)],
            "scores": scores[:, c],
            "bars": [
                {
                    "left": s.start / duration,
                    "width": (s.end - s.start) / duration,
                    "text": f"{clock(s.start, tenths=True)} to {clock(s.end, tenths=True)}, {s.score:.0%}",
                }
                for s in segments
                if s.label == timeline.classes[c]
            ],
        }
        for i, c in enumerate(order[:MOST_ROWS])
    ]


def ticks_of(duration: float) -> list[tuple[float, str]]:
    """Places along the time, 0 to 1, and their texts."""
    step = next((s for s in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600) if duration / s <= 12), 7200)
    return [(t / duration, clock(t)) for t in np.arange(0, duration, step).tolist()]


def clock(seconds: float, *, tenths: bool = False) -> str:
    """`2:03`, `1:02:03`, or with tenths `2:03.4`."""
    whole, tenth = divmod(round(10 * seconds), 10) if tenths else (round(seconds), 0)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
    return f"{text}.{tenth}" if tenths else text


def draw_timeline(timeline: Timeline, out: Path) -> Path:
    """Write the picture: some frames, then a row per class, shaded by its score, with its segments as bars."""
    from mdtnet.pages.sheet import font  # brings matplotlib's fonts

    rows, duration = rows_of(timeline), timeline.windows.duration
    top = 40 + THUMBNAIL
    canvas = Image.new("RGB", (WIDTH, top + ROW * len(rows) + 34), "white")
    draw = ImageDraw.Draw(canvas)
    span = WIDTH - NAMES - 16
    draw.text((10, 10), f"{plain(Path(timeline.path).name)}   {clock(duration)}", "black", font(15))
    for seconds, frame in timeline.thumbnails:
        width = min(THUMBNAIL, span // max(1, len(timeline.thumbnails)) - 2)
        place = min(round(seconds / duration * span), span - width)
        canvas.paste(Image.fromarray(frame).resize((width, width)), (NAMES + place, 36))
    for i, row in enumerate(rows):
        y = top + ROW * i
        draw.text((10, y + 8), plain(row["label"])[:24], "black", font(13))
        canvas.paste(_shading(row, span, ROW - 16), (NAMES, y + 4))
        for bar in row["bars"]:
            left = NAMES + bar["left"] * span
            draw.rectangle((left, y + ROW - 11, left + max(2, bar["width"] * span - 1), y + ROW - 5), row["colour"])
    bottom = top + ROW * len(rows)
    for share, text in ticks_of(duration):
        draw.line((NAMES + share * span, top, NAMES + share * span, bottom + 4), "#dde1e6")
        draw.text((NAMES + share * span, bottom + 8), text, "#5c646f", font(11))
    kind = "JPEG" if out.suffix.lower() in (".jpg", ".jpeg") else "PNG"
    atomic_write(out, lambda file: canvas.save(file, kind))
    return out


def _shading(row: Row, width: int, height: int) -> Image.Image:
    colour = np.array([int(row["colour"][i : i + 2], 16) for i in (1, 3, 5)])
    shade = 255 - row["scores"][:, None].clip(0, 1) * (255 - colour)
    strip = Image.fromarray(shade[None].round().astype(np.uint8))
    return strip.resize((width, height), Image.Resampling.NEAREST)


def build_timeline_page(timeline: Timeline, out: Path) -> Path:
    """Write the page of a video and return its path.

    Raises:
        ConfigError: `out` is a folder.
    """
    rows = [
        {**row, "shading": data_uri(_shading(row, min(len(row["scores"]), COLUMNS), 1), "PNG")}
        for row in rows_of(timeline)
    ]
    duration = timeline.windows.duration
    page = (
        environment()
        .get_template("timeline.html")
        .render(
            timeline=timeline,
            name=Path(timeline.path).name,
            rows=rows,
            segments=[(clock(s.start, tenths=True), clock(s.end, tenths=True), s) for s in timeline.segments],
            ticks=ticks_of(duration),
            duration=clock(duration, tenths=True),
            thumbnails=[
                (clock(seconds), data_uri(Image.fromarray(frame), "JPEG")) for seconds, frame in timeline.thumbnails
            ],
        )
    )
    return write_page(out, page)
