"""The actions of the built-in data set: motions, played forwards or backwards."""

from dataclasses import dataclass

from mdtnet.builtin.scene import Key, Motion


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
