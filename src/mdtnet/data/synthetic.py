"""The built-in data set: a drawn human figure, in actions that mostly differ only in time's direction.

The two actions of a reversal pair are the same frames in opposite order: one frame cannot tell them apart.
What a clip is drawn from is in `scene` and `movers`, how it is drawn in `drawing` and `backdrop`; here are the
actions and the files.
"""

import csv
import io
import logging
import multiprocessing
import os
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
import yaml

from mdtnet.data.drawing import render
from mdtnet.data.movers import MOST_DISTRACTORS
from mdtnet.data.scene import Background, Conditions, Key, Motion, Scene, Theme, draw_scene
from mdtnet.errors import ConfigError

log = logging.getLogger(__name__)

RENDERER_VERSION = 1  # raise it with every change of the pixels: a folder of an older version is not continued
H264_QP = 23

Split = Literal["train", "val", "val_same", "val_neutral"]
Places = Literal["misleading", "same", "neutral"]
VALIDATION: dict[Places, Split] = {"misleading": "val", "same": "val_same", "neutral": "val_neutral"}
"""Where the clips of a validation set are -> its name. The sets differ in the places alone."""


@dataclass(frozen=True)
class Action:
    """A class of the data set: a motion, played forwards or backwards."""

    motion: Motion
    backwards: bool = False


SIT = Motion(
    keys=(
        Key(0.0),
        Key(0.45, hip=(-0.10, 0.41), lean=34, near=(0.24, 0.47), far=(0.27, 0.48)),
        Key(1.0, hip=(-0.22, 0.31), lean=2, near=(0.20, 0.37), far=(0.23, 0.38)),
    ),
    prop="chair",
)
PICK = Motion(
    keys=(
        Key(0.0),
        Key(0.42, hip=(-0.13, 0.27), lean=60, near=(0.41, 0.13), far=(0.46, 0.15)),
        Key(0.70, hip=(-0.05, 0.44), lean=28, near=(0.30, 0.42), far=(0.35, 0.44)),
        Key(1.0, hip=(0.0, 0.505), lean=-4, near=(0.19, 0.63), far=(0.24, 0.65)),
    ),
    prop="parcel",
    grip=(0.42, 1.0),
)
OPEN = Motion(
    keys=(
        Key(0.0),
        Key(0.22, lean=12, near=(0.27, 0.56)),
        Key(0.78, hip=(0.30, 0.50), lean=13, near=(0.25, 0.56)),
        Key(1.0, hip=(0.30, 0.505)),
    ),
    prop="door",
    grip=(0.22, 0.78),
    walk=True,
)
PUSH = Motion(
    keys=(
        Key(0.0),
        Key(0.20, hip=(0.0, 0.475), lean=32, near=(0.32, 0.52), far=(0.36, 0.54)),
        Key(0.80, hip=(0.44, 0.475), lean=32, near=(0.32, 0.52), far=(0.36, 0.54)),
        Key(1.0, hip=(0.44, 0.505)),
    ),
    prop="crate",
    grip=(0.20, 0.80),
    walk=True,
)
RAISE = Motion(
    keys=(
        Key(0.0),
        Key(0.50, near=(0.30, 0.80), far=(0.34, 0.82)),
        Key(1.0, lean=-3, near=(0.03, 1.12), far=(0.12, 1.12)),
    ),
)
WAVE = Motion(
    keys=(
        Key(0.0),
        *(Key(0.2 + 0.1 * i, near=((0.05, 1.05), (0.28, 0.95))[i % 2]) for i in range(7)),
        Key(1.0),
    ),
)
JUMP = Motion(
    keys=(
        Key(0.0),
        Key(0.28, hip=(-0.06, 0.36), lean=30, near=(-0.12, 0.45), far=(-0.08, 0.46)),
        Key(0.45, hip=(0.0, 0.56), lean=4, near=(0.22, 0.98), far=(0.26, 0.99), lift=0.06),
        Key(0.55, hip=(0.0, 0.66), lean=4, near=(0.12, 1.22), far=(0.20, 1.22), lift=0.18),
        Key(0.65, hip=(0.0, 0.56), lean=6, near=(0.22, 0.98), far=(0.26, 0.99), lift=0.06),
        Key(0.80, hip=(-0.06, 0.39), lean=24, near=(0.20, 0.55), far=(0.24, 0.56)),
        Key(1.0),
    ),
)

ACTIONS: dict[str, Action] = {
    "sit_down": Action(SIT),
    "stand_up": Action(SIT, backwards=True),
    "pick_up": Action(PICK),
    "put_down": Action(PICK, backwards=True),
    "open_door": Action(OPEN),
    "close_door": Action(OPEN, backwards=True),
    "push_box": Action(PUSH),
    "pull_box": Action(PUSH, backwards=True),
    "raise_arms": Action(RAISE),
    "lower_arms": Action(RAISE, backwards=True),
    "wave": Action(WAVE),
    "jump": Action(JUMP),
}

REVERSAL_PAIRS: tuple[tuple[str, str], ...] = (
    ("sit_down", "stand_up"),
    ("pick_up", "put_down"),
    ("open_door", "close_door"),
    ("push_box", "pull_box"),
    ("raise_arms", "lower_arms"),
)


# ---- what is asked for ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RenderConfig:
    """What the built-in data set holds. The same config gives the same files, byte for byte."""

    train_clips: int = 40
    """Training clips per class."""
    val_clips: int = 10
    """Validation clips per class; they share nothing drawn with the training clips, but for places of `scene_bias`."""
    size: int = 112
    """Side of the square frames in pixels, even, 32 to 1024."""
    fps: int = 30
    """Frames per second, 5 to 120; clips last 1 to 2 seconds."""
    background: Background = "mixed"
    """A bare wall (plain), a furnished room (cluttered), either with probability 1/2 (mixed); or rooms and streets
    where things move by themselves: screens, curtains, trees, cars, passers-by (moving)."""
    seed: int = 0
    """Seed of everything that is drawn by chance, 0 or more."""
    actions: tuple[str, ...] = ()
    """Names of the actions to render. Empty: all of them. Without `scene_bias` clips do not depend on what else is
    rendered."""
    shake: float = 0.0
    """Shake of a hand-held camera: the largest shift as a share of the picture's side, 0 (tripod) to 0.2."""
    distractors: float = 0.0
    """How many things pass through the picture on average (walkers, balls, birds, balloons), 0 to 8."""
    scene_bias: float = 0.0
    """Probability, 0 to 1, that a clip is set in a class's own place: in training its own class's, in validation
    another class's. 0: places say nothing about the class. 1: they say everything, and mislead in validation."""
    val_places: tuple[Places, ...] = ("misleading",)
    """Validation sets to render, for `scene_bias`: the same clips in places of another class (misleading), of their own
    class as in training (same), or in places of no class (neutral)."""
    difficulty: float = 0.0
    """0 to 1: how far the clips go in smaller figures, oblique views, faster actions, dull clothes, things in front of
    the figure, darkness and noise. Each clip draws each of them between 0 and this."""

    def __post_init__(self) -> None:
        _check_range("train_clips", self.train_clips, 1, 100_000)
        _check_range("val_clips", self.val_clips, 0, 100_000)
        _check_range("size", self.size, 32, 1024)
        _check_range("fps", self.fps, 5, 120)
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("shake", self.shake, 0, 0.2)
        _check_range("distractors", self.distractors, 0, MOST_DISTRACTORS)
        _check_range("scene_bias", self.scene_bias, 0, 1)
        _check_range("difficulty", self.difficulty, 0, 1)
        if self.size % 2:
            raise ConfigError(f"size is {self.size}, expected an even number (H.264 with 4:2:0 colour)")
        if self.background not in ("plain", "cluttered", "moving", "mixed"):
            raise ConfigError(f"background is {self.background!r}, expected plain, cluttered, moving or mixed")
        if not self.val_places or len(set(self.val_places)) < len(self.val_places):
            raise ConfigError(
                f"val_places is {list(self.val_places)}, expected some of {', '.join(VALIDATION)}, each once"
            )
        if self.val_places != ("misleading",) and not self.scene_bias:
            raise ConfigError(
                f"val_places is {list(self.val_places)}, but without scene_bias places say nothing about the class"
            )
        for name in self.actions:
            _check_action(name)
        if len(set(self.actions)) < len(self.actions):
            raise ConfigError(f"actions names one action twice: {', '.join(self.actions)}")
        if self.scene_bias and len(self.classes) < 2:
            raise ConfigError("scene_bias needs at least 2 actions: validation takes another one's place")

    @property
    def classes(self) -> tuple[str, ...]:
        """The rendered classes, in the order of `ACTIONS`."""
        return tuple(name for name in ACTIONS if name in self.actions or not self.actions)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}, expected {low} to {high}")


def _check_action(name: str) -> None:
    if name not in ACTIONS:
        raise ConfigError(f"unknown action {name!r}, expected one of {', '.join(ACTIONS)}")


# ---- frames ---------------------------------------------------------------------------------------------


def render_clip(
    action: str, index: int = 0, *, config: RenderConfig | None = None, split: Split = "train"
) -> np.ndarray:
    """Draw clip `index` of an action: uint8 RGB `[N, size, size, 3]`.

    The same (seed, split, index) gives the twins of a reversal pair the same scene: their frames are each
    other's, back to front. With `scene_bias` they may be in different places.

    Raises:
        ConfigError: `action` is not one of `ACTIONS`, or with `scene_bias` not one of `config`.
    """
    _check_action(action)
    config = config or RenderConfig()
    if config.scene_bias and action not in config.classes:
        raise ConfigError(f"action is '{action}', expected one of {', '.join(config.classes)}")
    frames = render(clip_scene(action, split, index, config))
    return np.ascontiguousarray(frames[::-1]) if ACTIONS[action].backwards else frames


def clip_scene(action: str, split: Split, index: int, config: RenderConfig) -> Scene:
    """A clip's parameters, drawn forwards; twins share them, but for the place where `scene_bias` sets it."""
    motion = ACTIONS[action].motion
    name = next(n for n, other in ACTIONS.items() if other.motion is motion)
    drawn_as = "train" if split == "train" else "val"  # the sets of validation show the same figures
    rng = np.random.default_rng([config.seed, zlib.crc32(f"{drawn_as}/{name}".encode()), index])
    (coin,) = rng.spawn(1)
    biased = coin.random() < config.scene_bias and split != "val_neutral"
    theme = _theme(action, split, config) if biased else None
    asked = Conditions(config.background, config.shake, config.distractors, config.difficulty)
    return draw_scene(motion, rng, size=config.size, fps=config.fps, conditions=asked, theme=theme)


def place_owner(action: str, split: Split, config: RenderConfig) -> str:
    """The class whose place a biased clip is set in: its own, in misleading validation that of half the list on."""
    classes = config.classes
    return (
        action
        if split in ("train", "val_same")
        else classes[(classes.index(action) + len(classes) // 2) % len(classes)]
    )


def _theme(action: str, split: Split, config: RenderConfig) -> Theme:
    owner, classes = config.classes.index(place_owner(action, split, config)), len(config.classes)
    rng = np.random.default_rng([config.seed, zlib.crc32(b"places")])
    hues, seeds = (rng.permutation(classes) + rng.random()) / classes, rng.integers(2**31, size=classes)
    return Theme(hue=float(hues[owner]), seed=int(seeds[owner]))


# ---- files ----------------------------------------------------------------------------------------------


class RenderSummary(NamedTuple):
    """What `render_dataset` did."""

    out: Path
    classes: tuple[str, ...]
    train: int
    """Training videos in the folder."""
    val: int
    """Validation videos in the folder, of each of its sets."""
    rendered: int
    """Videos that were written now; the others were there from an earlier, interrupted render."""


@dataclass(frozen=True)
class _Job:
    """One scene and the files that show it: one, or the two twins (if nothing sets them apart)."""

    out: Path
    split: Split
    index: int
    actions: tuple[str, ...]
    config: RenderConfig


def render_dataset(
    out: str | Path,
    config: RenderConfig | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> RenderSummary:
    """Write the data set as video files: `OUT/train/<class>/*.mp4`, `OUT/val/<class>/*.mp4`.

    Further validation sets are `val_same` and `val_neutral`. `OUT/train.csv`, `OUT/val.csv`, ... list them,
    `OUT/README.md` says what they are. Asked for again, an interrupted render goes on: files that are there are kept.
    `workers` is the number of processes that draw; the files do not depend on it. `progress` is called with the
    numbers of scenes done and in all.

    Raises:
        ConfigError: `out` cannot be written, or holds anything but a render of the same config.
    """
    config, out = config or RenderConfig(), Path(out)
    _claim(out, config)
    jobs = list(_jobs(out, config))
    rendered = 0
    for done, count in enumerate(_run(jobs, workers), start=1):
        rendered += count
        if progress:
            progress(done, len(jobs))
    for split in _counts(config):
        _write(out / f"{split}.csv", _list_file(split, config).encode())
    classes = config.classes
    summary = RenderSummary(out, classes, config.train_clips * len(classes), config.val_clips * len(classes), rendered)
    log.info("%s: %d training and %d validation videos, %d of them new", out, summary.train, summary.val, rendered)
    return summary


def _claim(out: Path, config: RenderConfig) -> None:
    """Make `out` ours: new or empty, or begun with the same config (the README says which)."""
    readme = _readme(config).encode()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if all(path.match("README.md.*.part") for path in out.iterdir()):  # empty, or killed at the first file
            _write(out / "README.md", readme)
        ours = (out / "README.md").is_file() and (out / "README.md").read_bytes() == readme
    except OSError as error:
        raise ConfigError(f"{out}: cannot be used as output folder: {error.strerror}") from error
    if not ours:
        raise ConfigError(f"{out}: not empty and not a render of this config; give a new folder or empty it")


def _jobs(out: Path, config: RenderConfig) -> Iterable[_Job]:
    together: dict[str | int, list[str]] = {}
    for name in config.classes:
        together.setdefault(name if config.scene_bias else id(ACTIONS[name].motion), []).append(name)
    for split, count in _counts(config).items():
        for name in config.classes:
            (out / split / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            for names in together.values():
                yield _Job(out, split, index, tuple(names), config)


def _counts(config: RenderConfig) -> dict[Split, int]:
    return {"train": config.train_clips, **{VALIDATION[places]: config.val_clips for places in config.val_places}}


def _run(jobs: list[_Job], workers: int) -> Iterable[int]:
    if workers <= 1:
        yield from map(_render_job, jobs)
        return
    spawn = multiprocessing.get_context("spawn")  # a forked copy of a process with threads can hang
    with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        yield from pool.map(_render_job, jobs, chunksize=4)


def _render_job(job: _Job) -> int:
    """Write the job's files that are not there yet; how many that were."""
    missing = [name for name in job.actions if not (job.out / _path(job.split, name, job.index)).exists()]
    if not missing:
        return 0
    frames = render(clip_scene(missing[0], job.split, job.index, job.config))
    for name in missing:
        ordered = frames[::-1] if ACTIONS[name].backwards else frames
        _write(job.out / _path(job.split, name, job.index), encode(ordered, fps=job.config.fps))
    return len(missing)


def _path(split: Split, action: str, index: int) -> str:
    return f"{split}/{action}/{action}_{index:05d}.mp4"


def encode(frames: np.ndarray, *, fps: int) -> bytes:
    """Frames uint8 RGB `[N, H, W, 3]` as an H.264 mp4 file; the same frames give the same bytes.

    Every frame is coded by itself, all with one quantiser: decoded twins are exact reversals too. Predicted
    frames keep traces of what came before them, which would give the direction away in a single frame.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {"qp": str(H264_QP), "g": "1", "preset": "veryfast"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    """A file is whole or absent, also when the render is killed, or another one writes it at the same time."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)


def _list_file(split: Split, config: RenderConfig) -> str:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label"))
    rows.writerows((_path(split, name, i), name) for name in config.classes for i in range(_counts(config)[split]))
    return text.getvalue()


def _readme(config: RenderConfig) -> str:
    kept = {k: v for k, v in asdict(config).items() if v or k not in CONDITIONS}  # what is off is not told
    if config.val_places == ("misleading",):
        del kept["val_places"]
    else:
        kept["val_places"] = list(config.val_places)
    settings = yaml.safe_dump({**kept, "actions": list(config.classes)}, sort_keys=False)
    pairs = [f"- {a} / {b}" for a, b in REVERSAL_PAIRS if a in config.classes and b in config.classes]
    return README.format(
        still="." if config.background == "moving" else "; backgrounds stand still.",
        conditions="".join(f"{line}\n" for line in conditions(config)),
        but=" (but for the place behind it)" if config.scene_bias else "",
        pairs="\n".join(pairs) or "- none",
        sets="".join(f"\n- `{VALIDATION[p]}`: {SETS[p]}" for p in config.val_places if p in SETS),
        settings=settings,
        version=RENDERER_VERSION,
    )


def conditions(config: RenderConfig) -> list[str]:
    """A sentence for each option that makes the set more than figures before still backgrounds."""
    values = asdict(config)
    moving = [MOVING] if config.background == "moving" else []
    return moving + [text.format(**values) for name, text in CONDITIONS.items() if values[name]]


SETS = {
    "same": "the validation clips, set in the places that training has for their class.",
    "neutral": "the validation clips, set in places of no class.",
}
MOVING = "Rooms and streets move by themselves: screens, curtains, fans, plants, trees, cars, passers-by."
CONDITIONS = {
    "shake": "The camera shakes by up to {shake:g} of the picture's side.",
    "distractors": "On average {distractors:g} things pass that have nothing to do with the action.",
    "scene_bias": "With probability {scene_bias:g} a clip is set in a class's own place: in training its own class's, "
    "in validation\nthat of the class half the list of classes further on.",
    "difficulty": "Size, viewpoint, speed, clothes, cover, light and noise are of difficulty {difficulty:g} (0 to 1).",
}

README = """# Rendered human actions

Videos of a drawn human figure, made by `mdtnet data render`. Bodies, clothes, speed, viewpoint, position and
background are drawn by chance from the seed{still}
{conditions}
- `train/<class>/`, `val/<class>/`: H.264 files, every frame coded by itself.
- `train.csv`, `val.csv`: `path,label`, paths relative to this folder.{sets}

Pairs of classes that differ only in the direction of time:

{pairs}

Clip i of one class of a pair is clip i of the other, back to front{but}: a single frame tells nothing inside a
pair. Training and validation share no scene. To split the training clips further, keep twins together: clips
with the same number are one group (`--data.group '_(\\d+)\\.mp4'`).

Renderer version {version}, with this config:

```yaml
{settings}```
"""
