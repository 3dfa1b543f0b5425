"""mdtnet: efficient recognition of human actions in video.

import mdtnet

model = mdtnet.Recogniser.load("runs/demo/checkpoints/best.pt")
print(model.predict("clip.mp4"))
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:  # for type checkers and editors; programs get the same names from `_PUBLIC`
    from mdtnet.checkpoint import load_model as load_model
    from mdtnet.config import DataConfig as DataConfig
    from mdtnet.config import EvalConfig as EvalConfig
    from mdtnet.config import ModelConfig as ModelConfig
    from mdtnet.config import RunConfig as RunConfig
    from mdtnet.config import TrainConfig as TrainConfig
    from mdtnet.deploy.export import export as export
    from mdtnet.deploy.exported import ExportedRecogniser as ExportedRecogniser
    from mdtnet.deploy.load import load as load
    from mdtnet.errors import CheckpointError as CheckpointError
    from mdtnet.errors import ConfigError as ConfigError
    from mdtnet.errors import DataError as DataError
    from mdtnet.errors import DivergedError as DivergedError
    from mdtnet.errors import ExportError as ExportError
    from mdtnet.errors import MdtnetError as MdtnetError
    from mdtnet.errors import VideoError as VideoError
    from mdtnet.errors import WorkerError as WorkerError
    from mdtnet.evaluation import evaluate_checkpoint as evaluate_checkpoint
    from mdtnet.inference.prediction import Prediction as Prediction
    from mdtnet.inference.prediction import Predictor as Predictor
    from mdtnet.inference.recogniser import Recogniser as Recogniser
    from mdtnet.models.build import build_model as build_model
    from mdtnet.models.network import Network as Network
    from mdtnet.system.processes import Interrupted as Interrupted
    from mdtnet.training.loop import train as train

_PUBLIC = {
    "load": "mdtnet.deploy.load",
    "Recogniser": "mdtnet.inference.recogniser",
    "ExportedRecogniser": "mdtnet.deploy.exported",
    "Predictor": "mdtnet.inference.prediction",
    "Prediction": "mdtnet.inference.prediction",
    "train": "mdtnet.training.loop",
    "evaluate_checkpoint": "mdtnet.evaluation",
    "export": "mdtnet.deploy.export",
    "RunConfig": "mdtnet.config",
    "DataConfig": "mdtnet.config",
    "ModelConfig": "mdtnet.config",
    "TrainConfig": "mdtnet.config",
    "EvalConfig": "mdtnet.config",
    "build_model": "mdtnet.models.build",
    "load_model": "mdtnet.checkpoint",
    "Network": "mdtnet.models.network",
    "MdtnetError": "mdtnet.errors",
    "ConfigError": "mdtnet.errors",
    "DataError": "mdtnet.errors",
    "VideoError": "mdtnet.errors",
    "WorkerError": "mdtnet.errors",
    "CheckpointError": "mdtnet.errors",
    "ExportError": "mdtnet.errors",
    "DivergedError": "mdtnet.errors",
    "Interrupted": "mdtnet.system.processes",
}
"""Public name -> the module that defines it; imported when first used, so that `import mdtnet` is quick."""

__all__ = ["__version__", *_PUBLIC]

if not TYPE_CHECKING:  # a type checker would believe that every name is there

    def __getattr__(name):
        import importlib

        if name not in _PUBLIC:
            raise AttributeError(f"module 'mdtnet' has no attribute '{name}'")
        return getattr(importlib.import_module(_PUBLIC[name]), name)

    def __dir__():
        return sorted({*globals(), *__all__})
