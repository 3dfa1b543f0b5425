"""What is typed after a verb -> its options: help with defaults, lists with commas, one line for a mistake."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from mdtnet.errors import ConfigError

SHORTHANDS = {"--data": "--data.train", "--model": "--model.name", "--trunk": "--model.trunk"}
"""Of `mdtnet train`: what people type first -> the option it stands for."""


@dataclass(frozen=True)
class Verb:
    """A subcommand: what it is for, its arguments, what it runs (which returns an exit code or None)."""

    help: str
    arguments: Callable[[Any], None]
    run: Callable[[Any], int | None]
    examples: str = ""


def parse(name: str, verb: Verb, arguments: list[str]) -> Any:
    """What was typed after `mdtnet NAME` -> options; `options.given` has those that were typed alone.

    Raises:
        ConfigError: an option or a value is wrong; the message is one line with the nearest right one.
    """
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"mdtnet {name}",
        description=verb.help + (f"\n\nExamples:\n{verb.examples}" if verb.examples else ""),
        formatter_class=_help_formatter(),
        exit_on_error=False,
        allow_abbrev=False,
    )
    verb.arguments(parser)
    _hide_groups(parser)
    words = _lists(_long_names(name, arguments), parser)
    try:
        options = parser.parse_args(words)
        options.given = parser.parse_args(words, defaults=False).as_dict()  # what was typed, be it a default or not
        return options
    except argparse.ArgumentError as error:
        raise ConfigError(_one_line(str(error), parser)) from None


def _help_formatter() -> Any:
    class Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
        """Examples as they are written, and defaults, but for those that say nothing."""

        def _get_help_string(self, action: argparse.Action) -> str | None:
            plain = action.default in (None, "", (), []) or (isinstance(action.default, bool) and action.nargs == 0)
            return action.help if plain else super()._get_help_string(action)

    return Formatter


def _hide_groups(parser: Any) -> None:
    """A whole group of options, such as `--train`, could be a file of its own; `--config` is how one is given here."""
    for action in parser._actions:
        if action.metavar == "CONFIG":
            action.help = argparse.SUPPRESS


def _lists(arguments: list[str], parser: Any) -> list[str]:
    """`--train.steps 10,20` is the list [10, 20]."""
    kinds = {o: getattr(action, "_typehint", None) for action in parser._actions for o in action.option_strings}
    several = {option for option, kind in kinds.items() if get_origin(kind) is tuple}
    words: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        if words and words[-1] in several and not word.startswith(("[", "--")):
            word = f"[{word}]"
        elif option in several and equals and not value.startswith("["):
            word = f"{option}=[{value}]"
        words.append(word)
    return words


def _long_names(name: str, arguments: list[str]) -> list[str]:
    if name != "train":
        return arguments
    split = [(a.partition("=") if a.startswith("--") else (a, "", "")) for a in arguments]
    return [SHORTHANDS.get(option, option) + equals + value for option, equals, value in split]


def _one_line(message: str, parser: Any) -> str:
    """What jsonargparse says of a wrong argument, in one line with the nearest right one."""
    from mdtnet.errors import nearest

    options = [o for action in parser._actions for o in action.option_strings]
    if unknown := re.match(r"unrecognized arguments: (\S+)", message):
        return f"unknown option {unknown[1]}{nearest(unknown[1].split('=')[0], options)}"
    if wrong := re.search(r'Parser key "(.+?)":\s+(.*?)\. Got value: (.*)', message, re.DOTALL):
        hints = {action.dest: getattr(action, "_typehint", None) for action in parser._actions}
        hint = hints.get(wrong[1])
        choices = [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []
        kind = re.sub(r"a <class '(\w+)'>", r"\1", wrong[2].removeprefix("Expected "))
        expected = f"one of {', '.join(choices)}" if choices else kind
        return f"--{wrong[1]} is {wrong[3]!r}, expected {expected}{nearest(wrong[3], choices)}"
    return " ".join(message.split())
