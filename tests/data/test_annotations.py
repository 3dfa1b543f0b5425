"""Folders and lists become the right samples, and every mistake in them one clear line."""

import os
import pickle

import numpy as np
import pytest

from mdtnet.data.annotations import Texts, VideoList, describe, load_videos
from mdtnet.data.splits import split_by_group
from mdtnet.errors import DataError


def touch(folder, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def rows_of(videos: VideoList) -> list[tuple[str, str]]:
    return [(videos.name(i), videos.classes[videos[i].label]) for i in range(len(videos))]


def write_list(folder, text: str) -> str:
    touch(folder, "a.mp4", "b.mp4", "c 1.mp4", "a, b.mp4")
    (folder / "list.txt").write_bytes(text.encode())
    return str(folder / "list.txt")


def test_folder_of_class_folders(tmp_path):
    touch(
        tmp_path,
        "walk/2.mp4",
        "walk/10.avi",
        "run/x.MP4",
        "run/frames/0.jpg",
        "run/empty/notes.txt",
        ".git/a.mp4",
    )
    touch(tmp_path, "walk/notes.txt", "README.md")
    touch(tmp_path, "walk/._2.mp4", "run/empty/._0.jpg")  # macOS writes them
    videos = load_videos(str(tmp_path))
    assert videos.classes == ("run", "walk")
    assert rows_of(videos) == [
        ("run/frames", "run"), ("run/x.MP4", "run"), ("walk/10.avi", "walk"), ("walk/2.mp4", "walk"),
    ]  # fmt: skip
    assert videos[2].path == str(tmp_path / "walk" / "10.avi")
    assert videos.labels.dtype == np.int64
    assert describe(videos) == "4 videos, 2 classes: run 2, walk 2"


@pytest.mark.parametrize(
    "text",
    [
        "a.mp4 run\nb.mp4 walk\n",
        "a.mp4\trun\r\nb.mp4\twalk\r\n",
        '\ufeffa.mp4,run\n\n# a comment, with a "quote\nb.mp4,walk',
        "path,label\na.mp4,run\nb.mp4,walk\n",
        "label\tgroup\tvideo\nrun\tg1\ta.mp4\nwalk\tg2\tb.mp4\n",
        "a.mp4   run \nb.mp4 walk\n",
    ],
)
def test_list_formats(tmp_path, text):
    videos = load_videos(write_list(tmp_path, text))
    assert rows_of(videos) == [("a.mp4", "run"), ("b.mp4", "walk")]
    assert videos[1].path == str(tmp_path / "b.mp4")
    assert videos[1].start is None


def test_paths_with_spaces_and_separators(tmp_path):
    text = '"a, b.mp4",put down\nc 1.mp4,pick up\n'
    assert rows_of(load_videos(write_list(tmp_path, text))) == [
        ("a, b.mp4", "put down"),
        ("c 1.mp4", "pick up"),
    ]
    text = "c 1.mp4\tpick up\na, b.mp4\tput down\n"
    assert rows_of(load_videos(write_list(tmp_path, text))) == [
        ("c 1.mp4", "pick up"),
        ("a, b.mp4", "put down"),
    ]


def test_numbers_as_labels(tmp_path):
    videos = load_videos(write_list(tmp_path, "a.mp4 2\nb.mp4 0\n"))
    assert videos.classes == ("0", "1", "2")
    assert videos.labels.tolist() == [2, 0]
    (tmp_path / "classes.txt").write_text("0 jump\n1 run\n2 sit\n")
    videos = load_videos(write_list(tmp_path, "a.mp4 2\nb.mp4 run\n"), classes=str(tmp_path / "classes.txt"))
    assert rows_of(videos) == [("a.mp4", "sit"), ("b.mp4", "run")]


def test_validation_uses_the_classes_of_training(tmp_path):
    videos = load_videos(write_list(tmp_path, "a.mp4 walk\nb.mp4 walk\n"), classes=("jump", "run", "walk"))
    assert videos.labels.tolist() == [2, 2]
    touch(tmp_path, "val/run/1.mp4", "val/walk/1.mp4")
    assert load_videos(str(tmp_path / "val"), classes=("walk", "jump", "run")).labels.tolist() == [2, 0]


def test_frame_folders(tmp_path):
    touch(tmp_path, "100218/1.jpg", "7/1.jpg")
    (tmp_path / "l.txt").write_text("100218 42 1\n7 57 0\n")
    videos = load_videos(str(tmp_path / "l.txt"))
    assert rows_of(videos) == [("100218", "1"), ("7", "0")]
    (tmp_path / "l.csv").write_text("frame_folder,num_frames,label\n100218,42,Pushing it\n7,57,Pulling it\n")
    assert rows_of(load_videos(str(tmp_path / "l.csv")))[0] == ("100218", "Pushing it")


def test_parts_of_videos(tmp_path):
    text = "path,label,start,end\na.mp4,run,0.5,2\na.mp4,walk,,3\nb.mp4,walk\n"
    videos = load_videos(write_list(tmp_path, text))
    assert [(v.start, v.end) for v in videos] == [(0.5, 2.0), (None, 3.0), (None, None)]
    assert [videos.name(i) for i in range(3)] == ["a.mp4@0.5-2", "a.mp4@0-3", "b.mp4"]
    assert load_videos(write_list(tmp_path, "a.mp4 run 1 2.5\nb.mp4 walk 0 1\n"))[0].end == 2.5


def test_another_root(tmp_path):
    touch(tmp_path, "videos/x.mp4")
    path = write_list(tmp_path, f"x.mp4 run\n{tmp_path}/a.mp4 walk\n")
    videos = load_videos(path, root=str(tmp_path / "videos"))
    assert [v.path for v in videos] == [str(tmp_path / "videos" / "x.mp4"), str(tmp_path / "a.mp4")]


def test_names_of_files_need_not_be_utf8_but_classes_must(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        touch(tmp_path, name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    (tmp_path / "list.csv").write_bytes(b"caf\xe9.mp4,run\ncaf\xe9.mp4,walk\n")
    assert load_videos(str(tmp_path / "list.csv"))[0].path == str(tmp_path / name)
    (tmp_path / "list.csv").write_bytes(b"caf\xe9.mp4,run\ncaf\xe9.mp4,caf\xe9\n")
    with pytest.raises(DataError, match=r"list\.csv: not a text file in UTF-8"):
        load_videos(str(tmp_path / "list.csv"))


def test_videos_are_looked_for_where_they_are_opened(tmp_path):
    """A list in a linked folder, with `..` in its paths."""
    touch(tmp_path, "far/away/lists/x.mp4", "far/away/there.mp4", "here.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away" / "lists")
    path = tmp_path / "link" / "list.csv"
    path.write_text("path,label\n../here.mp4,a\n../here.mp4,b\n")
    assert load_videos(str(path))[0].path == str(tmp_path / "here.mp4")
    path.write_text("path,label\n../there.mp4,a\n../there.mp4,b\n")
    with pytest.raises(DataError, match=rf"looked for {tmp_path}/there\.mp4"):
        load_videos(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the list is empty"),
        ("# only this\n\n", "the list is empty"),
        ("path,label\n", "the list is empty"),
        ("a.mp4\nb.mp4\n", "a path and a label"),
        ("a.mp4 run\nb.mp4 run\n", "only one class, 'run'"),
        ("a.mp4 0\n\nb.mp4 -1\n", "row 3: label -1 is out of range"),
        ("a.mp4 0\nb.mp4 walk\n", "row 2: label 'walk' is a name, others are numbers"),
        ("a.mp4 0\nb.mp4 99999999999\n", "row 2: label 99999999999 is out of range"),
        ("a.mp4 0\nb.mp4 1 2 3 4\n", "row 2 has 5 columns, expected 2"),
        ("a.mp4 x run y\n", "row 1 has 4 columns"),
        ("path,label,start,end\na.mp4,0,2,1\nb.mp4,1,,", "row 2: the part from 2 s to 1 s is empty"),
        ("path,label,start,end\na.mp4,0,soon,1\nb.mp4,1,,", "row 2: start and end are 'soon' and '1'"),
        ("x.mp4 0\ny.mp4 1\n", "none of the first 2 videos is there"),
        ("a\0b 1\n", "not a text file"),
    ],
)
def test_mistakes_in_lists(tmp_path, text, message):
    path = write_list(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        load_videos(path)
    assert "list.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_that_are_no_classes(tmp_path):
    names = ("jump", "run", "walk")
    with pytest.raises(DataError, match=r"row 2: label 3 is out of range, there are 3 classes \(0 to 2\)"):
        load_videos(write_list(tmp_path, "a.mp4 0\nb.mp4 3\n"), classes=names)
    with pytest.raises(DataError, match=r"row 1: label 'walks' .* did you mean 'walk'"):
        load_videos(write_list(tmp_path, "a.mp4 walks\nb.mp4 run\n"), classes=names)
    touch(tmp_path, "f/runn/1.mp4", "f/walk/1.mp4")
    with pytest.raises(DataError, match=r"folder 'runn' .* did you mean 'run'"):
        load_videos(str(tmp_path / "f"), classes=names)


def test_mistakes_in_folders(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        load_videos(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no class folders"):
        load_videos(str(tmp_path))
    touch(tmp_path, "run/1.mp4")
    with pytest.raises(DataError, match="only one class, 'run'"):
        load_videos(str(tmp_path))
    touch(tmp_path, "walk/notes.txt")
    with pytest.raises(DataError, match="class folder 'walk' has no videos"):
        load_videos(str(tmp_path))
    (tmp_path / "names.txt").write_text("run\nrun\n")
    with pytest.raises(DataError, match="class 'run' is named twice"):
        load_videos(str(tmp_path), classes=str(tmp_path / "names.txt"))
    (tmp_path / "v.avi").write_bytes(bytes([0, 255, 254, 10]) * 9)
    with pytest.raises(DataError, match="not a text file"):
        load_videos(str(tmp_path / "v.avi"))


def many_videos(count: int, num_classes: int, num_groups: int) -> VideoList:
    labels = np.arange(count) % num_classes
    names = Texts.of(f"c{label}/{i}_{i * 7 % num_groups}.avi" for i, label in enumerate(labels))
    return VideoList(tuple(f"c{c}" for c in range(num_classes)), labels, "/data", names, np.arange(count))


def test_groups_are_never_split():
    videos = many_videos(200, 4, 25)
    train, val = split_by_group(videos, fraction=0.2, seed=3, group=r"_(\d+)\.avi$")
    groups = [{v.path.rsplit("_", 1)[1] for v in part} for part in (train, val)]
    assert not groups[0] & groups[1]
    assert len(groups[1]) == 5
    assert sorted([*map(train.name, range(len(train))), *map(val.name, range(len(val)))]) == sorted(
        map(videos.name, range(200))
    )
    again = split_by_group(videos, fraction=0.2, seed=3, group=r"_(\d+)\.avi$")[1]
    assert [v.path for v in again] == [v.path for v in val]
    assert {v.path for v in split_by_group(videos, fraction=0.2, seed=4)[1]} != {v.path for v in val}


def test_split_without_groups_keeps_the_proportions():
    train, val = split_by_group(many_videos(200, 4, 25), fraction=0.2, seed=0)
    assert np.bincount(val.labels).tolist() == [10] * 4
    assert train.classes == val.classes


def test_split_keeps_every_class_in_training(tmp_path):
    text = "path,label,group\na.mp4,run,g1\nb.mp4,run,g2\nc 1.mp4,walk,g3\na.mp4,jump,g1\n"
    for seed in range(10):
        train, val = split_by_group(load_videos(write_list(tmp_path, text)), fraction=0.6, seed=seed)
        assert set(train.labels) == {0, 1, 2}
        assert {v.group for v in val} == {"g2"}


def test_mistakes_in_groups(tmp_path):
    videos = many_videos(8, 2, 4)
    with pytest.raises(DataError, match=r"has no .* that matches 'c0/0_0.avi'"):
        split_by_group(videos, fraction=0.2, seed=0, group=r"g(\d+)")
    with pytest.raises(DataError, match="not a regular expression"):
        split_by_group(videos, fraction=0.2, seed=0, group="(")
    with pytest.raises(DataError, match="too few to hold some out for validation"):
        split_by_group(videos, fraction=0.2, seed=0, group=r"\.(avi)$")


def test_an_index_is_small_and_travels_to_workers():
    videos = many_videos(100_000, 400, 10)
    data = pickle.dumps(videos)
    assert len(data) < 100_000 * 50
    assert rows_of(pickle.loads(data).subset([99_999]))[0][0] == videos.name(99_999)


def test_real_data_sets(shared):
    folder = shared / "data" / "ut_interaction" / "set1"
    videos = load_videos(str(folder))
    assert len(videos) == 60
    train, val = split_by_group(videos, fraction=0.2, seed=0, group=r"_(\d+)_\d+\.avi$")
    assert len(train) + len(val) == 60
    arid = shared / "data" / "arid6"
    names = str(arid / "mapping_table_23.txt")
    for half, count in [("train", 150), ("validate", 96)]:
        videos = load_videos(str(arid / f"{half}.txt"), root=str(arid / half), classes=names)
        assert len(videos) == count
        assert videos.classes == ("Jump", "Run", "Sit", "Stand", "Turn", "Walk")
