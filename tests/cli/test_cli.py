"""The command line as a user meets it: verbs, help, exit codes, one clear line for a mistake and no traceback."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mdtnet.builtin.render import RenderConfig, render_dataset
from mdtnet.checkpoint import load_checkpoint, load_model, save_checkpoint
from mdtnet.cli import train
from mdtnet.cli.main import GROUPS, VERBS, main
from mdtnet.cli.parse import parse
from mdtnet.config import EvalConfig
from mdtnet.config_file import PRESETS
from mdtnet.errors import ExportError
from mdtnet.system.terminal import say

CONFIGS = PRESETS / "configs"
HEAVY = ("torch", "torchvision", "timm", "accelerate", "matplotlib", "huggingface_hub", "onnxruntime", "openvino")


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("videos") / "set"
    render_dataset(out, RenderConfig(train_clips=3, val_clips=2, size=40, actions=("raise_arms", "lower_arms")))
    return out


@pytest.fixture(scope="module")
def trained(videos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "--out", str(out), *TINY, "--data", str(videos / "train.csv"), "--data.val",
                 str(videos / "val"), "--model", "mdtnet2", "--trunk=resnet18"]) == 0  # fmt: skip
    return out


TINY = ["--train.epochs", "1", "--train.batch_size", "4", "--data.size", "32", "--data.short_side", "36",
        "--data.num_segments", "4", "--model.width", "0.125"]  # fmt: skip
SMALL = ["--model", "tsn", "--trunk", "resnet18"]


WITHOUT_TORCH = [
    [],
    ["--help"],
    ["--version"],
    ["trian"],
    ["data"],
    ["data", "--help"],
    ["data", "inof"],
    ["train", "--epochs", "3"],
    ["train", "--train.epochs", "many"],
    ["train", "--config", "key.yaml"],
    ["train", "--train.lr", "-1"],
    ["test"],
    ["test", "x.pt", "--data", "x", "--clips", "0"],
    ["saliency", "x.mp4", "-o", "x.png", "--floor", "2"],
    ["predict", "none.onnx", "x.mp4"],
    ["report", "empty"],
    ["cost", "mdtnet3"],
    *([*verb.split(), "--help"] for verb in VERBS),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict[str, dict]:
    """Words -> exit code, output, CPU seconds, and the heavy packages that are loaded by then; one fresh process."""
    folder = tmp_path_factory.mktemp("answers")
    (folder / "empty").mkdir()
    (folder / "key.yaml").write_text("train: {epohcs: 3}")
    code = f"""
import contextlib, io, json, os, sys, time
from mdtnet.cli.main import main
found = {{}}
for words in {WITHOUT_TORCH!r}:
    out, before = io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code or 0
    heavy = [name for name in {HEAVY!r} if name in sys.modules]
    seconds = time.process_time() - before
    found[" ".join(words)] = {{"code": code, "said": out.getvalue(), "seconds": seconds, "heavy": heavy}}
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", WITHOUT_TORCH, ids=" ".join)
def test_help_and_mistakes_need_no_torch(words, answers):
    found = answers[" ".join(words)]
    assert found["heavy"] == []
    assert found["seconds"] < 0.5
    assert found["code"] == (
        0 if words[-1:] in (["--help"], ["--version"]) else {"report": 3, "predict": 4}.get("".join(words[:1]), 2)
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, answers):
    said = answers[f"{verb} --help"]["said"]
    usage, *rest = said.splitlines()
    assert usage.startswith(f"usage: mdtnet {verb}")
    assert rest[0] == ""  # one line
    assert VERBS[verb].help in said
    assert "--" in said
    assert "True" not in said
    assert "False" not in said
    assert "METHOD" not in said


def test_usage_is_short(answers):
    for verb, usage in {
        "train": "[--config FILE] [--SECTION.OPTION VALUE ...]",
        "test": "CHECKPOINT --data DATA [--OPTION VALUE ...]",
        "cost": "MODEL [--OPTION VALUE ...]",
        "predict": "CHECKPOINT SOURCE ... [--OPTION VALUE ...]",
        "data prepare": "DATASET --root ROOT --out OUT [--OPTION VALUE ...]",
        "saliency": "SOURCE --out OUT [--OPTION VALUE ...]",
    }.items():
        assert answers[f"{verb} --help"]["said"].splitlines()[0] == f"usage: mdtnet {verb} {usage}"


def test_booleans_are_written_alike(answers):
    text = " ".join(answers["train --help"]["said"].split())
    for option in ("--data.flip {true,false,swap}", "--train.sync_bn {true,false}", "--test.flip {true,false}"):
        assert option in text
    assert "(default: true)" in text
    assert "(default: 30,40,50)" in text


def test_overview_names_every_verb_in_groups(answers):
    said = answers["--help"]["said"]
    lines = said.splitlines()
    places = [lines.index(group) for group in GROUPS]
    assert places == sorted(places)
    for group, verbs in GROUPS.items():
        for verb in verbs:
            (place,) = (i for i, line in enumerate(lines) if line.startswith(f"  mdtnet {verb}  "))
            assert place > lines.index(group)
    assert answers[""]["said"] == said


def test_data_has_verbs_of_its_own(answers):
    said = answers["data --help"]["said"]
    assert all(f"mdtnet data {verb} " in said for verb in ("render", "prepare", "check", "pack", "info"))
    assert "mdtnet train" not in said
    assert answers["data"]["said"] == "mdtnet: mdtnet data needs one of: render, prepare, check, pack, info\n"
    assert "did you mean 'data info'" in answers["data inof"]["said"]


def test_every_verb_stands_in_its_family():
    assert list(VERBS) == [name for verbs in GROUPS.values() for name in verbs]
    assert sum(map(len, GROUPS.values())) == len(VERBS)


def test_train_test_predict_saliency_report(videos, trained, tmp_path, capsys):
    for name in (
        "config.yaml",
        "log.csv",
        "scores.npz",
        "metrics.json",
        "report.html",
        "checkpoints/best.pt",
    ):
        assert (trained / name).is_file(), name
    saved = yaml.safe_load((trained / "config.yaml").read_text())
    assert saved["model"]["trunk"] == "resnet18"
    best = trained / "checkpoints/best.pt"

    code, out, _ = run(capsys, "test", best, "--data", videos / "val", "--clips", 2, "--crops", 3, "--out", tmp_path)
    assert code == 0
    assert "top-1" in out
    figures = json.loads((tmp_path / "metrics.json").read_text())
    assert figures["videos"] == 4
    assert (figures["protocol"]["clips"], figures["protocol"]["crops"]) == (2, 3)

    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    target = tmp_path / "predictions.json"
    code, out, err = run(capsys, "predict", best, videos / "val", broken, "--topk", 2, "--json", target)
    assert code == 1
    assert "broken.mp4" in err
    assert "1 of 5 videos could not be read" in err
    found = json.loads(target.read_text())
    assert [len(p["predictions"]) for p in found] == [2, 2, 2, 2, 0]
    assert sum(p["probability"] for p in found[0]["predictions"]) == pytest.approx(1)

    source = next((videos / "val").rglob("*.mp4"))
    for name in ("sheet.png", "overlay.mp4"):
        assert run(capsys, "saliency", source, "-o", tmp_path / name, "--variant", "phase")[0] == 0
        assert (tmp_path / name).stat().st_size > 1000
    assert run(capsys, "report", trained)[0] == 0
    assert run(capsys, "report", trained, trained, "--out", tmp_path / "both.html")[0] == 0


def test_command_line_goes_over_the_config(videos, tmp_path, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{train: {videos}/train.csv, size: 48}}\ntrain: {{epochs: 50, lr: 1e-3}}\n")
    out = tmp_path / "run"
    assert (
        run(capsys, "train", "--config", config, "--out", out, *TINY, "--trunk", "resnet18", "--model", "tsn")[0] == 0
    )
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert saved["train"]["epochs"] == 1
    assert saved["train"]["lr"] == 1e-3
    assert saved["data"]["size"] == 32


def test_what_is_typed_goes_over_the_config_also_where_it_is_the_default(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("train: {epochs: 50, partial_bn: true, steps: [1]}\nmodel: {weights: x.pt}\ntest: {clips: 10}\n")
    words = [
        "--config",
        config,
        "--train.epochs",
        70,
        "--train.partial_bn",
        "false",
        "--model.weights",
        "",
        "--out",
        "r",
    ]
    found = train.run_config(parse("train", VERBS["train"], [str(word) for word in words]))
    assert (found.out, found.train.epochs, found.train.partial_bn, found.model.weights) == ("r", 70, False, "")
    assert (found.train.steps, found.test.clips) == ((1,), 10)


@pytest.mark.parametrize("words", [["--train.steps", "5,9"], ["--train.steps=5,9"], ["--train.steps", "[5, 9]"]])
def test_lists_need_no_brackets(words):
    assert train.run_config(parse("train", VERBS["train"], words)).train.steps == (5, 9)


def test_help_shows_defaults_and_no_group_of_options(capsys):
    with pytest.raises(SystemExit):
        parse("train", VERBS["train"], ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "Passes over the training videos. (default: 70)" in text
    assert "--config FILE YAML file" in text
    assert "--train CONFIG" not in text


def test_a_test_without_a_readable_video(trained, tmp_path, capsys):
    one, other, *_ = load_checkpoint(trained / "checkpoints/best.pt").classes
    (tmp_path / "list.csv").write_text(f"path,label\na.mp4,{one}\nb.mp4,{other}\n")
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    words = ["--data", tmp_path / "list.csv", "--out", tmp_path / "test"]
    code, out, err = run(capsys, "test", trained / "checkpoints/best.pt", *words)
    assert code == 3
    assert "none of the 2 videos can be read" in err
    assert "over 0 videos" not in out


def test_a_test_is_as_the_run_says_unless_told_otherwise(videos, trained, tmp_path, capsys):
    found = load_checkpoint(trained / "checkpoints/best.pt")
    config = replace(found.config, test=EvalConfig(clips=2, crops=3, fusion="logits"))
    path = tmp_path / "run/checkpoints/best.pt"
    path.parent.mkdir(parents=True)
    save_checkpoint(path, model=load_model(trained / "checkpoints/best.pt"), config=config, classes=found.classes)
    for words, name, clips, fusion in (
        ([], "test_val_2x3", 2, "logits"),
        (["--clips", 1, "--flip", "true"], "test_val_1x3_flip", 1, "logits"),
        (["--protocol", "efficient"], "test_val_efficient", 1, "softmax"),
    ):
        assert run(capsys, "test", path, "--data", videos / "val", *words)[0] == 0
        said = json.loads((tmp_path / "run" / name / "metrics.json").read_text())["protocol"]
        assert (said["clips"], said["fusion"], said["flip"]) == (clips, fusion, "--flip" in words)


def test_a_test_replaces_none_but_its_own_results(videos, trained, tmp_path, capsys):
    checkpoints = tmp_path / "run/checkpoints"
    shutil.copytree(trained / "checkpoints", checkpoints)
    words = ["--data", videos / "val"]
    for _ in range(2):
        assert run(capsys, "test", checkpoints / "best.pt", *words)[0] == 0
    table = tmp_path / "run/test_val_1x1/scores.npz"
    before = table.read_bytes()
    for name, more, said in (
        ("last.pt", [], "checkpoint = "),
        ("best.pt", ["--rule", "random"], "rule = 'uniform', not 'random'"),
        ("best.pt", ["--data", videos / "val.csv"], "data = "),
    ):
        code, _, err = run(capsys, "test", checkpoints / name, *words, *more)
        assert code == 2
        assert f"test_val_1x1 holds the test with {said}" in err
        assert "--out" in err
    assert run(capsys, "test", checkpoints / "last.pt", *words, "--out", table.parent)[0] == 2
    assert run(capsys, "fuse", table, table, "--out", table.parent)[0] == 2
    assert table.read_bytes() == before


def test_results_that_cannot_be_written_are_refused_before_the_work(videos, trained, tmp_path, monkeypatch, capsys):
    best, file = trained / "checkpoints/best.pt", tmp_path / "file"
    file.touch()
    monkeypatch.setattr("mdtnet.evaluation.evaluate", None)
    monkeypatch.setattr("mdtnet.inference.recogniser.Recogniser.predict_many", None)
    for words, place in (
        (["test", best, "--data", videos / "val", "--out", file], file),
        (["predict", best, videos / "val", "--json", tmp_path / "none/o.json"], tmp_path / "none/o.json"),
        (["train", *TINY, *SMALL, "--data", videos / "train.csv", "--out", file], file),
    ):
        code, _, err = run(capsys, *words)
        assert code == 2
        assert err.splitlines()[-1].startswith(f"mdtnet: {place}")  # after warnings about the videos


def test_a_full_disk_is_one_line(videos, tmp_path, capsys):
    """A limit on the size of files stands for it."""
    resource = pytest.importorskip("resource")
    out = tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        code, _, err = run(capsys, "train", *TINY, *SMALL, "--data", videos / "train.csv", "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert err.splitlines()[-1] == f"mdtnet: {out}/checkpoints/last.pt: File too large"
    assert not list(out.glob("checkpoints/.*"))


def test_a_narrow_encoding_ends_nothing(videos, trained, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", write_through=True))
    assert main(["predict", str(trained / "checkpoints/best.pt"), str(next((videos / "val").rglob("*.mp4")))]) == 0
    assert b"  ????" in written.getvalue()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_are_valid(path):
    from mdtnet.config_file import load_yaml

    load_yaml(path)


MISTAKES = {
    "no such verb": (["trian"], 2, "did you mean 'train'"),
    "unknown option": (["train", "--train.epohcs", "3"], 2, "did you mean '--train.epochs'"),
    "a part of an option's name": (["train", "--train.epoch", "3"], 2, "did you mean '--train.epochs'"),
    "no frames to count": (["cost", "mdtnet2", "--segments", "0"], 2, "--segments is 0, expected at least 1"),
    "wrong choice": (["train", "--model", "mdtnet3"], 2, "did you mean 'mdtnet2'"),
    "wrong type": (["train", "--train.epochs", "many"], 2, "--train.epochs is 'many', expected int"),
    "wrong boolean": (["train", "--train.sync_bn", "maybe"], 2, "is 'maybe', expected one of true, false"),
    "wrong item": (["train", "--train.trackers", "tensorbord"], 2, "did you mean 'tensorboard'"),
    "wrong number in a list": (["explain", "x.pt", "--video", "v", "-o", "o", "--stages", "a"], 2, "--stages is 'a'"),
    "no value": (["train", "--config"], 2, "--config needs a value"),
    "nothing given": (["test"], 2, "mdtnet test needs CHECKPOINT, --data (mdtnet test --help shows how)"),
    "too much given": (["cost", "tsn", "tsm"], 2, "unexpected argument 'tsm'"),
    "no such model": (["cost", "mdtnet3"], 2, "mdtnet: MODEL is 'mdtnet3', expected one of tsn, tsm, tea, tdn"),
    "no such data set": (
        ["data", "prepare", "ucf", "--root", ".", "--out", "x"],
        2,
        "DATASET is 'ucf', expected one of",
    ),
    "no such fusion": (
        ["fuse", "a", "--out", "b", "--fusion", "mean"],
        2,
        "--fusion is 'mean', expected one of softmax",
    ),
    "no verb of data": (["data"], 2, "mdtnet data needs one of: render, prepare, check, pack, info"),
    "an option of data": (["data", "--out", "x"], 2, "mdtnet data needs one of: render, prepare, check, pack, info"),
    "no repeats": (["cost", "tsn", "--repeats", "-1"], 2, "--repeats is -1, expected 0 or more"),
    "no device": (["predict", "best.onnx", "one_class", "--device", "cuda"], 2, "exported networks run on the CPU"),
    "no exported file": (["predict", "best.onnx", "one_class"], 4, "best.onnx: no such file"),
    "nothing that opens": (["data", "info", "two_classes"], 3, "two_classes: none of the 2 videos can be opened"),
    "two precisions": (["export", "x.pt", "--half", "--int8"], 2, "--half and --int8 exclude each other"),
    "no data": (["train"], 2, "data.train is empty"),
    "missing data": (["train", "--data", "nowhere"], 3, "nowhere"),
    "unknown key": (
        ["train", "--config", "key.yaml"],
        2,
        "unknown key 'train.epohcs'; did you mean 'train.epochs'?",
    ),
    "wrong value": (["train", "--config", "value.yaml"], 2, "model.trunk is 'resnet5'"),
    "not yaml": (["train", "--config", "broken.yaml"], 2, "broken.yaml, line 2: not YAML: expected ',' or ']'"),
    "missing config": (["train", "--config", "none.yaml"], 2, "none.yaml: cannot be read"),
    "empty class": (["train", "--data", "empty_class"], 3, "waving"),
    "one class": (["train", "--data", "one_class"], 3, "one class"),
    "label out of range": (["train", "--data", "range.csv", "--data.classes", "classes.txt"], 3, "7"),
    "a number out of range": (
        ["train", "--data", "one_class", "--data.val_fraction", "20"],
        2,
        "data.val_fraction is 20, expected more than 0 and less than 1",
    ),
    "a number of salience": (
        ["saliency", "one_class/a/1.mp4", "-o", "x.png", "--quantile", "98"],
        2,
        "mdtnet: --quantile is 98, expected 0 to 1",
    ),
    "no segments": (
        ["saliency", "one_class/a/1.mp4", "-o", "x.png", "--segments", "0"],
        2,
        "--segments is 0, expected at least 1",
    ),
    "a number in a study": (
        ["study", "study.yaml"],
        2,
        "study.yaml: tsn on x seed 0: train.lr is -1, expected 0 or more",
    ),
    "a file as folder": (["data", "check", "range.csv", "--out", "key.yaml"], 2, "key.yaml: folder cannot"),
    "no checkpoint": (["test", "none.pt", "--data", "one_class"], 4, "none.pt"),
    "not a checkpoint": (["predict", "broken.yaml", "x.mp4"], 4, "broken.yaml"),
    "no videos": (["predict", "broken.yaml", "*.nothing"], 3, "*.nothing"),
    "salience of nothing": (["saliency", "none.mp4", "-o", "x.png"], 3, "none.mp4"),
    "salience into text": (["saliency", "one_class/a/1.mp4", "-o", "x.txt"], 2, ".png"),
    "report of nothing": (["report", "none"], 3, "none"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_get_one_clear_line(mistake, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("key.yaml").write_text("train: {epohcs: 3}")
    Path("value.yaml").write_text("model: {trunk: resnet5}")
    Path("broken.yaml").write_text("train: [1\ndata: 2")
    Path("study.yaml").write_text("systems: [tsn]\ndata: {x: {train: x}}\nseeds: [0]\nrun: {train: {lr: -1.0}}\n")
    Path("classes.txt").write_text("a\nb\n")
    Path("range.csv").write_text("path,label\none_class/a/1.mp4,0\none_class/a/1.mp4,7\n")
    for folder in ("empty_class/running", "empty_class/waving", "one_class/a", "two_classes/a", "two_classes/b"):
        Path(folder).mkdir(parents=True)
    for name in ("empty_class/running/1.mp4", "one_class/a/1.mp4", "two_classes/a/1.mp4", "two_classes/b/1.mp4"):
        Path(name).write_bytes(b"video")
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    arguments, expected, words = MISTAKES[mistake]
    code, _, err = run(capsys, *arguments)
    assert code == expected
    assert words in " ".join(err.split())
    *warnings, mistake = err.splitlines()
    assert mistake.startswith("mdtnet:")
    assert not any(line.startswith("mdtnet:") for line in warnings)
    assert "Traceback" not in err
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before, "a mistake must leave nothing behind"


def test_unreadable_training_videos(videos, tmp_path, capsys):
    rows = (videos / "train.csv").read_text().splitlines()
    listing = videos / "with_broken.csv"
    (videos / "broken.mp4").write_bytes(b"")
    listing.write_text("\n".join([*rows, "broken.mp4,raise_arms"]) + "\n")
    common = [
        "train",
        "--data",
        listing,
        "--data.val",
        videos / "val.csv",
        *TINY,
        "--model",
        "tsn",
        "--trunk",
        "resnet18",
    ]
    code, _, err = run(capsys, *common, "--out", tmp_path / "strict")
    assert code == 3
    assert "broken.mp4" in err
    code, out, _ = run(capsys, *common, "--out", tmp_path / "skip", "--data.on_unreadable", "skip")
    assert code == 0
    assert "1 unreadable" in out
    assert "broken.mp4" in (tmp_path / "skip" / "unreadable.csv").read_text()
    assert "broken.mp4" in (tmp_path / "skip" / "train.log").read_text()
    assert "broken.mp4" in (tmp_path / "skip" / "report.html").read_text()


def test_three_lines_of_python(trained, videos):
    import mdtnet

    model = mdtnet.Recogniser.load(trained / "checkpoints/best.pt")
    prediction = model.predict(next((videos / "val").rglob("*.mp4")))
    assert set(prediction.classes) == {"raise_arms", "lower_arms"}


def test_cost_prints_the_line_that_scripts_read(capsys):
    code, out, _ = run(capsys, "cost", "tsn", "--repeats", 0, "--classes", 11)
    assert code == 0
    assert "GMACs: 32.70\n" in out
    assert "not counted: nothing" in out


def test_odd_videos_never_crash_prediction(trained, shared, capsys):
    code, _, err = run(capsys, "predict", trained / "checkpoints/best.pt", shared / "data/odd_videos")
    assert code == 1
    for name in ("result.webm", "amr_nb_1f.3gp", "test_case_1185230.mp4"):
        assert name in err
    assert "Traceback" not in err


def test_module_runs(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "mdtnet", "--version"],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert found.stdout.startswith("mdtnet ")


def test_what_is_said_is_said_as_it_is(capsys):
    """Names of files and classes are no markup, are not coloured, wrapped or turned into pictures."""
    text = "[bold]a[/] :smile: " + 30 * "long/folder/" + "1 2.5 'x' https://x.org"
    say(text)
    say("[x", style="bold")
    assert capsys.readouterr().out == f"{text}\n[x\n"


def test_a_test_names_options_as_they_are_typed(videos, trained, tmp_path, capsys):
    words = ["test", trained / "checkpoints/best.pt", "--data", videos / "val", "--out", tmp_path / "x"]
    code, _, err = run(capsys, *words, "--clips", "0")
    assert (code, err) == (2, "mdtnet: --clips is 0, expected at least 1\n")
    code, _, err = run(capsys, *words, "--workers", "-1")
    assert (code, err) == (2, "mdtnet: --workers is -1, expected 0 or more\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["test", "x.pt", "--data", "y", "--data.root", "z"], "unknown option --data.root; did you mean '--root'?"),
        (["test", "x.pt", "--data", "y", "--data.root=z"], "unknown option --data.root; did you mean '--root'?"),
        (["test", "x.pt", "--data", "y", "--test.clips", "2"], "unknown option --test.clips; did you mean '--clips'?"),
        (["train", "--data.trian", "y"], "unknown option --data.trian; did you mean '--data.train'?"),
        (["predict", "x.pt", "y", "--json.x", "z"], "unknown option --json.x; did you mean '--json'?"),
    ],
)
def test_options_of_other_verbs_are_refused(capsys, words, said):
    code, _, err = run(capsys, *words)
    assert (code, err.strip()) == (2, f"mdtnet: {said}")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, "stopped by SIGTERM"), (signal.SIGINT, "interrupted")])
@pytest.mark.parametrize(
    "wrapped", [ExportError("torch.export cannot follow the network"), AttributeError("exc"), None]
)
def test_a_signal_is_the_end_even_where_a_library_makes_an_error_of_it(monkeypatch, capsys, number, said, wrapped):
    def verb(arguments):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt:
            if wrapped:
                raise wrapped from None
            raise

    monkeypatch.setattr("mdtnet.cli.main._main", verb)
    with handled(number, signal.default_int_handler):
        code, _, err = run(capsys, "export")
        assert (code, err) == (128 + number, f"mdtnet: {said}\n")
        assert signal.getsignal(number) is signal.default_int_handler


def test_an_interrupt_that_the_parent_ignores_stays_ignored(monkeypatch):
    """As of `nohup mdtnet train &` in a script: Ctrl-C is for what runs in front."""

    def verb(arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    monkeypatch.setattr("mdtnet.cli.main._main", verb)
    with handled(signal.SIGINT, signal.SIG_IGN):
        assert main(["train"]) == 0


@contextmanager
def handled(number, handler):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
