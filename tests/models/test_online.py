"""Online TSM: shifts from the past alone, frames of a stream one at a time."""

import pytest
import torch

from mdtnet.config import ModelConfig, TSMConfig
from mdtnet.errors import ConfigError
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


@pytest.mark.parametrize("trunk", ["resnet18", "mobilenet_v2"])
def test_frames_one_at_a_time_give_what_the_clip_gives(trunk):
    model = online(trunk)
    clips = torch.randint(0, 256, (2, 9, 1, 3, 32, 32), dtype=torch.uint8)
    past, steps = None, []
    with torch.no_grad():
        for t in range(9):
            logits, past = model.step(clips[:, t, 0], past)
            steps.append(logits)
            so_far = model(clips[:, : t + 1])
            torch.testing.assert_close(torch.stack(steps).mean(0), so_far, atol=1e-4, rtol=1e-4)


def test_a_step_leaves_the_past_that_it_was_given_as_it_was():
    model = online("resnet18")
    frames = torch.randint(0, 256, (3, 1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        _, past = model.step(frames[0])
        first, _ = model.step(frames[1], past)
        model.step(frames[2], past)
        again, _ = model.step(frames[1], past)
    assert torch.equal(first, again)


def test_a_network_that_looks_ahead_takes_no_steps():
    model = build_model(ModelConfig(name="tsm", trunk="resnet18", width=0.125), num_classes=5).eval()
    with pytest.raises(ConfigError, match=r"model\.tsm\.causal"):
        model.step(torch.zeros(1, 3, 32, 32))


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
