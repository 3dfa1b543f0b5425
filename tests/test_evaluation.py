"""Score tables: every view once, the same numbers whatever the batch, on disk and back; the `test` verb."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from mdtnet import evaluation
from mdtnet.checkpoint import save_checkpoint
from mdtnet.cli.main import main
from mdtnet.config import DataConfig, EvalConfig
from mdtnet.data.annotations import load_videos
from mdtnet.data.dataset import ClipDataset
from mdtnet.data.splits import load_split
from mdtnet.errors import ConfigError, DataError, DivergedError
from mdtnet.evaluation import evaluate, evaluate_checkpoint
from mdtnet.models.build import build_model
from mdtnet.scores import ScoreTable
from mdtnet.work.parts import read_rows

TEN_BY_THREE = EvalConfig(clips=2, crops=3, crop_size=32)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    folder = tiny.write_videos(tmp_path_factory.mktemp("videos"), per_class=3)
    (folder / "right" / "01.mp4").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def config(videos):
    return tiny.config(Path("unused"), videos, model={"name": "tsm"})


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(1)
    model = build_model(config.model, num_classes=2)
    torch.nn.init.normal_(model.head.fc.weight)  # a fresh one starts close to 0
    return model


@pytest.fixture(scope="module")
def dataset(videos, config) -> ClipDataset:
    return ClipDataset(load_videos(str(videos)), config.data, frames_per_segment=1, train=False, test=TEN_BY_THREE)


@pytest.fixture(scope="module")
def table(model, dataset) -> ScoreTable:
    return evaluate(model, dataset, batch_size=4, protocol={"clips": 2})


def test_scores_equal_a_plain_loop_over_videos_and_views(table, model, dataset):
    assert table.scores.shape == (6, 6, 2)
    assert table.scores.dtype == np.float32
    assert table.view_clip.tolist() == [0, 0, 0, 1, 1, 1]
    assert table.view_crop.tolist() == [0, 1, 2, 0, 1, 2]
    model.eval()
    for i, row in enumerate(table.scores):
        frames = dataset[i]["frames"]
        if len(frames):
            with torch.no_grad():
                expected = torch.cat([model(view[None]) for view in frames]).numpy()
            assert np.allclose(row, expected, atol=1e-5)
    assert np.ptp(table.scores[0], axis=0).max() > 1e-3  # views differ


def test_an_unreadable_video_stays_in_the_table(table):
    assert table.names == [f"{c}/{i:02}.mp4" for c in ("left", "right") for i in range(3)]
    assert table.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [bool(error) for error in table.errors] == [False] * 4 + [True, False]
    assert list(table.unreadable()) == ["right/01.mp4"]
    assert np.isnan(table.scores[4]).all()
    assert not np.isnan(np.delete(table.scores, 4, axis=0)).any()


def test_views_of_several_videos_share_batches(model, dataset, table):
    sizes = []
    handle = model.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    done = []
    again = evaluate(model, dataset, batch_size=8, progress=done.append)
    handle.remove()
    assert sizes == [8, 8, 8, 6]  # 5 readable videos x 6 views
    assert done == [1, 2, 3, 4, 5, 6]
    assert np.allclose(again.scores, table.scores, atol=1e-5, equal_nan=True)


def test_evaluating_draws_no_random_numbers(model, dataset):
    before = torch.get_rng_state()
    evaluate(model, dataset)
    assert torch.equal(torch.get_rng_state(), before)


def test_save_and_load(table, tmp_path):
    table.save(tmp_path / "scores.npz")
    loaded = ScoreTable.load(tmp_path / "scores.npz")
    for name in ("labels", "view_clip", "view_crop", "scores"):
        assert np.array_equal(getattr(loaded, name), getattr(table, name), equal_nan=name == "scores"), name
    for name in ("names", "errors", "classes", "protocol"):
        assert getattr(loaded, name) == getattr(table, name), name
    assert [p.name for p in tmp_path.iterdir()] == ["scores.npz"]


def test_what_is_no_score_table(tmp_path):
    (tmp_path / "bytes.npz").write_bytes(b"nothing of the kind")
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    np.savez(tmp_path / "code.npz", names=np.array([{"a": 1}], dtype=object))
    for name in ("bytes.npz", "other.npz", "code.npz"):
        with pytest.raises(DataError, match=f"{name}: not a score table"):
            ScoreTable.load(tmp_path / name)
    with pytest.raises(DataError, match="no such score table"):
        ScoreTable.load(tmp_path / "none.npz")


def toy_table(scores: list) -> ScoreTable:
    array = np.array(scores, dtype=np.float32)
    views = np.arange(array.shape[1])
    labels = np.zeros(len(array), dtype=np.int64)
    names = [str(i) for i in range(len(array))]
    return ScoreTable(names, labels, views, views * 0, array, [""] * len(array), ("a", "b"))


def test_fusion_of_logits_and_of_softmax_can_disagree():
    table = toy_table([[[9.0, 0.0], [0.0, 2.0], [0.0, 2.0]]])
    assert table.fuse("logits")[0] == pytest.approx([3.0, 4 / 3])
    p = [1 / (1 + np.exp(-9)), 1 / (1 + np.exp(2))]
    assert table.fuse("softmax")[0, 0] == pytest.approx((p[0] + 2 * p[1]) / 3)
    assert table.fuse("softmax")[0].argmax() == 1 != table.fuse("logits")[0].argmax()
    for how in ("logits", "softmax"):
        assert table.probabilities(how).sum(axis=1) == pytest.approx([1.0])


@pytest.fixture
def checkpoint(tmp_path, model, config) -> Path:
    save_checkpoint(tmp_path / "model.pt", model=model, config=config, classes=("left", "right"))
    return tmp_path / "model.pt"


def test_testing_a_checkpoint_writes_scores_and_metrics(tmp_path, checkpoint, videos, table):
    figures = evaluate_checkpoint(checkpoint, data=str(videos), out=tmp_path / "test", test=TEN_BY_THREE, device="cpu")
    stored = ScoreTable.load(tmp_path / "test" / "scores.npz")
    assert np.allclose(stored.scores, table.scores, atol=1e-5, equal_nan=True)
    assert json.loads((tmp_path / "test" / "metrics.json").read_text()) == figures
    assert figures["protocol"] == stored.protocol
    assert (figures["protocol"]["clips"], figures["protocol"]["crops"]) == (2, 3)
    assert figures["protocol"]["num_segments"] == 2
    assert figures["versions"]["torch"] == str(torch.__version__)
    assert (figures["videos"], figures["unreadable"]) == (6, 1)
    assert np.sum(figures["confusion"]) == 5


def test_shards_of_a_test(tmp_path, checkpoint, videos, capsys, monkeypatch):
    """Unequal shards, one of them stopped and gone on with: the table is that of a whole test."""
    words = ["test", str(checkpoint), "--data", str(videos), "--clips", "2", "--flip", "true", "--device", "cpu"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*words, "--out", str(whole)]) == 0
    monkeypatch.setattr(evaluation, "KEPT_AT_ONCE", 2)
    with monkeypatch.context() as patch:
        real, calls = evaluation.evaluate, iter([1])

        def once(*arguments, **options):
            if not next(calls, 0):
                raise KeyboardInterrupt(signal.SIGTERM)
            return real(*arguments, **options)

        patch.setattr(evaluation, "evaluate", once)
        assert main([*words, "--out", str(parts), "--shard", "1/2"]) == 128 + signal.SIGTERM
    assert len(read_rows(parts)) == 2
    for number in (1, 2):
        assert not (parts / "scores.npz").exists()
        assert main([*words, "--out", str(parts), "--shard", f"{number}/2"]) == 0
    assert "shard 1/2 is tested; the last of all" in capsys.readouterr().out
    one, other = (ScoreTable.load(folder / "scores.npz") for folder in (whole, parts))
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert (one.names, one.errors, one.protocol) == (other.names, other.errors, other.protocol)
    assert main([*words, "--out", str(parts), "--shard", "1/2", "--calibrate", str(videos)]) == 2
    assert main([*words[:-4], "--out", str(parts), "--shard", "1/2"]) == 2  # another protocol
    assert "holds the test with flip = True, not False" in capsys.readouterr().err


def test_labels_follow_the_checkpoints_names(tmp_path, checkpoint, videos):
    """A list with names in another order, a class file in another order, and a part of the classes."""

    def test(text: str, classes: str = "") -> list[int]:
        (tmp_path / "list.csv").write_text(text)
        evaluate_checkpoint(
            checkpoint,
            data=str(tmp_path / "list.csv"),
            root=str(videos),
            classes=classes,
            out=tmp_path / "test",
            test=EvalConfig(),
            device="cpu",
        )
        return ScoreTable.load(tmp_path / "test" / "scores.npz").labels.tolist()

    (tmp_path / "classes.txt").write_text("right\nleft\n")
    assert test("right/00.mp4,right\nleft/00.mp4,left\n") == [1, 0]
    assert test("right/00.mp4,right\nright/02.mp4,right\n") == [1, 1]
    assert test("right/00.mp4,0\nleft/00.mp4,1\n", classes=str(tmp_path / "classes.txt")) == [1, 0]
    with pytest.raises(DataError, match="did you mean 'right'"):
        test("right/00.mp4,rigth\nleft/00.mp4,left\n")
    (tmp_path / "classes.txt").write_text("wave\nleft\n")
    with pytest.raises(DataError, match="class 'wave' is not among the 2 learned ones"):
        test("right/00.mp4,0\nleft/00.mp4,1\n", classes=str(tmp_path / "classes.txt"))


def test_a_bad_test_leaves_earlier_results_alone(tmp_path, checkpoint, videos):
    evaluate_checkpoint(checkpoint, data=str(videos), out=tmp_path / "test", test=EvalConfig(), device="cpu")
    before = (tmp_path / "test" / "scores.npz").read_bytes()
    with pytest.raises(DataError):
        evaluate_checkpoint(
            checkpoint, data=str(tmp_path / "none"), out=tmp_path / "test", test=EvalConfig(), device="cpu"
        )
    assert (tmp_path / "test" / "scores.npz").read_bytes() == before


def test_scores_that_are_no_numbers_are_no_unreadable_video(dataset, config):
    broken = build_model(config.model, num_classes=2)
    broken.head.fc.bias.data[0] = float("nan")
    with pytest.raises(DivergedError, match=r"left/00\.mp4: the network's scores are not finite"):
        evaluate(broken, dataset, batch_size=2)


def test_a_test_reads_as_this_machine_can(tmp_path, model, config, videos):
    there = replace(config, data=replace(config.data, cache=str(tmp_path / "cache"), backend="torchcodec"))
    save_checkpoint(tmp_path / "model.pt", model=model, config=there, classes=("left", "right"))
    evaluate_checkpoint(tmp_path / "model.pt", data=str(videos), out=tmp_path / "test", test=EvalConfig(), device="cpu")
    assert not (tmp_path / "cache").exists()


def test_unknown_device():
    with pytest.raises(ConfigError, match="expected auto or cpu"):
        evaluation.make_accelerator("cuda0")


def test_split_is_the_same_for_every_seed_and_needs_videos(videos):
    one, other = load_split(DataConfig(train=str(videos), val_fraction=0.34))
    assert (len(one), len(other)) == (4, 2)
    again, _ = load_split(DataConfig(train=str(videos), val_fraction=0.34))
    assert [one.name(i) for i in range(4)] == [again.name(i) for i in range(4)]
    with pytest.raises(ConfigError, match=r"data\.train is empty"):
        load_split(DataConfig())


@pytest.mark.parametrize(
    ("unreadable", "damaged", "videos", "top1"),
    [
        ("wrong", "use", 4, 0.5),
        ("wrong", "wrong", 4, 0.5),
        ("wrong", "exclude", 3, 2 / 3),
        ("exclude", "exclude", 2, 1.0),
        ("exclude", "wrong", 3, 2 / 3),
    ],
)
def test_damaged_videos_count_by_a_policy_of_their_own(unreadable, damaged, videos, top1):
    logits = np.array([[2, 0], [0, 2], [np.nan] * 2, [np.nan] * 2], dtype=np.float32)[:, None]
    table = ScoreTable(
        names=["a", "b", "c", "d"],
        labels=np.array([0, 1, 0, 1]),
        view_clip=np.zeros(1, dtype=np.int64),
        view_crop=np.zeros(1, dtype=np.int64),
        scores=logits,
        errors=["", "", "empty file", "damaged: 2 of 120 frames"],
        classes=("x", "y"),
    )
    config = EvalConfig(on_unreadable=unreadable, on_damaged=damaged)
    if damaged == "use":
        table.errors[3] = "no frames"
    figures = table.metrics(config)
    counted = figures["unreadable_excluded" if config.on_unreadable == damaged == "exclude" else "unreadable_wrong"]
    assert (counted["videos"], counted["top1"]) == (videos, pytest.approx(top1))
    assert figures["top1"] == pytest.approx(top1)
