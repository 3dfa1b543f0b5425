"""Draws the pictures of the documentation: python tools/pictures.py (make pictures).

Most are what a command draws of a rendered clip with the network of the package.
"""

import shlex
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mdtnet.builtin.render import RenderConfig, Split, encode, render_clip
from mdtnet.cli.main import main
from mdtnet.inference.recogniser import Recogniser
from mdtnet.models.mdtnet import Excitation, gradient
from mdtnet.models.trunk import half_size
from mdtnet.pages.sheet import COLOURS, colour_scale, panels, save_sheet, sheet

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


@torch.inference_mode()
def steps(clip: Path, out: Path) -> None:
    """What each step of `builtin` makes of a clip, a column per segment; each row is bright by its largest."""
    model = Recogniser.load("builtin", device="cpu")
    x = model.read(str(clip))  # [1, T, K, 3, S, S]
    found: list[list[Tensor]] = []
    modules = [module for module in model.model.modules() if isinstance(module, Excitation) and module.dcme]
    first = modules[0]
    handle = first.register_forward_pre_hook(lambda module, given: found.append(module.excitations(*given)))
    model.model(x)
    handle.remove()
    e_c, e_d, e_s = found[0]
    half = half_size(x)[0].float()  # [T, K, 3, S/2, S/2]
    differences = half[:, 1:] - half[:, :-1]
    channels = e_s.expand(len(half), -1, 1, 1)[..., 0, 0].reshape(len(half), 8, -1)  # of each segment, in 8 lines
    rows = {
        "fine differences": differences.abs().mean((1, 2)),
        "their gradient": gradient(differences.flatten(0, 1)).unflatten(0, differences.shape[:2]).mean((1, 2)),
        "coarse differences\n(stage 2)": e_c.abs().mean(1),
        "DCME (stage 2)": e_d.abs().mean(1),
        "STCE: channels\n(stage 2)": channels.abs(),
    }
    key = x[0, :, model.model.key_frame].movedim(1, -1).numpy()
    drawn = [("key frames", panels(key, 110))]
    for name, values in rows.items():
        colours = COLOURS((values / values.max()).numpy(), bytes=True)[..., :3]
        drawn.append((name, [Image.fromarray(one).resize((110, 110), Image.Resampling.NEAREST) for one in colours]))
    headings = [f"segment {t + 1}" for t in range(len(key))]
    save_sheet(
        sheet("MDT-Net2 (builtin), step by step", headings, drawn, colour_scale("0 to the largest of a row")), out
    )


def draw() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder, "pick_up.mp4")
        clip.write_bytes(encode(CLIP, fps=30))
        for name, command in COMMANDS.items():
            words = shlex.split(command)
            if main([{"CLIP": str(clip), "OUT": str(IMAGES / name)}.get(word, word) for word in words]):
                raise SystemExit(f"{name} could not be drawn")
        steps(clip, IMAGES / "steps.jpg")
    rows = Image.fromarray(np.concatenate([strip(*row) for row in ROWS]))
    rows.quantize(dither=Image.Dither.NONE).save(IMAGES / "builtin.png", optimize=True)


if __name__ == "__main__":
    draw()
