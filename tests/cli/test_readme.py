"""README and pages are true: their commands parse, their links lead somewhere, the tree is the tree."""

import ast
import re
import shlex

import pytest
from documentation.pages import PAGES, ROOT, blocks, lines

from mdtnet.cli.main import VERBS
from mdtnet.cli.parse import parse

README = PAGES["README.md"]
LINKED = {**PAGES, **{str(path.relative_to(ROOT)): path.read_text() for path in ROOT.glob("docs/results/*.md")}}


def commands(page: str) -> set[str]:
    """Commands of a page, in blocks and in the text, but for those with a part left out (`VERB`, `...`)."""
    shown = [line for _, block in blocks(page) for line in lines(block) if line.startswith("mdtnet ")]
    inline = [
        f"mdtnet {words}" for words in re.findall(r"`mdtnet ([^`]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    ]
    return {command for command in (*shown, *inline) if "VERB" not in command and "..." not in command}


@pytest.mark.parametrize("command", sorted(set().union(*map(commands, PAGES.values()))))
def test_commands_parse(command):
    words = shlex.split(command.removeprefix("mdtnet "))
    name = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    arguments = ["tsn" if w == "MODEL" else w for w in words[len(name.split()) :]]
    assert name in VERBS
    if "--help" not in arguments and (arguments or name in ("demo", "models", "zoo")):
        parse(name, VERBS[name], arguments)


@pytest.mark.parametrize("page", sorted(LINKED))
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", LINKED[page]):
        if "://" in target:
            continue
        name, _, heading = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if heading:
            assert heading in headings(path.read_text()), target


def headings(page: str) -> set[str]:
    """Anchors of a page's headings, as readers of Markdown name them."""
    lines = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_the_messages_of_troubleshooting_are_those_of_the_code():
    """Words in capitals and `...` stand for anything; the words between them stand in one text of the source."""
    written = texts()
    rows = re.findall(r"^\| (.*?) \| ", PAGES["docs/troubleshooting.md"], re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    assert len(messages) > 30
    for message in messages:
        fixed = [words.strip(" :'") for words in re.split(r"\b[A-Z]+\b|\.\.\.|; did you mean", message)]
        pattern = re.compile(".*".join(map(re.escape, filter(None, fixed))), re.DOTALL)
        assert any(map(pattern.search, written)), message


def texts() -> list[str]:
    """Every text of the source but docstrings."""
    nodes = [node for path in (ROOT / "src").rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [text(n) for n in nodes if isinstance(n, (ast.JoinedStr, ast.Constant)) and id(n) not in docstrings]


def text(node: ast.expr) -> str:
    """A text as it is written; what an f-string fills in is a blank."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text, node.values))
    return str(node.value) if isinstance(node, ast.Constant) else " "


def test_the_make_commands_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES.values():
        for target in re.findall(r"`?make ([a-z]+(?:-[a-z]+)*)`", page) + re.findall(
            r"^make ([a-z-]+)", page, re.MULTILINE
        ):
            assert f"\n{target}:" in makefile, target


def test_the_tree_names_every_folder_and_every_file_beside_them():
    tree = README.partition("src/mdtnet/\n")[2].partition("```")[0]
    package = ROOT / "src" / "mdtnet"
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    files = {path.name for path in package.glob("[a-z]*.py")}
    assert {name for name in folders | files if name not in tree.split()} == set()
