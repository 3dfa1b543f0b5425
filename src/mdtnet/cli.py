"""The command line: one verb a job; parse, call one function, exit code.

Exit codes: 0 success, 1 a bug, 2 usage or configuration, or a file that the operating system refuses (no permission,
a full disk), 3 data, 4 checkpoint, 5 runs of a study failed, 6 a training diverged, 130 interrupted.
"""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from mdtnet import __version__, cli_bench, cli_data, cli_pictures, cli_study
from mdtnet.cli_options import Verb, parse
from mdtnet.errors import ConfigError, DataError, MdtnetError
from mdtnet.memory import keep_freed_memory

console = Console()
errors = Console(stderr=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `mdtnet ARGV`; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    keep_freed_memory()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if hasattr(sys.stdout, "reconfigure"):  # what its encoding has not is shown as `?`; stderr copes by itself
        sys.stdout.reconfigure(errors="replace")
    try:
        return _main(arguments)
    except MdtnetError as error:
        return _told(str(error), error.exit_code)
    except KeyboardInterrupt:
        errors.print("mdtnet: interrupted")
        return 130
    except BrokenPipeError:  # `mdtnet models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if not error.strerror:  # not the operating system's word
            raise
        return _told(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, ConfigError.exit_code)


def _told(message: str, exit_code: int) -> int:
    errors.print(f"[bold red]mdtnet:[/] {_escaped(message)}", highlight=False, soft_wrap=True)
    return exit_code


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_overview()
        return 0 if arguments else 2
    if arguments[0] == "--version":
        console.print(f"mdtnet {__version__}", highlight=False)
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "data" and rest and not rest[0].startswith("-"):
        name, rest = f"data {rest[0]}", rest[1:]
    if name not in VERBS:
        from mdtnet.config import nearest

        raise ConfigError(f"no such verb: {name}{nearest(name, VERBS)} (mdtnet --help lists them)")
    if name != "predict":  # which asks for it itself, where it needs torch
        _log_to_terminal()
    return VERBS[name].run(parse(name, VERBS[name], rest)) or 0


def _print_overview() -> None:
    console.print(f"[bold]mdtnet {__version__}[/]: efficient recognition of human actions in video\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, verb in VERBS.items():
        table.add_row(f"mdtnet {name}", verb.help)
    console.print(table)
    console.print("\nmdtnet VERB --help tells the options of a verb.")


def _log_to_terminal() -> None:
    from mdtnet.runlog import CONSOLE  # log lines stay above its progress bar

    handler: logging.Handler = logging.StreamHandler()
    if CONSOLE.is_terminal:
        handler = RichHandler(console=CONSOLE, show_time=False, show_level=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("mdtnet").setLevel(logging.INFO)


# train


def _train_arguments(parser: Any) -> None:
    from mdtnet.config import RunConfig

    parser.add_argument("--config", default="", help="YAML file of a run; options on the command line go over it")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, exactly where it was")
    parser.add_class_arguments(RunConfig)


def _train(options: Any) -> None:
    from accelerate import PartialState

    from mdtnet.report import build_report
    from mdtnet.training import train

    result = train(_run_config(options), resume=options.resume)
    if not PartialState().is_main_process:
        return
    page = build_report(result.out)
    name, best = ("top-1", result.val_top1) if result.val_map is None else ("mAP", result.val_map)
    console.print(f"\nbest epoch {result.best_epoch}: validation {name} [bold]{best:.1%}[/]")
    if result.unreadable:
        console.print(f"{len(result.unreadable)} unreadable videos were left out: {result.out}/unreadable.csv")
    console.print(f"checkpoint {result.out}/checkpoints/best.pt\nreport     {page}", highlight=False)


def _run_config(options: Any) -> Any:
    """The YAML file's values with the command line's over them."""
    from mdtnet.config import RunConfig, from_dict, load_yaml, to_dict

    base = to_dict(load_yaml(options.config)) if options.config else {}
    return from_dict(RunConfig, _merged(base, _given(options, RunConfig)), where="command line")


def _given(options: Any, kind: type) -> dict[str, Any]:
    """What of a config's options was typed."""
    from dataclasses import fields

    return {field.name: options.given[field.name] for field in fields(kind) if field.name in options.given}


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    return base | {k: _merged(base[k], v) if isinstance(base.get(k), dict) else v for k, v in over.items()}


# test, predict, report, convert


def _test_arguments(parser: Any) -> None:
    from mdtnet.config import TestConfig

    parser.add_argument("checkpoint", help="a checkpoint file, such as RUN/checkpoints/best.pt")
    parser.add_argument("--data", required=True, help="folder of class folders, or list file, to test on")
    parser.add_argument("--root", default="", help="folder that the paths in the list are relative to")
    parser.add_argument("--classes", default="", help="file of class names, where labels are numbers")
    parser.add_argument("--out", default="", help="folder for scores and metrics; default: beside the checkpoint")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--device", default="auto", help="auto, or cpu to keep off an accelerator")
    parser.add_argument("--protocol", default="", help="a named protocol; default: `test` of the run's config")
    parser.add_argument(
        "--without", default="", help="silence a part: fine, coarse, dcme, stce (MDT-Net, TDN), motion (TEA), reading"
    )
    parser.add_class_arguments(TestConfig)


def _test(options: Any) -> None:
    from accelerate import PartialState

    from mdtnet.checkpoint import load_checkpoint
    from mdtnet.config import TestConfig, from_dict, protocol_named, to_dict
    from mdtnet.evaluation import evaluate_checkpoint, protocol

    named = options.protocol
    wanted = protocol_named(named) if named else {}
    checkpoint = load_checkpoint(options.checkpoint)
    base = wanted or to_dict(checkpoint.config.test)
    test = from_dict(TestConfig, base | _given(options, TestConfig), where="command line")
    how = (named or f"{test.clips}x{test.crops}") + ("_flip" if test.flip else "")
    how += f"_without_{options.without}" if options.without else ""
    if options.workers < 0:
        raise ConfigError(f"--workers is {options.workers}, expected 0 or more")
    out = options.out or _beside(options.checkpoint, f"test_{Path(options.data).stem}_{how}")
    if not options.out:
        part = {"without": options.without} if options.without else {}
        said = protocol(checkpoint.config.data, test, data=options.data, checkpoint=options.checkpoint, **part)
        _check_unused(out, said)
    title = f"{test.clips} clip(s) x {test.crops} crop(s)" + (", each also mirrored" if test.flip else "")
    figures = evaluate_checkpoint(
        options.checkpoint,
        data=options.data,
        out=out,
        test=test,
        root=options.root,
        classes=options.classes,
        device=options.device,
        workers=options.workers,
        without=options.without,
    )
    if not PartialState().is_main_process:
        return
    console.print(cli_data.figures_table(figures, title=title))
    console.print(f"scores {out}/scores.npz, metrics {out}/metrics.json", highlight=False)
    if figures["unreadable"] == figures["videos"]:
        raise DataError(f"{options.data}: none of the {figures['videos']} videos can be read")


def _check_unused(out: str, said: dict[str, Any]) -> None:
    """See that a folder holds no test but the one that is made again; names of folders do not say everything.

    Raises:
        ConfigError: it holds another; the message says how that one differs.
    """
    from mdtnet.evaluation import load_figures

    if not Path(out, "metrics.json").exists():
        return
    old = load_figures(out).get("protocol", {})
    for key in dict.fromkeys([*said, *old]):
        if old.get(key) != said.get(key):
            raise ConfigError(
                f"{out} holds the test with {key} = {old.get(key)!r}, not {said.get(key)!r}: choose another folder "
                "with --out"
            )


def _beside(checkpoint: str, name: str) -> str:
    folder = Path(checkpoint).parent
    return str((folder.parent if folder.name == "checkpoints" else folder) / name)


def _predict_arguments(parser: Any) -> None:
    parser.add_argument("checkpoint", help="a checkpoint file, or an exported .onnx or .xml (runs without torch)")
    parser.add_argument("sources", nargs="+", help="video files, folders of videos, frame folders, or glob patterns")
    parser.add_argument("--topk", type=int, default=5, help="how many classes to tell")
    parser.add_argument("--threshold", type=float, help="tell every class with at least this probability, 0 to 1")
    parser.add_argument("--clips", type=int, default=1, help="clips per video that are averaged")
    parser.add_argument("--crops", type=int, default=1, help="crops per clip that are averaged: 1 or 3")
    parser.add_argument("--json", default="", help="also write the predictions to this JSON file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def _predict(options: Any) -> int:
    from mdtnet.checks import check_file
    from mdtnet.prediction import NOTHING, expand_sources, write_json

    sources = expand_sources(options.sources)
    if options.json:
        check_file(options.json)
    model = _recogniser(options.checkpoint, options.device)
    found = []
    which = {key: getattr(options, key) for key in ("topk", "threshold", "clips", "crops")}
    for p in model.predict_many(sources, **which):
        found.append(p)
        if p.error:
            errors.print(f"[red]{_escaped(p.path)}: {_escaped(p.error)}[/]", highlight=False, soft_wrap=True)
            continue
        console.print(f"[bold]{_escaped(p.path)}[/]  ({p.seconds:.2f} s)", highlight=False, soft_wrap=True)
        for name, probability in zip(p.classes, p.probabilities):
            bar = "█" * round(20 * probability)
            console.print(f"  {probability:6.1%}  {bar:<20}  {_escaped(name)}", highlight=False)
        if not p.classes:
            console.print(f"  {NOTHING}", highlight=False)
    if options.json:
        write_json(found, options.json)
    unread = sum(bool(p.error) for p in found)
    if unread:
        errors.print(f"{unread} of {len(found)} videos could not be read")
    return 3 if unread else 0


def _recogniser(path: str, device: str) -> Any:
    from mdtnet.deployed import SUFFIXES, Deployed

    if Path(path).suffix in SUFFIXES:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"device is '{device}', but exported networks run on the CPU here")
        return Deployed.load(path)
    from mdtnet.inference import Recogniser

    _log_to_terminal()
    return Recogniser.load(path, device=device)


def _export_arguments(parser: Any) -> None:
    from mdtnet.export import Format

    parser.add_argument("checkpoint", help="a checkpoint file")
    parser.add_argument("--format", type=Format, default="onnx", help="onnx, openvino or torch (a .pt2 program)")
    parser.add_argument("--half", action="store_true", help="store weights as float16: half the file")
    parser.add_argument("--int8", action="store_true", help="the trunk in 8 bits, calibrated with the clips")
    parser.add_argument("--clips", default="", help="videos to compare (and calibrate) with; default: built-in ones")
    parser.add_argument("--out", default="", help="the file; default: beside the checkpoint")


def _export(options: Any) -> None:
    from mdtnet.export import SUFFIXES, export

    if options.half and options.int8:
        raise ConfigError("--half and --int8 exclude each other")
    precision: Any = "int8" if options.int8 else "half" if options.half else "float32"
    name = Path(options.checkpoint).stem + ("" if precision == "float32" else f"_{precision}")
    out = options.out or _beside(options.checkpoint, name + SUFFIXES[options.format])
    done = export(options.checkpoint, format=options.format, out=out, precision=precision, clips=options.clips)
    console.print(str(done), highlight=False, markup=False, soft_wrap=True)
    console.print(f"wrote {done.path} and {done.path}.json", highlight=False, markup=False, soft_wrap=True)


def _report_arguments(parser: Any) -> None:
    parser.add_argument("runs", nargs="+", help="folder of a run; several are shown side by side")
    parser.add_argument("--out", default="comparison.html", help="the page, when several runs are given")


def _report(options: Any) -> None:
    from mdtnet.data.synthetic import REVERSAL_PAIRS
    from mdtnet.report import build_comparison, build_report

    if len(options.runs) == 1:
        page = build_report(options.runs[0])
    else:
        page = build_comparison(options.runs, options.out, pairs=REVERSAL_PAIRS)
    console.print(f"wrote {page}", highlight=False)


def _convert_arguments(parser: Any) -> None:
    parser.add_argument("file", help="a checkpoint, ours or other people's")
    parser.add_argument("out", help="the file to write, such as NAME.safetensors")
    parser.add_argument("--labels", default="", help="file of class names, one a line, in label order")
    parser.add_argument("--num_segments_trained", type=int, default=None, help="T of its training, if known")


def _convert(options: Any) -> None:
    from mdtnet.convert import convert

    done = convert(options.file, options.out, labels=options.labels, num_segments_trained=options.num_segments_trained)
    console.print(str(done), highlight=False, markup=False, soft_wrap=True)


# data, demo


def _demo_arguments(parser: Any) -> None:
    parser.add_argument("--out", default="runs/demo", help="folder for videos, runs and pages")
    parser.add_argument("--seed", type=int, default=0, help="seed of data and training")


def _demo(options: Any) -> None:
    from mdtnet.demo import demo

    demo(Path(options.out), seed=options.seed, console=console)


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "built-in data set, TSN and MDT-Net2 trained on it, tests, predictions, pages", _demo_arguments, _demo
    ),
    "data render": Verb(
        "make the built-in data set: class folders of real videos, and list files",
        cli_data.render_arguments,
        cli_data.render,
        "  mdtnet data render data/builtin --size 112 --background cluttered",
    ),
    "data prepare": Verb(
        "official layouts, or your own videos -> lists to train and test on",
        cli_data.prepare_arguments,
        cli_data.prepare,
        "  mdtnet data prepare ucf101 --root ucf101/ --out ucf101/lists --split all --download\n"
        "  mdtnet data prepare folder --root videos/ --out lists",
    ),
    "data check": Verb(
        "decode every video: which can be used, what is wrong with the others", cli_data.check_arguments, cli_data.check
    ),
    "data info": Verb("videos per class, durations, sizes, a contact sheet", cli_data.info_arguments, cli_data.info),
    "train": Verb(
        "train a network on your videos",
        _train_arguments,
        _train,
        "  mdtnet train --data videos/ --model mdtnet2 --trunk mobilenet_v2 --model.weights imagenet\n"
        "  mdtnet train --config configs/builtin.yaml --train.epochs 30 --out runs/mine\n"
        "  mdtnet train --config runs/mine/config.yaml --resume\n\n"
        "--data, --model and --trunk stand for --data.train, --model.name and --model.trunk.",
    ),
    "test": Verb(
        "test a checkpoint on labelled videos",
        _test_arguments,
        _test,
        "  mdtnet test runs/mine/checkpoints/best.pt --data videos/test --protocol accurate",
    ),
    "fuse": Verb(
        "one result from the scores of several tests, as of 8 and of 16 segments",
        cli_data.fuse_arguments,
        cli_data.fuse,
    ),
    "mean": Verb("accuracy of each of several splits, and their mean", cli_data.mean_arguments, cli_data.mean),
    "predict": Verb(
        "say what videos show",
        _predict_arguments,
        _predict,
        "  mdtnet predict runs/mine/checkpoints/best.pt clip.mp4 more/*.avi --topk 3 --json out.json",
    ),
    "saliency": Verb(
        "show where a video moves",
        cli_pictures.saliency_arguments,
        cli_pictures.saliency,
        "  mdtnet saliency clip.mp4 -o overlay.mp4\n"
        "  mdtnet saliency clip.mp4 -o sheet.png --variant phase\n"
        "  mdtnet saliency clip.mp4 -o sheet.png --all_variants --segments 5",
    ),
    "explain": Verb(
        "show where networks look: Grad-CAM side by side, or what the offsets of DCME do",
        cli_pictures.explain_arguments,
        cli_pictures.explain,
        "  mdtnet explain runs/tsn/checkpoints/best.pt runs/mine/checkpoints/best.pt --video clip.mp4 -o cam.png\n"
        "  mdtnet explain runs/mine/checkpoints/best.pt --video clip.mp4 --what offsets -o offsets.png",
    ),
    "models": Verb(
        "what can be built: systems x trunks, parameters, GMACs", cli_bench.models_arguments, cli_bench.models
    ),
    "cost": Verb(
        "parameters, GMACs by component, and latency of one network",
        cli_bench.cost_arguments,
        cli_bench.cost,
        "  mdtnet cost mdtnet2 --trunk resnet50 --segments 8 --size 224 --clips 10 --crops 3",
    ),
    "bench": Verb(
        "networks side by side: latency, memory, cost, where the time goes",
        cli_bench.bench_arguments,
        cli_bench.bench,
        "  mdtnet bench --models tsn,tdn,mdtnet2 --trunks resnet50,mobilenet_v2 --out runs/bench\n"
        "  mdtnet bench --models tsn,mdtnet2 --training --batch 4 --threads 1\n"
        "  mdtnet bench --models mdtnet2 --components\n"
        "  mdtnet bench --maps --seed 7",
    ),
    "study": Verb(
        "many runs side by side: systems x data x seeds x variants; tables with intervals, plots, a page",
        cli_study.study_arguments,
        cli_study.study,
        "  mdtnet study studies/quick.yaml\n"
        "  mdtnet study studies/ut_sets.yaml --root videos/ --jobs 2\n"
        "  mdtnet study studies/ut_sets.yaml --only system=tsn,mdtnet2 seed=100 --list",
    ),
    "convert": Verb("any known checkpoint -> one file that explains itself", _convert_arguments, _convert),
    "export": Verb(
        "a checkpoint as one file for ONNX Runtime, OpenVINO or torch.export, checked on real clips",
        _export_arguments,
        _export,
        "  mdtnet export runs/mine/checkpoints/best.pt --format onnx --clips videos/test\n"
        "  mdtnet predict runs/mine/best.onnx clip.mp4",
    ),
    "report": Verb("a self-contained HTML page of a run, or of several side by side", _report_arguments, _report),
}
