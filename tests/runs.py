"""Runs that are stopped, and runs that must be equal."""

import csv
import signal
from pathlib import Path

import torch

from mdtnet.checkpoint import load_checkpoint
from mdtnet.training import recipe
from mdtnet.training import run as training


def assert_same_state(one: Path, other: Path) -> None:
    a, b = (load_checkpoint(out / "checkpoints" / "last.pt") for out in (one, other))
    assert a.training_state is not None
    assert b.training_state is not None
    for name, value in a.model_state.items():
        assert torch.equal(value, b.model_state[name]), name
    old, new = (c.training_state["optimizer"]["state"] for c in (a, b))
    for key, values in old.items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(new[key][name])), (key, name)
    assert torch.equal(a.training_state["rng"][0]["torch"], b.training_state["rng"][0]["torch"])
    assert log_rows(one) == log_rows(other)


def signal_at_step(monkeypatch, step: int, number: signal.Signals) -> None:
    rate = recipe.learning_rate

    def rate_and_signal(now, steps_per_epoch, config):
        if now == step:
            signal.raise_signal(number)
        return rate(now, steps_per_epoch, config)

    monkeypatch.setattr(training, "learning_rate", rate_and_signal)


def log_rows(out: Path) -> list[dict[str, str]]:
    with open(out / "log.csv", newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "clips_per_s", "waiting")}
            for row in csv.DictReader(file)
        ]
