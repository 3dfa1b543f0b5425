"""Long videos: windows, scores over time, segments; equal to plain prediction of each window."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import CLASSES, FPS, frames_of_square, make_checkpoint, probabilities_of_part, write_video

from mdtnet.config import TimelineConfig
from mdtnet.data.annotation_tools import read_marks
from mdtnet.data.container import Part
from mdtnet.data.stream import Stream, frame_times, period_of
from mdtnet.errors import ConfigError, VideoError
from mdtnet.inference import timeline_files
from mdtnet.inference.localisation import read_truth
from mdtnet.inference.recogniser import Recogniser
from mdtnet.inference.timeline import PlainScorer, Segment, Timeline, make_timeline
from mdtnet.inference.windows import Windows, plan_windows


def recogniser(folder: Path, system: str) -> Recogniser:
    return Recogniser.load(make_checkpoint(folder / f"{system}.pt", system, seconds=2.0), device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """10.5 seconds: a square that moves, again and again, each time in another brightness."""
    parts = [frames_of_square(21) // (1 + i % 3) for i in range(6)]
    return write_video(tmp_path_factory.mktemp("long") / "long.mp4", np.concatenate(parts))


@pytest.mark.parametrize(
    ("system", "options", "shared"),
    [
        ("tsn", {}, "mean over"),
        ("tsm", {}, "frames"),
        ("mdtnet1", {}, "first temporal"),
        ("mdtnet2", {"length": 1.7, "stride": 0.45}, "frames"),
        ("tsn", {"length": 1.0, "stride": 3.0}, "mean over"),
    ],
)
def test_equals_plain_prediction_of_every_window(video, tmp_path, system, options, shared):
    model = recogniser(tmp_path, system)
    scorer = model.scorer()
    found = make_timeline(video, scorer, TimelineConfig(**options, batch_size=3))
    assert found.windows.spans[-1, 1] == pytest.approx(10.5, abs=0.01)  # the tail is seen
    expected = [probabilities_of_part(model, video, *span) for span in found.windows.spans]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    assert shared in found.shared
    distinct = np.unique(found.windows.tables.reshape(-1, model.model.frames_per_segment), axis=0)
    assert scorer.computed == (0 if system == "mdtnet2" else len(distinct))
    if not options:  # the default stride passes whole segments
        assert len(distinct) < 0.6 * found.windows.tables[..., 0].size


def test_at_another_frame_rate(video, tmp_path):
    model = recogniser(tmp_path, "tsn")
    model.config = replace(model.config, data=replace(model.config.data, fps=5.0))
    found = make_timeline(video, model.scorer(), TimelineConfig(length=2.0, stride=0.5))
    expected = [probabilities_of_part(model, video, *span) for span in found.windows.spans]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_one_decoding_pass_and_few_frames_at_a_time(video, tmp_path, monkeypatch):
    scorer = recogniser(tmp_path, "tsn").scorer()
    given, held = [], []
    iterate = Stream.__iter__
    monkeypatch.setattr(Stream, "__iter__", lambda self: (given.append(i) or (i, f) for i, f in iterate(self)))
    from mdtnet.inference import timeline

    add = timeline._Run.add
    monkeypatch.setattr(timeline._Run, "add", lambda run, *a: add(run, *a) or held.append(len(run._frames)))
    found = make_timeline(video, scorer)
    assert given == np.unique(found.windows.tables).tolist()
    assert max(held) <= np.ptp(found.windows.tables[0]) + 1


def test_a_video_shorter_than_a_window(tmp_path):
    path = write_video(tmp_path / "short.mp4", frames_of_square(9))
    found = make_timeline(path, recogniser(tmp_path, "tsn").scorer())
    assert found.windows.spans.tolist() == [[0, 9 / FPS]]
    assert found.probabilities.shape == (1, len(CLASSES))


def test_nothing_is_left_of_the_video_before(tmp_path):
    """Positions of frames are the same in both, the frames are not."""
    one = write_video(tmp_path / "one.mp4", frames_of_square(24))
    other = write_video(tmp_path / "other.mp4", 255 - frames_of_square(24))
    model = recogniser(tmp_path, "tsn")
    scorer = model.scorer()
    make_timeline(one, scorer)
    np.testing.assert_array_equal(make_timeline(other, scorer).probabilities, model.timeline(other).probabilities)


def test_wrong_times_are_noticed(video, tmp_path, monkeypatch):
    """Where packets promise other frames than decode, the windows are those of the decoded frames."""
    from mdtnet.inference import timeline

    scorer = recogniser(tmp_path, "tsn").scorer()
    expected = make_timeline(video, scorer)
    monkeypatch.setattr(timeline, "frame_times", lambda path: np.append(frame_times(path)[:-8] * 1.1, 20.0))
    found = make_timeline(video, scorer)
    np.testing.assert_array_equal(found.windows.tables, expected.windows.tables)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)


def test_times_out_of_order(shared, tmp_path):
    """A file with B-frames whose header denies them: frames come in an order that their times do not have."""
    path = next((shared / "data" / "ut_interaction").rglob("17_3_0.avi"))
    scorer = recogniser(tmp_path, "tsn").scorer()
    found = make_timeline(path, scorer)
    assert (np.diff(frame_times(str(path))) >= 0).all()
    assert found.num_frames == 121
    assert found.windows.duration == pytest.approx(122 / 30, abs=0.05)


def test_the_time_of_a_frame_where_no_two_are_alike():
    assert period_of(np.array([0, 0.1, 1.1])) == pytest.approx(0.1)
    assert period_of(np.array([0.0])) == 1 / 25


def test_mistakes(video, tmp_path):
    scorer = recogniser(tmp_path, "tsn").scorer()
    unknown = PlainScorer(lambda clips: clips, replace(scorer.description, clip_seconds=0.0))
    with pytest.raises(ConfigError, match="does not say how long its training clips are"):
        make_timeline(video, unknown)
    with pytest.raises(ConfigError, match=r"low is 0\.6 and high 0\.5"):
        make_timeline(video, scorer, TimelineConfig(low=0.6))
    with pytest.raises(ConfigError, match="stride is -1"):
        make_timeline(video, scorer, TimelineConfig(stride=-1))
    with pytest.raises(VideoError, match="no such file"):
        make_timeline(tmp_path / "none.mp4", scorer)
    with pytest.raises(VideoError, match="folder of frames, which have no times"):
        make_timeline(tmp_path, scorer)
    with pytest.raises(VideoError, match="expected a whole one"):
        make_timeline(Part(str(video), 1.0), scorer)
    with pytest.raises(VideoError, match="camera 0: has no end"):
        make_timeline(0, scorer)


def test_windows_of_rounded_times_have_as_many_frames(tmp_path):
    """Times in whole milliseconds, as Matroska has them."""
    description = recogniser(tmp_path, "tsn").scorer().description
    times = np.round(np.arange(900) / 29.97, 3)
    windows = plan_windows(times, description, length=2.0)
    counts = [np.searchsorted(times, end - 1e-6) - np.searchsorted(times, start - 1e-6) for start, end in windows.spans]
    assert set(counts[:-1]) == {counts[0]}
    assert windows.length == pytest.approx(2.0, abs=0.06)


def timeline_of(scores: list[list[float]], **options) -> Timeline:
    """One window per second, each as long as the stride, so that a cell has the score of its window."""
    starts = np.arange(len(scores), dtype=float)
    windows = Windows(np.stack((starts, starts + 1), 1), np.zeros((len(scores), 1, 1)), 1.0, 1.0, float(len(scores)))
    config = TimelineConfig(**{"min_length": 0.0, **options})
    return Timeline("x.mp4", ("jump", "background"), windows, np.array(scores), 25 * len(scores), config)


def test_hysteresis():
    jump = [0.1, 0.35, 0.6, 0.4, 0.2, 0.4, 0.4, 0.1, 0.9]
    found = timeline_of([[s, 1 - s] for s in jump]).segments
    assert found == [Segment(1, 4, "jump", pytest.approx(0.45)), Segment(8, 9, "jump", pytest.approx(0.9))]
    assert [s.end for s in timeline_of([[s, 1 - s] for s in jump], min_length=2.0).segments] == [4]
    assert timeline_of([[s, 1 - s] for s in jump], high=0.95, low=0.9).segments == []


def test_scores_between_windows():
    found = timeline_of([[0.0, 1.0], [1.0, 0.0]])
    assert found.at(np.array([0.5, 1.5, 9.0]))[:, 0].tolist() == [0, 1, 1]
    edges, scores = found.cells(1.5)
    assert edges.tolist() == [0, 1.5, 2]
    assert scores.shape == (2, 2)


def found_jumps() -> timeline_files.PlainTimeline:
    """Jumps from 1 to 4 and from 8 to 9 seconds of 9."""
    jump = [0.1, 0.35, 0.6, 0.4, 0.2, 0.2, 0.2, 0.1, 0.9]
    return timeline_files.to_dict(timeline_of([[s, 1 - s] for s in jump]))


def test_subtitles():
    assert timeline_files.srt_text(found_jumps()).splitlines()[4:] == [
        "2",
        "00:00:08,000 --> 00:00:09,000",
        "jump (90%)",
    ]
    assert timeline_files.vtt_text(found_jumps()).startswith("WEBVTT\n\n00:00:01.000 --> 00:00:04.000\njump (45%)\n")


def test_predictions_come_back_as_labels(tmp_path):
    """What Label Studio and ActivityNet get, accepted there as it is, is read as labels of the same time."""
    (task,) = json.loads(timeline_files.labelstudio_text([found_jumps()]))
    (tmp_path / "tasks.json").write_text(json.dumps([{"data": task["data"], "annotations": task["predictions"]}]))
    marks = read_marks("labelstudio", str(tmp_path / "tasks.json"))
    assert [(m.label, m.start / 25, m.end / 25) for m in marks] == [("jump", 1, 4), ("jump", 8, 9)]
    results = json.loads(timeline_files.activitynet_text([found_jumps()]))["results"]
    assert results == {
        "x": [
            {"label": "jump", "score": pytest.approx(0.45), "segment": [1, 4]},
            {"label": "jump", "score": pytest.approx(0.9), "segment": [8, 9]},
        ]
    }
    (tmp_path / "segments.csv").write_text(timeline_files.csv_text([found_jumps()]))
    (tmp_path / "x.mp4").touch()
    assert [(s.start, s.end) for s in read_truth(str(tmp_path / "segments.csv"))[str(tmp_path / "x.mp4")]] == [
        (1, 4),
        (8, 9),
    ]
