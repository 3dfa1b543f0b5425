"""UCF101 and HMDB51: groups of their lists, and the warning when they start from other than Kinetics weights."""

import re
from pathlib import Path

import pytest
import tiny

from mdtnet.config_file import PRESETS, load_yaml
from mdtnet.data.annotations import load_videos
from mdtnet.data.splits import split_by_group
from mdtnet.models import pretrained
from mdtnet.models.pretrained import cost_of_start
from mdtnet.training.loop import train

CONFIGS = PRESETS / "configs"
UCF101 = [f"Class{i}" for i in range(100)] + ["ApplyEyeMakeup"]
HMDB51 = [f"class{i}" for i in range(50)] + ["brush_hair"]


def official_names(splits: Path, name: str) -> tuple[list[str], list[str]]:
    """Training and test videos of the first official split, `class/file`."""
    if name == "ucf101":
        files = [splits / f"ucf101_splits/{part}list01.txt" for part in ("train", "test")]
        train, test = ([line.split()[0] for line in file.read_text().splitlines() if line] for file in files)
        return train, test
    parts: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    for file in sorted((splits / "hmdb51_splits").glob("*_test_split1.txt")):
        for line in file.read_text().splitlines():
            parts[line.split()[1]].append(f"{file.name.removesuffix('_test_split1.txt')}/{line.split()[0]}")
    return parts["1"], parts["2"]


@pytest.mark.parametrize(("name", "classes"), [("ucf101", 101), ("hmdb51", 51)])
def test_groups_of_the_official_lists(name, classes, shared, tmp_path):
    train, test = official_names(shared / "data/official_splits", name)
    for path in train[:1] + test[:1]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "list.csv").write_text("path,label\n" + "\n".join(f'"{p}",{p.split("/")[0]}' for p in train + test))
    videos = load_videos(str(tmp_path / "list.csv"))
    assert len(videos.classes) == classes
    assert cost_of_start("ImageNet", videos.classes)
    config = load_yaml(CONFIGS / f"{name}/mdtnet2.yaml").data
    groups = [{re.search(config.group, path)[1] for path in part} for part in (train, test)]
    assert not groups[0] & groups[1]  # as the official splits are made
    learned, held_out = split_by_group(videos, fraction=config.val_fraction, seed=0, group=config.group)
    assert 0.05 < len(held_out) / len(videos) < 0.15
    assert len(learned) + len(held_out) == len(train) + len(test)


@pytest.mark.parametrize("classes", [UCF101, HMDB51], ids=["UCF101", "HMDB51"])
def test_only_a_start_from_video_is_not_warned_of(classes):
    name, imagenet = ("UCF101", "83-85") if len(classes) == 101 else ("HMDB51", "49-55")
    assert cost_of_start("video", classes) == ""
    assert cost_of_start("ImageNet", classes[1:]) == ""
    assert cost_of_start("ImageNet", [*classes[:-1], "another"]) == ""
    for start in ("ImageNet", ""):
        text = cost_of_start(start, classes)
        assert text.startswith(f"{name} starts from {start or 'random'} weights")
        assert f"about {imagenet} % top-1 from ImageNet" in text
        assert "not measured here" in text


def test_training_warns(tmp_path, caplog, monkeypatch):
    videos = tiny.write_videos(tmp_path / "videos", per_class=2)
    monkeypatch.setattr(pretrained, "KINETICS_GAINS", {("UCF101", 2, "left"): ("83-85", "95-97")})
    caplog.set_level("INFO")
    train(tiny.config(tmp_path / "run", videos, epochs=1))
    said = [record for record in caplog.records if "UCF101 starts from random weights" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING"]
    assert said[0].getMessage() in (tmp_path / "run/train.log").read_text()
