"""Files of earlier versions mean what they meant: checkpoints and runs' YAML, by the config's version.

`old_configs` holds what the first version (commit 55f73da) wrote, as text: per system the config of a run, and the rest
of a checkpoint with shapes in the place of weights, which the rule of the golden data makes.
"""

import copy
import json
import re
import sys
from pathlib import Path

import pinned
import pytest
import torch
import yaml

import mdtnet
from mdtnet.checkpoint import save_checkpoint
from mdtnet.config_file import flat, load_yaml, save_yaml, to_dict, upgraded
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.pages.report import read_run
from mdtnet.study.grid import load_study

OLD = Path(__file__).with_name("old_configs")
PINS = json.loads(pinned.PINS.read_text(encoding="utf-8"))["logits"]
TABLES = sys.modules[upgraded.__module__]


def config(system):
    return yaml.safe_load((OLD / f"{system}.yaml").read_text(encoding="utf-8"))


def checkpoint(path, system, values, **more):
    content = json.loads((OLD / f"{system}.json").read_text(encoding="utf-8"))
    torch.save(content | {"config": values, "model": pinned.rule_state(content["model"])} | more, path)
    return path


def assert_computes(model, name):
    with torch.no_grad():
        logits = model(pinned.clips(int(model.frames_per_segment)))[0].tolist()
    assert logits == pytest.approx(PINS[name], rel=0, abs=1e-5 * max(map(abs, PINS[name])))


def with_first_readings(system):
    """The first version's config, with the values that options which came later had then."""
    return copy.deepcopy(REAL_UPGRADE[system])


REAL_UPGRADE = {system: upgraded(config(system), 1, where=system) for system in pinned.SYSTEMS}


@pytest.fixture
def second_version(monkeypatch):
    """A version in which `past_only` became `causal`, and `floor` is new or has a new default, and was 0.2 before."""
    monkeypatch.setattr(TABLES, "CONFIG_VERSION", 2)
    monkeypatch.setattr(TABLES, "RENAMED", {2: {"model.mdtnet.past_only": "model.mdtnet.causal"}})
    monkeypatch.setattr(TABLES, "LACKED", {2: {"model.saliency.floor": 0.2}})


@pytest.mark.parametrize("system", pinned.SYSTEMS)
def test_a_checkpoint_of_the_first_version_computes_what_it_did(system, tmp_path):
    model = mdtnet.load_model(checkpoint(tmp_path / "old.pt", system, config(system)))
    assert model.classes == ("bow", "clap", "jump", "sit", "wave")
    assert model.config.model == pinned.model_config({"name": system})
    assert model.config.train.steps == (30, 40, 50)
    assert_computes(model, f"{system}, resnet18")


def test_a_renamed_option_of_an_older_checkpoint_keeps_its_value(second_version, tmp_path):
    values = with_first_readings("mdtnet2")
    values["model"]["mdtnet"]["past_only"] = not values["model"]["mdtnet"].pop("causal")
    model = mdtnet.load_model(checkpoint(tmp_path / "old.pt", "mdtnet2", values))
    assert_computes(model, "mdtnet2, causal")


def test_an_option_that_an_older_checkpoint_lacks_takes_the_old_value(second_version, tmp_path):
    values = config("mdtnet2")
    del values["model"]["saliency"]["floor"]
    old = mdtnet.load_model(checkpoint(tmp_path / "old.pt", "mdtnet2", values)).config.model.saliency
    new = mdtnet.load_model(checkpoint(tmp_path / "new.pt", "mdtnet2", values, config_version=2)).config.model.saliency
    assert (old.floor, new.floor) == (0.2, type(new)().floor)


def test_an_option_that_an_older_checkpoint_has_is_left_alone(second_version, tmp_path):
    model = mdtnet.load_model(checkpoint(tmp_path / "old.pt", "mdtnet2", with_first_readings("mdtnet2")))
    assert_computes(model, "mdtnet2, resnet18")


def test_a_part_that_an_older_checkpoint_lacks_takes_the_old_values(second_version):
    given = {"model": {"name": "mdtnet2"}}
    assert upgraded(given, 1, where="x") == {"model": {"name": "mdtnet2", "saliency": {"floor": 0.2}}}
    assert upgraded({}, 1, where="x") == {"model": {"saliency": {"floor": 0.2}}}
    assert given == {"model": {"name": "mdtnet2"}}  # and what was given stays as it is


def test_versions_are_gone_through_one_after_the_other(second_version, monkeypatch):
    monkeypatch.setattr(TABLES, "CONFIG_VERSION", 3)
    renamed = {3: {"model.mdtnet.causal": "model.causal"}} | TABLES.RENAMED
    monkeypatch.setattr(TABLES, "RENAMED", renamed)
    values = {"model": {"mdtnet": {"past_only": True}, "saliency": {"floor": 0.3}}}
    assert upgraded(values, 1, where="x")["model"] == {"mdtnet": {}, "causal": True, "saliency": {"floor": 0.3}}
    assert upgraded(values, 2, where="x") == values  # by then this name was a mistake, and is refused as one


def test_a_yaml_of_a_run_says_its_version_and_a_users_is_of_today(second_version, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("config_version: 1\nmodel: {mdtnet: {past_only: true}}\n", encoding="utf-8")
    assert load_yaml(path).model.mdtnet.causal
    assert load_yaml(path).model.saliency.floor == 0.2
    path.write_text("model: {mdtnet: {causal: true}}\n", encoding="utf-8")
    assert load_yaml(path).model.saliency == mdtnet.ModelConfig().saliency
    path.write_text("model: {mdtnet: {past_only: true}}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown key 'model\.mdtnet\.past_only'"):
        load_yaml(path)
    save_yaml(mdtnet.RunConfig(), path)
    assert path.read_text(encoding="utf-8").startswith("config_version: 2\n")
    assert load_yaml(path) == mdtnet.RunConfig()


def test_a_report_reads_the_yaml_that_the_first_version_wrote_without_saying_so(second_version, tmp_path):
    text = (OLD / "tsn.yaml").read_text(encoding="utf-8").replace("causal: false", "past_only: true")
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    found = read_run(tmp_path).config
    assert found.model.mdtnet.causal
    assert found.data.short_side == 72


def test_a_checkpoint_says_the_version_of_its_config(tmp_path):
    model = mdtnet.load_model(checkpoint(tmp_path / "old.pt", "tsn", config("tsn")))
    save_checkpoint(tmp_path / "new.pt", model=model, config=model.config, classes=model.classes)
    assert torch.load(tmp_path / "new.pt", weights_only=True)["config_version"] == TABLES.CONFIG_VERSION
    assert mdtnet.load_model(tmp_path / "new.pt").config == model.config


@pytest.mark.parametrize("version", [0, 9, "1", True, None])
def test_a_version_that_is_none_or_newer_is_refused(version, tmp_path):
    expected = "config_version 9, but this mdtnet reads up to" if version == 9 else "config_version is .* expected 1 to"
    with pytest.raises(CheckpointError, match=rf"old\.pt: {expected}"):
        mdtnet.load_model(checkpoint(tmp_path / "old.pt", "tsn", config("tsn"), config_version=version))
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"config_version": version}), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"config\.yaml: {expected}"):
        load_yaml(path)


@pytest.mark.parametrize("values", [{"model": 3}, {"model": {"mdtnet": [1]}}, {"model": {"saliency": None}}, [], None])
def test_an_older_config_that_is_no_mapping_is_refused(values, second_version, tmp_path):
    with pytest.raises(CheckpointError, match=r"old\.pt: (.*must hold keys and values|damaged checkpoint, config is)"):
        mdtnet.load_model(checkpoint(tmp_path / "old.pt", "tsn", values))


def test_a_study_starts_from_the_yaml_of_an_older_run(second_version, tmp_path):
    run = {"config_version": 1, "model": {"mdtnet": {"past_only": True}}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run), encoding="utf-8")
    study = {"base": "run.yaml", "systems": ["mdtnet2"], "data": {"squares": {"train": "videos"}}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), encoding="utf-8")
    (spec,) = load_study(tmp_path / "study.yaml").specs
    assert spec.config.model.mdtnet.causal
    assert spec.config.model.saliency.floor == 0.2


def test_the_page_about_upgrades_has_every_change():
    page = (Path(__file__).parents[1] / "docs" / "upgrade.md").read_text(encoding="utf-8")
    today = flat(to_dict(mdtnet.RunConfig()))
    changes = [
        f"| {version} | `{key}` | {str(old).lower()} | {str(today[key]).lower()} |"
        for version, values in TABLES.LACKED.items()
        for key, old in values.items()
    ]
    assert re.findall(r"^\| \d+ \|.*$", page, re.MULTILINE) == changes
    assert not TABLES.RENAMED  # the page says so
