"""Engines: rows of processes and of a Ray cluster equal those of this process; poison, lost nodes, resume."""

import json
from pathlib import Path

import pytest
import tiny
from clips import make_checkpoint
from poison import Poison

from mdtnet.cli.main import main
from mdtnet.errors import ConfigError
from mdtnet.work import engines, parts

ITEMS = {f"{i:02}": f"item {i}" for i in range(12)}


def test_processes_give_the_rows_of_this_one(tmp_path):
    rows = dict(engines.in_processes(Poison(), ITEMS, workers=2, timeout_seconds=60))
    assert rows == {name: Poison()((name, text)) for name, text in ITEMS.items()}


def test_an_item_that_kills_its_process_is_a_row(tmp_path):
    items = {"a": "x", "b": "kill", "c": "y"}
    rows = dict(engines.in_processes(Poison(), items, workers=1, timeout_seconds=60))
    assert rows["b"] == {"error": "the decoder's process was ended by SIGKILL"}
    assert rows["c"] == {"text": "Y", "error": ""}


@pytest.mark.slow
def test_a_cluster_gives_the_rows_of_this_process_and_poison_is_a_row(cluster):
    items = ITEMS | {"poison": "kill"}
    rows = dict(engines.on_ray(Poison(), items, workers=2))
    assert rows.pop("poison") == {"error": "ended its process, or its machine was lost, 2 times"}
    assert rows == {name: Poison()((name, text)) for name, text in ITEMS.items()}


@pytest.mark.slow
def test_what_a_node_does_not_see_is_one_line(cluster):
    with pytest.raises(ConfigError, match=r"^/none/a\.mp4: not seen by node .* mount it there"):
        next(engines.on_ray(Poison(), ITEMS, workers=1, places=("/none/a.mp4",)))


@pytest.mark.slow
def test_predictions_of_a_cluster_equal_those_of_processes_and_go_on(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos = tiny.write_videos(tmp_path / "videos", per_class=3)
    (videos / "left/bad.mp4").write_bytes(b"")
    checkpoint = make_checkpoint(tmp_path / "best.pt")
    words = ["predict", checkpoint.name, videos.name, "--device", "cpu", "--out"]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main([*words, str(tmp_path / "local"), "--workers", "1"]) == 1
    assert main([*words, str(tmp_path / "ray"), "--engine", "ray", "--workers", "2", "--shard", "1/2"]) in (0, 1)
    assert main([*words, str(tmp_path / "ray"), "--engine", "ray", "--workers", "2"]) == 1
    local, ray = (parts.merge(tmp_path / name) for name in ("local", "ray"))
    assert len(local) == 7
    for row in (*local, *ray):
        row.pop("seconds")
        row["path"] = str(Path(row["path"]).resolve())  # from the root on a cluster
    assert local == ray
    assert main([*words, str(tmp_path / "ray")]) == 1  # nothing is left to do but to try the bad one again
    assert json.loads((tmp_path / "ray/part-001-of-001.done").read_text()) == {"rows": 7}


@pytest.mark.slow
def test_a_lost_node_costs_its_running_items_alone(cluster):
    items = {f"{i:02}": "slow" for i in range(16)}
    rows = engines.on_ray(Poison(), items, workers=3)
    found = dict([next(rows)])
    victim = cluster.nodes.pop()
    cluster.remove_node(victim, allow_graceful=False)
    found |= dict(rows)
    assert found == {name: {"text": "SLOW", "error": ""} for name in items}
