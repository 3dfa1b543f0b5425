"""From the words after a verb to options: help, defaults, lists with commas, and one line for every mistake."""

import argparse
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from mdtnet.errors import ConfigError, nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.config import Values

SHORTHANDS = {"--data": "--data.train", "--model": "--model.name", "--trunk": "--model.trunk"}
"""Of `mdtnet train`: short option -> the option that it stands for."""

Config = TypeVar("Config", bound="DataclassInstance")


@dataclass(frozen=True)
class Verb:
    """A subcommand: its purpose, its arguments, and the function to run, which returns an exit code or None."""

    help: str
    arguments: "Callable[[ArgumentParser], None]"
    run: "Callable[[Namespace], int | None]"
    examples: str = ""


def parse(name: str, verb: Verb, arguments: list[str]) -> "Namespace":
    """Options from the words after `mdtnet NAME`; `options.given` holds only those that were typed.

    Raises:
        ConfigError: an option or a value is wrong; the message is one line with the nearest right one.
    """
    parser = parser_of(name, verb)
    words = _lists(_long_names(name, arguments), parser)
    _check_dotted(words, parser)
    try:
        options = parser.parse_args(words)
        options.given = parser.parse_args(words, defaults=False).as_dict()  # typed, even if equal to the default
        return options
    except argparse.ArgumentError as error:
        raise ConfigError(_one_line(str(error), name, parser)) from None


def parser_of(name: str, verb: Verb) -> "ArgumentParser":
    """The parser of the words after `mdtnet NAME`."""
    from jsonargparse import ArgumentParser, set_parsing_settings

    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=f"mdtnet {name}",
        description=verb.help + (f"\n\nExamples:\n{verb.examples}" if verb.examples else ""),
        formatter_class=_Formatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    verb.arguments(parser)
    _name_values(parser)
    parser.usage = _usage(name, parser)
    return parser


def config_from(kind: type[Config], options: "Namespace", base: "Values | None" = None) -> Config:
    """A config dataclass from the options that were typed, over the values of `base`, over its defaults.

    Raises:
        ConfigError: a wrong key or value.
    """
    from mdtnet.config_file import from_dict, merged

    typed = {field.name: options.given[field.name] for field in fields(kind) if field.name in options.given}
    config: Config = from_dict(kind, merged(base or {}, typed), where="command line")
    return config


@contextmanager
def options_of(part: str, kind: "type[DataclassInstance]") -> Iterator[None]:
    """Messages about a part of a config name its options as they are typed: `model.saliency.floor` is `--floor`."""
    names = "|".join(field.name for field in fields(kind))
    try:
        yield
    except ConfigError as error:
        message = re.sub(rf"(?<![\w./-]){re.escape(part)}\.(?=(?:{names})\b)", "--", str(error))
        raise ConfigError(message) from None


def check_least(least: int, **values: float) -> None:
    """Check options that are counts or amounts.

    Raises:
        ConfigError: one is below `least`; the message names the option.
    """
    for name, value in values.items():
        if value < least:
            raise ConfigError(f"--{name} is {value}, expected {'at least 1' if least == 1 else f'{least} or more'}")


# help


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Examples as they are written, and every default that says something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, "", (), []) or action.default is argparse.SUPPRESS or action.nargs == 0
        if silent or not action.option_strings:
            return action.help
        return f"{action.help} (default: {_shown(action.default).replace('%', '%%')})"


def _shown(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _name_values(parser: "ArgumentParser") -> None:
    """Short names for values in help, `{true,false,swap}` or EPOCHS; hides whole groups as files (`--train FILE`)."""
    for action in parser._actions:
        hint = _hint(action)
        if action.metavar == "CONFIG":
            action.help = argparse.SUPPRESS
        elif not action.option_strings:
            action.metavar = action.metavar if isinstance(action.metavar, str) and "{" not in action.metavar else None
            action.metavar = action.metavar or action.dest.upper()
        elif hint is bool or get_origin(hint) is Literal:
            action.metavar = "{" + ",".join(_choices(hint)) + "}"
        elif get_origin(hint) is tuple:
            action.metavar = "ITEM,..."
        elif action.metavar is None:
            action.metavar = action.dest.rpartition(".")[2].upper()


def _usage(name: str, parser: "ArgumentParser") -> str:
    """One line: what must be given, and that there are options."""
    words, others, sections = ["mdtnet", name], False, False
    for action in parser._actions:
        if action.help == argparse.SUPPRESS or action.dest == "help":
            continue
        more = " ..." if action.nargs in ("+", "*") else ""
        if not action.option_strings:
            words.append(f"{action.metavar}{more}")
        elif action.required or action.dest == "config":
            option = f"{action.option_strings[-1]} {action.metavar}{more}"
            words.append(option if action.required else f"[{option}]")
        else:
            others, sections = True, sections or "." in action.dest
    if others:
        words.append(f"[--{'SECTION.' if sections else ''}OPTION VALUE ...]")
    return " ".join(words)


def _hint(action: argparse.Action) -> Any:
    """The type of an option's value where jsonargparse keeps one: a class, a Literal, a tuple; else None."""
    return vars(action).get("_typehint")


def choices_of(action: argparse.Action) -> list[str]:
    """The values that an option allows, as they are typed; none where there are too many to list."""
    return _choices(_hint(action)) or list(map(str, action.choices or ()))


def _choices(hint: Any) -> list[str]:
    """The values that a type allows, as they are typed; none where there are too many to list."""
    if hint is bool:
        return ["true", "false"]
    if get_origin(hint) is tuple:
        return _choices(get_args(hint)[0])
    return [_shown(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []


# what is typed


def _lists(arguments: list[str], parser: "ArgumentParser") -> list[str]:
    """Brackets around lists: `--train.steps 10,20` becomes `--train.steps [10,20]`."""
    several = {o for action in parser._actions if get_origin(_hint(action)) is tuple for o in action.option_strings}
    words: list[str] = []
    for word in arguments:
        option, equals, value = word.partition("=")
        if words and words[-1] in several and not word.startswith(("[", "--")):
            word = f"[{word}]"
        elif option in several and equals and not value.startswith("["):
            word = f"{option}=[{value}]"
        words.append(word)
    return words


def _check_dotted(words: list[str], parser: "ArgumentParser") -> None:
    """Refuse `--data.root` where there is `--data` and no such option: jsonargparse would
    put it in the place of `--data`.

    Raises:
        ConfigError: an option with a dot is not one of the verb's.
    """
    options = _options(parser)
    for option in (word.partition("=")[0] for word in words):
        if option.startswith("--") and "." in option and option not in options:
            raise ConfigError(_unknown(option, options))


def _options(parser: "ArgumentParser") -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _unknown(option: str, options: list[str]) -> str:
    last = f"--{option.rpartition('.')[2]}"
    hint = f"; did you mean '{last}'?" if "." in option and last in options else nearest(option, options)
    return f"unknown option {option}{hint}"


def _long_names(name: str, arguments: list[str]) -> list[str]:
    if name != "train":
        return arguments
    split = [(a.partition("=") if a.startswith("--") else (a, "", "")) for a in arguments]
    return [SHORTHANDS.get(option, option) + equals + value for option, equals, value in split]


# mistakes


def _one_line(message: str, name: str, parser: "ArgumentParser") -> str:
    """jsonargparse's message about a wrong argument as one line of ours, with the nearest right one."""
    typed = {action.dest: _as_typed(action) for action in parser._actions}
    if missing := re.match(r"the following arguments are required: (.+)", message):
        words = [typed.get(word.lstrip("-"), word) for word in missing[1].split(", ")]
        return f"mdtnet {name} needs {', '.join(words)} (mdtnet {name} --help shows how)"
    if unknown := re.match(r"unrecognized arguments: (\S+)", message):
        word = unknown[1]
        if not word.startswith("-"):
            return f"unexpected argument '{word}' (mdtnet {name} --help shows what goes there)"
        return _unknown(word.split("=")[0], _options(parser))
    if empty := re.match(r"argument (?:\S+/)?(\S+): expected (?:one|at least one) argument", message):
        return f"{empty[1]} needs a value"
    if wrong := re.search(r'Parser key "(.+?)"(?: element \d+)?:\s+(.*?)\. Got value: (.*)', message, re.DOTALL):
        hint = next((_hint(action) for action in parser._actions if action.dest == wrong[1]), None)
        choices = _choices(hint)
        kind = re.sub(r"a <class '(\w+)'>", r"\1", wrong[2].removeprefix("Expected "))
        expected = f"one of {', '.join(choices)}" if choices else kind
        return f"{typed.get(wrong[1], wrong[1])} is {wrong[3]!r}, expected {expected}{nearest(wrong[3], choices)}"
    return " ".join(message.split())


def _as_typed(action: argparse.Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar)
