"""Draws the pictures of the documentation: python tools/pictures.py (make pictures).

All but one are what a command draws of a rendered clip with the network of the package.
"""

import shlex
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from mdtnet.builtin.render import RenderConfig, Split, encode, render_clip
from mdtnet.cli.main import main

IMAGES = Path(__file__).parents[1] / "docs" / "images"
CLIP = render_clip("pick_up", 1, config=RenderConfig(size=224, background="cluttered"))
COMMANDS = {
    "salience.png": "saliency CLIP --segments 6 -o OUT",
    "variants.jpg": "saliency CLIP --segments 5 --all_variants -o OUT",
    "gradcam.jpg": "explain builtin --video CLIP --stages 3 --columns 6 -o OUT",
    "offsets.jpg": "explain builtin --video CLIP --what offsets --stages 2 3 -o OUT",
}
"""Picture -> the command that draws it."""
SIDE, COLUMNS = 84, 8
ROWS: tuple[tuple[str, int, Split, RenderConfig], ...] = (
    ("sit_down", 0, "train", RenderConfig(size=SIDE, background="plain")),
    ("pick_up", 0, "train", RenderConfig(size=SIDE, background="cluttered")),
    ("stand_up", 1, "train", RenderConfig(size=SIDE, background="moving")),
    ("open_door", 0, "train", RenderConfig(size=SIDE, background="moving")),
    ("push_box", 0, "train", RenderConfig(size=SIDE, background="plain", shake=0.05, distractors=2)),
    ("pick_up", 3, "train", RenderConfig(size=SIDE, background="cluttered", difficulty=0.5)),
    ("sit_down", 1, "train", RenderConfig(size=SIDE, background="moving", scene_bias=1)),
    ("sit_down", 1, "val", RenderConfig(size=SIDE, background="moving", scene_bias=1)),
)
"""Of builtin.png: action, number of the clip, its split, options."""


def strip(action: str, index: int, split: Split, config: RenderConfig) -> np.ndarray:
    """Frames of a clip side by side, uint8 `[side, columns * side, 3]`."""
    frames = render_clip(action, index, config=config, split=split)
    chosen = frames[np.linspace(0, len(frames) - 1, COLUMNS).round().astype(int)]
    return np.concatenate(list(chosen), axis=1)


def draw() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "pick_up.mp4")
        clip.write_bytes(encode(CLIP, fps=30))
        for name, command in COMMANDS.items():
            words = shlex.split(command)
            if main([{"CLIP": str(clip), "OUT": str(IMAGES / name)}.get(word, word) for word in words]):
                raise SystemExit(f"{name} could not be drawn")
    rows = Image.fromarray(np.concatenate([strip(*row) for row in ROWS]))
    rows.quantize(dither=Image.Dither.NONE).save(IMAGES / "builtin.png", optimize=True)


if __name__ == "__main__":
    draw()
