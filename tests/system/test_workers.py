"""Loader processes that are killed, stopped or stand still, and shared memory that is too small: one line, soon."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from torch.utils.data._utils import signal_handling

from mdtnet.config import DataConfig
from mdtnet.config_file import save_yaml
from mdtnet.data import dataset as loading
from mdtnet.data.annotations import load_videos
from mdtnet.errors import ConfigError, WorkerError
from mdtnet.system import workers
from mdtnet.system.workers import check_shared_memory, children

BYTES = 2 * 2 * 3 * 32 * 32  # of a batch of two clips of two frames


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=6)


def make_loader(videos: Path, *, count: int = 2):
    data = DataConfig(num_segments=2, size=32, short_side=32)
    dataset = loading.ClipDataset(load_videos(str(videos)), data, frames_per_segment=1, train=True)
    return loading.make_loader(dataset, batch_size=2, shuffle=False, seed=0, workers=count)


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGKILL, r"process \d+ was ended by SIGKILL: memory"), (signal.SIGSTOP, r"process \d+ was stopped")],
)
def test_a_killed_or_stopped_process_is_one_line(videos, monkeypatch, number, words):
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.1)
    loader = make_loader(videos)
    batches = iter(loader)
    next(batches)
    for process in children():
        os.kill(process.pid, number)
    start = time.monotonic()
    with pytest.raises(WorkerError, match=words):
        list(batches)
    assert time.monotonic() - start < 20
    assert children() == set()


def test_processes_that_stand_still_are_one_line(videos, monkeypatch):
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(workers, "STILL_POLLS", 5)
    monkeypatch.setattr(loading.ClipDataset, "__getitem__", lambda *_: time.sleep(600))
    with pytest.raises(WorkerError, match="2 processes have stood still for"):
        list(make_loader(videos))
    assert children() == set()


def test_processes_live_on_between_epochs_and_end_with_an_error(videos):
    loader = make_loader(videos)
    assert len(list(loader)) == len(list(loader)) == 6
    assert len(children()) == 2
    batches = iter(loader)
    next(batches)
    batches.close()
    assert children() == set()
    assert len(list(loader)) == 6  # and start again
    loader.close()


def test_other_signals_of_children_are_left_as_they_were(videos):
    seen = []
    before = signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
    try:
        loader = make_loader(videos)
        list(loader)
        loader.close()
        assert seen == []
        subprocess.run(["true"], check=True)
        assert seen
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_processes_that_are_ended_are_forgotten(videos):
    """PyTorch keeps them by the id of an iterator: left there, another iterator of that id could not begin."""
    loader = make_loader(videos)
    batches = iter(loader)
    next(batches)
    number = id(loader._batches_of_workers)
    loader.close()
    signal_handling._set_worker_pids(number, ())  # a ValueError where there are some already
    signal_handling._remove_worker_pids(number)


def statvfs(free: int):
    return lambda _: SimpleNamespace(f_bavail=free, f_frsize=1)


def test_the_need_of_shared_memory_is_computed(videos, monkeypatch):
    need = 5 * BYTES + loading._plan_bytes(12)
    monkeypatch.setattr(workers.os, "statvfs", statvfs(need))
    make_loader(videos)  # two processes, two batches ahead, one in hand
    monkeypatch.setattr(workers.os, "statvfs", statvfs(need - 1))
    with pytest.raises(ConfigError, match=r"/dev/shm has 1 MB, 2 workers need 2 MB: .*--shm-size=3m"):
        make_loader(videos)
    make_loader(videos, count=0)
    monkeypatch.setattr(workers.os, "statvfs", statvfs(64 * 2**20))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="/dev/shm has 64 MB, 2 workers need 200 MB"):
        check_shared_memory(100 * 2**20, workers=2)


def in_small_shared_memory(size: str, *command: str) -> subprocess.CompletedProcess:
    """A command in a mount namespace of its own, whose /dev/shm is small."""
    inside = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    start = ["unshare", "-m", *([] if os.geteuid() == 0 else ["-r"]), "sh", "-c", inside, "sh"]
    try:
        subprocess.run([*start, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no mount namespace of one's own here")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(loading.__file__).parents[2])}
    return subprocess.run([*start, *command], capture_output=True, text=True, env=environment, timeout=120)


def test_small_shared_memory_refuses_before_anything_is_written(videos, tmp_path):
    config = tiny.config(tmp_path / "run", videos, data={"workers": 2})
    save_yaml(config, tmp_path / "run.yaml")
    done = in_small_shared_memory(
        "64k", sys.executable, "-m", "mdtnet", "train", "--config", str(tmp_path / "run.yaml")
    )
    assert done.returncode == 2, done.stderr
    assert "/dev/shm has 0 MB, 2 workers need 2 MB: take fewer workers" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


FILLED = """
import sys
from pathlib import Path
import torch
from torch.utils.data._utils import signal_handling
sys.path += sys.argv[2:]
import test_workers
loader = test_workers.make_loader(Path(sys.argv[1]))
Path("/dev/shm/other").write_bytes(b"0" * 2**20)
try:
    list(loader)
except test_workers.WorkerError as error:
    sys.exit(str(error))
"""


def test_shared_memory_that_others_fill_is_one_line(videos):
    done = in_small_shared_memory(
        "1040k", sys.executable, "-c", FILLED, str(videos), str(Path(__file__).parent), str(Path(tiny.__file__).parent)
    )
    assert done.returncode == 1
    assert "/dev/shm" in done.stderr.splitlines()[-1], done.stderr


def test_loader_processes_end_without_the_error_that_another_loader_makes_of_it(videos):
    def raising(*_) -> None:
        raise RuntimeError("a child died")  # as the handler of PyTorch's own loaders does

    before = signal.signal(signal.SIGCHLD, raising)
    try:
        loader = make_loader(videos, count=1)
        list(loader)
        loading._end(loader._processes)
        assert signal.getsignal(signal.SIGCHLD) is raising
    finally:
        signal.signal(signal.SIGCHLD, before)
    loader.close()
