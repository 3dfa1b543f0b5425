"""The built-in data set's world before any pixel: motions, and the scene one clip is drawn from.

Lengths are in statures (the figure is about 1 high), x points where the figure faces, y up from the floor.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from mdtnet.builtin.movers import Mover, background_movers, distractors, wobble

CLIP_SECONDS = (1.0, 2.0)
ANKLE = np.array([0.0, 0.03])  # above the sole
IDLE_AMPLITUDE = (0.006, 1.2, 0.006, 0.006)  # hips, lean in degrees, near and far hand

Colour = tuple[int, int, int]
Point = tuple[float, float]
Background = Literal["plain", "cluttered", "moving", "mixed"]


class Key(NamedTuple):
    """One key pose of a motion, for a figure of stature 1."""

    at: float
    """When, as a share of the motion, 0 to 1."""
    hip: Point = (0.0, 0.505)
    """Middle of the hips."""
    lean: float = 2.0
    """Forward lean of the torso in degrees."""
    near: Point = (0.03, 0.48)
    """Hand on the viewer's side; its x counts from the hips."""
    far: Point = (0.07, 0.49)
    """The other hand."""
    lift: float = 0.0
    """Height of the feet above the floor."""


@dataclass(frozen=True)
class Motion:
    """Key poses, joined by a smooth curve, and the thing that is handled."""

    keys: tuple[Key, ...]
    prop: Literal["", "chair", "parcel", "crate", "door"] = ""
    grip: tuple[float, float] = (0.0, 0.0)
    """From when to when the prop follows the hands, in the time of `Key.at`."""
    walk: bool = False
    """The feet step along with the hips instead of standing still."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a clip: options of `render.RenderConfig`, explained there."""

    background: Background = "mixed"
    shake: float = 0.0
    distractors: float = 0.0
    difficulty: float = 0.0


@dataclass(frozen=True)
class Theme:
    """The look of one class's place, under `scene_bias`."""

    hue: float  # of its wall, 0 to 1
    seed: int  # of everything else


# ---- drawn by chance ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Body:
    """Proportions (1 is average) and colours of a figure."""

    leg: float
    arm: float
    torso: float
    girth: float
    head: float
    turn: float  # how far shoulders and hips are turned to the viewer, 0 (pure side view) to 1
    skin: Colour
    hair: Colour
    shirt: Colour
    trousers: Colour
    shoes: Colour
    short_sleeves: bool
    long_hair: bool


@dataclass(frozen=True)
class Timing:
    """How progress runs from 0 to 1 over the frames. Its distribution is the same read backwards."""

    num_frames: int
    hold: tuple[int, int]  # frames of standing still before and after
    ease: float  # 1 constant speed, more: slow at both ends
    skew: float  # 1 even, more: slow start and fast end (the other way round if `late` is false)
    late: bool


@dataclass(frozen=True)
class Camera:
    """Maps scene points to pixels."""

    centre: float  # x that is seen at `origin`
    origin: Point  # pixels
    scale: float  # pixels per stature
    tilt: float  # radians
    mirror: bool
    squeeze: float = 1.0  # cosine of the angle between the picture and the plane the figure moves in

    @cached_property
    def _rows(self) -> tuple[Point, Point]:
        """The steps in pixels of one stature along x and along y."""
        c, s = float(self.scale * np.cos(self.tilt)), float(self.scale * np.sin(self.tilt))
        side = -self.squeeze if self.mirror else self.squeeze
        return (side * c, side * s), (s, -c)

    def project(self, points: list[Point]) -> list[Point]:
        """Scene points as pixels (x right, y down); plain numbers, for few points faster than arrays."""
        (xx, xy), (yx, yy) = self._rows
        (left, top), centre = self.origin, self.centre
        return [((x - centre) * xx + y * yx + left, (x - centre) * xy + y * yy + top) for x, y in points]


@dataclass(frozen=True)
class Room:
    """A background; furniture, houses and what moves there are drawn from `seed`."""

    wall: Colour  # of a street: the sky
    floor: Colour
    horizon: float  # height where the floor meets the wall
    place: Literal["bare", "furnished", "street"]
    seed: int
    centre: float  # x in the middle of the picture
    wide: bool  # seen from further away: more of it is drawn


OccluderKind = Literal["post", "counter", "leaves"]
OCCLUDERS: dict[OccluderKind, tuple[float, float]] = {"post": (0.05, 0.13), "counter": (0.4, 0.8), "leaves": (0.3, 0.5)}
"""Kinds of occluders and their widths, smallest and largest, in statures."""


class Occluder(NamedTuple):
    """Something that stands between camera and figure."""

    kind: OccluderKind
    x: float
    width: float
    top: float  # height
    colour: Colour


@dataclass(frozen=True, eq=False)
class Scene:
    """All parameters of one clip; the twins of a pair share one."""

    motion: Motion
    times: np.ndarray  # [keys], of the key poses, with the clip's own jitter
    poses: np.ndarray  # [keys, 8]: hip x, y, lean, near hand x, y, far hand x, y, lift
    idle: np.ndarray  # [4, 3]: amplitude, cycles per second, phase of sway, lean, near and far hand
    timing: Timing
    body: Body
    camera: Camera
    room: Room
    movers: tuple[Mover, ...]  # from back to front
    occluders: tuple[Occluder, ...]
    shake: np.ndarray  # [N, 2], shift of the picture as a share of its side
    gain: float  # brightness, 1 as drawn
    noise: float  # standard deviation of the sensor's noise, of 255
    noise_seed: int
    prop_colour: Colour
    prop_size: float  # 1 is average
    size: int
    fps: int


def draw_scene(
    motion: Motion,
    rng: np.random.Generator,
    *,
    size: int,
    fps: int,
    conditions: Conditions | None = None,
    theme: Theme | None = None,
) -> Scene:
    """Draw all parameters of one clip of `motion`; `theme` sets it in the place of a class."""
    asked = conditions or Conditions()
    shake_rng, mover_rng, distractor_rng, hard_rng = rng.spawn(4)  # an option does not change what others draw
    poses = np.array([[*k.hip, k.lean, *k.near, *k.far, k.lift] for k in motion.keys])
    times = np.array([k.at for k in motion.keys])
    poses += rng.normal(size=poses.shape) * [0, 0.006, 2.5, 0.01, 0.01, 0.01, 0.01, 0]
    poses[:, 0] *= rng.uniform(0.88, 1.12)
    times[1:-1] += rng.uniform(-0.03, 0.03, len(times) - 2)
    coin = bool(rng.random() < 0.5)
    wall, floor = _hsv(rng, (0, 1), (0.0, 0.3), (0.55, 0.98)), _hsv(rng, (0.02, 0.14), (0.1, 0.5), (0.35, 0.75))
    if theme:
        coin, wall, floor = _theme_look(theme)
    contrast = 50 * (1 - asked.difficulty)
    idle = np.stack([IDLE_AMPLITUDE, rng.uniform(0.4, 1.0, 4), rng.uniform(0, 2 * np.pi, 4)], 1)
    timing = _draw_timing(rng, fps, hard_rng, asked.difficulty)
    body = _draw_body(rng, wall, contrast)
    camera = _draw_camera(rng, motion, poses, size, hard_rng, asked.difficulty)
    horizon, seed = rng.uniform(0.03, 0.16), int(rng.integers(2**31))
    seed = theme.seed if theme else seed
    room = Room(
        wall=wall,
        floor=floor,
        horizon=horizon,
        place=_place(asked.background, coin),
        seed=seed,
        centre=_middle(camera, size) if asked.difficulty else camera.centre,
        wide=asked.difficulty > 0,
    )
    return Scene(
        motion=motion,
        times=times,
        poses=poses,
        idle=idle,
        timing=timing,
        body=body,
        camera=camera,
        room=room,
        movers=_draw_movers(asked, room, camera.scale / size, timing.num_frames, fps, mover_rng, distractor_rng),
        occluders=_draw_occluders(hard_rng, poses, asked.difficulty),
        shake=asked.shake * wobble(shake_rng, timing.num_frames, fps, channels=2),
        gain=1 + asked.difficulty * hard_rng.uniform(-0.6, 0.25),
        noise=asked.difficulty * hard_rng.uniform(2, 16),
        noise_seed=int(hard_rng.integers(2**31)),
        prop_colour=_apart(rng, wall, (0, 1), (0.3, 0.9), (0.3, 0.9), contrast),
        prop_size=rng.uniform(0.85, 1.15),
        size=size,
        fps=fps,
    )


def _theme_look(theme: Theme) -> tuple[bool, Colour, Colour]:
    """Coin (whether furnished), wall and floor of a class's place."""
    rng = np.random.default_rng(theme.seed)
    wall = _hsv(rng, (theme.hue, theme.hue), (0.2, 0.4), (0.55, 0.98))
    return bool(rng.random() < 0.5), wall, _hsv(rng, (0.02, 0.14), (0.1, 0.5), (0.35, 0.75))


def _place(background: Background, coin: bool) -> Literal["bare", "furnished", "street"]:
    if background == "moving":
        return "furnished" if coin else "street"
    return "furnished" if background == "cluttered" or (background == "mixed" and coin) else "bare"


def _middle(camera: Camera, size: int) -> float:
    """x of the scene in the middle of the picture, for a camera that is hardly tilted."""
    return camera.centre + (-1 if camera.mirror else 1) * (size / 2 - camera.origin[0]) / camera.scale


def _draw_movers(
    asked: Conditions,
    room: Room,
    scale: float,
    num_frames: int,
    fps: int,
    rng: np.random.Generator,
    distractor_rng: np.random.Generator,
) -> tuple[Mover, ...]:
    view: dict[str, float] = {"centre": room.centre, "reach": 0.5 / scale, "horizon": room.horizon}
    movers = distractors(asked.distractors, distractor_rng, num_frames, fps, **view)
    if asked.background != "moving":
        return movers
    place: Literal["indoors", "street"] = "street" if room.place == "street" else "indoors"
    return background_movers(place, np.random.default_rng([room.seed, 1]), rng, num_frames, fps, **view) + movers


def _draw_occluders(rng: np.random.Generator, poses: np.ndarray, difficulty: float) -> tuple[Occluder, ...]:
    """At most two things in front of where the figure acts."""
    found = []
    for hides in rng.random(2) < 0.6 * difficulty:
        kind, (low, high) = list(OCCLUDERS.items())[rng.integers(len(OCCLUDERS))]
        x = rng.uniform(poses[:, 0].min() - 0.2, poses[:, 0].max() + 0.35)
        width, height, colour = (
            rng.uniform(low, high),
            rng.uniform(0.15, 0.4),
            _hsv(rng, (0, 1), (0.1, 0.6), (0.2, 0.8)),
        )
        if hides:
            found.append(Occluder(kind, x, width, 4.0 if kind == "post" else height, colour))
    return tuple(found)


def _draw_timing(rng: np.random.Generator, fps: int, hard_rng: np.random.Generator, difficulty: float) -> Timing:
    num_frames = int(rng.integers(round(CLIP_SECONDS[0] * fps), round(CLIP_SECONDS[1] * fps) + 1))
    # both ends are drawn alike, so their order carries nothing
    before, after = (rng.uniform(0.04, 0.20, 2) + difficulty * hard_rng.uniform(0, 0.16, 2)) * num_frames
    longest = (num_frames - 3) // 2
    return Timing(
        num_frames=num_frames,
        hold=(min(longest, round(before)), min(longest, round(after))),
        ease=rng.uniform(1.0, 1.7),
        skew=rng.uniform(1.0, 1.4),
        late=bool(rng.random() < 0.5),
    )


def _draw_body(rng: np.random.Generator, wall: Colour, contrast: float) -> Body:
    return Body(
        leg=rng.uniform(0.96, 1.05),
        arm=rng.uniform(0.96, 1.06),
        torso=rng.uniform(0.94, 1.06),
        girth=rng.uniform(0.8, 1.3),
        head=rng.uniform(0.9, 1.15),
        turn=rng.uniform(0.3, 1.0),
        skin=_hsv(rng, (0.04, 0.09), (0.25, 0.6), (0.35, 0.95)),
        hair=_hsv(rng, (0.03, 0.12), (0.1, 0.8), (0.08, 0.55)),
        shirt=_apart(rng, wall, (0, 1), (0.3, 0.95), (0.25, 0.95), contrast),
        trousers=_apart(rng, wall, (0.5, 0.75), (0.1, 0.8), (0.12, 0.55), contrast),
        shoes=_hsv(rng, (0, 1), (0.0, 0.5), (0.08, 0.35)),
        short_sleeves=bool(rng.random() < 0.5),
        long_hair=bool(rng.random() < 0.5),
    )


def _draw_camera(
    rng: np.random.Generator,
    motion: Motion,
    poses: np.ndarray,
    size: int,
    hard_rng: np.random.Generator,
    difficulty: float,
) -> Camera:
    ahead = {"": 0.08, "chair": 0.1, "parcel": 0.4, "door": 0.4, "crate": 0.65}[motion.prop]
    behind = {"chair": 0.2}.get(motion.prop, 0.15)
    left, right = poses[:, 0].min() - behind, poses[:, 0].max() + ahead
    camera = Camera(
        centre=(left + right) / 2,
        origin=(size * rng.uniform(0.44, 0.56), size * rng.uniform(0.88, 0.95)),
        scale=size * min(rng.uniform(0.60, 0.73), 0.92 / (right - left)),
        tilt=np.radians(rng.uniform(-4, 4)),
        mirror=bool(rng.random() < 0.5),
    )
    if not difficulty:
        return camera
    zoom, yaw = 1 - 0.6 * difficulty * hard_rng.uniform(), np.radians(60) * difficulty * hard_rng.uniform()
    squeeze, scale = float(np.cos(yaw)), camera.scale * zoom
    slack = max(0.06 * size, 0.48 * size - squeeze * scale * (right - left) / 2)
    x, y = size / 2 + hard_rng.uniform(-1, 1) * slack, camera.origin[1] - size * 0.4 * (1 - zoom) * hard_rng.uniform()
    return replace(camera, origin=(x, y), scale=scale, squeeze=squeeze)


def _hsv(rng: np.random.Generator, hue: Point, saturation: Point, value: Point) -> Colour:
    h, s, v = rng.uniform(*hue) % 1, rng.uniform(*saturation), rng.uniform(*value)
    weights = np.clip(np.abs((h * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    r, g, b = np.round(255 * v * (1 - s + s * weights)).astype(int)
    return int(r), int(g), int(b)


def _apart(
    rng: np.random.Generator, other: Colour, hue: Point, saturation: Point, value: Point, contrast: float
) -> Colour:
    """A colour that differs from `other` in brightness by `contrast` of 255, so that it stands out in grey too."""
    candidates = [_hsv(rng, hue, saturation, value) for _ in range(8)]  # a fixed number of draws
    return next((c for c in candidates if abs(_luma(c) - _luma(other)) > contrast), candidates[0])


def _luma(colour: Colour) -> float:
    return float(np.dot(colour, (0.299, 0.587, 0.114)))


def shade(colour: Colour, factor: float) -> Colour:
    r, g, b = (min(255, round(c * factor)) for c in colour)
    return r, g, b


# ---- motion: from progress to joints --------------------------------------------------------------------


def progress(timing: Timing) -> np.ndarray:
    """How far the motion is at each frame, 0 to 1: `[N]`."""
    first, last = timing.hold[0], timing.num_frames - 1 - timing.hold[1]
    u = np.clip((np.arange(timing.num_frames) - first) / (last - first), 0, 1)
    u = u**timing.skew if timing.late else 1 - (1 - u) ** timing.skew
    return u**timing.ease / (u**timing.ease + (1 - u) ** timing.ease)


def _curve(at: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Cubic Hermite curve through `values` `[keys, D]` at `times`, at rest at both ends: `[N, D]`."""
    slopes = np.zeros_like(values)
    slopes[1:-1] = (values[2:] - values[:-2]) / (times[2:] - times[:-2])[:, None]
    # no overshoot: where a value turns round or rests, its key is the extreme (a hand stays on its handle)
    steps = np.diff(values, axis=0) / np.diff(times)[:, None]
    limit = 3 * np.minimum(np.abs(steps[1:]), np.abs(steps[:-1])) * (steps[1:] * steps[:-1] > 0)
    slopes[1:-1] = np.clip(slopes[1:-1], -limit, limit)
    i = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    width = (times[i + 1] - times[i])[:, None]
    u = (at - times[i])[:, None] / width
    start, end = values[i], values[i + 1]
    rise = u * u * (3 - 2 * u)
    return start + (end - start) * rise + width * u * (1 - u) * (slopes[i] * (1 - u) - slopes[i + 1] * u)


def skeleton(scene: Scene, progress: np.ndarray, sway: np.ndarray) -> dict[str, np.ndarray]:
    """Joint positions `[N, 2]` by name; `sway` `[N, 4]` is the idle motion of hips, lean and hands."""
    body, turn = scene.body, 0.028 * scene.body.turn
    hip_x, hip_y, lean, near_x, near_y, far_x, far_y, lift = _curve(progress, scene.times, scene.poses).T
    feet = _feet(scene, hip_x, lift)
    hip = np.stack([hip_x + sway[:, 0], hip_y * body.leg], 1)
    angle = np.radians(lean + sway[:, 1])
    up = np.stack([np.sin(angle), np.cos(angle)], 1)
    neck = hip + 0.285 * body.torso * up
    nod = np.radians(0.4 * lean + 2 * sway[:, 1])
    joints = {"hip": hip, "neck": neck, "chin": neck + 0.035 * up}
    joints["head"] = joints["chin"] + 0.075 * body.head * np.stack([np.sin(nod), np.cos(nod)], 1)
    hands = {"near": (near_x + sway[:, 2], near_y), "far": (far_x + sway[:, 3], far_y)}
    for side, depth in (("near", -turn), ("far", turn)):
        shoulder = neck - 0.025 * up + np.array([depth, depth / 4])
        x, y = hands[side]
        elbow, hand = _bend(shoulder, np.stack([hip_x + x, y], 1), 0.165 * body.arm, 0.155 * body.arm, -1)
        aside = np.array([depth * 0.8, 0])
        socket = hip + aside
        knee, ankle = _bend(socket, feet[side] + aside + ANKLE, 0.245 * body.leg, 0.24 * body.leg, 1)
        joints |= {f"{side}_shoulder": shoulder, f"{side}_elbow": elbow, f"{side}_hand": hand}
        joints |= {f"{side}_hip": socket, f"{side}_knee": knee, f"{side}_ankle": ankle}
    return joints


def idle_sway(scene: Scene) -> np.ndarray:
    """The small movements of someone standing still, `[N, 4]`: hips, lean in degrees, hands."""
    seconds = np.arange(scene.timing.num_frames)[:, None] / scene.fps
    size, cycles, phase = scene.idle.T
    return size * np.sin(2 * np.pi * cycles * seconds + phase)


def _feet(scene: Scene, hip_x: np.ndarray, lift: np.ndarray) -> dict[str, np.ndarray]:
    """Where the feet are, `[N, 2]` each: in place, or in steps that keep up with the hips."""
    if not scene.motion.walk:
        return {"near": np.stack([lift * 0 - 0.02, lift], 1), "far": np.stack([lift * 0 + 0.03, lift], 1)}
    travel = np.ptp(scene.poses[:, 0])
    stride = 2 * travel / max(1, round(travel / 0.17))  # of one foot; whole steps, so both feet stand at both ends
    feet = {}
    for side, offset in (("near", 0.0), ("far", 0.5)):
        cycle = np.maximum(hip_x, 0) / stride + offset + 1e-9
        swing = np.clip(cycle % 1 * 2 - 1, 0, 1)  # 0 while the foot stands
        x = stride * (np.floor(cycle) + swing * swing * (3 - 2 * swing) - offset + 0.25)
        feet[side] = np.stack([x, 0.045 * np.sin(np.pi * swing)], 1)
    return feet


def _bend(root: np.ndarray, target: np.ndarray, upper: float, lower: float, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Middle joint and end of a two-bone limb reaching for `target` (as far as it can), all `[N, 2]`."""
    reach = target - root
    far = np.linalg.norm(reach, axis=1, keepdims=True) + 1e-9
    length = np.clip(far, abs(upper - lower) + 1e-3, (upper + lower) * 0.998)
    along = reach / far
    across = np.stack([-along[:, 1], along[:, 0]], 1) * side
    a = (upper**2 - lower**2 + length**2) / (2 * length)
    return root + along * a + across * np.sqrt(np.maximum(upper**2 - a**2, 0)), root + along * length
