"""Operators of TEA and TDN against plain loops, and how they start."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mdtnet.config import ModelConfig
from mdtnet.models.build import build_model
from mdtnet.models.tdn import TDN, LongTermDifference, fusion_weights
from mdtnet.models.tea import ExciteAndAggregate, MotionExcitation, Res2NetBlock
from mdtnet.models.temporal import CoarseDifference, depthwise_conv
from mdtnet.models.trunk import Timeline

T = 3


def alive(module: nn.Module) -> nn.Module:
    """In eval mode, with every parameter and statistic away from its start."""
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.add_(0.2 * torch.rand_like(value))
    return module.eval().requires_grad_(False)


def test_motion_excitation_against_a_loop():
    module = alive(MotionExcitation(32))
    x = torch.randn(2 * T, 32, 5, 6)
    z = module.reduce(x)
    expected = torch.empty_like(x)
    for n in range(2 * T):
        last = n % T == T - 1
        difference = torch.zeros_like(z[:1]) if last else module.move(z[n + 1 : n + 2]) - z[n : n + 1]
        pooled = difference.sum((2, 3), keepdim=True) / (5 * 6)
        expected[n] = x[n] * (0.5 + torch.sigmoid(module.expand(pooled)))[0]
    torch.testing.assert_close(module(x, Timeline(T)), expected)


@pytest.mark.parametrize(("inplanes", "stride"), [(256, 1), (128, 1), (128, 2)])
def test_res2net_block_against_a_loop(inplanes, stride):
    block = Res2NetBlock(inplanes, 64, stride)
    block.temporal = ExciteAndAggregate(104, splits=4)
    alive(block)
    x = torch.randn(2 * T, inplanes, 6, 6)
    first = inplanes != 256
    y = block.temporal.excitation(F.relu(block.bn1(block.conv1(x))), Timeline(T))
    parts, before = [], 0
    for i in range(4):
        part = y[:, 26 * i : 26 * (i + 1)]
        if 0 < i < 3 and not first:
            part = part + before
        part = depthwise_conv(part, block.temporal.shifts[i].weight, T)
        if i < 3:
            part = before = F.relu(block.bns[i](block.convs[i](part)))
        elif first:
            part = F.avg_pool2d(part, 3, stride, 1)
        parts.append(part)
    expected = block.bn3(block.conv3(torch.cat(parts, 1))) + (block.downsample(x) if first else x)
    torch.testing.assert_close(block(x, Timeline(T)), F.relu(expected))


def test_coarse_difference_against_a_loop():
    module = alive(CoarseDifference(32))
    z = torch.randn(2 * T, 8, 5, 6)
    expected = torch.empty(2 * T, 32, 5, 6)
    for n in range(2 * T):
        gates = []
        for other, exists in ((n + 1, n % T < T - 1), (n - 1, n % T > 0)):
            d = module.move(z[other : other + 1]) - z[n : n + 1] if exists else torch.zeros_like(z[:1])
            half = F.interpolate(module.pooled(F.avg_pool2d(d, 2)), (5, 6), mode="nearest")
            gates.append(torch.sigmoid(module.expand((d + half + module.full(d)) / 3)) - 0.5)
        expected[n] = ((gates[0] + gates[1]) / 2)[0]
    torch.testing.assert_close(module(z, Timeline(T)) / 2 - 0.5, expected)


def test_long_term_difference_is_the_formula():
    module = alive(LongTermDifference(32))
    x = torch.randn(2 * T, 32, 5, 6)
    excitation = module.coarse(module.reduce(x), Timeline(T)) / 2 - 0.5
    expected = depthwise_conv(x + x * excitation, module.conv.weight, T)
    torch.testing.assert_close(module(x, Timeline(T)), expected)


def test_parts_start_as_a_shift_of_an_eighth_each_way():
    block, whole = ExciteAndAggregate(104, splits=4), ExciteAndAggregate(104)
    moved = {}
    for name, module in {"splits": block, "whole": whole}.items():
        taps = torch.cat([shift.weight for shift in module.shifts])[:, 0].argmax(1)
        moved[name] = taps.bincount(minlength=3).tolist()
    assert moved["splits"] == moved["whole"] == [13, 78, 13]
    assert LongTermDifference(64).conv.weight[:, 0].argmax(1).bincount().tolist() == [8, 48, 8]


def build(system: str, trunk: str = "resnet18", **options) -> nn.Module:
    width = 0.25 if trunk.startswith("resnet") else 1.0
    return build_model(ModelConfig(name=system, trunk=trunk, width=width, dropout=0.0, **options), num_classes=3)


def test_fusion_weights():
    assert fusion_weights(8) == (0.5, 0.5)
    assert fusion_weights(16) == fusion_weights(4) == (0.75, 0.25)
    model = alive(build("tdn"))
    x = torch.randn(1, 4, 5, 3, 32, 32)
    by_input = model(x)
    model.num_segments_trained = 4
    assert torch.equal(model(x), by_input)
    model.num_segments_trained = 8
    assert not torch.allclose(model(x), by_input, atol=1e-5)


def test_tdn_sees_the_middle_frame_and_differences():
    model: TDN = alive(build("tdn"))
    x = torch.randn(1, 2, 5, 3, 32, 32)
    seen = {}
    model.trunk.conv1.register_forward_pre_hook(lambda module, inputs: seen.update(key=inputs[0]))
    model.fine.register_forward_pre_hook(lambda module, inputs: seen.update(differences=inputs[0]))
    model(x)
    assert torch.equal(seen["key"], x[0, :, 2])
    assert seen["differences"].shape == (2, 12, 16, 16)
    expected = F.avg_pool2d(x[0, 1, 4] - x[0, 1, 3], 2)
    torch.testing.assert_close(seen["differences"][1, 9:], expected, atol=1e-5, rtol=1e-5)


def test_tdn_difference_path_starts_as_the_trunks_first_layers():
    model = build("tdn")
    torch.testing.assert_close(model.fine.stem[0].weight.sum(1) / 12, model.trunk.conv1.weight.mean(1))
    for own, copied in zip(model.trunk.layer1.parameters(), model.fine.stage1.parameters()):
        assert torch.equal(own, copied)
        assert own is not copied


@pytest.mark.parametrize("trunk", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.parametrize("system", ["tea", "tdn"])
def test_trunk_keeps_its_names_and_temporal_parts_theirs(system, trunk):
    model = build(system, trunk)
    assert all(k.startswith(("trunk.", "head.", "fine.")) for k in model.state_dict())
    if (system, trunk) != ("tea", "resnet50"):
        own = {k for k in model.trunk.state_dict() if ".temporal." not in k}
        assert own == set(build("tsn", trunk).trunk.state_dict())
    frozen = build(system, trunk, freeze="trunk")
    assert {n for n, p in frozen.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if not n.startswith("trunk.") or ".temporal." in n
    }
