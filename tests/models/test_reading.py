"""Key frames without what stands still: an input that every system can have."""

import dataclasses
import re

import pytest
import torch

from mdtnet.builtin.render import RenderConfig, render_clip
from mdtnet.config import SYSTEMS, MDTNetConfig, ModelConfig, SaliencyConfig
from mdtnet.data.segments import spread_indices as segment_indices
from mdtnet.deploy.graph import pure, traced
from mdtnet.errors import ConfigError
from mdtnet.models.build import build_model
from mdtnet.models.mdtnet import gradient, sobel
from mdtnet.models.reading import (
    KNOTS,
    KeyFrameReading,
    clip_confidence,
    exchange_scenes,
    frequency_gain,
    mean_frame,
    median_frame,
)
from mdtnet.models.saliency import dft, frames_saliency, inverse_dft

READINGS = ("without_scene", "median", "learned")


def build(system: str, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(name=system, trunk="resnet18", width=0.125, dropout=0.0, **options), num_classes=3)


def clip(segments: int = 4, frames: int = 5) -> torch.Tensor:
    """A built-in clip, uint8 [1, T, K, 3, 64, 64]."""
    pixels = render_clip("push_box", config=RenderConfig(size=64, background="cluttered"))
    table = segment_indices(len(pixels), num_segments=segments, frames_per_segment=frames)
    return torch.from_numpy(pixels[table]).movedim(-1, -3)[None]


def key_frames(segments: int = 4) -> torch.Tensor:
    """Normalised key frames [1, T, 3, 64, 64]."""
    return (clip(segments, 1)[:, :, 0] / 255 - 0.45) / 0.225


@pytest.mark.parametrize("segments", [2, 3, 4, 8])
def test_without_scene_is_a_transform_over_the_clip_without_frequency_0(segments):
    key = key_frames(segments)
    luma = key[:, None, :, 0]  # one window of T frames
    expected = inverse_dft(*dft(luma), segments)[:, 0]
    torch.testing.assert_close(KeyFrameReading("without_scene")(key)[:, :, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reading", READINGS)
def test_still_clip_and_single_segment_pass_unchanged(reading):
    still = key_frames(4)[:, :1].expand(-1, 4, -1, -1, -1)
    for frames in (still, still[:, :1]):
        torch.testing.assert_close(KeyFrameReading(reading)(frames), frames, atol=1e-6, rtol=0)


def test_clip_of_noise_alone_keeps_its_scene():
    still = key_frames(8)[:, :1].expand(-1, 8, -1, -1, -1)
    noisy = still + torch.randn(still.shape) * 3 / 255 / 0.225
    assert clip_confidence(noisy - mean_frame(noisy), SaliencyConfig(), std=(0.225,) * 3) < 0.1
    moving = key_frames(8)
    assert clip_confidence(moving - mean_frame(moving), SaliencyConfig(), std=(0.225,) * 3) == 1


@pytest.mark.parametrize("segments", [1, 4, 5, 8, 16])
def test_learned_gain_starts_as_without_scene_and_can_be_the_identity(segments):
    start = frequency_gain(torch.cat((torch.zeros(1), torch.ones(KNOTS))), segments)
    torch.testing.assert_close(start, torch.eye(segments) - 1 / segments, atol=1e-5, rtol=0)
    torch.testing.assert_close(frequency_gain(torch.ones(1 + KNOTS), segments), torch.eye(segments), atol=1e-5, rtol=0)


def test_learned_gain_multiplies_each_frequency():
    gain = torch.tensor([0.3, 0.7, 0.2, 0.9, 0.5])
    signal = torch.randn(8, dtype=torch.float64)
    spectrum = torch.fft.fft(signal) * torch.tensor([0.3, 0.7, 0.2, 0.9, 0.5, 0.9, 0.2, 0.7])
    expected = torch.fft.ifft(spectrum).real
    torch.testing.assert_close(frequency_gain(gain.double(), 8) @ signal, expected, atol=1e-6, rtol=0)


def test_median_of_even_and_odd_numbers_of_frames():
    for segments in (1, 4, 5):
        frames = torch.randn(2, segments, 3, 4, 4)
        expected = frames.double().quantile(0.5, dim=1, keepdim=True).float()
        torch.testing.assert_close(median_frame(frames), expected)


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_can_have_it(system, reading):
    raw, model = build(system, input="raw"), build(system, input=reading)
    model.load_state_dict(raw.state_dict(), strict=False)
    x = clip(4, raw.frames_per_segment)
    with torch.no_grad():
        assert not torch.allclose(model.eval()(x), raw.eval()(x))
    loss = model.train()(x.expand(2, -1, -1, -1, -1, -1)).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_scene_that_does_not_move_is_gone():
    """Networks must see the same where only the wall behind the figure has another colour."""
    model = build("tsn", input="without_scene").eval()
    moving = torch.zeros(1, 4, 1, 3, 64, 64, dtype=torch.uint8)
    for t in range(4):
        moving[0, t, 0, :, 20:44, 12 * t : 12 * t + 16] = 90
    with torch.no_grad():
        dark, bright = model(moving), model(moving + 60)
        torch.testing.assert_close(dark, bright, atol=1e-5, rtol=1e-5)
        raw = build("tsn").eval()
        assert not torch.allclose(raw(moving), raw(moving + 60), atol=1e-5, rtol=1e-5)


def test_differences_inside_segments_do_not_change():
    model, raw = build("mdtnet2", input="without_scene"), build("mdtnet1")
    assert torch.equal(model.enhanced(clip())[1], raw.enhanced(clip())[1])


@pytest.mark.parametrize("system", ["tsn", "tdn", "mdtnet2"])
def test_stem_for_raw_and_changed_frames(system):
    model = build(system, input="without_scene", input_to="stem").eval()
    single = build("mdtnet1" if system == "mdtnet2" else system).eval()
    assert model.trunk.stem_layers()[0].in_channels == 6
    x = clip(1, model.frames_per_segment)  # of one segment nothing is taken away: both halves see the same
    state = single.state_dict()
    state["trunk.conv1.weight"] = state["trunk.conv1.weight"].repeat(1, 2, 1, 1) / 2
    model.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(model(x), single(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("system", ["tdn", "mdtnet2"])
def test_changed_frames_beside_differences_leave_the_trunk_raw(system):
    model = build(system, input="without_scene", input_to="differences").eval()
    seen: list[torch.Tensor] = []
    first = model.trunk.stem_layers()[0]
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model.fine.stem[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = clip()
    with torch.no_grad():
        model(x)
    shapes = sorted(tuple(s.shape[1:]) for s in seen)
    beside = 12 + (3 if system == "mdtnet2" else 0)  # differences, and their gradient
    assert shapes == [(3, 64, 64), (beside + 3, 32, 32)]
    raw = next(s for s in seen if s.shape[1] == 3)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.trunk.mean, model.trunk.std))
    plain = ((x[:, :, model.key_frame] / 255 - mean) / std).flatten(0, 1)
    torch.testing.assert_close(raw, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", [{}, {"input": "learned"}, {"input": "median"}, {"input_to": "stem"}], ids=str)
def test_exported_graph_computes_the_same(options):
    model = build("mdtnet2", **options).eval()
    program = traced(pure(model), (4, 5, 64, 64, 3))
    x = clip().movedim(3, -1).expand(3, -1, -1, -1, -1, -1)
    with torch.no_grad():
        expected = model(x.movedim(-1, 3)).softmax(1)
        torch.testing.assert_close(program.module()(x), expected, atol=1e-4, rtol=1e-4)


# causal networks


def test_causal_reading_sees_the_past_alone_and_the_first_segment_raw():
    reading, key = KeyFrameReading("without_scene", causal=True), key_frames(8)
    changed = key.clone()
    changed[:, 5:] = -changed[:, 5:]
    a, b = reading(key), reading(changed)
    assert torch.equal(a[:, :5], b[:, :5])
    assert not torch.equal(a[:, 5:], b[:, 5:])
    assert torch.equal(a[:, 0], key[:, 0])
    sure = clip_confidence(key - mean_frame(key, causal=True), SaliencyConfig(), std=(0.225,) * 3, causal=True)
    expected = key[:, 4] - sure[:, 4] * key[:, :5].mean(1)
    torch.testing.assert_close(a[:, 4], expected, atol=1e-5, rtol=0)


def test_causal_mdtnet2_does_not_see_the_future():
    model = build("mdtnet2", input="without_scene", mdtnet=MDTNetConfig(causal=True)).eval()
    x = clip(6)
    changed = x.clone()
    changed[:, 4:] = 255 - changed[:, 4:]
    features: list[torch.Tensor] = []
    model.head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    with torch.no_grad():
        model(x), model(changed), model(x[:, :4])
    torch.testing.assert_close(features[0][:4], features[1][:4])
    torch.testing.assert_close(features[0][:4], features[2])
    assert not torch.allclose(features[0][4:], features[1][4:])


CAUSAL = MDTNetConfig(causal=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": "median", "mdtnet": CAUSAL}, "model.input is 'median', which looks at the whole clip"),
        ({"input": "learned", "mdtnet": CAUSAL}, "model.input is 'learned', which looks at the whole clip"),
        (
            {"input": "raw", "mdtnet": CAUSAL, "saliency": SaliencyConfig(window="clip", normalise="segment")},
            "model.saliency.window is 'clip'",
        ),
        (
            {
                "input": "raw",
                "mdtnet": CAUSAL,
                "saliency": SaliencyConfig(variant="without_scene", normalise="segment"),
            },
            "model.saliency.variant is 'without_scene'",
        ),
        ({"input": "without_scene", "saliency": SaliencyConfig(to="action")}, "this would be mdtnet1"),
        ({"name": "tsn", "input": "median", "input_to": "differences"}, "tsn as configured has no path of differences"),
        (
            {"input": "without_scene", "mdtnet": MDTNetConfig(fine=False), "input_to": "differences"},
            "has no path of differences",
        ),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        build_model(ModelConfig(**{"name": "mdtnet2", "trunk": "resnet18", **options}), num_classes=3)


# exchange of scenes, spatial differences, the map


def test_exchanged_scenes_go_with_another_clips_motion():
    scenes = torch.randint(60, 120, (3, 1, 1, 3, 8, 8), dtype=torch.uint8)
    motion = torch.zeros(3, 4, 2, 1, 8, 8, dtype=torch.uint8)
    for t in range(4):
        motion[:, t, :, :, 2 * t : 2 * t + 2] = 40
    frames = scenes + motion
    swapped = exchange_scenes(frames, share=1.0, key=1)
    assert torch.equal(swapped, scenes.roll(1, 0) + motion)
    assert exchange_scenes(frames, share=0.0, key=1) is frames
    assert swapped.dtype == torch.uint8


def test_gradient_sees_edges_of_every_direction():
    """The sum of both Sobel responses is blind to one diagonal; that of their moduli is not."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    ramps = torch.stack((x, y, x + y, x - y))[None]
    inner = (slice(None), slice(None), 4, 4)
    assert gradient(ramps)[inner].tolist() == [[1, 1, 2, 2]]
    assert sobel(ramps)[inner].abs().tolist() == [[1, 1, 2, 0]]


def test_map_without_scene_lights_up_the_figure():
    config = SaliencyConfig(variant="without_scene")
    frames = clip(8)
    salience = frames_saliency(frames, config)
    moves = (frames.float() - frames.float().mean((1, 2), keepdim=True)).abs().mean((2, 3)) > 25
    assert salience[moves].mean() > 5 * salience[~moves].mean()
    still = frames[:, :1, :1].expand(-1, 8, 5, -1, -1, -1)
    torch.testing.assert_close(frames_saliency(still, config), torch.ones(1, 8, 64, 64))
    noisy = dataclasses.replace(config, noise=0.0)
    assert torch.isfinite(frames_saliency(still, noisy)).all()
