"""Prints constraints for pip: each package that pyproject.toml names, at the lowest version it allows.

Of the extras `export` and `dev`, which the tests need; `codec` has a later torch of its own.
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
    found = []
    for line in [*project["dependencies"], *optional]:
        bound = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line)
        if bound:
            found.append(f"{bound[1]}=={bound[2]}")
        elif line in project["dependencies"]:
            raise ValueError(f"{line}: no lower bound")
    return found


if __name__ == "__main__":
    print("\n".join(lowest(Path(__file__).parents[1] / "pyproject.toml")))
