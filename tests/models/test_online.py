"""Online TSM: shifts from the past alone (its streams: `test_stream.py`)."""

import torch

from mdtnet.config import ModelConfig, TSMConfig
from mdtnet.models.build import build_model
from mdtnet.models.tsm import TSM, causal_shift


def online(trunk: str) -> TSM:
    torch.manual_seed(0)
    width = 0.25 if trunk.startswith("resnet") else 1.0
    config = ModelConfig(name="tsm", trunk=trunk, width=width, tsm=TSMConfig(causal=True))
    model = build_model(config, num_classes=5).eval()
    torch.nn.init.normal_(model.head.fc.weight)
    return model


def test_causal_shift_is_a_plain_loop():
    x = torch.randn(2, 3, 16, 2, 2)  # [B, T, C, H, W]
    expected = x.clone()
    for t in range(3):
        expected[:, t, :2] = x[:, t - 1, :2] if t else 0
    assert torch.equal(causal_shift(x.flatten(0, 1), 3), expected.flatten(0, 1))


def test_causal_shift_has_the_right_gradient():
    x = torch.randn(4, 8, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: causal_shift(x, 2), x)


def test_what_comes_later_changes_nothing():
    model = online("resnet18")
    features: list[torch.Tensor] = []
    model.head.fc.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    clip = torch.randint(0, 256, (1, 4, 1, 3, 32, 32), dtype=torch.uint8)
    other = clip.clone()
    other[:, 3] = 255 - other[:, 3]
    with torch.no_grad():
        model(clip)
        model(other)
    torch.testing.assert_close(features[0][:3], features[1][:3], atol=0, rtol=0)
    assert not torch.allclose(features[0][3], features[1][3])


def test_a_causal_network_is_exported_like_any_other():
    model = online("resnet18")
    x = torch.randint(0, 256, (2, 3, 1, 3, 32, 32), dtype=torch.uint8)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=16)},))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x[:1]), model(x[:1]), atol=1e-4, rtol=1e-4)


def test_a_causal_network_learns():
    model = online("resnet18").train()
    model(torch.randint(0, 256, (2, 3, 1, 3, 64, 64), dtype=torch.uint8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
