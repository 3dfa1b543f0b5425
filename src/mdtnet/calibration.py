"""Probabilities that mean what they say: a temperature for a network's logits, fitted on videos of its own.

A temperature divides the classifier's weights, so that every view, stream and export of the network has it; which class
is best for a view does not change.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdtnet import metrics
from mdtnet.checkpoint import load_checkpoint, model_of, save_safetensors
from mdtnet.config import EvalConfig
from mdtnet.data.annotations import VideoList
from mdtnet.errors import ConfigError
from mdtnet.scores import ScoreTable

LOWEST, HIGHEST = 0.1, 10.0
"""Temperatures that are looked for."""
STEPS = 200


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it does on other videos than it was fitted on."""

    temperature: float
    """What logits are divided by; above 1 the network was too sure of itself."""
    fitted_on: int
    """Videos that it was fitted on."""
    before: float | None
    """Expected calibration error, 0 to 1, on the videos that it is judged by."""
    after: float | None


def check_apart(fitted: VideoList, judged: VideoList, *, name: str, other: str) -> None:
    """Check that no video is in both lists.

    Raises:
        ConfigError: one is; the message names it and the lists `name` and `other`.
    """
    videos = {os.path.realpath(judged[i].path) for i in range(len(judged))}
    both = [fitted[i].path for i in range(len(fitted)) if os.path.realpath(fitted[i].path) in videos]
    if both:
        raise ConfigError(
            f"{name} and {other} share {len(both)} videos, such as {both[0]}: a temperature is not judged by videos "
            "that it was fitted on"
        )


def fit_temperature(table: ScoreTable, config: EvalConfig) -> float:
    """The temperature under which the right classes have the highest likelihood, 0.1 to 10.

    Raises:
        ConfigError: there is none between these: no video can be read, or all of them are right (or wrong).
    """
    logs = np.linspace(math.log(LOWEST), math.log(HIGHEST), STEPS + 1)
    losses = [metrics.log_loss(table.sharpened(math.exp(x)).probabilities(config.fusion), table.labels) for x in logs]
    known = [math.inf if loss is None else loss for loss in losses]
    best = int(np.argmin(known))
    if not 0 < best < STEPS:
        readable = len(table.names) - len(table.unreadable())
        raise ConfigError(
            f"no temperature from {LOWEST} to {HIGHEST} fits {readable} videos best: are they more than a few, and "
            "neither all right nor all wrong?"
        )
    return math.exp(float(logs[best]))


def calibrate(
    checkpoint: str | Path, fitted: ScoreTable, judged: ScoreTable, config: EvalConfig, *, out: str | Path
) -> Calibration:
    """Fit a temperature to the scores `fitted`, judge it by `judged`, and write the calibrated network to `out`.

    Raises:
        ConfigError: videos can have several labels, or see `fit_temperature`. CheckpointError: see `load_checkpoint`.
    """
    if fitted.multi_label:
        raise ConfigError("a temperature is fitted where every video has one label, not with data.multi_label")
    temperature = fit_temperature(fitted, config)
    errors = [
        metrics.calibration_error(table.probabilities(config.fusion), table.labels)
        for table in (judged, judged.sharpened(temperature))
    ]
    found = Calibration(temperature, len(fitted.names) - len(fitted.unreadable()), *errors)
    content = load_checkpoint(checkpoint)
    model = model_of(content, where=str(checkpoint))
    for weights in model.head.fc.parameters():
        weights.data /= temperature
    save_safetensors(
        out,
        model=model,
        config=content.config,
        classes=content.classes,
        metrics={**content.metrics, "calibration": vars(found)},
        source=content.source,
    )
    return found
