"""Figures of segments in time against cases worked out by hand."""

import numpy as np
import pytest

from mdtnet.errors import DataError
from mdtnet.inference.localisation import IOUS, average_precision, frame_times_of, localisation, overlap, read_truth
from mdtnet.inference.timeline import Segment


def test_overlap():
    assert overlap(Segment(0, 4, "", 1), Segment(2, 6, "", 1)) == pytest.approx(1 / 3)
    assert overlap(Segment(0, 1, "", 1), Segment(2, 3, "", 1)) == 0


def test_average_precision_by_hand():
    """Best first: right, wrong (found already), right: precisions 1, 1/2, 2/3 of which the right ones count, over 3."""
    truth = {"a": [Segment(0, 4, "jump", 1), Segment(10, 14, "jump", 1)], "b": [Segment(0, 4, "jump", 1)]}
    found = {"a": [Segment(0, 4, "jump", 0.9), Segment(0, 3, "jump", 0.8), Segment(11, 15, "jump", 0.7)]}
    assert average_precision(found, truth, "jump", 0.5) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(found, truth, "jump", 0.7) == pytest.approx(1 / 3)  # 3/5 overlap is not enough
    assert average_precision(found, truth, "wave", 0.5) == 0


def test_precision_is_that_of_the_best_higher_recall():
    truth = {"a": [Segment(0, 1, "jump", 1), Segment(5, 6, "jump", 1)]}
    found = {"a": [Segment(3, 4, "jump", 0.9), Segment(0, 1, "jump", 0.8), Segment(5, 6, "jump", 0.7)]}
    assert average_precision(found, truth, "jump", 0.5) == pytest.approx(2 / 3)  # not (1/2 + 2/3) / 2


def test_frames_and_false_alarms():
    """120 s: 60 labelled. One segment is right by half; one of three alarms lies in labelled time for the most part."""
    truth = {"a": [Segment(0, 60, "jump", 1)]}
    alarms = [Segment(70, 80, "wave", 0.5), Segment(100, 110, "jump", 0.5), Segment(50, 64, "wave", 0.3)]
    found = {"a": [Segment(0, 50, "jump", 0.9), *alarms]}
    figures = localisation(found, truth, {"a": frame_times_of(1200, 120.0)})
    assert figures.quiet_minutes == pytest.approx(1.0)
    assert figures.false_alarms == pytest.approx(2.0)
    assert figures.frame_accuracy == pytest.approx((500 + 600 - 200 - 40) / 1200)
    assert figures.map == dict.fromkeys(IOUS, pytest.approx(1.0))


def test_truth_from_a_list(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "x.csv").write_text("path,label,start,end\na.mp4,jump,1,2\na.mp4,wave,3,\na.mp4,background,4,5\n")
    found = read_truth(str(tmp_path / "x.csv"), background="background")
    assert found == {str(tmp_path / "a.mp4"): [Segment(1, 2, "jump", 1), Segment(3, np.inf, "wave", 1)]}
    (tmp_path / "y.csv").write_text("path,label\na.mp4,jump\na.mp4,wave\n")
    with pytest.raises(DataError, match="has no start and end"):
        read_truth(str(tmp_path / "y.csv"))
