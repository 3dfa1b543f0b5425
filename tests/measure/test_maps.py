"""The map bench: truth from the renderer, and figures that are right where they are known."""

import json
import math

import numpy as np
import pytest

from mdtnet.builtin.drawing import render
from mdtnet.builtin.render import RenderConfig, clip_scene
from mdtnet.cli import main as cli
from mdtnet.errors import ConfigError
from mdtnet.measure import maps as map_bench


def test_clip_without_its_figure_differs_where_the_figure_is_alone():
    config = RenderConfig(size=48, background="cluttered", difficulty=0.5)
    scene = clip_scene("jump", "train", 0, config)
    frames, empty = render(scene), render(scene, figure=False)
    differs = (frames != empty).any(-1)
    assert 0.005 < differs.mean() < 0.4
    assert not differs[:, :4, :4].any()


def test_area_under_roc_counts_pairs_and_half_of_ties():
    assert map_bench.area_under_roc(np.array([2.0, 3.0]), np.array([0.0, 1.0])) == 1
    assert map_bench.area_under_roc(np.array([0.0]), np.array([0.0, 1.0])) == 0.25
    values = np.random.default_rng(0).integers(0, 9, (2, 50)).astype(float)
    pairs = values[0][:, None] - values[1]
    assert map_bench.area_under_roc(*values) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())


def test_flicker_is_of_background_alone():
    figure = np.zeros((2, 3, 3), dtype=bool)
    figure[:, 0, 0] = True
    salience = np.zeros((2, 3, 3))
    salience[1, 0, 0] = 1.0
    auc, on, off, flicker = map_bench.judge(salience, figure)
    assert (auc, on, off, flicker) == (0.75, 0.5, 0.0, 0.0)
    salience[1] = 1.0
    assert map_bench.judge(salience, figure)[3] == 0.5
    assert math.isnan(map_bench.judge(salience, np.zeros_like(figure))[0])


def test_bench_of_maps_prints_and_writes_every_map(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(map_bench, "CONDITIONS", {"still": map_bench.CONDITIONS["still"]})
    monkeypatch.setattr(map_bench, "ACTIONS", {name: map_bench.ACTIONS[name] for name in ("push_box", "pull_box")})
    assert cli.main(["bench", "--maps", "--clips", "2", "--out", str(tmp_path)]) in (0, None)
    rows = json.loads((tmp_path / "maps.json").read_text())
    assert [row["map"] for row in rows] == list(map_bench.MAPS)
    assert "without scene" in capsys.readouterr().out
    assert all(0.5 < row["auc"] <= 1 and row["clips"] == 4 for row in rows)
    flicker = {row["map"]: row["flicker"] for row in rows}
    assert flicker["amplitude, clip statistics"] < flicker["amplitude, segment"]


def test_number_of_clips_is_checked():
    with pytest.raises(ConfigError, match="--clips is 0, expected at least 1"):
        map_bench.bench_maps(clips=0)
