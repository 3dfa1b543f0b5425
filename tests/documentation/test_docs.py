"""What the pages say to do works: each page from top to bottom in a folder with small things under its names."""

import json
import shlex
import shutil
import traceback
from xml.etree import ElementTree

import pytest
import yaml
from documentation.home import make_home
from documentation.pages import GIVEN, INSTEAD, MADE, NOT_RUN, PAGES, SHOWN, SMALLER, Step, blocks, is_run, steps

from mdtnet.cli.main import VERBS, main

STEPS = {page: steps(text) for page, text in PAGES.items()}
READERS = {"json": json.loads, "yaml": yaml.safe_load, "xml": ElementTree.fromstring}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Everything that pages name."""
    with pytest.MonkeyPatch.context() as patch:
        yield make_home(tmp_path_factory.mktemp("docs"), patch)


@pytest.mark.docs
@pytest.mark.parametrize("page", [page for page, found in STEPS.items() if any(map(is_run, found))])
def test_what_a_page_says_works(page, home, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    shutil.copytree(home, folder, symlinks=True)
    for name in MADE.get(page, ()):
        shutil.rmtree(folder / name)
    if any(f"videos/{part}" in text for part in ("train", "val", "test") for _, text in blocks(PAGES[page])):
        shutil.rmtree(folder / "videos")
        (folder / "parts").rename(folder / "videos")
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(GIVEN.get(page, ""), names)
    failed = [f"{step.text}\n{reason}" for step in STEPS[page] if is_run(step) and (reason := failure(step, names))]
    assert not failed, "\n\n".join(failed)


def failure(step: Step, names: dict[str, object]) -> str:
    """Why a step does not work; empty if it does."""
    text = step.text
    for words, other in INSTEAD.items():
        text = text.replace(words, other)
    try:
        if step.kind == "python":
            exec(compile(text, "page", "exec"), names)
            return ""
        code = main(arguments(text))
        return f"exit code {code}" if code else ""
    except Exception:
        return traceback.format_exc()


def arguments(command: str) -> list[str]:
    words = shlex.split(command)[1:]
    verb = next((name for name in (" ".join(words[:2]), words[0]) if name in VERBS), "")
    return words + SMALLER.get(verb, "").split()


def test_every_step_is_run_or_listed_with_a_reason():
    for page, found in STEPS.items():
        for step in found:
            known = step.kind == "python" or (step.kind == "command" and step.text.startswith("mdtnet "))
            assert known or not is_run(step), f"{page}: {step.text}"


def test_the_tables_name_nothing_that_is_gone():
    texts = [step.text for found in STEPS.values() for step in found]
    assert [start for start in NOT_RUN if not any(text.startswith(start) for text in texts)] == []
    assert [words for words in INSTEAD if not any(words in text for text in texts)] == []


def test_blocks_that_are_only_shown_can_be_read():
    found = [block for page in PAGES.values() for block in blocks(page)]
    assert {language for language, _ in found} <= {"", "python", "bash", *SHOWN}
    for language, text in found:
        READERS.get(language, str)(text)
