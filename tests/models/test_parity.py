"""TSN, TSM, TEA, TDN and ACTION-Net compute what the official code computes, from the official checkpoints."""

import numpy as np
import pytest
import torch
from official import golden_state, of_resnet101

import mdtnet
from mdtnet.checkpoint import load_checkpoint
from mdtnet.config import MDTNetConfig, ModelConfig
from mdtnet.measure.cost import count
from mdtnet.models.build import build_model
from mdtnet.models.stream import Stream

SYSTEMS = ("tsn", "tsm", "tea", "tdn")
OTHERS = {"action": ("actionnet", "resnet50"), "tsm_mobilenet_v2": ("tsm", "mobilenet_v2")}
"""Name of the golden data -> system and trunk; their files are bare state dicts."""


@pytest.fixture(scope="module")
def files(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    for name in SYSTEMS:
        state = {f"module.{key}": value for key, value in golden_state(shared / "golden", name).items()}
        content = {"state_dict": state, "epoch": 49, "arch": "resnet50", "best_prec1": np.float64(76.5)}
        torch.save(content, folder / f"{name}.pth")
    return folder


def golden_input(model) -> torch.Tensor:
    frames = model.frames_per_segment
    a = np.random.default_rng(0).standard_normal([1, 8 * frames * 3, 64, 64]).astype(np.float32)
    return torch.from_numpy(a).view(1, 8, frames, 3, 64, 64)


@pytest.mark.parametrize("name", SYSTEMS)
def test_official_checkpoint(name, files, shared):
    model = mdtnet.load_model(files / f"{name}.pth")
    assert not model.training
    assert (model.config.model.name, model.config.model.trunk, model.num_classes) == (name, "resnet50", 11)
    expected = np.load(shared / "golden" / f"{name}_logits.npy")
    with torch.no_grad():
        logits = model(golden_input(model)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", OTHERS)
def test_official_checkpoint_of_bare_names(name, shared, tmp_path):
    torch.save(golden_state(shared / "golden", name), tmp_path / "x.pth")
    model = mdtnet.load_model(tmp_path / "x.pth")
    assert (model.config.model.name, model.config.model.trunk) == OTHERS[name]
    assert len(model.state_dict()) == len(golden_state(shared / "golden", name))
    expected = np.load(shared / "golden" / f"{name}_logits.npy")
    with torch.no_grad():
        logits = model(golden_input(model)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_official_online_tsm_frame_by_frame(shared, tmp_path):
    torch.save(golden_state(shared / "golden", "tsm_mobilenet_v2_online"), tmp_path / "x.pth")
    model = mdtnet.load_model(tmp_path / "x.pth")
    assert (model.config.model.name, model.config.model.tsm.causal) == ("tsm", True)
    expected = np.load(shared / "golden" / "tsm_mobilenet_v2_online_logits.npy")
    frames = torch.from_numpy(np.random.default_rng(0).standard_normal([6, 3, 224, 224]).astype(np.float32))
    stream, state, found = Stream(model, num_segments=1), None, []
    for frame in frames:
        logits, state = stream.step(frame[None, None], state)
        found.append(logits)
    with torch.no_grad():
        clip = model(frames[None, :, None])
    np.testing.assert_allclose(torch.cat(found), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert len(state) == 1 + 10  # frames so far, and the shifts
    torch.testing.assert_close(torch.cat(found).mean(0), clip[0], atol=1e-5, rtol=1e-5)


def test_action_net_costs_what_its_authors_say():
    """Published: 28.1 M parameters and 34.75 GMACs with 174 classes, T = 8 at 224; here elementwise work is free."""
    found = count(build_model(ModelConfig(name="actionnet", trunk="resnet50"), num_classes=174))
    assert found.parameters / 1e6 == pytest.approx(28.1, abs=0.05)
    assert found.gmacs == pytest.approx(34.75, rel=0.01)


def test_every_key_is_accounted_for(files, shared):
    for name in SYSTEMS:
        state = golden_state(shared / "golden", name)
        found = load_checkpoint(files / f"{name}.pth")
        ignored = found.source["ignored"]
        folded = [key for key in state if key.endswith("bias") and key.removesuffix("bias")[-6:-2] == "conv"]
        folded += [key for key in state if key.endswith("downsample.0.bias")]
        assert len(found.model_state) == len(state) - len({*ignored, *folded})
        assert ignored == (["base_model.conv1_temp.weight", "base_model.conv1_temp.bias"] if name == "tdn" else [])


@pytest.mark.parametrize("name", ["tsn", "tsm", "tdn", "action"])
def test_official_resnet101(name, shared, tmp_path):
    torch.save(of_resnet101(golden_state(shared / "golden", name)), tmp_path / "x.pth")
    model = mdtnet.load_model(tmp_path / "x.pth")
    assert (model.config.model.name, model.config.model.trunk) == (OTHERS.get(name, (name,))[0], "resnet101")


def test_mdtnet_starts_from_official_tdn(files, shared, caplog):
    caplog.set_level("INFO")
    config = ModelConfig(name="mdtnet2", trunk="resnet50", weights=str(files / "tdn.pth"))
    model = build_model(config, num_classes=7)
    state, official = model.state_dict(), golden_state(shared / "golden", "tdn")
    for ours, theirs in {
        "trunk.layer3.1.conv2.weight": "layer3_bak.1.conv2.weight",
        "trunk.layer2.0.temporal.coarse.pooled.0.weight": "layer2_bak.0.mse.conv3_smallscale2.weight",
        "trunk.layer4.2.temporal.coarse.full.1.running_var": "layer4_bak.2.mse.bn3_smallscale4.running_var",
        "trunk.layer4.0.temporal.conv.weight": "layer4_bak.0.shift.conv.weight",
    }.items():
        assert torch.equal(state[ours], official[f"base_model.{theirs}"]), ours
    assert torch.equal(state["fine.stem.0.weight"][:, :12], official["base_model.conv1_5.0.weight"])
    assert (state["fine.bn.weight"] == MDTNetConfig().fine_start).all()
    assert (state["trunk.layer2.0.temporal.dcme.expand.1.weight"] == MDTNetConfig().gate_start).all()
    assert "temporal.coarse 133, temporal.conv 13, temporal.reduce 42" in caplog.text  # 7 of 13 blocks
    assert "classifier of 11 classes replaced by a new one of 7" in caplog.text
    assert "base_model.conv1_temp.weight" in caplog.text
