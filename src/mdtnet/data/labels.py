"""Labels as written in lists (`3`, `jump` or `jump|wave`) -> class names, and labels as numbers.

Letters: N videos, C classes.
"""

import bisect
import difflib
import re
from collections.abc import Sequence

import numpy as np

from mdtnet.errors import DataError, shorten

MAX_CLASSES = 100_000  # a larger label is a mistake, not a class
BETWEEN = "|"  # separates several labels of one row


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Videos per class, int64 `[C]`, from `VideoList.labels`."""
    return labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=num_classes)


def label_text(own: np.ndarray, classes: Sequence[str]) -> str:
    """Class name of a label (an integer), or class names of several (bool `[C]`) as in a list: `jump|wave`."""
    return BETWEEN.join(classes[label] for label in (np.flatnonzero(own).tolist() if own.ndim else [int(own)]))


def label_table(
    path: str, texts: list[str], rows: list[int], names: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Class names (`names` where given), and the label of each distinct text, int64 `[texts]`.

    `rows` are the rows of the list `path` where the texts first appear.

    Raises:
        DataError: a text that is no class or no number in range, names mixed with numbers, or a text of several labels.
    """
    for text, row in zip(texts, rows):
        if BETWEEN in text and text not in names:
            raise DataError(f"{path}: row {row}: '{shorten(text)}': several labels in one row need multi_label true")
    numbers = [re.fullmatch(r"-?\d+", text) is not None for text in texts]
    values = [_integer(text) if number else -1 for text, number in zip(texts, numbers)]
    if names:
        known = {name: i for i, name in enumerate(names)}
        table = [known.get(text, value) for text, value in zip(texts, values)]
        for text, row, number, label in zip(texts, rows, numbers, table):
            if not number and text not in known:
                hint = nearest_class(text, names)
                raise DataError(
                    f"{path}: row {row}: label '{shorten(text)}' is not one of the {len(names)} classes{hint}"
                )
            _check_range(path, row, text, label, len(names))
        return names, np.array(table)
    if not any(numbers):
        names = tuple(sorted(texts))
        return names, np.array([bisect.bisect_left(names, text) for text in texts])
    if not all(numbers):
        odd = numbers.index(False)
        raise DataError(f"{path}: row {rows[odd]}: label '{shorten(texts[odd])}' is a name, others are numbers")
    for row, text, label in zip(rows, texts, values):
        _check_range(path, row, text, label, MAX_CLASSES)
    return tuple(map(str, range(max(values) + 1))), np.array(values)


def label_sets(
    path: str, texts: list[str], rows: list[int], names: tuple[str, ...]
) -> tuple[tuple[str, ...], np.ndarray]:
    """As `label_table`, for texts such as `jump|wave`: class names, and the labels of each text, bool `[texts, C]`."""
    if odd := [name for name in names if BETWEEN in name]:
        raise DataError(f"class '{odd[0]}' has a '{BETWEEN}' in its name, which separates labels")
    parts = [[part for part in map(str.strip, text.split(BETWEEN)) if part] for text in texts]
    first_row: dict[str, int] = {}
    for row, own in zip(rows, parts):
        for part in own:
            first_row.setdefault(part, row)
    if not (names or first_row):
        raise DataError(f"{path}: no row has a label")
    names, labels = label_table(path, list(first_row), list(first_row.values()), names)
    label_of = dict(zip(first_row, labels.tolist()))
    sets = np.zeros((len(texts), len(names)), dtype=bool)
    for shown, own in zip(sets, parts):
        shown[[label_of[part] for part in own]] = True
    return names, sets


def _integer(text: str) -> int:
    """An integer; of one with very many digits only that it is large."""
    return int(text) if len(text) < 18 else 10**18


def _check_range(path: str, row: int, text: str, label: int, num_classes: int) -> None:
    if not 0 <= label < num_classes:
        raise DataError(
            f"{path}: row {row}: label {shorten(text)} is out of range, there are {num_classes} classes "
            f"(0 to {num_classes - 1})"
        )


def nearest_class(word: str, names: Sequence[str]) -> str:
    """The phrase `; did you mean 'x'?`, or nothing if no class is similar."""
    matches = difflib.get_close_matches(word, names, n=1, cutoff=0.5) if len(word) < 200 else []
    return f"; did you mean '{matches[0]}'?" if matches else ""
