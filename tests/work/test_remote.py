"""Runs of a study as processes of a Ray cluster: the rows of this machine's, also where a node is lost."""

import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mdtnet.cli.main import main
from mdtnet.errors import ConfigError
from mdtnet.study.results import RESULTS, read_rows
from mdtnet.work.remote import LOST, launch_here, launch_on_ray

STUDY = {
    "run": {
        "data": {"num_segments": 2, "size": 32, "short_side": 32, "frame_stride": 2},
        "model": {"trunk": "resnet18", "width": 0.125},
        "train": {"epochs": 2, "batch_size": 4, "device": "cpu"},
    },
    "systems": ["tsn", "tsm"],
    "data": {"tiny": {"render": {"train_clips": 2, "val_clips": 1, "size": 32, "fps": 10}}},
    "seeds": [0],
}


def study(folder: Path, **recipe) -> list[str]:
    content = STUDY | {"out": str(folder), "run": {**STUDY["run"], "train": {**STUDY["run"]["train"], **recipe}}}
    folder.mkdir()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return ["study", str(folder / "tiny.yaml"), "--no_latency"]


def rows_of(folder: Path) -> list:
    rows = read_rows(folder / RESULTS)
    return sorted((replace(row, seconds=0.0, date="") for row in rows), key=lambda row: row.system)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
def test_a_process_of_this_machine(tmp_path):
    with open(tmp_path / "log", "ab") as output:
        process = launch_here(os.environ)(["--version"], output)
        assert process.wait() == 0
    assert (tmp_path / "log").read_text().startswith("mdtnet ")


@pytest.mark.slow
def test_a_process_of_a_cluster(cluster, tmp_path):
    launch = launch_on_ray({"OMP_NUM_THREADS": "1"})
    with open(tmp_path / "log", "ab") as output:
        one, other = launch(["models"], output), launch(["--nonsense"], output)
        assert (one.wait(), other.wait()) == (0, 2)
        waiting = launch(["demo", "--out", str(tmp_path / "demo")], output)
    time.sleep(3)
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait() == 128 + signal.SIGTERM
    with pytest.raises(ConfigError, match=r"^/none: not seen by node"):
        launch_on_ray({}, places=["/none"])
    assert LOST not in (one.poll(), other.poll())


@pytest.mark.slow
def test_a_study_on_a_cluster_gives_the_rows_of_this_machine(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(study(tmp_path / "local")) == 0
    assert main([*study(tmp_path / "ray"), "--engine", "ray", "--jobs", "2"]) == 0
    assert len(rows_of(tmp_path / "ray")) == 2
    assert rows_of(tmp_path / "ray") == rows_of(tmp_path / "local")


@pytest.mark.slow
def test_runs_of_a_lost_node_go_on_elsewhere(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def lose() -> None:
        logs, end = tmp_path / "ray" / "runs", time.monotonic() + 120
        while time.monotonic() < end and len([p for p in logs.rglob("log.csv") if "\n2," in p.read_text()]) < 2:
            time.sleep(0.1)
        cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)

    thread = threading.Thread(target=lose)
    thread.start()
    code = main([*study(tmp_path / "ray", epochs=40), "--engine", "ray", "--jobs", "3"])
    thread.join()
    assert code == 0
    assert [row.epochs for row in rows_of(tmp_path / "ray")] == [40, 40]
