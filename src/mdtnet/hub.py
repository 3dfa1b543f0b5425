"""Networks on the Hugging Face Hub, or in a local folder laid out like there."""

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Self

from huggingface_hub import HfApi, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from mdtnet.checkpoint import Checkpoint, load_checkpoint, model_of, save_safetensors
from mdtnet.config import SYSTEMS, RunConfig
from mdtnet.config_file import save_yaml
from mdtnet.errors import ConfigError
from mdtnet.metrics import TITLES, Figures, headline
from mdtnet.models.network import Network
from mdtnet.scores import load_figures
from mdtnet.system.files import make_folder, write_text
from mdtnet.zoo.store import sha256

FILE, CARD, CONFIG = "model.safetensors", "README.md", "config.yaml"


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
        write_text(save_directory / "config.json", json.dumps(about, indent=2))

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


# Ready to be published: weights, config, and a card with what was measured


def prepare(checkpoint: str | Path, out: str | Path, *, tests: Sequence[str | Path]) -> Path:
    """Write `model.safetensors`, `config.yaml` and `README.md`, the card, into the folder `out`; returns the card.

    `tests` are folders of tests of this checkpoint; every figure on the card is from them. Paths of this machine are
    left out.

    Raises:
        CheckpointError: the checkpoint; DataError: a folder of a test.
        ConfigError: no test is given, one is of another checkpoint's classes, or `out` cannot be written into.
    """
    if not tests:
        raise ConfigError("no tests are given: a card without measured figures is not written")
    found = load_checkpoint(checkpoint)
    figures = {str(test): load_figures(test) for test in tests}
    for test, measured in figures.items():
        if tuple(measured.get("classes", found.classes)) != found.classes:
            raise ConfigError(f"{test}: a test of other classes than those of {checkpoint}")
    folder = Path(out)
    make_folder(folder)
    config = _without_paths(found.config)
    model = model_of(found, where=str(checkpoint))
    save_safetensors(
        folder / FILE, model=model, config=config, classes=found.classes, metrics=found.metrics, source=found.source
    )
    save_yaml(config, folder / CONFIG)
    text = card(found, list(figures.values()), digest=sha256(folder / FILE))
    write_text(folder / CARD, text)
    return folder / CARD


def _without_paths(config: RunConfig) -> RunConfig:
    data = dataclasses.replace(
        config.data, train=_name(config.data.train), val=_name(config.data.val), root="", classes="", cache=""
    )
    model = dataclasses.replace(config.model, weights=_name(config.model.weights))
    return dataclasses.replace(config, out="", data=data, model=model)


def _name(path: str) -> str:
    """The last two parts of a path, which name a list without saying where it lies."""
    pure = PureWindowsPath(path) if "\\" in path else PurePosixPath(path)
    return "/".join(pure.parts[-2:]) if pure.is_absolute() else path


def card(checkpoint: Checkpoint, tests: Sequence[Figures], *, digest: str) -> str:
    """The card of a network, as Markdown with the Hub's header; figures are those of `tests`."""
    config, data = checkpoint.config, checkpoint.config.data
    title = f"{SYSTEMS[config.model.name].title} on {config.model.trunk}"
    rows = [_row(figures) for figures in tests]
    columns = ["test", *(name for name in _NAMES if any(name in row for row in rows)), "videos"]
    table = [columns, ["---"] * len(columns), *([row.get(name, "") for name in columns] for row in rows)]
    source = checkpoint.source.get("licence", "")
    versions = ", ".join(f"{name} {version}" for name, version in checkpoint.versions.items())
    lines = [
        "---",
        "library_name: mdtnet",
        "pipeline_tag: video-classification",
        "tags: [action-recognition]",
        "---",
        f"# {title}, {len(checkpoint.classes)} classes",
        "",
        f"Trained on {_name(data.train) or 'data that its config does not name'}"
        + (f", from {_name(config.model.weights)}" if config.model.weights else ", from a random start")
        + f": T = {data.num_segments}, {data.size} x {data.size} pixels, {config.train.epochs} epochs "
        + f"(`{CONFIG}` has every option).",
        *([f"Licence of what it was made from: {source}."] if source else []),
        "",
        "## Measured",
        "",
        *("| " + " | ".join(cells) + " |" for cells in table),
        "",
        f"On {' and '.join(sorted({str(f.get('hardware') or 'a machine that is not named') for f in tests}))}. "
        f"Trained with {versions}.",
        "",
        "## Use",
        "",
        "```python",
        "import mdtnet",
        "",
        f'model = mdtnet.load("{FILE}")',
        'print(model.predict("clip.mp4"))',
        "```",
        "",
        f"SHA-256 of `{FILE}`: `{digest}`. Card of {datetime.now(UTC).date().isoformat()}.",
        "",
    ]
    return "\n".join(lines)


_NAMES = (TITLES["top1"], TITLES["top5"], TITLES["mean_class"], TITLES["map"])


def _row(figures: Figures) -> dict[str, str]:
    said = figures.get("protocol", {})
    mirrored = ", each also mirrored" if said.get("flip") else ""
    size, segments = said.get("crop_size"), said.get("num_segments")
    how = f"{said.get('clips')} clip(s) x {said.get('crops')} crop(s) of {size}{mirrored}, {segments} segments"
    values = (figures.get("top1"), figures.get("top5"), figures.get("mean_class"), figures.get("map"))
    shown = {name: f"{value:.2%}" for name, value in zip(_NAMES, values) if value is not None}
    if TITLES[headline(figures)] not in shown:
        raise ConfigError("a test has no figure to put on a card: none of its videos could be read")
    return {"test": f"{_name(str(said.get('data', '')))}, {how}", **shown, "videos": str(figures["videos"])}


def push(folder: str | Path, repository: str) -> str:
    """Upload what `prepare` wrote to `repository` (user/name) on the Hugging Face Hub; returns the address.

    Raises:
        ConfigError: the folder is not what `prepare` wrote, or the Hub refuses.
    """
    missing = [name for name in (FILE, CONFIG, CARD) if not Path(folder, name).is_file()]
    if missing:
        raise ConfigError(f"{folder}: without {', '.join(missing)}")
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=[FILE, CONFIG, CARD]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{repository}: cannot be uploaded to ({reason}); hf auth login signs in") from error
