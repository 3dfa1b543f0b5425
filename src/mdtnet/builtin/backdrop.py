"""The built-in data set's surroundings: rooms and streets, what moves there, and what hides the figure.

All of it is drawn with a `Canvas` in scene coordinates. Things that pass have neither front nor back: a car that
drives backwards would show that the clip runs backwards.
"""

from collections.abc import Callable

import numpy as np

from mdtnet.builtin.canvas import Canvas
from mdtnet.builtin.movers import Mover
from mdtnet.builtin.scene import Colour, Occluder, Scene, shade

# ---- rooms and streets, which stand still ---------------------------------------------------------------


def draw_room(canvas: Canvas, scene: Scene) -> None:
    """Wall and floor, and furniture or houses where there are any."""
    room, x = scene.room, scene.room.centre
    far, low, reach = (5, -3, 3.42) if room.wide else (3, -1, 1.5)
    canvas.box(x - far, room.horizon, x + far, 4, room.wall)
    canvas.box(x - far, low, x + far, room.horizon, room.floor)
    canvas.box(x - far, room.horizon, x + far, room.horizon + 0.025, shade(room.wall, 0.7))
    rng = np.random.default_rng(room.seed)
    if room.place == "street":
        _draw_houses(canvas, rng, room.wall, x, room.horizon)
    if room.place == "furnished":
        WALLPAPERS[rng.integers(len(WALLPAPERS))](canvas, room.wall, room.horizon + 0.025, x, reach)
        places = list(enumerate(rng.choice(len(FURNITURE), 4, replace=False)))
        if room.wide:
            places += zip((-3, -2, -1, 4, 5, 6), rng.choice(len(FURNITURE), 6))
        for place, item in places:
            FURNITURE[item](canvas, rng, x - 0.66 + 0.44 * place + rng.uniform(-0.12, 0.12), room.horizon)


def _draw_stripes(canvas: Canvas, wall: Colour, horizon: float, x: float, reach: float) -> None:
    for left in np.arange(x - reach, x + reach, 0.16):
        canvas.box(left, horizon, left + 0.08, 3, shade(wall, 0.9))


def _draw_bricks(canvas: Canvas, wall: Colour, horizon: float, x: float, reach: float) -> None:
    for row, low in enumerate(np.arange(horizon, horizon + 1.2 * reach, 0.11)):
        canvas.box(x - 2 * reach, low, x + 2 * reach, low + 0.014, shade(wall, 0.82))
        for left in np.arange(x - reach, x + reach, 0.24) + 0.12 * (row % 2):
            canvas.box(left, low, left + 0.014, low + 0.11, shade(wall, 0.82))


def _draw_panelling(canvas: Canvas, wall: Colour, horizon: float, x: float, reach: float) -> None:
    canvas.box(x - 2 * reach, horizon, x + 2 * reach, horizon + 0.42, shade(wall, 0.8))
    canvas.box(x - 2 * reach, horizon + 0.42, x + 2 * reach, horizon + 0.45, shade(wall, 0.65))


def _draw_houses(canvas: Canvas, rng: np.random.Generator, sky: Colour, x: float, horizon: float) -> None:
    """A row of houses under the sky, and the road before them."""
    left = x - 3.5 + rng.uniform(-0.3, 0.3)
    while left < x + 3.5:
        width, top, wall = rng.uniform(0.35, 0.7), horizon + rng.uniform(0.45, 1.0), shade(sky, rng.uniform(0.5, 0.8))
        canvas.box(left, horizon, left + width, top, wall)
        for low in np.arange(horizon + 0.15, top - 0.15, 0.2):
            for window in np.arange(left + 0.06, left + width - 0.09, 0.14):
                canvas.box(window, low, window + 0.07, low + 0.1, shade(wall, 0.6))
        left += width
    canvas.box(x - 4, horizon - 0.05, x + 4, horizon + 0.05, (82, 82, 88))


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


# ---- what moves by itself -------------------------------------------------------------------------------


def draw_movers(canvas: Canvas, movers: tuple[Mover, ...], n: int, *, in_front: bool) -> None:
    """The movers of frame `n` that are nearer than the figure, or those that are not."""
    for mover in movers:
        if mover.in_front == in_front:
            MOVERS[mover.kind](canvas, mover, float(mover.x[n]), float(mover.y[n]), float(mover.phase[n]))


def _draw_screen(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    """A television on the wall: what it shows follows from `phase`."""
    w, h, low = 0.24 * mover.size, 0.14 * mover.size, y + 0.65
    canvas.box(x - w - 0.02, low - 0.02, x + w + 0.02, low + 2 * h + 0.02, (25, 25, 28))
    shown = np.random.default_rng(int(phase * 1e6))
    sky, ground = random_colours(shown, 2)
    canvas.box(x - w, low, x + w, low + 2 * h, sky)
    canvas.box(x - w, low, x + w, low + h * shown.uniform(0.4, 1.2), ground)
    canvas.disc((x + w * shown.uniform(-0.6, 0.6), low + 1.2 * h), 0.5 * h, shade(sky, shown.uniform(0.4, 1.4)))


def _draw_pendulum(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    top, angle = y + 1.15, 0.7 * phase
    canvas.box(x - 0.15, top - 0.62, x + 0.15, top + 0.1, shade(mover.colour, 0.7))
    canvas.box(x - 0.12, top - 0.59, x + 0.12, top - 0.1, (235, 225, 200))
    canvas.disc((x, top), 0.085, (240, 240, 235))
    bob = np.array([x + 0.38 * np.sin(angle) * 0.45, top - 0.1 - 0.36 * np.cos(angle)])
    canvas.limb((x, top - 0.1), bob, 0.01, 0.01, (60, 50, 40))
    canvas.disc(bob, 0.05, (200, 160, 50))


def _draw_curtain(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    """A window with a curtain that the wind moves."""
    low, high, w = y + 0.45, y + 1.2, 0.26 * mover.size
    canvas.box(x - w, low + 0.08, x + w, high, (190, 215, 235))
    heights = np.linspace(high, low, 9)
    loose = np.linspace(0, 1, 9)  # tied at the top
    for side in (-1, 1):
        hem = x + side * (0.35 * w + 0.13 * loose * np.sin(4 * loose + phase))
        outer = np.full(9, x + side * (w + 0.05))
        edge = np.stack([np.concatenate([hem, outer]), np.concatenate([heights, heights[::-1]])], 1)
        canvas.polygon(edge, mover.colour)
    canvas.box(x - w - 0.08, high, x + w + 0.08, high + 0.035, (70, 55, 45))


def _draw_fan(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    hub, radius = np.array([x, y + 0.8]), 0.23 * mover.size
    canvas.box(x - 0.02, y, x + 0.02, y + 0.8, (70, 70, 75))
    canvas.disc((x, y), 0.11, (60, 60, 65), 0.35)
    canvas.disc(hub, radius + 0.02, (70, 70, 75))
    canvas.disc(hub, radius, (225, 225, 225))
    for turn in np.arange(3) * 2 * np.pi / 3 + phase:
        canvas.limb(hub, hub + 0.8 * radius * np.array([np.cos(turn), np.sin(turn)]), 0.02, 0.055, mover.colour)
    canvas.disc(hub, 0.035, (50, 50, 55))


def _draw_swaying_plant(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    pot = np.array([x, y + 0.16])
    for i, angle in enumerate(np.radians(np.linspace(-60, 60, 8))):
        length = (0.55 - 0.03 * (i % 3)) * mover.size
        middle = pot + 0.55 * length * np.array([np.sin(angle), np.cos(angle)])
        bent = angle + 0.5 * phase
        tip = middle + 0.5 * length * np.array([np.sin(bent), np.cos(bent)])
        green = (40 + 8 * (i % 4), 110 + 12 * (i % 3), 60)
        canvas.limb(pot, middle, 0.012, 0.03, green)
        canvas.limb(middle, tip, 0.03, 0.008, green)
    canvas.polygon(
        [(x - 0.08, y - 0.02), (x + 0.08, y - 0.02), (x + 0.11, y + 0.17), (x - 0.11, y + 0.17)], mover.colour
    )


def _draw_tree(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    height = 0.62 * mover.size
    crown = np.array([x + 0.16 * phase, y + height])
    canvas.limb((x, y), crown, 0.05, 0.03, (95, 70, 50))
    leaves = [(-0.19, 0.03), (0.19, 0.03), (-0.11, 0.2), (0.12, 0.2), (0.0, 0.09), (0.0, 0.3)]
    for i, (across, up) in enumerate(leaves):
        at = crown + mover.size * np.array([across + 0.16 * up * phase, up])
        canvas.disc(at, 0.16 * mover.size, (50 + 9 * (i % 3), 105 + 13 * (i % 4), 50))


def _draw_car(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    s, y = mover.size, y - 0.04
    roof = [(x - 0.28 * s, y + 0.27 * s), (x + 0.28 * s, y + 0.27 * s), (x + 0.19 * s, y + 0.44 * s)]
    canvas.polygon([*roof, (x - 0.19 * s, y + 0.44 * s)], shade(mover.colour, 0.85))
    canvas.box(x - 0.2 * s, y + 0.28 * s, x + 0.2 * s, y + 0.4 * s, (190, 215, 225))
    canvas.box(x - 0.015 * s, y + 0.28 * s, x + 0.015 * s, y + 0.42 * s, shade(mover.colour, 0.8))
    canvas.box(x - 0.5 * s, y + 0.08 * s, x + 0.5 * s, y + 0.28 * s, mover.colour)
    for wheel in (x - 0.29 * s, x + 0.29 * s):
        hub, spoke = np.array([wheel, y + 0.09 * s]), 0.06 * s * np.array([np.cos(phase), -np.sin(phase)])
        canvas.disc(hub, 0.1 * s, (30, 30, 32))
        canvas.limb(hub - spoke, hub + spoke, 0.016 * s, 0.016 * s, (150, 150, 155))


def _draw_walker(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    """Someone in a coat; seen without a face, and with straight knees, which walk alike in either direction."""
    s, coat, dark = mover.size, mover.colour, shade(mover.colour, 0.55)
    hip, neck, shoulder = np.array([x, y + 0.5 * s]), np.array([x, y + 0.76 * s]), np.array([x, y + 0.77 * s])
    for side in (-1, 1):
        swing = 0.42 * side * np.sin(phase)
        foot = hip + 0.49 * s * np.array([np.sin(swing), -np.cos(swing)])
        canvas.limb(hip, foot, 0.06 * s, 0.04 * s, dark if side > 0 else shade(dark, 0.8))
        hand = shoulder + 0.32 * s * np.array([np.sin(-0.8 * swing), -np.cos(swing)])
        canvas.limb(shoulder, hand, 0.04 * s, 0.03 * s, shade(coat, 0.85))
    canvas.limb(hip, neck, 0.085 * s, 0.095 * s, coat)
    canvas.disc((x, y + 0.92 * s), 0.075 * s, (205, 165, 135))
    canvas.disc((x, y + 0.955 * s), 0.07 * s, dark, 0.75)


def _draw_ball(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    radius = 0.1 * mover.size
    middle, along = np.array([x, y + radius]), np.array([np.cos(phase), -np.sin(phase)])
    canvas.disc(middle, radius, mover.colour)
    canvas.limb(
        middle - 0.7 * radius * along, middle + 0.7 * radius * along, 0.2 * radius, 0.2 * radius, (245, 245, 240)
    )


def _draw_bird(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    """Seen from ahead or behind: two wings that beat."""
    s, body, lift = mover.size, np.array([x, y]), 0.12 * np.sin(phase)
    for side in (-1, 1):
        elbow = body + s * np.array([0.1 * side, 0.6 * lift + 0.03])
        canvas.limb(body, elbow, 0.03 * s, 0.024 * s, mover.colour)
        canvas.limb(elbow, body + s * np.array([0.22 * side, 1.3 * lift]), 0.024 * s, 0.006 * s, mover.colour)
    canvas.disc(body, 0.042 * s, shade(mover.colour, 0.7))


def _draw_balloon(canvas: Canvas, mover: Mover, x: float, y: float, phase: float) -> None:
    radius = 0.13 * mover.size
    canvas.limb((x, y - radius), (x - 0.08 * phase, y - 0.45), 0.006, 0.006, (90, 90, 90))
    canvas.disc((x, y), radius, mover.colour, 1.15)
    canvas.disc((x - 0.35 * radius, y + 0.4 * radius), 0.2 * radius, shade(mover.colour, 1.4))


MOVERS: dict[str, Callable[[Canvas, Mover, float, float, float], None]] = {
    "screen": _draw_screen,
    "pendulum": _draw_pendulum,
    "curtain": _draw_curtain,
    "fan": _draw_fan,
    "plant": _draw_swaying_plant,
    "tree": _draw_tree,
    "car": _draw_car,
    "walker": _draw_walker,
    "ball": _draw_ball,
    "bird": _draw_bird,
    "balloon": _draw_balloon,
}


# ---- what hides the figure ------------------------------------------------------------------------------


def draw_occluders(canvas: Canvas, occluders: tuple[Occluder, ...]) -> None:
    """Things that stand nearer than everything else."""
    for thing in occluders:
        left, right = thing.x - thing.width / 2, thing.x + thing.width / 2
        if thing.kind == "leaves":
            root = np.array([thing.x, -0.2])
            for angle in np.radians(np.linspace(-50, 50, 7)):
                tip = root + (thing.top + 0.2) * np.array([thing.width / 0.3 * np.sin(angle), 1.3 * np.cos(angle)])
                canvas.limb(root, tip, 0.02, 0.035, thing.colour)
            continue
        canvas.box(left, -3, right, thing.top, thing.colour)
        canvas.box(left, -3, left + 0.15 * thing.width, thing.top, shade(thing.colour, 0.8))
        if thing.kind == "counter":
            canvas.box(left - 0.03, thing.top, right + 0.03, thing.top + 0.03, shade(thing.colour, 1.25))
