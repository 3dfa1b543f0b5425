"""The README is true: its commands parse, its tree is the tree."""

import re
import shlex
from pathlib import Path

import pytest

from mdtnet.cli.main import VERBS
from mdtnet.cli.parse import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = "\n".join(re.findall(r"```[a-z]*\n(.*?)```", README, re.DOTALL))
COMMANDS = [line.split("#")[0].strip() for line in BLOCKS.splitlines() if line.startswith("mdtnet ")]
COMMANDS += [c for c in re.findall(r"`mdtnet ([^`]+)`", README) if "VERB" not in c]


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_commands_parse(command):
    words = shlex.split(command.removeprefix("mdtnet "))
    name = f"{words[0]} {words[1]}" if words[0] == "data" else words[0]
    arguments = ["tsn" if w == "MODEL" else w for w in words[len(name.split()) :]]
    assert name in VERBS
    if arguments or name in ("demo", "models"):
        parse(name, VERBS[name], arguments)


def test_the_two_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", README):
        assert f"\n{target}:" in makefile


def test_the_tree_names_every_module():
    for path in (ROOT / "src" / "mdtnet").rglob("*.py"):
        assert path.name.startswith("__") or path.name in README, path.name
