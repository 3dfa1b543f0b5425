"""Items depend on (seed, epoch, index) alone; unreadable videos are counted, never replaced."""

import logging
import os
from fractions import Fraction

import av
import clips
import numpy as np
import pytest
import torch
from PIL import Image

from mdtnet.config import DataConfig, EvalConfig
from mdtnet.data import frames as module
from mdtnet.data.annotations import load_videos
from mdtnet.data.dataset import ClipBatches, ClipDataset, collate, make_loader
from mdtnet.data.frames import cached_frames
from mdtnet.data.transforms import resize_short, views
from mdtnet.data.video import read_clip, read_frames
from mdtnet.errors import ConfigError, VideoError

SMALL = {"num_segments": 3, "short_side": 20, "size": 16}


def write_video(path, seed: int, count: int = 30, height: int = 24, width: int = 32) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    frames[:, :, :, 0] = np.arange(count)[:, None, None] * 8  # red is the frame number
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.height, stream.width, stream.pix_fmt = height, width, "bgr0"
        stream.time_base = Fraction(1, 10)
        for array in frames:
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two classes of four readable videos each."""
    folder = tmp_path_factory.mktemp("videos")
    for i in range(8):
        path = folder / ("run" if i % 2 else "walk") / f"{i}.mkv"
        path.parent.mkdir(exist_ok=True)
        write_video(path, i)
    return folder


@pytest.fixture
def broken(folder, tmp_path):
    """A list of the eight videos, the fourth and sixth unreadable."""
    (tmp_path / "empty.mkv").touch()
    rows = [f"{folder}/{'run' if i % 2 else 'walk'}/{i}.mkv,{i % 2}" for i in range(8)]
    rows[3], rows[5] = "empty.mkv,1", "missing.mkv,1"
    (tmp_path / "list.csv").write_text("\n".join(rows))
    return load_videos(str(tmp_path / "list.csv"))


def training(videos, *, k: int = 5, seed: int = 0, **options) -> ClipDataset:
    return ClipDataset(videos, DataConfig(**(SMALL | options)), frames_per_segment=k, train=True, seed=seed)


def loader_of(dataset: ClipDataset, workers: int = 0, **options):
    return make_loader(dataset, **({"batch_size": 3, "shuffle": True, "seed": 1, "workers": workers} | options))


def epoch_of(loader, epoch: int, **options) -> list[dict]:
    loader.set_epoch(epoch, **options)
    return list(loader)


def same(a: list[dict], b: list[dict]) -> bool:
    keys = ("frames", "label", "index")
    return len(a) == len(b) and all(torch.equal(x[key], y[key]) for x, y in zip(a, b) for key in keys)


def test_a_training_item(folder):
    dataset = training(load_videos(str(folder)))
    item = dataset[5]
    assert item["frames"].shape == (1, 3, 5, 3, 16, 16)
    assert item["frames"].dtype == torch.uint8
    assert (item["label"], item["index"], item["error"]) == (1, 5, "")
    numbers = item["frames"][0, :, :, 0, 0, 0]  # red, which resizing and cropping leave alone
    assert (numbers.diff(dim=1) == 8).all()


def test_items_change_with_epoch_and_seed_and_nothing_else(folder):
    videos = load_videos(str(folder))
    dataset = training(videos, color_jitter=0.2, crop="multiscale")
    first = dataset[2]["frames"]
    dataset[3]
    assert torch.equal(dataset[2]["frames"], first)  # also once the number of frames is known
    assert not torch.equal(training(videos, color_jitter=0.2, crop="multiscale", seed=1)[2]["frames"], first)
    dataset.set_epoch(1)
    assert not torch.equal(dataset[2]["frames"], first)
    dataset.set_epoch(0)
    assert torch.equal(dataset[2]["frames"], first)


def test_workers_change_nothing_and_follow_the_epoch(folder):
    videos = load_videos(str(folder))
    alone, shared_out = loader_of(training(videos)), loader_of(training(videos), workers=2)
    epochs = [epoch_of(alone, e) for e in (0, 1)]
    assert not same(*epochs)
    for e in (0, 1):
        assert same(epoch_of(shared_out, e), epochs[e])


def test_what_one_worker_learns_of_a_file_serves_all(tmp_path, monkeypatch):
    clips.write_video(tmp_path / "long.mp4", clips.frames_of_square(40))
    (tmp_path / "list.csv").write_text("path,label,start,end\nlong.mp4,a,0,1\nlong.mp4,b,1,2\nlong.mp4,a,2,3\n")
    loader = loader_of(training(load_videos(str(tmp_path / "list.csv"))), workers=2)
    before = epoch_of(loader, 0)
    monkeypatch.setattr("mdtnet.data.plan.scan", lambda *a: pytest.fail("its packets are read again"))
    monkeypatch.setattr("mdtnet.data.video.Decoder", lambda *a: pytest.fail("decoded from its start"))
    assert same(epoch_of(loader_of(loader.dataset), 0), before)


def test_starting_at_a_batch_skips_the_others_unread(folder, monkeypatch):
    loader = loader_of(training(load_videos(str(folder))))
    whole = epoch_of(loader, 4)
    read = []
    real = module.read_frames
    monkeypatch.setattr(module, "read_frames", lambda part, *a, **k: read.append(part) or real(part, *a, **k))
    assert same(epoch_of(loader, 4, start=2), whole[2:])
    assert len(read) == 2
    assert len(epoch_of(loader, 5)) == 3


def test_loading_leaves_the_global_generator_alone(folder):
    before = torch.random.get_rng_state()
    epoch_of(loader_of(training(load_videos(str(folder)))), 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_processes_share_the_batches_of_one():
    options = {"num_samples": 22, "shuffle": True, "seed": 3}
    one = list(ClipBatches(batch_size=8, **options))
    two = [list(ClipBatches(batch_size=4, rank=r, world=2, **options)) for r in range(2)]
    assert [sorted(a + b) for a, b in zip(*two)] == [sorted(batch) for batch in one]
    assert sorted(i for batch in one for i in batch) == list(range(22))
    assert len(list(ClipBatches(batch_size=8, drop_last=True, **options))) == 2
    assert list(ClipBatches(5, batch_size=2, shuffle=False, seed=0)) == [[0, 1], [2, 3], [4]]


def test_views(folder):
    videos = load_videos(str(folder))
    config = DataConfig(**SMALL)
    protocol = EvalConfig(clips=4, crops=3)
    dataset = ClipDataset(videos, config, frames_per_segment=5, train=False, test=protocol)
    frames = dataset[0]["frames"]
    assert frames.shape == (12, 3, 5, 3, 20, 20)
    clips = frames[:, :, :, 0].float().mean(dim=(-1, -2)).reshape(4, 3, -1)
    assert torch.allclose(clips, clips[:, :1], atol=1)  # the crops of a clip are the same frames
    assert len(np.unique(clips[:, 0].numpy(), axis=0)) == 4  # the clips are not
    dataset.set_epoch(1)
    assert torch.equal(dataset[0]["frames"], frames)
    one = ClipDataset(videos, config, frames_per_segment=1, train=False)
    assert one[0]["frames"].shape == (1, 3, 1, 3, 16, 16)


@pytest.mark.parametrize("crop", ["random", "multiscale"])
@pytest.mark.parametrize("size", [16, 24])  # smaller and larger than the short side
def test_only_the_crop_is_kept_with_the_same_result(folder, crop, size):
    videos = load_videos(str(folder))
    dataset = training(videos, crop=crop, size=size, color_jitter=0.2)
    frames, table = read_clip(videos[2].path, np.arange)[0], dataset._indices(2, 30)[0]
    clip = resize_short(torch.from_numpy(frames[table]).movedim(-1, 2), 20)
    assert torch.equal(dataset[2]["frames"][0], dataset.augment(clip, dataset._rng(2, 1)))


@pytest.mark.parametrize(("crops", "crop_size"), [(1, 0), (3, 0), (3, 17), (1, 40), (5, 0), (5, 17)])
def test_only_the_views_are_kept_with_the_same_result(folder, crops, crop_size):
    videos = load_videos(str(folder))
    test = EvalConfig(clips=2, crops=crops, crop_size=crop_size)
    dataset = ClipDataset(videos, DataConfig(**SMALL), frames_per_segment=5, train=False, test=test)
    frames = resize_short(torch.from_numpy(read_clip(videos[2].path, np.arange)[0]).movedim(-1, 1), 20)
    expected = [views(frames[t], crops=crops, crop_size=dataset.crop_size) for t in dataset._indices(2, 30)]
    assert torch.equal(dataset[2]["frames"], torch.cat(expected))


def test_batches_keep_channels_last_in_memory(folder):
    batch = next(iter(loader_of(training(load_videos(str(folder))))))["frames"]
    assert batch.movedim(-3, -1).is_contiguous()


def test_unreadable_videos_are_listed_and_not_replaced(broken):
    loader = loader_of(training(broken, on_unreadable="skip"), batch_size=2, shuffle=False)
    batches = epoch_of(loader, 0)
    assert [b["index"].tolist() for b in batches] == [[0, 1], [2], [4], [6, 7]]
    assert [b["errors"] for b in batches] == [[], [(3, "empty file")], [(5, "no such file")], []]
    assert all(len(b["frames"]) == len(b["label"]) == len(b["index"]) for b in batches)


def test_a_batch_without_readable_videos_is_empty(broken):
    dataset = training(broken.subset([3, 5]), on_unreadable="skip")
    batch = collate([dataset[0], dataset[1]])
    assert batch["frames"].shape[0] == len(batch["label"]) == 0
    assert len(batch["errors"]) == 2
    assert len(collate([])["frames"]) == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_policy_error_is_one_clear_line(broken, workers):
    with pytest.raises(VideoError) as caught:
        epoch_of(loader_of(training(broken), workers, shuffle=False), 0)
    assert str(caught.value) == f"{broken[3].path}: empty file"


def test_unreadable_test_videos_never_stop_a_test(broken):
    dataset = ClipDataset(broken, DataConfig(**SMALL), frames_per_segment=1, train=False)
    batches = epoch_of(loader_of(dataset, shuffle=False), 0)
    assert sum(len(b["errors"]) for b in batches) == 2


def test_only_failures_of_the_system_are_tried_again(folder, broken, monkeypatch):
    tries = []

    def shaky(part, *args, **options):
        tries.append(part)
        if len(tries) < 3:
            raise VideoError(part.path, "cannot be opened") from OSError(5, "Input/output error")
        return read_frames(part, *args, **options)

    monkeypatch.setattr("mdtnet.data.retries.RETRY_SECONDS", 0)
    monkeypatch.setattr(module, "read_frames", shaky)
    assert training(broken)[0]["error"] == ""
    assert len(tries) == 3
    assert training(broken)[5]["error"] == "no such file"
    assert len(tries) == 4


def test_the_cache_gives_the_same_frames_and_decodes_once(folder, tmp_path, monkeypatch):
    videos = load_videos(str(folder))
    plain, cached = training(videos), training(videos, cache=str(tmp_path / "cache"))
    expected = {i: plain[i]["frames"] for i in (0, 3)}
    assert all(torch.equal(cached[i]["frames"], frames) for i, frames in expected.items())
    with monkeypatch.context() as patch:
        patch.setattr(module, "read_frames", lambda *a, **k: pytest.fail("decoded again"))
        assert all(torch.equal(cached[i]["frames"], frames) for i, frames in expected.items())
    files = sorted((tmp_path / "cache").rglob("*.*"))
    assert [f.suffix for f in files] == [".npy"] * 2
    files[0].write_bytes(b"damaged")
    assert all(torch.equal(cached[i]["frames"], frames) for i, frames in expected.items())


def test_the_cache_notices_changes_and_keeps_nothing_unreadable(broken, tmp_path):
    cache = tmp_path / "cache"
    dataset = training(broken, cache=str(cache), on_unreadable="skip")
    assert [dataset[i]["error"] for i in (3, 5)] == ["empty file", "no such file"]
    assert not cache.exists()
    write_video(tmp_path / "empty.mkv", 3, count=12)
    assert cached_frames(broken[3], dataset.data).num_frames == 12
    write_video(tmp_path / "empty.mkv", 3, count=9)
    os.utime(tmp_path / "empty.mkv", (1, 1))
    assert cached_frames(broken[3], dataset.data).num_frames == 9


def test_the_cache_notices_a_changed_frame(tmp_path):
    (tmp_path / "frames").mkdir()
    (tmp_path / "list.csv").write_text("frames,a\nframes,b\n")
    for value in (10, 200):
        for i in range(3):
            Image.new("RGB", (40, 32), (value, value, value)).save(tmp_path / f"frames/{i}.png")
        dataset = training(load_videos(str(tmp_path / "list.csv")), cache=str(tmp_path / "cache"))
        assert (cached_frames(dataset.videos[0], dataset.data).pixels == value).all()


def test_a_full_disk_costs_only_the_cache(folder, tmp_path, monkeypatch, caplog):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    videos = load_videos(str(folder))
    with caplog.at_level(logging.WARNING):
        item = training(videos, cache=str(tmp_path / "cache"))[0]
    assert torch.equal(item["frames"], training(videos)[0]["frames"])
    assert "No space left" in caplog.text
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_missing_decoder_is_found_before_anything_runs(folder, monkeypatch):
    def missing(backend):
        raise ConfigError("no torchcodec")

    monkeypatch.setattr("mdtnet.data.dataset.check_backend", missing)
    with pytest.raises(ConfigError):
        training(load_videos(str(folder)), backend="torchcodec")
