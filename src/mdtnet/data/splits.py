"""Training and validation parts: given, split off by whole groups, or one of several folds."""

import dataclasses
import logging
import os
import re

import numpy as np

from mdtnet.config import DataConfig
from mdtnet.data.annotations import VideoList, empty_classes, in_short, load_videos
from mdtnet.data.labels import class_counts
from mdtnet.errors import ConfigError, DataError, nearest, shorten

log = logging.getLogger(__name__)


def split_folds(videos: VideoList, *, folds: int, fold: int, seed: int, group: str = "") -> tuple[VideoList, VideoList]:
    """The training and validation parts of fold `fold`, from 0: every video is in one fold's validation part.

    Groups are those of `split_by_group`; without groups, every video is a group of its own.

    Raises:
        DataError: a name without a group, fewer groups than folds, or a class that a training part lacks.
    """
    keys = group_keys(videos, group)
    keys = np.arange(len(videos)) if keys is None else keys
    num_groups = int(keys.max()) + 1
    if num_groups < folds:
        raise DataError(f"{num_groups} groups of videos cannot be dealt out to {folds} folds")
    of_video = deal(_group_counts(videos, keys, num_groups), folds, seed)[keys]  # [N]
    for label, name in enumerate(videos.classes):
        own = of_video[videos.shows(label)]
        if len(own) and (own == own[0]).all():
            raise DataError(f"class '{name}' lies in one fold of {folds} as a whole: it needs more groups")
    held_out = of_video == fold
    return videos.subset(np.flatnonzero(~held_out)), videos.subset(np.flatnonzero(held_out))


def _group_counts(videos: VideoList, keys: np.ndarray, num_groups: int) -> np.ndarray:
    """Videos per group and class, [G, C]."""
    counts = np.zeros((num_groups, len(videos.classes)), dtype=np.int64)
    if videos.multi_label:
        np.add.at(counts, keys, videos.labels)
    else:
        np.add.at(counts, (keys, videos.labels), 1)
    return counts


def deal(counts: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Fold of each group, int64 `[G]`; `counts` `[G, C]` are its videos per class.

    Groups are dealt out from the largest to the smallest, equal ones in an order drawn by `seed`. Each goes to the fold
    that has the fewest videos of its classes, then the fewest videos.
    """
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros((folds, counts.shape[1]), dtype=np.int64)
    fold_of = np.zeros(len(counts), dtype=np.int64)
    for g in order:
        fold_of[g] = np.lexsort((held.sum(axis=1), held @ counts[g]))[0]
        held[fold_of[g]] += counts[g]
    return fold_of


SPLIT_SEED = 0  # runs of different seeds are compared on the same split


def load_split(data: DataConfig) -> tuple[VideoList, VideoList]:
    """Training and validation videos; without `data.val` the latter are split off, the same for every seed.

    Raises:
        ConfigError: no training videos are given.
        DataError: the videos (see `load_videos`), or they cannot be split.
    """
    if not data.train:
        raise ConfigError("data.train is empty, expected a folder of class folders or a list file")
    videos = load_videos(data.train, root=data.root, classes=data.classes, multi_label=data.multi_label)
    if (data.folds or data.fold) and (data.val or not 0 <= data.fold < data.folds or data.folds < 2):
        raise ConfigError(
            f"data.folds is {data.folds}, data.fold {data.fold}, data.val {data.val!r}; expected at least 2 folds, "
            "a fold from 0 to one less, and no val; or no folds, and fold 0"
        )
    if empty := empty_classes(videos):
        raise DataError(f"{data.train}: no video of {in_short(empty)}: a class without videos cannot be learned")
    if data.val:
        val = load_videos(data.val, root=data.root, classes=videos.classes, multi_label=data.multi_label)
        _warn_of_shared(videos, val)
        return videos, val
    if data.folds:
        return split_folds(videos, folds=data.folds, fold=data.fold, seed=SPLIT_SEED, group=data.group)
    train, val = split_by_group(videos, fraction=data.val_fraction, seed=SPLIT_SEED, group=data.group)
    if not data.group and videos.groups is None:
        _warn_of_sources(train, val)
    return train, val


def _warn_of_shared(train: VideoList, val: VideoList) -> None:
    """Log videos that are in both parts: what they show was learned by heart."""
    of_training = {(train.root, name) for name in map(train.name, range(len(train)))}
    if shared := [name for name in map(val.name, range(len(val))) if (val.root, name) in of_training]:
        log.warning("%d videos are in training and validation: %s", len(shared), in_short(shared))


def _warn_of_sources(train: VideoList, val: VideoList) -> None:
    """Log that videos split at random can come from the same recordings, where their names count parts of few."""
    names = [videos.paths[row] for videos in (train, val) for row in videos.rows]
    sources = {name: re.sub(r"[_\-. ]*[A-Za-z]?\d+$", "", os.path.splitext(name)[0]) for name in names}
    if len(set(sources.values())) < len(names) / 2:
        log.warning(
            "validation videos are drawn at random: where several, such as those of '%s', are from one recording, "
            "validation is too easy; data.group or a group column keeps them together",
            shorten(next(iter(sources.values()))),
        )


def relabel(videos: VideoList, classes: tuple[str, ...]) -> VideoList:
    """The same videos with labels in the order of `classes`, some of which may have no video.

    Raises:
        DataError: a class of the videos is not in `classes`.
    """
    for name in videos.classes:
        if name not in classes:
            raise DataError(f"class '{name}' is not among the {len(classes)} learned ones{nearest(name, classes)}")
    order = np.array([classes.index(name) for name in videos.classes], dtype=np.int64)
    if not videos.multi_label:
        return dataclasses.replace(videos, classes=classes, labels=order[videos.labels])
    labels = np.zeros((len(videos), len(classes)), dtype=bool)
    labels[:, order] = videos.labels
    return dataclasses.replace(videos, classes=classes, labels=labels)


def split_by_group(videos: VideoList, *, fraction: float, seed: int, group: str = "") -> tuple[VideoList, VideoList]:
    """Split off about `fraction` of the groups, whole: (training, validation). Every class stays in training.

    A video's group is the match of the first (...) of `group` in its name, else the list's `group` column. Without
    either, every video is a group of its own, and the split is made within each class (with several labels per video:
    over all videos).

    Raises:
        DataError: a name that does not match, or too few groups to split.
    """
    keys = group_keys(videos, group)
    rng = np.random.default_rng(seed % 2**32)
    if keys is None and videos.multi_label:
        keys = np.arange(len(videos))
    if keys is None:
        held_out = _split_classes(videos.labels, fraction, rng)
    else:
        held_out = _split_groups(videos.labels, keys, fraction, rng)
    if not held_out.any() or held_out.all():
        few, more = f"{len(videos)} videos", "videos"
        if keys is not None:
            few, more = f"{len(videos)} videos in {len(np.unique(keys))} groups", "groups"
        raise DataError(f"{few} are too few to hold some out for validation: give --data.val, or add {more}")
    return videos.subset(np.flatnonzero(~held_out)), videos.subset(np.flatnonzero(held_out))


def group_keys(videos: VideoList, pattern: str) -> np.ndarray | None:
    """Group number of each video, [N], or None where there are no groups."""
    if pattern:
        try:
            match = re.compile(pattern).search
        except re.error as error:
            raise DataError(f"group is {pattern!r}, not a regular expression: {error}") from error
        found = [match(videos.name(i)) for i in range(len(videos))]
        for i, hit in enumerate(found):
            if hit is None or not hit.re.groups:
                raise DataError(f"group {pattern!r} has no (...) that matches '{videos.name(i)}'")
        texts = [hit.group(1) for hit in found if hit]
    elif videos.groups is not None:
        texts = [videos.groups[row] for row in videos.rows]
    else:
        return None
    return np.unique(texts, return_inverse=True)[1]


def _split_classes(labels: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = round(fraction * len(members))
        if len(members) > 1:  # each part gets at least one where possible
            count = min(max(count, 1), len(members) - 1)
        held_out[members[: count if len(members) > 1 else 0]] = True
    return held_out


def _split_groups(labels: np.ndarray, keys: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    num_groups = keys.max() + 1
    target = min(max(round(fraction * num_groups), 1), num_groups - 1)
    left = class_counts(labels, 0)  # training videos per class so far
    order = np.argsort(keys, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(keys))[:-1])
    held_out = np.zeros(len(labels), dtype=bool)
    for g in rng.permutation(num_groups):
        gone = class_counts(labels[members[g]], len(left))
        if target and not ((left - gone)[gone > 0] == 0).any():
            held_out[members[g]] = True
            left -= gone
            target -= 1
    return held_out
