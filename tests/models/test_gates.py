"""Parts that are on: open gates that have learned, and networks of which one part is silenced."""

import numpy as np
import pytest
import torch
from tiny import config, write_videos

from mdtnet.config import GATE_FIGURES, SYSTEMS, MDTNetConfig, ModelConfig
from mdtnet.errors import ConfigError
from mdtnet.evaluation import evaluate_checkpoint
from mdtnet.models.build import build_model
from mdtnet.models.folding import folded
from mdtnet.models.gates import gate_figures, inside, knocked_out, parts_of
from mdtnet.models.mdtnet import DCME
from mdtnet.scores import ScoreTable
from mdtnet.training.loop import train
from mdtnet.training.run_folder import read_history

PARTS = {
    "tsn": (),
    "tsm": (),
    "tea": ("motion",),
    "tdn": ("fine", "coarse"),
    "actionnet": (),
    "mdtnet1": ("fine", "coarse", "dcme", "stce"),
    "mdtnet2": ("fine", "coarse", "dcme", "stce", "reading"),
}


def network(system: str, **options) -> torch.nn.Module:
    """A small network."""
    model = build_model(ModelConfig(name=system, trunk="resnet18", width=0.125, dropout=0.0, **options), num_classes=3)
    model(clips(model))  # batch norms have seen something
    return model.eval()


def clips(model: torch.nn.Module, segments: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    shape = (2, segments, model.frames_per_segment, 3, 64, 64)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_part_can_be_silenced_and_comes_back(system):
    model = network(system)
    assert parts_of(model) == PARTS[system]
    x = clips(model)
    with torch.no_grad():
        whole = model(x)
        for part in PARTS[system]:
            with knocked_out(model, part):
                assert not torch.equal(model(x), whole), part
            assert torch.equal(model(x), whole), part
        with knocked_out(model, "motion" if system != "tea" else "stce"):
            assert torch.equal(model(x), whole)


def test_network_without_its_gates_is_the_network_that_has_none():
    model = network("mdtnet1")
    bare = build_model(
        ModelConfig(
            name="mdtnet1",
            trunk="resnet18",
            width=0.125,
            mdtnet=MDTNetConfig(coarse=False, dcme=False, stce=False),
        ),
        num_classes=3,
    ).eval()
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if k in bare.state_dict()})
    x = clips(model)
    with torch.no_grad(), knocked_out(model, "coarse"), knocked_out(model, "dcme"), knocked_out(model, "stce"):
        torch.testing.assert_close(model(x), bare(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("reading", ["raw", "without_scene"])
def test_silenced_reading_is_mdtnet1(reading):
    """That of the salience map, and that of the key frames without the scene."""
    model, raw = network("mdtnet2", input=reading), network("mdtnet1")
    raw.load_state_dict(model.state_dict())
    x = clips(model)
    with torch.no_grad(), knocked_out(model, "reading"):
        assert torch.equal(model(x), raw(x))


def test_folded_network_is_silenced_alike():
    model = network("mdtnet2")
    quick, x = folded(model), clips(model)
    for part in parts_of(model):
        with torch.no_grad(), knocked_out(model, part), knocked_out(quick, part):
            torch.testing.assert_close(quick(x), model(x), atol=1e-5, rtol=1e-4)


def test_gates_that_start_at_zero_are_seen_to_be_zero():
    model = network("mdtnet1", mdtnet=MDTNetConfig(gate_start=0.0, fine_start=0.0))
    found = gate_figures(model, clips(model))
    assert found["e_coarse"] == found["e_dcme"] == found["e_stce"] == found["fine_share"] == 0
    opened = gate_figures(network("mdtnet1"), clips(model))
    assert all(opened[name] > 0 for name in GATE_FIGURES if name != "e_motion")


def test_share_of_the_fine_path_is_that_of_what_joins():
    model = network("mdtnet1", mdtnet=MDTNetConfig(fine_fusion="average", fine_stage1=False, spatial_difference="none"))
    x = clips(model)
    key, action = model.enhanced(x)
    with torch.no_grad():
        stem, d = model.trunk.stem(key), model.fine.stem(action)
    upsampled = torch.nn.functional.interpolate(d, stem.shape[-2:], mode="nearest")
    expected = upsampled.square().mean().sqrt() / stem.square().mean().sqrt()
    assert gate_figures(model, x)["fine_share"] == pytest.approx(float(expected), rel=1e-5)


def test_taps_inside_the_picture_are_counted():
    dcme = next(m for m in network("mdtnet1").modules() if isinstance(m, DCME))
    taps = sum(k.shape[-1] ** 2 for k in dcme.kernels)
    still = torch.zeros(1, 2 * taps, 8, 8)
    # kernels of 3 x 3 at dilation 1 and 2 on 8 x 8 cells: 22 of 24 and 20 of 24 cells a side are inside
    assert inside(still, dcme) == pytest.approx(((22 / 24) ** 2 + (20 / 24) ** 2) / 2)
    assert inside(still + 100, dcme) == 0


def test_offsets_are_bounded_by_their_reach():
    for reach in (2.0, 0.0):
        model = network("mdtnet1", mdtnet=MDTNetConfig(dcme_reach=reach))
        dcme = next(m for m in model.modules() if isinstance(m, DCME))
        torch.nn.init.normal_(dcme.offset.weight, std=100.0)
        furthest = dcme.offset(torch.randn(1, dcme.offset.in_channels, 8, 8)).abs().max()
        assert furthest <= 2 if reach else furthest > 20


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory):
    """A short recipe: 60 steps."""
    folder = tmp_path_factory.mktemp("gates")
    videos = write_videos(folder / "videos", per_class=8)
    run = config(
        folder / "run",
        videos,
        data={"num_segments": 4, "size": 48, "short_side": 48, "flip": False},
        model={"name": "mdtnet2", "dropout": 0.0},
        epochs=15,
        batch_size=4,
        optimizer="adamw",
        lr=0.08,
        temporal_lr=10.0,
        clip_grad=20.0,
        val_every=15,
    )
    train(run)
    return folder


def test_log_shows_how_far_parts_are_on(fine_tuned):
    history = read_history(fine_tuned / "run" / "log.csv")
    assert all(row[name] is not None for row in history for name in GATE_FIGURES if name != "e_motion")
    assert all(row["e_motion"] is None for row in history)
    assert history[0]["e_dcme"] != history[-1]["e_dcme"]


@pytest.mark.parametrize("part", ["coarse", "dcme", "stce"])
def test_gates_are_open_after_a_short_recipe_and_have_learned(fine_tuned, part):
    """Mean |E| is 0.02 at least, and silencing the gate moves the mean margin of either class by more than
    3 standard errors."""
    assert read_history(fine_tuned / "run" / "log.csv")[-1][f"e_{part}"] >= 0.02
    videos = str(write_videos(fine_tuned / "more", per_class=40, seed=1))
    checkpoint = fine_tuned / "run" / "checkpoints" / "last.pt"
    test = config(fine_tuned, videos).test
    margins = []
    for without in ("", part):
        out = fine_tuned / f"test_{without}"
        evaluate_checkpoint(checkpoint, data=videos, out=out, test=test, device="cpu", without=without)
        table = ScoreTable.load(out / "scores.npz")
        scores = table.scores[:, 0]
        own = scores[np.arange(len(scores)), table.labels]
        margins.append(own - scores[np.arange(len(scores)), 1 - table.labels])
    change = margins[0] - margins[1]
    of_classes = [change[table.labels == label] for label in (0, 1)]  # of two, what one loses the other may win
    assert all(abs(c.mean()) > 3 * c.std(ddof=1) / np.sqrt(len(c)) for c in of_classes)


def test_part_that_a_network_lacks_is_named(fine_tuned):
    checkpoint = fine_tuned / "run" / "checkpoints" / "last.pt"
    with pytest.raises(ConfigError, match="without is 'motion', but mdtnet2 as configured has the parts: fine, coarse"):
        evaluate_checkpoint(
            checkpoint,
            data=str(fine_tuned / "videos"),
            out=fine_tuned / "x",
            test=config(fine_tuned, "").test,
            device="cpu",
            without="motion",
        )
