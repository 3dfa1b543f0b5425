"""Parts that all pages share: templates, filters, and a file that is written whole or not at all."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from mdtnet.config import SYSTEMS
from mdtnet.errors import ConfigError
from mdtnet.system.files import atomic_write
from mdtnet.system.terminal import plain


@lru_cache
def environment() -> Environment:
    """Templates of all pages, with their filters and globals."""
    environment = Environment(
        loader=PackageLoader("mdtnet.pages"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters["percent"] = percent
    environment.globals["SYSTEMS"] = SYSTEMS
    return environment


def _shown(value: Any) -> Any:
    """Foreign text without characters that a page or an SVG picture may not hold; `Markup` is our own."""
    return plain(value, lines=True) if type(value) is str else value


def percent(value: float | None) -> str:
    """A share from 0 to 1 in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def write_page(out: Path, page: str) -> Path:
    """Write a page and return its path.

    Raises:
        ConfigError: `out` is a folder.
    """
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder, expected the name of an HTML file")
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, lambda file: file.write(page.encode("utf-8", "replace")))
    return out
