"""The verb for studies: grids of runs, their results and tables."""

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from rich.table import Table

from mdtnet.cli.parse import Verb
from mdtnet.cli.work import shard_argument
from mdtnet.errors import ConfigError, MdtnetError
from mdtnet.system.terminal import say, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.study.grid import Spec, Study
    from mdtnet.study.results import Standing

STALE_SHOWN = 5


def study_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.work.engines import Engine

    parser.add_argument("study", metavar="STUDY", help="a shipped study, such as quick, or a YAML file")
    parser.add_argument("--root", default="", help="folder that relative paths of data are in")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; they share the cores")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="a part of the grid: system=tsn,tdn data=... seed=... variant=... fold=...",
    )
    shard_argument(parser)
    parser.add_argument("--engine", type=Engine, default="local", help="local, or ray: a Ray cluster (extra [ray])")
    parser.add_argument("--num_gpus", type=float, default=0.0, help="with ray: GPUs, or share of one, of each run")
    parser.add_argument("--list", action="store_true", help="show what is done and what is missing, and run nothing")
    parser.add_argument("--report", action="store_true", help="make tables and pages of results.csv, and run nothing")
    parser.add_argument("--no_latency", action="store_true", help="do not measure the networks' latency at the end")


def study(options: "Namespace") -> None:
    from mdtnet.study.grid import load_study, only
    from mdtnet.study.runs import run_study
    from mdtnet.work.parts import Shard

    found = load_study(options.study)
    shard = Shard.parse(options.shard)
    wanted = [spec for spec in only(found.specs, options.only) if shard.holds(spec.name)]
    now = _standing(found)
    _say_stale(now)
    if options.list:
        say(str(found.path))
        show(_grid(found, wanted, now))
        say(_estimate(found, wanted, now, options.jobs))
        return
    if not options.report:
        missing = [spec for spec in wanted if spec.key not in now.done]
        _check(found, missing)
        say(f"{len(wanted) - len(missing)} of {len(wanted)} runs are done")
        try:
            run_study(
                found,
                missing,
                root=options.root,
                jobs=options.jobs,
                engine=options.engine,
                num_gpus=options.num_gpus,
            )
        except MdtnetError:  # what is done is shown all the same
            _report(found, latency=False)
            raise
    _report(found, latency=not options.report and not options.no_latency)


def _check(found: "Study", specs: list["Spec"]) -> None:
    """Check the numbers of every run before the first one starts."""
    from mdtnet.checks import check_config

    for spec in specs:
        try:
            check_config(spec.config, processes=1)
        except ConfigError as error:
            raise ConfigError(f"{found.path}: {spec}: {error}") from None


def _standing(found: "Study") -> "Standing":
    from mdtnet.study.results import RESULTS, read_configs, read_rows, standing

    return standing(found, read_rows(found.results / RESULTS), read_configs(found.results))


def _say_stale(now: "Standing") -> None:
    """Say how many rows are in no table, by reason."""
    reasons = Counter(reason for _, reason in now.stale)
    for reason, count in reasons.most_common(STALE_SHOWN):
        say(f"stale, in no table: {count} rows: {reason}")
    if len(reasons) > STALE_SHOWN:
        say(f"and {len(reasons) - STALE_SHOWN} other reasons")


def _grid(found: "Study", wanted: list["Spec"], now: "Standing") -> Table:
    """How many runs are done of each system and variant on each data set."""
    sets = list(dict.fromkeys(spec.data.name for spec in wanted))
    table = Table("system", "variant", *sets)
    for system, variant in dict.fromkeys((spec.system, spec.variant) for spec in wanted):
        own = [spec for spec in wanted if (spec.system, spec.variant) == (system, variant)]
        cells = []
        for name in sets:
            specs = [spec for spec in own if spec.data.name == name]
            cells.append(f"{sum(spec.key in now.done for spec in specs)} of {len(specs)}" if specs else "")
        table.add_row(system, variant, *cells)
    return table


def _estimate(found: "Study", wanted: list["Spec"], now: "Standing", jobs: int) -> str:
    from mdtnet.study.runs import duration, time_left

    seconds: dict[str, list[float]] = defaultdict(list)
    for row in now.done.values():
        seconds[row.system].append(row.seconds)
    missing = [spec for spec in wanted if spec.key not in now.done]
    text = f"{len(wanted) - len(missing)} of {len(wanted)} runs are done"
    if missing and seconds:
        text += f"; the others take about {duration(time_left(missing, seconds) / max(1, jobs))} with --jobs {jobs}"
    return text


def _report(found: "Study", *, latency: bool) -> None:
    from mdtnet.study.page import build_study

    for path in build_study(found, latency=latency):
        say(f"wrote {path}")


VERBS = {
    "study": Verb(
        "many runs side by side: systems x data x seeds x variants; tables with intervals, plots, a page",
        study_arguments,
        study,
        "  mdtnet study quick\n"
        "  mdtnet study ut_sets --root videos/ --jobs 2\n"
        "  mdtnet study ut_sets --only system=tsn,mdtnet2 seed=100 --list",
    ),
}
