"""Sheets of pictures: rows of panels with texts, colours for numbers, and saving them."""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mdtnet.errors import ConfigError
from mdtnet.models.saliency import LUMA
from mdtnet.system.files import atomic_write
from mdtnet.system.terminal import plain

SHEETS = (".png", ".jpg", ".jpeg")
PANEL_HEIGHT = 160  # pixels, of one picture on a contact sheet
COLOURS = matplotlib.colormaps["inferno"]
INK, PAPER = (32, 36, 42), (255, 255, 255)


def heat(frames: np.ndarray, salience: np.ndarray) -> np.ndarray:
    """Salience [n, H, W] in colour over the greyed frames, both uint8 RGB [n, H, W, 3]; bright is salient."""
    grey = (frames @ np.array(LUMA))[..., None] * 0.35
    colour = COLOURS(salience, bytes=True)[..., :3] * 0.65
    return (grey + colour).round().astype(np.uint8)


def checked_output(source: str | Path, out: str | Path, suffixes: tuple[str, ...], kinds: str) -> Path:
    """`out` as a file that can be written; its folder is made.

    Raises:
        ConfigError: its extension is not in `suffixes` (the message names `kinds`), or it is a folder or `source`.
    """
    out = Path(out)
    if out.suffix.lower() not in suffixes:
        raise ConfigError(f"{out}: unknown kind of picture '{out.suffix}', expected {kinds}")
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder, expected the name of a file")
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise ConfigError(f"{out}: is the source itself, choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: its folder cannot be made: {error.strerror}") from error
    return out


def panels(frames: np.ndarray, height: int = PANEL_HEIGHT) -> list[Image.Image]:
    """Frames uint8 RGB [n, H, W, 3] as pictures of one height in pixels."""
    size = (max(1, round(frames.shape[2] * height / frames.shape[1])), height)
    return [Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR) for frame in frames]


def sheet(
    title: str, headings: Sequence[str], rows: Sequence[tuple[str, list[Image.Image]]], foot: Image.Image
) -> Image.Image:
    """Panels of one size in named rows, with a title, a heading above each column, and a legend at the foot."""
    top, gap, title = 60, 4, plain(title, lines=True)
    rows = [(plain(name, lines=True), pictures) for name, pictures in rows]
    left = 24 + max(_text_size(name, 13)[0] for name, _ in rows)
    width, height = rows[0][1][0].size
    wide = left + 8 + max(len(headings) * (width + gap), _text_size(title, 16)[0], foot.width)
    picture = Image.new("RGB", (wide, top + len(rows) * (height + gap) + foot.height + 14), PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((left, 8), title, fill=INK, font=font(16))
    for column, heading in enumerate(headings):
        pen.text((left + column * (width + gap), top - 20), plain(heading), fill=INK, font=font(13))
    for row, (name, pictures) in enumerate(rows):
        y = top + row * (height + gap)
        pen.text((12, y + height // 2), name, fill=INK, font=font(13), anchor="lm")
        for column, panel in enumerate(pictures):
            picture.paste(panel, (left + column * (width + gap), y))
    picture.paste(foot, (left, picture.height - foot.height - 6))
    return picture


def colour_scale(note: str) -> Image.Image:
    """The legend of `heat`: its colours from 0 to 1, and a note."""
    foot = Image.new("RGB", (168 + _text_size(note, 12)[0], 18), PAPER)
    ramp = COLOURS(np.linspace(0, 1, 160)[None].repeat(10, 0), bytes=True)[..., :3]
    foot.paste(Image.fromarray(ramp), (0, 4))
    ImageDraw.Draw(foot).text((168, 9), note, fill=INK, font=font(12), anchor="lm")
    return foot


def save_sheet(picture: Image.Image, out: Path) -> Path:
    """Write a sheet as PNG or JPEG, by its extension, whole or not at all."""
    kind = "PNG" if out.suffix.lower() == ".png" else "JPEG"
    atomic_write(out, lambda file: picture.save(file, kind, quality=92))
    return out


def _text_size(text: str, size: int) -> tuple[int, int]:
    box = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font=font(size))
    return math.ceil(box[2]), math.ceil(box[3])


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font of all sheets, of a size in pixels."""
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)
