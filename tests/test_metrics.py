"""Metrics against plain loops and by hand."""

import json

import numpy as np
import pytest

from mdtnet import metrics

CLASSES = ["sit", "stand", "walk", "wave", "jump", "run"]


@pytest.fixture
def table() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(60, 6)).round(1)  # rounding makes ties
    labels = rng.integers(0, 5, size=60)  # class 5 has no videos
    scores[[7, 20]] = np.nan
    return scores, labels


def rank_by_loop(row: np.ndarray, label: int) -> int:
    order = sorted(range(len(row)), key=lambda c: (-row[c], c))
    return order.index(label)


def test_rank_equals_a_loop(table):
    scores, labels = table
    expected = [6 if np.isnan(s).any() else rank_by_loop(s, y) for s, y in zip(scores, labels)]
    assert metrics.label_rank(scores, labels).tolist() == expected


def test_top_k_counts_unreadable_as_wrong(table):
    scores, labels = table
    ranks = metrics.label_rank(scores, labels)
    for k in (1, 3, 5):
        assert metrics.top_k(scores, labels, k=k) == sum(r < k for r in ranks) / 60
    assert metrics.top_k(scores, labels, k=50) == 58 / 60


def test_top5_of_three_classes_is_one():
    assert metrics.top_k(np.eye(3), np.array([2, 0, 1]), k=5) == 1.0


def test_mean_class_accuracy_weighs_classes_equally():
    labels = np.array([0, 0, 0, 1])
    scores = np.eye(3)[[0, 0, 0, 0]]  # always class 0
    assert metrics.top_k(scores, labels, k=1) == 0.75
    assert metrics.mean_class_accuracy(scores, labels) == 0.5  # class 2 has no videos and does not count


def test_per_class_table_and_confusion_agree(table):
    scores, labels = table
    rows = metrics.per_class(scores, labels, CLASSES)
    matrix = metrics.confusion_matrix(scores, labels)
    assert [r["correct"] for r in rows] == matrix.diagonal().tolist()
    assert sum(r["support"] for r in rows) == 60
    assert matrix.sum() == 58  # the unreadable two are in no cell
    assert rows[5] == {"name": "run", "support": 0, "correct": 0, "accuracy": None}


def test_confusion_rows_are_the_truth():
    matrix = metrics.confusion_matrix(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([0, 0]))
    assert matrix.tolist() == [[1, 1], [0, 0]]


def test_confident_mistakes_are_sorted_and_readable():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.05, 0.95], [np.nan, np.nan], [0.3, 0.7]])
    found = metrics.confident_mistakes(probabilities, np.array([0, 1, 0, 0, 0]), count=2)
    assert [m["index"] for m in found] == [2, 4]
    assert found[0] == {
        "index": 2, "label": 0, "predicted": 1, "confidence": 0.95, "label_confidence": 0.05
    }  # fmt: skip


def test_pair_accuracy_compares_the_two_classes_only():
    scores = np.array([[0.2, 0.1, 9.0], [0.1, 0.2, 9.0], [0.3, 0.2, 0.0], [5.0, 0.0, 1.0]])
    labels = np.array([0, 1, 1, 2])  # `walk` wins the first two rows, which does not matter inside the pair
    result = metrics.pair_accuracy(scores, labels, CLASSES[:3], [("sit", "stand")])
    assert result["support"] == 3
    assert result["accuracy"] == pytest.approx(2 / 3)
    assert metrics.pair_accuracy(scores, labels, CLASSES[:3], [("stand", "sit")])["accuracy"] == result["accuracy"]


def test_pair_accuracy_of_two_pairs_and_of_unreadable():
    scores = np.array([[1.0, 0, 0, 0], [0, 0, 0, 1.0], [np.nan] * 4])
    result = metrics.pair_accuracy(scores, np.array([0, 2, 1]), CLASSES[:4], [("sit", "stand"), ("walk", "wave")])
    assert [p["accuracy"] for p in result["pairs"]] == [0.5, 0.0]
    assert result["accuracy"] == pytest.approx(1 / 3)


def test_summary_holds_both_figures_and_is_json(table):
    scores, labels = table
    wrong = metrics.summary(scores, labels, CLASSES, unreadable="wrong")
    excluded = metrics.summary(scores, labels, CLASSES, unreadable="exclude")
    assert wrong["unreadable"] == excluded["unreadable"] == 2
    assert wrong["top1"] == wrong["unreadable_wrong"]["top1"] < excluded["top1"]
    assert excluded["top1"] == wrong["unreadable_excluded"]["top1"]
    assert sum(r["support"] for r in excluded["per_class"]) == 58
    json.dumps(wrong, allow_nan=False)


def test_summary_of_nothing_readable_is_still_json():
    result = metrics.summary(np.full((2, 3), np.nan), np.array([0, 1]), CLASSES[:3])
    assert (result["top1"], result["unreadable_excluded"]["top1"]) == (0.0, None)
    json.dumps(result, allow_nan=False)
