"""The recipe's pieces: schedule, groups, batch norms, order of clips, average, random states."""

import itertools
import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from mdtnet.config import SYSTEMS, ModelConfig, TrainConfig
from mdtnet.models.build import build_model
from mdtnet.training import recipe


def rates(config: TrainConfig, steps_per_epoch: int = 4) -> list[float]:
    return [recipe.learning_rate(s, steps_per_epoch, config) for s in range(config.epochs * steps_per_epoch)]


def test_the_papers_schedule():
    config = TrainConfig()
    found = [recipe.learning_rate(e * 10, 10, config) for e in (0, 29, 30, 39, 40, 49, 50, 69)]
    assert found == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_learning_rate_is_linear_in_the_batch():
    assert recipe.learning_rate(0, 10, TrainConfig(batch_size=16)) == pytest.approx(0.01 / 4)


def test_warmup_then_cosine_to_zero():
    found = rates(TrainConfig(epochs=6, schedule="cosine", warmup_epochs=2))
    assert found[:8] == pytest.approx([0.01 * (i + 1) / 9 for i in range(8)])
    assert found[8] == pytest.approx(0.01)
    assert found[16] == pytest.approx(0.005)
    assert all(a > b for a, b in itertools.pairwise(found[8:]))
    assert 0 < found[-1] < 0.01 * math.pi / 16


def test_warmup_multiplies_steps():
    found = rates(TrainConfig(epochs=3, steps=(1,), warmup_epochs=0.5))
    assert found[:4] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01])
    assert found[4:] == pytest.approx([1e-3] * 8)


@pytest.fixture(scope="module")
def mdtnet1():
    return build_model(ModelConfig(name="mdtnet1", trunk="resnet18", width=0.125), num_classes=3)


def test_groups_hold_every_trained_parameter_once(mdtnet1):
    config = TrainConfig(classifier_lr=5, temporal_lr=2, offset_lr=0.5, weight_decay=0.01)
    groups = {g["name"]: g for g in recipe.parameter_groups(mdtnet1, config)}
    rates = {"trunk": 1, "copies": 1, "classifier": 5, "temporal": 2, "offsets": 1}
    assert {name: g["lr_scale"] for name, g in groups.items()} == {
        f"{name}{norms}": rate for name, rate in rates.items() for norms in ("", " norms")
    }
    ids = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in mdtnet1.parameters())
    plain = build_model(ModelConfig(name="tsn", trunk="resnet18", width=0.125), num_classes=3)
    count = len(list(plain.trunk.parameters()))  # what the same trunk has without MDT-Net
    assert len(groups["trunk"]["params"]) + len(groups["trunk norms"]["params"]) == count
    assert [len(groups[name]["params"]) for name in ("classifier", "classifier norms")] == [1, 1]


@pytest.mark.parametrize("system", SYSTEMS)
def test_batch_norms_and_biases_are_not_decayed(system):
    model = build_model(ModelConfig(name=system, trunk="resnet18", width=0.125), num_classes=3)
    of_norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    decayed = {}
    for all_of_them in (False, True):
        config = TrainConfig(weight_decay=0.01, decay_norms=all_of_them)
        optimizer = recipe.make_optimizer(model, config)
        decayed[all_of_them] = {id(p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    assert decayed[False] == {id(p) for p in model.parameters()} - of_norms - biases
    assert decayed[True] == {id(p) for p in model.parameters()}


def test_frozen_trunk_is_in_no_group_and_keeps_its_statistics():
    config = ModelConfig(name="mdtnet1", trunk="resnet18", width=0.125, freeze="trunk")
    model = build_model(config, num_classes=3)
    groups = {g["name"].removesuffix(" norms") for g in recipe.parameter_groups(model, TrainConfig())}
    assert groups == {"copies", "classifier", "temporal", "offsets"}
    recipe.set_train_mode(model)
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    model(torch.randint(0, 256, (2, 2, 5, 3, 32, 32), dtype=torch.uint8))
    changed = {k for k, v in model.state_dict().items() if k in before and not torch.equal(v, before[k])}
    assert changed  # the temporal modules' own
    assert all(".temporal." in name or not name.startswith("trunk.") for name in changed)


def test_partial_bn_leaves_the_first_of_the_trunk(mdtnet1):
    model = build_model(ModelConfig(name="mdtnet1", trunk="resnet18", width=0.125), num_classes=3)
    recipe.freeze_partial_bn(model)
    recipe.set_train_mode(model)
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    own = [n for n in norms if n.startswith("trunk.") and ".temporal." not in n]
    assert [n for n in own if norms[n].training] == ["trunk.bn1"]
    assert all(m.training for n, m in norms.items() if n not in own)


def test_moving_average_of_parameters_and_buffers():
    model, average = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.running_mean.fill_(1.0)
        model.num_batches_tracked.fill_(7)
    recipe.update_average(average, model, decay=0.9, step=1000)
    assert average.weight.tolist() == pytest.approx([1.2, 1.2])
    assert average.running_mean.tolist() == pytest.approx([0.1, 0.1])
    assert average.num_batches_tracked == 7
    recipe.update_average(average, model, decay=0.9, step=0)  # the start counts for little
    assert average.weight.tolist() == pytest.approx([1.2 + 0.9 * 1.8] * 2)


def test_random_state_round_trip_through_a_safe_file(tmp_path):
    torch.save(recipe.rng_state(), tmp_path / "rng.pt")
    first = (random.random(), np.random.rand(), torch.rand(2).tolist())  # noqa: NPY002
    recipe.set_rng_state(torch.load(tmp_path / "rng.pt", weights_only=True))
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == first  # noqa: NPY002
