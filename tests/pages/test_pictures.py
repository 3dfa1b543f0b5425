"""Contact sheets and overlay videos of clips with one moving square."""

from pathlib import Path

import numpy as np
import pytest
from clips import FPS, frames_of_square, write_video
from PIL import Image

from mdtnet.config import SaliencyConfig
from mdtnet.data.video import probe, read_clip
from mdtnet.errors import ConfigError, VideoError
from mdtnet.pages.pictures import VARIANTS, draw_saliency, enhanced, read_key_frames
from mdtnet.pages.sheet import PANEL_HEIGHT, heat


def shrunk(frames: np.ndarray) -> np.ndarray:
    """Means of 4 x 4 pixels, [n, H, W, 3] -> [n, H/4, W/4, 3]."""
    n, height, width, _ = frames.shape
    return frames.reshape(n, height // 4, 4, width // 4, 4, 3).mean((2, 4))


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "square.mp4", frames_of_square(30))


def test_key_frames_are_salient_where_the_square_is(clip):
    found = read_key_frames(clip, saliency=SaliencyConfig(), num_segments=4)
    assert found.num_frames == 30
    assert found.frames.shape == (4, 256, 384, 3)
    for index, salience in zip(found.indices, found.salience):
        left = 4 * (4 + 2 * index)
        assert salience[80:160, left : left + 80].mean() > 5 * salience[200:].mean()


def test_part_of_a_video(clip):
    found = read_key_frames(clip, saliency=SaliencyConfig(), num_segments=2, start=1.0, end=2.0)
    assert found.num_frames == FPS
    whole, _ = read_clip(clip, lambda n: found.indices + FPS)
    assert np.abs(shrunk(found.frames) - whole).mean() < 3


@pytest.mark.parametrize("name", ["sheet.png", "sheet.jpg", "deep/folder/SHEET.PNG"])
def test_contact_sheet(clip, tmp_path, name):
    out = draw_saliency(clip, tmp_path / name, num_segments=5)
    sheet = Image.open(out)
    assert sheet.format == ("JPEG" if name.endswith("jpg") else "PNG")
    assert sheet.height > 3 * PANEL_HEIGHT
    assert sheet.width > 5 * PANEL_HEIGHT * 96 / 64
    assert [p.name for p in out.parent.iterdir() if p.name.startswith(".")] == []


def test_contact_sheet_of_a_dark_video(tmp_path):
    dark = write_video(tmp_path / "dark.avi", frames_of_square(30) // 8, codec="ffv1", pixels="bgr0")
    shown = {}
    for name, options in {"plain": {}, "exposed": {"exposure": "gamma"}, "stride": {"frame_stride": 3}}.items():
        picture = Image.open(draw_saliency(dark, tmp_path / f"{name}.png", num_segments=2, **options))
        shown[name] = np.asarray(picture)[64 : 64 + PANEL_HEIGHT].astype(int)  # key frames
    assert shown["exposed"].mean() > shown["plain"].mean() + 20
    assert np.abs(shown["stride"] - shown["plain"]).max() > 10
    for options in ({"exposure": "gamma"}, {"frame_stride": 3}, {"all_variants": True}):
        with pytest.raises(ConfigError, match="are for contact sheets, expected"):
            draw_saliency(dark, tmp_path / "x.mp4", **options)
    with pytest.raises(ConfigError, match="frame_stride is 0, expected at least 1"):
        draw_saliency(dark, tmp_path / "x.png", frame_stride=0)


def test_overlay_shows_every_frame_beside_its_salience(clip, tmp_path):
    out = draw_saliency(clip, tmp_path / "out.mp4")
    info = probe(out)
    assert (info.codec, info.num_frames, info.fps) == ("h264", 30, FPS)
    assert (info.height, info.width) == (256, 3 * 384)
    shown, _ = read_clip(out, np.arange)
    source, _ = read_clip(clip, np.arange)
    assert np.abs(shrunk(shown[:, :, :384]) - source).mean() < 3
    light = shown[:, :, 384:768].sum(-1, dtype=int)  # the salience panel
    for i in (0, 7, 15, 16, 17, 29):  # at the ends and where chunks meet
        left = 4 * (4 + 2 * i)
        assert light[i, 80:160, left : left + 80].mean() > 3 * light[i, :40].mean()


@pytest.mark.parametrize("num_frames", [1, 2, 4, 16, 21])
def test_overlay_of_short_and_oddly_sized_videos(tmp_path, num_frames):
    frames = frames_of_square(num_frames, 65, 97)
    clip = write_video(tmp_path / "odd.avi", frames, codec="ffv1", pixels="bgr0")
    info = probe(draw_saliency(clip, tmp_path / "out.mp4"))
    assert info.num_frames == num_frames
    assert info.height % 2 == info.width % 2 == 0


def test_folder_of_frames_and_a_long_strip(tmp_path):
    (tmp_path / "frames").mkdir()
    for i, frame in enumerate(frames_of_square(9, 32, 600)):
        Image.fromarray(frame[:2]).save(tmp_path / "frames" / f"{i}.png")
    assert probe(draw_saliency(tmp_path / "frames", tmp_path / "out.mp4")).width == 3 * 8 * 256
    assert draw_saliency(tmp_path / "frames", tmp_path / "out.png").is_file()


def test_existing_pictures_are_replaced_whole(clip, tmp_path):
    for name in ("out.png", "out.mp4"):
        (tmp_path / name).write_bytes(b"old")
        draw_saliency(clip, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


def test_wrong_outputs(clip, tmp_path):
    with pytest.raises(ConfigError, match=r"'.bmp', expected .png, .jpg, .jpeg \(contact sheet\) or .mp4"):
        draw_saliency(clip, tmp_path / "x.bmp")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        draw_saliency(clip, tmp_path / "folder.png")
    with pytest.raises(ConfigError, match="is the source itself"):
        draw_saliency(clip, clip)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="its folder cannot be made"):
        draw_saliency(clip, tmp_path / "file" / "x.png")
    with pytest.raises(ConfigError, match="frames_per_segment is 1"):
        draw_saliency(clip, tmp_path / "x.mp4", frames_per_segment=1)


def test_unreadable_source_leaves_nothing_and_keeps_what_is_there(tmp_path):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video" * 100)
    (tmp_path / "out.mp4").write_bytes(b"old")
    for name in ("out.png", "out.mp4"):
        with pytest.raises(VideoError):
            draw_saliency(bad, tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.mp4", "out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"old"


def test_enhanced_frames_keep_salient_pixels_and_fade_the_others():
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    full = np.ones((2, 8, 8), dtype=np.float32)
    assert np.array_equal(enhanced(frames, full, floor=0.5), frames)
    assert np.array_equal(enhanced(frames, 0 * full, floor=1.0), frames)
    faded = enhanced(frames, 0 * full, floor=0.5)
    assert faded.std() == pytest.approx(frames.std() / 2, rel=0.1)
    assert heat(frames, full).mean() > heat(frames, 0 * full).mean() + 50


def test_the_key_frame_is_the_networks_or_the_last_of_a_shorter_segment(clip):
    def first_key(**options):
        return int(read_key_frames(clip, saliency=SaliencyConfig(), num_segments=2, **options).indices[0])

    assert [first_key(frames_per_segment=k) - first_key(frames_per_segment=k, key_frame=0) for k in (2, 4, 5)] == [
        1,
        3,
        3,
    ]
    assert first_key(key_frame=1) - first_key(key_frame=0) == 1


def test_all_variants_on_one_sheet(clip, tmp_path):
    assert set(VARIANTS) == {"amplitude", "phase", "spectral_residual", "difference", "without_scene"}
    one = Image.open(draw_saliency(clip, tmp_path / "one.png", num_segments=2))
    every = Image.open(draw_saliency(clip, tmp_path / "all.png", num_segments=2, all_variants=True))
    row = PANEL_HEIGHT + 4
    assert every.height - one.height == 8 * row  # two rows more for each of four variants more
    first, second = (np.asarray(every)[60 + k * row :][:PANEL_HEIGHT, -500:] for k in (1, 3))
    assert (first != second).mean() > 0.05  # amplitude is not phase
    with pytest.raises(ConfigError, match="are for contact sheets, expected"):
        draw_saliency(clip, tmp_path / "all.mp4", all_variants=True)
