"""Small networks to export, whose predictions differ from clip to clip."""

from pathlib import Path

import torch

from mdtnet.checkpoint import save_checkpoint
from mdtnet.config import DataConfig, EvalConfig, ModelConfig, RunConfig
from mdtnet.deploy.export import real_clips
from mdtnet.inference.description import Description, describe
from mdtnet.models.build import build_model
from mdtnet.models.network import Network

CLASSES = ("left", "right", "up", "down", "still")


def described(model: Network) -> Description:
    return describe(model.config, classes=model.classes, frames_per_segment=model.frames_per_segment)


def make_checkpoint(path: Path, name: str, *, model: dict | None = None, **test) -> Path:
    """A network with every module awake, whose predictions differ from clip to clip."""
    config = RunConfig(
        data=DataConfig(num_segments=4, short_side=72, size=64),
        model=ModelConfig(**{"name": name, "trunk": "resnet18", "width": 0.125, **(model or {})}),
        test=EvalConfig(**test),
    )
    torch.manual_seed(5)
    model = build_model(config.model, num_classes=len(CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        torch.nn.init.normal_(model.head.fc.weight)
        model.classes, model.config = CLASSES, config
        views, _ = real_clips("", described(model))
        clips = torch.from_numpy(views).movedim(-1, 3)
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.momentum = 1.0
        model(clips)  # batch norms get the statistics of these clips, or deep features vanish
        logits = model.eval()(clips)
        spread = logits.std(0).mean()
        model.head.fc.weight /= spread
        model.head.fc.bias.copy_((model.head.fc.bias - logits.mean(0)) / spread)
    save_checkpoint(path, model=model, config=config, classes=CLASSES)
    return path
