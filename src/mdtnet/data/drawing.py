"""The built-in data set's pixels: a scene is drawn frame by frame, as layers from back to front.

A layer is a function that draws on a `Canvas` in scene coordinates; the camera maps them to pixels. A new
layer, or a camera that moves, goes into `render`.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from mdtnet.data.scene import Body, Camera, Colour, Point, Scene, idle_sway, progress, shade, skeleton

SUPERSAMPLE = 3  # drawn this much larger, then averaged down: smooth edges

DOOR_WIDTH, DOOR_HANDLE = 0.42, 0.9  # statures; the handle's distance from the hinge as a share of it
HEEL, TOE = np.array([-0.015, -0.008]), np.array([0.075, -0.014])  # from the ankle

Joints = dict[str, np.ndarray]  # name -> [2] in one frame, [N, 2] in a clip


class Canvas:
    """Draws in scene coordinates on an image `SUPERSAMPLE` times the size of the frame."""

    def __init__(self, image: Image.Image, camera: Camera) -> None:
        self.image = image
        self.camera = camera
        self.scale = camera.scale * SUPERSAMPLE
        self._draw = ImageDraw.Draw(image)

    def _pixels(self, points: np.ndarray | list[Point]) -> list[Point]:
        return [(x, y) for x, y in (self.camera.project(np.asarray(points)) * SUPERSAMPLE).tolist()]

    def polygon(self, points: np.ndarray | list[Point], colour: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def disc(self, centre: np.ndarray | Point, radius: float, colour: Colour, squash: float = 1.0) -> None:
        ((x, y),), r = self._pixels([(centre[0], centre[1])]), radius * self.scale
        self._draw.ellipse((x - r, y - r * squash, x + r, y + r * squash), fill=colour)

    def limb(self, a: np.ndarray, b: np.ndarray, width_a: float, width_b: float, colour: Colour) -> None:
        """A tapered rod with round ends; the widths are radii."""
        along = b - a
        across = np.array([-along[1], along[0]]) / (np.hypot(*along) + 1e-9)
        corners = [a + across * width_a, b + across * width_b, b - across * width_b, a - across * width_a]
        self.polygon(np.array(corners), colour)
        self.disc(a, width_a, colour)
        self.disc(b, width_b, colour)

    def blot(self, centre: Point, radius: float, darkness: float) -> None:
        """A flat dark ellipse that lets the picture shine through."""
        ((x, y),), r = self._pixels([centre]), radius * self.scale
        left, top, right, bottom = (round(v) for v in (x - r, y - r / 5, x + r, y + r / 5))
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).ellipse((0, 0, mask.width - 1, mask.height - 1), fill=round(255 * darkness))
        self.image.paste((0, 0, 0), (left, top, right, bottom), mask)

    def frame(self) -> np.ndarray:
        """The picture at its final size: uint8 `[H, W, 3]`."""
        return np.asarray(self.image.reduce(SUPERSAMPLE))


def render(scene: Scene) -> np.ndarray:
    """Draw all frames of a scene: uint8 RGB `[N, size, size, 3]`."""
    side = scene.size * SUPERSAMPLE
    room = Canvas(Image.new("RGB", (side, side)), scene.camera)
    draw_room(room, scene)
    at = progress(scene.timing)
    joints = skeleton(scene, at, idle_sway(scene))
    hands = _prop_track(scene, at)
    frames = np.empty((scene.timing.num_frames, scene.size, scene.size, 3), np.uint8)
    for n in range(scene.timing.num_frames):
        canvas = Canvas(room.image.copy(), scene.camera)  # background and camera stand still: drawn once
        draw_figure_and_prop(canvas, scene, {name: track[n] for name, track in joints.items()}, hands[[n, 0]])
        frames[n] = canvas.frame()
    return frames


def _prop_track(scene: Scene, at: np.ndarray) -> np.ndarray:
    """Where the handled thing is, as the place of the hands that hold it, `[N, 2]`."""
    held = np.clip(at, *scene.motion.grip)
    joints = skeleton(scene, held, np.zeros((len(at), 4)))
    if scene.motion.prop == "door":
        return joints["near_hand"]
    return (joints["near_hand"] + joints["far_hand"]) / 2


def draw_figure_and_prop(canvas: Canvas, scene: Scene, joints: Joints, hands: np.ndarray) -> None:
    """The figure and the thing it handles, from back to front.

    `hands` `[2, 2]` are where the thing is, as the place of the hands that hold it: now, and at first.
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


# ---- what is handled ------------------------------------------------------------------------------------


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
    above = half - hands[1, 1]  # where it is taken up, it stands on the floor
    _draw_carton(canvas, hands[0, 0] + 0.03, hands[0, 1] + above, half, half, scene.prop_colour)


def _draw_crate(canvas: Canvas, scene: Scene, hands: np.ndarray) -> None:
    w, h = 0.17 * scene.prop_size, 0.29 * scene.prop_size
    _draw_carton(canvas, hands[0, 0] + 0.02 + w, h, w, h, scene.prop_colour)


def _draw_carton(canvas: Canvas, x: float, y: float, w: float, h: float, colour: Colour) -> None:
    """A box around (x, y), half as wide and high as w and h say: front, tape, and the top seen from above."""
    lid, top = 0.25 * w, y + h
    corners = [(x - w, top), (x + w, top), (x + w - lid, top + lid), (x - w + lid, top + lid)]
    canvas.polygon(corners, shade(colour, 1.2))
    canvas.box(x - w, y - h, x + w, top, colour)
    canvas.box(x - 0.15 * w, y - h, x + 0.15 * w, top, shade(colour, 0.7))


Prop = Callable[[Canvas, Scene, np.ndarray], None]
BEHIND: dict[str, Prop] = {"chair": _draw_chair, "door": _draw_door}
BEFORE: dict[str, Prop] = {"parcel": _draw_parcel, "crate": _draw_crate}


# ---- the room -------------------------------------------------------------------------------------------


def draw_room(canvas: Canvas, scene: Scene) -> None:
    """Wall and floor, and furniture where the room is cluttered."""
    room, x = scene.room, scene.camera.centre
    canvas.box(x - 3, room.horizon, x + 3, 4, room.wall)
    canvas.box(x - 3, -1, x + 3, room.horizon, room.floor)
    canvas.box(x - 3, room.horizon, x + 3, room.horizon + 0.025, shade(room.wall, 0.7))
    if room.cluttered:
        rng = np.random.default_rng(room.seed)
        WALLPAPERS[rng.integers(len(WALLPAPERS))](canvas, room.wall, room.horizon + 0.025, x)
        for place, item in enumerate(rng.choice(len(FURNITURE), 4, replace=False)):
            FURNITURE[item](canvas, rng, x - 0.66 + 0.44 * place + rng.uniform(-0.12, 0.12), room.horizon)


def _draw_stripes(canvas: Canvas, wall: Colour, horizon: float, x: float) -> None:
    for left in np.arange(x - 1.5, x + 1.5, 0.16):
        canvas.box(left, horizon, left + 0.08, 3, shade(wall, 0.9))


def _draw_bricks(canvas: Canvas, wall: Colour, horizon: float, x: float) -> None:
    for row, low in enumerate(np.arange(horizon, horizon + 1.8, 0.11)):
        canvas.box(x - 3, low, x + 3, low + 0.014, shade(wall, 0.82))
        for left in np.arange(x - 1.5, x + 1.5, 0.24) + 0.12 * (row % 2):
            canvas.box(left, low, left + 0.014, low + 0.11, shade(wall, 0.82))


def _draw_panelling(canvas: Canvas, wall: Colour, horizon: float, x: float) -> None:
    canvas.box(x - 3, horizon, x + 3, horizon + 0.42, shade(wall, 0.8))
    canvas.box(x - 3, horizon + 0.42, x + 3, horizon + 0.45, shade(wall, 0.65))


def _draw_picture(canvas: Canvas, rng: np.random.Generator, x: float, horizon: float) -> None:
    w, h, y = rng.uniform(0.08, 0.2), rng.uniform(0.08, 0.16), rng.uniform(0.75, 1.1)
    colours = random_colours(rng, 3)
    canvas.box(x - w - 0.02, y - h - 0.02, x + w + 0.02, y + h + 0.02, colours[0])
    canvas.box(x - w, y - h, x + w, y + h, colours[1])
    canvas.disc((x + w * rng.uniform(-0.4, 0.4), y), 0.5 * h, colours[2])


def _draw_window(canvas: Canvas, rng: np.random.Generator, x: float, horizon: float) -> None:
    w, y, light = rng.uniform(0.18, 0.28), rng.uniform(0.6, 0.75), int(rng.integers(150, 256))
    canvas.box(x - w - 0.03, y - 0.03, x + w + 0.03, y + 0.58, (225, 222, 215))
    for left in (x - w, x + 0.015):
        canvas.box(left, y, left + w - 0.015, y + 0.55, (light // 2, light * 3 // 4, light))


def _draw_shelf(canvas: Canvas, rng: np.random.Generator, x: float, horizon: float) -> None:
    y, w = rng.uniform(0.7, 1.0), rng.uniform(0.2, 0.3)
    left = x - w
    while left < x + w - 0.06:
        width, height, (colour,) = rng.uniform(0.025, 0.06), rng.uniform(0.1, 0.18), random_colours(rng, 1)
        canvas.box(left, y, left + width, y + height, colour)
        left += width + 0.006
    canvas.box(x - w - 0.02, y - 0.025, x + w + 0.02, y, (95, 65, 45))


def _draw_cabinet(canvas: Canvas, rng: np.random.Generator, x: float, horizon: float) -> None:
    w, h, (colour,) = rng.uniform(0.15, 0.3), rng.uniform(0.3, 0.6), random_colours(rng, 1)
    canvas.box(x - w, horizon - 0.02, x + w, horizon + h, colour)
    rows = int(rng.integers(2, 4))
    for row in range(rows):
        low, high = horizon + h * row / rows, horizon + h * (row + 1) / rows
        canvas.box(x - w + 0.02, low + 0.015, x + w - 0.02, high - 0.015, shade(colour, 0.82))
        canvas.disc((x, (low + high) / 2), 0.014, shade(colour, 0.4))


def _draw_plant(canvas: Canvas, rng: np.random.Generator, x: float, horizon: float) -> None:
    pot = np.array([x, horizon + 0.12])
    for angle in np.radians(rng.uniform(-65, 65, 9)):
        tip = pot + rng.uniform(0.2, 0.4) * np.array([np.sin(angle), np.cos(angle)])
        canvas.limb(pot, tip, 0.012, 0.03, (int(rng.integers(30, 70)), int(rng.integers(90, 160)), 60))
    low, high = horizon - 0.02, horizon + 0.12
    canvas.polygon([(x - 0.06, low), (x + 0.06, low), (x + 0.09, high), (x - 0.09, high)], (160, 85, 60))


def _draw_lamp(canvas: Canvas, rng: np.random.Generator, x: float, horizon: float) -> None:
    height, (colour,) = rng.uniform(0.8, 1.05), random_colours(rng, 1)
    canvas.box(x - 0.012, horizon - 0.02, x + 0.012, height, (50, 50, 55))
    top = height + 0.18
    canvas.polygon([(x - 0.13, height), (x + 0.13, height), (x + 0.08, top), (x - 0.08, top)], colour)


def random_colours(rng: np.random.Generator, count: int) -> list[Colour]:
    """Any colours, dull to bright."""
    return [(int(r), int(g), int(b)) for r, g, b in rng.integers(40, 226, (count, 3))]


WALLPAPERS = (_draw_stripes, _draw_bricks, _draw_panelling)
FURNITURE = (_draw_picture, _draw_picture, _draw_window, _draw_shelf, _draw_cabinet, _draw_plant, _draw_lamp)
