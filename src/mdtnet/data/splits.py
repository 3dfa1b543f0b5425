"""Cross-validation: whole groups of videos dealt out to folds of like size and like classes."""

import numpy as np

from mdtnet.data.annotations import VideoList, group_keys
from mdtnet.errors import DataError


def split_folds(videos: VideoList, *, folds: int, fold: int, seed: int, group: str = "") -> tuple[VideoList, VideoList]:
    """The training and validation parts of fold `fold`, from 0: every video is in one fold's validation part.

    Groups are those of `split_by_group`; without any, each video stands for itself.

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
    """Videos of each class in each group, [G, C]."""
    counts = np.zeros((num_groups, len(videos.classes)), dtype=np.int64)
    if videos.multi_label:
        np.add.at(counts, keys, videos.labels)
    else:
        np.add.at(counts, (keys, videos.labels), 1)
    return counts


def deal(counts: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each group, int64 `[G]`, for videos by class `counts` `[G, C]`.

    The largest groups go first, in an order drawn by `seed` where they are equal; each goes where its classes are
    fewest, then where videos are fewest.
    """
    order = np.random.default_rng(seed).permutation(len(counts))
    order = order[np.argsort(-counts[order].sum(axis=1), kind="stable")]
    held = np.zeros((folds, counts.shape[1]), dtype=np.int64)
    fold_of = np.zeros(len(counts), dtype=np.int64)
    for g in order:
        fold_of[g] = np.lexsort((held.sum(axis=1), held @ counts[g]))[0]
        held[fold_of[g]] += counts[g]
    return fold_of
