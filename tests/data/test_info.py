"""What a data set looks like, in figures and in pictures."""

from collections import Counter

import av
import numpy as np
import pytest
import tiny
from PIL import Image

from mdtnet.data.annotations import load_videos
from mdtnet.data.info import PER_CLASS, THUMBNAIL, DataInfo, contact_sheet, data_info, histogram
from mdtnet.errors import DataError


@pytest.fixture
def videos(tmp_path):
    folder = tiny.write_videos(tmp_path / "videos", per_class=2)
    (folder / "left/broken.mp4").write_bytes(b"nothing")
    return load_videos(str(folder))


def test_figures(videos):
    info = data_info(videos)
    assert info.counts == {"left": 3, "right": 2}
    assert (info.opened, info.unopened) == (4, 1)
    assert info.seconds == pytest.approx([1.0] * 4, abs=0.05)
    assert info.sizes == {(40, 32): 4}
    assert info.bytes > 4000


def test_histogram():
    lines = histogram(np.array([0.0] * 8 + [10.0] * 2), bins=2)
    assert [line.count("█") for line in lines] == [40, 10]
    assert [line.split()[3] for line in lines] == ["8", "2"]
    assert len(histogram(np.array([3.0, 3.0]))) == 1
    assert len(histogram(np.array([3.0, np.nextafter(3.0, 4.0)]))) == 1
    assert histogram(np.array([])) == []


def test_contact_sheet(videos, tmp_path):
    sheet = np.asarray(Image.open(contact_sheet(videos, tmp_path / "sheet.png")))
    width, height = THUMBNAIL
    assert sheet.shape == (2 * (height + 16), PER_CLASS * width, 3)
    places = [sheet[16 : 16 + height, x * width : (x + 1) * width] for x in range(4)]
    assert [place.std() > 20 for place in places] == [True, True, False, False]  # two videos, a broken one, none
    with pytest.raises(DataError, match="png"):
        contact_sheet(videos, tmp_path / "sheet.txt")


def test_a_mixture_of_frame_rates_and_interlaced_videos_are_noted(tmp_path):
    for name, fps in (("a", 10), ("b", 25), ("c", 25)):
        with av.open(str(tmp_path / f"{name}.mkv"), "w") as out:
            stream = out.add_stream("mpeg2video", rate=25) if name == "c" else out.add_stream("ffv1", rate=fps)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            if name == "c":
                stream.options = {"flags": "+ildct+ilme", "field_order": "tt"}
            for i in range(6):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
                out.mux(stream.encode(frame.reformat(format="yuv420p")))
            out.mux(stream.encode())
    (tmp_path / "list.csv").write_text("a.mkv,0\nb.mkv,1\nc.mkv,1\n")
    found = data_info(load_videos(str(tmp_path / "list.csv")))
    assert found.rates == {10: 1, 25: 2}
    assert found.interlaced == 1
    assert (
        found.notes()[0] == "frames per second differ: 10 (1 videos), 25 (2 videos); data.fps draws clips at one rate"
    )
    assert DataInfo({}, 2, 0, np.empty(0), Counter(), 0, Counter({29.97: 1, 30.0: 1})).notes() == []
    assert DataInfo({}, 2, 0, np.empty(0), Counter(), 0, interlaced=2).notes()[0].startswith("2 videos are interlaced")
