"""The pieces of a training recipe: schedule, parameter groups, batch-norm modes, averages, random states."""

import math
import random
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mdtnet.checkpoint import Rng
from mdtnet.config import RunConfig, TrainConfig

REFERENCE_BATCH = 64  # `train.lr` is for this many clips per step
TEMPERATURE = 2.0  # of distillation


def learning_rate(step: int, steps_per_epoch: int, config: TrainConfig) -> float:
    """Learning rate of optimiser step `step`, counted from 0 over the whole run, before a group's multiplier.

    Linear in the global batch; a linear warm-up, then `steps` (times `decay` at each) or a cosine to 0.
    """
    base = config.lr * config.batch_size / REFERENCE_BATCH
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        base *= (step + 1) / (warmup + 1)
    if config.schedule == "steps":
        return base * config.decay ** sum(step >= epoch * steps_per_epoch for epoch in config.steps)
    if step < warmup:
        return base
    rest = max(1, config.epochs * steps_per_epoch - warmup)
    return base * 0.5 * (1 + math.cos(math.pi * min(1, (step - warmup) / rest)))


def class_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Weight of each class, float64 `[C]`: inversely to its videos, 1 on average over the videos; 0 without any."""
    counts = np.bincount(labels, minlength=num_classes)
    return np.where(counts > 0, len(labels) / np.maximum(counts, 1) / max(1, (counts > 0).sum()), 0.0)


def loss_weights(labels: np.ndarray, num_classes: int, config: TrainConfig) -> Tensor | None:
    """Weight of each class in the loss, float32 `[C]`; None unless `class_balance` is `weights`."""
    if config.class_balance != "weights":
        return None
    return torch.from_numpy(class_weights(labels, num_classes)).float()


def sample_weights(labels: np.ndarray, config: TrainConfig) -> np.ndarray | None:
    """Probability of each video to be the next drawn, float64 `[N]`; None unless `class_balance` is `sampling`."""
    if config.class_balance != "sampling":
        return None
    weights = class_weights(labels, int(labels.max()) + 1)[labels]
    return weights / weights.sum()


def mix_clips(
    frames: Tensor, labels: Tensor, *, num_classes: int, mixup: float, cutmix: float
) -> tuple[Tensor, Tensor]:
    """Mix each clip of a batch with its neighbour: uint8 frames `[B, ..., H, W]` and class shares `[B, C]`.

    Labels are int64 `[B]`, or `[B, C]` of 0 and 1 where a video can have several.
    One share for the batch, from Beta(alpha, alpha); CutMix takes one box from all frames. Nothing is drawn where
    both alphas are 0. Sources: Zhang et al., mixup (2018); Yun et al., CutMix (2019).
    """
    own = (labels if labels.ndim == 2 else torch.nn.functional.one_hot(labels, num_classes)).float()
    if len(labels) < 2 or not (mixup or cutmix):
        return frames, own
    cut = bool(cutmix) and (not mixup or bool(torch.rand(()) < 0.5))
    alpha = cutmix if cut else mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())  # of the clip itself
    other = frames.roll(1, 0)
    if cut:
        frames, share = _cut(frames, other, share)
    else:
        frames = (share * frames + (1 - share) * other).round().to(frames.dtype)
    return frames, share * own + (1 - share) * own.roll(1, 0)


def _cut(frames: Tensor, other: Tensor, share: float) -> tuple[Tensor, float]:
    """A box of about 1 - share of the area from `other`, and the share that is left."""
    height, width = frames.shape[-2:]
    side = math.sqrt(1 - share)
    y, x = float(torch.rand(())) * height, float(torch.rand(())) * width
    top, bottom = (min(max(round(y + s * side * height / 2), 0), height) for s in (-1, 1))
    left, right = (min(max(round(x + s * side * width / 2), 0), width) for s in (-1, 1))
    frames = frames.clone()
    frames[..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return frames, 1 - (bottom - top) * (right - left) / (height * width)


def clip_loss(logits: Tensor, shares: Tensor, config: RunConfig, weights: Tensor | None) -> Tensor:
    """Cross-entropy, summed over the clips, of logits and class shares `[B, C]`, with `weights` of the classes `[C]`.

    With `data.multi_label`: binary cross-entropy, averaged over classes; label smoothing moves targets towards 1/2.
    """
    smoothing = config.train.label_smoothing
    if not config.data.multi_label:
        return F.cross_entropy(logits, shares, weights, label_smoothing=smoothing, reduction="sum")
    smooth = shares * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, smooth, reduction="none").mean(1).sum()


def kept_segments(num_segments: int, config: TrainConfig, *, step: int) -> list[int]:
    """Which of T segments a network is trained with in optimiser step `step`, in order: all, or with `segments` one
    from each of as many equal spans as are drawn. They depend on seed and step alone."""
    if not config.segments:
        return list(range(num_segments))
    rng = np.random.default_rng([config.seed, step])
    count = int(rng.choice([*config.segments, num_segments]))
    return [int(rng.choice(span)) for span in np.array_split(np.arange(num_segments), count)]


def teaching_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Divergence, summed over the clips, of class probabilities from a teacher's, both at a temperature of 2.

    Logits `[B, C]` each. Source: Hinton et al., Distilling the knowledge in a neural network (2015).
    """
    both = [F.log_softmax(x / TEMPERATURE, dim=1) for x in (logits, taught)]
    return TEMPERATURE**2 * F.kl_div(both[0], both[1], log_target=True, reduction="sum")


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Trained parameters in groups, each with a name, its `lr_scale` and its `weight_decay`.

    `trunk` and `copies` of its layers, which start alike; `temporal`, the layers that start anew; of these `offsets`,
    which move taps; `classifier`. Batch-norm parameters and biases are apart, as `trunk norms` and so on, and not
    decayed.
    """
    scales = {
        "trunk": 1.0,
        "copies": 1.0,
        "classifier": config.classifier_lr,
        "temporal": config.temporal_lr,
        "offsets": config.temporal_lr * config.offset_lr,
    }
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members.setdefault((_group_of(name), parameter.ndim < 2), []).append(parameter)
    return [
        {
            "params": members[group, flat],
            "name": f"{group} norms" if flat else group,
            "lr_scale": scale,
            "weight_decay": config.weight_decay if config.decay_norms or not flat else 0.0,
        }
        for group, scale in scales.items()
        for flat in (False, True)
        if (group, flat) in members
    ]


def _group_of(name: str) -> str:
    if name.startswith("head."):
        return "classifier"
    if name.startswith("trunk.") and ".temporal." not in name:
        return "trunk"
    if name.startswith(("fine.stem.", "fine.stage1.")):
        return "copies"
    return "offsets" if ".dcme.offset." in name else "temporal"


def freeze_partial_bn(model: nn.Module) -> None:
    """Stop training every batch norm of the 2D trunk but the first (TSN's partial batch normalisation)."""
    norms = [m for name, m in model.named_modules() if isinstance(m, _BatchNorm) and _group_of(name + ".") == "trunk"]
    for norm in norms[1:]:
        norm.requires_grad_(False)


def set_train_mode(model: nn.Module) -> None:
    """Train mode, except that batch norms with frozen parameters keep their statistics too."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
            module.eval()


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, *, decay: float, step: int) -> None:
    """Move the moving average of parameters and buffers towards the model; early steps count more."""
    weight = 1 - min(decay, (1 + step) / (10 + step))
    for old, new in zip(average.state_dict().values(), model.state_dict().values()):
        if old.is_floating_point():
            old.lerp_(new, weight)
        else:
            old.copy_(new)


def rng_state() -> Rng:
    """State of every random number generator, as plain values and tensors."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 (the global one, which other code may use)
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has_gauss), float(gauss)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: Rng) -> None:
    """Put back what `rng_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), place, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
