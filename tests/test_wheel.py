"""The package as it is installed: one digest from the same source, and everything in it that commands look for."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DATA = ("pages/templates", "presets", "zoo")


def built(folder: Path) -> Path:
    """A wheel from a copy of the source, without a network."""
    source = folder / "source"
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"})
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_two_builds_are_one_file_with_all_that_is_looked_for(tmp_path):
    pytest.importorskip("setuptools", minversion="77", reason="builds without a network need it installed")
    first, second = built(tmp_path / "first"), built(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()
    package = ROOT / "src" / "mdtnet"
    wanted = {path for folder in DATA for path in (package / folder).rglob("*") if path.is_file()}
    wanted = {f"mdtnet/{path.relative_to(package)}" for path in wanted if path.suffix != ".pyc"}
    assert wanted <= set(zipfile.ZipFile(first).namelist())
