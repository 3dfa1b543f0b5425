"""Pages from run directories that are written here in the formats that training and testing leave behind."""

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest

from mdtnet.config import DataConfig, ModelConfig, RunConfig
from mdtnet.config_file import save_yaml
from mdtnet.errors import ConfigError, DataError
from mdtnet.pages.charts import Line, chart
from mdtnet.pages.report import build_comparison, build_report
from mdtnet.scores import ScoreTable, save_results
from mdtnet.system.files import write_csv
from mdtnet.training.run_folder import COLUMNS

CLASSES = ("sit_down", "stand_up", "pick_up", "put_down", "wave", "jump")
PAIRS = (("sit_down", "stand_up"), ("pick_up", "put_down"))


def write_video(path: Path, *, frames: int = 24) -> None:
    """A bright square that moves over a dark ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(frames):
            picture = np.full((64, 96, 3), 40, dtype=np.uint8)
            picture[20:40, 2 * i : 2 * i + 20] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def make_table(classes=CLASSES, *, per_class: int = 8, right: float = 0.8, unreadable: int = 2) -> ScoreTable:
    """Scores that are right for a share of the videos."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(len(classes)), per_class)
    scores = rng.normal(size=(len(labels), 1, len(classes))).astype(np.float32)
    target = np.where(rng.random(len(labels)) < right, labels, rng.integers(0, len(classes), len(labels)))
    scores[np.arange(len(labels)), 0, target] += 4
    scores[3 : 3 + unreadable] = np.nan
    errors = ["truncated after 9 frames" if np.isnan(s).any() else "" for s in scores]
    return ScoreTable(
        names=[f"{classes[label]}/clip{i:03}.mp4" for i, label in enumerate(labels)],
        labels=labels,
        view_clip=np.zeros(1, dtype=np.int64),
        view_crop=np.zeros(1, dtype=np.int64),
        scores=scores,
        errors=errors,
        classes=tuple(classes),
        protocol={"clips": 1, "crops": 1, "crop_size": 56, "num_segments": 4, "fusion": "softmax"},
    )


def make_run(folder: Path, *, name: str = "mdtnet2", right: float = 0.8, data: str = "", classes=CLASSES) -> Path:
    """A run directory as training and testing leave it."""
    folder.mkdir(parents=True)
    config = RunConfig(
        out=str(folder.absolute()),
        data=DataConfig(val=data, num_segments=4, short_side=64, size=56),
        model=ModelConfig(name=name, trunk="resnet18"),
    )
    save_yaml(config, folder / "config.yaml")
    rows = [history_row(epoch, right) for epoch in range(1, 21)]
    write_csv(folder / "log.csv", COLUMNS, rows)
    write_csv(
        folder / "unreadable.csv",
        ("path", "reason"),
        [{"path": f"{data}/wave/bad.mp4", "reason": "empty file"}],
    )
    save_results(folder, make_table(classes, right=right), config.test)
    return folder


def history_row(epoch: int, right: float) -> dict:
    learned = 1 - np.exp(-epoch / 6)
    val = {"val_loss": 1.8 - learned, "val_top1": right * learned, "val_top5": learned}
    if epoch % 2:
        val = {}  # validated after every second epoch
    train = {"train_loss": 1.8 - 1.5 * learned, "train_top1": learned}
    return {
        "epoch": epoch,
        "lr": 0.01 if epoch < 15 else 0.001,
        **train,
        **val,
        "seconds": 30.5,
        "clips_per_s": 41.0,
    }


class Page(HTMLParser):
    """What a page is made of: tags with attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def run(tmp_path) -> Path:
    table = make_table()
    for name, error in zip(table.names, table.errors):
        if not error and int(re.findall(r"\d+", name)[0]) % 2:
            write_video(tmp_path / "data" / name)
    return make_run(tmp_path / "run", data=str(tmp_path / "data"))


def test_report_has_every_part(run):
    figures = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(figures | {"hardware": "the machine it was tested on"}))
    page = Page(build_report(run))
    for heading in (
        "Training",
        "What is taken for what",
        "Accuracy of each class",
        "Most confident mistakes",
        "Config",
    ):
        assert heading in page.text
    assert "the machine it was tested on" in page.text
    assert f"{100 * figures['top1']:.1f} %" in page.text
    wrong, excluded = figures["unreadable_wrong"], figures["unreadable_excluded"]
    assert excluded["videos"] == wrong["videos"] - 2
    for kind, how in ((wrong, "wrong"), (excluded, "left out")):
        assert f"{100 * kind['top1']:.1f} % over {kind['videos']} if {how}" in page.text
    assert "centre crop of 56 pixels" in page.text
    assert "4 segments" in page.text
    assert figures["versions"]["torch"] in page.text
    assert len(page.of("polyline")) == 5  # two losses, two accuracies, the learning rate


def test_report_shows_pictures_of_mistakes_where_the_video_is_there(run):
    page = Page(build_report(run))
    images = page.of("img")
    mistakes = [tag for tag in page.of("section") if tag["class"] == "mistake"]
    assert 0 < len(images) < 2 * len(mistakes)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in images)
    assert "No pictures: the video is no longer where the run found it" in page.text


def test_report_is_one_file_without_absolute_paths(run, tmp_path):
    page = Page(build_report(run))
    assert not page.of("link")
    assert not page.of("script")
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|https?://', page.source)
    assert str(tmp_path) not in page.source
    assert "wave/bad.mp4" in page.text  # relative to the data's root
    assert list(run.glob(".*")) == []


def test_report_is_accessible(run):
    page = Page(build_report(run))
    assert page.of("html")[0]["lang"] == "en"
    assert all("aria-label" in svg for svg in page.of("svg"))
    assert all("scope" in cell for cell in page.of("th"))
    assert "prefers-color-scheme: dark" in page.source


@pytest.mark.parametrize("name", ["config.yaml", "log.csv", "scores.npz", "metrics.json", "unreadable.csv"])
def test_report_does_without_any_one_file(run, name):
    (run / name).unlink()
    page = Page(build_report(run))
    assert f"{name} is not there" in page.text
    assert ("Training" in page.text) == (name != "log.csv")
    assert ("Most confident mistakes" in page.text) == (name != "scores.npz")
    assert "What is taken for what" in page.text


@pytest.mark.parametrize("name", ["config.yaml", "log.csv", "scores.npz", "metrics.json", "unreadable.csv"])
def test_report_names_a_damaged_file(run, name):
    (run / name).write_bytes(b"[\xff\x00")
    assert f"{name} cannot be read" in Page(build_report(run)).text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("top1", [0.5]),
        ("top1", 7.0),
        ("per_class", [{}]),
        ("confusion", [[1]]),
        ("unreadable_wrong", {}),
        ("videos", "x"),
    ],
)
def test_report_names_figures_that_are_none(run, key, value):
    figures = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(figures | {key: value}))
    assert (
        "metrics.json cannot be read (metrics.json: no metrics of a test, or damaged)" in Page(build_report(run)).text
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("labels", np.full(48, 6)), ("labels", np.zeros(48)), ("names", np.zeros((48, 2))), ("scores", np.zeros((48, 6)))],
)
def test_report_names_a_score_table_that_is_none(run, name, value):
    with np.load(run / "scores.npz") as file:
        np.savez(run / "scores.npz", **{**file, name: value})
    assert "scores.npz: not a score table, or a damaged one" in Page(build_report(run)).text


def test_training_without_a_test_yet(tmp_path):
    run = make_run(tmp_path / "run")
    for name in ("scores.npz", "metrics.json"):
        (run / name).unlink()
    page = Page(build_report(run))
    assert "Training" in page.text
    assert "Tested with" not in page.text


def test_report_escapes_names(tmp_path):
    classes = ("<b>bold</b>", "a & b", "c\x1b[2J\x00\u202e", *CLASSES[3:])
    page = Page(build_report(make_run(tmp_path / "run", classes=classes)))
    assert not page.of("b")
    assert "<b>bold</b>" in page.text
    assert r"c\x1b[2J\x00\u202e" in page.text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page.source)


def test_many_classes_become_a_picture(tmp_path):
    run = make_run(tmp_path / "run", classes=tuple(f"class {i}" for i in range(80)))
    page = Page(build_report(run))
    assert any("Confusion matrix of 80 classes" in image["alt"] for image in page.of("img"))
    assert not page.of("rect")


def test_no_run_directory(tmp_path):
    with pytest.raises(DataError, match="no such run directory"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a run directory"):
        build_report(tmp_path)


def test_comparison_shows_runs_side_by_side(tmp_path):
    runs = [make_run(tmp_path / "a", name="tsn", right=0.5), make_run(tmp_path / "b", right=0.95)]
    page = Page(build_comparison(runs, tmp_path / "out" / "both.html", pairs=PAIRS))
    for folder in runs:
        top1 = json.loads((folder / "metrics.json").read_text())["top1"]
        assert f"{100 * top1:.1f} %" in page.text
    assert "TSN and MDT-Net2" in page.text
    assert "sit_down / stand_up" in page.text
    assert "not tested on the same videos" not in page.text
    assert len(page.of("polyline")) == 4
    assert str(tmp_path) not in page.source


def test_comparison_tells_runs_of_one_system_apart_and_other_videos(tmp_path):
    runs = [make_run(tmp_path / "first"), make_run(tmp_path / "second", classes=CLASSES[:4])]
    page = Page(build_comparison(runs, tmp_path / "both.html", pairs=[("wave", "jump")]))
    assert "MDT-Net2 first" in page.text
    assert "MDT-Net2 second" in page.text
    assert "not tested on the same videos" in page.text
    colours = {line["stroke"] for line in page.of("polyline")}
    assert len(colours) == 2


def test_comparison_errors(tmp_path):
    with pytest.raises(ConfigError, match="at least one run"):
        build_comparison([], tmp_path / "x.html")
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="is a folder"):
        build_comparison([run], tmp_path)


def test_chart_keeps_points_inside_and_labels_apart():
    lines = [Line(f"run {i}", "tsn", [(e, 50 + 0.1 * i + e) for e in range(1, 6)]) for i in range(4)]
    made = chart("Top-1, %", lines)
    left, right, top, bottom = made["frame"]
    points = [tuple(map(float, p.split(","))) for line in made["lines"] for p in line["path"].split()]
    assert all(left <= x <= right and top <= y <= bottom for x, y in points)
    ys = sorted(line["label_y"] for line in made["lines"])
    assert min(b - a for a, b in itertools.pairwise(ys)) >= 13
    assert "goes from 51 to 55" in made["summary"]


def test_chart_of_one_point():
    made = chart("Loss", [Line("", "tsn", [(1, 0.7)])])
    assert made["lines"][0]["path"].count(",") == 1
