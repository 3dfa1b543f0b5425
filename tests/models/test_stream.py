"""Streams: one segment at a time gives, at every segment, what the clip of all segments so far gives."""

import pytest
import torch
from torch import Tensor, nn

from mdtnet.config import TRUNKS, MDTNetConfig, ModelConfig, SaliencyConfig, TSMConfig
from mdtnet.errors import ConfigError
from mdtnet.models.build import build_model
from mdtnet.models.folding import folded
from mdtnet.models.network import Network
from mdtnet.models.stream import Stream

T, SEGMENTS = 3, 5
DEEPER = ("resnet34", "resnet101")
"""Trunks that are others with more blocks."""
CAUSAL = MDTNetConfig(causal=True)
SYSTEMS = {
    "tsn": {"name": "tsn"},
    "tsm": {"name": "tsm", "tsm": TSMConfig(causal=True)},
    "mdtnet1": {"name": "mdtnet1", "mdtnet": CAUSAL},
    "mdtnet2": {"name": "mdtnet2", "mdtnet": CAUSAL},
    "mdtnet2 without scene": {"name": "mdtnet2", "mdtnet": CAUSAL, "input": "without_scene"},
}
VARIANTS = {
    "tsm without scene": {"name": "tsm", "tsm": TSMConfig(causal=True), "input": "without_scene"},
    "raw and changed": {"name": "mdtnet2", "mdtnet": CAUSAL, "input": "without_scene", "input_to": "stem"},
    "beside differences": {"name": "mdtnet1", "mdtnet": CAUSAL, "input": "without_scene", "input_to": "differences"},
    "phase": {"name": "mdtnet2", "mdtnet": CAUSAL, "saliency": SaliencyConfig(variant="phase")},
    "per segment": {"name": "mdtnet2", "mdtnet": CAUSAL, "saliency": SaliencyConfig(normalise="segment")},
    "every block": {"name": "mdtnet1", "mdtnet": MDTNetConfig(causal=True, excite_every=1, dcme_low_level=True)},
    "plain DCME": {"name": "mdtnet1", "mdtnet": MDTNetConfig(causal=True, dcme_deformable=False, temporal="identity")},
    "no gates": {"name": "mdtnet1", "mdtnet": MDTNetConfig(causal=True, coarse=False, dcme=False, stce=False)},
    "no fine, no shift": {"name": "mdtnet1", "mdtnet": MDTNetConfig(causal=True, fine=False, temporal="none")},
}


def awake(trunk: str = "resnet18", **model) -> Network:
    """A network whose every part changes the scores, which differ from segment to segment."""
    torch.manual_seed(0)
    width = 0.125 if trunk.startswith("resnet") else 0.25 if trunk == "mobilenet_v2" else 1.0
    network = build_model(ModelConfig(trunk=trunk, width=width, **model), num_classes=4)
    clips = moving(network, 2, SEGMENTS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        network(clips)  # batch norms get the statistics of these clips
        torch.nn.init.normal_(network.head.fc.weight)
        scores = torch.stack([of_clips(network.eval(), clips[:, : t + 1], 1) for t in (0, SEGMENTS - 1)])
        spread = 4 * scores.std(0).mean()
        network.head.fc.weight /= spread
        network.head.fc.bias -= scores.mean((0, 1)) / spread
    return network


def moving(network: Network, streams: int, segments: int, size: int = 48) -> Tensor:
    """uint8 [B, T, K, 3, S, S]: a square that moves over noise, faster from segment to segment."""
    frames = torch.randint(0, 90, (streams, 1, 1, 3, size, size), dtype=torch.uint8)
    frames = frames.repeat(1, segments, network.frames_per_segment, 1, 1, 1)
    for t in range(segments):
        for k in range(network.frames_per_segment):
            x = (3 * t + k * (1 + t % 3)) % (size - 16)
            frames[0, t, k, :, 10:26, x : x + 16] = 220
            frames[1:, t, k, :, x : x + 16, 8:20] = 200 - 20 * t
    return frames


def of_clips(network: Network, clips: Tensor, num_segments: int) -> Tensor:
    """Logits [B, classes] of whole clips, the mean of the last `num_segments` segments' scores."""
    seen = []
    hook = network.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        network(clips)
    hook.remove()
    return network.head.fc(seen[0]).unflatten(0, (len(clips), -1))[:, -num_segments:].mean(1).detach()


def assert_streams(network: Network) -> None:
    clips, stream, state = moving(network, 2, SEGMENTS), Stream(network, num_segments=T), None
    answers = []
    for t in range(SEGMENTS):
        logits, state = stream.step(clips[:, t], state)
        torch.testing.assert_close(logits, of_clips(network, clips[:, : t + 1], T), atol=1e-4, rtol=1e-4)
        answers.append(logits)
    assert (answers[-1] - answers[0]).abs().max() > 0.05  # a test that sees something
    with torch.no_grad():  # within T it is the network's own answer
        torch.testing.assert_close(answers[T - 1], network(clips[:, :T]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("trunk", [pytest.param(t, marks=[pytest.mark.slow] * (t in DEEPER)) for t in TRUNKS])
@pytest.mark.parametrize("system", SYSTEMS)
def test_segments_one_at_a_time_give_what_the_clip_gives(system, trunk):
    assert_streams(awake(trunk, **SYSTEMS[system]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_stream_too(variant):
    assert_streams(awake(**VARIANTS[variant]))


@pytest.mark.parametrize("system", ["mdtnet2", "mdtnet2 without scene"])
def test_folded_networks_stream_too(system):
    network = awake(**SYSTEMS[system])
    clips, stream = moving(network, 2, 2), Stream(folded(network), num_segments=T)
    _, state = stream.step(clips[:, 0])
    torch.testing.assert_close(stream.step(clips[:, 1], state)[0], of_clips(network, clips, T), atol=1e-4, rtol=1e-4)


def test_streams_of_a_batch_begin_when_they_like():
    """Rows of zeros are the beginning: the other stream goes on."""
    network = awake(**SYSTEMS["mdtnet2"])
    clips, stream = moving(network, 2, 4), Stream(network, num_segments=T)
    state = None
    for t in range(4):
        if t == 2:
            state = tuple(torch.cat((part[:1], torch.zeros_like(part[1:]))) for part in state)
        logits, state = stream.step(clips[:, t], state)
    torch.testing.assert_close(logits[:1], of_clips(network, clips[:1], T), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[1:], of_clips(network, clips[1:, 2:], T), atol=1e-4, rtol=1e-4)


def test_a_step_leaves_the_state_that_it_was_given_as_it_was():
    network = awake(**SYSTEMS["mdtnet1"])
    clips, stream = moving(network, 2, 3), Stream(network, num_segments=T)
    _, state = stream.step(clips[:, 0])
    first, _ = stream.step(clips[:, 1], state)
    stream.step(clips[:, 2], state)
    again, _ = stream.step(clips[:, 1], state)
    assert torch.equal(first, again)


@pytest.mark.parametrize("name", ["tsm", "tea", "tdn", "actionnet", "mdtnet1", "mdtnet2"])
def test_networks_that_look_ahead_are_refused_by_name(name):
    network = build_model(ModelConfig(name=name, trunk="resnet18", width=0.125), num_classes=2)
    with pytest.raises(ConfigError, match=rf"this {type(network).__name__} looks ahead: .* model\.mdtnet\.causal"):
        Stream(network, num_segments=T)


def test_a_reading_of_the_whole_clip_is_refused():
    network = build_model(ModelConfig("tsn", "resnet18", 0.125, input="without_scene"), num_classes=2)
    with pytest.raises(ConfigError, match=r"tsn \(with raw input\)"):
        Stream(network, num_segments=T)
    with pytest.raises(ConfigError, match="num_segments is 0"):
        Stream(awake(**SYSTEMS["tsn"]), num_segments=0)


def test_a_state_of_another_kind_is_refused():
    one, other = (Stream(awake(**SYSTEMS[name]), num_segments=T) for name in ("tsn", "tsm"))
    segment = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)
    _, state = one.step(segment)
    with pytest.raises(ConfigError, match="this state is of another network"):
        other.step(segment, state)
    _, state = other.step(segment)
    with pytest.raises(ConfigError, match="this state is of another network"):
        one.step(segment, state)
    with pytest.raises(ConfigError, match="of another size of frames, or of other streams"):
        other.step(segment[:1], state)
