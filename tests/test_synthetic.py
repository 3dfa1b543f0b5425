"""The built-in data set: deterministic files, exact twins, nothing in one frame that tells them apart."""

import csv
from collections import defaultdict
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from mdtnet.data.synthetic import (
    ACTIONS,
    REVERSAL_PAIRS,
    RenderConfig,
    encode,
    render_clip,
    render_dataset,
)
from mdtnet.errors import ConfigError

SMALL = RenderConfig(train_clips=2, val_clips=1, size=32, fps=10, seed=3)


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rendered") / "data"
    summary = render_dataset(out, SMALL)
    assert (summary.train, summary.val, summary.rendered) == (24, 12, 36)
    return out


def test_eight_actions_and_three_pairs_of_opposites():
    assert len(ACTIONS) >= 8
    assert len(REVERSAL_PAIRS) >= 3
    assert len({name for pair in REVERSAL_PAIRS for name in pair}) == 2 * len(REVERSAL_PAIRS)
    for forward, back in REVERSAL_PAIRS:
        assert ACTIONS[forward].motion is ACTIONS[back].motion
        assert not ACTIONS[forward].backwards
        assert ACTIONS[back].backwards


@pytest.mark.parametrize(("forward", "back"), REVERSAL_PAIRS)
def test_twins_are_exact_reversals_and_move(forward, back):
    frames = render_clip(forward, 1, config=SMALL)
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (32, 32, 3)
    assert np.array_equal(render_clip(back, 1, config=SMALL), frames[::-1])
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 30


@pytest.mark.parametrize("action", ACTIONS)
def test_durations_and_scenes_vary_but_backgrounds_stand_still(action):
    clips = [render_clip(action, i, config=RenderConfig(size=32)) for i in range(3)]
    assert all(30 <= len(clip) <= 60 for clip in clips)
    assert len({len(clip) for clip in clips}) > 1
    for clip in clips:
        assert (clip.min(0) == clip.max(0)).all(-1).mean() > 0.25  # the share of pixels that never change


def test_other_seed_split_or_index_is_another_clip_and_other_actions_do_not_matter():
    def first(config=SMALL, index=0, split="train"):
        return render_clip("wave", index, config=config, split=split).tobytes()

    assert first() == first()
    assert first() == first(RenderConfig(size=32, fps=10, seed=3, actions=("wave",)))
    assert len({first(), first(RenderConfig(size=32, fps=10, seed=4)), first(index=1), first(split="val")}) == 4


def test_background_option_decides_plain_or_cluttered():
    def colours(background):
        config = RenderConfig(size=32, fps=10, background=background)
        return [len(np.unique(render_clip("jump", i, config=config)[0, :8], axis=0)) for i in range(4)]

    assert np.max(colours("plain")) < np.median(colours("cluttered"))


def test_files_hold_the_frames(rendered):
    for forward, back in REVERSAL_PAIRS[:2]:
        frames = render_clip(forward, 1, config=SMALL)
        video = decode(rendered / f"train/{forward}/{forward}_00001.mp4")
        assert video.shape == frames.shape
        assert np.abs(video.astype(int) - frames).mean() < 8  # the codec's loss, most of it in halved colour
        twin = decode(rendered / f"train/{back}/{back}_00001.mp4")
        assert np.array_equal(twin, video[::-1])  # after coding too
    with av.open(str(rendered / "val/jump/jump_00000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate, stream.width) == ("h264", 10, 32)


def test_list_files_and_class_folders_agree(rendered):
    for split, count in (("train", 2), ("val", 1)):
        rows = list(csv.reader((rendered / f"{split}.csv").read_text().splitlines()))
        assert rows[0] == ["path", "label"]
        listed = {path: label for path, label in rows[1:]}
        found = {p.relative_to(rendered).as_posix(): p.parent.name for p in (rendered / split).rglob("*.mp4")}
        assert listed == found
        assert len(listed) == count * len(ACTIONS)
        assert set(listed.values()) == set(ACTIONS)
    assert not list(rendered.rglob("*.part"))


def test_readme_holds_the_config(rendered):
    text = (rendered / "README.md").read_text()
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert RenderConfig(**{**settings, "actions": tuple(settings["actions"])}) == RenderConfig(
        train_clips=2, val_clips=1, size=32, fps=10, seed=3, actions=tuple(ACTIONS)
    )
    assert "- sit_down / stand_up" in text


def test_no_scene_is_in_both_splits(rendered):
    splits = defaultdict(set)
    for path in rendered.rglob("*.mp4"):
        video = decode(path)
        if ACTIONS[path.parent.name].backwards:
            video = video[::-1]
        splits[video.tobytes()].add(path.relative_to(rendered).parts[0])
    assert all(len(names) == 1 for names in splits.values())
    assert len(splits) == 3 * (len(ACTIONS) - len(REVERSAL_PAIRS))


def test_same_bytes_again_with_two_processes_and_after_an_interruption(rendered, tmp_path):
    render_dataset(tmp_path / "again", SMALL, workers=2)
    assert files(tmp_path / "again") == files(rendered)
    steps = []

    def interrupt(done, total):
        steps.append((done, total))
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / "cut", SMALL, progress=interrupt)
    assert steps[-1] == (5, 21)
    assert not (tmp_path / "cut/train.csv").exists()
    assert 0 < render_dataset(tmp_path / "cut", SMALL).rendered < 36
    assert files(tmp_path / "cut") == files(rendered)
    assert render_dataset(tmp_path / "cut", SMALL).rendered == 0


def test_encoding_is_deterministic():
    frames = render_clip("jump", config=SMALL)
    assert encode(frames, fps=10) == encode(frames, fps=10)


def test_folders_of_others_are_left_alone(rendered, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("do not touch")
    with pytest.raises(ConfigError, match="mine: not empty"):
        render_dataset(tmp_path / "mine", SMALL)
    assert files(tmp_path / "mine") == {"thesis.txt": b"do not touch"}
    before = files(rendered)
    with pytest.raises(ConfigError, match="not a render of this config"):
        render_dataset(rendered, RenderConfig(train_clips=2, val_clips=1, size=32, fps=10, seed=4))
    assert files(rendered) == before
    with pytest.raises(ConfigError, match=r"thesis\.txt: cannot be used"):
        render_dataset(tmp_path / "mine/thesis.txt", SMALL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 33}, "size is 33, expected an even number"),
        ({"size": 8}, "size is 8, expected 32 to 1024"),
        ({"train_clips": 0}, "train_clips is 0"),
        ({"background": "beach"}, "background is 'beach', expected plain"),
        ({"actions": ("sit_down", "fly")}, "unknown action 'fly', expected one of sit_down"),
        ({"actions": ("jump", "jump")}, "names one action twice"),
    ],
)
def test_wrong_options_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        RenderConfig(**values)
    with pytest.raises(ConfigError, match="unknown action"):
        render_clip("fly")


# ---- one frame tells nothing inside a pair ----


def silhouette(frame: np.ndarray) -> np.ndarray:
    """How much each of 16 x 16 places differs from the wall, mirror images averaged: `[256]`."""
    wall = np.median(frame[:6].reshape(-1, 3), axis=0)
    there = np.abs(frame - wall).mean(-1).reshape(16, 2, 16, 2).mean((1, 3))
    return ((there + there[:, ::-1]) / 2).ravel() / 128


def ridge_accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Share of `test` that a linear classifier fitted to `train` gets right."""
    train, test = (np.concatenate([x, np.ones((len(x), 1))], 1) for x in (train, test))
    targets = np.eye(labels.max() + 1)[labels] - 1 / (labels.max() + 1)
    weights = np.linalg.solve(train.T @ train + np.eye(train.shape[1]), train.T @ targets)
    return float(((test @ weights).argmax(1) == truth).mean())


def features(split: str, clips: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of every paired class: one frame's silhouette, late minus early silhouette, pair number, direction."""
    config = RenderConfig(size=32, fps=10, background="plain", seed=5)
    rng = np.random.default_rng(0)
    one, order, pairs, directions = [], [], [], []
    for pair, names in enumerate(REVERSAL_PAIRS):
        for direction, name in enumerate(names):
            for i in range(clips):
                # twins have disjoint indices: no frame is in both classes, or the fit would be trivially void
                frames = render_clip(name, 2 * i + direction, config=config, split=split)
                one.append(silhouette(frames[rng.integers(len(frames))]))
                order.append(silhouette(frames[-2]) - silhouette(frames[1]))
                pairs.append(pair)
                directions.append(direction)
    return np.array(one), np.array(order), np.array(pairs), np.array(directions)


def test_one_frame_is_at_chance_inside_pairs_and_order_is_not():
    one, order, pairs, direction = features("train", 30)
    one_val, order_val, pairs_val, direction_val = features("val", 24)

    def inside(x, x_val):
        """Accuracy inside each pair, averaged over pairs: chance is 0.5."""
        return np.mean(
            [
                ridge_accuracy(x[m], direction[m], x_val[v], direction_val[v])
                for m, v in ((pairs == p, pairs_val == p) for p in range(len(REVERSAL_PAIRS)))
            ]
        )

    assert 0.4 < inside(one, one_val) < 0.6
    assert inside(order, order_val) > 0.85
    assert ridge_accuracy(one, pairs, one_val, pairs_val) > 0.5  # five pairs: chance is 0.2
