"""Official layouts -> lists: counts, class orders, missing videos, and lists that do not fit their label map."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from mdtnet.data.annotations import load_videos
from mdtnet.data.official import read_label_map
from mdtnet.data.prepare import prepare
from mdtnet.errors import DataError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write(folder: Path, **texts: str) -> Path:
    """Files by name, `__` for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def labels(out: Path, part: str, root: Path) -> dict[str, str]:
    videos = load_videos(str(out / f"{part}.csv"), root=str(root), classes=str(out / "classes.txt"))
    return {videos.name(i): videos.classes[videos.labels[i]] for i in range(len(videos))}


# Official lists


@pytest.mark.parametrize(("split", "train", "val"), [("1", 9537, 3783), ("2", 9586, 3734), ("3", 9624, 3696)])
def test_ucf101_counts(shared, tmp_path, split, train, val):
    lists = shared / "data/official_splits/ucf101_splits"
    first = "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi", "HandstandPushups/v_HandStandPushups_g12_c03.avi"
    root = touch(tmp_path / "videos", *first)
    done = prepare("ucf101", root=str(root), annotations=str(lists), out=str(tmp_path / "out"), split=split)[0]
    assert [done.counts[part][0] for part in ("train", "val")] == [train, val]
    assert sum(found for _, found in done.counts.values()) == 2
    assert len(done.classes) == 101
    assert done.classes[:2] == ("ApplyEyeMakeup", "ApplyLipstick")
    with open(tmp_path / "out/missing.csv") as file:
        assert len(list(csv.DictReader(file))) == train + val - 2


def test_ucf101_with_every_video_and_all_splits(shared, tmp_path):
    lists = shared / "data/official_splits/ucf101_splits"
    names = [line.split()[0] for part in ("train", "test") for line in lines(lists / f"{part}list01.txt")]
    root = touch(tmp_path / "videos/UCF-101", *names).parent
    done = prepare("ucf101", root=str(root), annotations=str(lists), out=str(tmp_path / "out"), split="all")
    assert [d.counts for d in done] == [{"train": (n, n), "val": (13320 - n, 13320 - n)} for n in (9537, 9586, 9624)]
    assert [d.out.name for d in done] == ["split1", "split2", "split3"]
    found = labels(tmp_path / "out/split2", "val", root)
    assert len(found) == 3734
    assert all(name.split("/")[1] == label for name, label in found.items())


@pytest.mark.parametrize("split", ["1", "2", "3"])
def test_hmdb51_counts(shared, tmp_path, split):
    lists = shared / "data/official_splits/hmdb51_splits"
    names = [
        f"{path.name.partition('_test_split')[0]}/{line.split()[0]}"
        for path in lists.glob(f"*_test_split{split}.txt")
        for line in lines(path)
    ]
    root = touch(tmp_path / "videos", *names)
    done = prepare("hmdb51", root=str(root), annotations=str(lists), out=str(tmp_path / "out"), split=split)[0]
    assert done.counts == {"train": (3570, 3570), "val": (1530, 1530)}
    assert len(done.classes) == 51
    assert done.classes[0] == "brush_hair"
    found = labels(tmp_path / "out", "train", root)  # names that start with # among them
    assert len(found) == 3570
    assert all(name.removeprefix("./").split("/")[0] == label for name, label in found.items())


def test_videos_in_one_flat_folder(tmp_path):
    lists = write(tmp_path / "lists", clap_test_split1__txt="#2_a.avi 1 \nb.avi 2 \nc.avi 0 \n",
                  wave_test_split1__txt="d.avi 1 \ne.avi 2 \n")  # fmt: skip
    root = touch(tmp_path / "flat", "#2_a.mp4", "b.mp4", "c.mp4", "d.mp4")
    done = prepare("hmdb51", root=str(root), annotations=str(lists), out=str(tmp_path / "out"))[0]
    assert done.counts == {"train": (2, 2), "val": (2, 1)}
    assert labels(tmp_path / "out", "train", root) == {"./#2_a.mp4": "clap", "d.mp4": "wave"}
    assert (tmp_path / "out/missing.csv").read_text() == "part,video,label\nval,e,wave\n"


@pytest.mark.parametrize(("name", "total"), [("sthv1", (86_017, 11_522)), ("sthv2", (168_913, 24_777))])
def test_something_something_lists_of_other_projects(shared, tmp_path, name, total):
    lists = shared / f"data/official_splits/uniformer_{name}"
    ids = {"sthv1": ("100218", "85"), "sthv2": ("78687", "74225")}[name]
    root = touch(tmp_path / "videos", *(f"20bn/{i}/00001.jpg" if name == "sthv1" else f"20bn/{i}.webm" for i in ids))
    done = prepare(name, root=str(root), annotations=str(lists), out=str(tmp_path / "out"))[0]
    assert done.counts == {"train": (total[0], 1), "val": (total[1], 1)}
    assert len(done.classes) == 174
    assert done.classes[0] == "Approaching something with your camera"  # without brackets
    expected = {"sthv1": (134, 30), "sthv2": (19, 140)}[name]
    for part, number in zip(("train", "val"), expected):
        row = (tmp_path / f"out/{part}.csv").read_text().splitlines()[1]
        assert done.classes[number] in row.replace('""', '"')
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text())["data"]["flip"] == "swap"


def test_another_order_of_the_same_classes_is_taken_and_other_classes_are_not(shared, tmp_path):
    splits = shared / "data/official_splits"
    root = touch(tmp_path / "videos", "100218/00001.jpg")
    options = {"root": str(root), "annotations": str(splits / "uniformer_sthv1"), "out": str(tmp_path / "out")}
    order = splits / "mmaction2_label_maps/sthv1_label_map.txt"
    done = prepare("sthv1", classes=str(order), **options)[0]
    assert done.classes[0] == "Holding something"
    row = (tmp_path / "out/train.csv").read_text().splitlines()[1]
    names = read_label_map(str(splits / "uniformer_sthv1/category.txt"))
    assert row == f"100218,{names[134]}"  # the label's number is by the list's own map
    with pytest.raises(DataError, match="not from one source"):
        prepare("sthv1", classes=str(splits / "mmaction2_label_maps/jester_label_map.txt"), **options)


def test_kinetics_numbers_need_their_own_label_map(shared, tmp_path):
    splits = shared / "data/official_splits"
    root = touch(tmp_path / "videos", "0wR5jVB-WPk.mp4", "3caPS4FHFF8_000417_000427.mp4")
    out = str(tmp_path / "out")
    done = prepare("kinetics400", root=str(root), annotations=str(splits / "uniformer_k400"), out=out)[0]
    assert done.counts == {"val": (19_787, 2)}
    assert set(labels(tmp_path / "out", "val", root).values()) == {"abseiling"}
    alone = write(tmp_path / "alone", val__csv=(splits / "uniformer_k400/val.csv").read_text())
    options = {"root": str(root), "annotations": str(alone), "out": out}
    with pytest.raises(DataError, match="no label map lies beside it"):
        prepare("kinetics400", **options)
    wrong = str(splits / "mmaction2_label_maps/kinetics_label_map_k400.txt")
    with pytest.raises(DataError, match="nothing shows that"):
        prepare("kinetics400", classes=wrong, **options)
    touch(root, "abseiling/3yaoNwz99xM.mp4")
    with pytest.raises(DataError, match=r"lies in folder 'abseiling'.*not from one source"):
        prepare("kinetics400", classes=wrong, **options)
    right = str(splits / "uniformer_k400/kinetics_400_categroies.txt")
    assert prepare("kinetics400", classes=right, **options)[0].classes[341] == "abseiling"


def test_kinetics_official_csv_and_renamed_files(tmp_path):
    head = "label,youtube_id,time_start,time_end,split\n"
    lists = write(tmp_path / "lists", train__csv=f"{head}zumba,aaa,10,20,train\nair drumming,b-_,3,13,train\n",
                  validate__csv=f"{head}zumba,ccc,0,10,validate\nair drumming,ddd,0,10,validate\n")  # fmt: skip
    root = touch(tmp_path / "videos", "train/zumba/aaa_000010_000020.mp4", "train/air_drumming/b-_.mkv", "val/ccc.webm")
    done = prepare("kinetics400", root=str(root), annotations=str(lists), out=str(tmp_path / "out"))[0]
    assert done.classes == ("air drumming", "zumba")
    assert done.counts == {"train": (2, 2), "val": (2, 1)}
    assert labels(tmp_path / "out", "train", root) == {
        "train/zumba/aaa_000010_000020.mp4": "zumba",
        "train/air_drumming/b-_.mkv": "air drumming",
    }


def test_official_lists_of_something_something_and_jester(tmp_path):
    v2 = write(tmp_path / "v2")
    (v2 / "something-something-v2-labels.json").write_text(json.dumps({"Moving something": "0", "Taking a, b": "1"}))
    for part, number in (("train", "7"), ("validation", "8")):
        rows = [{"id": number, "label": "moving a cup", "template": "Moving [something]", "placeholders": ["a cup"]},
                {"id": number * 2, "template": "Taking [a, b]"}]  # fmt: skip
        (v2 / f"something-something-v2-{part}.json").write_text(json.dumps(rows))
    root = touch(tmp_path / "videos", "7.webm", "8.webm", "77.webm")
    done = prepare("sthv2", root=str(root), annotations=str(v2), out=str(tmp_path / "out"))[0]
    assert done.classes == ("Moving something", "Taking a, b")
    assert labels(tmp_path / "out", "train", root) == {"7.webm": "Moving something", "77.webm": "Taking a, b"}
    jester = write(tmp_path / "jester")
    (jester / "jester-v1-labels.csv").write_text("Swiping Right\nSwiping Left\n")
    (jester / "jester-v1-train.csv").write_text("34870;Swiping Left\n9223;Swiping Right\n")
    (jester / "jester-v1-validation.csv").write_text("5;Swiping Right\n")
    root = touch(jester, *(f"20bn-jester-v1/{i}/00001.jpg" for i in (34870, 9223, 5)))
    done = prepare("jester", root=str(root), out=str(tmp_path / "out"))[0]
    assert done.classes == ("Swiping Right", "Swiping Left")
    assert labels(tmp_path / "out", "train", root)["20bn-jester-v1/34870"] == "Swiping Left"
    assert yaml.safe_load((tmp_path / "out/data.yaml").read_text())["data"]["flip"] is False


def test_ucf101_list_and_label_map_must_agree(tmp_path):
    lists = write(tmp_path / "lists", classInd__txt="1 Archery\n2 Biking\n", testlist01__txt="Archery/b.avi\n",
                  trainlist01__txt="Archery/a.avi 2\n")  # fmt: skip
    options = {"root": str(touch(tmp_path / "v", "a.avi")), "annotations": str(lists), "out": str(tmp_path / "out")}
    with pytest.raises(DataError, match="'Archery' has label 2, but 1 in classInd"):
        prepare("ucf101", **options)
    write(lists, trainlist01__txt="Acrhery/a.avi 1\n")
    with pytest.raises(DataError, match="class 'Acrhery' is not in classInd"):
        prepare("ucf101", **options)
    assert not (tmp_path / "out").exists()


# Own folders and lists


def test_folder_with_and_without_a_validation_part(tmp_path):
    root = touch(tmp_path / "own", *(f"{c}/{i}.mp4" for c in "ab" for i in range(5)))
    done = prepare("folder", root=str(root), out=str(tmp_path / "out"))[0]
    assert done.counts == {"train": (8, 8), "val": (2, 2)}
    parts = touch(tmp_path / "parts", *(f"{p}/{c}/{i}.mp4" for p in ("train", "test") for c in "ab" for i in "12"))
    done = prepare("folder", root=str(parts), out=str(tmp_path / "out"))[0]
    assert labels(tmp_path / "out", "val", parts) == {f"test/{c}/{i}.mp4": c for c in "ab" for i in "12"}


def test_own_lists_keep_times_and_groups(tmp_path):
    root = touch(tmp_path / "own", "a.mp4", "b.mp4")
    rows = "path,label,start,end,group\na.mp4,run,1,2.5,g1\na.mp4,walk,3,,g1\nb.mp4,run,,,g2\nc.mp4,walk,,,g2\n"
    write(root, list__csv=rows)
    done = prepare("csv", root=str(root), annotations=str(root / "list.csv"), out=str(tmp_path / "out"), group="(.)")[0]
    assert sum(found for _, found in done.counts.values()) == 3
    text = (tmp_path / "out/train.csv").read_text() + (tmp_path / "out/val.csv").read_text()
    assert "a.mp4,run,1.0,2.5,g1\n" in text
    assert "a.mp4,walk,3.0,,g1\n" in text
    assert "c.mp4" not in text
    assert ",c.mp4,walk\n" in (tmp_path / "out/missing.csv").read_text()


def test_what_is_not_replaced(tmp_path):
    root = touch(tmp_path / "own", *(f"{c}/{i}.mp4" for c in "ab" for i in range(5)))
    write(root, train__csv="mine\n")
    with pytest.raises(DataError, match="was not written by this verb"):
        prepare("folder", root=str(root), out=str(root))
    assert (root / "train.csv").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("ucf101", {"root": "nowhere"}, "no such folder"),
        ("ucf101", {}, "classInd.txt not found in --annotations or --root"),
        ("hmdb51", {}, "CLASS_test_split1.txt not found"),
        ("sthv2", {}, "something-something-v2-train.json"),
        ("kinetics400", {"split": "2"}, "one official split"),
    ],
)
def test_mistakes(tmp_path, name, options, words):
    with pytest.raises(DataError, match=words):
        prepare(name, **({"root": str(tmp_path), "out": str(tmp_path / "out")} | options))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("b\na\n", ("b", "a")),
        ("1 b\n2 a x\n", ("b", "a x")),
        ("id,name\n1,a\n0,b\n", ("b", "a")),
        ("b b\t0\na\t1\n", ("b b", "a")),
        ("Moving [something] left\nx\n", ("Moving something left", "x")),
        ("跳\n挥手\n", ("跳", "挥手")),
    ],
)
def test_label_maps(tmp_path, text, names):
    (tmp_path / "map.txt").write_text(text)
    assert read_label_map(str(tmp_path / "map.txt")) == names


@pytest.mark.parametrize("text", ["", "0 a\n2 b\n", "a\nA\n"])
def test_what_is_no_label_map(tmp_path, text):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(DataError, match="not a label map"):
        read_label_map(str(tmp_path / "map.txt"))
