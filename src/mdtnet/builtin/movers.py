"""The built-in data set's motion that has nothing to do with the action: background, distractors, camera shake.

None of it depends on the class or on the direction of time: read backwards, every track has the same
distribution. So phases are uniform, directions are drawn by a coin, times of passing are uniform over the clip, and
nothing falls, loses energy or has a front that would have to lead.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["screen", "pendulum", "curtain", "fan", "plant", "tree", "car", "walker", "ball", "bird", "balloon"]

INDOORS: tuple[Kind, ...] = ("screen", "pendulum", "curtain", "fan", "plant")
PASSING: tuple[Kind, ...] = ("car", "walker")
DISTRACTORS: tuple[Kind, ...] = ("walker", "ball", "bird", "balloon")
MOST_DISTRACTORS = 8

# speed of things that pass, in statures per second: slowest and fastest
SPEED: dict[Kind, tuple[float, float]] = {
    "car": (0.8, 2.0),
    "walker": (0.4, 0.9),
    "ball": (0.5, 1.3),
    "bird": (0.6, 1.5),
    "balloon": (0.1, 0.4),
}


@dataclass(frozen=True, eq=False)
class Mover:
    """One thing that moves by itself."""

    kind: Kind
    x: np.ndarray  # [N], statures
    y: np.ndarray  # [N], of its foot (or middle, of things in the air)
    phase: np.ndarray  # [N], of its own motion: -1 to 1 for what sways, 0 to 1 for a screen, else radians
    size: float  # 1 is average
    colour: tuple[int, int, int]
    in_front: bool = False  # nearer than the figure


# ---- tracks: each is as likely as itself read backwards -------------------------------------------------


def wobble(rng: np.random.Generator, num_frames: int, fps: int, *, channels: int = 1) -> np.ndarray:
    """A smooth wandering about 0, never beyond -1 and 1: `[N, channels]`.

    Three sines of 0.3 to 2.5 cycles per second, the slow ones wider, as from a hand that holds a camera.
    """
    cycles, phase = np.exp(rng.uniform(np.log(0.3), np.log(2.5), (3, channels))), rng.uniform(0, 1, (3, channels))
    share = 1 / cycles / (1 / cycles).sum(0)
    seconds = (np.arange(num_frames) / fps)[:, None, None]
    return (share * np.sin(2 * np.pi * (cycles * seconds + phase))).sum(1)


def turning(rng: np.random.Generator, num_frames: int, fps: int, slow: float, fast: float) -> np.ndarray:
    """An angle in radians that grows or falls steadily, `slow` to `fast` turns per second: `[N]`."""
    turns = rng.uniform(slow, fast) * rng.choice([-1, 1])
    return 2 * np.pi * (turns * np.arange(num_frames) / fps + rng.uniform())


def flicker(rng: np.random.Generator, num_frames: int, fps: int) -> np.ndarray:
    """Values 0 to 1 that jump now and then: `[N]`."""
    cuts = np.sort(rng.uniform(0, num_frames, rng.poisson(3 * num_frames / fps)))
    return rng.uniform(0, 1, len(cuts) + 1)[np.searchsorted(cuts, np.arange(num_frames) + 0.5)]


def passing(rng: np.random.Generator, num_frames: int, fps: int, kind: Kind, *, reach: float) -> np.ndarray:
    """x of something that passes and is in view at one random moment of the clip: `[N]`."""
    speed = rng.uniform(*SPEED[kind]) * rng.choice([-1, 1])
    seen_at, seen_where = rng.uniform(0, num_frames - 1), rng.uniform(-reach, reach)
    return seen_where + speed * (np.arange(num_frames) - seen_at) / fps


# ---- movers of one clip ---------------------------------------------------------------------------------


def background_movers(
    place: Literal["indoors", "street"],
    room_rng: np.random.Generator,
    rng: np.random.Generator,
    num_frames: int,
    fps: int,
    *,
    centre: float,
    reach: float,
    horizon: float,
) -> tuple[Mover, ...]:
    """Things that move in a room or street, drawn from `room_rng`; their motion is drawn from `rng`.

    `centre` and half-width `reach` of the view and the height of the `horizon` are in statures.
    """
    if place == "indoors":
        kinds = [INDOORS[i] for i in room_rng.permutation(len(INDOORS))[: room_rng.integers(2, 4)]]
        slots = (np.arange(len(kinds)) + room_rng.uniform(0.25, 0.75, len(kinds))) / len(kinds) * 2 - 1
    else:
        trees: list[Kind] = ["tree"] * int(room_rng.integers(1, 3))
        kinds = trees + [PASSING[i] for i in room_rng.choice(len(PASSING), 3)]
        slots = room_rng.uniform(-0.9, 0.9, len(kinds))
    movers = []
    for kind, slot in zip(kinds, slots):
        size, colour = room_rng.uniform(0.85, 1.2), _colour(room_rng)
        x, y = np.full(num_frames, slot * reach), np.full(num_frames, horizon)
        if kind in PASSING:
            x = passing(rng, num_frames, fps, kind, reach=reach)
            size *= 0.7  # across the street
        phase = _own_motion(rng, kind, x, num_frames, fps)
        movers.append(Mover(kind, centre + x, y, phase, size, colour))
    return tuple(movers)


def distractors(
    expected: float, rng: np.random.Generator, num_frames: int, fps: int, *, centre: float, reach: float, horizon: float
) -> tuple[Mover, ...]:
    """Things that pass, `expected` of them on average (Poisson); one in three passes in front of the figure."""
    movers = []
    for _ in range(min(MOST_DISTRACTORS, rng.poisson(expected))):
        kind = DISTRACTORS[rng.integers(len(DISTRACTORS))]
        x, in_front = passing(rng, num_frames, fps, kind, reach=reach), bool(rng.random() < 1 / 3)
        phase, floor = _own_motion(rng, kind, x, num_frames, fps), -0.1 if in_front else rng.uniform(0, horizon)
        y = np.full(num_frames, floor)
        if kind == "ball":
            rate = 0.0 if rng.random() < 0.5 else rng.uniform(0.9, 1.5)  # half of the balls only roll
            bounce = (rate * np.arange(num_frames) / fps + rng.uniform()) % 1 * 2 - 1
            y = floor + rng.uniform(0.15, 0.4) * (1 - bounce**2) * (rate > 0)
        if kind in ("bird", "balloon"):
            y = rng.uniform(0.5, 1.3) + 0.06 * wobble(rng, num_frames, fps)[:, 0]
        movers.append(Mover(kind, centre + x, y, phase, rng.uniform(0.75, 1.15), _colour(rng), in_front))
    return tuple(movers)


def _own_motion(rng: np.random.Generator, kind: Kind, x: np.ndarray, num_frames: int, fps: int) -> np.ndarray:
    """`Mover.phase` of a thing that moves along `x`."""
    if kind == "screen":
        return flicker(rng, num_frames, fps)
    if kind in ("pendulum", "plant", "tree", "balloon"):
        return wobble(rng, num_frames, fps)[:, 0]
    if kind == "walker":
        return x * 2 * np.pi / 0.5 + rng.uniform(0, 2 * np.pi)  # two steps in half a stature
    if kind in ("car", "ball"):
        return x / 0.07  # as wheels roll
    slow, fast = {"curtain": (0.3, 1.0), "fan": (0.3, 0.9), "bird": (1.5, 3.0)}[kind]
    return turning(rng, num_frames, fps, slow, fast)


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = rng.integers(40, 226, 3)
    return int(r), int(g), int(b)
