"""Several labels a video: lists, loss, sigmoid, mean average precision, and the whole way on the command line."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F

from mdtnet import metrics
from mdtnet.checks import check_config
from mdtnet.cli.main import main
from mdtnet.config import GATE_FIGURES, DataConfig, EvalConfig, RunConfig, TrainConfig
from mdtnet.data.annotations import describe, load_videos, write_list
from mdtnet.data.dataset import ClipDataset, collate
from mdtnet.data.info import contact_sheet, data_info
from mdtnet.data.splits import relabel, split_by_group, split_folds
from mdtnet.errors import ConfigError, DataError
from mdtnet.inference.recogniser import Recogniser
from mdtnet.pages.report import build_comparison
from mdtnet.scores import ScoreTable, fuse_tables, save_results
from mdtnet.training import recipe

COLOURS = {"blue": (0, 0, 230), "red": (230, 0, 0)}


def write_set(folder: Path, *, each: int, seed: int = 0) -> Path:
    """Noise with a red square, a blue one, both or none, and `list.csv`; returns the list."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = ["path,label"]
    for shown in ((), ("blue",), ("red",), ("red", "blue")):
        for i in range(each):
            frames = np.broadcast_to(rng.integers(0, 60, (32, 40, 3), dtype=np.uint8), (8, 32, 40, 3)).copy()
            for name in shown:
                x = int(rng.integers(0, 4)) + (4 if name == "red" else 22)
                frames[:, 8:24, x : x + 12] = COLOURS[name]
            rows.append(f"{'_'.join(shown) or 'none'}_{i}.mp4,{'|'.join(shown)}")
            tiny.write_video(folder / rows[-1].split(",")[0], frames)
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder / "list.csv"


def write_text(folder: Path, text: str) -> str:
    (folder / "a.mp4").touch()
    (folder / "list.csv").write_text(text)
    return str(folder / "list.csv")


# Lists


@pytest.mark.parametrize(
    ("text", "classes", "expected"),
    [
        ("path,label\na.mp4,wave|jump\nb.mp4,\nc.mp4,jump\n", ("jump", "wave"), [[1, 1], [0, 0], [1, 0]]),
        ("a.mp4 0|2\nb.mp4 2\nc.mp4 2|0\n", ("0", "1", "2"), [[1, 0, 1], [0, 0, 1], [1, 0, 1]]),
        ('a.mp4,"sit down | jump"\nb.mp4,jump\n', ("jump", "sit down"), [[1, 1], [1, 0]]),
        ("path,label,start,end\na.mp4,jump,0,1\na.mp4,wave|jump,1,2\n", ("jump", "wave"), [[1, 0], [1, 1]]),
    ],
)
def test_lists(tmp_path, text, classes, expected):
    videos = load_videos(write_text(tmp_path, text), multi_label=True)
    assert videos.classes == classes
    assert videos.labels.dtype == bool
    assert videos.labels.astype(int).tolist() == expected
    write_list(tmp_path / "again.csv", videos, root=videos.root)
    again = load_videos(str(tmp_path / "again.csv"), classes=classes, multi_label=True)
    assert (again.labels == videos.labels).all()
    assert [again.name(i) for i in range(len(again))] == [videos.name(i) for i in range(len(videos))]


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("a.mp4,jump|wave\nb.mp4,jump\n", {"multi_label": False}, "row 1: 'jump|wave'.* multi_label true"),
        ("a.mp4,jump\na.mp4,wave\n", {}, "'a.mp4' has several rows"),
        ("a.mp4,jump\nb.mp4,jump|weve\n", {"classes": ("jump", "wave")}, "row 2: label 'weve'.*mean 'wave'"),
        ("a.mp4,0|5\n", {"classes": ("jump", "wave")}, "row 1: label 5 is out of range"),
        ("a.mp4,jump\n", {"classes": ("jump", "a|b")}, "class 'a|b'"),
        ("a.mp4,jump|1\n", {}, "'jump' is a name, others are numbers"),
        ("path,label\na.mp4,\n", {}, "no row has a label"),
    ],
)
def test_mistakes_in_lists(tmp_path, text, options, words):
    with pytest.raises(DataError, match=words.replace("|", r"\|")):
        load_videos(write_text(tmp_path, text), **{"multi_label": True, **options})


def test_folders_give_one_label(tmp_path):
    with pytest.raises(DataError, match="multi_label needs a list"):
        load_videos(str(tiny.write_videos(tmp_path, per_class=1)), multi_label=True)


def test_counts_splits_and_pictures(tmp_path):
    videos = load_videos(str(write_set(tmp_path / "set", each=3)), multi_label=True)
    assert describe(videos) == "12 videos, 2 classes: blue 6, red 6"
    assert data_info(videos).counts == {"blue": 6, "red": 6}
    assert contact_sheet(videos, tmp_path / "sheet.png").is_file()
    for train, val in (
        split_by_group(videos, fraction=0.25, seed=0),
        split_by_group(videos, fraction=0.34, seed=0, group=r"(\d)\.mp4"),
        split_folds(videos, folds=3, fold=1, seed=0),
    ):
        assert {train.name(i) for i in range(len(train))} & {val.name(i) for i in range(len(val))} == set()
        assert len(train) + len(val) == 12
        assert train.labels.any(axis=0).all()
        assert 3 <= len(val) <= 4


def test_relabel_to_the_learned_order(tmp_path):
    videos = load_videos(write_text(tmp_path, "a.mp4,jump\nb.mp4,wave|jump\n"), multi_label=True)
    assert relabel(videos, ("wave", "sit", "jump")).labels.tolist() == [[False, False, True], [True, False, True]]


# Clips and loss


def test_items_and_mirrored_labels(tmp_path):
    tiny.write_videos(tmp_path, per_class=1)
    text = "path,label\nleft/00.mp4,left|up\nright/00.mp4,\n"
    videos = load_videos(write_text(tmp_path, text), classes=("left", "right", "up"), multi_label=True)
    found = set()
    for seed in range(8):
        data = DataConfig(num_segments=2, size=32, short_side=32, flip="swap")
        swapped, same = (
            ClipDataset(videos, d, frames_per_segment=1, train=True, seed=seed)[0]
            for d in (data, replace(data, flip=False))
        )
        mirrored = not torch.equal(swapped["frames"], same["frames"])
        assert swapped["label"].tolist() == ([False, True, True] if mirrored else [True, False, True])
        found.add(mirrored)
    assert found == {True, False}
    dataset = ClipDataset(videos, data, frames_per_segment=1, train=False)
    batch = collate([dataset[0], dataset[1]])
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [[1, 0, 1], [0, 0, 0]]


def test_loss_is_binary_cross_entropy():
    logits, labels = torch.tensor([[0.0, 2.0], [-1.0, 3.0]]), torch.tensor([[1, 0], [0, 1]])
    config = RunConfig(data=DataConfig(multi_label=True))
    loss = recipe.clip_loss(logits, labels.float(), config, None)
    expected = np.log([2, 1 + np.e**2, 1 + np.e**-1, 1 + np.e**-3]).sum() / 2  # mean of 2 classes, sum of 2 clips
    assert loss.item() == pytest.approx(expected)
    smoothed = replace(config, train=TrainConfig(label_smoothing=0.2))
    expected = F.binary_cross_entropy_with_logits(logits, labels * 0.8 + 0.1) * 2
    assert torch.allclose(recipe.clip_loss(logits, labels.float(), smoothed, None), expected)


def test_mixed_clips_have_shares_of_both_label_sets():
    frames, labels = torch.zeros(2, 1, 1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[1, 1, 0], [0, 1, 0]])
    torch.manual_seed(0)
    _, shares = recipe.mix_clips(frames, labels, num_classes=3, mixup=1.0, cutmix=0.0)
    assert shares[:, 1].tolist() == pytest.approx([1, 1])
    assert shares[:, 2].tolist() == [0, 0]
    assert shares[:, 0].sum().item() == pytest.approx(1)


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balanced_classes_are_refused(balance):
    config = RunConfig(data=DataConfig(multi_label=True), train=TrainConfig(class_balance=balance))
    with pytest.raises(ConfigError, match=f"class_balance is '{balance}'.*multi_label"):
        check_config(config, processes=1)


# Mean average precision

SCORES = np.array([[0.9, 0.2, 0.5], [0.8, 0.7, 0.5], [0.1, 0.6, 0.5]])
LABELS = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=bool)  # the third class is never shown


def test_average_precision_by_hand():
    found = metrics.average_precision(SCORES, LABELS)
    assert found[:2].tolist() == pytest.approx([(1 + 2 / 3) / 2, 1])
    assert np.isnan(found[2])
    assert metrics.mean_average_precision(SCORES, LABELS) == pytest.approx(11 / 12)
    tied = np.zeros((4, 1))  # equal scores are found together, whatever their order
    assert metrics.average_precision(tied, np.array([[1], [0], [0], [0]], dtype=bool)).tolist() == [0.25]


@pytest.mark.parametrize("decimals", [1, 6])  # rounding makes ties
def test_average_precision_equals_torchmetrics(decimals):
    from torchmetrics.functional.classification import multilabel_average_precision

    rng = np.random.default_rng(0)
    scores, labels = rng.random((200, 7)).round(decimals), rng.random((200, 7)) < np.linspace(0.02, 0.9, 7)
    inputs = torch.from_numpy(scores), torch.from_numpy(labels).long()
    expected = multilabel_average_precision(*inputs, num_labels=7, average="none", thresholds=None)
    assert metrics.average_precision(scores, labels) == pytest.approx(expected.numpy(), abs=1e-6)
    macro = multilabel_average_precision(*inputs, num_labels=7, average="macro", thresholds=None)
    assert metrics.mean_average_precision(scores, labels) == pytest.approx(macro.item(), abs=1e-6)


def test_unreadable_videos_both_ways():
    scores = SCORES.copy()
    scores[2] = np.nan
    for policy, expected in (("wrong", 0.5), ("exclude", 1.0)):
        found = metrics.summary(scores, LABELS, ["a", "b", "c"], unreadable=policy)
        assert found["map"] == pytest.approx(expected)
        assert found["unreadable_wrong"] == {"videos": 3, "map": pytest.approx(0.5)}
        assert found["unreadable_excluded"] == {"videos": 2, "map": pytest.approx(1.0)}
        assert found["per_class"][2] == {"name": "c", "support": 0, "average_precision": None}
        json.dumps(found, allow_nan=False)
    nothing = metrics.summary(np.full((3, 3), np.nan), LABELS, ["a", "b", "c"])
    assert (nothing["map"], nothing["unreadable_excluded"]["map"]) == (0.0, None)


def test_log_loss_and_mistakes():
    p = np.array([[0.9, 0.2], [0.6, 0.4], [np.nan, np.nan]])
    y = np.array([[1, 0], [0, 0], [1, 0]], dtype=bool)
    assert metrics.log_loss(p, y) == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.6]).mean())
    assert metrics.confident_mistakes(p, y, count=5) == [{"index": 1, "predicted": 0, "confidence": 0.6}]


def make_table(scores: np.ndarray, labels: np.ndarray = LABELS) -> ScoreTable:
    views = np.arange(scores.shape[1])
    names = [f"{i}.mp4" for i in range(len(scores))]
    return ScoreTable(names, labels, views, views * 0, scores.astype(np.float32), [""] * len(scores), ("a", "b", "c"))


def test_score_tables_average_sigmoids(tmp_path):
    scores = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32) * 3
    table = make_table(scores)
    p = torch.from_numpy(scores).double()
    assert np.allclose(table.probabilities("softmax"), p.sigmoid().mean(1))
    assert np.allclose(table.probabilities("logits"), p.mean(1).sigmoid())
    table.save(tmp_path / "scores.npz")
    again = ScoreTable.load(tmp_path / "scores.npz")
    assert again.labels.dtype == bool
    assert (again.labels == LABELS).all()
    assert again.metrics(EvalConfig())["map"] == table.metrics(EvalConfig())["map"]
    both = fuse_tables([table, make_table(scores[:, :1])], "softmax", names=["a", "b"])
    assert np.allclose(both.probabilities("softmax"), (p.sigmoid().mean(1) + p[:, 0].sigmoid()) / 2, atol=1e-6)
    assert both.protocol["fusion"] == "sigmoid"
    single = make_table(scores, np.array([0, 1, 2]))
    with pytest.raises(DataError, match="b: other labels than in a"):
        fuse_tables([table, single], "softmax", names=["a", "b"])
    for name, each in (("several", table), ("one", single)):
        save_results(tmp_path / name, each, EvalConfig())
    assert main(["mean", str(tmp_path / "several"), str(tmp_path / "one")]) == 3
    page = build_comparison([tmp_path / "several", tmp_path / "one"], tmp_path / "page.html").read_text()
    assert all(f">{title}<" in page for title in ("Top-1", "Mean class accuracy", "mAP"))


# The whole way


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained run, its lists in `lists` beside it, made by the command line."""
    folder = tmp_path_factory.mktemp("several")
    write_set(folder / "videos", each=6)
    prepare = ["data", "prepare", "csv", "--root", folder / "videos", "--annotations", folder / "videos/list.csv"]
    assert main([*map(str, prepare), "--out", str(folder / "lists"), "--multi_label"]) == 0
    options = "--model tsn --trunk resnet18 --model.width 0.125 --model.dropout 0 --data.num_segments 2 --data.size 32"
    options += " --data.short_side 32 --data.flip false --train.batch_size 8 --train.optimizer adamw --train.lr 0.04"
    options += " --train.epochs 12 --train.trackers [csv] --train.device cpu"
    train = ["train", "--config", str(folder / "lists/data.yaml"), "--out", str(folder / "run")]
    assert main([*train, *options.split()]) == 0
    return folder / "run"


def test_training_learns_and_keeps_the_best_by_map(run):
    with open(run / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = ("epoch", "lr", "train_loss", "val_loss", "val_map", "seconds", "clips_per_s", "waiting", *GATE_FIGURES)
    assert tuple(rows[0]) == columns
    values = [float(row["val_map"]) for row in rows]
    assert max(values) > 0.95
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    table = ScoreTable.load(run / "scores.npz")
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["map"] == pytest.approx(max(values), abs=1e-5)
    assert figures["map"] == metrics.mean_average_precision(table.fuse("softmax"), table.labels)
    assert figures["protocol"]["fusion"] == "sigmoid"
    assert "confusion" not in figures


def test_report_shows_map(run):
    page = (run / "report.html").read_text()
    assert "Mean average precision" in page
    assert "Average precision of each class" in page
    assert "Top-1" not in page


def test_test_shows_both_figures_and_predict_tells_every_label(run, tmp_path, capsys):
    checkpoint, videos = str(run / "checkpoints/best.pt"), run.parent / "videos"
    (tmp_path / "test.csv").write_text("red_0.mp4,red\nblue_0.mp4,blue\nnone_0.mp4,\nbroken.mp4,red|blue\n")
    arguments = ["--data", str(tmp_path / "test.csv"), "--root", str(videos), "--out", str(tmp_path / "test")]
    assert main(["test", checkpoint, *arguments]) == 0
    out = capsys.readouterr().out
    assert "mAP, unreadable counted wrong" in out
    assert "over 3 videos" in out
    both, none = (str(videos / f"{name}_1.mp4") for name in ("red_blue", "none"))
    found = {}
    for threshold in ("0", "0.5", "1"):
        out = tmp_path / f"{threshold}.json"
        assert main(["predict", checkpoint, both, none, "--threshold", threshold, "--json", str(out)]) == 0
        read = json.loads(out.read_text())
        found[threshold] = [{p["class"]: p["probability"] for p in video["predictions"]} for video in read]
    for every, likely in zip(found["0"], found["0.5"]):
        assert set(every) == {"red", "blue"}
        assert likely == {name: p for name, p in every.items() if p >= 0.5}
        assert abs(sum(every.values()) - 1) > 1e-3
    assert found["1"] == [{}, {}]
    assert "no class is as probable" in capsys.readouterr().out
    assert main(["predict", checkpoint, both, "--threshold", "2"]) == 2


def test_lists_are_checked_and_described(run, tmp_path, capsys):
    lists = run.parent / "lists"
    arguments = [str(lists / "train.csv"), "--root", str(run.parent / "videos"), "--multi_label"]
    assert main(["data", "info", *arguments]) == 0
    assert "labels per video" in capsys.readouterr().out
    assert main(["data", "check", *arguments, "--out", str(tmp_path), "--workers", "1"]) == 0
    assert "--data.multi_label true" in capsys.readouterr().out
    clean = load_videos(str(tmp_path / "clean.csv"), root=str(run.parent / "videos"), multi_label=True)
    assert len(clean) + len((lists / "val.csv").read_text().splitlines()) - 1 == 24
    assert main(["data", "info", *arguments[:-1]]) == 3
    assert "multi_label true" in capsys.readouterr().err


def test_the_exported_network_gives_sigmoids(run, tmp_path):
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    from mdtnet.deploy.export import export
    from mdtnet.deploy.exported import ExportedRecogniser

    checkpoint, videos = run / "checkpoints/best.pt", run.parent / "videos"
    export(checkpoint, format="onnx", out=tmp_path / "best.onnx", clips=str(videos))
    deployed, model = ExportedRecogniser.load(tmp_path / "best.onnx"), Recogniser.load(checkpoint, device="cpu")
    assert deployed.description.multi_label
    for fusion in ("softmax", "logits"):
        deployed.description = replace(deployed.description, fusion=fusion)
        model.config = replace(model.config, test=replace(model.config.test, fusion=fusion))
        found, expected = (m.predict(videos / "red_blue_0.mp4", clips=3) for m in (deployed, model))
        assert found.probabilities == pytest.approx(expected.probabilities, abs=0.01)
        assert sum(found.probabilities) > 1
