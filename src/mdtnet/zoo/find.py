"""From a checkpoint as it is given to its file: a path, or a name of the zoo."""

import os
from pathlib import Path
from typing import NamedTuple

from mdtnet.errors import CheckpointError
from mdtnet.system.terminal import bytes_bar
from mdtnet.zoo.store import local_file, obtain
from mdtnet.zoo.table import Entry, entry_named, nearest_name

BUILTIN = "builtin"
"""Name of the small MDT-Net2 that is part of the package."""
BUILTIN_FILE = Path(__file__).with_name("builtin.safetensors")


class Located(NamedTuple):
    """A checkpoint file, and its entry where it was given by name."""

    path: Path
    entry: Entry | None = None


def located(checkpoint: str | Path) -> Located:
    """The file of a checkpoint that is given by path or by name; a path that exists wins.

    A named file is fetched if it is not on this disk.

    Raises:
        CheckpointError: there is neither such a file nor such a name, or the file cannot be had.
        ConfigError: an own table of names cannot be read.
    """
    name = os.fspath(checkpoint)
    if os.path.exists(name):
        return Located(Path(name))
    if name == BUILTIN and BUILTIN_FILE.is_file():
        return Located(BUILTIN_FILE)
    if entry := entry_named(name):
        if local_file(entry):
            return Located(obtain(entry), entry)
        with bytes_bar() as progress:
            return Located(obtain(entry, progress=progress), entry)
    if Path(name).name != name or Path(name).suffix:
        raise CheckpointError(f"{name}: no such checkpoint file")
    raise CheckpointError(f"{name}: no such checkpoint file or name{nearest_name(name)} (mdtnet zoo lists the names)")
