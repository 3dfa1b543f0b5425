"""The verbs about public checkpoints; nothing here needs torch but `push`."""

from typing import TYPE_CHECKING

from rich.table import Table

from mdtnet.cli.parse import Verb
from mdtnet.system.terminal import bytes_bar, say, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.zoo.table import Entry


def list_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("--system", default="", help="only this system, such as tsm")
    parser.add_argument("--data", default="", help="only those trained on this data set, such as kinetics400")
    parser.add_argument("--trunk", default="", help="only this trunk, such as resnet50")
    parser.add_argument("--all", action="store_true", help="all, not the short list alone")
    parser.add_argument("--local", action="store_true", help="only those whose file is on this disk")


def list_names(options: "Namespace") -> None:
    from mdtnet.zoo.find import BUILTIN, BUILTIN_FILE
    from mdtnet.zoo.store import local_file, store_folder
    from mdtnet.zoo.table import chosen, entries

    known = entries()
    filtered = bool(options.system or options.data or options.trunk)
    found = chosen(known, system=options.system, data=options.data, trunk=options.trunk)
    if not (options.all or options.local or filtered):
        found = chosen(found, recommended=True)
    on_disk = {entry.name for entry in found if local_file(entry)}
    if options.local:
        found = [entry for entry in found if entry.name in on_disk]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("name", "top-1, published", "here"):
        table.add_column(title, no_wrap=True)
    if not filtered and BUILTIN_FILE.is_file():
        table.add_row(BUILTIN, "", "yes")
    for entry in found:
        table.add_row(entry.name, _accuracy(entry), "yes" if entry.name in on_disk else "")
    show(table)
    say(f"{len(found)} of {len(known)} names" + ("" if len(found) == len(known) else " (--all lists all of them)"))
    say(f"files are kept in {store_folder()}; mdtnet zoo show NAME says what one is")


def _accuracy(entry: "Entry") -> str:
    if not entry.published:
        return ""
    best = entry.published[-1]
    return f"{best.map:g} % mAP" if best.map is not None else f"{best.top1:g} %"


def show_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("name", help="a name that mdtnet zoo lists")


def show_name(options: "Namespace") -> None:
    from mdtnet.zoo.find import BUILTIN, BUILTIN_FILE
    from mdtnet.zoo.store import local_file, noted, steps_by_hand
    from mdtnet.zoo.table import PAPERS, said_values

    if options.name == BUILTIN and BUILTIN_FILE.is_file():
        _, _, card = BUILTIN_FILE.with_suffix(".md").read_text(encoding="utf-8").split("---\n", 2)
        say(card.strip())
        return
    entry = named(options.name)
    frames = {"uniform": "over the whole video", "dense": "of a window of 64", "stream": "one after the other"}
    kind = f"{entry.system}{', causal (online)' * entry.causal} on {entry.trunk}, {entry.classes} classes"
    say(f"{entry.name}: {kind}")
    _row("trained on", f"{entry.data}, T = {entry.segments}, frames {frames[entry.sampling]}")
    _row("start", entry.start or "not stated")
    names = f"order {entry.labels}" if entry.has_names else "names not known here: numbers"
    _row("classes", names + ("; a video can have several" if entry.multi_label else ""))
    for figure in entry.published:
        _row("published", str(figure) + ("" if figure.test is not None else "; no protocol here does the same"))
    if entry.protocol is not None:
        typed = " ".join(f"--{key} {str(value).lower()}" for key, value in said_values(entry.protocol).items())
        _row("protocol", f"--protocol published{f' is {typed}' if typed else ''}")
    for note in entry.notes:
        _row("note", note)
    _row("licence", f"{entry.licence} (the repository; the weights have none of their own)")
    _row("data", entry.terms)
    _row("cite", PAPERS[entry.system])
    _row("source", entry.source)
    for address in entry.addresses:
        _row("address", address)
    _row("sha256", f"{entry.sha256_prefix}..." if entry.sha256_prefix else "not published; noted at the first download")
    path, note_of_file = local_file(entry), noted(entry)
    if path:
        _row("here", f"{path}" + (f", sha256 {note_of_file.sha256}" if note_of_file else ""))
    else:
        for step in steps_by_hand(entry) if entry.by_hand else [f"mdtnet zoo get {entry.name}"]:
            _row("to get it", step)


def _row(title: str, text: str) -> None:
    say(f"  {title:10} {text}")


def named(name: str) -> "Entry":
    """The entry of this name.

    Raises:
        ConfigError: there is none; the message has the nearest.
    """
    from mdtnet.errors import ConfigError
    from mdtnet.zoo.table import entry_named, nearest_name

    entry = entry_named(name)
    if entry is None:
        raise ConfigError(f"no such name: {name}{nearest_name(name)} (mdtnet zoo --all lists them)")
    return entry


def get_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="names that mdtnet zoo lists")


def get(options: "Namespace") -> None:
    from mdtnet.zoo.find import BUILTIN, BUILTIN_FILE
    from mdtnet.zoo.store import obtain, sha256

    if BUILTIN in options.names:
        say(f"{BUILTIN_FILE}  comes with the package")
    # All names are looked at before the first download.
    for entry in [named(name) for name in options.names if name != BUILTIN]:
        with bytes_bar() as progress:
            path = obtain(entry, progress=progress)
        say(f"{path}  sha256 {sha256(path)}")


def push_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("checkpoint", help="the checkpoint to publish, such as RUN/checkpoints/best.pt")
    parser.add_argument("--tests", nargs="+", required=True, help="folders of tests of it: figures of the card")
    parser.add_argument("--out", required=True, help="folder for weights, config and card")
    parser.add_argument("--repository", default="", help="also upload the folder to user/name on the Hub")


def push(options: "Namespace") -> None:
    from mdtnet import hub

    say(f"wrote {hub.prepare(options.checkpoint, options.out, tests=options.tests)}")
    if options.repository:
        say(f"uploaded to {hub.push(options.out, options.repository)}")


VERBS: dict[str, Verb] = {
    "zoo": Verb(
        "public checkpoints by name: the short list, or all of a system, data set, trunk",
        list_arguments,
        list_names,
        "  mdtnet zoo\n  mdtnet zoo --system tsm --data sthv2\n  mdtnet zoo --local",
    ),
    "zoo show": Verb(
        "what a named checkpoint is: figures, protocol, licence, citation",
        show_arguments,
        show_name,
        "  mdtnet zoo show tsm-resnet50-kinetics400-8f",
    ),
    "zoo get": Verb(
        "fetch named checkpoints now (any verb fetches the one it is given)",
        get_arguments,
        get,
        "  mdtnet zoo get tsm-resnet50-kinetics400-8f tsn-resnet50-kinetics400-8f",
    ),
    "zoo push": Verb(
        "an own network ready to publish: weights, config, a card with measured figures",
        push_arguments,
        push,
        "  mdtnet zoo push runs/mine/checkpoints/best.pt --tests runs/mine/test_val_accurate --out card\n"
        "  mdtnet zoo push runs/mine/checkpoints/best.pt --tests runs/mine --out card --repository user/name",
    ),
}
