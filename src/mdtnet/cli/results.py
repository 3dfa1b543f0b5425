"""The verbs that put results of several tests or runs together: one table, a mean, a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from mdtnet.cli.parse import Verb
from mdtnet.system.terminal import say, show

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.metrics import Figures


def fuse_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("runs", metavar="SCORES", nargs="+", help="score tables, or folders that hold scores.npz")
    parser.add_argument("--out", required=True, help="folder for the fused scores and metrics")
    parser.add_argument(
        "--fusion", type=Literal["softmax", "logits"], default="softmax", help="the scores that are averaged"
    )


def fuse(options: "Namespace") -> None:
    from mdtnet.config import EvalConfig
    from mdtnet.scores import ScoreTable, check_unused, fuse_tables, save_results

    paths = [Path(run, "scores.npz") if Path(run).is_dir() else Path(run) for run in options.runs]
    table = fuse_tables([ScoreTable.load(path) for path in paths], options.fusion, names=[str(p) for p in paths])
    check_unused(options.out, table.protocol)
    figures = save_results(Path(options.out), table, EvalConfig(fusion=options.fusion))
    show(figures_table(figures, title=f"{len(paths)} score tables, mean of {options.fusion}"))
    say(f"scores {options.out}/scores.npz, metrics {options.out}/metrics.json")


def mean_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("runs", metavar="FOLDER", nargs="+", help="folders of runs or tests, one per split")


def mean(options: "Namespace") -> None:
    from statistics import fmean

    from mdtnet.errors import DataError
    from mdtnet.metrics import TITLES, headline
    from mdtnet.scores import load_figures

    found = [load_figures(run) for run in options.runs]
    if len({headline(figures) for figures in found}) > 1:
        raise DataError(f"{', '.join(options.runs)}: one label per video in some of these tests, several in others")
    keys = [key for key in TITLES if key != "top5" and key in found[0]]
    table = Table("split", "videos", *(TITLES[key] for key in keys))
    for run, figures in zip(options.runs, found):
        table.add_row(run, str(figures["videos"]), *(f"{figures[key] or 0:.2%}" for key in keys))
    table.add_section()
    means = [f"{fmean(f[key] or 0 for f in found):.2%}" for key in keys]
    table.add_row("mean", str(sum(f["videos"] for f in found)), *means)
    show(table)


def report_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folder of a run; several runs are shown side by side")
    parser.add_argument("--out", default="comparison.html", help="the page, when several runs are given")


def report(options: "Namespace") -> None:
    from mdtnet.training.run_folder import check_is_run

    for run in options.runs:
        check_is_run(run)  # before anything is loaded that takes time
    from mdtnet.pages.report import build_comparison, build_report

    if len(options.runs) == 1:
        page = build_report(options.runs[0])
    else:
        from mdtnet.builtin.actions import REVERSAL_PAIRS

        page = build_comparison(options.runs, options.out, pairs=REVERSAL_PAIRS)
    say(f"wrote {page}")


def figures_table(figures: "Figures", *, title: str) -> Table:
    """The figures of `metrics.summary` as a table for the terminal."""
    from mdtnet.metrics import TITLES, headline

    table = Table(title=title, title_justify="left", show_header=False)
    for key, name in TITLES.items():
        if figures.get(key) is not None:
            table.add_row(name, f"{figures[key]:.2%}")
    if (error := figures.get("ece")) is not None:
        table.add_row("calibration error (ECE)", f"{error:.2%}")
    table.add_row("videos", str(figures["videos"]))
    if figures["unreadable"]:
        table.add_row("unreadable", str(figures["unreadable"]))
        videos, unreadable = figures["videos"], figures["unreadable"]
        wrong, excluded = figures["unreadable_wrong"], figures["unreadable_excluded"]
        best = headline(figures)
        for both, how, count in ((wrong, "counted wrong", videos), (excluded, "excluded", videos - unreadable)):
            value = f"{both[best] or 0:.2%} over {count} videos" if count else "-"
            table.add_row(f"{TITLES[best]}, unreadable {how}", value)
    return table


def beside(checkpoint: str, name: str) -> str:
    """`name` in the folder of a checkpoint's run, or of the checkpoint where it is in no run."""
    folder = Path(checkpoint).parent
    return str((folder.parent if folder.name == "checkpoints" else folder) / name)


VERBS = {
    "fuse": Verb("one result from the scores of several tests, as of 8 and of 16 segments", fuse_arguments, fuse),
    "mean": Verb("accuracy of each of several splits, and their mean", mean_arguments, mean),
    "report": Verb("a self-contained HTML page of a run, or of several side by side", report_arguments, report),
}
