"""What is seen to before any work: numbers in their ranges, places that can be written to."""

import operator
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mdtnet.errors import ConfigError

RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "at least 1": (
        lambda x: x >= 1,
        "data.num_segments data.frame_stride data.short_side data.size model.mdtnet.frames_per_segment "
        "model.mdtnet.excite_every model.mdtnet.reduction model.saliency.pool train.epochs train.batch_size "
        "train.accumulate train.val_every test.clips test.batch_size",
    ),
    "0 or more": (
        lambda x: x >= 0,
        "data.workers model.mdtnet.key_frame model.saliency.noise model.saliency.frequency_weights train.lr "
        "train.weight_decay train.steps train.decay train.warmup_epochs train.classifier_lr train.temporal_lr "
        "train.offset_lr model.mdtnet.fine_start model.mdtnet.gate_start model.mdtnet.dcme_reach",
    ),
    "0 (off) or more": (
        lambda x: x >= 0,
        "data.folds train.clip_grad train.mixup train.cutmix train.early_stopping train.save_every test.crop_size",
    ),
    "0 to 1": (
        lambda x: 0 <= x <= 1,
        "data.color_jitter model.saliency.floor model.saliency.drop model.saliency.quantile "
        "model.saliency.scene train.exchange",
    ),
    "0 or more and less than 1": (
        lambda x: 0 <= x < 1,
        "model.dropout train.momentum train.label_smoothing train.ema",
    ),
    "more than 0 and less than 1": (lambda x: 0 < x < 1, "data.val_fraction"),
    "more than 0": (lambda x: x > 0, "model.width"),
    "0 to 30": (lambda x: 0 <= x <= 30, "data.randaugment"),
    "0 to 4294967295": (lambda x: 0 <= x < 2**32, "train.seed test.seed"),
}
"""What is expected -> whether a number is it, and the keys of a run's config that must be; of a list each number."""


def check_ranges(config: Any, *, part: str = "") -> None:
    """See that the numbers of a `RunConfig` are in their ranges, or those of its `part`, such as `model.saliency`.

    Raises:
        ConfigError: the message names the key, the value and what was expected.
    """
    for expected, (fits, keys) in RANGES.items():
        for key in keys.split():
            if not key.startswith(part):
                continue
            value = operator.attrgetter(key[len(part) :].lstrip("."))(config)
            if not all(map(fits, value if isinstance(value, tuple) else (value,))):
                shown = list(value) if isinstance(value, tuple) else value
                raise ConfigError(f"{key} is {shown}, expected {expected}")


def make_folder(path: str | Path) -> None:
    """Make a folder where there is none, and see that files can be written into it.

    Raises:
        ConfigError: they cannot.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: no folder that can be written into: {error.strerror}") from error


def check_file(path: str | Path) -> None:
    """See that a file can be written, or written anew; its folder must be there.

    Raises:
        ConfigError: it cannot.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"{path}: cannot be written, expected a file name in a folder that exists")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
