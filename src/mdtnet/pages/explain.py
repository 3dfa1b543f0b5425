"""Explanations of what networks say about a video, as one picture: the evidence for a class, or DCME's offsets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from mdtnet.errors import ConfigError, nearest
from mdtnet.pages.evidence import evidence, evidence_sheet, write_evidence
from mdtnet.pages.offsets import offsets_sheet
from mdtnet.pages.sheet import SHEETS, checked_output, save_sheet
from mdtnet.pages.subject import Subject
from mdtnet.system.files import check_file

STAGES = {"evidence": (4,), "offsets": (2, 3, 4)}


def explain(
    checkpoints: Sequence[str | Path],
    source: str | Path,
    out: str | Path,
    *,
    what: Literal["evidence", "offsets"] = "evidence",
    label: str = "",
    at: tuple[float, float] | None = None,
    stages: Sequence[int] = (),
    columns: int = 4,
    json: str | Path = "",
    device: str = "auto",
) -> Path:
    """Write a sheet of one video: rows are checkpoints (and stages of their trunks), columns segments.

    `evidence` shows what speaks for a class, `label` or what each network predicts: key frames, salience, Grad-CAM, and
    how far each part of the network moves the score; `json` is a file for the same in numbers. `offsets` shows where
    the last DCME of a stage samples the next key frame, for one place of a key frame: `at`, (x, y) in [0, 1] of the
    crop, or the place of most motion. Frames are read, resized and cropped as for a prediction of one view.

    Raises:
        ConfigError: an option out of its range, a class the network does not know, a network without offsets.
        CheckpointError, VideoError: a file cannot be read.
    """
    _check_options(what, at, stages, columns)
    out = checked_output(source, out, SHEETS, ", ".join(SHEETS))
    if json:
        _check_json(what, json)
    seen = [Subject.of(path, source, device) for path in checkpoints]
    if len(lengths := {len(one.clip[0]) for one in seen}) > 1:
        raise ConfigError(f"networks of {' and '.join(map(str, sorted(lengths)))} segments do not fit on one sheet")
    stages, title = tuple(stages) or STAGES[what], Path(source).name
    if what == "offsets":
        return save_sheet(offsets_sheet(seen, title, at, stages, columns), out)
    found = [evidence(one, label, stages) for one in seen]
    picture = evidence_sheet(found, title, columns)
    if json:
        write_evidence(found, source, json)
    return save_sheet(picture, out)


def _check_options(what: str, at: tuple[float, float] | None, stages: Sequence[int], columns: int) -> None:
    if what not in STAGES:
        raise ConfigError(f"what is '{what}', expected one of {', '.join(STAGES)}{nearest(what, STAGES)}")
    if wrong := [stage for stage in stages if stage not in (2, 3, 4)]:
        raise ConfigError(f"stages has {wrong[0]}, expected some of 2, 3, 4")
    if columns < 0:
        raise ConfigError(f"columns is {columns}, expected 0 (all) or more")
    if at is not None and not all(0 <= value <= 1 for value in at):
        raise ConfigError(f"at is {at[0]:g},{at[1]:g}, expected two numbers from 0 to 1")


def _check_json(what: str, json: str | Path) -> None:
    if what != "evidence":
        raise ConfigError(f"json is {json}, but what is '{what}': only evidence is written as JSON")
    check_file(json)
