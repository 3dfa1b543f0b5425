"""Any supported checkpoint -> one self-describing safetensors file."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

from mdtnet.checkpoint import load_checkpoint, model_of, save_safetensors, trained_with
from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.system.files import check_file
from mdtnet.zoo.find import located
from mdtnet.zoo.store import sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Conversion:
    """A checkpoint that `convert` recognised and wrote; `str()` is a few readable lines."""

    kind: str
    """Kind of file that it was recognised as."""
    system: str
    trunk: str
    num_segments_trained: int | None
    """T in training; None if unknown."""
    classes: tuple[str, ...]
    num_tensors: int
    ignored: tuple[str, ...]
    """Names of tensors in the file that the network does not need."""
    sha256: str
    """SHA-256 of the file that was read."""
    out: str

    def __str__(self) -> str:
        segments = f"T = {self.num_segments_trained or 'unknown'}"
        lines = [
            f"{self.kind}: {self.system} on {self.trunk}, {segments}, {len(self.classes)} classes",
            f"{self.num_tensors} tensors -> {self.out}",
        ]
        return "\n".join(lines + ([f"ignored: {', '.join(self.ignored)}"] if self.ignored else []))


def convert(
    path: str | Path, out: str | Path, *, labels: str | Path = "", num_segments_trained: int | None = None
) -> Conversion:
    """Recognise the checkpoint at `path` and write it to `out` as safetensors, with all that its use needs.

    `labels` is a file of class names, one per line, in label order. `num_segments_trained` is the T of training, which
    other people's files do not hold.

    Raises:
        CheckpointError: the file is not recognised, does not load safely or does not fit its network; or the number
            of names in `labels` is not that of its classes.
        ConfigError: `out` cannot be written or is `path` itself, or `num_segments_trained` is below 1.
    """
    _check_out(path, out)
    checkpoint = load_checkpoint(path)
    file = located(path).path
    if num_segments_trained is not None:
        checkpoint = trained_with(checkpoint, num_segments_trained)
    elif checkpoint.config.model.name == "tdn" and checkpoint.num_segments_trained is None:
        log.warning("%s: T of training is not in the file; num_segments_trained fixes the fusion weights", path)
    if labels:
        checkpoint = dataclasses.replace(checkpoint, classes=read_labels(labels, count=len(checkpoint.classes)))
    digest = sha256(file)
    source = {"kind": "mdtnet", "ignored": [], "file": file.name, "sha256": digest} | checkpoint.source
    model = model_of(checkpoint, where=str(path))
    save_safetensors(
        out,
        model=model,
        config=checkpoint.config,
        classes=checkpoint.classes,
        metrics=checkpoint.metrics,
        source=source,
    )
    return Conversion(
        kind=source["kind"],
        system=checkpoint.config.model.name,
        trunk=checkpoint.config.model.trunk,
        num_segments_trained=checkpoint.num_segments_trained,
        classes=checkpoint.classes,
        num_tensors=len(checkpoint.model_state),
        ignored=tuple(source["ignored"]),
        sha256=digest,
        out=str(out),
    )


def _check_out(path: str | Path, out: str | Path) -> None:
    out = Path(out)
    check_file(out)
    if out.resolve() == Path(path).resolve():
        raise ConfigError(f"{out}: is the checkpoint itself, expected another file name")


def read_labels(path: str | Path, *, count: int) -> tuple[str, ...]:
    """Class names, one per line, in label order.

    Raises:
        CheckpointError: the file cannot be read, or does not have `count` names.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: class names cannot be read: {error}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
        raise CheckpointError(f"{path}: {len(names)} class names, but the checkpoint has {count} classes")
    return names
