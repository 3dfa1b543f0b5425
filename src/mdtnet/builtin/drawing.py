"""The built-in data set's pixels: a scene is drawn frame by frame, as layers from back to front.

A layer is a function that draws on a `Canvas` in scene coordinates; the camera maps them to pixels. This file draws
the figure and the thing it handles; `backdrop` draws all that is behind and in front. `render` combines the layers.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from mdtnet.builtin.backdrop import draw_movers, draw_occluders, draw_room
from mdtnet.builtin.canvas import SUPERSAMPLE, Canvas
from mdtnet.builtin.scene import Body, Camera, Colour, Scene, idle_sway, progress, shade, skeleton

DOOR_WIDTH, DOOR_HANDLE = 0.42, 0.9  # statures; the handle's distance from the hinge as a share of it
HEEL, TOE = np.array([-0.015, -0.008]), np.array([0.075, -0.014])  # from the ankle

Joints = dict[str, np.ndarray]  # name -> [2] in one frame, [N, 2] in a clip


def render(scene: Scene, *, figure: bool = True) -> np.ndarray:
    """Draw all frames of a scene: uint8 RGB `[N, size, size, 3]`; without the `figure` and what it handles, the same
    scene, sensor noise and all."""
    side = scene.size * SUPERSAMPLE
    shifts = np.round(scene.shake * side).astype(int)  # [N, 2], so the room can be drawn once and cut out
    margin = int(np.abs(shifts).max())
    level = replace(scene.camera, squeeze=1.0)  # only the figure is seen at an angle
    room = Canvas(Image.new("RGB", (side + 2 * margin, side + 2 * margin)), _shift_camera(level, margin, margin))
    draw_room(room, scene)
    at = progress(scene.timing)
    joints = skeleton(scene, at, idle_sway(scene))
    hands = _prop_track(scene, at)
    frames = np.empty((scene.timing.num_frames, scene.size, scene.size, 3), np.uint8)
    for n, (x, y) in enumerate(shifts.tolist()):
        image = room.image.crop((margin - x, margin - y, margin - x + side, margin - y + side))
        around, canvas = Canvas(image, _shift_camera(level, x, y)), Canvas(image, _shift_camera(scene.camera, x, y))
        draw_movers(around, scene.movers, n, in_front=False)
        if figure:
            draw_figure_and_prop(canvas, scene, {name: track[n] for name, track in joints.items()}, hands[[n, 0]])
        draw_movers(around, scene.movers, n, in_front=True)
        draw_occluders(canvas, scene.occluders)
        frames[n] = canvas.frame()
    return _add_sensor(frames, scene)


def _shift_camera(camera: Camera, x: int, y: int) -> Camera:
    """`camera` with its picture shifted by `x` and `y` supersampled pixels."""
    if not (x or y):
        return camera
    return replace(camera, origin=(camera.origin[0] + x / SUPERSAMPLE, camera.origin[1] + y / SUPERSAMPLE))


def _add_sensor(frames: np.ndarray, scene: Scene) -> np.ndarray:
    """Frames as a sensor gives them: one brightness for the clip, new noise in every frame."""
    if scene.gain == 1 and not scene.noise:
        return frames
    rng = np.random.default_rng(scene.noise_seed)
    noise = rng.standard_normal(frames.shape, np.float32) * np.float32(scene.noise)
    return np.clip(np.rint(frames * np.float32(scene.gain) + noise), 0, 255).astype(np.uint8)


def _prop_track(scene: Scene, at: np.ndarray) -> np.ndarray:
    """Place of the handled thing, given by the hands that hold it, `[N, 2]`."""
    held = np.clip(at, *scene.motion.grip)
    joints = skeleton(scene, held, np.zeros((len(at), 4)))
    if scene.motion.prop == "door":
        return joints["near_hand"]
    return (joints["near_hand"] + joints["far_hand"]) / 2


def draw_figure_and_prop(canvas: Canvas, scene: Scene, joints: Joints, hands: np.ndarray) -> None:
    """The figure and the thing it handles, from back to front.

    `hands` `[2, 2]` is the place of the hands that hold the thing: now, and at first.
    """
    body, prop = scene.body, scene.motion.prop
    if prop in BEHIND:
        BEHIND[prop](canvas, scene, hands)
    _draw_shadow(canvas, joints)
    _draw_arm(canvas, joints, body, "far", 0.78)
    _draw_leg(canvas, joints, body, "far", 0.75)
    _draw_leg(canvas, joints, body, "near", 1.0)
    _draw_trunk(canvas, joints, body)
    _draw_head(canvas, joints, body)
    if prop in BEFORE:
        BEFORE[prop](canvas, scene, hands)
    _draw_arm(canvas, joints, body, "near", 1.0)


# ---- the figure -----------------------------------------------------------------------------------------


def _draw_shadow(canvas: Canvas, joints: Joints) -> None:
    middle = (joints["near_ankle"][0] + joints["far_ankle"][0]) / 2 + 0.02
    canvas.blot((middle, 0.0), 0.16, 0.18)


def _draw_arm(canvas: Canvas, joints: Joints, body: Body, side: str, light: float) -> None:
    shoulder, elbow, hand = (joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "hand"))
    skin, shirt, thick = shade(body.skin, light), shade(body.shirt, light * 0.92), body.girth
    canvas.limb(elbow, hand, 0.027 * thick, 0.021 * thick, skin if body.short_sleeves else shirt)
    canvas.limb(shoulder, elbow, 0.040 * thick, 0.030 * thick, shirt)
    canvas.disc(hand, 0.028, skin)


def _draw_leg(canvas: Canvas, joints: Joints, body: Body, side: str, light: float) -> None:
    hip, knee, ankle = (joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle"))
    trousers, shoes, thick = shade(body.trousers, light), shade(body.shoes, light), body.girth
    canvas.limb(ankle + HEEL, ankle + TOE, 0.024, 0.017, shoes)
    canvas.limb(knee, ankle, 0.043 * thick, 0.029 * thick, trousers)
    canvas.limb(hip, knee, 0.062 * thick, 0.045 * thick, trousers)


def _draw_trunk(canvas: Canvas, joints: Joints, body: Body) -> None:
    hip, neck = joints["hip"], joints["neck"]
    thick = body.girth * (0.85 + 0.15 * body.turn)
    canvas.limb(neck, joints["head"], 0.032, 0.03, shade(body.skin, 0.88))
    canvas.disc(hip, 0.068 * thick, body.trousers)
    waist, chest = hip + 0.15 * (neck - hip), neck + 0.2 * (hip - neck)
    canvas.limb(waist, chest, 0.066 * thick, 0.082 * thick, body.shirt)


def _draw_head(canvas: Canvas, joints: Joints, body: Body) -> None:
    head, size = joints["head"], 0.07 * body.head
    up = (head - joints["chin"]) / np.hypot(*(head - joints["chin"]))
    ahead = np.array([up[1], -up[0]])
    if body.long_hair:
        crown, tips = head - 0.5 * size * ahead, head - size * (0.7 * ahead + 1.2 * up)
        canvas.limb(crown, tips, 0.7 * size, 0.4 * size, body.hair)
    canvas.disc(head + size * (0.10 * up - 0.10 * ahead), 1.05 * size, body.hair)
    canvas.disc(head + size * (0.22 * ahead - 0.18 * up), 0.86 * size, body.skin)
    canvas.disc(head + size * (1.0 * ahead - 0.2 * up), 0.16 * size, body.skin)  # nose
    canvas.disc(head + size * (0.62 * ahead + 0.08 * up), 0.11 * size, (30, 25, 25))  # eye


# ---- handled things -------------------------------------------------------------------------------------


def _draw_chair(canvas: Canvas, scene: Scene, hands: np.ndarray) -> None:
    hip_x, hip_y = scene.poses[-1, :2]
    top, wood = hip_y * scene.body.leg - 0.06 * scene.body.girth, scene.prop_colour
    back, front = hip_x - 0.13, hip_x + 0.13
    for x in (back + 0.08, front + 0.05):
        canvas.box(x - 0.012, 0.04, x + 0.012, top, shade(wood, 0.6))
    for x in (back, front):
        canvas.box(x - 0.014, 0.0, x + 0.014, top, shade(wood, 0.8))
    seat = [(back - 0.02, top - 0.03), (front + 0.02, top - 0.03), (front + 0.06, top), (back + 0.04, top)]
    rest = np.array([(-0.02, 0.0), (0.05, 0.02), (0.01, 0.35), (-0.05, 0.33)]) * [1, scene.prop_size]
    canvas.polygon(seat, wood)
    canvas.polygon(rest + np.array([back, top]), shade(wood, 0.9))


def _draw_door(canvas: Canvas, scene: Scene, hands: np.ndarray) -> None:
    """A door in the back wall that turns away from the viewer; its handle is where the hand has it."""
    sill, top, wall, wood = (
        scene.room.horizon,
        1.08 * scene.prop_size**0.5,
        scene.room.wall,
        scene.prop_colour,
    )
    hinge = hands[1, 0] + DOOR_HANDLE * DOOR_WIDTH
    cosine = np.clip((hinge - hands[0, 0]) / (DOOR_HANDLE * DOOR_WIDTH), 0.05, 1.0)
    depth = np.sqrt(1 - cosine**2)  # how far away the open edge is, which makes it look smaller
    canvas.box(hinge - DOOR_WIDTH - 0.03, sill, hinge + 0.03, top + 0.03, shade(wall, 0.55))
    canvas.box(hinge - DOOR_WIDTH, sill, hinge, top, shade(wall, 0.22))

    def panel(left: float, right: float, low: float, high: float, light: float) -> None:
        """A rectangle on the door, in shares of its width (from the hinge) and height."""
        across = np.array([left, right, right, left])
        bottom, height = sill + 0.06 * depth * across, (top - sill) - 0.16 * depth * across
        points = [hinge - across * DOOR_WIDTH * cosine, bottom + height * [low, low, high, high]]
        canvas.polygon(np.stack(points, 1), shade(wood, light - 0.25 * depth))

    panel(0.0, 1.0, 0.0, 1.0, 1.0)
    panel(0.17, 0.81, 0.08, 0.42, 0.8)
    panel(0.17, 0.81, 0.52, 0.92, 0.8)
    canvas.disc((hinge - DOOR_HANDLE * DOOR_WIDTH * cosine, 0.56), 0.022, (235, 210, 120))


def _draw_parcel(canvas: Canvas, scene: Scene, hands: np.ndarray) -> None:
    half = 0.095 * scene.prop_size
    above = half - hands[1, 1]  # before it is lifted, it stands on the floor
    _draw_carton(canvas, hands[0, 0] + 0.03, hands[0, 1] + above, half, half, scene.prop_colour)


def _draw_crate(canvas: Canvas, scene: Scene, hands: np.ndarray) -> None:
    w, h = 0.17 * scene.prop_size, 0.29 * scene.prop_size
    _draw_carton(canvas, hands[0, 0] + 0.02 + w, h, w, h, scene.prop_colour)


def _draw_carton(canvas: Canvas, x: float, y: float, w: float, h: float, colour: Colour) -> None:
    """A box around (x, y), of half width w and half height h: front, tape, and the top seen from above."""
    lid, top = 0.25 * w, y + h
    corners = [(x - w, top), (x + w, top), (x + w - lid, top + lid), (x - w + lid, top + lid)]
    canvas.polygon(corners, shade(colour, 1.2))
    canvas.box(x - w, y - h, x + w, top, colour)
    canvas.box(x - 0.15 * w, y - h, x + 0.15 * w, top, shade(colour, 0.7))


Prop = Callable[[Canvas, Scene, np.ndarray], None]
BEHIND: dict[str, Prop] = {"chair": _draw_chair, "door": _draw_door}
BEFORE: dict[str, Prop] = {"parcel": _draw_parcel, "crate": _draw_crate}
