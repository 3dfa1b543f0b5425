"""The folder of a run: one run at a time, resumed by its folder, and what killed writes leave."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from runs import assert_same_state

from mdtnet.cli.main import main
from mdtnet.config_file import save_yaml
from mdtnet.data import dataset as loading
from mdtnet.errors import ConfigError
from mdtnet.system.files import LEFTOVER
from mdtnet.system.processes import Interrupted
from mdtnet.training import run as training
from mdtnet.training.loop import train
from mdtnet.training.run_folder import claimed

HOLD = """
import sys, time
from pathlib import Path
from mdtnet.system.locks import locked
with locked(Path(sys.argv[1], ".lock"), what=""):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=5)


@pytest.fixture
def run(tmp_path, videos):
    config = tiny.config(tmp_path / "run", videos, epochs=1)
    train(config)
    return config


def longer(config, epochs: int = 2):
    return replace(config, train=replace(config.train, epochs=epochs))


def test_two_at_once_are_refused_and_a_killed_one_holds_nothing(run):
    other = subprocess.Popen([sys.executable, "-c", HOLD, run.out], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        for resume in (False, True):
            with pytest.raises(ConfigError, match=rf"another process is training there \(process {other.pid} on "):
                train(longer(run), resume=resume)
    finally:
        other.kill()
        other.wait()
    assert train(longer(run), resume=True).epochs == 2
    assert not Path(run.out, ".lock").exists()


def test_folders_without_out_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tiny.config(Path(), tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    found = []
    for _ in range(3):
        with claimed(replace(config, out=""), main=True) as out:
            found.append(out)
            Path(out, "config.yaml").touch()
    assert found == [f"runs/now_tsn_resnet18{end}" for end in ("", "-2", "-3")]
    with claimed(replace(config, out="runs/a/b"), main=True) as out:
        assert Path(out).is_dir()
    assert not Path("runs/a").exists()


def test_a_run_is_resumed_by_its_folder_with_data_that_have_moved(run, videos, tmp_path, capsys):
    train(longer(replace(run, out=str(tmp_path / "whole"))))
    moved = Path(run.out).rename(tmp_path / "moved")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(videos)
    options = ["--train.epochs", "2", "--data.train", str(elsewhere), "--data.val", str(elsewhere)]
    assert main(["train", "--resume", str(moved), *options]) == 0
    assert_same_state(tmp_path / "whole", moved)
    assert main(["data", "pack", str(videos), "--out", str(tmp_path / "packed"), "--per_tar", "3"]) == 0
    options = ["--train.epochs", "3"]
    for part in ("train", "val"):
        options += [f"--data.{part}", str(tmp_path / "packed" / "index.csv")]
    assert main(["train", "--resume", str(moved), *options]) == 0
    train(longer(replace(run, out=str(tmp_path / "whole")), epochs=3), resume=True)
    assert_same_state(tmp_path / "whole", moved)
    assert main(["train", "--resume", str(moved / "log.csv")]) == 4
    assert main(["train", "--resume", str(moved), "--out", "x"]) == 2
    assert "log.csv: cannot be resumed, expected the folder of a run" in capsys.readouterr().err


def test_other_videos_of_the_same_number_are_refused(run, tmp_path):
    other = tiny.write_videos(tmp_path / "other", per_class=5)
    (other / "left" / "00.mp4").rename(other / "left" / "77.mp4")
    data = replace(run.data, train=str(other), val=str(other))
    with pytest.raises(ConfigError, match="other training or validation videos"):
        train(longer(replace(run, data=data)), resume=True)


def test_what_killed_writes_left_goes(run):
    left = [Path(run.out, f".log.csv.0a{LEFTOVER}"), Path(run.out, "checkpoints", f".last.pt.0a{LEFTOVER}")]
    for path in left:
        path.write_bytes(b"half")
    train(longer(run), resume=True)
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_signal_ends_waiting_at_once_and_nothing_is_lost(tmp_path, videos, monkeypatch, where):
    whole = tiny.config(tmp_path / "whole", videos)
    train(whole)
    get, stuck = loading.ClipDataset.__getitem__, []

    def wait(self, i):
        if self.train == (where == "training") and int(self._epoch) == 0 and i == 7 and not stuck:
            stuck.append(i)
            signal.raise_signal(signal.SIGTERM)
            time.sleep(600)
        return get(self, i)

    halves = replace(whole, out=str(tmp_path / "halves"))
    with monkeypatch.context() as patch:
        patch.setattr(loading.ClipDataset, "__getitem__", wait)
        with pytest.raises(Interrupted) as stopped:
            train(halves)
    assert stopped.value.exit_code == 143
    assert train(halves, resume=True).epochs == 2
    assert_same_state(tmp_path / "whole", tmp_path / "halves")


STUCK = """
import sys, time
from mdtnet.cli.main import main
from mdtnet.data import dataset
dataset.ClipDataset.__getitem__ = lambda self, i: (print("stuck", flush=True), time.sleep(600))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("verb", ["train", pytest.param("test", marks=pytest.mark.slow)])
def test_sigterm_ends_a_command_whose_loader_is_stuck(run, tmp_path, verb):
    save_yaml(replace(run, out=str(tmp_path / "new"), data=replace(run.data, workers=2)), tmp_path / "a.yaml")
    words = {
        "train": ["train", "--config", str(tmp_path / "a.yaml")],
        "test": ["test", str(Path(run.out, training.LAST)), "--data", run.data.train, "--workers", "2"],
    }[verb]
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "stuck\n"
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - start < 15
    assert process.returncode == 143, said
    assert said.splitlines()[-1].startswith("mdtnet: stopped by SIGTERM")
