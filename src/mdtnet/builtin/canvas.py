"""The built-in data set's drawing surface: shapes in scene coordinates, mapped to pixels by a camera."""

import math

import numpy as np
from PIL import Image, ImageDraw

from mdtnet.builtin.scene import Camera, Colour, Point

SUPERSAMPLE = 3  # drawn this much larger, then averaged down: smooth edges


class Canvas:
    """Draws in scene coordinates on an image `SUPERSAMPLE` times the size of the frame."""

    def __init__(self, image: Image.Image, camera: Camera) -> None:
        self.image = image
        self.camera = camera
        self.scale = camera.scale * SUPERSAMPLE
        self._draw = ImageDraw.Draw(image)

    def _pixels(self, points: np.ndarray | list[Point]) -> list[Point]:
        listed = points.tolist() if isinstance(points, np.ndarray) else points
        return [(x * SUPERSAMPLE, y * SUPERSAMPLE) for x, y in self.camera.project(listed)]

    def polygon(self, points: np.ndarray | list[Point], colour: Colour) -> None:
        self._draw.polygon(self._pixels(points), fill=colour)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour) -> None:
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour)

    def disc(self, centre: np.ndarray | Point, radius: float, colour: Colour, squash: float = 1.0) -> None:
        ((x, y),), r = self._pixels([(centre[0], centre[1])]), radius * self.scale
        self._draw.ellipse((x - r, y - r * squash, x + r, y + r * squash), fill=colour)

    def limb(
        self, a: np.ndarray | Point, b: np.ndarray | Point, width_a: float, width_b: float, colour: Colour
    ) -> None:
        """A tapered rod with round ends; the widths are radii."""
        (ax, ay), (bx, by) = map(float, a), map(float, b)
        length = math.hypot(bx - ax, by - ay) + 1e-9
        x, y = -(by - ay) / length, (bx - ax) / length  # to the left of the rod
        corners = [(ax + x * width_a, ay + y * width_a), (bx + x * width_b, by + y * width_b)]
        corners += [(bx - x * width_b, by - y * width_b), (ax - x * width_a, ay - y * width_a)]
        self.polygon(corners, colour)
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
