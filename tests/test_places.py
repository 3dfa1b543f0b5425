"""Three validation sets of one training set: the same clips in misleading, the same and neutral places."""

import re

import numpy as np
import pytest

from mdtnet.data.annotations import load_videos
from mdtnet.data.synthetic import RenderConfig, clip_scene, render_clip, render_dataset
from mdtnet.errors import ConfigError

SETS = RenderConfig(
    train_clips=1,
    val_clips=1,
    size=32,
    background="cluttered",
    scene_bias=1.0,
    actions=("wave", "jump"),
    val_places=("misleading", "same", "neutral"),
)


def test_sets_show_the_same_figure_in_different_places():
    scenes = {split: clip_scene("wave", split, 0, SETS) for split in ("val", "val_same", "val_neutral")}
    assert len({scene.room.seed for scene in scenes.values()}) == 3
    assert len({(scene.timing, scene.camera.scale) for scene in scenes.values()}) == 1
    assert clip_scene("wave", "train", 0, SETS).room.seed == scenes["val_same"].room.seed
    assert clip_scene("jump", "train", 0, SETS).room.seed == scenes["val"].room.seed


def test_clips_that_are_set_in_no_place_are_the_same_in_all_sets():
    config = RenderConfig(size=32, background="cluttered", scene_bias=0.001)
    clips = [render_clip("wave", config=config, split=split) for split in ("val", "val_same", "val_neutral")]
    assert all(np.array_equal(clip, clips[0]) for clip in clips)


def test_every_set_has_its_files_and_its_list(tmp_path):
    summary = render_dataset(tmp_path, SETS)
    assert (summary.train, summary.val, summary.rendered) == (2, 2, 8)
    for name in ("train", "val", "val_same", "val_neutral"):
        assert len(load_videos(tmp_path / f"{name}.csv")) == 2
    assert "val_neutral`: the validation clips, set in places of no class" in (tmp_path / "README.md").read_text()
    assert render_dataset(tmp_path, SETS).rendered == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"val_places": ("same",)}, "val_places is ['same'], but without scene_bias places say nothing"),
        ({"val_places": (), "scene_bias": 1.0}, "val_places is [], expected some of misleading, same, neutral"),
        ({"val_places": ("same", "same"), "scene_bias": 1.0}, "each once"),
    ],
    ids=str,
)
def test_sets_that_make_no_sense(options, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        RenderConfig(**options)
