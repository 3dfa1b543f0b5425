"""The contract of every model in the registry, and each temporal operator against a plain loop."""

import copy
import dataclasses
import functools
import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from mdtnet.config import SYSTEMS, TRUNKS, MDTNetConfig, ModelConfig, SaliencyConfig
from mdtnet.deploy.graph import pure
from mdtnet.errors import ConfigError
from mdtnet.models import pretrained
from mdtnet.models.build import TRUNK_MAKERS, build_model
from mdtnet.models.folding import folded
from mdtnet.models.mdtnet import DCME, Excitation, RuntimeExcitation
from mdtnet.models.tdn import LongTermDifference
from mdtnet.models.temporal import (
    DepthwiseConv,
    Shift,
    combined,
    depthwise_conv,
    gated,
    neighbour_differences,
    shift,
)
from mdtnet.models.trunk import Place, Timeline, as_compiled, half_size

SMALL = ("resnet18", "mobilenet_v2")
SLOW = (pytest.mark.slow, pytest.mark.timeout(1200))
ALL = [(s, t) for s in SYSTEMS for t in TRUNKS]
QUICK = [(s, t) for s in SYSTEMS for t in SMALL]
OTHERS = [pytest.param(s, t, marks=pytest.mark.slow) for s, t in ALL if t not in SMALL]
TRACED = [
    pytest.param(s, t, marks=() if (t == "resnet18" and s != "mdtnet1") or (s, t) == ("tsm", "mobilenet_v2") else SLOW)
    for s, t in ALL
]
"""Tracing takes seconds: quick are each system's parts (MDT-Net2 has all of MDT-Net1's), and both kinds of block."""


def build(system: str, trunk: str = "resnet18", **options) -> nn.Module:
    torch.manual_seed(0)
    width = 0.25 if trunk.startswith("resnet") else 1.0
    return build_model(ModelConfig(name=system, trunk=trunk, width=width, dropout=0.0, **options), num_classes=5)


def clips(model: nn.Module, batch: int = 2, segments: int = 4, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (batch, segments, model.frames_per_segment, 3, size, size), dtype=torch.uint8)


def normalised(x: torch.Tensor, model: nn.Module) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.trunk.mean, model.trunk.std))
    return (x / 255 - mean) / std


@functools.cache
def image_net_state(trunk: str) -> dict[str, torch.Tensor]:
    """A state dict as torchvision or timm hands it out, with other numbers in it."""
    make = getattr(torchvision.models, trunk, None)
    net = make() if make else timm.create_model(pretrained.TIMM.get(trunk, f"{trunk}_26w_4s"))
    return {k: torch.rand(v.shape) if v.is_floating_point() else v for k, v in net.state_dict().items()}


@pytest.mark.parametrize(("system", "trunk"), [*QUICK, *OTHERS])
def test_image_net_weights_load_strictly(system, trunk, monkeypatch):
    monkeypatch.setattr(pretrained, "_imagenet_state", image_net_state)
    model = build_model(ModelConfig(name=system, trunk=trunk, weights="imagenet"), num_classes=5)
    given = image_net_state(pretrained.RES2NETS.get(trunk, trunk) if system == "tea" else trunk)
    own = {k: v for k, v in model.trunk.state_dict().items() if ".temporal." not in k and ".at_input." not in k}
    assert own.keys() == {k for k in given if not k.startswith(("fc.", "classifier."))}
    assert all(torch.equal(v, given[k]) for k, v in own.items())
    assert model.pretrained == "ImageNet"


@pytest.mark.parametrize(("system", "trunk"), [*QUICK, *OTHERS])
def test_any_number_of_segments_from_one_set_of_weights(system, trunk):
    model = build(system, trunk).eval()
    with torch.no_grad():
        for segments in (1, 4, 8, 16):
            logits = model(clips(model, segments=segments))
            assert logits.shape == (2, 5)
            assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("system", "trunk"), [*QUICK, *OTHERS])
def test_batch_invariance(system, trunk):
    model = build(system, trunk).double()  # rounding of single precision grows through deep networks
    x = normalised(clips(model, batch=3), model).double()
    awaken(model, x)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("system", "trunk"), [*QUICK, *OTHERS])
def test_uint8_and_normalised_input_agree(system, trunk):
    model = build(system, trunk)
    x = clips(model)
    awaken(model, x)
    with torch.no_grad():
        expected = model(normalised(x, model))
        torch.testing.assert_close(model(x), expected, atol=1e-3 * max(1.0, float(expected.abs().max())), rtol=0)


@pytest.mark.parametrize(("system", "trunk"), [*QUICK, *OTHERS])
def test_every_parameter_gets_a_gradient_within_three_steps(system, trunk):
    model = build(system, trunk).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    seen: set[str] = set()
    for _ in range(3):
        x, labels = clips(model, batch=3, size=64), torch.tensor([0, 3, 1])
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                if parameter.grad.abs().max() > 0:
                    seen.add(name)
        optimizer.step()
    assert {name for name, _ in model.named_parameters()} - seen == set()


@pytest.mark.parametrize(("system", "trunk"), [*QUICK, *OTHERS])
def test_state_dict_round_trip(system, trunk):
    first, second = build(system, trunk).eval(), build(system, trunk).eval()
    perturb(first)
    second.load_state_dict(first.state_dict(), strict=True)
    x = clips(first)
    with torch.no_grad():
        assert torch.equal(first(x), second(x))


@pytest.mark.parametrize(("system", "trunk"), TRACED)
def test_export_equals_eager(system, trunk):
    model = build(system, trunk).double()
    x = normalised(clips(model, batch=3), model).double()
    awaken(model, x)
    batch = torch.export.Dim("batch", min=1, max=16)
    program = torch.export.export(model, (x[:2],), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), model(x), atol=1e-9, rtol=1e-9)


BACKENDS = [(s, t, "aot_eager") for s, t in ALL] + [(s, "resnet18", "inductor") for s in SYSTEMS]
"""The compiler's graphs run as they are, and the code that is made of them on the smallest trunk."""
GRAPHS = [
    pytest.param(s, t, b, marks=() if (t, b) == ("resnet18", "aot_eager") and s in ("tsm", "tea") else SLOW)
    for s, t, b in BACKENDS
]
"""Quick are two; that what compilers see is the network, and can be traced, is shown for each system."""


@pytest.mark.parametrize(("system", "trunk", "backend"), GRAPHS)
def test_compile_equals_eager(system, trunk, backend):
    torch.compiler.reset()  # what is compiled too often is no longer compiled at all
    model = build(system, trunk).eval()
    x = clips(model)
    awaken(model, x)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend=backend)(x), model(x), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("system", "trunk"), [*QUICK, *OTHERS])
def test_what_compilers_see_is_the_network(system, trunk):
    model = build(system, trunk).double()
    x = normalised(clips(model, size=64), model).double()
    awaken(model, x)
    for network in (model.train(), folded(model)):
        with torch.no_grad():
            expected = network(x)
            with as_compiled():
                torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("system", ["tsm", "tea", "tdn", "mdtnet2"])
def test_gradients_are_those_that_compilers_see(system):
    model = build(system).double().train()
    perturb(model)
    x = normalised(clips(model, size=64), model).double()

    def gradients() -> list[torch.Tensor]:
        loss = nn.functional.cross_entropy(model(x), torch.tensor([1, 4]))
        return list(torch.autograd.grad(loss, list(model.parameters())))

    expected = gradients()
    with as_compiled():
        for (name, _), ours, theirs in zip(model.named_parameters(), gradients(), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("trunk", SMALL)
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("training", [False, True])
def test_compile_has_no_graph_breaks(system, trunk, training):
    torch.compiler.reset()
    model = build(system, trunk).train(training)
    compiled = torch.compile(model, backend="aot_eager" if training else "eager", fullgraph=True)
    x = clips(model, size=64)
    with torch.set_grad_enabled(training):
        logits = compiled(x)
    if training:
        logits.sum().backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("system", "trunk"), [("tsm", "resnet18"), ("tea", "mobilenet_v2"), ("mdtnet2", "resnet18")])
def test_checkpointed_activations_change_nothing(system, trunk):
    results = []
    for checkpointed in (False, True):
        model = build(system, trunk).train()
        perturb(model)
        model.trunk.checkpoint_activations = checkpointed
        torch.manual_seed(2)
        loss = nn.functional.cross_entropy(model(clips(model, size=64)), torch.tensor([1, 4]))
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append({"loss": loss.detach(), **gradients, **dict(model.named_buffers())})
    plain, twice = results
    assert plain.keys() == twice.keys()
    for name, value in plain.items():
        torch.testing.assert_close(twice[name], value, atol=0, rtol=0, msg=name)


def test_checkpointed_activations_are_not_kept():
    def numbers_kept(checkpointed: bool) -> int:
        model = build("mdtnet2").train()
        model.trunk.checkpoint_activations = checkpointed
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            model(clips(model, size=64))
        return sum(sizes)

    assert numbers_kept(True) < numbers_kept(False) / 2


def test_features_stay_channels_last():
    """In training with several clips too, where a slice of time cannot be flattened as it is."""
    model = build("mdtnet2").to(memory_format=torch.channels_last)
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and (name.startswith("trunk.layer") or "fine.stem.1" in name):
            module.register_forward_pre_hook(lambda m, inputs, name=name: seen.update({name: inputs[0]}))
    model(clips(model, size=64))
    lost = [n for n, x in seen.items() if not x.is_contiguous(memory_format=torch.channels_last)]
    assert len(seen) > 40
    assert lost == []


def settle(model: nn.Module, x: torch.Tensor) -> None:
    """Give batch norms the statistics of x: without them values grow through deep networks, in ACTION-Net with its sums
    of three excited copies to 1e10, and differences of rounding with them."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(x)
    model.eval()


@torch.no_grad()
def awaken(model: nn.Module, x: torch.Tensor) -> None:
    """Open every gate; where that lets values grow, batch norms get the statistics of x. Leaves eval mode."""
    perturb(model)
    if model.eval()(x).abs().max() > 100:
        settle(model, x)


def perturb(model: nn.Module) -> None:
    """Open every neutral gate, so that a test sees what is behind it."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


# Neutral start


def trunk_alone(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What TSN with the same trunk weights and head computes on MDT-Net's key frames."""
    tsn = build("tsn", "resnet18" if hasattr(model.trunk, "conv1") else "mobilenet_v2")
    tsn.trunk.load_state_dict({k: v for k, v in model.trunk.state_dict().items() if ".temporal." not in k})
    tsn.head.load_state_dict(model.head.state_dict())
    tsn.train(model.training)
    return tsn(x[:, :, model.parts.key_frame : model.parts.key_frame + 1])


NEUTRAL = {"temporal": "identity", "fine_start": 0.0, "gate_start": 0.0}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("trunk", SMALL)
def test_neutral_mdtnet_starts_as_its_trunk(trunk, training):
    model = build("mdtnet1", trunk, mdtnet=MDTNetConfig(**NEUTRAL, dcme_backward=True))
    model.train(training)
    x = normalised(clips(model, size=64), model)
    torch.testing.assert_close(model(x), trunk_alone(model, x), atol=1e-6, rtol=1e-6)


def test_mdtnet_with_shift_starts_as_a_trunk_that_shifts():
    model = build("mdtnet1", mdtnet=MDTNetConfig(fine_start=0.0, gate_start=0.0)).eval()
    only_shift = MDTNetConfig(fine=False, coarse=False, dcme=False, stce=False)
    plain = build("mdtnet1", mdtnet=only_shift).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    x = clips(model, size=64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), atol=1e-6, rtol=1e-6)
        assert not torch.allclose(model(x), trunk_alone(model, x), atol=1e-6)


@pytest.mark.parametrize("trunk", [*SMALL, "resnet50", "efficientnet_lite0"])
def test_deformable_kernels_start_on_the_grid_and_as_a_difference(trunk):
    model = build("mdtnet2", trunk)
    modules = [m for m in model.modules() if isinstance(m, DCME)]
    assert modules
    for module in modules:
        assert not module.offset.weight.any()
        assert not module.offset.bias.any()
        for kernel in module.kernels:
            centre = kernel[:, :, kernel.shape[-2] // 2, kernel.shape[-1] // 2]
            assert (centre.diagonal() - 1).abs().max() < 0.2
            assert (kernel.sum() - centre.diagonal().sum()).abs() < 0.05 * kernel.numel()


def test_dropped_salience_is_an_augmentation_of_training():
    model = build("mdtnet2", input="raw", saliency=SaliencyConfig(floor=0.0, drop=1.0))
    salient = build("mdtnet2", input="raw", saliency=SaliencyConfig(floor=0.0))
    x = clips(model)
    dropped, kept = model.train().enhanced(x), salient.train().enhanced(x)
    plain = build("mdtnet2", input="raw", saliency=SaliencyConfig(floor=1.0)).enhanced(x)
    assert all(torch.equal(a, b) for a, b in zip(dropped, plain))
    assert all(torch.equal(a, b) for a, b in zip(model.eval().enhanced(x), kept))
    assert not torch.equal(kept[0], plain[0])


OFF = [{"saliency": SaliencyConfig(floor=1.0)}, {"input": "without_scene", "saliency": SaliencyConfig(scene=1.0)}]
ON = [{"saliency": SaliencyConfig(floor=0.0)}, {"input": "without_scene"}]


@pytest.mark.parametrize(("off", "on"), list(zip(OFF, ON)), ids=["map", "without_scene"])
def test_mdtnet2_without_its_salience_is_mdtnet1_exactly(off, on):
    with_salience = build("mdtnet2", **off).eval()
    without = build("mdtnet1").eval()
    perturb(with_salience)
    without.load_state_dict(with_salience.state_dict())
    x = clips(without)
    with torch.no_grad():
        assert torch.equal(with_salience(x), without(x))
        salient = build("mdtnet2", **on).eval()
        salient.load_state_dict(with_salience.state_dict())
        assert not torch.allclose(salient(x), without(x), atol=1e-4)


# Every switch of MDT-Net

SWITCHES = [
    {"fine": False},
    {"fine_stage1": False},
    {"fine_fusion": "average"},
    {"spatial_difference": "sobel"},
    {"spatial_difference": "none"},
    {"gate_start": 0.0},
    {"dcme_reach": 0.0},
    {"coarse": False},
    {"dcme": False},
    {"dcme_kernels": (3,), "dcme_dilations": (1,)},
    {"dcme_kernels": (3, 5), "dcme_dilations": (1, 1)},
    {"excite_every": 1},
    {"dcme_deformable": False},
    {"dcme_backward": True},
    {"dcme_low_level": True},
    {"stce": False},
    {"temporal": "none"},
    {"temporal": "identity"},
    {"causal": True},
    {"frames_per_segment": 3, "key_frame": 1},
]


@pytest.mark.parametrize("trunk", ["resnet18", pytest.param("mobilenet_v2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_changes_the_network_and_trains(switch, trunk):
    base = build("mdtnet2", trunk)
    model = build("mdtnet2", trunk, mdtnet=dataclasses.replace(MDTNetConfig(), **switch))
    perturb(model)
    if "frames_per_segment" not in switch:
        perturb(base)
        x = clips(base, size=64)
        with torch.no_grad():
            base.train()(x), model.train()(x)  # batch statistics of the same clips, or deep features vanish
            assert not torch.allclose(base.eval()(x), model.eval()(x), atol=1e-5)
    model.train()(clips(model, size=64)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"dcme_kernels": (3, 4)}, "dcme_kernels is [3, 4], expected odd sizes"),
        ({"dcme_kernels": (3,)}, "dcme_dilations is [1, 2], expected a number of cells for each of 1 kernels"),
        ({"dcme_dilations": (1, 0)}, "dcme_dilations is [1, 0]"),
        ({"excite_every": 0}, "excite_every is 0, expected at least 1"),
    ],
    ids=str,
)
def test_parts_that_do_not_fit(parts, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        build("mdtnet1", mdtnet=MDTNetConfig(**parts))


def test_causal_network_does_not_see_the_future():
    """Scores of a clip's first segments must not change with what comes after; consensus is the mean over T."""
    model = build("mdtnet2", mdtnet=MDTNetConfig(causal=True)).eval()
    perturb(model)
    x = clips(model, batch=1, segments=6, size=64)
    changed = x.clone()
    changed[:, 4:] = 255 - changed[:, 4:]
    with torch.no_grad():
        before = [model(c[:, :4]) for c in (x, changed)]
        sums = [model(c) * 6 - model(c[:, :4]) * 4 for c in (x, changed)]
    torch.testing.assert_close(before[0], before[1])
    assert not torch.allclose(sums[0], sums[1])
    features = []
    model.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        model(x), model(changed)
    torch.testing.assert_close(features[0][:4], features[1][:4])


def test_freeze_leaves_temporal_modules_trainable():
    frozen = {}
    for what in ("none", "stem", "stages", "trunk"):
        model = build("mdtnet2", freeze=what)
        frozen[what] = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen["none"] == set()
    assert frozen["none"] < frozen["stem"] < frozen["stages"] < frozen["trunk"]
    assert all(n.startswith("trunk.") and ".temporal." not in n for n in frozen["trunk"])
    assert "trunk.layer4.0.conv1.weight" in frozen["trunk"] - frozen["stages"]
    assert "trunk.layer3.1.conv2.weight" in frozen["stages"]


# Operators against plain loops


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (2, 2)], ids=str)
@pytest.mark.parametrize("layout", ["channels first", "channels last", "float"])
def test_half_size_is_the_mean_of_four_pixels(size, layout):
    pixels = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8)
    expected = nn.functional.avg_pool2d(pixels.float() / 255, 2)
    if layout == "channels last":
        pixels = pixels.movedim(1, -1).contiguous().movedim(-1, 1)
    torch.testing.assert_close(half_size(pixels / 255 if layout == "float" else pixels), expected)


@pytest.mark.parametrize("small", [(6, 10), (3, 5), (2, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("operation", [torch.mul, torch.add])
def test_combined_spreads_the_smaller_map(operation, small):
    x, y = torch.randn(2, 3, 6, 10), torch.randn(2, 3, *small)
    expected = operation(x, nn.functional.interpolate(y, (6, 10), mode="nearest"))
    assert torch.equal(combined(operation, x, y), expected)


def test_shift_against_a_loop():
    x = torch.randn(2 * 5, 16, 3, 3)
    expected = x.view(2, 5, 16, 3, 3).clone()
    for b in range(2):
        for t in range(5):
            for c in range(4):
                source = t + 1 if c < 2 else t - 1
                expected[b, t, c] = x.view(2, 5, 16, 3, 3)[b, source, c] if 0 <= source < 5 else 0
    assert torch.equal(shift(x, 5), expected.flatten(0, 1))
    assert torch.autograd.gradcheck(lambda a: shift(a, 5), x.double()[:, ::2].requires_grad_())


def test_gated_against_the_formula():
    x = torch.randn(2, 3, 4, 2, 1, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(2, 3, 4, 1, 1, dtype=torch.float64, requires_grad=True)
    gate = torch.randn(2, 2, 4, 2, 1, dtype=torch.float64, requires_grad=True)
    places = (slice(0, -1), slice(1, None))

    def spelled_out(x, factor, gate):
        sums = sum(nn.functional.pad(gate, (0, 0) * 3 + ends) for ends in ((0, 1), (1, 0)))
        return x * (factor + 0.3 * sums)

    def ours(x, factor, gate):
        return gated(x, factor, [(where, gate) for where in places], share=0.3)

    torch.testing.assert_close(ours(x, factor, gate), spelled_out(x, factor, gate))
    assert torch.autograd.gradcheck(ours, (x, factor, gate))


@pytest.mark.parametrize("causal", [False, True])
def test_depthwise_conv_against_conv1d(causal):
    x = torch.randn(2 * 4, 6, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 1, 3, dtype=torch.float64, requires_grad=True)
    lines = x.view(2, 4, 6, 3, 2).permute(0, 3, 4, 2, 1).reshape(-1, 6, 4)
    padded = nn.functional.pad(lines, (2, 0) if causal else (1, 1))
    expected = nn.functional.conv1d(padded, weight, groups=6)
    expected = expected.view(2, 3, 2, 6, 4).permute(0, 4, 3, 1, 2).flatten(0, 1)
    torch.testing.assert_close(depthwise_conv(x, weight, 4, causal=causal), expected)
    assert torch.autograd.gradcheck(lambda a, w: depthwise_conv(a, w, 4, causal=causal), (x, weight))


def test_differences_vanish_on_stills_and_flip_with_time():
    z = torch.randn(1, 6, 2, 2).repeat(5, 1, 1, 1)
    forward, backward = neighbour_differences(z, z, 5)
    assert not forward.any()
    assert not backward.any()
    z = torch.randn(5, 6, 2, 2)
    forward, backward = neighbour_differences(z, z, 5)
    reversed_forward, _ = neighbour_differences(z.flip(0), z.flip(0), 5)
    torch.testing.assert_close(reversed_forward[:-1], backward[1:].flip(0))
    torch.testing.assert_close(forward[:-1], -backward[1:])


def exact_dcme(**switch) -> DCME:
    module = DCME(Place(2, 0, 0, 32, 16), dataclasses.replace(MDTNetConfig(), **switch))
    with torch.no_grad():
        for kernel in module.kernels:
            nn.init.dirac_(kernel)
    return module


@pytest.mark.parametrize("deformable", [True, False])
def test_dcme_sees_no_motion_in_a_still_clip(deformable):
    module = exact_dcme(dcme_deformable=deformable)
    z = torch.randn(3, 8, 7, 9)
    torch.testing.assert_close(module.motion(z, z), torch.zeros_like(z), atol=1e-5, rtol=0)
    other = torch.randn(3, 8, 7, 9)
    torch.testing.assert_close(module.motion(z, other), 2 * (other - z), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("every", "excited"), [(1, 13), (2, 7), (3, 5)])
def test_excitation_in_every_so_many_blocks(every, excited):
    model = build("mdtnet1", "resnet50", mdtnet=MDTNetConfig(excite_every=every))
    found = [m for m in model.modules() if isinstance(m, Excitation)]
    assert len([m for m in found if m.conv is not None]) == 13
    for part in ("reduce", "coarse", "dcme", "stce"):
        assert len([m for m in found if getattr(m, part) is not None]) == excited


@pytest.mark.parametrize(
    ("trunk", "counts", "excited"),
    [
        ("mobilenet_v2", "places", [(4, [1]), (7, [1, 3, 6]), (14, [1])]),
        ("mobilenet_v2", "blocks", [(4, [2]), (7, [2, 6]), (14, [2])]),
        ("resnet18", "places", None),
    ],
)
def test_places_are_counted_not_blocks(trunk, counts, excited):
    model = build("mdtnet1", trunk, mdtnet=MDTNetConfig(excite_counts=counts))
    if excited is None:
        found = [[b.temporal.reduce is not None for b in model.trunk.stage_blocks(s)] for s in (2, 3, 4)]
        assert found == [[True, False]] * 3
        return
    for first, inside in excited:
        stage = (4, 7, 14).index(first) + 2
        blocks = model.trunk.stage_blocks(stage)
        assert [i for i, b in enumerate(blocks) if b.temporal is not None and b.temporal.reduce is not None] == inside


def places_of(trunk: str) -> list[list[Place]]:
    """The places of stages 1 to 4."""
    found: list[list[Place]] = [[], [], [], []]
    with torch.device("meta"):
        TRUNK_MAKERS[trunk](after_conv1=lambda place: found[place.stage - 1].append(place))
    return found


def test_the_method_states_the_places_of_every_trunk():
    text = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")
    for trunk in TRUNKS:
        numbers = [len({p.number for p in places}) for places in places_of(trunk)]
        excited = sum((n + 1) // 2 for n in numbers[1:])
        row = f"| `{trunk}` | {', '.join(map(str, numbers))} | {sum(numbers[1:])} | {excited} |"
        assert row in text, row


def test_unmoved_taps_are_plain_convolutions_of_two_scales():
    module = DCME(Place(2, 0, 0, 32, 16), MDTNetConfig())  # offsets start at 0
    here, there = torch.randn(2, 3, 8, 7, 9)
    plain = [nn.functional.conv2d(there, k, padding=d, dilation=d) for k, d in zip(module.kernels, (1, 2), strict=True)]
    torch.testing.assert_close(module.motion(here, there), sum(plain) - 2 * here, atol=1e-5, rtol=1e-5)


def test_dcme_gates_only_segments_that_have_a_neighbour():
    x = torch.randn(2 * 4, 8, 6, 6)
    for switch, steps in (({}, [[0, 1, 2]]), ({"dcme_backward": True}, [[0, 1, 2], [1, 2, 3]])):
        gates = exact_dcme(**switch)(x, Timeline(4))
        assert [list(range(4))[where] for where, _ in gates] == steps
        assert all(openness.shape == (2, 3, 6, 6, 32) for _, openness in gates)
    assert exact_dcme()(x, Timeline(1)) == []


EXCITATIONS = [
    {},
    {"coarse": False},
    {"dcme_backward": True},
    {"dcme": False},
    {"stce": False},
    {"coarse": False, "dcme": False},
]


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("switch", EXCITATIONS, ids=str)
def test_excitation_is_the_formula(switch, stride, size):
    """x * (1 + E_C) * (1 + E_D / 2 + E_S / 2), with one of the last two alone x * (1 + E_C) * (1 + E), spelled out."""
    config = dataclasses.replace(MDTNetConfig(temporal="none"), **switch)
    module = Excitation(Place(2, 0, 0, 32, 16, stride), config).eval()
    perturb(module)
    x = torch.randn(2 * 4, 32, *size)
    z = module.reduce(x)
    if stride == 2:
        z = nn.functional.adaptive_avg_pool2d(
            nn.functional.pad(z, (0, size[1] % 2, 0, size[0] % 2), mode="replicate"),
            ((size[0] + 1) // 2, (size[1] + 1) // 2),
        )
    gates = []
    if config.dcme:
        maps = torch.zeros(2, 4, 32, *z.shape[2:])
        found = module.dcme(z, Timeline(4))
        for where, openness in found:
            maps[:, where] += (openness.movedim(-1, 2) - 0.5) / len(found)
        gates.append(maps)
    if config.stce:
        gates.append(module.stce(z, Timeline(4)).movedim(-1, 2).expand(2, 4, 32, *z.shape[2:]))
    gain = (1 + sum(gates) / max(1, len(gates))).flatten(0, 1) if gates else 1
    if config.coarse:
        gain = gain * (0.5 + module.coarse(z, Timeline(4)) / 2)
    gain = gain.repeat_interleave(stride, 2).repeat_interleave(stride, 3)[:, :, : size[0], : size[1]]
    torch.testing.assert_close(module(x, Timeline(4)), x * gain, atol=1e-5, rtol=1e-5)


FORMS = [*EXCITATIONS, {"causal": True}, {"dcme_deformable": False}, {"excite_every": 1, "temporal": "identity"}]


@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("size", [(6, 6), (5, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("switch", FORMS, ids=str)
def test_plain_fast_and_runtime_form_of_an_excitation_are_one(switch, stride, size, segments):
    module = Excitation(Place(2, 0, 0, 32, 16, stride), dataclasses.replace(MDTNetConfig(), **switch))
    perturb(module)
    x, timeline = torch.randn(2 * segments, 32, *size), Timeline(segments)
    if size != (1, 1):  # batch statistics of a pixel that is pooled are none
        torch.testing.assert_close(module.train()(x, timeline), module.plain(x, timeline), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        expected = module.eval().plain(x, timeline)
        torch.testing.assert_close(module(x, timeline), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(expected, module.conv.plain(x, timeline), atol=1e-2)  # gates are open
        for steps in (False, True):
            runtime = pure(nn.ModuleList([module]), steps=steps)[0]
            assert type(runtime) is RuntimeExcitation
            torch.testing.assert_close(runtime(x, timeline), expected, atol=1e-5, rtol=1e-5)


SHARED_PARTS = [
    Shift(),
    DepthwiseConv(32, start="shift"),
    DepthwiseConv(32, start="shift", causal=True),
    LongTermDifference(32),
]


@pytest.mark.parametrize("segments", [1, 4])
@pytest.mark.parametrize("module", SHARED_PARTS, ids=lambda m: type(m).__name__)
def test_plain_fast_and_runtime_form_of_other_parts_are_one(module, segments):
    perturb(module.eval())
    x, timeline = torch.randn(2 * segments, 32, 6, 6), Timeline(segments)
    with torch.no_grad():
        expected = module(x, timeline)
        if not isinstance(module, Shift):
            torch.testing.assert_close(module.plain(x, timeline), expected, atol=1e-5, rtol=1e-5)
        for steps in (False, True):
            runtime = pure(nn.ModuleList([module]), steps=steps)[0]
            torch.testing.assert_close(runtime(x, timeline), expected, atol=1e-5, rtol=1e-5)


def test_building_the_runtime_form_leaves_the_network_as_it_was():
    model = build("mdtnet2").eval()
    perturb(model)
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    assert sum(type(m) is RuntimeExcitation for m in pure(model, steps=True).modules()) == 6
    assert [type(m) for m in model.modules()] == classes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_mobilenet_weights_load_strictly(shared, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights"))
    from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

    x = torch.randint(0, 256, (2, 1, 1, 3, 64, 64), dtype=torch.uint8)
    reference = mobilenet_v2(weights=MobileNet_V2_Weights.IMAGENET1K_V1).eval()
    model = build("tsn", "mobilenet_v2", weights="imagenet").eval()
    with torch.no_grad():
        pixels = normalised(x, model)[:, 0, 0]
        expected = reference.features(pixels).mean((2, 3))
        torch.testing.assert_close(model.trunk(pixels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnet_has_torchvisions_keys_and_values(name):
    reference = getattr(torchvision.models, name)().eval()
    keys = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    model = build_model(ModelConfig(name="tsm", trunk=name), num_classes=3)
    assert {k: v.shape for k, v in model.trunk.state_dict().items()} == {k: v.shape for k, v in keys.items()}
    model = build_model(ModelConfig(name="tsn", trunk=name), num_classes=3).eval()
    model.trunk.load_state_dict(keys, strict=True)
    reference.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.trunk(x), reference(x), atol=1e-5, rtol=1e-5)


def test_efficientnet_weights_load_strictly(shared, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(shared / "weights"))
    model = build("tsn", "efficientnet_lite0", weights="imagenet").eval()
    reference = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    reference.load_state_dict(
        {k: v for k, v in model.trunk.state_dict().items() if k in reference.state_dict()}, strict=True
    )
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.trunk(x), reference(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("trunk", SMALL)
def test_segments_that_are_apart_give_the_same_features_in_any_clip(system, trunk):
    """Features of segments one by one, put together to clips, give the scores of the clips."""
    saliency = {"saliency": SaliencyConfig(normalise="segment")} if system == "mdtnet2" else {}
    model = build(system, trunk, **saliency).eval()
    model.num_segments_trained = 4
    assert model.segments_apart
    x = clips(model)
    with torch.inference_mode():
        expected = model(x)
        one_by_one = [model.before_time(segment[None, None]) for segment in x.flatten(0, 1)]
        features = tuple(torch.cat(parts) for parts in zip(*one_by_one))
        torch.testing.assert_close(model.over_time(features, 4), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("system", "options"),
    [("mdtnet2", {}), ("mdtnet1", {"input": "without_scene"}), ("tsn", {"input": "median"}), ("tdn", {})],
)
def test_segments_are_not_apart_where_the_clip_is_seen_first(system, options):
    assert not build(system, **options).segments_apart
