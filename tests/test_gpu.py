"""On a CUDA device: the same figures as on a CPU, training in every precision, and what is exactly repeatable there.

python -m pytest -m gpu
"""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from runs import assert_same_state, signal_at_step
from torch.testing import assert_close

from mdtnet.checkpoint import load_model, save_checkpoint
from mdtnet.config import SYSTEMS, DataConfig, ModelConfig, RunConfig, SaliencyConfig
from mdtnet.evaluation import evaluate_checkpoint
from mdtnet.inference.recogniser import Recogniser
from mdtnet.measure.bench import BenchConfig, bench
from mdtnet.models import temporal
from mdtnet.models.build import build_model
from mdtnet.models.saliency import frames_saliency
from mdtnet.training import loop as training
from mdtnet.training.loop import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")]
SMALL = {"trunk": "resnet18", "width": 0.25}


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=5)


@pytest.fixture
def exact():
    """Convolutions and products in float32 rather than TF32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def on_gpu(out: Path, videos: Path, **options) -> RunConfig:
    """A run of seconds on whatever device there is."""
    return tiny.config(out, videos, **{"device": "auto", **options})


def network(system: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """One that no longer starts neutral, and two clips."""
    torch.manual_seed(3)
    model = build_model(ModelConfig(name=system, **SMALL), num_classes=5)
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    clips = torch.randint(0, 256, (2, 4, model.frames_per_segment, 3, 64, 64), dtype=torch.uint8)
    return model, clips


@pytest.mark.parametrize("system", SYSTEMS)
def test_networks_compute_what_they_compute_on_a_cpu(system, exact):
    model, clips = network(system)
    labels = torch.tensor([1, 3])
    logits, gradients = [], []
    for device in ("cpu", "cuda"):
        model = model.to(device).eval()
        model.zero_grad()
        out = model(clips.to(device))
        torch.nn.functional.cross_entropy(out, labels.to(device)).backward()
        logits.append(out.detach().cpu())
        gradients.append({n: p.grad.cpu().clone() for n, p in model.named_parameters() if p.grad is not None})
    assert_close(*logits, rtol=1e-3, atol=1e-4)
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        error = (gradients[1][name] - value).norm() / value.norm().clamp(min=1e-6)
        assert error < 1e-2, name


@pytest.mark.parametrize("triton", [True, False])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("gain", [None, (5, 7), (3, 4), (1, 1)], ids=str)
@pytest.mark.parametrize("segments", [1, 2, 8])
def test_temporal_convolution(segments, gain, causal, triton, exact, monkeypatch):
    if not triton:
        monkeypatch.setattr(temporal, "triton_steps", lambda: None)
    elif temporal.triton_steps() is None:
        pytest.skip("Triton is not installed")
    x, weight = torch.randn(3 * segments, 20, 5, 7), torch.randn(20, 1, 3)
    factor = None if gain is None else torch.rand(3 * segments, 20, *gain)
    grad = torch.randn_like(x)

    def computed(device: str, *, without_grad: bool) -> list[torch.Tensor]:
        inputs = [t.clone().to(device).requires_grad_(not without_grad) for t in (x, weight)]
        inputs[0].data = inputs[0].data.to(memory_format=torch.channels_last)
        extra = None if factor is None else factor.to(device)
        with torch.set_grad_enabled(not without_grad):
            y = temporal.depthwise_conv(*inputs, segments, causal=causal, gain=extra)
        return [y] if without_grad else [y, *torch.autograd.grad(y, inputs, grad.to(device))]

    for without_grad in (False, True):
        for ours, expected in zip(*(computed(d, without_grad=without_grad) for d in ("cuda", "cpu")), strict=True):
            assert_close(ours.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variant", ["amplitude", "phase", "spectral_residual", "difference"])
def test_salience_maps(variant, exact):
    clip = torch.randint(0, 256, (2, 4, 5, 3, 64, 64), dtype=torch.uint8)
    config = SaliencyConfig(variant=variant)
    assert_close(frames_saliency(clip.cuda(), config).cpu(), frames_saliency(clip, config), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("amp", ["no", "fp16", "bf16"])
def test_training_then_the_checkpoint_on_a_cpu(tmp_path, videos, system, amp):
    config = on_gpu(tmp_path / "run", videos, amp=amp, model={"name": system, "width": 0.25})
    result = train(config)
    assert all(torch.isfinite(torch.tensor(row["train_loss"])) for row in result.history)
    best = tmp_path / "run/checkpoints/best.pt"
    assert next(load_model(best).parameters()).device.type == "cpu"
    tested = [
        evaluate_checkpoint(best, data=str(videos), out=tmp_path / device, test=config.test, device=device)
        for device in ("auto", "cpu")
    ]
    assert abs(tested[0]["top1"] - tested[1]["top1"]) <= 0.1  # one of ten videos may lie on the edge


@pytest.mark.parametrize("system", ["tsn", "tsm", "tea", "tdn"])
def test_the_same_run_twice(tmp_path, videos, system):
    for name in ("one", "two"):
        train(on_gpu(tmp_path / name, videos, model={"name": system, "width": 0.25}))
    assert_same_state(tmp_path / "one", tmp_path / "two")


def test_interrupted_and_resumed_is_uninterrupted(tmp_path, videos, monkeypatch):
    whole, halves = (on_gpu(tmp_path / name, videos, amp="fp16") for name in ("whole", "halves"))
    train(whole)
    with monkeypatch.context() as patch:
        signal_at_step(patch, 3, 15)
        with pytest.raises(training.Interrupted):
            train(halves)
    train(halves, resume=True)
    assert_same_state(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("system", ["tsn", "mdtnet2"])
def test_predictions(tmp_path, videos, system, exact):
    config = RunConfig(data=DataConfig(num_segments=3, short_side=40, size=32), model=ModelConfig(name=system, **SMALL))
    torch.manual_seed(5)
    model = build_model(config.model, num_classes=2)
    torch.nn.init.normal_(next(iter(model.head.parameters())))
    save_checkpoint(tmp_path / "net.pt", model=model, config=config, classes=("left", "right"))
    video = next(videos.glob("left/*.mp4"))
    found = [Recogniser.load(tmp_path / "net.pt", device=device).predict(video) for device in ("cuda:0", "cpu")]
    assert found[0].classes == found[1].classes
    assert_close(torch.tensor(found[0].probabilities), torch.tensor(found[1].probabilities), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"training": True, "precision": "fp16"}, {"precision": "bf16"}])
def test_bench(options):
    config = BenchConfig(models=("tsn", "mdtnet2"), trunks=("resnet18",), size=64, repeats=2, device="cuda")
    result = bench(replace(config, **options))
    assert all(row.memory and len(row.seconds) == 2 for row in result.rows)
