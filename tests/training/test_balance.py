"""Left and right, rare classes, and clips that are mixed."""

import json

import numpy as np
import pytest
import tiny
import torch

from mdtnet.config import DataConfig, RunConfig, TrainConfig
from mdtnet.config_file import from_dict
from mdtnet.data.annotations import load_videos
from mdtnet.data.dataset import ClipBatches, ClipDataset
from mdtnet.data.transforms import ClipAugment, mirror_labels
from mdtnet.errors import ConfigError
from mdtnet.training import recipe
from mdtnet.training.loop import train

# Left and right


def test_pairs_of_something_something(shared):
    path = shared / "data/official_splits/tea_labels/something-something-v2-labels.json"
    labels = json.loads(path.read_text())
    mirrored = mirror_labels(sorted(labels, key=lambda name: int(labels[name])))
    pairs = {(i, j) for i, j in enumerate(mirrored.tolist()) if i < j}
    assert pairs == {(86, 87), (93, 94), (166, 167)}
    assert (mirrored[mirrored] == np.arange(174)).all()


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("Swiping Left", "Swiping Right", "Swiping Up"), [1, 0, 2]),
        (("turn_left", "turn_right", "bright", "upright", "leftovers"), [1, 0, 2, 3, 4]),
        (("SwipeRight", "SwipeLeft"), [1, 0]),
        (("left to right", "right to left"), [1, 0]),
        (("turn left", "jump"), [0, 1]),  # its mirror image has no label
    ],
)
def test_mirrored_labels(classes, expected):
    assert mirror_labels(classes).tolist() == expected


def test_a_mirrored_clip_has_the_mirrored_label(tmp_path):
    videos = load_videos(str(tiny.write_videos(tmp_path, per_class=2)))

    def labels(flip) -> list[tuple[bool, int, int]]:
        data = DataConfig(num_segments=2, size=32, short_side=32, flip=flip)
        plain = DataConfig(num_segments=2, size=32, short_side=32, flip=False)
        found = []
        for seed in range(12):
            items = [ClipDataset(videos, d, frames_per_segment=1, train=True, seed=seed)[0] for d in (data, plain)]
            found.append((torch.equal(items[0]["frames"], items[1]["frames"]), items[0]["label"], items[1]["label"]))
        return found

    swapped = labels("swap")
    assert {own for same, own, _ in swapped if not same} == {1}
    assert {own for same, own, _ in swapped if same} == {0}
    assert {own for _, own, _ in labels(True)} == {0}
    assert {same for same, _, _ in labels(False)} == {True}


@pytest.mark.parametrize("value", [True, False, "swap"])
def test_flip_is_read_from_yaml(value):
    assert from_dict(RunConfig, {"data": {"flip": value}}).data.flip is value
    for wrong in (1, "swop"):
        with pytest.raises(ConfigError, match="expected one of True, False, swap"):
            from_dict(RunConfig, {"data": {"flip": wrong}})


def test_training_warns_of_left_and_right(tmp_path, caplog):
    folder = tiny.write_videos(tmp_path / "videos", per_class=2)
    with caplog.at_level("WARNING", logger="mdtnet"):
        train(tiny.config(tmp_path / "swap", folder, data={"flip": "swap"}, epochs=1))
        assert "left and right" not in caplog.text
        train(tiny.config(tmp_path / "true", folder, data={"flip": True}, epochs=1))
    assert "left and right" in caplog.text


# RandAugment


@pytest.mark.parametrize("seed", range(12))
def test_randaugment_draws_once_a_clip(seed):
    frame = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    still = frame.expand(2, 3, 3, 40, 40)
    augment = ClipAugment(40, 32, randaugment=9)
    out = augment(still, np.random.default_rng(seed))
    assert (out == out[:1, :1]).all()
    assert torch.equal(out, augment(still, np.random.default_rng(seed)))
    moving = still.clone()
    moving[1, 2] = 0  # one dark frame changes nothing of the others
    assert torch.equal(augment(moving, np.random.default_rng(seed))[0], out[0])


def test_randaugment_changes_clips_and_leaves_the_global_generator_alone():
    frames = torch.randint(0, 256, (2, 1, 3, 40, 40), dtype=torch.uint8)
    before = torch.get_rng_state()
    outs = {ClipAugment(40, 40, flip=False, randaugment=9)(frames, np.random.default_rng(s)).sum() for s in range(8)}
    assert len(outs) > 3
    assert torch.equal(torch.get_rng_state(), before)


# Rare classes

LABELS = np.array([0] * 90 + [1] * 10)


def test_weights_make_up_for_rarity():
    weights = recipe.class_weights(LABELS, 3)
    assert weights[LABELS].mean() == pytest.approx(1)
    assert weights[1] / weights[0] == pytest.approx(9)
    assert weights[2] == 0
    assert recipe.loss_weights(LABELS, 3, TrainConfig()) is None
    assert recipe.loss_weights(LABELS, 3, TrainConfig(class_balance="weights")).tolist() == pytest.approx(weights)


def test_balanced_sampling_draws_classes_alike():
    assert recipe.sample_weights(LABELS, TrainConfig()) is None
    weights = recipe.sample_weights(LABELS, TrainConfig(class_balance="sampling"))
    batches = ClipBatches(100, batch_size=10, shuffle=True, seed=0, weights=weights)
    drawn = []
    for batches.epoch in range(20):
        drawn += [LABELS[i] for batch in batches for i in batch]
    assert len(drawn) == 2000
    assert 0.45 < np.mean(drawn) < 0.55
    again = ClipBatches(100, batch_size=5, shuffle=True, seed=0, weights=weights, rank=1, world=2)
    again.epoch = 19
    assert all(set(half) <= set(batch) for half, batch in zip(again, batches))


# Mixed clips


def clips(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.arange(batch, dtype=torch.uint8) * 60
    return values.view(-1, 1, 1, 1, 1, 1).expand(batch, 2, 3, 3, 16, 16).contiguous(), torch.arange(batch)


@pytest.mark.parametrize("alphas", [{"mixup": 0.4, "cutmix": 0.0}, {"mixup": 0.0, "cutmix": 1.0}])
def test_shares_are_those_of_the_pixels(alphas):
    frames, labels = clips()
    for seed in range(10):
        torch.manual_seed(seed)
        mixed, shares = recipe.mix_clips(frames, labels, num_classes=5, **alphas)
        assert mixed.dtype == torch.uint8
        assert torch.allclose(shares.sum(1), torch.ones(4))
        assert (mixed == mixed[:, :1, :1]).all()  # the same for all frames
        expected = (shares[:, :4] * torch.arange(4) * 60).sum(1)
        assert torch.allclose(mixed.float().mean(dim=(1, 2, 3, 4, 5)), expected, atol=0.6)


def test_nothing_is_mixed_or_drawn_unless_asked_for():
    frames, labels = clips()
    before = torch.get_rng_state()
    mixed, shares = recipe.mix_clips(frames, labels, num_classes=4, mixup=0, cutmix=0)
    assert mixed is frames
    assert torch.equal(shares, torch.eye(4))
    assert torch.equal(torch.get_rng_state(), before)
    alone, _ = recipe.mix_clips(frames[:1], labels[:1], num_classes=4, mixup=1, cutmix=1)
    assert torch.equal(alone, frames[:1])


@pytest.mark.parametrize("options", [{"mixup": 0.4, "cutmix": 1.0}, {"class_balance": "weights"},
                                     {"class_balance": "sampling"}])  # fmt: skip
def test_a_run_with_it(tmp_path, options):
    folder = tiny.write_videos(tmp_path / "videos", per_class=3)
    result = train(tiny.config(tmp_path / "run", folder, data={"flip": False, "randaugment": 5}, epochs=1, **options))
    assert np.isfinite(result.history[0]["train_loss"])
    with pytest.raises(ConfigError, match=r"train\.mixup is -1"):
        train(tiny.config(tmp_path / "wrong", folder, mixup=-1.0))
