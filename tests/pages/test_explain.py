"""Grad-CAM, the worth of parts and DCME's offsets, on networks whose answer is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import CLASSES, frames_of_square, make_checkpoint, write_video
from PIL import Image
from torch import nn

from mdtnet.checkpoint import save_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import SYSTEMS, DataConfig, ModelConfig, RunConfig, SaliencyConfig
from mdtnet.errors import CheckpointError, ConfigError, VideoError
from mdtnet.inference.recogniser import Recogniser
from mdtnet.models.build import build_model
from mdtnet.models.deform import deform_conv2d
from mdtnet.models.gates import knocked_out
from mdtnet.models.mdtnet import DCME
from mdtnet.models.trunk import Timeline, Trunk
from mdtnet.models.tsn import TSN
from mdtnet.pages.evidence import grad_cam, part_effects
from mdtnet.pages.explain import explain
from mdtnet.pages.offsets import OFFSETS_HEIGHT, learned_offsets, most_motion, sampling_points
from mdtnet.pages.sheet import PANEL_HEIGHT
from mdtnet.pages.subject import Subject


class Unchanged(nn.Module):
    """A block without effect."""

    temporal = None

    def forward(self, x: torch.Tensor, timeline: Timeline) -> torch.Tensor:
        return x


class Colours(Trunk):
    """Features are mean colours of 4 x 4 pixels; the stages have no effect."""

    num_features = 3
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Unchanged() for _ in range(4)])

    def stem_layers(self) -> list[nn.Module]:
        return [nn.AvgPool2d(4)]

    def stage_blocks(self, stage: int) -> list[nn.Module]:
        return [self.blocks[stage - 1]]


def colour_network() -> TSN:
    """Class 0 is red, class 1 blue."""
    model = TSN(Colours(), 2).eval()
    model.head.fc.weight.data = torch.tensor([[1.0, 0.0, -1.0], [-1.0, 0.0, 1.0]])
    return model


def build(name: str, trunk: str = "resnet18", **parts) -> nn.Module:
    width = 1.0 if trunk == "efficientnet_lite0" else 0.25
    config = ModelConfig(name=name, trunk=trunk, width=width)
    if parts:
        config = ModelConfig(name=name, trunk=trunk, width=width, mdtnet=type(config.mdtnet)(**parts))
    return build_model(config, num_classes=3).eval()


def clip_of(model: nn.Module, size: int = 64, segments: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (1, segments, model.frames_per_segment, 3, size, size), dtype=torch.uint8)


# ---- Grad-CAM


@pytest.mark.parametrize(("label", "where"), [(0, (slice(4), slice(4))), (1, (slice(4), slice(4, 8)))])
def test_grad_cam_shows_the_region_that_decides(label, where):
    clip = torch.zeros(1, 2, 1, 3, 32, 32, dtype=torch.uint8)
    clip[0, 0, 0, 0, :16, :16] = 255  # red, top left, in the first segment alone
    clip[0, 0, 0, 2, :16, 16:] = 255  # blue, top right
    cam = grad_cam(colour_network(), clip, label)  # [2, 8, 8]
    expected = torch.zeros(2, 8, 8, dtype=torch.bool)
    expected[0][where] = True
    assert torch.equal(cam > 0, expected)
    assert cam[expected].std() < 1e-6


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("trunk", ["resnet18", "mobilenet_v2"])
def test_grad_cam_of_every_system(system, trunk):
    model = build(system, trunk)
    for parameter in model.trunk.parameters():
        parameter.requires_grad_(False)  # as `freeze` does
    nn.init.normal_(model.head.fc.weight)
    clip = clip_of(model)
    before = model(clip)
    for stage, cells in ((2, 8), (3, 4), (4, 2)):
        cam = grad_cam(model, clip, 1, stage=stage)
        assert cam.shape == (3, cells, cells)
        assert cam.min() >= 0
        assert not cam.requires_grad
    assert torch.equal(model(clip), before), "the network must be left as it was"


def test_grad_cam_of_a_residual_network_is_its_class_activation_map():
    """Where only a mean and a linear layer follow, Grad-CAM is the classifier applied to each cell (up to a factor)."""
    model = build("tsm")
    nn.init.normal_(model.head.fc.weight)
    features = []
    model.trunk.layer4.register_module("probe", Probe(features))
    clip = clip_of(model)
    cam = grad_cam(model, clip, 2)
    expected = torch.einsum("tchw,c->thw", features[-1], model.head.fc.weight[2]).clamp(min=0)
    assert torch.allclose(cam / cam.max(), expected / expected.max(), atol=1e-5)


class Probe(nn.Module):
    def __init__(self, features: list) -> None:
        super().__init__()
        self.features = features

    def forward(self, x, timeline):
        self.features.append(x.detach())
        return x


# ---- offsets


def dcme_of(model: nn.Module, stage: int) -> DCME:
    return [m for block in model.trunk.stage_blocks(stage) for m in block.modules() if isinstance(m, DCME)][-1]


def test_zero_offsets_sample_the_regular_grid():
    model = build("mdtnet1")
    nn.init.zeros_(dcme_of(model, 3).offset.weight)
    small, large = learned_offsets(model, clip_of(model), stage=3)
    assert (small.span, large.span) == (3, 5)
    points = small.points()
    assert points.shape == (2, 4, 4, 9, 2)
    expected = [(y, x) for y in (1, 2, 3) for x in (0, 1, 2)]
    assert points[1, 2, 1].tolist() == [list(map(float, p)) for p in expected]
    expected = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)]
    assert large.points()[0, 2, 2].tolist() == [list(map(float, p)) for p in expected]
    assert torch.equal(large.points()[:1], large.unmoved())


def test_points_are_moved_by_what_the_convolution_gives():
    model = build("mdtnet2")
    dcme = dcme_of(model, 2)
    nn.init.normal_(dcme.offset.bias, std=0.3)
    nn.init.normal_(dcme.offset.weight[:18], std=0.2)
    nn.init.zeros_(dcme.offset.weight[18:])
    seen = []
    dcme.offset.register_forward_hook(lambda m, x, y: seen.append(y))
    small, large = learned_offsets(model, clip_of(model), stage=2)
    assert torch.equal(small.offset, seen[0][:, :18])
    moved = large.points() - large.unmoved()
    bias = dcme.offset.bias.detach()[18:].view(9, 2)
    bounded = 2 * torch.tanh(bias / 2)  # by the reach of 2 cells
    assert torch.allclose(moved, bounded.expand_as(moved), atol=1e-5)


def test_points_are_where_the_deformable_convolution_reads():
    """Of a map of 100 y + x a one-tap kernel reads the place it samples."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    ramp = (100 * y + x)[None, None]
    offset = torch.rand(1, 18, 9, 9) * 2 - 1
    points = sampling_points(offset)
    for tap in range(9):
        kernel = torch.zeros(1, 1, 9)
        kernel[..., tap] = 1
        read = deform_conv2d(ramp, offset, kernel.view(1, 1, 3, 3))[0, 0, 2:7, 2:7]
        wanted = points[0, 2:7, 2:7, tap] @ torch.tensor([100.0, 1.0])
        assert torch.allclose(read, wanted, atol=1e-3)


def test_most_motion_is_where_the_square_is():
    frames = frames_of_square(40, 64, 64)[:20]
    clip = torch.from_numpy(frames).movedim(-1, 1).unflatten(0, (4, 5))[None]  # [1, 4, 5, 3, 64, 64]
    for t, (x, y) in enumerate(most_motion(clip, SaliencyConfig()).tolist()):
        left = 4 + 2 * (5 * t + 3)
        assert left - 8 < 64 * x < left + 28
        assert 16 < 64 * y < 44


@pytest.mark.parametrize(("name", "parts", "words"), [
    ("tsn", {}, "has no DCME"),
    ("mdtnet1", {"dcme": False}, "has no DCME"),
    ("mdtnet1", {"dcme_deformable": False}, "plain convolutions"),
])  # fmt: skip
def test_networks_without_offsets(name, parts, words):
    model = build(name, **parts)
    with pytest.raises(ConfigError, match=words):
        learned_offsets(model, clip_of(model), stage=4)


def test_one_segment_has_no_offsets():
    model = build("mdtnet1")
    with pytest.raises(ConfigError, match="one segment"):
        learned_offsets(model, clip_of(model, segments=1), stage=4)


# ---- sheets


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    write_video(folder / "clip.mp4", frames_of_square(30))
    for name in ("tsn", "mdtnet2"):
        make_checkpoint(folder / f"{name}.pt", name)
    return folder


def test_sheet_of_two_networks(folder, tmp_path):
    one, two = folder / "tsn.pt", folder / "mdtnet2.pt"
    sheet = Image.open(explain([one], folder / "clip.mp4", tmp_path / "a.png", device="cpu"))
    both = Image.open(explain([one, two], folder / "clip.mp4", tmp_path / "b.jpg", device="cpu", label="wave"))
    stages = Image.open(explain([one, two], folder / "clip.mp4", tmp_path / "c.png", device="cpu", stages=(3, 4)))
    assert (sheet.format, both.format) == ("PNG", "JPEG")
    assert stages.height - both.height == 2 * (PANEL_HEIGHT + 4)
    assert both.height - sheet.height > PANEL_HEIGHT + 4, "a row of maps, and bars of five parts"


# ---- which part


def test_parts_are_worth_what_switching_them_off_costs(folder):
    subject = Subject.of(folder / "mdtnet2.pt", folder / "clip.mp4", "cpu")
    model, index = subject.network.model, 5
    found = {effect.part: effect for effect in part_effects(subject, index)}
    assert list(found) == ["fine", "coarse", "dcme", "stce", "reading"]
    with torch.no_grad():
        whole = model(subject.clip)[0]
        for part in ("fine", "coarse", "dcme", "stce"):
            with knocked_out(model, part):
                scores = model(subject.clip)[0]
            assert found[part].moved == pytest.approx(float(whole[index] - scores[index]), abs=1e-5)
            assert found[part].probability == pytest.approx(float(scores.softmax(-1)[index]), abs=1e-5)
            assert found[part].prediction == CLASSES[scores.argmax()]
        model.saliency = None
        assert found["reading"].moved == pytest.approx(float(whole[index] - model(subject.clip)[0, index]), abs=1e-5)
    assert any(effect.moved for effect in found.values())


def test_networks_without_parts_have_no_effects(folder):
    assert list(part_effects(Subject.of(folder / "tsn.pt", folder / "clip.mp4", "cpu"), 0)) == []


def test_numbers_of_the_picture(folder, tmp_path):
    paths, video = [folder / "tsn.pt", folder / "mdtnet2.pt"], folder / "clip.mp4"
    explain(paths, video, tmp_path / "x.png", device="cpu", label="wave", stages=(3, 4), json=tmp_path / "x.json")
    tsn, mdtnet2 = json.loads((tmp_path / "x.json").read_text())["networks"]
    for path, found in zip(paths, (tsn, mdtnet2)):
        network = Recogniser.load(path, device="cpu")
        probability = dict(zip(CLASSES, network.probabilities(network.views(video))))["wave"]
        assert found["probability"] == pytest.approx(probability, abs=1e-5)
        assert found["score"] == pytest.approx(np.mean([one["score"] for one in found["segments"]]), abs=1e-5)
        for one in found["segments"]:
            assert np.shape(one["gradcam"]["stage3"]) == np.shape(one["salience"]) == (2, 2)
            assert np.shape(one["gradcam"]["stage4"]) == (1, 1)
            assert 0 <= np.min(one["salience"]) <= np.max(one["salience"]) <= 1
    numbers = [one["frame"] for one in mdtnet2["segments"]]
    for frame, number in zip(Subject.of(paths[1], video, "cpu").key_frames(np.arange(3)), numbers):
        left = (4 + 2 * number) * 40 / 64 - (60 - 32) / 2  # of the square, in the centre crop
        bright = np.flatnonzero(frame[16:20].mean((0, 2)) > 120)
        assert abs(bright.min() - max(left, 0)) < 1.5, number
    assert (tsn["parts"], tsn["sees_salience"], mdtnet2["sees_salience"]) == ([], False, True)
    assert {one["part"] for one in mdtnet2["parts"]} == {"fine", "coarse", "dcme", "stce", "reading"}


def test_sheet_of_offsets(folder, tmp_path):
    make = lambda name, **options: explain(  # noqa: E731
        [folder / "mdtnet2.pt"], folder / "clip.mp4", tmp_path / name, what="offsets", device="cpu", **options
    )
    every = np.asarray(Image.open(make("every.png")))
    assert every.shape[0] > 4 * OFFSETS_HEIGHT
    assert np.asarray(Image.open(make("one.png", stages=[2], columns=1))).shape[0] < 3 * OFFSETS_HEIGHT
    corner, centre = (np.asarray(Image.open(make(f"{x}.png", at=(x, x)))) for x in (0.0, 0.5))
    assert (corner != centre).any()


def test_causal_networks_look_back(folder, tmp_path):
    config = RunConfig(
        data=DataConfig(num_segments=3, short_side=40, size=32),
        model=ModelConfig("mdtnet1", "resnet18", 0.25, mdtnet=type(ModelConfig().mdtnet)(causal=True)),
    )
    save_checkpoint(tmp_path / "c.pt", model=build_model(config.model, num_classes=6), config=config, classes=CLASSES)
    out = explain([tmp_path / "c.pt"], folder / "clip.mp4", tmp_path / "c.png", what="offsets", device="cpu")
    assert out.is_file()


def test_frames_are_those_of_a_prediction(folder):
    model = Recogniser.load(folder / "mdtnet2.pt", device="cpu")
    with torch.inference_mode():
        probabilities = model.model(model.read(folder / "clip.mp4")).softmax(1)[0]
    found = model.predict(folder / "clip.mp4", topk=6)
    expected = [probabilities[CLASSES.index(name)].item() for name in found.classes]
    assert list(found.probabilities) == pytest.approx(expected, abs=1e-4)


def test_key_frames_are_those_that_trunks_see():
    assert [build(name).key_frame for name in ("tsn", "tsm", "tea", "tdn", "mdtnet1")] == [0, 0, 0, 2, 3]
    assert build("mdtnet1", key_frame=1).key_frame == 1


MISTAKES = {
    "no offsets": ({"what": "offsets"}, "tsn.pt: stage 2 of this network has no DCME"),
    "unknown class": ({"label": "wawe"}, "label is 'wawe', which .*tsn.pt does not know; did you mean 'wave'"),
    "unknown picture": ({"what": "ofsets"}, "what is 'ofsets', expected one of evidence, offsets; did you mean"),
    "stage": ({"stages": [3, 1]}, "stages has 1, expected some of 2, 3, 4"),
    "columns": ({"columns": -1}, "columns is -1"),
    "place": ({"at": (0.5, 2)}, "at is 0.5,2, expected two numbers from 0 to 1"),
    "json": ({"what": "offsets", "json": "x.json"}, "json is x.json, but what is 'offsets'"),
    "extension": ({"out": "x.mp4"}, r"unknown kind of picture '.mp4', expected .png, .jpg, .jpeg$"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(folder, tmp_path, mistake):
    options, words = MISTAKES[mistake]
    options = {"out": "x.png", "device": "cpu", **options}
    out = tmp_path / options.pop("out")
    with pytest.raises(ConfigError, match=words):
        explain([folder / "tsn.pt"], folder / "clip.mp4", out, **options)
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_and_networks_that_do_not_fit_together(folder, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        explain([folder / "tsn.pt"], tmp_path / "bad.mp4", tmp_path / "x.png", device="cpu")
    with pytest.raises(CheckpointError, match=r"bad\.mp4"):
        explain([tmp_path / "bad.mp4"], folder / "clip.mp4", tmp_path / "x.png", device="cpu")
    config = RunConfig(
        data=DataConfig(num_segments=4, short_side=40, size=32), model=ModelConfig("tsn", "resnet18", 0.25)
    )
    save_checkpoint(tmp_path / "4.pt", model=build_model(config.model, num_classes=6), config=config, classes=CLASSES)
    with pytest.raises(ConfigError, match="networks of 3 and 4 segments"):
        explain([folder / "tsn.pt", tmp_path / "4.pt"], folder / "clip.mp4", tmp_path / "x.png", device="cpu")
    assert not (tmp_path / "x.png").exists()


def test_command_line(folder, tmp_path, capsys):
    common = ["--video", str(folder / "clip.mp4"), "-o", str(tmp_path / "x.png"), "--device", "cpu"]
    assert main(["explain", str(folder / "tsn.pt"), str(folder / "mdtnet2.pt"), *common, "--stages", "3", "4"]) == 0
    assert main(["explain", str(folder / "mdtnet2.pt"), *common, "--what", "offsets", "--at", "0.2,0.4"]) == 0
    assert main(["explain", str(folder / "mdtnet2.pt"), *common, "--what", "offsets", "--at", "left"]) == 2
    assert "--at is 'left', expected X,Y" in capsys.readouterr().err
