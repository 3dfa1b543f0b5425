"""Folder of frames -> one sequence of image files in order, and their pixels.

A folder can hold several sequences, such as `img_*` beside `flow_x_*` and `depth_*`, or a cover. One sequence is read:
the one that a pattern names, or the only one of colour pictures; otherwise the folder is refused, and the message names
the sequences.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterable
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageOps

from mdtnet.data.suffixes import is_image
from mdtnet.errors import VideoError, shorten

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "AVIF", "GIF", "PPM")  # a .jpg from the web can be any of them
MAX_PIXELS = 2**26  # of a frame, twice 8K video: larger ones are mistakes, or made to exhaust memory
NOT_RGB = re.compile(r"flow|depth|disp|mask|seg|label|ann|normal|thermal|infrared|skel|pose|thumb|cover|preview|poster")
"""Names of sequences that are not colour pictures of a video, or not all of it."""
SHOWN = 4  # sequences in a message
DECIMAL, INTEGER = r"\d+(?:\.\d+)?", r"\d+"  # digits of any script

Name = tuple[tuple[str, ...], tuple[Fraction, ...]]
"""A file name taken apart: the texts between the numbers, and the numbers."""


def frame_files(folder: str, pattern: str = "") -> list[str]:
    """Names of the frames in a folder, in the order of the numbers in their names: frame2 comes before frame10.

    Numbers can be decimals (`0.25` comes before `1`), and have signs if not all names do (`f-3` comes before `f2`).

    Args:
        pattern: `img_*.jpg`; empty: the only sequence of colour pictures.

    Raises:
        VideoError: no frames, or several sequences of them, or two frames of one number.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if is_image(entry.name) and entry.is_file()]  # no fifos
    except OSError as error:
        raise VideoError(folder, f"cannot be opened: {error.strerror}") from error
    if not names:
        raise VideoError(folder, "no frames (.jpg or .png) in this folder")
    if pattern:
        chosen = fnmatch.filter(names, pattern)
        if not chosen:
            raise VideoError(folder, f"none of its {len(names)} pictures matches data.frame_pattern '{pattern}'")
        return _in_order(folder, chosen)
    found = _sequences(names)
    if len(found) > 1:
        found = _colour_sequences(found) or found
    if len(found) > 1:
        raise _several(folder, found)
    (names,) = found.values()
    return _in_order(folder, names)


def _sequences(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by what they share, numbers replaced by `#`; those without a number are one sequence, `*`."""
    found: dict[str, list[str]] = {}
    for name in names:
        texts, numbers = _parse(name, re.compile(DECIMAL))
        found.setdefault("#".join(texts) if numbers else "*", []).append(name)
    for key in [key for key in found if "-#" in key and key.replace("-#", "#") in found]:
        found[key.replace("-#", "#")] += found.pop(key)  # `f-3` beside `f2`: a sign, not a hyphen
    parts = {key: _interleaved(names) for key, names in found.items()}
    return {f"{key} {i}" if i else key: part for key in found for i, part in enumerate(parts[key])}


def _interleaved(names: list[str]) -> list[list[str]]:
    """Sequences that differ in their first number, such as `cam1_0001` and `cam2_0001`: their second starts again."""
    kind = _number_kind(names)
    numbers = {name: _parse(name, kind)[1] for name in names}
    names = sorted(names, key=lambda name: numbers[name])
    columns = list(zip(*(numbers[name] for name in names)))
    varying = [column for column in columns if len(set(column)) > 1]
    if len(varying) < 2 or all(list(column) == sorted(column) for column in varying):
        return [names]
    parts: dict[Fraction, list[str]] = {}
    for name, number in zip(names, varying[0]):
        parts.setdefault(number, []).append(name)
    return list(parts.values())


def _colour_sequences(found: dict[str, list[str]]) -> dict[str, list[str]]:
    """Sequences that can be a video's colour pictures: not those of other kinds, nor unnumbered ones beside others."""
    found = {key: names for key, names in found.items() if not NOT_RGB.search(key.lower())}
    numbered = {key: names for key, names in found.items() if not key.startswith("*")}
    return numbered or found


def _several(folder: str, found: dict[str, list[str]]) -> VideoError:
    shown = [f"{shorten(min(names))} to {shorten(max(names))} ({len(names)})" for _, names in sorted(found.items())]
    more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return VideoError(
        folder,
        f"{len(found)} sequences of pictures, {', '.join(shown[:SHOWN])}{more}: choose one by data.frame_pattern, "
        "such as 'img_*.jpg'",
    )


def _in_order(folder: str, names: list[str]) -> list[str]:
    """Names in the order of the texts and numbers in them."""
    kind = _number_kind(names)
    parsed = {name: _parse(name, kind) for name in names}
    names = sorted(names, key=lambda name: list(zip(parsed[name][0], (*parsed[name][1], Fraction(0)))))
    for a, b in pairwise(names):
        if parsed[a] == parsed[b]:
            raise VideoError(folder, f"frames {shorten(a)} and {shorten(b)} have the same number")
    return names


def _number_kind(names: list[str]) -> re.Pattern[str]:
    """Pattern of the numbers in these names: with signs, if some names have a `-` before a number and some have none;
    integers, if `1.9` and `1.10` count on (shot 1, frames 9 and 10); else decimals."""
    stems = [os.path.splitext(name)[0] for name in names]
    sign = "-?" if len({bool(re.search(r"-\d", stem)) for stem in stems}) > 1 else ""
    pairs = [re.search(r"(\d+)\.(\d+)$", stem) for stem in stems]
    wholes, last = {pair[1] for pair in pairs if pair}, sorted(int(pair[2]) for pair in pairs if pair)
    counts = len(wholes) == 1 and last == list(range(last[0], last[0] + len(names)))
    return re.compile(sign + (INTEGER if counts else DECIMAL))


def _parse(name: str, kind: re.Pattern[str]) -> Name:
    stem = os.path.splitext(name)[0]
    return tuple(kind.split(stem)), tuple(map(Fraction, kind.findall(stem)))


def is_regular(path: str) -> bool:
    """Whether a file is there and is no folder, fifo or device, whose reading could take for ever."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def is_picture(path: str) -> bool:
    """Whether a file holds a JPEG or PNG picture, whatever its name says."""
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
    except OSError:
        return False


def read_image(path: str, *, owner: str = "") -> np.ndarray:
    """Pixels of an image file, uint8 RGB `[H, W, 3]`, turned upright; 16 bits per channel are scaled to 8.

    Raises:
        VideoError: of `owner` (the folder, else the file): no picture, too large, animated, or damaged.
    """
    name = f"frame {shorten(os.path.basename(path))} " if owner else ""
    try:
        if os.path.exists(path) and not is_regular(path):
            raise VideoError(owner or path, f"{name}is not a regular file")
        with Image.open(path, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise VideoError(
                    owner or path,
                    f"{name}has {image.width} x {image.height} pixels, more than {MAX_PIXELS} are not read",
                )
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: photographs of some cameras
                raise VideoError(owner or path, f"{name}is an animated {image.format}: convert it to a video first")
            return np.array(_eight_bits(ImageOps.exif_transpose(image)).convert("RGB"))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise VideoError(owner or path, f"{name}has too many pixels") from error
    except VideoError:
        raise
    except (OSError, ValueError, SyntaxError, MemoryError, OverflowError, EOFError, IndexError, KeyError) as error:
        raise VideoError(owner or path, f"{name}cannot be read" if name else "not a picture, or damaged") from error


@cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]  # AVIF is not in every Pillow


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pictures of 16 bits or of floats scaled to 8 bits, where Pillow would cut off all that is above 255.

    Raises:
        ValueError: numbers beyond 16 bits, or floats outside of 0 to 1.
    """
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image).astype(np.float64)
    largest = 1.0 if image.mode == "F" else 65535.0
    if not (values.min() >= 0 and values.max() <= largest):
        raise ValueError(f"values from {values.min()} to {values.max()}, expected 0 to {largest:g}")
    return Image.fromarray(np.rint(values * (255 / largest)).astype(np.uint8))
