"""Options and steps that all verbs share which turn many items into rows, and the verb that joins their parts."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from mdtnet.cli.parse import Verb, check_least
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import bar, complain, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.config import Values
    from mdtnet.data.container import Part
    from mdtnet.work.engines import Job

Item = TypeVar("Item")
Rows = Iterator[tuple[str, "Values"]]


BYTES = "bytes"
"""Key of a kept row: the size of the video's file."""
SOURCES = "video files, folders, patterns, frame folders, http(s) or RTSP addresses, a camera's number, - (stdin)"


def source_arguments(parser: "ArgumentParser", *, known: str = SOURCES) -> None:
    parser.add_argument("sources", metavar="SOURCE", nargs="*", default=[], help=known)
    parser.add_argument("--list", default="", help="list file of videos: path, and start and end in seconds if wanted")
    parser.add_argument("--root", default="", help="folder that the paths in the list are relative to")


def items_of(options: "Namespace") -> "dict[str, Part]":
    from mdtnet.inference.items import find_items

    return find_items(options.sources, listed=options.list, root=options.root)


def work_arguments(parser: "ArgumentParser", *, workers: int = 0, timeout: float = 300.0) -> None:
    """Options of `compute` and `do`; `workers` and `timeout` are defaults, 0: no processes, any time."""
    from mdtnet.work.engines import Engine

    which = "processes of one video each" if workers else "processes that each hold the network; 0: this one"

    shard_argument(parser)
    parser.add_argument("--engine", type=Engine, default="local", help="local, or ray: a Ray cluster (extra [ray])")
    parser.add_argument(
        "--workers",
        type=int,
        default=workers,
        help=f"{which}, with ray: one per CPU",
    )
    parser.add_argument("--num_gpus", type=float, default=0.0, help="with ray: share of a GPU that a process gets")
    parser.add_argument(
        "--timeout", type=float, default=timeout, help="longest time for one video of a process, seconds; 0: any"
    )


def shard_argument(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--shard", default="1/1", help="do a part alone, 3/16 the third of sixteen, and keep what is done"
    )


def compute(
    job: "Job[Item]",
    items: Mapping[str, Item],
    options: "Namespace",
    *,
    here: "Callable[[dict[str, Item]], Rows] | None" = None,
    places: tuple[str, ...] = (),
) -> Callable[[Any], Rows]:
    """Names -> rows by the engine that was asked for; `here` does it in this process in a better way."""
    from mdtnet.work.engines import in_processes, on_ray

    check_least(0, workers=options.workers, num_gpus=options.num_gpus, timeout=options.timeout)

    def rows(names: list[str]) -> Rows:
        chosen = {name: items[name] for name in names}
        if options.engine == "ray":
            workers = options.workers or max(1, len(chosen))
            return on_ray(job, chosen, workers=workers, num_gpus=options.num_gpus, places=places)
        if options.workers:
            timeout = options.timeout or math.inf
            return in_processes(job, chosen, workers=options.workers, timeout_seconds=timeout)
        return here(chosen) if here else ((name, job((name, item))) for name, item in chosen.items())

    return rows


def from_root(checkpoint: str, items: "Mapping[str, Part]") -> "tuple[str, dict[str, Part]]":
    """A checkpoint, or its name, and items for other machines, which have another current folder."""
    from mdtnet.inference.sources import absolute

    items = {name: replace(part, path=absolute(part.path)) for name, part in items.items()}
    return absolute(checkpoint) if os.path.exists(checkpoint) else checkpoint, items


def places(items: "Mapping[str, Part]", *files: str) -> tuple[str, ...]:
    """What of this machine every machine must see: files, folders, and a video."""
    from mdtnet.inference.sources import is_local

    first = next(iter(items.values()))
    return tuple(path for path in (*files, first.path) if os.path.exists(path) and is_local(path))


def do(
    items: "Mapping[str, Part]",
    rows: Callable[[Any], Rows],
    options: "Namespace",
    about: "Values",
    *,
    keep: "Callable[[Values], bool] | None" = None,
    counted: bool = True,
) -> "dict[str, Values]":
    """All rows of a shard: with `--out` kept in that folder, where a rerun skips what is done and computes rows again
    that `keep` does not want, or whose file has another size now. Progress is shown, unless `counted` is false."""
    from mdtnet.work import parts

    shard = parts.Shard.parse(options.shard)

    def sized(names: Sequence[str]) -> Rows:
        for name, row in rows(names):
            yield name, {**row, BYTES: _size(items[name])}

    def good(row: "Values") -> bool:
        name = str(row["name"])
        known = name in items and shard.holds(name) and row.get(BYTES)
        return (not known or _size(items[name]) in (None, row[BYTES])) and (keep is None or keep(row))

    with bar(sum(map(shard.holds, items)), text="videos", active=counted) as progress:
        shown = None if progress is None else lambda done, total: progress(done)
        if not options.out:
            if shard.count > 1:
                raise ConfigError("--shard needs --out, a folder that all shards share")
            found = {}
            for done, (name, row) in enumerate(rows(list(items)), start=1):
                found[name] = {"name": name, **row}
                if progress:
                    progress(done)
            return {name: found[name] for name in items}
        new = parts.do(items, sized, options.out, about=about, shard=shard, keep=good, progress=shown)
    kept = parts.read_rows(options.out, keep=good)
    found = {name: _without_size(kept[name]) for name in items if shard.holds(name)}
    if new < len(found):
        complain(f"{len(found) - new} of {len(found)} videos were in {options.out} already")
    return found


def _size(part: "Part") -> int | None:
    """Bytes of a video file: another video of its name has others."""
    return os.path.getsize(part.path) if os.path.isfile(part.path) else None


def _without_size(row: "Values") -> "Values":
    return {key: value for key, value in row.items() if key != BYTES}


def merge_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("folder", help="the --out of the shards")
    parser.add_argument("--out", default="", help="table to write, .csv or .jsonl; default: FOLDER/rows.csv")


def merge(options: "Namespace") -> int:
    from mdtnet.work import parts

    rows = parts.merge(options.folder)
    out = options.out or os.path.join(options.folder, "rows.csv")
    parts.write_table([flat(row) for row in rows], out)
    failed = sum(bool(row.get("error")) for row in rows)
    say(f"{len(rows)} rows, {failed} of them with an error: {out}")
    return 1 if failed else 0


def flat(row: "Values") -> "Values":
    """A row with a column for every class and probability in place of a list of them."""
    found: Values = {}
    for key, value in row.items():
        if key == "predictions" and isinstance(value, list):
            for place, best in enumerate(value, start=1):
                found |= {f"{name}_{place}": text for name, text in best.items()} if isinstance(best, dict) else {}
        else:
            found[key] = value
    return found


VERBS = {
    "merge": Verb(
        "join the parts of work that was done in shards",
        merge_arguments,
        merge,
        "  mdtnet merge runs/predicted\n  mdtnet merge runs/predicted --out predictions.csv",
    ),
}
