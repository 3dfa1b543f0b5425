"""`mdtnet convert` as a user meets it."""

import numpy as np
import pytest
import torch
from official import OFFICIAL, golden_state, renamed

import mdtnet
from mdtnet.cli.main import main
from mdtnet.config import ModelConfig
from mdtnet.models.build import build_model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    state = renamed(build_model(ModelConfig(name="tsn", trunk="resnet18"), num_classes=3), OFFICIAL)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "best": np.float32(1)}, folder / "tsn.pth")
    torch.save(state | {f"base_model.layer1.0.att.{i}.weight": torch.zeros(1) for i in range(12)}, folder / "more.pth")
    torch.save({k: v for k, v in state.items() if "layer2.1.conv2" not in k}, folder / "less.pth")
    torch.save({"encoder.weight": torch.zeros(1)}, folder / "other.pth")
    torch.save({"state_dict": state, "run": folder.joinpath}, folder / "code.pth")
    (folder / "labels.txt").write_text("sit\nstand up\nwave\n")
    (folder / "short.txt").write_text("sit\n")
    return folder


@pytest.fixture
def files(made, monkeypatch):
    """Good and bad checkpoints in the current folder."""
    monkeypatch.chdir(made)
    return made


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(["convert", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_convert_and_use(files, capsys):
    code, out, _ = run(capsys, "tsn.pth", "x.safetensors", "--labels", "labels.txt", "--num_segments_trained", "16")
    assert code == 0
    assert out.splitlines()[0] == "official TSN: tsn on resnet18, T = 16, 3 classes"
    assert "-> x.safetensors" in out
    model = mdtnet.load_model("x.safetensors")
    assert model.classes == ("sit", "stand up", "wave")
    assert model.config.data.num_segments == 16
    recogniser = mdtnet.Recogniser.load("x.safetensors", device="cpu")
    assert recogniser.classes == model.classes


REFUSED = {
    "half matching": (["more.pth", "x"], 4, ["more.pth: nearly official TSN", "layer1.0.att.9.weight and 2 more"]),
    "missing": (
        ["less.pth", "x"],
        4,
        ["less.pth: weights do not fit the model: trunk.layer2.1.conv2.weight is missing"],
    ),
    "unknown": (["other.pth", "x"], 4, ["other.pth: not an mdtnet checkpoint", "encoder.weight"]),
    "code": (["code.pth", "x"], 4, ["code.pth", "refused, since loading it would run code"]),
    "text": (["labels.txt", "x"], 4, ["labels.txt: not an mdtnet checkpoint"]),
    "no file": (["none.pth", "x"], 4, ["none.pth: no such checkpoint file"]),
    "labels": (["tsn.pth", "x", "--labels", "short.txt"], 4, ["short.txt: 1 class names, but the checkpoint has 3"]),
    "T": (["tsn.pth", "x", "--num_segments_trained", "0"], 2, ["num_segments_trained is 0, expected at least 1"]),
    "not T": (
        ["tsn.pth", "x", "--num_segments_trained", "many"],
        2,
        ["--num_segments_trained is 'many', expected int"],
    ),
    "folder": (["tsn.pth", "none/x"], 2, ["none/x: cannot be written"]),
    "itself": (["tsn.pth", "tsn.pth"], 2, ["tsn.pth: is the checkpoint itself"]),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_refused_in_one_line(mistake, files, capsys):
    arguments, expected, words = REFUSED[mistake]
    before = {p.name: p.stat().st_mtime_ns for p in files.iterdir()}
    code, _, err = run(capsys, *arguments)
    assert code == expected
    (line,) = err.splitlines()
    assert line.startswith("mdtnet: ")
    assert all(word in line for word in words)
    assert {p.name: p.stat().st_mtime_ns for p in files.iterdir()} == before


def test_a_converted_tdn_is_the_same_at_any_t(shared, tmp_path, capsys):
    torch.save({"state_dict": golden_state(shared / "golden", "tdn")}, tmp_path / "tdn.pth")
    x = torch.randn(1, 4, 5, 3, 64, 64)
    logits = {}
    for trained in ("", "8"):
        out = str(tmp_path / f"tdn{trained}.safetensors")
        code, _, err = run(
            capsys, str(tmp_path / "tdn.pth"), out, *(["--num_segments_trained", trained] if trained else [])
        )
        assert code == 0
        assert ("T of training is not in the file" in err) == (not trained)
        assert "base_model.conv1_temp.weight" in err
        with torch.no_grad():
            logits[trained] = mdtnet.load_model(out)(x)
    for trained, found in ((8, logits["8"]), (4, logits[""])):
        official = mdtnet.load_model(tmp_path / "tdn.pth", num_segments_trained=trained)
        with torch.no_grad():
            assert torch.equal(found, official(x))
    assert not torch.allclose(logits["8"], logits[""], atol=1e-3)
