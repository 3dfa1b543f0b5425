"""Foreign text is shown as it is, or with its control characters as codes."""

import io
import logging

import pytest
from rich.table import Table

from mdtnet.errors import LONGEST, DataError
from mdtnet.system import terminal
from mdtnet.system.terminal import complain, log_file, mistake, plain, say, show

FOREIGN = r"[red]a[/] \[ :smile: $x$ <b>"


@pytest.fixture
def shown(monkeypatch):
    text = io.StringIO()
    for console in (terminal.OUTPUT, terminal.CONSOLE):
        monkeypatch.setattr(console, "_file", text)
        monkeypatch.setattr(console, "_width", 200)
    return text.getvalue


@pytest.mark.parametrize("print_it", [say, complain, mistake, lambda text: show(Table(text, title=text))])
def test_markup_emoji_and_control_characters_are_shown(shown, print_it):
    print_it(f"{FOREIGN} \x1b[2J\x07\u202e é")
    assert rf"{FOREIGN} \x1b[2J\x07\u202e é" in shown()
    assert "\x1b" not in shown()


def test_a_bar_shows_names_as_they_are(shown, monkeypatch):
    monkeypatch.setattr(type(terminal.CONSOLE), "is_terminal", True)
    with terminal.bar(2, text=FOREIGN) as done:
        done(1)
    assert FOREIGN in shown()


def test_a_log_line_is_one_line(tmp_path):
    with log_file(tmp_path / "a.log", tmp_path, active=True):
        logging.getLogger("mdtnet.test").info("left out: %s", "a\n2026 forged \x1b[2J.mp4")
    (line,) = (tmp_path / "a.log").read_text().splitlines()
    assert line.endswith(r"left out: a\n2026 forged \x1b[2J.mp4")


def test_text_of_any_script_stays():
    text = "прыжок 跳 \u200d 👩\u200d🚀"
    assert plain(text) == text


def test_a_message_fits_whatever_is_in_it():
    path, name = "/videos/" + "deep/" * 150 + "a.mp4", "stand_" + "x" * 5000
    assert str(DataError(f"{path}: damaged")) == f"{path}: damaged"
    assert str(DataError(f"{path}: unknown action '{name}', expected run")).endswith("xxx', expected run")
    assert len(str(DataError(f"classes are {['a'] * 1000}"))) == LONGEST
