"""The verb that prints what a shell needs to complete verbs, options and their values."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from mdtnet.cli.parse import SHORTHANDS, Verb, choices_of, parser_of

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

Shell = Literal["bash", "zsh", "fish"]


def script(shell: Shell, groups: Mapping[str, Mapping[str, Verb]]) -> str:
    """The completion of all verbs, as a program of the shell."""
    import shtab

    return shtab.complete(_whole({name: verb for verbs in groups.values() for name, verb in verbs.items()}), shell)


def _whole(verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """One plain parser of all verbs, which is what shtab reads: `data check` is a verb below `data`."""
    whole = argparse.ArgumentParser(prog="mdtnet")
    first = whole.add_subparsers()
    below: dict[str, Any] = {}
    for name, verb in verbs.items():
        parent, _, last = name.rpartition(" ")
        if parent and parent not in below:
            known = first.choices.get(parent)  # `zoo` is a verb, and has others below it
            below[parent] = (known or first.add_parser(parent, help=f"{parent} ...")).add_subparsers()
        place = below[parent] if parent else first
        short = {long: word for word, long in SHORTHANDS.items()} if name == "train" else {}
        _copy(parser_of(name, verb), place.add_parser(last, help=verb.help, add_help=False), short)
    return whole


def _copy(parser: "ArgumentParser", plain: argparse.ArgumentParser, short: Mapping[str, str]) -> None:
    for action in parser._actions:
        words = [*action.option_strings, *(short[word] for word in action.option_strings if word in short)]
        known = choices_of(action)
        if action.help == argparse.SUPPRESS:  # a whole group as a file: not shown in help either
            continue
        if action.nargs == 0:
            plain.add_argument(*words, action="store_true", help=_short(action))
        elif words:
            _offer(plain, words, known, help=_short(action), file=not known)
        else:
            _offer(plain, [action.dest], known, file=not known, nargs="?" if known else "*")


def _offer(plain: argparse.ArgumentParser, words: list[str], known: Any = (), *, file: bool, **more: Any) -> None:
    import shtab

    added: Any = plain.add_argument(*words, choices=known or None, **more)
    if file:  # most values without a list of choices are files and folders
        added.complete = shtab.FILE


def _short(action: argparse.Action) -> str:
    """The first sentence of an option's help, without what `argparse` would fill in."""
    return (action.help or "").partition(". ")[0].replace("%", "%%").replace("\n", " ")


def verbs(groups: Mapping[str, Mapping[str, Verb]]) -> dict[str, Verb]:
    """The verb, over the table of all of them, which this file cannot import."""

    def arguments(parser: "ArgumentParser") -> None:
        parser.add_argument("shell", type=Shell, help=", ".join(get_args(Shell)))

    def completion(options: "Namespace") -> None:
        print(script(options.shell, groups), end="")

    examples = "  source <(mdtnet completion bash)\n  mdtnet completion fish > ~/.config/fish/completions/mdtnet.fish"
    return {"completion": Verb("print the completion of a shell: bash, zsh or fish", arguments, completion, examples)}
