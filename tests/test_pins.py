"""What our own networks and trainings compute stays what it was: numbers kept in `pins.json`, to 1e-5."""

import json

import pinned
import pytest
import tiny
import torch

PINS = json.loads(pinned.PINS.read_text(encoding="utf-8"))
TOLERANCE = 1e-5  # relative; of logits to the largest


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=2)


def test_every_case_has_its_numbers_and_every_option_its_value():
    assert list(PINS["logits"]) == list(pinned.CASES)
    assert list(PINS["losses"]) == list(pinned.TRAININGS)
    assert list(pinned.unwritten()) == []  # a default that is not written out may change


def test_every_switch_changes_what_is_computed():
    default = torch.tensor(PINS["logits"]["mdtnet2, resnet18"])
    for name in pinned.SWITCHES:
        other = torch.tensor(PINS["logits"][f"mdtnet2, {name}"])
        assert (other - default).abs().max() > 100 * TOLERANCE * default.abs().max(), name


@pytest.mark.parametrize("name", pinned.CASES)
def test_logits_are_what_they_were(name):
    logits = pinned.logits(name).tolist()
    assert logits == pytest.approx(PINS["logits"][name], rel=0, abs=TOLERANCE * max(map(abs, PINS["logits"][name])))


@pytest.mark.parametrize("name", pinned.TRAININGS)
def test_losses_of_three_steps_are_what_they_were(name, videos, tmp_path):
    losses = pinned.losses(name, videos=videos, out=tmp_path / "run")
    for key, values in PINS["losses"][name].items():
        assert losses[key] == pytest.approx(values, rel=TOLERANCE), key
