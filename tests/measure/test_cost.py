"""The counter of multiply-adds: against hand counts and against the field's figures."""

import pytest
import torch
from torch import nn

from mdtnet.config import ModelConfig
from mdtnet.measure.cost import count, latency
from mdtnet.models.build import build_model
from mdtnet.models.deform import deform_conv2d
from mdtnet.models.temporal import DepthwiseConv
from mdtnet.models.trunk import Timeline

FIELD = {"tsn": (32.70, 23.53), "tsm": (32.70, 23.53), "tea": (34.53, 24.12), "tdn": (35.64, 24.09)}
"""GMACs and millions of parameters of the official code, ResNet-50, 8 x 224 x 224, 11 classes (METHOD section 8)."""


def cost(system: str, **keywords):
    with torch.device("meta"):
        model = build_model(ModelConfig(name=system), num_classes=11)
    return count(model, **keywords)


@pytest.mark.parametrize("system", FIELD)
def test_official_figures(system):
    found = cost(system)
    gmacs, parameters = FIELD[system]
    assert found.gmacs == pytest.approx(gmacs, rel=0.005)
    assert found.parameters / 1e6 == pytest.approx(parameters, rel=0.005)
    assert found.uncounted == ()


def test_mdtnet2_stays_under_36_gmacs():
    found = cost("mdtnet2")
    assert found.gmacs <= 36
    assert found.uncounted == ()
    assert found.macs["DCME"] > 1e8
    assert found.macs["salience and input"] > 0


class Parts(nn.Module):
    """One of everything that has a formula of its own."""

    frames_per_segment = 1

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.temporal = DepthwiseConv(8, start="shift")
        self.kernel = nn.Parameter(torch.zeros(4, 8, 3, 3))
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.conv(x[:, :, 0].flatten(0, 1).float())
        x = self.temporal(x, Timeline(2))
        offset = torch.zeros(x.shape[0], 18, *x.shape[2:], device=x.device)
        x = deform_conv2d(x, offset, self.kernel)
        dft = torch.einsum("uk,nkhw->nuhw", self.kernel[0, :2, 0], x[:, :3])
        return self.head(x.mean((2, 3))) + dft.mean()


def test_hand_count():
    found = count(Parts(), num_segments=2, size=10)
    pixels = 2 * 100
    convolution = pixels * 8 * 27
    shifts = pixels * 8 * 3
    deformable = pixels * 4 * 72 + pixels * 4 * 72  # k^2 C O and 4 k^2 C
    fourier = pixels * 2 * 3
    assert sum(found.macs.values()) == convolution + shifts + deformable + fourier + 2 * 4 * 5
    assert found.uncounted == ()


def test_unknown_operations_are_named():
    class Odd(nn.Module):
        frames_per_segment = 1

        def forward(self, x):
            return torch.fft.fft(x.float()).real

    assert any("fft" in name for name in count(Odd(), num_segments=1, size=4).uncounted)


def test_latency_gives_sorted_seconds():
    model = build_model(ModelConfig(name="tsn", trunk="resnet18", width=0.125), num_classes=2)
    times = latency(model, num_segments=2, size=32, repeats=3)
    assert len(times) == 3
    assert times == sorted(times)
    assert times[0] > 0
