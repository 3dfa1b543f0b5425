"""`mdtnet study`: the grid, runs that are stopped and go on, stale rows, intervals, folds, exposure."""

import csv
import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny import write_video, write_videos

from mdtnet.cli.main import VERBS, main
from mdtnet.cli.parse import parse
from mdtnet.config import DataConfig, ModelConfig, RunConfig
from mdtnet.config_file import PRESETS, find_preset
from mdtnet.data.annotations import Texts, VideoList, load_videos
from mdtnet.data.dataset import ClipDataset
from mdtnet.data.exposure import expose, exposure_table
from mdtnet.data.splits import deal, load_split, split_folds
from mdtnet.errors import ConfigError, DataError
from mdtnet.inference.description import Description
from mdtnet.inference.views import read_views
from mdtnet.scores import ScoreTable
from mdtnet.study import runs as study_run
from mdtnet.study.grid import load_study, only
from mdtnet.study.page import build_study
from mdtnet.study.predictions import PREDICTIONS, add_predictions, read_predictions
from mdtnet.study.results import RESULTS, RunRow, append_row, read_configs, read_rows, standing, write_configs
from mdtnet.study.stats import cells, difference, interval
from mdtnet.work.remote import launch_here

ROOT = Path(__file__).parents[2]
RUN = {
    "data": {"num_segments": 2, "size": 32, "short_side": 32, "frame_stride": 2},
    "model": {"trunk": "resnet18", "width": 0.125},
    "train": {"epochs": 2, "batch_size": 4, "device": "cpu"},
}
RENDER = {"train_clips": 2, "val_clips": 1, "size": 32, "fps": 10, "actions": ["sit_down", "stand_up"]}


def write_study(folder: Path, **values: object) -> Path:
    path = folder / "tiny.yaml"
    content = {
        "out": str(folder / "out"),
        "run": RUN,
        "systems": ["tsn", "mdtnet2"],
        "data": {"tiny": {"render": RENDER}},
        "seeds": [0, 1],
        **values,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def row_of(spec, top1: float, **values) -> RunRow:
    """A finished run that nobody made."""
    made = RunRow(
        study="tiny",
        data=spec.data.name,
        system=spec.system,
        variant=spec.variant,
        seed=spec.seed,
        fold=spec.fold,
        trunk="resnet18",
        top1=top1,
        top5=None,
        mean_class=top1,
        pairs=None,
        videos=10,
        unreadable=0,
        clips=1,
        crops=1,
        views=1,
        gmacs=1.0,
        parameters=1000,
        epochs=2,
        seconds=60.0,
        machine="a laptop",
        commit="abc",
        date="2026-01-01T00:00:00+00:00",
        config=spec.hash,
    )
    return replace(made, **values)


def fill(study, top1) -> None:
    """Rows for every run; `top1` is called with its spec."""
    write_configs(study)
    for spec in study.specs:
        append_row(study.results / RESULTS, row_of(spec, top1(spec)))


# ---- whole studies ------------------------------------------------------------------------------------


def _stop_when(folder: Path, pattern: str) -> None:
    """Ctrl-C, as soon as such a log has an epoch."""
    limit = time.monotonic() + 60
    while not any("\n1," in log.read_text() for log in folder.glob(pattern)) and time.monotonic() < limit:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def forbid_runs(monkeypatch) -> None:
    def launch(job, environment):
        assert not job.commands

    monkeypatch.setattr(study_run, "_launch", launch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a study of 2 systems x 2 seeds that was stopped in its first run, and went on."""
    folder = tmp_path_factory.mktemp("study")
    path = write_study(folder, run={**RUN, "train": {**RUN["train"], "epochs": 12}})
    stopper = threading.Thread(target=_stop_when, args=(folder / "out" / "runs", "tiny/mdtnet2_seed0*/log.csv"))
    stopper.start()
    (folder / "code").write_text(str(main(["study", str(path), "--only", "system=mdtnet2"])))
    stopper.join()
    (folder / "early").write_text(str(len(read_rows(folder / "out" / RESULTS))))
    assert main(["study", str(path), "--jobs", "2"]) == 0
    return folder


def test_predictions_of_a_study_are_those_of_its_rows(finished):
    found = read_predictions(finished / "out")
    rows = read_rows(finished / "out" / RESULTS)
    assert len(found.columns) == len(rows) == 4
    for row in rows:
        clips = found.common("tiny", [[f"{row.system}/{row.variant}/{row.seed}/{row.config}"]])
        assert len(clips.labels) == row.videos
        assert (clips.predicted[0][0] == clips.labels).mean() == pytest.approx(row.top1, abs=1e-6)
    assert {about[1] for about in found.clips.values()} == {"sit_down", "stand_up"}


def test_a_stopped_study_goes_on(finished):
    assert (finished / "code").read_text() == "130"
    assert (finished / "early").read_text() in ("0", "1")
    said = next((finished / "out" / "runs" / "tiny").glob("mdtnet2_seed0*/train.log")).read_text()
    assert "resumed at" in said or (finished / "early").read_text() == "1"
    rows = read_rows(finished / "out" / RESULTS)
    assert {row.key for row in rows} == {
        (s, "default", "tiny", None, seed) for s in ("tsn", "mdtnet2") for seed in (0, 1)
    }
    assert len(rows) == 4
    assert all(row.epochs == 12 and row.videos == 2 and row.gmacs > 0 for row in rows)


def test_rows_are_the_last_epoch(finished):
    for row in read_rows(finished / "out" / RESULTS):
        folder = next((finished / "out" / "runs" / "tiny").glob(f"{row.system}_seed{row.seed}_*/"))
        with open(folder / "log.csv") as file:
            history = list(csv.DictReader(file))
        assert [line["val_top1"] for line in history[:-1]] == [""] * 11
        assert float(history[-1]["val_top1"]) == row.top1
        assert not (folder / "checkpoints").exists()


def test_finished_runs_are_not_repeated(finished, monkeypatch, capsys):
    before = (finished / "out" / RESULTS).read_bytes()
    forbid_runs(monkeypatch)
    assert main(["study", str(finished / "tiny.yaml"), "--no_latency"]) == 0
    assert (finished / "out" / RESULTS).read_bytes() == before
    assert "4 of 4 runs are done" in capsys.readouterr().out


def test_another_machine_goes_on_from_the_results(finished, tmp_path, monkeypatch):
    """Rows and configs are enough: no run directory, no data, another place."""
    for name in (RESULTS, "configs.json"):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).write_bytes((finished / "out" / name).read_bytes())
    path = tmp_path / "tiny.yaml"
    path.write_text((finished / "tiny.yaml").read_text().replace(str(finished), str(tmp_path)))
    forbid_runs(monkeypatch)
    assert main(["study", str(path), "--no_latency"]) == 0


def test_a_finished_run_without_a_row_gets_its_row(finished, monkeypatch):
    path = finished / "out" / RESULTS
    before = path.read_text()
    path.write_text("".join(before.splitlines(keepends=True)[:-1]))
    forbid_runs(monkeypatch)
    assert main(["study", str(finished / "tiny.yaml"), "--no_latency"]) == 0
    assert len(read_rows(path)) == 4
    path.write_text(before)


def test_pages(finished):
    page, table = ((finished / "out" / name).read_text() for name in ("study.html", "results.md"))
    assert "MDT-Net2" in page
    assert page.count("src=") == page.count('src="data:image/jpeg;base64,') == 1  # a training video and its salience
    assert {path.name for path in (finished / "out" / "pictures").iterdir()} == {"tiny.jpg"}
    assert page.count("<svg") == 3  # seeds, cost, latency
    assert "| TSN | 2 |" in table
    assert "| ms |" in table
    assert set(json.loads((finished / "out" / "latency.json").read_text())) == {"machine", "ms"}
    assert str(finished) not in page + table


def test_a_failed_run_does_not_stop_the_others(finished, capsys, monkeypatch):
    """The first run cannot start, the second is there and only lacks its row."""
    rows = finished / "out" / RESULTS
    before = rows.read_text()
    lines = before.splitlines(keepends=True)
    del lines[1 + [(row.system, row.seed) for row in read_rows(rows)].index(("mdtnet2", 1))]
    rows.write_text("".join(lines))
    content = yaml.safe_load((finished / "tiny.yaml").read_text())
    bad = {"systems": ["tsn"], "model.weights": "nothere.pt"}
    path = finished / "bad.yaml"
    path.write_text(yaml.safe_dump(content | {"variants": {"bad": bad, "default": {}}}))
    script = finished / "python"
    script.write_text("#!/bin/sh\necho 'mdtnet: nothere.pt: no such checkpoint file'\nexit 4\n")
    script.chmod(0o755)
    monkeypatch.setattr(study_run.sys, "executable", str(script))
    assert main(["study", str(path), "--only", "seed=1", "--no_latency"]) == 5
    assert len(read_rows(rows)) == 4
    said = capsys.readouterr().err
    assert "1 of 2 runs failed: tsn bad on tiny seed 1" in said
    assert "failed: tsn bad on tiny seed" in said
    assert "nothere.pt: no such checkpoint file (" in said
    rows.write_text(before)


def test_an_unreadable_video_gives_no_picture_and_stops_nothing(tmp_path, caplog):
    for name in ("broken.mp4", "other.mp4"):
        (tmp_path / name).write_text("no video")
    (tmp_path / "list.csv").write_text("path,label\nbroken.mp4,a\nother.mp4,b\n")
    data = DataConfig(train=str(tmp_path / "list.csv"), val=str(tmp_path / "list.csv"))
    study_run._draw(tmp_path / "sheet.jpg", RunConfig(data=data))
    assert "no picture" in caplog.text
    assert "broken.mp4" in caplog.text
    assert not (tmp_path / "sheet.jpg").exists()


def test_a_run_that_another_process_is_at_is_left_alone(finished):
    """As after a study was killed and its run goes on, or where two studies share a part."""
    study = load_study(finished / "tiny.yaml")
    job = study_run.Job(study.specs[0], study_run.folder_of(study, study.specs[0]), study.specs[0].config, [["train"]])
    with open(f"{job.folder}.log", "ab") as other:
        assert study_run._is_ours(other)
        study_run._launch(job, launch_here({}))
    assert job.process is None
    assert "another process" in job.failure


def test_more_views_are_tested_after_training(tmp_path):
    """The command that a run's own protocol takes: the validation part of its fold, the last weights."""
    videos = write_videos(tmp_path / "videos", per_class=4)
    data = {"set": {"train": str(videos), "folds": 2}}
    study = load_study(write_study(tmp_path, data=data, run={**RUN, "test": {"clips": 3, "flip": True}}))
    config = replace(study.specs[1].config, out=str(tmp_path / "run"))
    assert study_run.has_views(config.test)
    assert not study_run.has_views(replace(config.test, clips=1, flip=False, fusion="logits", batch_size=2))
    verb, *arguments = study_run._test_command(tmp_path / "run", config)
    options = parse(verb, VERBS[verb], arguments)
    assert (options.clips, options.flip, options.crops) == (3, True, 1)
    assert options.checkpoint.endswith("last.pt")
    listed, val = load_videos(options.data), load_split(config.data)[1]
    assert [listed[i].path for i in range(4)] == [val[i].path for i in range(4)]


def test_more_views_are_tested_through_a_linked_folder(tmp_path):
    videos = write_videos(tmp_path / "videos", per_class=1)
    (tmp_path / "disk" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "deep" / "er")
    config = RunConfig(data=DataConfig(train=str(videos), val=str(videos)))
    arguments = study_run._test_command(tmp_path / "out" / "run", config)
    listed = load_videos(arguments[arguments.index("--data") + 1])
    assert [listed[i].path for i in range(2)] == [str(videos / "left" / "00.mp4"), str(videos / "right" / "00.mp4")]


# ---- the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(PRESETS.glob("studies/*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path):
    study = load_study(path)
    assert len({spec.key for spec in study.specs}) == len(study.specs)
    assert len({spec.name for spec in study.specs}) == len(study.specs)
    for spec in study.specs:
        assert spec.config.train.val_every == spec.config.train.epochs


def test_the_grid(tmp_path):
    variants = {"default": {}, "small": {"systems": ["mdtnet2"], "model": {"mdtnet.fine": False}}}
    data = {"set": {"train": "lists", "folds": 3, "group": "(.)"}}
    study = load_study(write_study(tmp_path, variants=variants, data=data))
    assert len(study.specs) == 3 * 2 * 3  # (2 + 1 systems) x seeds x folds
    small = [spec for spec in study.specs if spec.variant == "small"]
    assert {spec.system for spec in small} == {"mdtnet2"}
    assert not any(spec.config.model.mdtnet.fine for spec in small)
    assert [spec.config.data.fold for spec in study.specs[:3]] == [0, 1, 2]
    assert len({spec.hash for spec in study.specs}) == 3  # seeds and folds apart


def test_folds_are_run_wherever_they_are_given(tmp_path):
    data = {"set": {"train": "x"}, "whole": {"train": "x", "folds": 0}}
    study = load_study(write_study(tmp_path, run={**RUN, "data": {"folds": 3}}, data=data, seeds=[0], systems=["tsn"]))
    folds = [(spec.data.name, spec.fold, spec.config.data.fold) for spec in study.specs]
    assert folds == [("set", 0, 0), ("set", 1, 1), ("set", 2, 2), ("whole", None, 0)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"system": ["tsn"]}, "unknown key 'system'; did you mean 'systems'?"),
        ({"systems": ["tsn", "mdtnet3"]}, "did you mean 'mdtnet"),
        ({"systems": []}, "systems is empty: name at least one system"),
        (
            {"data": {"a": {"trian": "x"}}},
            "data 'a', variant 'default': unknown key 'data.trian'; did you mean 'data.train'?",
        ),
        ({"data": {"a": {"render": {"sise": 3}}}}, "data 'a': unknown key 'render.sise'; did you mean 'render.size'?"),
        ({"data": {"a": {"render": {"size": 33}}}}, "data 'a': render: size is 33"),
        ({"data": {"../a": {"train": "x"}}}, "data '../a': names are made of letters"),
        ({"variants": {"v": {"model.mdtnet.fien": False}}}, "'model.mdtnet.fien'; did you mean 'model.mdtnet.fine'?"),
        ({"variants": {"v": {"systems": ["tdn"]}}}, "variant 'v': systems has 'tdn', expected some of tsn, mdtnet2"),
        ({"baseline": "tsm"}, "baseline is 'tsm', expected one of tsn, mdtnet2"),
        ({"primary": ["tiny", "mdtnet2"]}, "primary is ['tiny', 'mdtnet2'], expected a data set and two systems"),
        (
            {"primary": ["tini", "mdtnet2", "tsn"]},
            "primary has data set 'tini', expected one of tiny; did you mean 'tiny'?",
        ),
        ({"primary": ["tiny", "mdtnet2", "tsm"]}, "primary is 'tsm', expected one of tsn, mdtnet2"),
        ({"base": "nothere.yaml"}, "nothere.yaml: cannot be read"),
        ({"run": {"train.early_stopping": 3}}, "early_stopping is 3"),
        ({"run": {"data.multi_label": True}}, "multi_label is true"),
        (
            {"variants": {"v": {"data.train": "x.csv"}}},
            "data 'tiny', variant 'v': data.train is 'x.csv', but the videos are rendered; expected one or the other",
        ),
        ({"data": {"a": {"render": RENDER, "root": "x"}}}, "data.root is 'x', but the videos are rendered"),
        ({"run": {"data.folds": 3}}, "data.folds is 3, but the videos are rendered"),
        ({"data": {"a": {"train": "x", "folds": "5"}}}, "data 'a', variant 'default': data.folds is '5', expected int"),
        (
            {"data": {"a": {"train": "x", "folds": 5, "fold": 3}}},
            "data.fold is 3, but a study runs every fold; --only fold=3 runs that one",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, change, words):
    with pytest.raises(ConfigError) as error:
        load_study(write_study(tmp_path, **change))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["configs", "studies"])
def test_shipped_files_are_found_by_name(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = sorted((PRESETS / kind).rglob("*.yaml"))
    names = [file.relative_to(PRESETS / kind).with_suffix("").as_posix() for file in files]
    assert [find_preset(kind, name) for name in names] == files
    assert [find_preset(kind, f"{name}.yaml") for name in names] == files
    assert len(files) > 8


def test_a_file_goes_before_a_shipped_one_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = write_study(tmp_path).rename("quick")
    assert load_study("quick").path == Path(own)
    own.rename("other")
    Path("quick").mkdir()  # a folder is no study
    assert load_study("quick").path == PRESETS / "studies" / "quick.yaml"


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"^quik: cannot be read: no such file, .* did you mean 'quick'\?$"):
        load_study("quik")
    with pytest.raises(ConfigError, match=r"no such file, nor a shipped config .* did you mean 'study_real'\?$"):
        load_study(write_study(tmp_path, base="study_reel"))
    with pytest.raises(ConfigError, match="is a folder, nor a shipped config"):
        load_study(write_study(tmp_path, base="."))


def test_a_base_is_beside_the_study_or_a_shipped_config(tmp_path):
    shipped = load_study(write_study(tmp_path, base="study_real")).specs[0].config
    assert shipped.model.weights == "imagenet"
    (tmp_path / "study_real").write_text("train: {momentum: 0.5}\n")
    beside = load_study(write_study(tmp_path, base="study_real")).specs[0].config
    assert (beside.model.weights, beside.train.momentum) == ("", 0.5)


def test_missing_data_are_named(tmp_path, capsys):
    path = write_study(tmp_path, data={"real": {"train": "lists/set1.csv"}})
    assert main(["study", str(path)]) == 3
    said = capsys.readouterr().err
    assert "data 'real': train is 'lists/set1.csv', which is not in" in said
    assert "--root FOLDER" in said


def test_data_are_found_under_root_first(tmp_path):
    study = load_study(write_study(tmp_path, data={"real": {"train": "list.csv", "root": "videos"}}))
    (tmp_path / "list.csv").touch()
    (tmp_path / "elsewhere" / "videos").mkdir(parents=True)
    found = study_run.locate(study, study.specs[0], root=str(tmp_path / "elsewhere"), workers=1)
    assert found["train"] == str(tmp_path / "list.csv")
    assert found["root"] == str(tmp_path / "elsewhere" / "videos")


def test_a_variant_has_its_own_videos(tmp_path, monkeypatch):
    for name in ("all.csv", "half.csv", "val.csv", "other.csv"):
        (tmp_path / name).touch()
    data = {"set": {"train": "all.csv", "val": "val.csv"}}
    variants = {"default": {}, "half": {"data.train": "half.csv"}, "other": {"data.val": "other.csv"}}
    study = load_study(write_study(tmp_path, data=data, variants=variants))
    given, pictures = [], []
    monkeypatch.setattr(study_run, "_draw", lambda path, config: pictures.append(config.data.train))
    monkeypatch.setattr(study_run, "_finished", lambda _, waiting, *rest: given.extend(waiting) or ())
    study_run.run_study(study, study.specs)
    found = {spec.variant: (Path(config.data.train).name, Path(config.data.val).name) for spec, config in given}
    assert found == {
        "default": ("all.csv", "val.csv"),
        "half": ("half.csv", "val.csv"),
        "other": ("all.csv", "other.csv"),
    }
    assert pictures == [str(tmp_path / "all.csv")]


def test_only(tmp_path):
    specs = load_study(write_study(tmp_path)).specs
    assert [s.key[:1] + s.key[-1:] for s in only(specs, ["system=tsn", "seed=1"])] == [("tsn", 1)]
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        only(specs, ["sed=1"])
    with pytest.raises(ConfigError, match="seed '7', expected some of 0, 1"):
        only(specs, ["seed=7"])


# ---- rows ---------------------------------------------------------------------------------------------


def test_rows_that_no_longer_fit_are_stale(tmp_path, capsys):
    study = load_study(write_study(tmp_path))
    fill(study, lambda spec: 0.5)
    changed = write_study(tmp_path, run={**RUN, "train": {**RUN["train"], "epochs": 3}}, seeds=[0])
    now = standing(load_study(changed), read_rows(study.results / RESULTS), read_configs(study.results))
    assert not now.done
    assert sorted(reason for _, reason in now.stale) == ["not in the study"] * 2 + ["train.epochs was 2, is 3"] * 2
    assert main(["study", str(changed), "--list"]) == 0
    said = capsys.readouterr().out
    assert "stale, in no table: 2 rows: train.epochs was 2, is 3" in said
    assert "0 of 2 runs are done" in said


def test_an_option_that_is_new_and_at_its_default_changes_nothing(tmp_path):
    study = load_study(write_study(tmp_path))
    fill(study, lambda spec: 0.5)
    configs = read_configs(study.results)
    for about in configs.values():
        del about["data.exposure"], about["render.fps"]
    rows = [replace(row, config=row.config[::-1]) for row in read_rows(study.results / RESULTS)]
    now = standing(study, rows, {key[::-1]: about for key, about in configs.items()})
    assert [reason for _, reason in now.stale] == ["render.fps was 30, is 10"] * 4  # 30 is the default
    for about in configs.values():
        about["render.fps"] = 10
    assert len(standing(study, rows, {key[::-1]: about for key, about in configs.items()}).done) == 4


def test_other_pairs_make_rows_stale_but_no_new_runs(tmp_path):
    def pairs_of(**pairs: object):
        return load_study(write_study(tmp_path, data={"real": {"train": "x", **pairs}}, systems=["tsn"], seeds=[0]))

    def reasons(row: RunRow, configs: dict, now) -> list[str]:
        return [reason for _, reason in standing(now, [row], configs).stale]

    none, one, other = pairs_of(), pairs_of(pairs=[["a", "b"]]), pairs_of(pairs=[["a", "c"]])
    assert len({study.specs[0].hash for study in (none, one, other)}) == 3
    assert len({study.specs[0].name for study in (none, one, other)}) == 1
    configs = {study.specs[0].hash: study.specs[0].about for study in (none, one, other)}
    row = row_of(one.specs[0], 0.5, pairs=0.5)
    assert reasons(row, configs, one) == []
    assert reasons(row, configs, other) == ["pairs was [['a', 'b']], is [['a', 'c']]"]
    assert reasons(row_of(none.specs[0], 0.5), configs, one) == ["pairs was None, is [['a', 'b']]"]
    assert reasons(row_of(none.specs[0], 0.5, pairs=0.5), configs, one) == []  # earlier versions did not note the pairs


def test_rows_of_earlier_versions(tmp_path):
    """Without the column `pair_videos`; a row more has the file's columns."""
    study = load_study(write_study(tmp_path))
    path = study.results / RESULTS
    fill(study, lambda spec: 0.5)
    with open(path, newline="") as file:
        lines = [{key: cell for key, cell in line.items() if key != "pair_videos"} for line in csv.DictReader(file)]
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    append_row(path, row_of(study.specs[3], 0.25, pairs=0.5, pair_videos=2))
    assert [(row.top1, row.pairs, row.pair_videos) for row in read_rows(path)] == [
        *[(0.5, None, None)] * 4,
        (0.25, 0.5, None),
    ]


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in ROOT.glob("docs/results/*/results.csv")), ids=lambda p: p.name
)
def test_rows_of_shipped_studies_still_count(folder):
    study = load_study(folder.name)
    rows = read_rows(folder / RESULTS)
    now = standing(study, rows, read_configs(folder))
    assert rows
    assert not now.stale


def test_options_that_a_system_ignores_do_not_count(tmp_path):
    first = load_study(write_study(tmp_path))
    second = load_study(write_study(tmp_path, run={**RUN, "model": {**RUN["model"], "saliency": {"floor": 0.8}}}))
    same = {a.system: a.hash == b.hash for a, b in zip(first.specs, second.specs)}
    assert same == {"tsn": True, "mdtnet2": False}


def test_how_often_is_validated_does_not_count(tmp_path):
    first = load_study(write_study(tmp_path))
    second = load_study(write_study(tmp_path, run={**RUN, "train": {**RUN["train"], "val_every": 3}}))
    assert [spec.hash for spec in first.specs] == [spec.hash for spec in second.specs]
    third = load_study(write_study(tmp_path, run={**RUN, "train": {**RUN["train"], "weight_decay": 0.5}}))
    assert not {spec.hash for spec in first.specs} & {spec.hash for spec in third.specs}


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    study = load_study(write_study(tmp_path))
    path = study.results / RESULTS
    fill(study, lambda spec: 0.5)
    path.write_text(path.read_text()[:-40])
    assert len(read_rows(path)) == 3
    append_row(path, row_of(study.specs[3], 0.25))
    assert [row.top1 for row in read_rows(path)] == [0.5, 0.5, 0.5, 0.25]
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column"):
        read_rows(path)


# ---- figures ------------------------------------------------------------------------------------------


def test_interval_is_the_hand_worked_one():
    found = interval([0.70, 0.74, 0.78])
    assert found.mean == pytest.approx(0.74)
    assert found.half == pytest.approx(4.302653 * 0.04 / math.sqrt(3), rel=1e-6)  # t of 2 degrees, s = 0.04
    assert interval([0.7]).half is None
    assert interval([0.5, 0.5]).half == 0


def test_paired_differences_and_folds_are_the_hand_worked_ones(tmp_path):
    study = load_study(write_study(tmp_path, data={"set": {"train": "x", "folds": 2}}, seeds=[0, 1, 2]))
    write_configs(study)
    top1 = {("tsn", 0): 0.5, ("tsn", 1): 0.6, ("mdtnet2", 0): 0.7, ("mdtnet2", 1): 0.7, ("tsn", 2): 0.9}
    for spec in study.specs:
        if (spec.system, spec.seed) in top1 and spec.key != ("tsn", "default", "set", 1, 2):
            accuracy = top1[spec.system, spec.seed] + (0.2 if spec.fold else 0.0)
            append_row(study.results / RESULTS, row_of(spec, accuracy, videos=10 if spec.fold else 30))
    now = standing(study, read_rows(study.results / RESULTS), read_configs(study.results))
    tsn, mdtnet2 = cells(study, now.done)
    assert tsn.top1 == pytest.approx({0: 0.55, 1: 0.65})  # (30 x 0.5 + 10 x 0.7) / 40
    assert tsn.incomplete == (2,)
    found = difference(mdtnet2, tsn)
    assert (found.n, found.mean) == (2, pytest.approx(0.15))  # 0.2 and 0.1
    assert found.half == pytest.approx(12.706205 * math.sqrt(0.005) / math.sqrt(2))
    assert not found.sure


def test_folds_weigh_by_the_videos_that_count(tmp_path):
    """A seed's two folds, the same number of videos in each."""

    def pooled(first: dict, second: dict, **test: str):
        data = {"set": {"train": "x", "folds": 2}}
        study = load_study(write_study(tmp_path, data=data, run={"test": test}, systems=["tsn"], seeds=[0]))
        rows = [row_of(spec, **{"top1": 0.0, **row}) for spec, row in zip(study.specs, (first, second))]
        return cells(study, standing(study, rows, {}).done)[0]

    found = pooled({"pairs": 1.0, "pair_videos": 1}, {"pairs": 0.0, "pair_videos": 9})
    assert found.pairs == pytest.approx({0: 0.1})
    assert pooled({"pairs": None, "pair_videos": 0}, {"pairs": 0.5, "pair_videos": 4}).pairs == {0: 0.5}
    assert pooled({"pairs": 1.0}, {"pairs": 0.0, "pair_videos": 9}).pairs == {0: 0.5}  # an earlier version's row
    first, second = {"top1": 1.0, "unreadable": 9}, {"top1": 0.0}
    assert pooled(first, second, on_unreadable="exclude").top1 == pytest.approx({0: 1 / 11})
    assert pooled(first, second).top1 == {0: 0.5}


@pytest.mark.parametrize(("policy", "pairs", "videos"), [("wrong", 0.5, 4), ("exclude", 2 / 3, 3)])
def test_videos_of_pairs_are_counted(tmp_path, policy, pairs, videos):
    """Three of a pair, one of which is taken for the other class, one that cannot be read, and one of another class."""
    given = {"set": {"train": "x", "pairs": [["a", "b"]]}}
    spec = load_study(write_study(tmp_path, data=given, run={"test": {"on_unreadable": policy}})).specs[0]
    scores = np.eye(3, dtype=np.float32)[[0, 1, 0, 1, 2]][:, None]  # [N, 1, C]
    scores[3] = np.nan
    one = np.zeros(1, dtype=np.int64)
    table = ScoreTable(list("vwxyz"), np.array([0, 1, 1, 1, 2]), one, one, scores, [""] * 5, ("a", "b", "c"))
    assert study_run._inside_pairs(spec, table) == (pytest.approx(pairs), videos)


def guess(study, right, *, clips: int = 40) -> None:
    """Predictions of every run on clips of class 1; `right` gives the chance that a spec's run is right."""
    rng = np.random.default_rng(0)
    names = [f"clip {i}" for i in range(clips)]
    for spec in study.specs:
        found = (rng.random(clips) < right(spec)).astype(int)
        about = {"labels": dict.fromkeys(names, 1), "groups": dict(zip(names, names)), "classes": ("no", "yes")}
        add_predictions(study.results, spec, dict(zip(names, found.tolist())), **about)


def test_predictions_are_kept_by_clip_and_run(tmp_path):
    study = load_study(write_study(tmp_path, data={"set": {"train": "x", "folds": 2}}, systems=["tsn"], seeds=[3]))
    first, second = study.specs
    about = {"labels": {"a": 1, "b": 0}, "groups": {"a": "0.1", "b": "0.2"}, "classes": ("no", "yes")}
    add_predictions(study.results, first, {"a": 1, "b": -1}, **about)
    add_predictions(study.results, second, {"c": 0}, labels={"c": 1}, groups={"c": "1.1"}, classes=("no", "yes"))
    name = f"tsn/default/3/{first.hash}"
    assert (study.results / PREDICTIONS).read_text().splitlines() == [
        f"data,clip,group,class,label,{name}",
        "set,a,0.1,yes,1,1",
        "set,b,0.2,no,0,-1",
        "set,c,1.1,yes,1,0",
    ]
    found = read_predictions(study.results)
    clips = found.common("set", [[name]])
    assert clips.predicted[0].tolist() == [[1, -1, 0]]
    assert (clips.labels.tolist(), clips.groups.tolist()) == ([1, 0, 1], [0, 1, 2])
    assert found.common("set", [[name]], exclude=True).labels.tolist() == [1, 1]
    assert found.common("set", [["tsn/default/4/x"]]) is None
    add_predictions(study.results, first, {"a": 0, "b": 0}, **about)  # the run was made again
    assert read_predictions(study.results).columns[name] == {("set", "a"): 0, ("set", "b"): 0, ("set", "c"): 0}


@pytest.mark.parametrize(
    "text", ["a,b\n", "data,clip,group,class,label,x\ns,a,g,yes,1\n", "data,clip,group,class,label\ns,a,g,yes,one\n"]
)
def test_damaged_predictions_are_named(tmp_path, text):
    (tmp_path / PREDICTIONS).write_text(text)
    with pytest.raises(DataError, match=r"predictions\.csv: "):
        read_predictions(tmp_path)


def test_contrasts_of_a_study(tmp_path):
    """The primary contrast stays as it is; the others are corrected for their number."""
    systems, primary = ["tsn", "tsm", "mdtnet1", "mdtnet2"], ["tiny", "mdtnet2", "mdtnet1"]
    study = load_study(write_study(tmp_path, systems=systems, seeds=list(range(12)), primary=primary))
    fill(study, lambda spec: 0.5)
    chances = {"tsn": 0.3, "tsm": 0.3, "mdtnet1": 0.5, "mdtnet2": 0.8}
    guess(study, lambda spec: chances[spec.system])
    build_study(study)
    table = (study.results / "results.md").read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    rows = {name: rest for name, *rest in cells if " − " in name}
    assert list(rows) == ["MDT-Net2 − MDT-Net1", "TSM − TSN", "MDT-Net1 − TSN", "MDT-Net2 − TSN"]
    assert rows["MDT-Net2 − MDT-Net1"][3:6] == ["bootstrap", "< 0.001", "primary"]
    assert rows["MDT-Net2 − TSN"][1].startswith("**+")
    assert not rows["TSM − TSN"][1].startswith("**")
    p, corrected = (float(rows["TSM − TSN"][i]) for i in (4, 5))
    assert corrected == p  # the largest of three
    assert "MDT-Net2 − MDT-Net1" in (study.results / "study.html").read_text()


def test_one_seed_has_no_interval(tmp_path):
    study = load_study(write_study(tmp_path, seeds=[0]))
    fill(study, lambda spec: 0.5 if spec.system == "tsn" else 0.75)
    build_study(study)
    table = (study.results / "results.md").read_text()
    assert "one seed, so there are no intervals" in table
    assert "| MDT-Net2 | 1 | 75.0 | 75.0 | +25.0 |" in table


def test_a_sure_difference_is_bold(tmp_path):
    study = load_study(write_study(tmp_path))
    fill(study, lambda spec: (0.5 if spec.system == "tsn" else 0.75) + 0.1 * spec.seed)
    build_study(study)
    assert "**+25.0 ± 0.0**" in (study.results / "results.md").read_text()


def test_cost_does_not_need_weights():
    config = RunConfig(model=ModelConfig(name="tsn", trunk="resnet18", weights="nothere.pt"))
    cost = study_run.cost_of(config, 7)
    assert cost.parameters == pytest.approx(11.18e6, rel=0.01)
    assert torch.get_default_device().type == "cpu"


def test_duration():
    assert [study_run.duration(s) for s in (20, 90, 7320)] == ["20 s", "2 min", "2 h 02 min"]


# ---- folds and exposure -------------------------------------------------------------------------------


def videos_of(labels: list[int], groups: list[str] | None = None) -> VideoList:
    names = [f"{i:03}.mp4" for i in range(len(labels))]
    found = None if groups is None else Texts.of(groups)
    return VideoList(("a", "b"), np.array(labels), "/v", Texts.of(names), np.arange(len(labels)), None, found)


def test_folds_are_disjoint_and_cover():
    labels = [0, 1] * 20
    videos = videos_of(labels, [f"g{i // 4}" for i in range(40)])  # 10 groups of 4
    parts = [split_folds(videos, folds=5, fold=k, seed=0) for k in range(5)]
    held_out = [{val.name(i) for i in range(len(val))} for _, val in parts]
    assert sorted(name for names in held_out for name in names) == [videos.name(i) for i in range(40)]
    for train, val in parts:
        assert len(val) == 8
        assert np.bincount(val.labels).tolist() == [4, 4]
        assert not {train[i].group for i in range(len(train))} & {val[i].group for i in range(len(val))}
    again = split_folds(videos, folds=5, fold=3, seed=0)[1]
    assert [again.name(i) for i in range(8)] == [parts[3][1].name(i) for i in range(8)]


def test_folds_balance_classes_without_groups():
    val = [split_folds(videos_of([0] * 9 + [1] * 6), folds=3, fold=k, seed=1)[1] for k in range(3)]
    assert [np.bincount(part.labels).tolist() for part in val] == [[3, 2]] * 3


def test_folds_of_videos_with_several_labels():
    labels = np.tile([[True, True], [False, True], [True, False], [False, False]], (4, 1))
    videos = replace(videos_of([0] * 16), labels=labels)
    val = [split_folds(videos, folds=4, fold=k, seed=0)[1] for k in range(4)]
    assert [part.labels.sum(0).tolist() for part in val] == [[2, 2]] * 4


def test_deal_puts_unlike_groups_together():
    counts = np.array([[8, 0], [0, 8], [4, 4], [4, 4]])
    fold_of = deal(counts, 2, seed=0)
    assert np.stack([counts[fold_of == k].sum(0) for k in range(2)]).tolist() == [[8, 8], [8, 8]]


def test_folds_that_cannot_be():
    with pytest.raises(DataError, match="1 groups of videos cannot be dealt out to 2 folds"):
        split_folds(videos_of([0, 1], ["g", "g"]), folds=2, fold=0, seed=0)
    with pytest.raises(DataError, match="class 'b' lies in one fold"):
        split_folds(videos_of([0, 0, 1, 1], ["g", "h", "i", "i"]), folds=2, fold=0, seed=0)


def test_load_split_takes_folds(tmp_path):
    videos = str(write_videos(tmp_path, per_class=3))
    parts = [load_split(DataConfig(train=videos, folds=3, fold=k))[1] for k in range(3)]
    assert sorted(part[i].path for part in parts for i in range(2)) == sorted(map(str, tmp_path.glob("*/*.mp4")))
    for wrong in ({"folds": 3, "fold": 3}, {"folds": 1}, {"folds": 3, "val": videos}, {"fold": 3}):
        with pytest.raises(ConfigError, match=r"data\.folds is"):
            load_split(DataConfig(train=videos, **wrong))


@pytest.mark.parametrize("how", ["gain", "gamma"])
def test_exposure_is_the_same_in_training_test_and_exported_form(tmp_path, how):
    dark = np.random.default_rng(0).integers(5, 25, (24, 32, 40, 3), dtype=np.uint8)
    write_video(tmp_path / "dark.mp4", dark)
    videos = VideoList(("a", "b"), np.zeros(1, np.int64), str(tmp_path), Texts.of(["dark.mp4"]), np.arange(1))
    data = DataConfig(num_segments=2, size=32, short_side=32, exposure=how)
    train, test = (ClipDataset(videos, data, frames_per_segment=1, train=t)[0]["frames"] for t in (True, False))
    assert 0.4 < train.float().mean() / 255 < 0.5
    assert 0.4 < test.float().mean() / 255 < 0.5
    about = Description(
        "tsn", "resnet18", "float32", ("a", "b"), 2, 1, 1, "consecutive", 32, 32, "softmax", exposure=how
    )
    views = read_views(tmp_path / "dark.mp4", about)  # [1, T, K, S, S, 3]
    assert np.abs(views - test.movedim(3, -1).numpy().astype(float)).mean() < 1


def test_exposure_brings_a_dark_clip_to_medium_brightness():
    dark = np.random.default_rng(0).integers(5, 20, (4, 8, 8, 3), dtype=np.uint8)
    assert expose(dark, "none") is dark
    for how in ("gain", "gamma"):
        bright = expose(dark, how)
        assert bright.dtype == np.uint8
        assert 0.4 < bright.mean() / 255 < 0.5
        still = expose(np.repeat(dark[:1], 3, axis=0), how)
        assert (still[0] == still[2]).all()
    assert exposure_table(np.zeros((1, 1, 1, 3), dtype=np.uint8), "gain")[[1, 10]].tolist() == [16, 160]  # limited
    gamma = exposure_table(dark, "gamma")
    assert (gamma[0], gamma[255]) == (0, 255)
    assert (np.diff(gamma.astype(int)) >= 0).all()


def test_a_study_tests_its_networks_without_each_part(tmp_path, monkeypatch):
    """The commands of its run in this process, which spares the start of three."""

    def launch(arguments, output):
        code = main(arguments)
        return SimpleNamespace(poll=lambda: code)

    monkeypatch.setattr(study_run, "_launcher", lambda *_: launch)
    data = {"tiny": {"render": {**RENDER, "val_clips": 2}}}
    study = load_study(write_study(tmp_path, systems=["tdn"], seeds=[0], data=data, knock_out=True))
    study_run.run_study(study, study.specs)
    (row,) = read_rows(study.results / RESULTS)
    assert row.without_fine is not None
    assert row.without_coarse is not None
    assert row.without_dcme is row.without_stce is row.without_reading is None
    assert row.e_coarse > 0.01
    build_study(study)
    page = (study.results / "results.md").read_text()
    assert "| fine out | coarse out |" in page
    assert f"{100 * (row.without_fine - row.top1):+.1f}".replace("-", "−") in page
