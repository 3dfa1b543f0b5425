"""What a data set looks like, in figures and in pictures."""

import numpy as np
import pytest
import tiny
from PIL import Image

from mdtnet.data.annotations import load_videos
from mdtnet.data.info import PER_CLASS, THUMBNAIL, contact_sheet, data_info, histogram
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
    assert histogram(np.array([])) == []


def test_contact_sheet(videos, tmp_path):
    sheet = np.asarray(Image.open(contact_sheet(videos, tmp_path / "sheet.png")))
    width, height = THUMBNAIL
    assert sheet.shape == (2 * (height + 16), PER_CLASS * width, 3)
    places = [sheet[16 : 16 + height, x * width : (x + 1) * width] for x in range(4)]
    assert [place.std() > 20 for place in places] == [True, True, False, False]  # two videos, a broken one, none
    with pytest.raises(DataError, match="png"):
        contact_sheet(videos, tmp_path / "sheet.txt")
