"""`convert`: a recognised checkpoint becomes one file that explains itself; the same by the Hub's mixin."""

import hashlib
import json

import pytest
import safetensors
import torch
from official import OFFICIAL, renamed
from torch import nn

import mdtnet
from mdtnet.checkpoint import load_checkpoint, save_checkpoint
from mdtnet.config import DataConfig, ModelConfig, RunConfig
from mdtnet.convert import convert
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.inference.recogniser import Recogniser
from mdtnet.models.build import build_model

TDN = RunConfig(data=DataConfig(num_segments=8), model=ModelConfig(name="tdn", trunk="resnet18", width=0.125))


@pytest.fixture
def foreign(tmp_path):
    model = build_model(ModelConfig(name="tsm", trunk="resnet18"), num_classes=3)
    torch.save({"state_dict": renamed(model, OFFICIAL, shift=True)}, tmp_path / "tsm.pth")
    return tmp_path / "tsm.pth"


@pytest.fixture
def own(tmp_path):
    model = build_model(TDN.model, num_classes=3)
    save_checkpoint(tmp_path / "tdn.pt", model=model, config=TDN, classes="abc", metrics={"val_top1": 0.5})
    return tmp_path / "tdn.pt"


def logits(model: nn.Module, segments: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model(torch.randn(1, segments, model.frames_per_segment, 3, 32, 32, generator=generator))


def about(path) -> dict:
    with safetensors.safe_open(path, "pt") as file:
        return json.loads(file.metadata()["mdtnet"])


def test_the_file_explains_itself(foreign, tmp_path):
    (tmp_path / "labels.txt").write_text("sit\nstand up\nwave\n")
    report = convert(foreign, tmp_path / "x.safetensors", labels=tmp_path / "labels.txt", num_segments_trained=16)
    found = about(tmp_path / "x.safetensors")
    assert (found["system"], found["trunk"], found["num_classes"]) == ("tsm", "resnet18", 3)
    assert found["num_segments_trained"] == 16
    assert found["classes"] == ["sit", "stand up", "wave"]
    assert found["preprocessing"]["num_segments"] == 16
    assert found["preprocessing"]["size"] == 224
    assert found["preprocessing"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    digest = hashlib.sha256(foreign.read_bytes()).hexdigest()
    assert found["source"] == {"kind": "official TSM", "ignored": [], "file": "tsm.pth", "sha256": digest}
    assert report.sha256 == digest
    assert str(report).startswith("official TSM: tsm on resnet18, T = 16, 3 classes")


def test_it_loads_as_the_same_network(foreign, tmp_path):
    convert(foreign, tmp_path / "x.safetensors")
    model = mdtnet.load_model(tmp_path / "x.safetensors")
    assert torch.equal(logits(model), logits(mdtnet.load_model(foreign)))
    assert model.num_segments_trained is None
    again = convert(tmp_path / "x.safetensors", tmp_path / "y.safetensors")
    assert again.kind == "official TSM"
    assert about(tmp_path / "y.safetensors")["source"]["file"] == "tsm.pth"


def test_own_checkpoint_keeps_its_config_and_t(own, tmp_path, caplog):
    report = convert(own, tmp_path / "x.safetensors")
    assert report.num_segments_trained == 8
    assert not caplog.text
    found = load_checkpoint(tmp_path / "x.safetensors")
    assert found.config == TDN
    assert found.classes == ("a", "b", "c")
    assert found.metrics == {"val_top1": 0.5}
    model = mdtnet.load_model(tmp_path / "x.safetensors")
    assert model.num_segments_trained == 8  # so that T = 4 below does not change how it fuses
    assert torch.equal(logits(model), logits(mdtnet.load_model(own)))
    model.num_segments_trained = None
    assert not torch.equal(logits(model), logits(mdtnet.load_model(own)))


def test_wrong_labels_and_segments(foreign, tmp_path):
    (tmp_path / "labels.txt").write_text("sit\nstand\n")
    with pytest.raises(CheckpointError, match=r"labels\.txt: 2 class names, but the checkpoint has 3"):
        convert(foreign, tmp_path / "x.safetensors", labels=tmp_path / "labels.txt")
    with pytest.raises(CheckpointError, match=r"none\.txt: class names cannot be read"):
        convert(foreign, tmp_path / "x.safetensors", labels=tmp_path / "none.txt")
    with pytest.raises(ConfigError, match="num_segments_trained is 0"):
        convert(foreign, tmp_path / "x.safetensors", num_segments_trained=0)
    assert not (tmp_path / "x.safetensors").exists()


def test_out_must_be_another_file_in_a_folder_that_exists(own, tmp_path):
    for out in (tmp_path, tmp_path / "nowhere/x.safetensors"):
        with pytest.raises(ConfigError, match="cannot be written"):
            convert(own, out)
    with pytest.raises(ConfigError, match="is the checkpoint itself"):
        convert(own, tmp_path / "." / own.name)


def test_converted_image_weights_are_a_start_as_before(tmp_path):
    state = {
        k.removeprefix("base_model."): v
        for k, v in renamed(build_model(ModelConfig(name="tsn", trunk="resnet18"), num_classes=3), OFFICIAL).items()
    }
    torch.save({k.replace("new_fc", "fc"): v for k, v in state.items()}, tmp_path / "resnet.pth")
    assert convert(tmp_path / "resnet.pth", tmp_path / "x.safetensors").kind == "torchvision or timm ResNet"
    for name in ("resnet.pth", "x.safetensors"):
        start = ModelConfig(name="tsm", trunk="resnet18", weights=str(tmp_path / name))
        model = build_model(start, num_classes=3)
        assert model.pretrained == "ImageNet"
        assert torch.equal(model.trunk.conv1.weight, state["conv1.weight"])
        assert not torch.equal(model.head.fc.weight, state["new_fc.weight"])


def test_classifier_is_needed(tmp_path):
    model = build_model(ModelConfig(name="tsn", trunk="resnet18"), num_classes=3)
    torch.save(model.trunk.state_dict(), tmp_path / "trunk.pth")
    with pytest.raises(CheckpointError, match=r"without its classifier, only good as model\.weights"):
        convert(tmp_path / "trunk.pth", tmp_path / "x.safetensors")


def test_hub_mixin_on_a_local_folder(own, tmp_path):
    first = Recogniser.load(own, device="cpu")
    first.save_pretrained(tmp_path / "repository")
    assert json.loads((tmp_path / "repository/config.json").read_text())["id2label"] == {
        "0": "a",
        "1": "b",
        "2": "c",
    }
    second = Recogniser.from_pretrained(tmp_path / "repository", device="cpu")
    assert second.device == torch.device("cpu")
    assert second.config == TDN
    assert tuple(second.classes) == ("a", "b", "c")
    assert torch.equal(logits(second.model), logits(first.model))
    second.save_pretrained(tmp_path / "again")
    assert about(tmp_path / "again/model.safetensors")["num_segments_trained"] == 8


def test_push_to_hub_uploads_the_folder(own, tmp_path, monkeypatch):
    uploaded = {}

    class Api:
        def __init__(self, **_):
            pass

        def create_repo(self, repo_id, **_):
            return type("Url", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id, folder_path, **_):
            uploaded[repo_id] = sorted(p.name for p in folder_path.iterdir())

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    Recogniser.load(own, device="cpu").push_to_hub("somebody/something")
    assert {"model.safetensors", "config.json", "README.md"} <= set(uploaded["somebody/something"])
