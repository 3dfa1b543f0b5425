"""Completion knows every verb and its options, in each shell, without loading torch."""

import shutil
import subprocess
import sys

import pytest

from mdtnet.cli.main import VERBS

SHELLS = ("bash", "zsh", "fish")
ASK = """source {script}
COMP_WORDS=({words} "{last}"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_mdtnet mdtnet "{last}"; echo "${{COMPREPLY[@]}}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    code = f"""import sys
from contextlib import redirect_stdout
from mdtnet.cli.main import main
for shell in {SHELLS}:
    with open(shell, "w") as file, redirect_stdout(file):
        assert main(["completion", shell]) == 0
sys.exit('torch' in sys.modules)"""
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    return {shell: folder / shell for shell in SHELLS}


@pytest.mark.parametrize(
    ("words", "last", "expected"),
    [
        ("mdtnet", "st", {"study"}),
        ("mdtnet data", "", {name.split()[1] for name in VERBS if name.startswith("data ")}),
        ("mdtnet train --model.name", "t", {"tsn", "tsm", "tea", "tdn"}),
        ("mdtnet train --model", "td", {"tdn"}),  # a shorthand has the values of what it stands for
        ("mdtnet test run.pt", "--cr", {"--crops", "--crop_size"}),
    ],
)
def test_bash_completes(scripts, words, last, expected):
    text = ASK.format(script=scripts["bash"], words=words, last=last)
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_every_verb_in_a_script_that_it_can_read(scripts, shell):
    text = scripts[shell].read_text()
    assert [name for name in VERBS if name.split()[-1] not in text] == []
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", scripts[shell]], check=True)
