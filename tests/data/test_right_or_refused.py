"""No silent wrong answer: each input that once gave one is read right, or refused with its reason."""

import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from mdtnet.config import DataConfig, EvalConfig
from mdtnet.data import container
from mdtnet.data.annotations import load_videos
from mdtnet.data.container import Part
from mdtnet.data.dataset import ClipDataset, make_loader
from mdtnet.data.folders import find_videos
from mdtnet.data.frames import cached_frames
from mdtnet.data.images import frame_files, read_image
from mdtnet.data.splits import load_split
from mdtnet.data.video import Request, probe, read_clip, read_frames
from mdtnet.errors import DataError, VideoError


@pytest.fixture
def cases(shared) -> Path:
    return shared / "cases"


def pictures(folder: Path, *names: str) -> Path:
    """A folder of grey pictures, each a little brighter than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.new("RGB", (40, 32), (10 + 5 * i,) * 3).save(folder / name)
    return folder


def write_video(path: Path, frames: np.ndarray, *, codec: str = "libx264", pixels: str = "yuv420p", **options) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.time_base = pixels, Fraction(1, 10)
        stream.options = options
        for frame in frames:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())
    return path


def moving_square(count: int = 20) -> np.ndarray:
    frames = np.full((count, 48, 64, 3), 40, dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[8:24, 2 * i : 2 * i + 16] = 220
    return frames


# Folders of frames


def test_flow_beside_frames_is_left_alone(cases):
    folder = cases / "frames/img_and_flow"
    assert frame_files(str(folder)) == [f"img_{i:05d}.jpg" for i in range(1, 21)]
    assert probe(folder).num_frames == 20
    assert frame_files(str(folder), "flow_x_*") == [f"flow_x_{i:05d}.jpg" for i in range(1, 20)]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["img_1.jpg", "img_2.jpg", "depth_1.png", "depth_2.png"], 2),
        (["1.jpg", "2.jpg", "cover.jpg"], 2),
        (["1.jpg", "2.jpg", "3.jpg", "thumb_1.jpg", "thumb_2.jpg"], 3),
        (["frame.jpg", "other.jpg"], 2),
        (["flow_x_1.jpg", "flow_x_2.jpg"], 2),
    ],
)
def test_the_only_sequence_of_colour_pictures_is_taken(tmp_path, names, kept):
    found = frame_files(str(pictures(tmp_path, *names)))
    assert found == sorted(names if kept == len(names) else [n for n in names if n[:3] in ("img", "1.j", "2.j", "3.j")])


@pytest.mark.parametrize(
    "names",
    [
        ["left_1.jpg", "left_2.jpg", "right_1.jpg", "right_2.jpg"],
        ["cam1_0001.jpg", "cam1_0002.jpg", "cam2_0001.jpg", "cam2_0002.jpg"],
    ],
)
def test_several_sequences_are_refused_by_name_and_chosen_by_a_pattern(tmp_path, names):
    folder = pictures(tmp_path, *names)
    with pytest.raises(VideoError, match=rf"2 sequences of pictures, {names[0]} to {names[1]} \(2\), .*frame_pattern"):
        frame_files(str(folder))
    assert frame_files(str(folder), f"{names[2][:4]}*") == names[2:]
    with pytest.raises(VideoError, match=r"none of its 4 pictures matches data.frame_pattern 'x\*'"):
        frame_files(str(folder), "x*")


@pytest.mark.parametrize(
    "names",
    [
        ["0.25.png", "0.5.png", "1.png", "1.25.png"],
        ["f-3.png", "f-1.png", "f2.png", "f10.png"],
        ["img-001.png", "img-002.png"],
        ["shot1.8.png", "shot1.9.png", "shot1.10.png"],
        ["frame_9_t0.3.png", "frame_10_t0.33.png", "frame_11_t0.4.png"],
        ["٩.png", "١٠.png"],
    ],
    ids=str,
)
def test_numbers_in_names_are_decimals_have_signs_and_digits_of_any_script(tmp_path, names):
    assert frame_files(str(pictures(tmp_path, *names[::-1]))) == names


def test_seconds_as_names_ascend(cases):
    pixels, _ = read_clip(cases / "frames/seconds_as_names", np.arange)
    brightness = pixels.reshape(len(pixels), -1).mean(1)
    assert (np.diff(brightness) > 0).all()


@pytest.mark.parametrize("names", [("1.jpg", "01.jpg", "2.jpg"), ("1.jpg", "١.jpg")])
def test_two_frames_of_one_number_are_refused(cases, tmp_path, names):
    with pytest.raises(VideoError, match=r"frames \S+ and \S+ have the same number"):
        read_clip(pictures(tmp_path, *names), np.arange)
    with pytest.raises(VideoError, match=r"2 sequences of pictures, .*²1\.jpg \(1\)"):
        read_clip(cases / "attack/frames_digits", np.arange)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no fifos")
def test_a_fifo_is_no_frame_and_no_video(tmp_path):
    folder = pictures(tmp_path / "frames", "2.jpg", "3.jpg")
    os.mkfifo(folder / "1.jpg")
    assert frame_files(str(folder)) == ["2.jpg", "3.jpg"]
    os.mkfifo(tmp_path / "v.mp4")
    for name in ("v.mp4", "frames/1.jpg"):
        with pytest.raises(VideoError, match="not a regular file"):
            read_clip(tmp_path / name, np.arange)


def test_a_list_says_how_many_frames_a_folder_has(tmp_path):
    for name in ("a", "b"):
        pictures(tmp_path / name, "1.jpg", "2.jpg", "3.jpg")
    (tmp_path / "list.txt").write_text("a 3 0\nb 5 1\n")
    videos = load_videos(str(tmp_path / "list.txt"))
    data = DataConfig(num_segments=2, short_side=32, size=24)
    dataset = ClipDataset(videos, data, frames_per_segment=1, train=True)
    assert [dataset[i]["error"] for i in (0, 1)] == ["", "3 frames are there, its list says 5"]


# Pixels


def test_pictures_of_16_bits_are_scaled(cases, tmp_path):
    pixels, _ = read_clip(cases / "frames/png16", np.arange)
    assert pixels.min() == 0
    assert pixels.max() == 255
    assert len(np.unique(pixels[0, 0])) == pixels.shape[2] == 64  # a ramp, one level per column
    Image.fromarray(np.array([[0, 257, 65535]], dtype=np.uint16)).save(tmp_path / "1.png")
    assert read_image(str(tmp_path / "1.png"))[0, :, 0].tolist() == [0, 1, 255]


def test_float_pictures_are_scaled_or_refused(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)).save(tmp_path / "1.tiff")
    assert read_image(str(tmp_path / "1.tiff"))[0, :, 0].tolist() == [0, 128, 255]
    Image.fromarray(np.array([[0, 300]], dtype=np.float32)).save(tmp_path / "2.tiff")
    with pytest.raises(VideoError, match=r"2\.tiff: not a picture"):
        read_image(str(tmp_path / "2.tiff"))


def corners(path: Path) -> str:
    """Colours of the corners of the first frame: top left, top right, bottom left, bottom right; - is dark."""
    frame = read_clip(path, lambda n: np.array(0))[0]
    found = [frame[y, x] for y in (4, -5) for x in (4, -5)]
    return " ".join("RGB"[int(c.argmax())] if c.max() > 100 else "-" for c in found)


def test_mirrors_and_turns_are_those_of_players(cases):
    assert corners(cases / "video/corner_hflip.mp4") == "G R - B"
    assert corners(cases / "video/corner_rot180.mp4") == "- B G R"
    info = probe(cases / "video/corner_hflip.mp4")
    assert (info.mirrored, info.rotation, info.height, info.width) == (True, 0, 64, 96)


def test_colour_of_full_resolution_stays_in_place(tmp_path):
    frames = np.zeros((3, 32, 48, 3), dtype=np.uint8)
    frames[:, :, :24, 0], frames[:, :, 24:, 2] = 255, 255
    path = write_video(tmp_path / "v.mp4", frames, pixels="yuv444p", qp="0")
    pixels, _ = read_clip(path, np.arange)
    assert np.abs(pixels.astype(int) - frames).mean() < 1  # 3 where chroma is two pixels off


def test_animations_that_ffmpeg_reads_wrong_are_refused(tmp_path):
    pages = [Image.new("RGB", (32, 32), (i * 40,) * 3) for i in range(4)]
    for kind in ("webp", "avif", "png"):
        path = tmp_path / f"1.{kind}"
        try:
            pages[0].save(path, save_all=True, append_images=pages[1:])
        except (KeyError, OSError):
            continue  # this Pillow cannot write it
        with pytest.raises(VideoError, match="convert it to a video first"):
            read_clip(path, np.arange)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    folder = pictures(tmp_path / "frames", "1.png")
    Image.new("1", (30_000, 30_000)).save(folder / "2.png")
    with pytest.raises(VideoError, match=r"frame 2\.png has too many pixels"):
        read_clip(folder, np.arange)
    monkeypatch.setattr(container, "MAX_PIXELS", 100)
    with pytest.raises(VideoError, match="frames of 64 x 48 pixels, more than 100 are not read"):
        read_clip(write_video(tmp_path / "v.mp4", moving_square()), np.arange)


# Streams, names, damage


def test_the_best_stream_is_read(cases):
    info = probe(cases / "video/cover_first.mkv")
    assert (info.num_frames, info.width, info.codec) == (60, 96, "h264")


def test_names_are_names(cases, tmp_path, monkeypatch):
    for name in ("http:127.0.0.1:8765?clip.mp4", "concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:x.mp4"):
        shutil.copy(cases / "attack/clip.mp4", tmp_path / name)
        assert probe(tmp_path / name).num_frames == 24
    monkeypatch.chdir(tmp_path)
    assert probe("http:127.0.0.1:8765?clip.mp4").num_frames == 24


def test_a_pattern_of_numbers_is_one_file(cases, tmp_path):
    pixels, _ = read_clip(cases / "attack/pattern/img%03d.png", np.arange)
    with av.open(str(cases / "attack/pattern/img%03d.png"), format="mov") as whole:
        expected = [frame.to_ndarray(format="rgb24") for frame in whole.decode(video=0)]
    np.testing.assert_array_equal(pixels, expected)
    pictures(tmp_path, "f000.png", "f001.png", "f%03d.png")
    assert probe(tmp_path / "f%03d.png").num_frames == 1


@pytest.mark.parametrize(
    "text",
    ["ffconcat version 1.0\nfile clip.mp4\n", "#EXTM3U\n#EXTINF:1,\nclip.mp4\n", '<?xml version="1.0"?><MPD></MPD>'],
)
def test_playlists_are_refused(cases, tmp_path, text):
    shutil.copy(cases / "attack/clip.mp4", tmp_path)
    (tmp_path / "list.mp4").write_text(text)
    for path in (tmp_path / "list.mp4", cases / "attack/playlist/cc_rel.mp4"):
        with pytest.raises(VideoError, match="a playlist, which names other files"):
            probe(path)


def test_a_bad_packet_costs_its_frame_and_is_counted(cases):
    path = cases / "video/one_bad_packet.mp4"
    info = probe(path)
    assert (info.num_frames, info.damaged, info.total, info.missing) == (118, 2, 120, 0)
    reading = read_frames(Part(str(path)), Request(np.arange))
    assert (len(reading.pixels), reading.num_frames, reading.damaged, reading.decoded) == (118, 118, 2, 120)


def test_a_file_cut_short_is_counted(tmp_path):
    whole = write_video(tmp_path / "v.mp4", moving_square(60), g="5", bf="0")
    with (
        av.open(str(tmp_path / "fast.mp4"), "w", options={"movflags": "faststart"}) as out,
        av.open(str(whole)) as source,
    ):
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    data = (tmp_path / "fast.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 2 // 3])
    info = probe(tmp_path / "cut.mp4")
    assert 0 < info.num_frames < 60
    assert info.total == 60
    assert info.damaged == 60 - info.num_frames


def test_several_threads_give_the_same_frames_of_a_damaged_file(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(container, "THREADS_FROM_PIXELS", 1)
    monkeypatch.setattr(container.os, "cpu_count", lambda: 4)
    rng = np.random.default_rng(0)
    data = bytearray((cases / "video/one_bad_packet.mp4").read_bytes())
    data[len(data) // 3 : len(data) // 3 + 40] = rng.bytes(40)
    path = tmp_path / "v.mp4"
    path.write_bytes(data)
    many = read_frames(Part(str(path)), Request(np.arange))
    monkeypatch.setattr(container, "THREADS_FROM_PIXELS", 10**9)
    one = read_frames(Part(str(path)), Request(np.arange))
    assert many.damaged == one.damaged > 2
    np.testing.assert_array_equal(many.pixels, one.pixels)


@pytest.fixture
def half_damaged(cases, tmp_path):
    """A list of two videos, the first damaged."""
    shutil.copy(cases / "video/one_bad_packet.mp4", tmp_path / "bad.mp4")
    write_video(tmp_path / "good.mp4", moving_square())
    (tmp_path / "list.csv").write_text("bad.mp4,a\ngood.mp4,b\n")
    return load_videos(str(tmp_path / "list.csv"))


SMALL = {"num_segments": 3, "short_side": 32, "size": 24}


@pytest.mark.parametrize("cached", [False, True])
def test_damaged_training_videos_are_used_or_left_out(half_damaged, tmp_path, caplog, cached):
    for policy, used in (("use", [0, 1]), ("skip", [1])):
        data = DataConfig(**SMALL, on_damaged=policy, cache=str(tmp_path / "cache") if cached else "")
        dataset = ClipDataset(half_damaged, data, frames_per_segment=1, train=True)
        loader = make_loader(dataset, batch_size=2, shuffle=False, seed=0, workers=0)
        for epoch in (0, 1):
            loader.set_epoch(epoch)
            (batch,) = list(loader)
            assert batch["index"].tolist() == used
            assert batch["damaged"] == [(0, "2 of 120 frames")]
            assert batch["errors"] == []
    assert [r.message.partition(":")[0] for r in caplog.records] == ["damaged", "left out, damaged"]


@pytest.mark.parametrize("policy", ["use", "wrong", "exclude"])
def test_damaged_test_videos_are_used_or_unreadable(half_damaged, policy):
    test = EvalConfig(on_damaged=policy)
    dataset = ClipDataset(half_damaged, DataConfig(**SMALL), frames_per_segment=1, train=False, test=test)
    assert dataset[1]["damaged"] == ""
    assert dataset[0]["damaged"] == "2 of 120 frames"
    assert dataset[0]["error"] == ("" if policy == "use" else "damaged: 2 of 120 frames")


# Frame rates


def test_sampling_by_time_takes_half_of_the_frames_from_each_second(cases):
    path = str(cases / "video/vfr.mp4")
    every = read_frames(Part(path), Request(np.arange)).pixels  # 10 frames in the first second, 60 in the next
    by_time = read_frames(Part(path), Request(np.arange, fps=25))
    assert (len(every), by_time.num_frames) == (70, 50)
    of_first = [any((frame == other).all() for other in every[:10]) for frame in by_time.pixels]
    assert of_first == [True] * 25 + [False] * 25
    some = Request(lambda n: np.array([[0, 24], [25, n - 1]]), num_frames=50, fps=25)
    np.testing.assert_array_equal(read_frames(Part(path), some).pixels, by_time.pixels[[[0, 24], [25, 49]]])


@pytest.mark.parametrize("cached", [False, True])
def test_clips_of_two_frame_rates_show_the_same_times(tmp_path, cached):
    frames = moving_square(24)
    for name, step in (("slow", 2), ("fast", 1)):
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as out:
            stream = out.add_stream("ffv1", rate=20 // step)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "bgr0"
            for frame in frames[::step]:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="bgr0")))
            out.mux(stream.encode())
    (tmp_path / "list.csv").write_text("slow.mkv,a\nfast.mkv,b\n")
    videos = load_videos(str(tmp_path / "list.csv"))
    data = DataConfig(**SMALL, fps=10, cache=str(tmp_path / "cache") if cached else "")
    dataset = ClipDataset(videos, data, frames_per_segment=3, train=False)
    for _ in range(2):
        slow, fast = (dataset[i]["frames"] for i in (0, 1))
        assert (slow == fast).all()
    plain = ClipDataset(videos, DataConfig(**SMALL), frames_per_segment=3, train=False)
    assert (plain[0]["frames"] != plain[1]["frames"]).any()


def test_a_folder_has_no_times_to_sample_by(tmp_path):
    with pytest.raises(VideoError, match=r"no times: data\.fps cannot be used"):
        read_frames(Part(str(pictures(tmp_path, "1.jpg", "2.jpg"))), Request(np.arange, fps=25))


# Caches


def test_a_changed_byte_in_a_cache_is_found_on_first_use(half_damaged, tmp_path, caplog):
    data = DataConfig(**SMALL, cache=str(tmp_path / "cache"))
    expected = cached_frames(half_damaged[0], data)
    (path,) = (tmp_path / "cache").rglob("*.npy")
    content = bytearray(path.read_bytes())
    content[5000] ^= 4
    path.write_bytes(content)
    found = cached_frames(half_damaged[0], data)
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert (found.damaged, found.decoded) == (2, 120)
    assert "its checksum is wrong" in caplog.text
    caplog.clear()
    cached_frames(half_damaged[0], data)
    assert caplog.text == ""


@pytest.mark.parametrize("size", [0, 100, 5000, -1])
def test_a_cut_or_foreign_cache_file_is_made_again(half_damaged, tmp_path, size):
    data = DataConfig(**SMALL, cache=str(tmp_path / "cache"))
    expected = cached_frames(half_damaged[1], data).pixels.copy()
    (path,) = (tmp_path / "cache").rglob("*.npy")
    path.write_bytes(path.read_bytes()[:size])
    np.testing.assert_array_equal(cached_frames(half_damaged[1], data).pixels, expected)


# Lists


def labels_of(videos) -> list[str]:
    return [videos.label_text(i) for i in range(len(videos))]


def test_a_header_of_unknown_names_is_a_header(cases, caplog):
    caplog.set_level("INFO")
    videos = load_videos(str(cases / "lists/unknown_header.csv"))
    assert (len(videos), videos.classes) == (4, ("jump", "wave"))


def test_a_header_is_known_by_the_rows_below_it(tmp_path, cases, caplog):
    caplog.set_level("INFO")
    for name in ("v1.mp4", "v2.mp4"):
        shutil.copy(cases / "lists" / name, tmp_path)
    (tmp_path / "l.csv").write_text("gesture_id,recording\njump,v1.mp4\nwave,v2.mp4\n")
    assert labels_of(load_videos(str(tmp_path / "l.csv"))) == ["jump", "wave"]
    assert "read as: label, path" in caplog.text
    (tmp_path / "l.csv").write_text("gesture,recording,person\njump,v1.mp4,a\nwave,v2.mp4,b\n")
    with pytest.raises(DataError, match="is a header without a known name for the labels"):
        load_videos(str(tmp_path / "l.csv"))


def test_fields_are_stripped_and_classes_that_look_alike_are_told(cases, caplog):
    videos = load_videos(str(cases / "lists/spaces_and_case.csv"))
    assert videos.classes == ("Jump", "jump", "wave")
    assert "classes 'Jump' and 'jump' differ in case, spaces or Unicode form only" in caplog.text


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_number_of_frames_of_a_file_is_no_reading(cases, multi_label):
    with pytest.raises(DataError, match=r"row 1, v1\.mp4 0 3, reads as path, number of frames, label: .* 0\|3"):
        load_videos(str(cases / "lists/two_labels.txt"), multi_label=multi_label)


def write_list(folder: Path, text: str, *videos: str) -> str:
    for name in videos:
        (folder / name).touch()
    (folder / "list.txt").write_text(text)
    return str(folder / "list.txt")


def test_columns_without_a_header_are_stated_once(tmp_path, caplog):
    caplog.set_level("INFO")
    path = write_list(tmp_path, "a.mp4 jump 1:05 1:02:03.5\nb.mp4 wave 0 2.5\n", "a.mp4", "b.mp4")
    videos = load_videos(path)
    assert [(videos[i].start, videos[i].end) for i in (0, 1)] == [(65, 3723.5), (0, 2.5)]
    assert caplog.text.count("read as: path, label, start s, end s") == 1


def test_classes_without_videos_are_told_and_refused_in_training(tmp_path, caplog):
    path = write_list(tmp_path, "a.mp4 1\nb.mp4 2\n", "a.mp4", "b.mp4")
    assert load_videos(path).classes == ("0", "1", "2")
    assert "no video of '0'" in caplog.text
    with pytest.raises(DataError, match="no video of '0': a class without videos cannot be learned"):
        load_split(DataConfig(train=path))


def test_videos_in_training_and_validation_or_twice_in_a_list_are_told(tmp_path, caplog):
    train = write_list(tmp_path, "a.mp4 0\nb.mp4 1\na.mp4 0\n", "a.mp4", "b.mp4")
    (tmp_path / "val.txt").write_text("b.mp4 1\n")
    load_split(DataConfig(train=train, val=str(tmp_path / "val.txt")))
    assert "1 rows repeat a video of another row, such as 'a.mp4'" in caplog.text
    assert "1 videos are in training and validation: 'b.mp4'" in caplog.text


@pytest.mark.parametrize(("names", "warned"), [("sit_01_a{:02d}.mp4", True), ("sit_{}", False)])
def test_a_random_split_of_few_recordings_is_warned_of(tmp_path, caplog, names, warned):
    words = ["kite", "plum", "fern", "moss", "reed", "sage", "wren", "lark"]
    videos = [names.format(i if warned else f"{words[i]}.mp4") for i in range(8)]
    path = write_list(tmp_path, "".join(f"{v} {i % 2}\n" for i, v in enumerate(videos)), *videos)
    load_split(DataConfig(train=path))
    assert ("validation videos are drawn at random" in caplog.text) == warned
    caplog.clear()
    load_split(DataConfig(train=path, group=r"(\w+)"))
    assert "at random" not in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.mp4 " + "9" * 5000, "label 9+... is out of range"),
        ("a.mp4 -" + "9" * 5000, "label -9+... is out of range"),
        ("a.mp4 0 0 " + "9" * 50 + "\n", None),
        ("path,label,start\na.mp4,0,inf\n", "start and end are 'inf' and '', expected seconds"),
        ("path,label,start\na.mp4,0," + "9" * 500 + "\n", "expected seconds"),
        ("path,label,num_frames\na.mp4,0,x\n", "number of frames is 'x', expected a number"),
        ("path,label\na.mp4," + "x" * 200_000 + "\n", "field larger than field limit"),
        ("a.mp4 ²\nb.mp4 3\n", "label '²' is a name, others are numbers"),
        ("²1 ³ 0\n", "row 1 has 3 columns"),
    ],
    ids=range(9),
)
def test_fields_of_any_length_are_one_line(tmp_path, text, words):
    path = write_list(tmp_path, text, "a.mp4", "b.mp4")
    with pytest.raises(DataError) as caught:
        load_videos(path)
    assert words is None or re.search(words, str(caught.value))
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_a_label_of_very_many_digits_is_one_line(cases):
    with pytest.raises(DataError, match=r"hugelabel3.csv: row 2: label 9+\.\.\. is out of range"):
        load_videos(str(cases / "attack/lists/hugelabel3.csv"))


# Folders


def test_videos_are_found_behind_links(cases, tmp_path):
    shutil.copy(cases / "folders/with_link/0.mp4", tmp_path)
    (tmp_path / "a").symlink_to(cases / "folders/real")
    found = find_videos(str(tmp_path))
    assert found.videos == ["0.mp4", "a/0.mp4", "a/1.mp4", "a/2.mp4", "a/3.mp4"]


def test_folders_below_are_read_and_system_folders_are_not(tmp_path, caplog):
    for name in ("jump/a.mp4", "jump/more/b.MKV", "jump/@eaDir/a.mp4", "run/c.rmvb", "run/d.xyz", "__MACOSX/x.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    pictures(tmp_path / "run/frames", "1.jpg")
    (tmp_path / "run/loop").symlink_to(tmp_path / "run")
    videos = load_videos(str(tmp_path))
    assert videos.classes == ("jump", "run")
    assert [videos.name(i) for i in range(len(videos))] == ["jump/a.mp4", "jump/more/b.MKV", "run/c.rmvb", "run/frames"]
    assert "left out, not videos by their names: 1 .xyz" in caplog.text
