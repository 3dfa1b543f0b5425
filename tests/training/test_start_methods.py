"""Loader processes compute the same however they are started: forked (Linux), spawned (macOS, Windows), or served."""

import multiprocessing
from collections.abc import Iterator

import pytest
from runs import log_rows
from tiny import config, write_videos

from mdtnet.training.loop import train

METHODS = multiprocessing.get_all_start_methods()


@pytest.fixture
def method(request: pytest.FixtureRequest) -> Iterator[str]:
    """Start processes this way while the test lasts."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return write_videos(tmp_path_factory.mktemp("videos"), per_class=3)


@pytest.fixture(scope="module")
def losses(videos, tmp_path_factory) -> list[dict[str, str]]:
    """The log of a run without loader processes."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(config(out, videos, epochs=1))
    return log_rows(out)


@pytest.mark.parametrize("method", METHODS, indirect=True)
def test_losses_do_not_depend_on_how_processes_start(method, videos, losses, tmp_path):
    assert multiprocessing.get_start_method() == method
    train(config(tmp_path / "run", videos, epochs=1, data={"workers": 1}))
    assert log_rows(tmp_path / "run") == losses
    assert float(losses[-1]["train_loss"]) > 0
