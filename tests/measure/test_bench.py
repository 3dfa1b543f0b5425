"""The bench on networks of a blink: what it measures adds up, what it writes can be read, wrong options are named."""

import json
import re
import time
from functools import partial

import pytest
import torch
from clips import frames_of_square, write_video
from torch import nn

from mdtnet.cli.main import main
from mdtnet.cli.measure import speed_table
from mdtnet.errors import ConfigError
from mdtnet.measure import bench as module
from mdtnet.measure.bench import BenchConfig, Row, bench
from mdtnet.measure.clock import clocked
from mdtnet.measure.peers import PEERS, peer_cost

TINY = {"trunks": ("resnet18",), "width": 0.125, "segments": 2, "size": 32, "repeats": 2, "threads": 1}


@pytest.fixture(autouse=True)
def small_product(monkeypatch):
    """A matrix product that takes no time, and the number of threads as it was."""
    real = module.gemm_gflops
    monkeypatch.setattr(module, "gemm_gflops", lambda config: real(config, side=64))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_bench_measures_every_network(tmp_path):
    result = bench(BenchConfig(models=("tsn", "mdtnet2"), **TINY), components=True, memory=False)
    tsn, ours = result.rows
    assert [len(r.seconds) for r in result.rows] == [2, 2]
    assert len(result.peak) == 2
    assert min(tsn.seconds + tsn.cpu_seconds) > 0
    assert ours.gmacs > tsn.gmacs > 0
    assert tsn.ratios(result.base(ours)) == [1, 1]
    assert ours.ratios(result.base(ours)) == pytest.approx([a / b for a, b in zip(ours.seconds, tsn.seconds)])
    assert {"trunk", "DCME", "STCE", "temporal convolution"} <= result.components["mdtnet2 resnet18"].keys()
    assert "DCME" not in result.components["tsn resnet18"]
    result.save(tmp_path / "made")
    saved = json.loads((tmp_path / "made" / "bench.json").read_text())
    assert saved["rows"][1]["seconds"] == ours.seconds
    assert saved["config"]["threads"] == saved["about"]["threads"] == 1
    assert {"torch", "cpu", "date", "commit", "load"} <= saved["about"].keys()
    assert (tmp_path / "made" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_exported_forms_run_beside_eager():
    config = BenchConfig(models=("tsn", "tsm"), formats=("eager", "torch"), **TINY)
    result = bench(config, components=True)
    assert [(r.system, r.format) for r in result.rows] == [(s, f) for s in config.models for f in config.formats]
    exported = result.rows[3]
    assert result.base(exported).name == "tsn resnet18 torch"
    assert result.eager(exported).name == "tsm resnet18"
    assert exported.gmacs == result.rows[2].gmacs
    assert exported.memory is None or exported.memory > 0
    assert set(result.components) == {"tsn resnet18", "tsm resnet18"}
    columns = speed_table(result, "resnet18").columns
    assert [str(c.header).replace("\n", " ") for c in columns][-2:] == ["speed x eager", "CPU speed x eager"]
    assert list(columns[1].cells) == ["eager", "torch"] * 2
    assert next(iter(columns[-1].cells)) == "1.00\n1.00-1.00"


def test_eager_is_timed_as_predictions_run_it():
    folded = module.Subject(BenchConfig(**TINY), "tsn", "resnet18").model
    trained = module.Subject(BenchConfig(training=True, **TINY), "tsn", "resnet18").model
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) for model in (folded, trained)]
    assert norms == [0, 20]


def test_gflops_are_of_what_is_computed():
    row = Row("tsn", "resnet18", gmacs=3.0, parameters=1, memory=None, seconds=[2.0, 1.0, 4.0])
    for training, expected in ((False, 2 * 3 * 4 / 2), (True, 3 * 2 * 3 * 4 / 2)):
        result = module.Bench({}, BenchConfig(batch=4, training=training), [row], [1.0], {})
        assert result.gflops(row) == pytest.approx(expected)


def test_training_steps_train():
    subject = module.Subject(BenchConfig(training=True, batch=2, **TINY), "tsm", "resnet18")
    before = subject.model.head.fc.bias.clone()
    subject.step()
    assert not torch.equal(before, subject.model.head.fc.bias)


def test_memory_is_that_of_the_network():
    configs = [BenchConfig(batch=b, **{**TINY, "size": 64}) for b in (1, 96)]
    small, large = (module.peak_memory(c, partial(module.Subject, c, "tsn", "resnet18")) for c in configs)
    if small is None:
        pytest.skip("this system does not tell")
    pixels = 96 * 2 * 3 * 64 * 64
    assert small < large
    assert pixels * 4 < large < 100 * pixels * 4


class Slow(nn.Module):
    def forward(self, x):
        time.sleep(0.05)
        return x


def test_clock_gives_each_component_its_own_time():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = nn.Sequential(Slow(), Slow())
            self.head = Slow()

        def forward(self, x):
            time.sleep(0.05)
            return self.head(self.trunk(x))

    network = Network()
    with clocked(network, "cpu") as seconds:
        network(torch.zeros(1))
    assert seconds["salience and input"] == pytest.approx(0.05, abs=0.04)
    assert seconds["trunk"] == pytest.approx(0.1, abs=0.04)
    assert 0.05 <= seconds["classifier"] < 0.09
    assert not network.head._forward_hooks


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": ("tsn", "mdtnet")}, "did you mean 'mdtnet"),
        ({"trunks": ("resnet5",)}, "did you mean 'resnet50'"),
        ({"models": ()}, "--models"),
        ({"repeats": 0}, "--repeats is 0"),
        ({"device": "gpu"}, "expected cpu or cuda"),
        ({"formats": ("eager", "onxx")}, "did you mean 'onnx"),
        ({"formats": ("onnx",), "training": True}, "forward passes on a CPU"),
    ],
)
def test_mistakes_are_named(options, said):
    with pytest.raises(ConfigError, match=said):
        bench(BenchConfig(**options))


def test_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "peak_memory", lambda config, make: {"tsn": 100 << 20, "tdn": 150 << 20}[make.args[1]])
    monkeypatch.setenv("COLUMNS", "200")
    out = str(tmp_path / "b")
    options = "bench --models tsn,tdn --trunks resnet18 --width 0.125 --segments 2 --size 32 --repeats 1 --threads 1"
    assert main([*options.split(), "--components", "--out", out]) == 0
    text = capsys.readouterr().out
    for expected in ("resnet18", "x tsn", "150", "1.50", "GFLOP", "fine differences", "bench.json"):
        assert expected in text
    assert main(["bench", "--models", "tsm,tsx"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_peers_and_the_preparation_of_a_video(tmp_path, capsys, monkeypatch):
    for name in set(PEERS) - {"r2plus1d_18"}:
        monkeypatch.delitem(PEERS, name)
    monkeypatch.setitem(PEERS, "r2plus1d_18", PEERS["r2plus1d_18"]._replace(num_frames=2))
    monkeypatch.setattr(module, "peak_memory", lambda config, make: None)
    monkeypatch.setenv("COLUMNS", "200")
    video = write_video(tmp_path / "square.mp4", frames_of_square(24))
    options = "bench --models tsn,tsm --trunks resnet18 --width 0.125 --segments 2 --size 32 --repeats 2 --threads 1"
    more = ["--peers", "--video", str(video), "--out", str(tmp_path / "made")]
    assert main([*options.split(), *more]) == 0
    text = capsys.readouterr().out
    for expected in ("square.mp4 (2.0 s, 24 frames of 96 x 64, h264)", "preparation", "2x112", "67.5", "as published"):
        assert expected in text
    rows = json.loads((tmp_path / "made" / "bench.json").read_text())["rows"]
    assert [row["system"] for row in rows] == ["tsn", "tsm", "r2plus1d_18"]
    assert all(len(row["preparation"]) == 2 and min(row["preparation"]) > 0 for row in rows)
    assert main(["bench", "--peers", "--training"]) == 2
    assert "--peers are forward passes" in capsys.readouterr().err
    assert main(["bench", "--video", str(tmp_path / "no.mp4")]) != 0
    assert "no.mp4" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_peers_are_as_published(name):
    peer, meta = PEERS[name], PEERS[name].published.meta
    stated = dict(re.findall(r"`(\w+)=([\d.]+)`", meta["_docs"]))
    assert {"frame_rate": peer.fps, "clips_per_video": peer.num_clips, "clip_len": peer.num_frames} == {
        key: float(value) for key, value in stated.items()
    }
    cost = peer_cost(name, num_frames=16)  # what torchvision counts its operations of
    assert cost.parameters == meta["num_params"]
    assert cost.gmacs == pytest.approx(meta["_ops"], abs=1e-3)
