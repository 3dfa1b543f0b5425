"""Exposure of a clip: its frames are brought to medium brightness, all by the same change.

One factor or exponent per clip: a change from frame to frame would be motion. Pixels are uint8 RGB, numpy only.
"""

import math
from typing import Literal

import numpy as np

from mdtnet.config import Exposure

MIDDLE = 0.45  # mean luma of an exposed clip, 0 to 1
LARGEST_GAIN = 16.0  # beyond it there is only noise
SMALLEST_GAMMA, LARGEST_GAMMA = 0.2, 2.5
LUMA = np.array((0.299, 0.587, 0.114))
"""Weights of red, green and blue in luma (ITU-R BT.601)."""


def expose(frames: np.ndarray, exposure: Exposure) -> np.ndarray:
    """Frames `[..., H, W, 3]` of one clip at medium brightness; `none` returns them unchanged."""
    if exposure == "none":
        return frames
    return exposure_table(frames, exposure)[frames]


def exposure_table(frames: np.ndarray, exposure: Literal["gain", "gamma"]) -> np.ndarray:
    """Lookup table from old to new pixel values, uint8 `[256]`.

    `gain` multiplies by 0.45 / mean luma, limited to 1/16 to 16. `gamma` raises pixels in [0, 1] to the power that
    brings the mean luma to 0.45, limited to 0.2 to 2.5; black stays black and white stays white.
    """
    mean = min(max(float(frames.reshape(-1, 3).mean(axis=0) @ LUMA) / 255, 1e-6), 1 - 1e-6)
    values = np.arange(256) / 255
    if exposure == "gain":
        changed = values * min(max(MIDDLE / mean, 1 / LARGEST_GAIN), LARGEST_GAIN)
    else:
        changed = values ** min(max(math.log(MIDDLE) / math.log(mean), SMALLEST_GAMMA), LARGEST_GAMMA)
    return np.rint(255 * changed.clip(0, 1)).astype(np.uint8)
