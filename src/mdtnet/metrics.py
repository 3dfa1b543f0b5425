"""Numbers from fused scores and true labels, and from nothing else.

Letters: N videos, C classes. A video that could not be read has a row of NaN: it is never right, and it is in
no column of the confusion matrix.

Labels are int64 `[N]`, or bool `[N, C]` where a video can have several: then mean average precision takes the place
of accuracies.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import numpy as np

Metric = Literal["top1", "top5", "mean_class", "map"]
TITLES: dict[Metric, str] = {"top1": "top-1", "top5": "top-5", "mean_class": "mean class accuracy", "map": "mAP"}
"""Names of the figures that sum up a test."""


class Accuracies(TypedDict, total=False):
    """The figures that sum up a test, 0 to 1, None without videos; `map` where videos can have several labels."""

    videos: int
    top1: float | None
    top5: float | None
    mean_class: float | None
    map: float | None


class ClassRow(TypedDict, total=False):
    """A class: its videos (`support`), and how well they are recognised, None without videos."""

    name: str
    support: int
    correct: int
    accuracy: float | None
    average_precision: float | None


class PairRow(TypedDict):
    """A pair of classes: the videos of both, and the share that is on the right side."""

    pair: list[str]
    support: int
    correct: int
    accuracy: float | None


class PairFigures(TypedDict):
    """Accuracy inside pairs of classes."""

    accuracy: float | None
    support: int
    pairs: list[PairRow]


class Mistake(TypedDict, total=False):
    """A wrong prediction: index of the video, class indices, and their probabilities."""

    index: int
    label: int
    predicted: int
    confidence: float
    label_confidence: float


class Figures(Accuracies, total=False):
    """Everything in `metrics.json`; `ece` is of the readable videos (`calibration_error`), one label each."""

    ece: float | None
    unreadable: int
    unreadable_count_as: Literal["wrong", "exclude"]
    unreadable_wrong: Accuracies
    unreadable_excluded: Accuracies
    per_class: list[ClassRow]
    confusion: list[list[int]]
    classes: list[str]
    protocol: dict[str, Any]
    versions: dict[str, str]
    hardware: str


def headline(figures: Accuracies) -> Literal["top1", "map"]:
    """The figure that stands for a whole test: `top1`, or `map` where videos can have several labels."""
    return "map" if "map" in figures else "top1"


def label_rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many classes come before the true one, int64 `[N]`; 0 is right, C is unreadable.

    Of equal scores the smaller class index comes first, as in `argmax`. Scores `[N, C]`, labels `[N]`.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)  # [N, 1]
    earlier = np.arange(scores.shape[1])[None, :] < labels[:, None]  # [N, C]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return np.where(readable(scores), rank, scores.shape[1])


def readable(scores: np.ndarray) -> np.ndarray:
    """Which rows are scores and not the NaN of an unreadable video, bool `[N]`."""
    return ~np.isnan(scores).any(axis=1)


def top_k(scores: np.ndarray, labels: np.ndarray, *, k: int) -> float:
    """Share of the videos with their true class among the min(k, C) best, 0 to 1; NaN for no videos."""
    k = min(k, scores.shape[1])
    return float((label_rank(scores, labels) < k).mean()) if len(labels) else float("nan")


def per_class(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[ClassRow]:
    """One row per class: `name`, `support` (videos), `correct`, `accuracy` (0 to 1, None without videos)."""
    right = label_rank(scores, labels) == 0
    support = np.bincount(labels, minlength=len(classes))
    correct = np.bincount(labels[right], minlength=len(classes))
    return [
        {"name": name, "support": int(n), "correct": int(c), "accuracy": float(c / n) if n else None}
        for name, n, c in zip(classes, support, correct)
    ]


def mean_class_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over the classes that have videos of the class's accuracy, 0 to 1; NaN without videos."""
    rows = per_class(scores, labels, [""] * scores.shape[1])
    found = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    return float(np.mean(found)) if found else float("nan")


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each class: precision among the videos with at least a score, averaged over the class's videos.

    Unreadable videos are never found. Scores `[N, C]`, labels bool `[N, C]`; float64 `[C]`, 0 to 1, NaN for a class
    without videos. The same as torchmetrics' `multilabel_average_precision` without thresholds.
    """
    ok = readable(scores)
    return np.array([_precision(s, y, n) for s, y, n in zip(scores[ok].T, labels[ok].T, labels.sum(axis=0))])


def _precision(scores: np.ndarray, shows: np.ndarray, support: int) -> float:
    if not support:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    last = np.diff(scores[order], append=-np.inf) != 0  # of those with equal scores, which are found together
    found, seen = shows[order].cumsum()[last], np.flatnonzero(last) + 1
    return float((np.diff(found, prepend=0) * found / seen).sum() / support)


def precision_per_class(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[ClassRow]:
    """One row per class: `name`, `support` (videos), `average_precision` (0 to 1, None without videos)."""
    values = average_precision(scores, labels).tolist()
    return [
        {"name": name, "support": int(n), "average_precision": value if n else None}
        for name, n, value in zip(classes, labels.sum(axis=0), values)
    ]


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean of `average_precision` over the classes that have videos; NaN without videos."""
    values = average_precision(scores, labels)
    found = values[~np.isnan(values)]
    return float(found.mean()) if len(found) else float("nan")


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Mean cross-entropy of the readable videos (binary ones: over videos and classes); None without any."""
    ok = readable(probabilities)
    p, own = probabilities[ok], labels[ok]
    right = np.where(own, p, 1 - p) if own.ndim == 2 else np.take_along_axis(p, own[:, None], axis=1)
    return float(-np.log(np.clip(right.ravel(), 1e-12, None)).mean()) if len(p) else None


BINS = 15


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """Expected calibration error, 0 to 1, of the readable videos; None without any.

    How far the probability of the best class is from how often it is right: the mean over 15 bins of equal width,
    weighted by the videos in them (Guo et al. 2017). Probabilities `[N, C]`, labels `[N]`.
    """
    ok = readable(probabilities)
    best, right = probabilities[ok].max(axis=1), probabilities[ok].argmax(axis=1) == labels[ok]
    if not len(best):
        return None
    place = np.minimum((best * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, best - right)).sum() / len(best))


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts int64 `[C, C]`, row true class, column predicted class; readable videos only."""
    ok, count = readable(scores), scores.shape[1]
    cells = labels[ok] * count + scores[ok].argmax(axis=1)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, *, count: int) -> list[Mistake]:
    """The wrong predictions with the highest probability, most confident first.

    Each is `index` (of the video), `label` and `predicted` (class indices), and the probabilities of these
    two, `label_confidence` and `confidence`. Where videos can have several labels, a mistake is the most probable
    class that a video does not show, at 1/2 or more, without the figures of a label.
    """
    if labels.ndim == 2:
        return _false_alarms(probabilities, labels, count)
    rank = label_rank(probabilities, labels)
    wrong = np.flatnonzero((rank > 0) & readable(probabilities))
    confidence = probabilities[wrong].max(axis=1)
    chosen = wrong[np.argsort(-confidence, kind="stable")[:count]]
    return [
        {
            "index": int(i),
            "label": int(labels[i]),
            "predicted": int(probabilities[i].argmax()),
            "confidence": float(probabilities[i].max()),
            "label_confidence": float(probabilities[i, labels[i]]),
        }
        for i in chosen
    ]


def _false_alarms(probabilities: np.ndarray, labels: np.ndarray, count: int) -> list[Mistake]:
    others = np.where(labels, -1.0, probabilities)  # [N, C]
    confidence = np.where(readable(probabilities), others.max(axis=1), -1.0)
    chosen = np.argsort(-confidence, kind="stable")[:count]
    return [
        {"index": int(i), "predicted": int(others[i].argmax()), "confidence": float(confidence[i])}
        for i in chosen
        if confidence[i] >= 0.5
    ]


def pair_accuracy(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> PairFigures:
    """Accuracy *inside* pairs of classes, as for actions that are each other's time reversal.

    Only videos of a pair's two classes count, and only these two classes' scores are compared: chance is 1/2.

    Returns:
        `accuracy` over all videos of all pairs, `support`, and `pairs`: one row per pair.

    Raises:
        ValueError: a pair names a class that is not there.
    """
    rows = [_one_pair(scores, labels, list(classes), pair) for pair in pairs]
    support, correct = sum(r["support"] for r in rows), sum(r["correct"] for r in rows)
    return {"accuracy": correct / support if support else None, "support": support, "pairs": rows}


def _one_pair(scores: np.ndarray, labels: np.ndarray, classes: list[str], pair: tuple[str, str]) -> PairRow:
    columns = np.array([classes.index(name) for name in pair])
    own = np.flatnonzero(np.isin(labels, columns))
    truth = (labels[own] == columns[1]).astype(np.int64)  # [n], 0 or 1
    correct = int((label_rank(scores[own][:, columns], truth) == 0).sum())
    accuracy = correct / len(own) if len(own) else None
    return {"pair": list(pair), "support": len(own), "correct": correct, "accuracy": accuracy}


def summary(
    scores: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    *,
    unreadable: Literal["wrong", "exclude"] = "wrong",
) -> Figures:
    """Every figure of a test as plain numbers, fit for JSON.

    `top1`, `top5` and `mean_class` treat unreadable videos as `unreadable` says; `unreadable_wrong` and
    `unreadable_excluded` hold the same figures both ways whatever was chosen, and over how many `videos`.
    Where videos can have several labels, there is `map` in place of these three, and no `confusion`.
    """
    several = labels.ndim == 2
    table = precision_per_class if several else per_class
    ok = readable(scores)
    both = {"wrong": _figures(scores, labels), "exclude": _figures(scores[ok], labels[ok])}
    keep = ok if unreadable == "exclude" else np.ones_like(ok)
    figures: Figures = {
        **both[unreadable],
        "videos": len(labels),
        "unreadable": int((~ok).sum()),
        "unreadable_count_as": unreadable,
        "unreadable_wrong": both["wrong"],
        "unreadable_excluded": both["exclude"],
        "per_class": table(scores[keep], labels[keep], classes),
    }
    if not several:
        figures["confusion"] = confusion_matrix(scores, labels).tolist()
    return figures


def _figures(scores: np.ndarray, labels: np.ndarray) -> Accuracies:
    def known(value: float) -> float | None:
        return None if np.isnan(value) else value

    if labels.ndim == 2:
        return {"videos": len(labels), "map": known(mean_average_precision(scores, labels))}
    return {
        "videos": len(labels),
        "top1": known(top_k(scores, labels, k=1)),
        "top5": known(top_k(scores, labels, k=5)),
        "mean_class": known(mean_class_accuracy(scores, labels)),
    }
