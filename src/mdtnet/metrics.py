"""Numbers from fused scores and true labels, and from nothing else.

Letters: N videos, C classes. A video that could not be read has a row of NaN: it is never right, and it is in
no column of the confusion matrix.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np


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
    """Share of the videos whose true class is among the min(k, C) best, 0 to 1; NaN for no videos."""
    k = min(k, scores.shape[1])
    return float((label_rank(scores, labels) < k).mean()) if len(labels) else float("nan")


def per_class(scores: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class: `name`, `support` (videos), `correct`, `accuracy` (0 to 1, None without videos)."""
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


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts int64 `[C, C]`, row true class, column predicted class; readable videos only."""
    ok, count = readable(scores), scores.shape[1]
    cells = labels[ok] * count + scores[ok].argmax(axis=1)
    return np.bincount(cells, minlength=count * count).reshape(count, count)


def confident_mistakes(probabilities: np.ndarray, labels: np.ndarray, *, count: int) -> list[dict[str, Any]]:
    """The wrong predictions with the highest probability, most confident first.

    Each is `index` (of the video), `label` and `predicted` (class indices), and the probabilities of these
    two, `label_confidence` and `confidence`.
    """
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


def pair_accuracy(
    scores: np.ndarray, labels: np.ndarray, classes: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Accuracy *inside* pairs of classes, as for actions that are each other's time reversal.

    Only videos of a pair's two classes count, and only these two classes' scores are compared: chance is 1/2.

    Returns:
        `accuracy` over all videos of all pairs, `support`, and `pairs`: one row a pair.

    Raises:
        ValueError: a pair names a class that is not there.
    """
    rows = [_one_pair(scores, labels, list(classes), pair) for pair in pairs]
    support, correct = sum(r["support"] for r in rows), sum(r["correct"] for r in rows)
    return {"accuracy": correct / support if support else None, "support": support, "pairs": rows}


def _one_pair(scores: np.ndarray, labels: np.ndarray, classes: list[str], pair: tuple[str, str]) -> dict[str, Any]:
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
) -> dict[str, Any]:
    """Every figure of a test as plain numbers, fit for JSON.

    `top1`, `top5` and `mean_class` treat unreadable videos as `unreadable` says; `unreadable_wrong` and
    `unreadable_excluded` hold the same figures both ways whatever was chosen, and over how many `videos`.
    """
    ok = readable(scores)
    both = {"wrong": _figures(scores, labels), "exclude": _figures(scores[ok], labels[ok])}
    keep = ok if unreadable == "exclude" else np.ones_like(ok)
    return {
        **both[unreadable],
        "videos": len(labels),
        "unreadable": int((~ok).sum()),
        "unreadable_count_as": unreadable,
        "unreadable_wrong": both["wrong"],
        "unreadable_excluded": both["exclude"],
        "per_class": per_class(scores[keep], labels[keep], classes),
        "confusion": confusion_matrix(scores, labels).tolist(),
    }


def _figures(scores: np.ndarray, labels: np.ndarray) -> dict[str, float | int | None]:
    values = {
        "top1": top_k(scores, labels, k=1),
        "top5": top_k(scores, labels, k=5),
        "mean_class": mean_class_accuracy(scores, labels),
    }
    return {"videos": len(labels), **{name: None if np.isnan(value) else value for name, value in values.items()}}
