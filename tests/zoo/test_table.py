"""The table of public checkpoints: right, found by name, made from the facts."""

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mdtnet.config import SYSTEMS, EvalConfig
from mdtnet.data.transforms import mirror_labels
from mdtnet.errors import ConfigError
from mdtnet.zoo import table as module
from mdtnet.zoo.table import TABLE, chosen, entries, entry_named, load_table, mirror, nearest_name

TOOL = Path(__file__).parents[2] / "tools" / "zoo_table.py"
ROW = {
    "name": "tsm-resnet50-mine-8f",
    "system": "tsm",
    "trunk": "resnet50",
    "data": "mine",
    "labels": "mine",
    "classes": 5,
    "segments": 8,
    "addresses": ["weights/mine.pth"],
}


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("zoo_table", TOOL)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_table_is_what_the_facts_give(shared, tmp_path, tool):
    facts = yaml.safe_load((shared / "zoo" / "zoo.yaml").read_text(encoding="utf-8"))
    names = tool.labels(shared / "data" / "official_splits" / "mmaction2_label_maps")
    tool.write(tool.table(facts, names), names, tmp_path)
    for file in ("table.json", "labels.json"):
        assert (tmp_path / file).read_text() == TABLE.with_name(file).read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sha256_prefix": "00000000"}, "digest 00000000 is not that of"),
        ({"classes": 401}, "401 classes, 400 names"),
        ({"trunk": "resnet101"}, "name and facts differ"),
        ({"segments": 16}, "16 segments, but"),
        (
            {"published": {"top1": 730, "protocol_in_config": "8 frames (uniform) x 3 crops of 256"}},
            "figures",
        ),
    ],
)
def test_facts_that_contradict_each_other_are_refused(shared, tool, change, words):
    facts = yaml.safe_load((shared / "zoo" / "zoo.yaml").read_text(encoding="utf-8"))
    (entry,) = (e for e in facts["checkpoints"] if e["name"] == "tsm-resnet50-kinetics400-8f")
    entry |= change
    with pytest.raises(ValueError, match=words):
        tool.table(facts, tool.labels(shared / "data" / "official_splits" / "mmaction2_label_maps"))


def test_names_say_what_entries_are():
    found = entries()
    assert len(found) == 115
    assert max(Counter(entry.name for entry in found).values()) == 1
    for entry in found:
        assert entry.name.startswith(f"{entry.system}-{entry.trunk}-{entry.data}-"), entry.name
        assert entry.system in SYSTEMS
        assert len(entry.class_names()) == entry.classes == len(set(entry.class_names()))
        assert all(address.startswith("https://") for address in entry.addresses)
        assert entry.by_hand or len(entry.sha256_prefix) == 8 or "hanlab" in entry.addresses[0]


def test_the_short_list_comes_first():
    short = [entry.recommended for entry in entries()]
    assert short == sorted(short, reverse=True)
    assert sum(short) == 20


def test_published_protocols_are_options_of_tests():
    for entry in entries():
        for figure in entry.published:
            if figure.test is not None:
                assert not figure.test.flip or entry.flip == "true", entry.name
                assert figure.test.segments != entry.segments, entry.name
    tsn = entry_named("tsn-resnet50-kinetics400-8f")
    assert tsn.protocol == EvalConfig(crops=5, flip=True, segments=25)
    dense = entry_named("tsm-resnet50-kinetics400-8f-dense-mit")
    assert dense.protocol == EvalConfig(rule="dense", clips=10, crops=3, fusion="logits")
    twice = entry_named("tsm-resnet50-sthv2-8f")
    assert twice.protocol == EvalConfig(rule="tsm_twice", clips=2, crops=3)


def test_something_something_v1_has_two_orders():
    ours, theirs = (entry_named(name) for name in ("tsm-resnet50-sthv1-16f", "tsm-resnet50-sthv1-16f-mit"))
    assert ours.class_names()[0] == "Holding something"
    assert theirs.class_names() == tuple(sorted(ours.class_names()))
    pairs = {(a, int(b)) for a, b in enumerate(mirror_labels(theirs.class_names())) if a < b}
    assert pairs == {(86, 87), (93, 94), (166, 167)}
    pairs = {(a, int(b)) for a, b in enumerate(mirror_labels(ours.class_names())) if a < b}
    assert pairs == {(2, 4), (30, 41), (52, 66)}


def test_classes_without_known_names_are_numbers():
    entry = entry_named("tsn-resnet18-hvu-event-8f")
    assert not entry.has_names
    assert entry.class_names()[:3] == ("0", "1", "2")
    assert entry.multi_label


def test_names_are_found_and_the_nearest_is_told():
    assert entry_named("tsm-resnet50-kinetics400-8f").segments == 8
    assert entry_named("tsm-resnet50-kinetic400-8f") is None
    assert nearest_name("tsm-resnet50-kinetic400-8f") == "; did you mean 'tsm-resnet50-kinetics400-8f'?"


def test_filters_take_words_that_are_there():
    found = chosen(entries(), system="tsm", data="sthv2", trunk="resnet101")
    assert {"tsm-resnet101-sthv2-8f", "tsm-resnet101-sthv2-8f-mit"} <= {entry.name for entry in found}
    assert all((e.system, e.data, e.trunk) == ("tsm", "sthv2", "resnet101") for e in found)
    with pytest.raises(ConfigError, match=r"--data is 'sthv3', expected one of .*; did you mean 'sthv"):
        chosen(entries(), data="sthv3")


def write_table(path, *rows, version=1):
    path.write_text(json.dumps({"version": version, "checkpoints": list(rows)}), encoding="utf-8")
    return path


def test_an_own_table_comes_before_the_shipped_one(tmp_path, monkeypatch):
    name = "tsm-resnet50-kinetics400-8f"
    path = write_table(tmp_path / "own.json", ROW, {**ROW, "name": name})
    monkeypatch.setenv("MDTNET_ZOO", str(path))
    assert [entry.name for entry in entries()][:2] == ["tsm-resnet50-mine-8f", name]
    assert entry_named(name).data == "mine"
    assert len(entries()) == 116
    assert entry_named("tsm-resnet50-mine-8f").folder == tmp_path
    assert mirror() == ""


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"system": "i3d"}, "system is 'i3d', expected one of tsn"),
        ({"trunk": 3}, "trunk is 3, expected str"),
        ({"name": "../mine"}, "name is '../mine', expected letters"),
        ({"segments": 0}, "segments is 0, expected at least 1"),
        ({"classes": True}, "classes is True, expected int"),
        ({"adresses": []}, "unknown key 'adresses'; did you mean 'addresses'"),
        ({"addresses": []}, "addresses is"),
        ({"addresses": ["http://x/"]}, "ends without the name of a file"),
        ({"published": [{"words": "x", "test": {"crop": 3}}]}, "unknown key 'test.crop'; did you mean 'test.crops'"),
        ({"published": [{"words": "x", "test": {"rule": "best"}}]}, "test.rule is 'best'"),
    ],
)
def test_a_wrong_row_is_one_line(row, words, tmp_path):
    path = write_table(tmp_path / "own.json", ROW | row)
    with pytest.raises(ConfigError, match=rf"own\.json, checkpoint 0.*{words}"):
        load_table(path)


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2, "checkpoints": []}', '{"version": 1}', "[" * 100000])
def test_what_is_no_table_is_one_line(text, tmp_path):
    (tmp_path / "own.json").write_text(text)
    with pytest.raises(ConfigError, match=r"own\.json: (not a table|without a list)"):
        load_table(tmp_path / "own.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_table(tmp_path / "none.json")


def test_rows_lack_nothing_that_is_needed(tmp_path):
    for key in ROW:
        row = {k: v for k, v in ROW.items() if k != key}
        with pytest.raises(ConfigError, match=f"without {key}"):
            load_table(write_table(tmp_path / "own.json", row))


def test_every_system_of_the_table_has_its_paper():
    assert {entry.system for entry in entries()} <= module.PAPERS.keys()
