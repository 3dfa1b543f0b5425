"""Checkpoints: a round trip, safe loading, whole files, and a clear error for what is not one."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from mdtnet import checkpoint as ckpt
from mdtnet.config import DataConfig, ModelConfig, RunConfig
from mdtnet.errors import CheckpointError
from mdtnet.models.build import build_model

CONFIG = RunConfig(
    data=DataConfig(num_segments=2, size=32, short_side=36),
    model=ModelConfig(name="tsn", trunk="resnet18", width=0.125, weights="imagenet"),
)


@pytest.fixture
def model():
    return build_model(replace(CONFIG.model, weights=""), num_classes=2).eval()


@pytest.fixture
def path(tmp_path, model):
    file = tmp_path / "best.pt"
    state = {"step": 3, "rng": [torch.get_rng_state()], "python": (1, (2, 3), None)}
    ckpt.save_checkpoint(
        file,
        model=model,
        config=CONFIG,
        classes=("sit", "stand"),
        training_state=state,
        metrics={"val_top1": 0.5},
    )
    return file


def test_round_trip(path):
    found = ckpt.load_checkpoint(path)
    assert found.config == CONFIG
    assert found.classes == ("sit", "stand")
    assert found.format_version == 1
    assert found.metrics == {"val_top1": 0.5}
    assert found.training_state["python"] == (1, (2, 3), None)
    assert found.versions["torch"] == torch.__version__
    assert found.preprocessing["short_side"] == 36
    assert found.preprocessing["frames_per_segment"] == 1
    assert found.preprocessing["mean"] == pytest.approx([0.485, 0.456, 0.406])


def test_load_model_computes_the_same_without_fetching_weights(path, model):
    loaded = ckpt.load_model(path)  # the config's `weights: imagenet` would need a network, and a width of 1
    clip = torch.randint(0, 256, (2, 2, 1, 3, 32, 32), dtype=torch.uint8)
    assert not loaded.training
    assert loaded.classes == ("sit", "stand")
    assert loaded.config == CONFIG
    assert torch.equal(loaded(clip), model(clip))


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (open, (self.target, "w"))


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"format": "mdtnet", "x": Bomb(str(tmp_path / "ran"))}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran")), protocol=2))
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match=f"{name}: not an mdtnet checkpoint"):
            ckpt.load_checkpoint(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"PK\x03\x04 not a zip", b"hello world\n" * 20])
def test_random_bytes(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt: not an mdtnet checkpoint") as error:
        ckpt.load_checkpoint(tmp_path / "x.pt")
    assert "\n" not in str(error.value)


def test_half_a_file(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        ckpt.load_checkpoint(path)


def test_missing_file_and_folder(tmp_path):
    for name in ("none.pt", "."):
        with pytest.raises(CheckpointError, match="no such checkpoint file"):
            ckpt.load_checkpoint(tmp_path / name)


def test_other_peoples_weights(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match="other weights"):
        ckpt.load_checkpoint(tmp_path / "weights.pt")


def test_one_flipped_bit(path):
    """torch alone reads the file, with another weight."""
    content = bytearray(path.read_bytes())
    at = content.index(torch.load(path, weights_only=True)["model"]["trunk.layer3.0.conv1.weight"].numpy().tobytes())
    content[at + 100] ^= 16
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["format"] == "mdtnet"
    with pytest.raises(CheckpointError, match=r"best\.pt: .*damaged.*the checksum of .* is wrong"):
        ckpt.load_model(path)


def test_one_flipped_bit_of_safetensors(tmp_path, model):
    """The format has no checksum: of 25 flipped bits safetensors itself notices those in the shape of its header."""
    path = tmp_path / "x.safetensors"
    ckpt.save_safetensors(path, model=model, config=CONFIG, classes=("a", "b"))
    whole, same = path.read_bytes(), ckpt.load_model(path).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    for at in np.linspace(0, len(whole) - 1, 25, dtype=int):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])
        with pytest.raises(CheckpointError, match=r"x\.safetensors: not an mdtnet checkpoint .* damaged"):
            ckpt.load_model(path)


def edited(path, **changes):
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)
    return path


def test_newer_format(path):
    with pytest.raises(CheckpointError, match=r"format_version 2.*reads up to 1"):
        ckpt.load_checkpoint(edited(path, format_version=2))


def test_unknown_config_key(path):
    with pytest.raises(CheckpointError, match="unknown key 'modle'; did you mean 'model'"):
        ckpt.load_checkpoint(edited(path, config={"modle": {}}))


def test_keys_and_shapes_that_do_not_fit(path):
    state = torch.load(path, weights_only=True)["model"]
    bias = state.pop("head.fc.bias")
    with pytest.raises(CheckpointError, match=r"best\.pt: .*head\.fc\.bias is missing; head\.fc\.bais is unknown"):
        ckpt.load_model(edited(path, model={**state, "head.fc.bais": bias}))
    with pytest.raises(CheckpointError, match=r"head\.fc\.bias is \[3\], expected \[2\]"):
        ckpt.load_model(edited(path, model={**state, "head.fc.bias": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=r"best\.pt: .*head\.fc\.bias has numbers that are not finite"):
        ckpt.load_model(edited(path, model={**state, "head.fc.bias": torch.tensor([0.0, torch.nan])}))


def test_a_failed_write_leaves_the_old_file(path):
    before = path.read_bytes()

    def fail(file):
        file.write(b"half of")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        ckpt.atomic_write(path, fail)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_two_writers_of_one_file_do_not_disturb_each_other(path):
    def slow(file):
        file.write(b"slow")
        ckpt.atomic_write(path, lambda other: other.write(b"quick"))

    ckpt.atomic_write(path, slow)
    assert path.read_bytes() == b"slow"
