"""Networks on the Hugging Face Hub, or in a local folder laid out like there."""

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelHubMixin, hf_hub_download

from mdtnet.checkpoint import save_safetensors
from mdtnet.config import RunConfig
from mdtnet.models.network import Network

FILE = "model.safetensors"


class HubMixin(
    ModelHubMixin, ABC, library_name="mdtnet", pipeline_tag="video-classification", tags=["action-recognition"]
):
    """`from_pretrained(folder or repository)`, `save_pretrained(folder)` and `push_to_hub(repository)`.

    The one file that matters is `model.safetensors` as `mdtnet.checkpoint` writes and reads it; `config.json` is there
    for the Hub's pages.
    """

    model: Network
    classes: tuple[str, ...]
    config: RunConfig

    @classmethod
    @abstractmethod
    def load(cls, checkpoint: str | Path, *, device: str = "auto") -> Self:
        """Read a checkpoint file."""

    def _save_pretrained(self, save_directory: Path) -> None:
        save_safetensors(save_directory / FILE, model=self.model, config=self.config, classes=self.classes)
        names = {str(label): name for label, name in enumerate(self.classes)}
        about = {
            "architectures": [self.config.model.name],
            "trunk": self.config.model.trunk,
            "id2label": names,
        }
        (save_directory / "config.json").write_text(json.dumps(about, indent=2), encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str = "auto",
        **_config_json: Any,  # the weights' file knows better
    ) -> Self:
        if Path(model_id).is_dir():
            return cls.load(Path(model_id) / FILE, device=device)
        file = hf_hub_download(
            model_id,
            FILE,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            token=token,
            local_files_only=local_files_only,
        )
        return cls.load(file, device=device)
