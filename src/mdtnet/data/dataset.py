"""Videos -> batches: clips, test views, the order of an epoch, the cache, and unreadable files.

An item depends on (seed, epoch, index) alone: not on workers, order, batches, or the point where a run resumed. The way
of a clip: `_indices` chooses frames, `_read` reads them and crops each (`_crop`), `_clip` arranges them, and
`augment.finish` or `_test_views` does the rest.
"""

import logging
import math
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torch.utils.data._utils import signal_handling

from mdtnet.checks import check_rule
from mdtnet.config import DataConfig, EvalConfig, Exposure, eval_crop_size
from mdtnet.data.annotations import VideoList
from mdtnet.data.exposure import expose
from mdtnet.data.frames import cached_frames, read_resized, resize
from mdtnet.data.plan import Plans
from mdtnet.data.segments import Shape, clip_indices, train_indices
from mdtnet.data.transforms import Box, ClipAugment, mirror_labels, stack_clips, views, views_box
from mdtnet.data.video import Reading, Request, check_backend
from mdtnet.errors import VideoError
from mdtnet.scores import DAMAGED
from mdtnet.system.workers import (
    check_shared_memory,
    children,
    end,
    ignore_signals,
    own_signal_of_children,
    watched,
)

log = logging.getLogger(__name__)

PLAN_BYTES, LEAST_PLANS, MOST_PLANS = 512, 2**20, 2**24  # of memory for plans: per video, and in all
MANY_VIEWS = 10  # from here on a loader process prepares one batch ahead, not two


class Item(TypedDict):
    """One video of a `ClipDataset`."""

    frames: Tensor
    """uint8 `[V, T, K, 3, S, S]`: V = 1 in training; view = clip * crops + crop in testing; V = 0 where unreadable."""
    label: int | np.ndarray
    """An integer, or bool `[C]` where a video can have several labels."""
    index: int
    """Position in the list."""
    error: str
    """Reason why the video is unreadable, or empty."""
    damaged: str
    """`2 of 120 frames`, or empty: frames that are damaged, lost or missing at the end."""
    skipped: bool
    """Left out as damaged (`data.on_damaged`): V = 0."""


class Batch(TypedDict):
    """Items of the B readable videos of a batch, B >= 0."""

    frames: Tensor
    """uint8 `[B, V, T, K, 3, S, S]`."""
    label: Tensor
    """int64 `[B]`, or `[B, C]` of 0 and 1 where a video can have several labels."""
    index: Tensor
    """int64 `[B]`."""
    errors: list[tuple[int, str]]
    """Index and reason of each unreadable video."""
    damaged: list[tuple[int, str]]
    """Index and damage of each damaged video, whether it is used or left out."""


class ClipDataset(Dataset[Item]):
    """Clips of a list of videos: one augmented clip in training, all test views otherwise.

    Items are `Item`s. With `data.flip` swap, a mirrored training clip has the label of its mirror image.

    Raises:
        ConfigError: the decoder that `data.backend` names cannot be used, or `test.rule` does not fit.
    """

    def __init__(
        self,
        videos: VideoList,
        data: DataConfig,
        *,
        frames_per_segment: int,
        train: bool,
        seed: int = 0,
        test: EvalConfig | None = None,
    ) -> None:
        check_backend(data.backend)
        self.videos, self.data, self.train, self.seed = videos, data, train, seed % 2**32
        self.test = test or EvalConfig()
        if not train:
            check_rule(data, self.test, frames_per_segment)
        self.crop_size = eval_crop_size(data, self.test)
        self.augment = ClipAugment(
            data.short_side, data.size, data.crop, bool(data.flip), data.color_jitter, data.randaugment
        )
        self._mirrored = mirror_labels(videos.classes) if data.flip == "swap" else np.arange(len(videos.classes))
        self._shape = Shape(
            num_segments=data.num_segments if train else self.test.segments or data.num_segments,
            frames_per_segment=frames_per_segment,
            frame_stride=data.frame_stride,
            sampling=data.sampling,
        )
        # In shared memory: persistent workers see a new epoch, and what one worker finds of a video serves all.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._known = torch.zeros(len(videos), 4, dtype=torch.int32).share_memory_()  # frames, damaged, decoded, proven
        self._plans = _plans(len(videos), shared=False)
        self.warned: set[int] = set()  # damaged videos that the log has

    def __len__(self) -> int:
        return len(self.videos)

    def share_plans(self) -> None:
        """Let loader processes see what each of them finds out about the packets of a file."""
        self._plans = _plans(len(self.videos), shared=True)

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ClipDataset":
        """The videos of these indices, drawn from in the same way."""
        videos, frames = self.videos.subset(indices), self._shape["frames_per_segment"]
        return ClipDataset(
            videos, self.data, frames_per_segment=frames, train=self.train, seed=self.seed, test=self.test
        )

    @property
    def num_views(self) -> int:
        """V, the number of views per item."""
        return 1 if self.train else self.test.clips * self.test.crops

    @property
    def frames_shape(self) -> tuple[int, ...]:
        """Shape of the frames of an item, `[V, T, K, 3, S, S]`."""
        size = self.data.size if self.train else self.crop_size
        return self.num_views, self._shape["num_segments"], self._shape["frames_per_segment"], 3, size, size

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips and augmentations; call it before the first batch of the epoch is requested."""
        self._epoch[0] = epoch

    def __getitem__(self, i: int) -> Item:
        i = int(i)
        rng = self._rng(i, 1)
        try:
            pixels, table = self._read(i, self._crop(rng))
        except VideoError as error:
            return self._without_frames(i, error=error.reason)
        damaged = self._damage(i)
        if damaged and self.train and self.data.on_damaged == "skip":
            return self._without_frames(i, damaged=damaged)
        if damaged and not self.train and self.test.on_damaged != "use":
            return self._without_frames(i, error=f"{DAMAGED}{damaged}", damaged=damaged)
        if not self.train:
            frames, label = self._test_views(pixels, table), self._label(i)
            return Item(frames=frames, label=label, index=i, error="", damaged=damaged, skipped=False)
        clip = _clip(pixels, table[0], self.data.exposure)
        frames, mirrored = (self.augment.finish if self._crops_early else self.augment.draw)(clip, rng)
        frames, label = frames.unsqueeze(0), self._label(i, mirrored=mirrored)  # [1, T, K, 3, S, S]
        return Item(frames=frames, label=label, index=i, error="", damaged=damaged, skipped=False)

    def _damage(self, i: int) -> str:
        """Damage of video `i`, found when it was first read, to its end."""
        _, damaged, decoded, _ = self._known[i].tolist()
        return f"{damaged} of {decoded} frames" if damaged else ""

    def _without_frames(self, i: int, *, error: str = "", damaged: str = "") -> Item:
        nothing = torch.empty(0, *self.frames_shape[1:], dtype=torch.uint8)
        return Item(frames=nothing, label=self._label(i), index=i, error=error, damaged=damaged, skipped=not error)

    def _label(self, i: int, *, mirrored: bool = False) -> int | np.ndarray:
        own = self.videos.labels[i]
        if self.videos.multi_label:
            return own[self._mirrored] if mirrored else own
        return int(self._mirrored[own] if mirrored else own)

    def _test_views(self, pixels: np.ndarray, table: np.ndarray) -> Tensor:
        crops, size = self.test.crops, self.crop_size
        out = torch.empty(self.num_views, *table.shape[1:], size, size, 3, dtype=torch.uint8).movedim(-1, -3)
        for c, indices in enumerate(table):  # one clip at a time: the views alone can be hundreds of MB
            clip = _clip(pixels, indices, self.data.exposure)
            out[c * crops : (c + 1) * crops] = views(clip, crops=crops, crop_size=size)
        return out

    def _rng(self, i: int, purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, int(self._epoch), i, purpose]))

    def _indices(self, i: int, num_frames: int) -> np.ndarray:
        """Index table of video `i`: the frames of each clip, [clips, T, K]."""
        if self.train:
            return train_indices(num_frames, self._rng(i, 0), **self._shape)[None]
        key = zlib.crc32(self.videos.name(i).encode("utf-8", "surrogateescape"))  # not i: the same clips in every list
        return clip_indices(
            num_frames, rule=self.test.rule, num_clips=self.test.clips, seed=[self.test.seed, key], **self._shape
        )

    @property
    def _crops_early(self) -> bool:
        """Whether frames can be cropped while they are read: exposure depends on the pixels outside of the crop."""
        return self.data.exposure == "none"

    def _crop(self, rng: np.random.Generator) -> "_FrameCrop | None":
        """Crop for the frames of one item, applied while they are read so that the rest is never copied."""
        if not self._crops_early:
            return None
        if self.train:
            return _FrameCrop(self.augment.resize_to, partial(self.augment.crop_box, rng=rng))
        return _FrameCrop(self.data.short_side, partial(views_box, crops=self.test.crops, crop_size=self.crop_size))

    def _read(self, i: int, crop: "_FrameCrop | None") -> tuple[np.ndarray, np.ndarray]:
        """Resized and cropped frames [U, H, W, 3], and the index table of the clips into them, [clips, T, K]."""
        sample = self.videos[i]
        known = int(self._known[i, 0]) or None
        if self.data.cache:
            reading = cached_frames(sample, self.data, check=not known, plans=self._plans)
            self._note(i, reading)
            table = self._indices(i, reading.num_frames)
            used = np.unique(table)
            pixels = crop(reading.pixels) if crop else reading.pixels
            return pixels[used], np.searchsorted(used, table)
        request = Request(
            lambda n: np.unique(self._indices(i, n)), known, proven=bool(self._known[i, 3]), plans=self._plans
        )
        reading = read_resized(sample, self.data, request, crop)
        self._note(i, reading)
        table = self._indices(i, reading.num_frames)
        return reading.pixels, np.searchsorted(np.unique(table), table)

    def _note(self, i: int, reading: Reading) -> None:
        """Remember what is known of a video that was read to its end."""
        if int(self._known[i, 0]) != reading.num_frames:
            self._known[i, 1], self._known[i, 2] = reading.damaged, reading.decoded
            self._known[i, 3] = reading.proven
            self._known[i, 0] = reading.num_frames  # last: other processes look at it first


def _plans(num_videos: int, *, shared: bool) -> Plans:
    slots = torch.zeros(2 * num_videos, 2, dtype=torch.int64)
    room = torch.zeros(_plan_bytes(num_videos), dtype=torch.uint8)
    if not shared:
        return Plans(slots, room, threading.Lock())
    return Plans(slots.share_memory_(), room.share_memory_(), torch.multiprocessing.Lock())


def _plan_bytes(num_videos: int) -> int:
    return min(LEAST_PLANS + PLAN_BYTES * num_videos, MOST_PLANS)


class _FrameCrop:
    """Crops all frames of an item to one box, which is drawn when the first frame arrives."""

    def __init__(self, short_side: int, draw: Callable[[int, int], Box]) -> None:
        self.short_side, self.draw = short_side, draw
        self.box: Box | None = None

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Frames `[..., H, W, 3]`, resized to the short side that the box is drawn for, and cropped."""
        frames = resize(frames, self.short_side)
        if self.box is None:
            height, width = frames.shape[-3:-1]
            self.box = self.draw(height, width)
        return self.box.crop_pixels(frames)


def _clip(pixels: np.ndarray, indices: np.ndarray, exposure: Exposure) -> Tensor:
    """Clip [T, K, 3, H, W] of the frames [U, H, W, 3] at `indices` [T, K]."""
    if np.array_equal(indices.reshape(-1), np.arange(len(pixels))):  # the usual case needs no copy
        frames = pixels.reshape(*indices.shape, *pixels.shape[1:])
    else:
        frames = pixels[indices]
    return torch.from_numpy(np.asarray(expose(frames, exposure))).movedim(-1, 2)


def collate(items: list[Item]) -> Batch:
    """Items as a batch; unreadable videos are in its `errors` only, and those left out as damaged in `damaged`."""
    good = [item for item in items if not (item["error"] or item["skipped"])]
    if len(good) == 1:  # no copy: the views of one test video can be hundreds of MB
        frames = good[0]["frames"].unsqueeze(0)
    elif good:
        frames = stack_clips([item["frames"] for item in good])
    else:
        frames = items[0]["frames"].unsqueeze(0)[:0] if items else torch.empty(0, dtype=torch.uint8)
    if get_worker_info():  # now: where there is no room, sending it would fail without a word
        frames.share_memory_()
    return Batch(
        frames=frames,
        label=torch.from_numpy(np.array([item["label"] for item in good], dtype=np.int64)),
        index=torch.tensor([item["index"] for item in good], dtype=torch.int64),
        errors=[(item["index"], item["error"]) for item in items if item["error"]],
        damaged=[(item["index"], item["damaged"]) for item in items if item["damaged"]],
    )


class ClipBatches(Sampler[list[int]]):
    """Samples of each batch, in an order fixed by (seed, epoch), dealt out to `world` processes.

    The global batch of `batch_size * world` samples is the same for any number of processes, and every sample is in one
    of them. With `weights` `[N]`, which sum to 1, samples are drawn with these probabilities instead, some more than
    once. `start` is the first batch of an iteration: a resumed run skips batches without reading them.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        weights: np.ndarray | None = None,
    ) -> None:
        self.num_samples, self.global_batch, self.weights = num_samples, batch_size * world, weights
        self.shuffle, self.seed, self.drop_last = shuffle, seed % 2**32, drop_last
        self.rank, self.world = rank, world
        self.epoch = self.start = 0

    @property
    def num_batches(self) -> int:
        """Number of batches in a whole epoch."""
        return (self.num_samples + (0 if self.drop_last else self.global_batch - 1)) // self.global_batch

    def __len__(self) -> int:
        return max(self.num_batches - self.start, 0)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.num_samples)
        if self.shuffle:
            rng = np.random.default_rng([self.seed, self.epoch])
            if self.weights is None:
                order = rng.permutation(self.num_samples)
            else:
                order = rng.choice(self.num_samples, size=self.num_samples, p=self.weights)
        for b in range(self.start, self.num_batches):
            batch = order[b * self.global_batch : (b + 1) * self.global_batch]
            yield batch[self.rank :: self.world].tolist()


class ClipLoader(DataLoader[Item]):
    """Loader of `ClipDataset` batches with epochs; optionally stops at an unreadable training video.

    Its processes live on between epochs, until `close` or an error; those of a test end with it.

    Raises:
        VideoError: while iterating, in this process: a training video is unreadable and `data.on_unreadable`
        is `error`.
        WorkerError: while iterating: a process of the loader was killed, was stopped, or stands still.
    """

    dataset: ClipDataset
    batch_sampler: ClipBatches
    _processes: tuple[BaseProcess, ...] = ()

    def set_epoch(self, epoch: int, *, start: int = 0) -> None:
        """Set the epoch, and the batch to start at."""
        self.dataset.set_epoch(epoch)
        self.batch_sampler.epoch, self.batch_sampler.start = epoch, start

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # torch names its own class
        strict = self.dataset.train and self.dataset.data.on_unreadable == "error"
        whole = False
        try:
            for batch in self._batches():
                if strict and batch["errors"]:
                    index, reason = batch["errors"][0]
                    raise VideoError(self.dataset.videos[index].path, reason)
                self._warn_of_damage(batch)
                yield batch
                del batch  # the views of one test video can be hundreds of MB, and the next are read now
            whole = True
        finally:
            if not (whole and self.dataset.train):
                self.close()

    def _batches(self) -> Iterator[Batch]:
        if not self.num_workers:
            yield from super().__iter__()
            return
        others = children()
        with own_signal_of_children(), watched(self._processes):
            self._batches_of_workers = super().__iter__()
        if not self._processes:
            self._processes = tuple(children() - others)
            Finalize(self, _end, (self._processes,), exitpriority=1)  # Python's own end would wait for stopped ones
        while True:
            with watched(self._processes):
                batch = next(self._batches_of_workers, None)
            if batch is None:
                return
            yield batch
            del batch

    def close(self) -> None:
        """End its processes at once, whatever they do."""
        if not self._processes:
            return
        _end(self._processes)
        # PyTorch's own end would wait for locks that the killed processes may have held
        iterator: Any = self._batches_of_workers
        iterator._shutdown = True
        if iterator._worker_pids_set:  # by the iterator's id, which another one may get
            signal_handling._remove_worker_pids(id(iterator))
            iterator._worker_pids_set = False
        if self.pin_memory:
            iterator._pin_memory_thread_done_event.set()
        self._processes, self._iterator = (), None

    def _warn_of_damage(self, batch: Batch) -> None:
        """Log each damaged video once."""
        skipped = self.dataset.train and self.dataset.data.on_damaged == "skip"
        for index, damage in batch["damaged"]:
            if index not in self.dataset.warned:
                self.dataset.warned.add(index)
                how = "left out, damaged" if skipped else "damaged"
                log.warning("%s: %s: %s", how, self.dataset.videos[index].path, damage)


def _end(processes: Sequence[BaseProcess]) -> None:
    with own_signal_of_children():  # another loader of PyTorch may have set its own, which raises
        end(processes)


def make_loader(
    dataset: ClipDataset,
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    workers: int,
    drop_last: bool = False,
    rank: int = 0,
    world: int = 1,
    weights: np.ndarray | None = None,
    in_hand: int = 1,
) -> ClipLoader:
    """Loader with an order fixed by (seed, epoch); `batch_size` is per process, `weights` as in `ClipBatches`.

    `in_hand` is the number of batches that the caller holds at once.

    Raises:
        ConfigError: the batches of all `workers` do not fit into shared memory.
    """
    batches = ClipBatches(
        len(dataset),
        batch_size=batch_size,
        shuffle=shuffle,
        seed=seed,
        drop_last=drop_last,
        rank=rank,
        world=world,
        weights=weights,
    )
    ahead = 1 if dataset.num_views >= MANY_VIEWS else 2
    at_once = min(workers * ahead + in_hand, batches.num_batches)
    size = min(batch_size, len(dataset)) * math.prod(dataset.frames_shape)
    check_shared_memory(at_once * size + _plan_bytes(len(dataset)), workers=workers)
    if workers:
        dataset.share_plans()
    return ClipLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=ahead if workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=ignore_signals,
        generator=torch.Generator(),  # its own: epochs must not advance the global generator
    )
