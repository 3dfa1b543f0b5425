"""Distillation, and training with several numbers of segments."""

import logging
from pathlib import Path

import pytest
import tiny
import torch

from mdtnet.checkpoint import load_model, save_checkpoint
from mdtnet.checks import check_config
from mdtnet.config import MDTNetConfig, TrainConfig
from mdtnet.errors import ConfigError
from mdtnet.inference.recogniser import Recogniser
from mdtnet.models.build import build_model
from mdtnet.training.loop import train
from mdtnet.training.recipe import kept_segments, teaching_loss
from mdtnet.training.teacher import Teacher


def saved(path: Path, name: str, classes=("left", "right"), **options) -> Path:
    config = tiny.config(Path(), Path(), model={"name": name, **options})
    torch.manual_seed(1)
    model = build_model(config.model, num_classes=len(classes))
    torch.nn.init.normal_(model.head.fc.weight)
    save_checkpoint(path, model=model, config=config, classes=classes)
    return path


def student(name: str):
    return build_model(tiny.config(Path(), Path(), model={"name": name}).model, num_classes=2)


def test_which_segments_a_step_keeps():
    config = TrainConfig(segments=(2, 4), seed=3)
    drawn = [kept_segments(8, config, step=step) for step in range(300)]
    assert {len(kept) for kept in drawn} == {2, 4, 8}
    assert min(sum(len(kept) == n for kept in drawn) for n in (2, 4, 8)) > 70
    two = [kept for kept in drawn if len(kept) == 2]
    assert {first for first, _ in two} == {0, 1, 2, 3}  # one of each half
    assert {second for _, second in two} == {4, 5, 6, 7}
    assert drawn[5] == kept_segments(8, config, step=5)  # whatever came before
    assert kept_segments(8, TrainConfig(), step=5) == list(range(8))


def test_the_loss_of_a_pupil():
    one, other = torch.randn(2, 3, 5, dtype=torch.double)
    assert teaching_loss(one, one + 7) == pytest.approx(0, abs=1e-9)
    p, q = (torch.softmax(x / 2, 1) for x in (other, one))
    assert float(teaching_loss(one, other)) == pytest.approx(4 * float((p * (p / q).log()).sum()))


@pytest.mark.parametrize(("teaches", "learns", "read"), [("tdn", "tsm", 5), ("tsn", "mdtnet1", 5), ("tsm", "tsn", 1)])
def test_a_teacher_says_what_its_network_says(tmp_path, teaches, learns, read):
    path = saved(tmp_path / "teacher.pt", teaches, ("right", "left"))
    teacher = Teacher(str(path), student(learns), ("left", "right"), torch.device("cpu"))
    assert teacher.frames_per_segment == read
    clips = torch.randint(0, 256, (2, 3, read, 3, 32, 32), dtype=torch.uint8)
    model = load_model(path)
    own = clips if model.frames_per_segment == read else clips[:, :, [student(learns).key_frame]]
    with torch.no_grad():
        torch.testing.assert_close(teacher(clips), model(own)[:, [1, 0]], atol=1e-4, rtol=1e-4)
    seen = teacher.seen_by_student(clips)
    assert seen.shape[2] == student(learns).frames_per_segment
    assert torch.equal(seen[:, :, 0], clips[:, :, 0 if read == seen.shape[2] else model.key_frame])


def test_teachers_that_do_not_fit(tmp_path):
    other = saved(tmp_path / "other.pt", "tsn", ("left", "up"))
    with pytest.raises(ConfigError, match=r"has 2 classes, the data 2; right is only in one of them"):
        Teacher(str(other), student("tsn"), ("left", "right"), torch.device("cpu"))
    three = saved(
        tmp_path / "three.pt",
        "mdtnet1",
        mdtnet=MDTNetConfig(frames_per_segment=3, key_frame=1),
    )
    with pytest.raises(ConfigError, match="sees 3 frames per segment and the student 5"):
        Teacher(str(three), student("tdn"), ("left", "right"), torch.device("cpu"))


@pytest.mark.parametrize(
    ("data", "recipe", "said"),
    [
        (
            {},
            {"segments": (2,)},
            r"train.segments is \[2\], expected numbers from 1 to 1, fewer than data.num_segments",
        ),
        ({}, {"teacher_weight": 1.5}, "train.teacher_weight is 1.5, expected 0 to 1"),
        ({"multi_label": True}, {"teacher": "x.pt"}, "train.teacher is 'x.pt', expected none with data.multi_label"),
    ],
)
def test_options_that_do_not_fit(data, recipe, said):
    with pytest.raises(ConfigError, match=said):
        check_config(tiny.config(Path(), Path(), data=data, **recipe), processes=1)


def test_a_pupil_becomes_like_its_teacher(tmp_path, caplog):
    """With no word of the labels: after training it says of clips what the teacher says."""
    videos = tiny.write_videos(tmp_path / "videos", per_class=4)
    teacher = saved(tmp_path / "teacher.pt", "tsn")
    own = {"segments": (1,), "teacher": str(teacher), "teacher_weight": 1.0, "epochs": 12}
    train(tiny.config(tmp_path / "run", videos, model={"name": "tsm", "dropout": 0.0}, **own))
    pupil = tmp_path / "run" / "checkpoints" / "last.pt"
    found = [
        [
            Recogniser.load(path, device="cpu").predict(video, topk=2).classes[0]
            for video in sorted(videos.rglob("*.mp4"))
        ]
        for path in (teacher, pupil)
    ]
    assert sum(a == b for a, b in zip(*found)) >= 6
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        Recogniser.load(pupil, device="cpu", segments=1)
        assert caplog.text == ""
        Recogniser.load(pupil, device="cpu", segments=4)
    assert "used with 4 segments, but trained with 1, 2: accuracy may be lower" in caplog.text
