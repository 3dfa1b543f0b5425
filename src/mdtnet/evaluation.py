"""From a model and videos to a score table: every video once, every view of it, logits on disk.

Metrics and reports read the table alone. Letters: N videos, V views, C classes.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from mdtnet.checkpoint import Checkpoint, load_checkpoint, model_of, warn_of_segments
from mdtnet.checks import check_ranges
from mdtnet.config import DataConfig, EvalConfig, Values, eval_crop_size, protocol_name
from mdtnet.config_file import to_dict
from mdtnet.data.annotations import load_videos
from mdtnet.data.dataset import ClipDataset, ClipLoader, make_loader
from mdtnet.data.splits import relabel
from mdtnet.data.transforms import mirror_labels, stack_clips
from mdtnet.errors import ConfigError, DataError, DivergedError, nearest
from mdtnet.metrics import Figures
from mdtnet.models.folding import folded
from mdtnet.models.gates import knocked_out, parts_of
from mdtnet.scores import ScoreTable, fusion_name, save_results
from mdtnet.system.files import make_folder
from mdtnet.system.processes import Asked, make_accelerator
from mdtnet.system.terminal import bar
from mdtnet.work import parts
from mdtnet.work.parts import Shard
from mdtnet.zoo.find import located
from mdtnet.zoo.store import sha256

KEPT_AT_ONCE = 64  # videos of a shard that a crash can cost
CROP_ORDERS = {
    1: ("centre",),
    3: ("left", "centre", "right"),
    5: ("top left", "top right", "bottom left", "bottom right", "centre"),
}
"""Number of crops -> their places, in the order of views."""


def evaluate(
    model: nn.Module,
    dataset: ClipDataset,
    *,
    accelerator: Accelerator | None = None,
    batch_size: int = 8,
    workers: int = 0,
    protocol: Values | None = None,
    progress: Callable[[int], None] | None = None,
    at_once: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> ScoreTable:
    """Scores of every view of every video of a test `ClipDataset`; the model is left in eval mode.

    Views are computed `batch_size` at a time whatever video they belong to; in the table a mirrored view follows
    the view itself. With an accelerator of several processes each takes every n-th video, and all get the whole
    table. `progress` is called with the number of videos that this process has read.

    A signal within `at_once()` ends it in all processes.

    Raises:
        DivergedError: scores of a video are not finite numbers.
        Asked: `at_once` was left by it in one of the processes.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    loader = make_loader(dataset, batch_size=1, shuffle=False, seed=0, workers=workers, rank=rank, world=processes)
    scores: dict[int, np.ndarray] = {}
    errors: dict[int, str] = {}
    stop = 0
    model.eval()
    try:
        with torch.inference_mode(), accelerator.autocast() if accelerator else nullcontext(), at_once():
            videos = _readable(loader, errors, progress)
            scores = _view_scores(model, videos, batch_size=batch_size, mirror=_mirror(dataset))
    except Asked as error:
        stop = error.args[0]
    for more_scores, more_errors, more_stop in gather_object([(scores, errors, stop)]) if processes > 1 else []:
        scores |= more_scores
        errors |= more_errors
        stop |= more_stop
    if stop:
        raise Asked(stop)
    return _table(dataset, scores, errors, protocol or {})


def _readable(
    loader: ClipLoader, errors: dict[int, str], progress: Callable[[int], None] | None
) -> Iterator[tuple[int, Tensor]]:
    """Index and views [V, T, K, 3, H, W] of each video that can be read; the others go into `errors`."""
    for done, batch in enumerate(loader, start=1):
        errors.update(batch["errors"])
        yield from zip(batch["index"].tolist(), batch["frames"])
        del batch  # before the next is read
        if progress:
            progress(done)


def _views(videos: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
    """Index and frames [T, K, 3, H, W] of each view: copies, since all views of a video can be hundreds of MB."""
    for index, video in videos:
        yield from ((index, view.clone()) for view in video)
        del video  # before the next is read


def _mirror(dataset: ClipDataset) -> np.ndarray | None:
    """Of a test of mirrored views: which of a mirrored view's scores is that of each class, int64 [C]."""
    if not dataset.test.flip:
        return None
    classes = dataset.videos.classes
    return mirror_labels(classes) if dataset.data.flip == "swap" else np.arange(len(classes))


def _view_scores(
    model: nn.Module, videos: Iterator[tuple[int, Tensor]], *, batch_size: int, mirror: np.ndarray | None
) -> dict[int, np.ndarray]:
    """Logits [V, C] of every video by its index; with `mirror` each view's row is followed by its mirror image's."""
    device = next(model.parameters()).device
    rows: dict[int, list[np.ndarray]] = {}
    views = _views(videos)
    while chunk := list(islice(views, batch_size)):
        frames = stack_clips([view for _, view in chunk]).to(device)
        passes = [model(frames).float().cpu().numpy()]
        if mirror is not None:
            passes.append(model(frames.flip(-1)).float().cpu().numpy()[:, mirror])
        for i, (index, _) in enumerate(chunk):
            rows.setdefault(index, []).extend(scores[i] for scores in passes)
    return {index: np.stack(found) for index, found in rows.items()}


def _table(dataset: ClipDataset, scores: dict[int, np.ndarray], errors: dict[int, str], protocol: Values) -> ScoreTable:
    videos, crops = dataset.videos, dataset.test.crops
    flips = 2 if dataset.test.flip else 1
    views = np.arange(dataset.num_views * flips)
    count = len(videos)
    table = np.full((count, len(views), len(videos.classes)), np.nan, dtype=np.float32)
    for index, rows in scores.items():
        if not np.isfinite(rows).all():  # NaN stands for videos that cannot be read
            raise DivergedError(f"{videos.name(index)}: the network's scores are not finite, so it has diverged")
        table[index] = rows
    return ScoreTable(
        names=[videos.name(i) for i in range(count)],
        labels=np.asarray(videos.labels),
        view_clip=views // flips // crops,
        view_crop=views // flips % crops,
        scores=table,
        errors=[errors.get(i, "") for i in range(count)],
        classes=tuple(videos.classes),
        protocol=protocol,
        view_flip=views % flips == 1,
    )


def evaluate_checkpoint(
    checkpoint: str | Path,
    *,
    data: str,
    out: str | Path,
    test: EvalConfig,
    root: str = "",
    classes: str = "",
    device: str = "auto",
    workers: int = 0,
    without: str = "",
) -> Figures:
    """Test a checkpoint on `data`, a folder of class folders or a list; `out` gets scores and metrics.

    Lists are read as those it was trained on, with one label per video or several. Class names must be among the
    checkpoint's; labels that are numbers are positions in the file `classes`,
    or in the checkpoint's own list. Clips are drawn as the checkpoint's config says, views as `test` does. `without`
    names a part of the network that is silenced (`gates.PARTS`), to see what it is worth.

    Returns:
        The content of `metrics.json` (see `metrics.summary`).

    Raises:
        CheckpointError: the checkpoint.
        DataError: the data, or classes that were not learned.
        ConfigError: a number of `test` out of its range, or a folder that cannot be written into.
        DivergedError: the network's scores are no numbers.
    """
    with _ready(checkpoint, data, test, root=root, classes=classes, device=device, without=without) as ready:
        model, dataset, accelerator, found = ready
        if accelerator.is_main_process:
            make_folder(out)  # checked now, not after hours of testing
        part = {"without": without} if without else {}
        with bar(len(dataset), active=accelerator.is_main_process) as progress:
            table = evaluate(
                model,
                dataset,
                accelerator=accelerator,
                batch_size=test.batch_size,
                workers=workers,
                protocol=protocol(found.config.data, test, data=data, checkpoint=str(checkpoint), **part),
                progress=progress,
            )
    if accelerator.is_main_process:
        return save_results(Path(out), table, test)
    return table.metrics(test)


def evaluate_shard(
    checkpoint: str | Path,
    *,
    data: str,
    out: str | Path,
    test: EvalConfig,
    shard: Shard,
    root: str = "",
    classes: str = "",
    device: str = "auto",
    workers: int = 0,
    without: str = "",
) -> Figures | None:
    """As `evaluate_checkpoint`, of a shard of the videos alone: the folder of work `out` keeps what is done.

    The same command goes on where it was stopped; the last of all shards writes scores and metrics.

    Returns:
        None where other shards are not finished.

    Raises:
        Beside those of `evaluate_checkpoint` ConfigError: `out` holds other work, or there are several processes.
        DataError: a video is listed twice.
    """
    with _ready(checkpoint, data, test, root=root, classes=classes, device=device, without=without) as ready:
        model, dataset, accelerator, found = ready
        if accelerator.num_processes > 1:
            raise ConfigError(f"--shard is for one process each, this is one of {accelerator.num_processes}")
        part = {"without": without} if without else {}
        how = protocol(found.config.data, test, data=data, checkpoint=str(checkpoint), **part)
        places = {dataset.videos.name(i): i for i in range(len(dataset))}

        def rows(names: Sequence[str]) -> Iterator[tuple[str, Values]]:
            for start in range(0, len(names), KEPT_AT_ONCE):
                chosen = np.array([places[name] for name in names[start : start + KEPT_AT_ONCE]])
                some = dataset.subset(chosen)
                table = evaluate(model, some, accelerator=accelerator, batch_size=test.batch_size, workers=workers)
                for name, scores, error in zip(table.names, table.scores, table.errors):
                    yield name, {"scores": [] if error else scores.tolist(), "error": error}

        names = [dataset.videos.name(i) for i in range(len(dataset))]
        with bar(sum(map(shard.holds, names))) as progress:
            shown = None if progress is None else lambda done, total: progress(done)
            digest = {"verb": "test", "sha256": sha256(located(checkpoint).path)}
            parts.do(names, rows, out, about={**digest, **how}, shard=shard, progress=shown)
    kept = parts.read_rows(out)
    if any(name not in kept for name in names):
        return None
    scores = {places[name]: _scores_of(out, kept[name], dataset) for name in names if not kept[name]["error"]}
    errors = {places[name]: str(kept[name]["error"]) for name in names if kept[name]["error"]}
    return save_results(Path(out), _table(dataset, scores, errors, how), test)


def _scores_of(out: str | Path, row: Values, dataset: ClipDataset) -> np.ndarray:
    shape = (dataset.num_views * (2 if dataset.test.flip else 1), len(dataset.videos.classes))
    try:
        return np.array(row["scores"], dtype=np.float32).reshape(shape)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{out}: the row of {row['name']!r} is damaged, expected scores {shape}; choose another folder"
        ) from error


@contextmanager
def _ready(
    checkpoint: str | Path, data: str, test: EvalConfig, *, root: str, classes: str, device: str, without: str
) -> Iterator[tuple[nn.Module, ClipDataset, Accelerator, Checkpoint]]:
    """Network, videos, device and checkpoint of a test."""
    check_ranges(test, part="test")
    found = load_checkpoint(checkpoint)
    model = model_of(found, where=str(checkpoint))
    warn_of_segments(model, test.segments or found.config.data.num_segments, where=str(checkpoint))
    model = folded(model)
    silenced = _silenced(model, without, name=found.config.model.name)
    names, several = classes or found.classes, found.config.data.multi_label
    videos = load_videos(data, root=root, classes=names, multi_label=several)
    videos = relabel(videos, found.classes)
    accelerator = make_accelerator(device)
    here = dataclasses.replace(found.config.data, cache="", backend="auto")  # these belong to the training machine
    dataset = ClipDataset(videos, here, frames_per_segment=model.frames_per_segment, train=False, test=test)
    with silenced:
        yield model.to(accelerator.device).to(memory_format=torch.channels_last), dataset, accelerator, found


def _silenced(model: nn.Module, part: str, *, name: str) -> AbstractContextManager[None]:
    """The network without the part that is named, if one is."""
    parts = parts_of(model)
    if not part:
        return nullcontext()
    if part not in parts:
        known = ", ".join(parts) or "none"
        raise ConfigError(f"without is '{part}', but {name} as configured has the parts: {known}{nearest(part, parts)}")
    return knocked_out(model, part)


def protocol(data: DataConfig, test: EvalConfig, /, **more: str) -> Values:
    """How videos are tested, as plain values: sampling, sizes in pixels, views, fusion and policy."""
    sampling = {key: getattr(data, key) for key in ("num_segments", "frame_stride", "sampling", "short_side", "size")}
    if data.exposure != "none":
        sampling["exposure"] = data.exposure
    size = {"preset": protocol_name(test), "crop_size": eval_crop_size(data, test)}
    if test.segments:
        sampling["num_segments"] = test.segments
    mirrored = {"flip_labels": "swapped" if data.flip == "swap" else "same"} if test.flip else {}
    fusion = {"fusion": fusion_name(test.fusion, data.multi_label)}
    return {
        **sampling,
        **to_dict(test),
        **fusion,
        **size,
        "crop_order": list(CROP_ORDERS[test.crops]),
        **mirrored,
        **more,
    }
