"""Exported networks compute what the checkpoint computes, say what they are, and predict without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from exports import CLASSES, described, make_checkpoint
from PIL import Image

from mdtnet.cli.main import main
from mdtnet.config import SYSTEMS, DataConfig, EvalConfig, Format, MDTNetConfig, ModelConfig, RunConfig, TSMConfig
from mdtnet.data.annotations import Texts, VideoList
from mdtnet.data.dataset import ClipDataset
from mdtnet.deploy import export as module
from mdtnet.deploy.export import compare, eager, export
from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.deploy.formats import FORMATS, format_of
from mdtnet.deploy.graph import pure, traced
from mdtnet.deploy.load import load
from mdtnet.deploy.runtime import Stepped
from mdtnet.errors import CheckpointError, ConfigError, DataError, ExportError, VideoError
from mdtnet.inference.description import Description, describe
from mdtnet.inference.recogniser import Recogniser
from mdtnet.measure import bench
from mdtnet.models.build import build_model


@pytest.mark.parametrize("name", ["tsm", "tea", "tdn", "mdtnet2"])  # mdtnet2 holds all that mdtnet1 does
def test_the_traced_network_is_the_network(tmp_path, name):
    """What both runtimes convert: any number of clips, no writing into tensors, every module awake."""
    model = module.load_model(make_checkpoint(tmp_path / "best.pt", name))
    description = described(model)
    program = traced(pure(model), (4, model.frames_per_segment, 64, 64, 3))
    scatters = [n.target for n in program.graph.nodes if "scatter" in str(n.target) or "copy_" in str(n.target)]
    assert scatters == []
    views, labels = module.real_clips("", description)
    run = program.module()
    found = compare(eager(model), lambda x: run(torch.from_numpy(x)).detach().numpy(), views, labels, 1e-3)
    assert found.difference < 1e-5
    assert found.changed == 0
    assert eager(model)(views).std(0).max() > 0.1  # the clips are told apart


def check_export(tmp_path, name: str, form: str, **options) -> None:
    checkpoint = make_checkpoint(tmp_path / "best.pt", name)
    done = export(checkpoint, format=form, out=tmp_path / f"x{FORMATS[form].suffix}", **options)
    assert done.comparison.clips == 12
    assert done.comparison.difference < (1e-5 if not options else 1e-2)


def test_exported_equals_eager(tmp_path):
    check_export(tmp_path, "tsm", "torch")


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_in_every_runtime(tmp_path, name, form):
    pytest.importorskip({"onnx": "onnxscript", "openvino": "openvino"}[form])
    check_export(tmp_path, name, form)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino", "torch"])
def test_half(tmp_path, form):
    pytest.importorskip({"onnx": "onnxscript", "openvino": "openvino", "torch": "torch"}[form])
    check_export(tmp_path, "mdtnet2", form, precision="half")


@pytest.mark.parametrize(
    ("name", "trunk"), [("tsm", "mobilenet_v2"), ("mdtnet2", "efficientnet_lite0"), ("tea", "resnet50")]
)
def test_folded_trunks_are_the_same(name, trunk):
    """Batch norms with statistics of their own, folded where they are registered after a convolution."""
    width = 1.0 if trunk == "efficientnet_lite0" else 0.25
    model = build_model(ModelConfig(name=name, trunk=trunk, width=width), num_classes=5).eval()
    for bn in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        for values in (bn.running_mean, bn.running_var, bn.weight.data, bn.bias.data):
            values += torch.rand_like(values) / 4
    x = torch.randint(0, 256, (1, 4, model.frames_per_segment, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = model(x), pure(model)(x)
    assert not torch.equal(expected, found)  # something was folded
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


READINGS = [
    {"dcme_backward": True},
    {"causal": True},
    {"coarse": False},
    {"dcme": False},
    {"stce": False, "dcme_low_level": True},
    {"temporal": "none"},
    {"dcme": False, "stce": False},
    {"dcme_deformable": False},
    {"excite_every": 1},
]


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("reading", READINGS, ids=str)
@pytest.mark.parametrize("segments", [1, 4])
def test_every_reading_is_the_same_for_a_runtime(reading, segments, steps):
    """Constant factors are moved from module to module; here all are awake."""
    torch.manual_seed(0)
    config = ModelConfig(name="mdtnet2", trunk="resnet18", width=0.125, mdtnet=MDTNetConfig(**reading))
    model = build_model(config, num_classes=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        x = torch.randint(0, 256, (2, segments, 5, 3, 64, 64), dtype=torch.uint8)
        expected, found = model(x), pure(model, steps=steps)(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", [pytest.param("tdn", marks=pytest.mark.slow), "mdtnet2"])
def test_small_crops_in_openvino(name):
    """At 32 pixels the last map is one pixel, which OpenVINO does not pool."""
    openvino = pytest.importorskip("openvino")
    model = build_model(ModelConfig(name=name, trunk="resnet18", width=0.125), num_classes=5).eval()
    x = np.random.default_rng(0).integers(0, 256, (2, 2, 5, 32, 32, 3), dtype=np.uint8)
    program = traced(pure(model, steps=True), x.shape[1:])
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # even where the CPU could do bfloat16
    converted = openvino.compile_model(openvino.convert_model(program), "CPU", exact)
    np.testing.assert_allclose(converted(x)[0], eager(model)(x), atol=1e-5)


def test_half_is_half_the_file(tsn, onnx_file, tmp_path):
    export(tsn, format="onnx", out=tmp_path / "half.onnx", precision="half")
    assert (tmp_path / "half.onnx").stat().st_size < 0.7 * onnx_file.stat().st_size


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_int8_reports_its_accuracy(tsn, videos, tmp_path, form):
    pytest.importorskip("nncf" if form == "openvino" else "onnxscript", reason="needs the extra 'int8'")
    out = tmp_path / f"small{FORMATS[form].suffix}"
    done = export(tsn, format=form, out=out, precision="int8", clips=str(videos))
    assert (done.calibrated, done.comparison.clips, done.comparison.labelled) == (2, 1, 1)
    assert str(done).startswith("calibrated with 2 other clips; 1 clips: ")
    assert "on 1 labelled clips" in str(done)
    assert 1e-5 < done.comparison.difference < 0.3
    assert ExportedRecogniser.load(out).description.precision == "int8"


def test_the_file_says_what_it_is(onnx_file):
    deployed = ExportedRecogniser.load(onnx_file)
    beside = Description.from_json(Path(f"{onnx_file}.json").read_text(), where="x")
    assert deployed.description == beside
    assert beside.classes == CLASSES
    assert (beside.num_segments, beside.size, beside.short_side) == (4, 64, 72)
    assert str(Path.cwd()).encode() not in onnx_file.read_bytes()  # nothing of this machine
    assert {p.name for p in onnx_file.parent.iterdir()} == {"best.pt", "best.onnx", "best.onnx.json"}


def folder_of_frames(folder: Path, height: int, width: int) -> Path:
    folder.mkdir()
    for i, frame in enumerate(np.random.default_rng(0).integers(0, 256, (18, height, width, 3), dtype=np.uint8)):
        Image.fromarray(frame).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("exposure", ["none", "gamma"])
@pytest.mark.parametrize(("size", "segments"), [(64, 0), (90, 7)])  # 90: larger than the short side: enlarged
def test_views_are_those_of_a_test_bit_for_bit(videos, tmp_path, exposure, size, segments):
    """With and without torch: video files, folders of images that shrink or grow, one crop and three."""
    sources = [videos / name for name in ("left/a.mp4", "right/b.mp4", "right/c.mp4")]
    sources += [folder_of_frames(tmp_path / "large", 96, 128), folder_of_frames(tmp_path / "small", 50, 41)]
    config = RunConfig(
        data=DataConfig(num_segments=4, short_side=72, size=size, exposure=exposure),
        model=ModelConfig(name="tsn", trunk="resnet18", width=0.125),
        test=EvalConfig(segments=segments),
    )
    model = Recogniser(build_model(config.model, num_classes=5), classes=CLASSES, config=config, device="cpu")
    for source in sources:
        for crops in (1, 3):
            list_ = VideoList(CLASSES, np.zeros(1, dtype=np.int64), "", Texts.of([str(source)]), np.arange(1))
            test = EvalConfig(clips=2, crops=crops, segments=segments)
            item = ClipDataset(list_, config.data, frames_per_segment=1, train=False, test=test)[0]
            expected = item["frames"].movedim(-3, -1).numpy()
            np.testing.assert_array_equal(model.views(source, clips=2, crops=crops), expected)
            about = describe(config, classes=CLASSES, frames_per_segment=1, crops=crops)
            exported = ExportedRecogniser(lambda x: x, about)
            np.testing.assert_array_equal(exported.views(source, clips=2, crops=crops), expected)


@pytest.mark.parametrize("fusion", ["softmax", "logits"])
def test_predictions_equal_the_checkpoints(videos, onnx_file, tmp_path, fusion):
    checkpoint = make_checkpoint(tmp_path / "best.pt", "tsn", fusion=fusion, crop_size=64)
    expected = Recogniser.load(checkpoint, device="cpu").predict(videos / "left/a.mp4", clips=3)
    deployed = ExportedRecogniser.load(onnx_file)
    deployed.description = Description(**{**vars(deployed.description), "fusion": fusion})
    found = deployed.predict(videos / "left/a.mp4", clips=3)
    assert found.classes == expected.classes
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-3)


def test_predict_without_torch(videos, onnx_file, tmp_path):
    code = (
        "import sys; from mdtnet.cli.main import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules; sys.exit(code)"
    )
    arguments = ["predict", str(onnx_file), str(videos), "--topk", "2", "--json", str(tmp_path / "out.json")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # one video is damaged
    assert "1 of 4 videos could not be read" in done.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    expected = ExportedRecogniser.load(onnx_file).predict(found[0]["path"])
    assert [p["class"] for p in found[0]["predictions"]] == list(expected.classes[:2])
    assert found[1]["error"]


def test_openvino_predicts_without_torch(tsn, videos, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra 'export'")
    export(tsn, format="openvino", out=tmp_path / "x.xml", clips=str(videos))
    code = (
        "import sys; from mdtnet import ExportedRecogniser;"
        "print(ExportedRecogniser.load(sys.argv[1]).predict(sys.argv[2])); sys.exit('torch' in sys.modules)"
    )
    arguments = [str(tmp_path / "x.xml"), str(videos / "left/a.mp4")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    best = Recogniser.load(tsn, device="cpu").predict(videos / "left/a.mp4").classes[0]
    assert f"a.mp4: {best} " in done.stdout


def test_another_network_is_refused_and_nothing_left(tsn, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "load_network", lambda file: lambda x: np.roll(eager(module.load_model(tsn))(x), 1, 1))
    (tmp_path / "x.pt2").write_text("an older file")
    with pytest.raises(ExportError, match=r"x\.pt2: not written: on 12 clips probabilities differ .* by up to"):
        export(tsn, format="torch", out=tmp_path / "x.pt2")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pt2"]
    assert (tmp_path / "x.pt2").read_text() == "an older file"
    assert main(["export", str(tsn), "--format", "torch", "--out", str(tmp_path / "y.pt2")]) == 4


def test_close_calls_may_change():
    views, labels = np.zeros((2, 1)), np.array([-1, 0])
    eager_ = np.array([[0.5001, 0.4999], [0.9, 0.1]])

    def once(values):
        rows = iter(values)
        return lambda part: np.array([next(rows) for _ in part])

    close = compare(once(eager_), once([[0.4999, 0.5001], [0.9, 0.1]]), views, labels, 1e-3)
    assert (close.changed, close.clearly_changed, close.labelled, close.top1_exported) == (1, 0, 1, 1.0)
    assert compare(once(eager_), once([[0.5, 0.5], [0.4, 0.6]]), views, labels, 1e-3).clearly_changed == 1


def test_mistakes(tsn, tmp_path, monkeypatch):
    wrong = [
        ({"format": "onnx", "out": tmp_path / "x.xml"}, ConfigError, "must end in .onnx"),
        ({"format": "onnx", "out": tmp_path / "no" / "x.onnx"}, ConfigError, "folder does not exist"),
        ({"format": "torch", "out": tmp_path / "x.pt2", "precision": "int8"}, ConfigError, "int8 goes with"),
        ({"format": "torch", "out": tmp_path / "x.pt2", "clips": str(tmp_path / "*.mp4")}, DataError, "no video"),
    ]
    for keywords, error, message in wrong:
        with pytest.raises(error, match=message):
            export(tsn, **keywords)
    (tmp_path / "x.onnx").write_text("not a model")
    with pytest.raises(CheckpointError, match=r"x\.onnx: "):
        ExportedRecogniser.load(tmp_path / "x.onnx")
    with pytest.raises(CheckpointError, match="no such file"):
        ExportedRecogniser.load(tmp_path / "y.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime, .* pip install 'mdtnet\[export\]'"):
        ExportedRecogniser.load(tmp_path / "x.onnx")


def test_unreadable_video(onnx_file, videos):
    with pytest.raises(VideoError, match="not a video"):
        ExportedRecogniser.load(onnx_file).predict(videos / "left/bad.mp4")
    with pytest.raises(ConfigError, match="crops is 2"):
        ExportedRecogniser.load(onnx_file).predict(videos / "left/a.mp4", crops=2)


def test_the_table_of_formats_is_whole():
    assert tuple(FORMATS) == get_args(Format)
    small = [f"{name}_int8" for name, form in FORMATS.items() if "int8" in form.precisions]
    assert list(bench.FORMATS) == ["eager", *FORMATS, *small]
    for name, form in FORMATS.items():
        assert format_of(f"best{form.suffix}") is form
        assert form.extra in ("", "export")
        assert "float32" in form.precisions, name
    assert format_of("best.pt") is None


def test_a_program_of_torch_predicts_too(tsn, videos, tmp_path):
    export(tsn, format="torch", out=tmp_path / "x.pt2", clips=str(videos))
    found, expected = (load(path, device="cpu").predict(videos / "left/a.mp4") for path in (tmp_path / "x.pt2", tsn))
    assert found.classes == expected.classes
    assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


def test_load_knows_a_file_by_its_suffix(tsn, onnx_file, tmp_path):
    assert isinstance(load(onnx_file), ExportedRecogniser)
    assert isinstance(load(tsn, device="cpu"), Recogniser)
    with pytest.raises(ConfigError, match="device is 'cuda', but exported networks run on the CPU"):
        load(onnx_file, device="cuda")
    with pytest.raises(ConfigError, match=r"segments is 4, but .*\.onnx is exported: its number of segments is fixed"):
        load(onnx_file, segments=4)
    with pytest.raises(CheckpointError, match=r"expected a file that ends in one of \.onnx, \.xml, \.pt2"):
        ExportedRecogniser.load(tsn)
    (tmp_path / "x.pt2").write_text("not a program")
    with pytest.raises(CheckpointError, match=r"x\.pt2: not a torch\.export program"):
        load(tmp_path / "x.pt2")


def test_both_predictors_check_and_read_ahead_alike(onnx_file, tsn, videos):
    for model in (load(onnx_file), load(tsn, device="cpu")):
        sources = [videos / name for name in ("left/a.mp4", "left/bad.mp4", "right/b.mp4", "right/c.mp4")]
        alone, ahead = (list(model.predict_many(sources, workers=n)) for n in (0, 2))
        assert [(p.path, p.classes, p.error) for p in ahead] == [(p.path, p.classes, p.error) for p in alone]
        assert [bool(p.error) for p in alone] == [False, True, False, False]
        for wrong in ({"clips": 0}, {"crops": 2}, {"topk": 0}, {"threshold": 2.0}, {"workers": -1}):
            with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is"):
                model.predict_many(sources, **wrong)


# streams


CAUSAL = {
    "tsn": {},
    "tsm": {"tsm": TSMConfig(causal=True)},
    "mdtnet1": {"mdtnet": MDTNetConfig(causal=True)},
    "mdtnet2": {"mdtnet": MDTNetConfig(causal=True)},
}


@pytest.mark.parametrize("name", ["tsm", "mdtnet2"])
def test_a_stream_is_exported_with_its_state(tmp_path, name, videos):
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    check_stream(tmp_path, videos, name, {})


@pytest.mark.slow
@pytest.mark.parametrize("input", ["raw", "without_scene"])
@pytest.mark.parametrize("trunk", ["resnet50", "mobilenet_v2", "efficientnet_lite0"])
@pytest.mark.parametrize("name", CAUSAL)
def test_every_causal_network_is_exported_as_a_stream(tmp_path, name, trunk, input, videos):
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    if (name, input) == ("tsn", "without_scene"):
        pytest.skip("looks ahead")
    width = 1.0 if trunk == "efficientnet_lite0" else 0.25
    check_stream(tmp_path, videos, name, {"trunk": trunk, "input": input, "width": width})


def check_stream(tmp_path, videos, name: str, model: dict) -> None:
    checkpoint = make_checkpoint(tmp_path / "best.pt", name, model={**CAUSAL[name], **model})
    assert main(["export", str(checkpoint), "--stream", "--clips", str(videos)]) == 0
    deployed, expected = load(tmp_path / "best_stream.onnx"), Recogniser.load(checkpoint, device="cpu")
    assert deployed.keeps_state
    assert deployed.description.stream
    segments = np.random.default_rng(0).integers(0, 256, (7, 2, expected.model.frames_per_segment, 64, 64, 3), np.uint8)
    one = other = None
    for segment in segments:  # more of them than T
        found, one = deployed.step(segment, one)
        wanted, other = expected.step(segment, other)
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    video = videos / "left/a.mp4"
    found, wanted = deployed.predict(video), expected.predict(video)  # a clip is a stream of T segments
    assert found.classes == wanted.classes
    assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-3)


def test_streams_that_cannot_be_exported(tmp_path, tsn):
    causal = make_checkpoint(tmp_path / "tsm.pt", "tsm", model=CAUSAL["tsm"])
    looks_ahead = make_checkpoint(tmp_path / "tea.pt", "tea")
    with pytest.raises(ConfigError, match=r"this TEA looks ahead: a stream needs .* tsm with model\.tsm\.causal"):
        export(looks_ahead, format="onnx", out=tmp_path / "x.onnx", stream=True)
    for wrong in ({"format": "torch", "out": tmp_path / "x.pt2"}, {"out": tmp_path / "x.onnx", "precision": "int8"}):
        with pytest.raises(ConfigError, match="a stream goes with format onnx in float32 or half"):
            export(causal, **{"format": "onnx", **wrong}, stream=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tea.pt", "tsm.pt"]
    with pytest.raises(ConfigError, match="this TEA looks ahead"):
        Recogniser.load(looks_ahead, device="cpu").step(np.zeros((1, 1, 64, 64, 3), np.uint8))


def test_a_stream_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path / "tsm.pt", "tsm", model=CAUSAL["tsm"])
    network = Recogniser.load(checkpoint, device="cpu")
    monkeypatch.setitem(FORMATS, "onnx", FORMATS["onnx"]._replace(write=lambda *arguments: None))
    monkeypatch.setattr(module, "load_network", lambda file: Stepped(lambda segments, state: network.step(segments)))
    with pytest.raises(ExportError, match=r"x\.onnx: not written: on 12 clips probabilities differ"):
        export(checkpoint, format="onnx", out=tmp_path / "x.onnx", stream=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tsm.pt"]
