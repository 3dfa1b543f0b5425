"""Prints the licence of every package that mdtnet needs, directly or through others, as it is installed here.

python tools/licences.py [EXTRA ...]
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement


def needed(name: str, extras: frozenset[str], found: dict[tuple[str, frozenset[str]], Distribution]) -> None:
    """Add a package, and what it needs on this machine, to `found`; what is not installed is not needed here."""
    key = (re.sub(r"[-_.]+", "-", name).lower(), extras)
    if key in found:
        return
    try:
        found[key] = distribution(name)
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, found[key].requires or ()):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            needed(requirement.name, frozenset(requirement.extras), found)


def licence(package: Distribution) -> str:
    """In its own words: the expression, else the classifiers, else the first line of the free text."""
    said = package.metadata
    classifiers = [c.rpartition(" :: ")[2] for c in said.get_all("Classifier", []) if c.startswith("License :: ")]
    text = (said.get("License") or "").strip().partition("\n")[0]
    return said.get("License-Expression") or ", ".join(classifiers) or text or "not said"


def main(extras: list[str]) -> None:
    """One line per package: name, version, licence."""
    found: dict[tuple[str, frozenset[str]], Distribution] = {}
    needed("mdtnet", frozenset(extras), found)
    rows = {name: (package.version, licence(package)) for (name, _), package in found.items() if name != "mdtnet"}
    for name, (version, words) in sorted(rows.items()):
        print(f"{name:28}{version:20}{words}")


if __name__ == "__main__":
    main(sys.argv[1:])
