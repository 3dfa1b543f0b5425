"""mdtnet: efficient recognition of human actions in video.

import mdtnet

model = mdtnet.Recogniser.load("runs/demo/checkpoints/best.pt")
print(model.predict("clip.mp4"))
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Recogniser": "mdtnet.inference.recogniser",
    "build_model": "mdtnet.models.build",
    "load_model": "mdtnet.checkpoint",
    "train": "mdtnet.training.loop",
    "evaluate_checkpoint": "mdtnet.evaluation",
    "RunConfig": "mdtnet.config",
    "DataConfig": "mdtnet.config",
    "ModelConfig": "mdtnet.config",
    "TrainConfig": "mdtnet.config",
    "TestConfig": "mdtnet.config",
}
"""Public name -> the module that defines it; imported when first used, so that `import mdtnet` is quick."""

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mdtnet' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
