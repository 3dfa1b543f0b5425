"""Index tables: the official rules, METHOD section 1, and what must hold for every number of frames."""

import json

import numpy as np
import pytest

from mdtnet.data import segments

LENGTHS = (1, 2, 3, 4, 5, 7, 8, 12, 31, 64, 250, 100_000)


def _golden(shared, name: str) -> dict[int, list]:
    table = json.loads((shared / "golden" / "sampling.json").read_text())[name]
    return {int(n): rows for n, rows in table.items()}


@pytest.mark.parametrize("t", [8, 16])
def test_official_tsm_rules(shared, t):
    for n, rows in _golden(shared, f"tsm_uniform_T{t}").items():
        assert segments.spread_indices(n, num_segments=t, frames_per_segment=1)[:, 0].tolist() == rows, n
    for n, rows in _golden(shared, f"tsm_twice_T{t}").items():
        clips = [segments.tsm_twice_indices(n, num_segments=t, clip=c) for c in range(2)]
        assert np.concatenate(clips)[:, 0].tolist() == rows, n
    for n, rows in _golden(shared, f"tsm_dense10_T{t}").items():
        clips = [segments.dense_indices(n, num_segments=t, clip=c) for c in range(10)]
        assert np.concatenate(clips)[:, 0].tolist() == rows, n


@pytest.mark.parametrize("t", [8, 16])
def test_official_tdn_rule(shared, t):
    for n, rows in _golden(shared, f"tdn_segments_T{t}_K5").items():
        assert segments.tdn_indices(n, num_segments=t).tolist() == rows, n


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("t", [1, 3, 8])
@pytest.mark.parametrize("k", [1, 5])
def test_centred_rule_is_the_written_one(n, t, k):
    tick = max(n - k + 1, 1) / t
    starts = [int(tick / 2 + tick * i + 1e-9) for i in range(t)]
    expected = [[min(start + j, n - 1) for j in range(k)] for start in starts]
    assert segments.spread_indices(n, num_segments=t, frames_per_segment=k).tolist() == expected


@pytest.mark.parametrize("sampling", ["consecutive", "random"])
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("k", [1, 5])
def test_every_table_is_in_range_and_in_order(n, k, sampling):
    shape = {"num_segments": 8, "frames_per_segment": k, "sampling": sampling}
    tables = [segments.spread_indices(n, clip=c, num_clips=10, **shape) for c in range(10)]
    tables += [segments.train_indices(n, np.random.default_rng(s), frame_stride=2, **shape) for s in range(10)]
    tables += [segments.dense_indices(n, num_segments=8, frames_per_segment=k, clip=c) for c in range(10)]
    for table in tables:
        assert table.shape == (8, k)
        assert table.dtype == np.int64
        assert table.min() >= 0
        assert table.max() < n
        assert (np.diff(table, axis=1) >= 0).all()


def test_training_covers_each_segment_and_nothing_else():
    rng = np.random.default_rng(0)
    draw = {"num_segments": 4, "frames_per_segment": 5}
    firsts = np.stack([segments.train_indices(44, rng, **draw)[:, 0] for _ in range(400)])  # 40 starts
    for t in range(4):
        assert set(firsts[:, t]) == set(range(10 * t, 10 * t + 10))


def test_random_sampling_takes_different_frames_of_the_segment():
    rng = np.random.default_rng(0)
    table = segments.train_indices(80, rng, num_segments=8, frames_per_segment=5, sampling="random")
    for t, row in enumerate(table):
        assert len(set(row)) == 5
        assert 10 * t <= row.min() <= row.max() < 10 * (t + 1)
    even = segments.spread_indices(80, num_segments=8, frames_per_segment=5, sampling="random")
    assert (np.diff(even.reshape(-1)) == 2).all()


def test_short_clips_repeat_the_last_frame():
    table = segments.spread_indices(3, num_segments=2, frames_per_segment=5)
    assert table.tolist() == [[0, 1, 2, 2, 2], [0, 1, 2, 2, 2]]


def test_same_generator_same_indices():
    draws = [
        segments.train_indices(100, np.random.default_rng(7), num_segments=8, frames_per_segment=5) for _ in range(2)
    ]
    assert (draws[0] == draws[1]).all()


@pytest.mark.parametrize("sampling", ["consecutive", "random"])
@pytest.mark.parametrize(("t", "k"), [(8, 1), (8, 5), (16, 5)])
def test_ten_clips_are_ten_different_clips(t, k, sampling):
    for n in range(2 * t + k if sampling == "consecutive" else t * k + t, 400):
        shape = {"num_segments": t, "frames_per_segment": k, "sampling": sampling}
        clips = {segments.spread_indices(n, clip=c, num_clips=10, **shape).tobytes() for c in range(10)}
        assert len(clips) == 10, n
