"""Prints constraints for pip: each package that pyproject.toml names, at the lowest version that the tests can have.

They need the extras `export` and `dev`: of a package that an extra wants in a later version, that is the lowest.
"""

import re
import tomllib
from pathlib import Path

EXTRAS = ("export", "dev")


def lowest(pyproject: Path) -> list[str]:
    """`name==version` per requirement with a lower bound.

    Raises:
        ValueError: a requirement of the package itself has none.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    found: dict[str, str] = {}
    for line in [*project["dependencies"], *optional]:
        bound = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line)
        if bound:
            found[bound[1]] = max(bound[2], found.get(bound[1], "0"), key=_numbers)
        elif line in project["dependencies"]:
            raise ValueError(f"{line}: no lower bound")
    return [f"{name}=={version}" for name, version in found.items()]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


if __name__ == "__main__":
    print("\n".join(lowest(Path(__file__).parents[1] / "pyproject.toml")))
