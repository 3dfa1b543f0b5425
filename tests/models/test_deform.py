"""Deformable convolution: torchvision's operator is the truth, for values and for every gradient."""

import pytest
import torch
from torch import nn
from torchvision.ops import deform_conv2d as reference

from mdtnet.models.deform import by_torchvision, deform_conv2d, deform_conv2d_sum

# (images, channels in, channels out, height, width, kernel size, spread of the offsets in pixels)
SHAPES = [
    (2, 8, 8, 56, 56, 3, 2.0),
    (2, 8, 8, 28, 28, 5, 2.0),
    (3, 16, 16, 14, 14, 3, 2.0),
    (7, 32, 32, 7, 7, 5, 2.0),
    (1, 3, 5, 6, 11, 3, 1.0),
    (2, 5, 2, 13, 4, 7, 20.0),
    (1, 1, 1, 1, 1, 3, 1.0),
    (2, 4, 3, 1, 9, 5, 1.0),
    (2, 6, 4, 5, 6, 1, 100.0),
]


def make(n, c, o, h, w, k, spread, dtype=torch.float32):
    x = torch.randn(n, c, h, w, dtype=dtype)
    offset = spread * torch.randn(n, 2 * k * k, h, w, dtype=dtype)
    return [x, offset, torch.randn(o, c, k, k, dtype=dtype), torch.randn(o, dtype=dtype)]


def truth(x, offset, weight, bias=None):
    return reference(x, offset, weight, bias, padding=weight.shape[-1] // 2)


def gradients(function, inputs, grad, wanted=(0, 1, 2, 3)):
    inputs = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
    out = function(*inputs)
    return out.detach(), torch.autograd.grad(out, [inputs[i] for i in wanted], grad)


def assert_close(got, expected, tolerance=1e-4):
    scale = max(1.0, expected.abs().max().item())
    assert got.shape == expected.shape
    assert (got - expected).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_torchvision(shape):
    inputs = make(*shape)
    grad = torch.randn(shape[0], shape[2], *shape[3:5])
    expected, expected_gradients = gradients(truth, inputs, grad)
    got, got_gradients = gradients(deform_conv2d, inputs, grad)
    assert_close(got, expected)
    for one, other in zip(got_gradients, expected_gradients, strict=True):
        assert_close(one, other)


def test_whole_numbers_and_borders():
    """Samples exactly on pixels, on the border and one pixel outside, where the slope of an offset has two sides."""
    inputs = make(2, 3, 4, 4, 5, 3, 1.0)
    inputs[1] = torch.randint(-6, 7, inputs[1].shape).float()
    grad = torch.randn(2, 4, 4, 5)
    expected, expected_gradients = gradients(truth, inputs, grad)
    got, got_gradients = gradients(deform_conv2d, inputs, grad)
    assert_close(got, expected)
    for place in (0, 2, 3):
        assert_close(got_gradients[place], expected_gradients[place])
    sides = []
    for step in (-1e-3, 1e-3):
        moved = [inputs[0], inputs[1] + step, *inputs[2:]]
        sides.append(gradients(truth, moved, grad)[1][1])
    low, high = torch.minimum(*sides), torch.maximum(*sides)
    assert (got_gradients[1] >= low - 0.05).all()
    assert (got_gradients[1] <= high + 0.05).all()
    assert (high - low).max() > 1  # the sides differ


def test_zero_offsets_are_a_plain_convolution():
    x, offset, weight, bias = make(2, 4, 6, 9, 7, 5, 0.0)
    assert_close(deform_conv2d(x, offset, weight, bias), nn.functional.conv2d(x, weight, bias, padding=2))


def test_far_and_infinite_offsets_see_only_zeros():
    x, offset, weight, bias = make(2, 3, 4, 5, 5, 3, 1.0)
    for value in (1e3, -1e9, float("inf"), -float("inf")):
        out = deform_conv2d(x, torch.full_like(offset, value), weight, bias)
        assert torch.equal(out, bias.view(1, -1, 1, 1).expand_as(out))


def test_nan_offsets_touch_nothing_else():
    x, offset, weight, _ = make(2, 3, 4, 5, 5, 3, 1.0)
    offset[0, 0, 2, 2] = torch.nan
    out = deform_conv2d(x, offset, weight)
    assert out[0, :, 2, 2].isnan().all()
    assert out.isfinite().sum() == out.numel() - 4


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (3,), (0, 2), (1, 3)])
def test_gradients_of_any_subset(wanted):
    inputs = make(3, 4, 5, 6, 7, 3, 2.0)
    grad = torch.randn(3, 5, 6, 7)
    _, expected = gradients(truth, inputs, grad)
    _, got = gradients(deform_conv2d, inputs, grad, wanted)
    for place, one in zip(wanted, got, strict=True):
        assert_close(one, expected[place])


@pytest.mark.parametrize("shape", [(2, 2, 3, 4, 3, 3, 1.0), (1, 1, 1, 2, 5, 5, 3.0)], ids=str)
def test_gradcheck(shape):
    inputs = [t.requires_grad_() for t in make(*shape, dtype=torch.float64)]
    assert torch.autograd.gradcheck(deform_conv2d, inputs)


def test_several_kernels_are_the_sum():
    x, offset3, weight3, bias = make(2, 4, 6, 8, 9, 3, 1.0)
    _, offset5, weight5, _ = make(2, 4, 6, 8, 9, 5, 1.0)
    inputs = [x, offset3, weight3, offset5, weight5, bias]
    grad = torch.randn(2, 6, 8, 9)

    def two(x, o3, w3, o5, w5, b):
        return truth(x, o3, w3) + truth(x, o5, w5, b)

    def one(x, o3, w3, o5, w5, b):
        return deform_conv2d_sum(x, torch.cat((o3, o5), 1), (w3, w5), b)

    expected, expected_gradients = gradients(two, inputs, grad, range(6))
    got, got_gradients = gradients(one, inputs, grad, range(6))
    assert_close(got, expected)
    for a, b in zip(got_gradients, expected_gradients, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("kernel", [3, 5])
def test_dilated_kernels(kernel):
    inputs = make(2, 4, 6, 8, 9, kernel, 1.0)
    _, offset3, weight3, _ = make(2, 4, 6, 8, 9, 3, 1.0)
    inputs += [offset3, weight3]
    grad = torch.randn(2, 6, 8, 9)

    def two(x, offset, weight, bias, offset3, weight3):
        wide = reference(x, offset, weight, bias, padding=2 * (kernel // 2), dilation=2)
        return wide + truth(x, offset3, weight3)

    def one(x, offset, weight, bias, offset3, weight3):
        return deform_conv2d_sum(x, torch.cat((offset, offset3), 1), (weight, weight3), bias, dilations=(2, 1))

    expected, expected_gradients = gradients(two, inputs, grad, range(6))
    got, got_gradients = gradients(one, inputs, grad, range(6))
    assert_close(got, expected)
    for a, b in zip(got_gradients, expected_gradients, strict=True):
        assert_close(a, b)
    x, offset, weight, bias = inputs[:4]
    single = reference(x, offset, weight, bias, padding=2 * (kernel // 2), dilation=2)
    assert_close(deform_conv2d(x, offset, weight, bias, dilation=2), single)


def test_repeats_bit_for_bit():
    inputs = make(7, 8, 8, 28, 28, 5, 3.0)
    grad = torch.randn(7, 8, 28, 28)
    first, first_gradients = gradients(deform_conv2d, inputs, grad)
    second, second_gradients = gradients(deform_conv2d, inputs, grad)
    assert torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(first_gradients, second_gradients, strict=True))


def test_any_memory_layout():
    inputs = make(2, 4, 5, 6, 7, 3, 2.0)
    expected = deform_conv2d(*inputs)
    strided = [inputs[0].to(memory_format=torch.channels_last), *inputs[1:]]
    strided[1] = inputs[1].transpose(2, 3).contiguous().transpose(2, 3)
    strided[2] = inputs[2].transpose(0, 1).contiguous().transpose(0, 1)
    assert_close(deform_conv2d(*strided), expected, 1e-6)
    grad = torch.randn(2, 6, 7, 5).permute(0, 3, 1, 2)
    for a, b in zip(gradients(deform_conv2d, strided, grad)[1], gradients(truth, inputs, grad)[1], strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_have_places_in_float32(dtype):
    """Places that are rounded to half types would move samples by up to half a pixel on a picture of 200."""
    inputs = [t.to(dtype) for t in make(2, 4, 5, 6, 200, 3, 2.0)]
    out = deform_conv2d(*inputs)
    assert out.dtype == dtype
    expected = deform_conv2d(*(t.float() for t in inputs))
    assert_close(out.float(), expected, 4 * torch.finfo(dtype).eps)


def test_autocast_leaves_float32_alone():
    inputs = make(2, 4, 5, 6, 7, 3, 2.0)
    grad = torch.randn(2, 5, 6, 7)
    expected, expected_gradients = gradients(deform_conv2d, inputs, grad)
    leaves = [t.detach().requires_grad_() for t in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = deform_conv2d(*leaves)
    got_gradients = torch.autograd.grad(got, leaves, grad)
    assert torch.equal(got, expected)
    assert all(torch.equal(a, b) for a, b in zip(got_gradients, expected_gradients, strict=True))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.ModuleList(nn.Conv2d(4, 2 * k * k, 3, padding=1) for k in (3, 5))
        self.kernels = nn.ParameterList(torch.randn(4, 4, k, k) for k in (3, 5))

    def forward(self, x):
        offset = torch.cat([offset(x) for offset in self.offsets], 1)
        return deform_conv2d_sum(x, offset, list(self.kernels), dilations=(1, 2))


def test_torchvisions_operator_is_the_same():
    x, offset, weights = torch.randn(2, 4, 9, 8), torch.randn(2, 68, 9, 8), [torch.randn(4, 4, k, k) for k in (3, 5)]
    expected = deform_conv2d_sum(x, offset, weights, dilations=(1, 2))
    assert_close(by_torchvision(x, offset, weights, ((3, 1), (5, 2))), expected)


@pytest.mark.parametrize("strict", [False, True])
def test_export_is_of_torch_alone_and_leaves_nothing_behind(strict):
    net, x = Net().eval(), torch.randn(2, 4, 9, 8)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: batch},), strict=strict)
    assert not [node for node in program.graph.nodes if "torchvision" in str(node.target)]
    more = torch.randn(5, 4, 9, 8)
    assert_close(program.module()(more), net(more))


@pytest.mark.parametrize(
    ("place", "shape"),
    [(1, (2, 18, 5, 6)), (1, (2, 50, 6, 5)), (2, (3, 4, 4, 4)), (2, (3, 5, 5, 5)), (2, (3, 4, 5, 3))],
)
def test_shapes_that_do_not_fit(place, shape):
    inputs = make(2, 4, 3, 5, 6, 5, 1.0)
    inputs[place] = torch.zeros(shape)
    with pytest.raises(ValueError, match="expected"):
        deform_conv2d(*inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
def test_cuda_equals_cpu():
    inputs = make(2, 8, 8, 14, 14, 3, 2.0)
    with torch.autocast("cuda", dtype=torch.float16):
        got = deform_conv2d(*(t.cuda() for t in inputs))
    assert got.dtype == torch.float32
    assert_close(got.cpu(), deform_conv2d(*inputs))
