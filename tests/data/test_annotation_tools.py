"""Labels of annotation tools -> parts of videos, and unlabelled time -> negative parts."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny import write_video

from mdtnet.data.annotation_tools import Mark, read_marks
from mdtnet.data.annotations import load_videos
from mdtnet.data.background import quiet_parts
from mdtnet.data.prepare import prepare
from mdtnet.errors import DataError

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><id>4</id><name>day</name><source>a.mp4</source></task></meta>
<track id="0" label="jump"><box frame="6" outside="0" keyframe="1" xtl="1"/><box frame="12" outside="0"/>
<box frame="18" outside="1" keyframe="1"/></track>
<track id="1" label="person"><box frame="0" outside="0"><attribute name="action">wave</attribute></box>
<box frame="9" outside="0"><attribute name="action">jump</attribute></box></track>
<image id="30" name="f30"><tag label="wave"/></image><image id="31" name="f31"><tag label="wave"/></image>
</annotations>"""
VIA = """# Exported using VGG Image Annotator
# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata
"1_x","[""a.mp4""]",0.5,1.25,"{""TEMPORAL-SEGMENTS"":""jump""}"
"1_y","[""b.mp4""]",2,3,"{""TEMPORAL-SEGMENTS"":""wave""}"
"""
VIA_PROJECT = {
    "attribute": {"1": {"aname": "action", "options": {"7": "jump"}}},
    "file": {"1": {"fname": "a.mp4"}},
    "view": {"1": {"fid_list": ["1"]}},
    "metadata": {
        "1_x": {"vid": "1", "z": [0.5, 1.25], "xy": [], "av": {"1": "7"}},
        "1_y": {"vid": "1", "z": [], "xy": [1, 2], "av": {}},
    },
}


def region(start: int, end: int, label: str) -> dict:
    value = {"ranges": [{"start": start, "end": end}], "timelinelabels": [label]}
    return {"type": "timelinelabels", "value": value}


TASKS = [
    {
        "data": {"video": "/data/upload/3/0a1b2c3d-a.mp4"},
        "annotations": [{"result": [region(7, 18, "jump"), region(61, 72, "wave")]}],
    },
    {"data": {"video": "/data/local-files/?d=day/b.mp4"}, "annotations": [{"result": [region(1, 6, "wave")]}]},
    {"data": {"video": "s3://bucket/c.mp4"}, "annotations": [{"result": []}]},
    {"data": {"video": "gone.mp4"}, "annotations": [{"result": [region(1, 6, "wave")]}]},
]
ACTIVITYNET = {
    "database": {
        "a": {"subset": "training", "annotations": [{"label": "jump", "segment": [0.5, 1.25]}]},
        "b": {"subset": "validation", "annotations": [{"label": "jump", "segment": [1, 2]}]},
        "c": {"subset": "testing"},
    }
}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Three videos of 4 seconds at 24 frames per second."""
    root = tmp_path_factory.mktemp("videos")
    (root / "day").mkdir()
    for name in ("a", "day/b", "c"):
        write_video(root / f"{name}.mp4", np.full((96, 32, 32, 3), 90, dtype=np.uint8))
    return root


def marks(tmp_path: Path, tool: str, name: str, text: str, **options) -> list[Mark]:
    (tmp_path / name).write_text(text)
    return read_marks(tool, str(tmp_path / name), **options)


def test_label_studio(tmp_path):
    found = marks(tmp_path, "labelstudio", "x.json", json.dumps(TASKS))
    assert found[0] == Mark("/data/upload/3/0a1b2c3d-a.mp4", "jump", 6, 18, in_frames=True)  # frames count from 1
    assert found[3] == Mark("s3://bucket/c.mp4")
    small = [{"video": "a.mp4", "videoLabels": [TASKS[0]["annotations"][0]["result"][0]["value"]], "choice": "x"}]
    assert marks(tmp_path, "labelstudio", "min.json", json.dumps(small)) == [
        Mark("a.mp4", "jump", 6, 18, in_frames=True)
    ]
    with open(tmp_path / "x.csv", "w", newline="") as file:
        csv.writer(file).writerows([("video", "label"), ("a.mp4", '[{"start": 1.5, "end": 2, "labels": ["jump"]}]')])
    assert read_marks("labelstudio", str(tmp_path / "x.csv")) == [Mark("a.mp4", "jump", 1.5, 2)]


def test_cvat(tmp_path):
    found = marks(tmp_path, "cvat", "annotations.xml", CVAT)
    assert Mark("a.mp4", "jump", 6, 18, in_frames=True) in found
    assert Mark("a.mp4", "wave", 30, 32, in_frames=True) in found
    with zipfile.ZipFile(tmp_path / "task.zip", "w") as archive:
        archive.writestr("annotations.xml", CVAT)
    found = read_marks("cvat", str(tmp_path / "task.zip"), attribute="action")
    assert found == [Mark("a.mp4", "wave", 0, 9, in_frames=True), Mark("a.mp4", "jump", 9, 10, in_frames=True)]


def test_activitynet(tmp_path):
    found = marks(tmp_path, "activitynet", "x.json", json.dumps(ACTIVITYNET))
    assert found == [Mark("a", "jump", 0.5, 1.25, part="train"), Mark("b", "jump", 1, 2, part="val")]


def test_via(tmp_path):
    assert marks(tmp_path, "via", "x.csv", VIA) == [Mark("a.mp4", "jump", 0.5, 1.25), Mark("b.mp4", "wave", 2, 3)]
    assert marks(tmp_path, "via", "x.json", json.dumps(VIA_PROJECT)) == [Mark("a.mp4", "jump", 0.5, 1.25)]


@pytest.mark.parametrize(
    ("tool", "text", "message"),
    [
        ("labelstudio", "{}", "no labels in time"),
        ("labelstudio", "[1]", "not labels as labelstudio exports them"),
        ("cvat", '<!DOCTYPE x [<!ENTITY a "b">]><annotations/>', "declares entities"),
        ("cvat", "<html></html>", "its root is <html>"),
        ("activitynet", "[]", "not labels as activitynet exports them"),
        (
            "via",
            VIA.replace("TEMPORAL-SEGMENTS", "x").replace('""jump""', '""jump"",""y"":""z""'),
            "several attributes",
        ),
    ],
)
def test_wrong_files_are_one_line(tmp_path, tool, text, message):
    with pytest.raises(DataError, match=message) as error:
        marks(tmp_path, tool, "x", text)
    assert "\n" not in str(error.value)


def rows(path: Path) -> list[tuple[str, ...]]:
    with open(path) as file:
        return sorted(tuple(row) for row in csv.reader(file))


def test_lists_with_background(tmp_path, root):
    """Videos are found by the names that a tool gave them; all parts of a video are on one side of the split."""
    (tmp_path / "x.json").write_text(json.dumps(TASKS))
    out = tmp_path / "out"
    (done,) = prepare(
        "labelstudio",
        root=str(root),
        annotations=str(tmp_path / "x.json"),
        out=str(out),
        background=True,
        val_fraction=0.5,
    )
    found = [row for part in ("train", "val") for row in rows(out / f"{part}.csv") if row[0] != "path"]
    assert ("a.mp4", "jump", "0.25", "0.75", "a.mp4") in found
    assert ("day/b.mp4", "wave", "0.0", "0.25", "day/b.mp4") in found
    negatives = [row for row in found if row[1] == "background"]
    assert len(negatives) == 3  # as many as are labelled
    assert done.classes == ("jump", "wave", "background")
    assert ("train", "gone.mp4", "wave") in rows(out / "missing.csv")
    sides = [{row[0] for row in rows(out / f"{part}.csv")} - {"path"} for part in ("train", "val")]
    assert not sides[0] & sides[1]


def test_frames_at_the_rate_of_the_tool(tmp_path, root):
    (tmp_path / "x.json").write_text(json.dumps(TASKS))
    prepare("labelstudio", root=str(root), annotations=str(tmp_path / "x.json"), out=str(tmp_path), fps=12.0)
    found = rows(tmp_path / "train.csv") + rows(tmp_path / "val.csv")
    assert ("a.mp4", "jump", "0.5", "1.5", "a.mp4") in found


def test_background_of_an_own_list(tmp_path, root):
    lists = "path,label,start,end\na.mp4,jump,1,2\nc.mp4,jump,2,3\na.mp4,jump,3,4\nday/b.mp4,jump,0,1\n"
    (tmp_path / "own.csv").write_text(lists)
    prepare("csv", root=str(root), annotations=str(tmp_path / "own.csv"), out=str(tmp_path / "out"), background=True)
    train = load_videos(str(tmp_path / "out/train.csv"), root=str(root), classes=str(tmp_path / "out/classes.txt"))
    assert train.classes == ("jump", "background")
    with pytest.raises(DataError, match="no unlabelled time; background is for"):
        prepare("folder", root=str(root), out=str(tmp_path / "other"), background=True)


def test_quiet_parts():
    assert quiet_parts([], 5.0, 2.0) == [(0, 2), (2, 4)]
    assert quiet_parts([(3.0, 4.0)], 8.0, 2.0) == [(0, 2), (4.5, 6.5)]  # a margin of half a second
    assert quiet_parts([(0.0, np.inf)], 8.0, 2.0) == []
    assert quiet_parts([(0, 6), (1, 2)], 7.0, 2.0) == []
