"""Test protocols as values: presets, rules of drawing clips, what is stored, and fused scores."""

import dataclasses
import json

import numpy as np
import pytest
import tiny
import torch

from mdtnet.config import PROTOCOLS, DataConfig, EvalConfig, eval_crop_size, protocol_name, protocol_named
from mdtnet.config_file import to_dict
from mdtnet.data.annotations import load_videos
from mdtnet.data.dataset import ClipDataset
from mdtnet.data.segments import clip_indices
from mdtnet.errors import ConfigError, DataError
from mdtnet.evaluation import evaluate, protocol
from mdtnet.scores import ScoreTable, fuse_tables

SMALL = DataConfig(num_segments=4, size=24, short_side=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return load_videos(str(tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=2)))


def dataset(videos, *, k: int = 1, data: DataConfig = SMALL, **test) -> ClipDataset:
    return ClipDataset(videos, data, frames_per_segment=k, train=False, test=EvalConfig(**test))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_presets_have_their_names_and_views(name, videos):
    test = protocol_named(name)
    assert protocol_name(test) == name
    views = {"efficient": 1, "tdn": 1, "tsm_something": 6}.get(name, 30)
    frames = dataset(videos, k=5 if "tdn" in name else 1, **to_dict(PROTOCOLS[name]))[0]["frames"]
    assert frames.shape[0] == views
    assert eval_crop_size(DataConfig(), test) == (224 if test.crops == 1 else 256)


def test_ten_crops_are_five_places_and_their_mirror_images(videos):
    test = EvalConfig(crops=5, flip=True)
    assert eval_crop_size(DataConfig(), test) == 224
    found = ClipDataset(videos, SMALL, frames_per_segment=1, train=False, test=test)
    table = evaluate(Halves(), found)
    assert table.scores.shape[:2] == (4, 10)
    assert table.view_crop.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert protocol(SMALL, test)["crop_order"] == ["top left", "top right", "bottom left", "bottom right", "centre"]


def test_tests_can_have_a_t_of_their_own(videos):
    assert dataset(videos, segments=6)[0]["frames"].shape[1] == 6
    assert dataset(videos)[0]["frames"].shape[1] == SMALL.num_segments
    trained = ClipDataset(videos, SMALL, frames_per_segment=1, train=True, test=EvalConfig(segments=6))
    assert trained[0]["frames"].shape[1] == SMALL.num_segments
    assert protocol(SMALL, EvalConfig(segments=6))["num_segments"] == 6
    assert protocol_name(EvalConfig(segments=6)) == ""


def test_a_changed_preset_has_no_name():
    assert protocol_name(EvalConfig(clips=10, crops=3, crop_size=224)) == ""
    assert protocol_name(EvalConfig(clips=5)) == ""
    assert protocol_name(EvalConfig(clips=10, crops=3, batch_size=2, on_unreadable="exclude")) == "accurate"
    with pytest.raises(ConfigError, match="did you mean 'accurate'"):
        protocol_named("acurate")


def test_what_is_stored():
    stored = protocol(SMALL, dataclasses.replace(PROTOCOLS["tea"], seed=3), data="x")
    expected = {
        "preset": "tea",
        "rule": "random",
        "seed": 3,
        "clips": 10,
        "crops": 3,
        "crop_size": 32,
        "fusion": "logits",
    }
    assert expected.items() <= stored.items()
    assert stored["crop_order"] == ["left", "centre", "right"]
    assert stored["sampling"] == "consecutive"
    assert json.loads(json.dumps(stored)) == stored


def draw(n: int, rule: str, clips: int, *, k: int = 5, seed=(0,), t: int = 8) -> np.ndarray:
    return clip_indices(n, rule=rule, num_clips=clips, seed=seed, num_segments=t, frames_per_segment=k)


@pytest.mark.parametrize("n", [16, 33, 60, 300])
@pytest.mark.parametrize("rule", ["uniform", "random"])
def test_ten_clips_are_ten_different_clips(n, rule):
    clips = draw(n, rule, 10)
    assert clips.shape == (10, 8, 5)
    if n > 16 or rule == "random":
        assert len({clip.tobytes() for clip in clips}) == 10
    assert 0 <= clips.min() <= clips.max() < n


def test_a_video_that_has_only_one_clip_still_gets_ten():
    assert draw(1, "random", 10).max() == 0


def test_official_rules(shared):
    golden = json.loads((shared / "golden/sampling.json").read_text())
    for rule, clips, name, k in (
        ("dense", 10, "tsm_dense10_T8", 1),
        ("tsm_twice", 2, "tsm_twice_T8", 1),
        ("tdn", 1, "tdn_segments_T8_K5", 5),
    ):
        for n, rows in golden[name].items():
            assert draw(int(n), rule, clips, k=k).reshape(-1).tolist() == np.ravel(rows).tolist(), (rule, n)


def test_random_clips_belong_to_the_video_and_the_seed_and_not_to_the_list(videos):
    options = {"rule": "random", "clips": 3}
    one = dataset(videos, **options)
    whole = [one[i]["frames"] for i in range(4)]
    part = dataset(videos.subset([2]), **options)[0]["frames"]
    assert (part == whole[2]).all()
    one.set_epoch(5)
    assert (one[2]["frames"] == part).all()
    assert (dataset(videos, seed=1, **options)[2]["frames"] != part).any()
    tables = [clip_indices(100, rule="random", num_clips=3, seed=[0, s], num_segments=4, frames_per_segment=1)
              for s in (1, 2)]  # fmt: skip
    assert (tables[0] != tables[1]).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "tsm_twice", "clips": 3}, "has 2"),
        ({"rule": "tdn", "clips": 10}, "has 1"),
        ({"rule": "tsm_twice", "clips": 2, "k": 5}, "draws 1 frame per segment, this network needs 5"),
        ({"rule": "dense", "data": dataclasses.replace(SMALL, frame_stride=2)}, "frame_stride 1"),
        ({"clips": 0}, "at least 1"),
        ({"flip": True, "data": dataclasses.replace(SMALL, flip=False)}, "trained with data.flip false"),
    ],
)
def test_rules_that_do_not_fit(videos, options, words):
    with pytest.raises(ConfigError, match=words):
        dataset(videos, **options)


# Mirrored views


class Halves(torch.nn.Module):
    """Scores are the brightness of the left and of the right half, so that a mirror image has them exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        return torch.stack([part.flatten(1).float().mean(1) for part in (x[..., :half], x[..., half:])], 1)


def mirrored_and_not(videos, *, flip) -> ScoreTable:
    """Two clips of three crops of each video, each also mirrored; classes are left and right."""
    data = dataclasses.replace(SMALL, flip=flip, short_side=36)
    options = EvalConfig(clips=2, crops=3, flip=True)
    return evaluate(Halves(), ClipDataset(videos, data, frames_per_segment=1, train=False, test=options), batch_size=5)


def test_each_view_is_followed_by_its_mirror_image(videos):
    table = mirrored_and_not(videos, flip=True)
    assert table.scores.shape == (4, 12, 2)
    assert table.view_clip.tolist() == [0] * 6 + [1] * 6
    assert table.view_crop.tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert table.view_flip.tolist() == [False, True] * 6
    assert table.scores[:, 1::2] == pytest.approx(table.scores[:, ::2, ::-1])
    plain = evaluate(Halves(), dataset(videos, data=dataclasses.replace(SMALL, short_side=36), clips=2, crops=3))
    assert table.scores[:, ::2] == pytest.approx(plain.scores)
    assert (np.abs(plain.scores[..., 0] - plain.scores[..., 1]) > 1).any()  # or else nothing was tested


def test_scores_of_mirrored_views_go_to_the_mirror_labels(videos):
    assert videos.classes == ("left", "right")
    table = mirrored_and_not(videos, flip="swap")
    assert table.scores[:, 1::2] == pytest.approx(table.scores[:, ::2])


def test_mirrored_views_are_kept_and_stored(videos, tmp_path):
    table = mirrored_and_not(videos, flip=True)
    table.save(tmp_path / "scores.npz")
    assert ScoreTable.load(tmp_path / "scores.npz").view_flip.tolist() == table.view_flip.tolist()
    stored = protocol(dataclasses.replace(SMALL, flip="swap"), EvalConfig(clips=10, crops=3, flip=True))
    assert {"flip": True, "flip_labels": "swapped", "preset": ""}.items() <= stored.items()
    assert protocol(SMALL, EvalConfig(flip=True))["flip_labels"] == "same"


def test_tables_from_before_there_were_mirrored_views(tmp_path):
    ONE.save(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as file:
        np.savez(tmp_path / "old.npz", **{name: file[name] for name in file.files if name != "view_flip"})
    assert ScoreTable.load(tmp_path / "new.npz").view_flip.tolist() == [False]
    assert ScoreTable.load(tmp_path / "old.npz").scores.tolist() == ONE.scores.tolist()


# Fused scores


def table(scores, *, names=("a", "b", "c"), labels=(0, 1, 1), classes=("x", "y"), errors=("", "", "")) -> ScoreTable:
    array = np.array(scores, dtype=np.float32)
    views = np.arange(array.shape[1])
    return ScoreTable(list(names), np.array(labels), views, views * 0, array, list(errors), classes, {"clips": 1})


ONE = table([[[2.0, 0.0]], [[1.0, 0.0]], [[0.0, 3.0]]])
OTHER = table([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 5.0], [0.0, 5.0]], [[1.0, 0.0]] * 2], names=("b", "c", "a"),
              labels=(1, 1, 0))  # fmt: skip


def test_fused_scores_are_the_mean_of_each_tests_own_mean():
    fused = fuse_tables([ONE, OTHER], "softmax", names=["one", "other"])
    order = [2, 0, 1]
    assert fused.names == ["a", "b", "c"]
    assert fused.fuse("softmax") == pytest.approx((ONE.fuse("softmax") + OTHER.fuse("softmax")[order]) / 2, abs=1e-6)
    logits = fuse_tables([ONE, OTHER], "logits", names=["one", "other"])
    assert logits.fuse("logits") == pytest.approx((ONE.fuse("logits") + OTHER.fuse("logits")[order]) / 2, abs=1e-6)
    assert [part["scores"] for part in fused.protocol["fused"]] == ["one", "other"]


def test_what_one_test_could_not_read_is_unreadable():
    broken = table([[[2.0, 0.0]], [[np.nan, np.nan]], [[0.0, 3.0]]], errors=("", "empty file", ""))
    fused = fuse_tables([ONE, broken], "softmax", names=["one", "broken"])
    assert fused.unreadable() == {"b": "empty file"}
    assert np.isnan(fused.scores[1]).all()
    figures = fused.metrics(EvalConfig())
    assert (figures["unreadable_wrong"]["videos"], figures["unreadable_excluded"]["videos"]) == (3, 2)
    assert (figures["videos"], figures["top1"], figures["unreadable_excluded"]["top1"]) == (3, 2 / 3, 1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"names": ("a", "b", "d")}, "two: other videos than in one"),
        ({"labels": (0, 1, 0)}, "two: other labels"),
        ({"classes": ("y", "x")}, "two: other classes, or another order"),
    ],
)
def test_tables_that_do_not_belong_together(change, words):
    with pytest.raises(DataError, match=words):
        fuse_tables([ONE, table(ONE.scores, **change)], "softmax", names=["one", "two"])


@pytest.mark.slow
def test_thirty_views_of_a_long_video_fit_in_4_gib(tmp_path):
    """16 segments of 5 frames, 10 x 3 at 256 pixels, of 6000 frames."""
    import subprocess
    import sys

    frame = np.random.default_rng(0).integers(0, 256, (6, 240, 320, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        tiny.write_video(tmp_path / name / "long.mp4", np.tile(frame, (1000, 1, 1, 1)))
    code = """
import resource, sys
from mdtnet.config import DataConfig, EvalConfig
from mdtnet.config_file import to_dict
from mdtnet.data.annotations import load_videos
from mdtnet.data.dataset import ClipDataset, make_loader
data = DataConfig(num_segments=16)
test = EvalConfig(clips=10, crops=3)
dataset = ClipDataset(load_videos(sys.argv[1]), data, frames_per_segment=5, train=False, test=test)
for batch in make_loader(dataset, batch_size=1, shuffle=False, seed=0, workers=0):
    assert batch["frames"].shape[:2] == (1, 30), batch["errors"]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""
    found = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 4
