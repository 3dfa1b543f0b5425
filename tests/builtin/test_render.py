"""The built-in data set: deterministic files, exact twins, nothing in one frame that tells them apart."""

import csv
import multiprocessing
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from mdtnet.builtin.actions import ACTIONS, REVERSAL_PAIRS
from mdtnet.builtin.drawing import render
from mdtnet.builtin.movers import Mover, passing
from mdtnet.builtin.render import RenderConfig, clip_scene, encode, place_owner, render_clip, render_dataset
from mdtnet.builtin.scene import Scene
from mdtnet.errors import ConfigError

SMALL = RenderConfig(train_clips=2, val_clips=1, size=32, fps=10, seed=3)
EVERYTHING = RenderConfig(
    train_clips=1,
    val_clips=1,
    size=32,
    fps=10,
    background="moving",
    shake=0.05,
    distractors=2,
    scene_bias=0.5,
    difficulty=0.7,
    actions=("sit_down", "stand_up", "jump"),
)


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


@pytest.mark.parametrize("config", [SMALL, replace(EVERYTHING, scene_bias=0.0, actions=())])
@pytest.mark.parametrize(("forward", "back"), REVERSAL_PAIRS)
def test_twins_are_exact_reversals_and_move(forward, back, config):
    frames = render_clip(forward, 1, config=config)
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (32, 32, 3)
    assert np.array_equal(render_clip(back, 1, config=config), frames[::-1])
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


def test_without_options_a_set_is_what_version_1_made():
    told = {
        "sit_down": (10, (165.07, 168.02, 127.26), (165.48, 168.42, 127.83)),
        "wave": (18, (191.15, 172.57, 187.72), (191.07, 172.43, 187.60)),
        "push_box": (15, (106.37, 125.79, 105.60), (106.23, 126.08, 105.79)),
    }
    for action, (count, first, last) in told.items():
        frames = render_clip(action, 1, config=SMALL)
        assert len(frames) == count
        for frame, colour in ((frames[0], first), (frames[-1], last)):
            assert np.allclose(frame.mean((0, 1)), colour, atol=0.02)


def test_readme_tells_the_options_that_are_on(rendered, tmp_path):
    assert not {"shake", "distractors", "scene_bias", "difficulty"} & set((rendered / "README.md").read_text().split())
    render_dataset(tmp_path / "hard", EVERYTHING)
    text = (tmp_path / "hard/README.md").read_text()
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert RenderConfig(**{**settings, "actions": tuple(settings["actions"])}) == EVERYTHING
    assert "shakes by up to 0.05" in text
    assert "stand still" not in text
    render_dataset(tmp_path / "two", EVERYTHING, workers=2)
    assert files(tmp_path / "two") == files(tmp_path / "hard")
    with pytest.raises(ConfigError, match="not a render of this config"):
        render_dataset(tmp_path / "hard", replace(EVERYTHING, difficulty=0.6))


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


def test_two_renderers_of_one_set(rendered, tmp_path):
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=render_dataset, args=(tmp_path / "both", SMALL)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert files(tmp_path / "both") == files(rendered)


def test_a_render_killed_at_its_first_file_goes_on(rendered, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/README.md.77.part").write_text("half")
    render_dataset(tmp_path / "data", SMALL)
    assert files(tmp_path / "data").keys() - files(rendered).keys() == {"README.md.77.part"}


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
        ({"background": "beach"}, "background is 'beach', expected plain, cluttered, moving"),
        ({"shake": 0.5}, "shake is 0.5, expected 0 to 0.2"),
        ({"distractors": -1.0}, "distractors is -1.0, expected 0 to 8"),
        ({"scene_bias": 1.5}, "scene_bias is 1.5, expected 0 to 1"),
        ({"difficulty": 2.0}, "difficulty is 2.0, expected 0 to 1"),
        ({"scene_bias": 1.0, "actions": ("jump",)}, "scene_bias needs at least 2 actions"),
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


# ---- the instrument: what moves besides the figure, and where the figure is ----


def still(scene: Scene) -> np.ndarray:
    """The scene's frames with a figure that does nothing."""
    return render(replace(scene, poses=np.repeat(scene.poses[:1], len(scene.poses), 0), idle=0 * scene.idle))


def changes(frames: np.ndarray) -> float:
    return float(np.abs(np.diff(frames.astype(int), axis=0)).mean())


@pytest.mark.parametrize("option", [{"background": "moving"}, {"shake": 0.05}, {"distractors": 4.0}])
def test_options_move_the_picture_without_the_figure(option):
    plain = RenderConfig(size=32, fps=10, background="plain")
    for i in range(3):
        assert changes(still(clip_scene("raise_arms", "train", i, plain))) < 0.01
        assert changes(still(clip_scene("raise_arms", "train", i, replace(plain, **option)))) > 0.3


def test_shake_keeps_to_its_amplitude_and_options_leave_the_action_alone():
    bare = RenderConfig(size=32, background="plain")
    shaken = replace(bare, shake=0.08, distractors=3.0)
    found = []
    for i in range(30):
        scene, before = clip_scene("wave", "train", i, shaken), clip_scene("wave", "train", i, bare)
        found.append(np.abs(scene.shake).max())
        assert np.array_equal(scene.poses, before.poses)
        assert (scene.timing, scene.body, scene.camera, scene.room) == (
            before.timing,
            before.body,
            before.camera,
            before.room,
        )
        assert not before.shake.any()
        assert np.abs(np.diff(scene.shake, axis=0)).max() < 0.08 * 2 * np.pi * 2.5 / 30  # smooth
    assert 0.04 < np.mean(found) <= max(found) <= 0.08


def test_distractors_come_in_the_number_asked_for():
    config = RenderConfig(size=32, distractors=1.5)
    counts = [len(clip_scene("jump", "train", i, config).movers) for i in range(300)]
    assert abs(np.mean(counts) - 1.5) < 0.25
    assert min(counts) == 0


def test_difficulty_draws_smaller_figures_and_darker_noisier_pictures():
    def scenes(difficulty):
        config = RenderConfig(size=112, background="plain", difficulty=difficulty)
        return [clip_scene("sit_down", "train", i, config) for i in range(60)]

    easy, hard = scenes(0.0), scenes(1.0)
    assert min(s.camera.scale for s in easy) > 0.55 * 112
    assert 0.24 * 112 < min(s.camera.scale for s in hard) < 0.4 * 112
    assert min(s.camera.squeeze for s in hard) >= 0.5
    assert {s.noise for s in easy} == {0.0}
    assert all(2 <= s.noise <= 16 for s in hard)
    assert 0.4 <= min(s.gain for s in hard) < 0.6
    assert not any(s.occluders for s in easy)
    assert any(s.occluders for s in hard)
    assert np.mean([sum(s.timing.hold) / s.timing.num_frames for s in hard]) > 0.35
    assert all(sum(s.timing.hold) <= s.timing.num_frames - 3 for s in hard)


@pytest.mark.parametrize("action", ["jump", "push_box", "raise_arms"])
def test_difficult_figures_stay_in_the_picture(action):
    config = RenderConfig(size=112, difficulty=1.0)
    for i in range(40):
        scene = clip_scene(action, "train", i, config)
        ends = [(x, y) for x in (scene.poses[:, 0].min() - 0.1, scene.poses[:, 0].max() + 0.1) for y in (0.0, 1.1)]
        pixels = np.array(scene.camera.project(ends))
        assert pixels.min() > -8
        assert pixels.max() < 120


# ---- time's direction is not in what moves besides ----


def track_statistics(mover: Mover) -> list[float]:
    """What a track says forwards and backwards differently: first and second half, rise and fall, turning."""
    half = len(mover.x) // 2
    found = []
    for track in (mover.x, mover.y, mover.phase, np.sin(mover.phase), np.cos(mover.phase)):
        step = np.diff(track)
        found += [track[-half:].mean() - track[:half].mean(), np.ptp(track[-half:]) - np.ptp(track[:half])]
        found += [float((step**3).mean()), float((np.diff(step) * (step[1:] + step[:-1])).mean())]
    dx = mover.x[-1] - mover.x[0]
    return [*found, dx * found[8], dx * (mover.y[-1] - mover.y[0])]


def reversed_track(mover: Mover) -> Mover:
    return replace(mover, x=mover.x[::-1], y=mover.y[::-1], phase=mover.phase[::-1])


def test_tracks_read_backwards_have_the_same_distribution():
    config = RenderConfig(size=32, fps=15, background="moving", distractors=4.0, shake=0.05)
    differences = defaultdict(list)
    for i in range(250):
        scene = clip_scene("wave", "train", i, config)
        x, y = scene.shake.T
        for name, mover in [*((m.kind, m) for m in scene.movers), ("shake", Mover("ball", x, y, x, 1, (0, 0, 0)))]:
            pair = [track_statistics(m) for m in (mover, reversed_track(mover))]
            differences[name].append(np.subtract(*pair))
    assert len(differences) == 12
    for name, found in differences.items():
        assert len(found) >= 40
        error = np.std(found, 0) / np.sqrt(len(found)) + 1e-12
        assert np.abs(np.mean(found, 0) / error).max() < 4.5, name  # 12 x 22 statistics


def test_the_statistics_would_see_something_fall():
    rng, seconds = np.random.default_rng(0), np.arange(20) / 15
    found = []
    for _ in range(50):
        x = passing(rng, 20, 15, "ball", reach=1)
        mover = Mover("ball", x, rng.uniform(1, 2) - 0.5 * seconds**2, x, 1, (0, 0, 0))
        found.append(np.subtract(track_statistics(mover), track_statistics(reversed_track(mover))))
    assert np.abs(np.mean(found, 0) / (np.std(found, 0) / np.sqrt(50) + 1e-12)).max() > 10


def moving_features(frames: np.ndarray) -> np.ndarray:
    """Grey 8 x 8 pictures: late minus early, and how much changes late minus how much changes early."""
    grey = frames.mean(-1).reshape(len(frames), 8, 4, 8, 4).mean((2, 4)).reshape(len(frames), -1) / 128
    step = np.abs(np.diff(grey, axis=0))
    half = len(step) // 2
    return np.concatenate([grey[-2] - grey[1], step[-half:].mean(0) - step[:half].mean(0)])


def test_pixels_of_a_still_figure_do_not_tell_the_direction():
    config = replace(EVERYTHING, scene_bias=0.0, actions=(), difficulty=0.3, fps=6)

    def part(split, count):
        clips = [still(clip_scene("raise_arms", split, i, config)) for i in range(count)]
        way = np.arange(count) % 2
        return np.stack([moving_features(c[::-1] if w else c) for c, w in zip(clips, way)]), way

    (train, way), (val, truth) = part("train", 120), part("val", 120)
    assert 0.36 < ridge_accuracy(train, way, val, truth) < 0.64  # standard error 0.046


# ---- scene bias ----


def place_colour(frames: np.ndarray) -> np.ndarray:
    """Hue and saturation of the wall, as it is at the top of the picture: `[2]`."""
    r, g, b = np.median(frames[0, :3].reshape(-1, 3), axis=0) / max(1, frames[0, :3].max())
    return np.array([r - g, g - b])


def nearest_class(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """For each of `test` the label that most of its 5 nearest neighbours in `train` have."""
    near = np.argsort(np.linalg.norm(test[:, None] - train[None], axis=-1), axis=1)[:, :5]
    return np.array([np.bincount(labels[n]).argmax() for n in near])


def places(bias: float, background: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    config = RenderConfig(size=32, fps=5, background=background, scene_bias=bias, seed=2)  # type: ignore[arg-type]
    found = {}
    for split, count in (("train", 10), ("val", 5)):
        labels = np.repeat(np.arange(len(ACTIONS)), count)
        clips = [render_clip(name, i, config=config, split=split) for name in ACTIONS for i in range(count)]  # type: ignore[arg-type]
        found[split] = np.stack([place_colour(c) for c in clips]), labels
    return found


@pytest.mark.parametrize("background", ["plain", "moving"])
def test_biased_places_give_the_class_in_training_and_a_wrong_one_in_validation(background):
    found = places(1.0, background)
    (train, labels), (val, truth) = found["train"], found["val"]
    itself = nearest_class(train[::2], labels[::2], train[1::2])
    assert (itself == labels[1::2]).mean() > 0.7
    guess = nearest_class(train, labels, val)
    assert (guess == truth).mean() < 0.05  # chance is 1/12
    names = tuple(ACTIONS)
    owner = np.array([names.index(place_owner(names[t], "val", RenderConfig())) for t in truth])
    assert (guess == owner).mean() > 0.7


def test_unbiased_places_tell_nothing():
    found = places(0.0, "plain")
    (train, labels), (val, truth) = found["train"], found["val"]
    # twins share their scenes inside a part, never across
    assert (nearest_class(train, labels, val) == truth).mean() < 0.2  # 60 videos, chance 1/12, standard error 0.036


@pytest.mark.parametrize("count", [2, 3, 7, 12])
def test_validation_takes_every_place_once_and_never_its_own(count):
    config = RenderConfig(actions=tuple(ACTIONS)[:count], scene_bias=1.0)
    owners = [place_owner(name, "val", config) for name in config.classes]
    assert sorted(owners) == sorted(config.classes)
    assert all(owner != name for owner, name in zip(owners, config.classes))
    assert [place_owner(name, "train", config) for name in config.classes] == list(config.classes)


def test_bias_is_a_probability_and_touches_only_the_place():
    config = RenderConfig(size=32, scene_bias=0.3)
    biased = 0
    for i in range(200):
        one, two = (clip_scene(name, "train", i, config) for name in REVERSAL_PAIRS[0])
        assert np.array_equal(one.poses, two.poses)
        assert (one.timing, one.camera) == (two.timing, two.camera)
        biased += one.room.seed != two.room.seed
    assert 0.2 < biased / 200 < 0.4
    with pytest.raises(ConfigError, match="action is 'jump', expected one of sit_down, stand_up"):
        render_clip("jump", config=RenderConfig(scene_bias=1.0, actions=("sit_down", "stand_up")))
