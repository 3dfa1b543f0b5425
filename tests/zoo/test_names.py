"""The command line and Python with names in the place of files, against a zoo on this machine."""

import json
import pickle
import subprocess
import sys

import pytest
import tiny
import torch
from official import OFFICIAL, renamed
from zoo.loopback import serve, write_table

import mdtnet
from mdtnet.checkpoint import load_checkpoint, save_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import EvalConfig, ModelConfig, RunConfig
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.models.build import build_model
from mdtnet.zoo.find import located
from mdtnet.zoo.table import LABELS

NAME = "tsn-resnet18-mine-2f"
TERMS = f"{NAME}: MIT (its repository); trained on mine: terms not known here: ask its owner"
UCF101 = json.loads(LABELS.read_text(encoding="utf-8"))["ucf101"]


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """The bytes of an official TSN on ResNet-18."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(name="tsn", trunk="resnet18"), num_classes=101)
    torch.nn.init.normal_(model.head.fc.weight, std=0.1)
    path = tmp_path_factory.mktemp("official") / "x.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in renamed(model, OFFICIAL).items()}}, path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def zoo(official, tmp_path_factory):
    """A server with one file, its table, and a store that all tests of this file share."""
    folder = tmp_path_factory.mktemp("zoo")
    server = serve()
    server.files["/a.pth"] = official
    figures = [{"top1": 90.0, "words": "2 frames", "test": {"segments": 3, "crops": 5, "flip": True}}]
    more = {"flip": "true", "published": figures}
    write_table(folder / "table.json", f"{server.address}/a.pth", content=official, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MDTNET_HOME", str(folder / "home"))
        patch.setenv("MDTNET_ZOO", str(folder / "table.json"))
        patch.setenv("MDTNET_OFFLINE", "")
        yield folder
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=1)


def test_predict_by_name(zoo, clips, tmp_path, capsys):
    assert main(["predict", NAME, str(clips / "left" / "00.mp4"), "--json", str(tmp_path / "x.json")]) == 0
    out = capsys.readouterr().out
    assert any(name in out for name in UCF101)
    (row,) = json.loads((tmp_path / "x.json").read_text())
    assert row["predictions"][0]["class"] in UCF101
    assert row["licence"] == TERMS


def test_the_published_protocol(zoo, clips, tmp_path, capsys):
    (tmp_path / "list.csv").write_text(f"{clips}/left/00.mp4,0\n")
    words = ["test", NAME, "--data", str(tmp_path / "list.csv"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*words, "--protocol", "published"]) == 0
    said = json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"]
    wanted = {"num_segments": 3, "crops": 5, "flip": True, "flip_labels": "same", "crop_size": 224, "clips": 1}
    assert wanted.items() <= said.items()
    assert said["crop_order"] == ["top left", "top right", "bottom left", "bottom right", "centre"]
    assert "5 crop(s), each" in capsys.readouterr().out
    assert main([*words, "--protocol", "publishd"]) == 2
    assert "did you mean 'published'" in capsys.readouterr().err


def test_the_published_protocol_of_an_own_run_is_refused(tmp_path):
    model = build_model(ModelConfig(name="tsn", trunk="resnet18", width=0.125), num_classes=2)
    config = RunConfig(model=ModelConfig(name="tsn", trunk="resnet18", width=0.125))
    save_checkpoint(tmp_path / "x.pt", model=model, config=config, classes=("a", "b"))
    assert main(["test", str(tmp_path / "x.pt"), "--data", str(tmp_path), "--protocol", "published"]) == 2


def test_train_starts_from_a_name(zoo, clips, tmp_path, capsys):
    words = ["--data", clips, "--data.val", clips, "--model", "mdtnet2", "--trunk", "resnet18", "--train.epochs", 1,
             "--data.num_segments", 2, "--data.size", 32, "--data.short_side", 32, "--train.batch_size", 2,
             "--train.device", "cpu", "--out", tmp_path / "run", "--model.weights", NAME]  # fmt: skip
    assert main(["train", *map(str, words)]) == 0
    log = capsys.readouterr().err
    assert f"start: {NAME} (official TSN, tsn on resnet18)" in log
    assert "start: taken over trunk 120" in log
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "best.pt").config.model.weights == NAME


def test_convert_keeps_what_came_with_the_name(zoo, tmp_path):
    assert main(["convert", NAME, str(tmp_path / "x.safetensors")]) == 0
    found = load_checkpoint(tmp_path / "x.safetensors")
    assert list(found.classes) == UCF101
    assert found.config.data.num_segments == found.num_segments_trained == 2
    assert found.config.test == EvalConfig(segments=3, crops=5, flip=True)
    assert found.source["licence"] == TERMS
    assert found.source["file"] == "a.pth"
    assert found.source["published"] == "top-1 90 % (2 frames)"


def test_explain_by_name(zoo, clips, tmp_path):
    words = [
        "explain",
        NAME,
        "--video",
        str(clips / "left" / "00.mp4"),
        "-o",
        str(tmp_path / "x.png"),
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    assert (tmp_path / "x.png").stat().st_size


@pytest.mark.slow
def test_export_by_name(zoo, clips, tmp_path):
    out = str(tmp_path / "x.onnx")
    assert main(["export", NAME, "--out", out, "--clips", str(clips)]) == 0
    assert main(["predict", out, str(clips / "left" / "00.mp4")]) == 0


def test_python_takes_names(zoo, clips):
    model = mdtnet.Recogniser.load(NAME, device="cpu")
    assert list(model.classes) == UCF101
    assert model.predict(clips / "left" / "00.mp4").classes[0] in UCF101
    assert mdtnet.load_model(NAME).num_segments_trained == 2


def test_an_existing_path_wins(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=f"^{NAME}: not an mdtnet checkpoint"):
        load_checkpoint(NAME)
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).mkdir()
    assert located(NAME).path.name == NAME
    assert located(NAME).entry is None


@pytest.mark.parametrize("verb", ["predict", "test", "convert", "export"])
def test_an_unknown_name_is_one_line_with_the_nearest(verb, zoo, clips, tmp_path, capsys):
    rest = {
        "predict": [str(clips)],
        "test": ["--data", str(clips)],
        "convert": [str(tmp_path / "x.safetensors")],
        "export": ["--out", str(tmp_path / "x.onnx")],
    }
    assert main([verb, "tsn-resnet18-mein-2f", *rest[verb]]) == 4
    said = capsys.readouterr().err
    assert f"tsn-resnet18-mein-2f: no such checkpoint file or name; did you mean '{NAME}'?" in said
    assert len(said.strip().splitlines()) == 1


def test_missing_files_are_called_files(zoo):
    for path in ("none.pt", "runs/mine/best.pt", "./none"):
        with pytest.raises(CheckpointError, match=r"no such checkpoint file$"):
            located(path)


def test_a_file_that_is_another_network_is_refused(zoo, official, store, server, tmp_path, monkeypatch):
    server.files["/a.pth"] = official
    write_table(tmp_path / "table.json", f"{server.address}/a.pth", content=official, trunk="resnet34")
    monkeypatch.setenv("MDTNET_ZOO", str(tmp_path / "table.json"))
    with pytest.raises(CheckpointError, match="holds tsn on resnet18 with 101 classes, expected tsn on resnet34 with"):
        load_checkpoint(NAME)


class Bomb:
    def __reduce__(self):
        import os

        return (os.mkdir, ("ran",))


def test_code_in_a_fetched_file_is_not_run(zoo, store, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    server.files["/a.pth"] = pickle.dumps(Bomb())
    write_table(tmp_path / "table.json", f"{server.address}/a.pth")
    monkeypatch.setenv("MDTNET_ZOO", str(tmp_path / "table.json"))
    assert main(["predict", NAME, str(tmp_path)]) in (3, 4)
    with pytest.raises(CheckpointError, match="not an mdtnet checkpoint"):
        load_checkpoint(NAME)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_our_own_keeps_what_it_says(zoo, store, server, tmp_path, monkeypatch):
    config = RunConfig(model=ModelConfig(name="tsn", trunk="resnet18", width=0.125))
    model = build_model(config.model, num_classes=2)
    save_checkpoint(tmp_path / "x.pt", model=model, config=config, classes=("a", "b"))
    server.files["/x.pt"] = (tmp_path / "x.pt").read_bytes()
    write_table(tmp_path / "table.json", f"{server.address}/x.pt", classes=2)
    monkeypatch.setenv("MDTNET_ZOO", str(tmp_path / "table.json"))
    found = load_checkpoint(NAME)
    assert (found.classes, found.config.data.num_segments, found.source["name"]) == (("a", "b"), 8, NAME)


# mdtnet zoo


def test_the_list(zoo, capsys):
    assert main(["zoo"]) == 0
    out = capsys.readouterr().out
    assert "tsm-resnet50-kinetics400-8f " in out
    assert "tdn-resnet50-sthv1-8f" not in out
    assert "20 of 116 names" in out
    assert main(["zoo", "--all"]) == 0
    assert "116 of 116 names" in capsys.readouterr().out
    assert main(["zoo", "--system", "tdn", "--data", "sthv2"]) == 0
    assert "4 of 116 names" in capsys.readouterr().out
    assert main(["zoo", "--system", "tdnn"]) == 2
    assert "did you mean 'tdn'" in capsys.readouterr().err


def test_what_is_on_this_disk(zoo, capsys):
    assert main(["zoo", "get", NAME]) == 0
    assert "a.pth  sha256 " in capsys.readouterr().out
    assert main(["zoo", "--local"]) == 0
    out = capsys.readouterr().out
    assert NAME in out
    assert "1 of 116 names" in out


def test_get_looks_at_all_names_first(store, server, tmp_path, monkeypatch, capsys):
    write_table(tmp_path / "table.json", f"{server.address}/a.pth")
    monkeypatch.setenv("MDTNET_ZOO", str(tmp_path / "table.json"))
    assert main(["zoo", "get", NAME, "tsn-resnet18-mien-2f"]) == 2
    assert f"did you mean '{NAME}'" in capsys.readouterr().err
    assert server.asked == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tsn-resnet50-kinetics400-8f", "--protocol published is --crops 5 --flip true --segments 25"),
        ("tsm-resnet50-sthv2-8f", "for research only, under the terms of its owner"),
        ("tdn-resnet50-sthv1-8f", "gdown --folder https://"),
        ("tsm-mobilenet_v2-jester-online-mit", "tsm, causal (online) on mobilenet_v2, 27 classes"),
        ("tsn-resnet18-hvu-event-8f", "names not known here: numbers; a video can have several"),
    ],
)
def test_show_says_what_one_is(zoo, name, words, capsys):
    assert main(["zoo", "show", name]) == 0
    out = capsys.readouterr().out
    assert words in out
    for title in (
        "trained on",
        "published" if "jester" not in name else "note",
        "licence",
        "cite",
        "source",
        "address",
    ):
        assert f"\n  {title} " in out


def test_show_and_get_know_the_network_of_the_package(capsys):
    assert main(["zoo", "show", "builtin"]) == 0
    assert main(["zoo", "get", "builtin"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("# MDT-Net2")
    assert "builtin.safetensors  comes with the package" in out


def test_offline_is_an_option_of_every_verb(zoo, store, server, clips, tmp_path, monkeypatch, capsys):
    write_table(tmp_path / "table.json", f"{server.address}/a.pth")
    monkeypatch.setenv("MDTNET_ZOO", str(tmp_path / "table.json"))
    for words in (
        ["zoo", "get", NAME],
        ["predict", NAME, str(clips)],
        ["convert", NAME, str(tmp_path / "x.safetensors")],
    ):
        monkeypatch.setenv("MDTNET_OFFLINE", "")
        assert main([*words, "--offline"]) == 4
        assert "not on this disk, and offline" in capsys.readouterr().err
    assert server.asked == []


def test_listing_needs_no_torch():
    code = """
import sys
from mdtnet.cli.main import main
code = main(["zoo", "--all"]) or main(["zoo", "show", "tsm-resnet50-kinetics400-8f"])
sys.exit(code or "torch" in sys.modules or "numpy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_are_no_start_for_another_trunk(zoo):
    with pytest.raises(CheckpointError, match="does not fit the model's trunk"):
        build_model(ModelConfig(name="tsm", trunk="resnet34", weights=NAME), num_classes=3)
    with pytest.raises(ConfigError):
        build_model(ModelConfig(name="tsm", trunk="resnet18", width=-1, weights=NAME), num_classes=3)


def test_a_classifier_gets_the_order_of_the_data(zoo, caplog):
    caplog.set_level("INFO")
    config = ModelConfig(name="mdtnet1", trunk="resnet18", weights=NAME)
    official = mdtnet.load_model(NAME).state_dict()["head.fc.weight"]
    backwards = tuple(reversed(UCF101))
    head = build_model(config, num_classes=101, classes=backwards).state_dict()["head.fc.weight"]
    assert torch.equal(head, official.flip(0))
    assert "start: the classifier's classes were in another order" in caplog.text
    head = build_model(config, num_classes=101, classes=UCF101).state_dict()["head.fc.weight"]
    assert torch.equal(head, official)
    others = tuple(f"class {i}" for i in range(101))
    head = build_model(config, num_classes=101, classes=others).state_dict()["head.fc.weight"]
    assert not torch.equal(head, official)
    assert "classifier of 101 classes replaced by a new one of 101" in caplog.text
