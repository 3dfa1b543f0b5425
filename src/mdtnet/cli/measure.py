"""The verbs about the cost of networks: all of them, one in detail, several side by side."""

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.table import Table

from mdtnet.cli.parse import Verb, check_least
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import say, show, working

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.config import System, TrunkName
    from mdtnet.measure.bench import Bench, BenchConfig, Row
    from mdtnet.measure.cost import Cost
    from mdtnet.measure.roofline import Device, Roofline


def models_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("--segments", type=int, default=8, help="T")
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--classes", type=int, default=400, help="number of classes")


def models(options: "Namespace") -> None:
    from mdtnet.config import SYSTEMS, TRUNKS

    say(
        f"GMACs of one view, {options.segments} x {options.size} x {options.size}; "
        f"below them parameters in millions, {options.classes} classes"
    )
    table = Table(box=None, padding=(0, 2, 1, 0))  # names of all systems fit into 80 columns
    table.add_column("trunk", no_wrap=True)
    for system in SYSTEMS:
        table.add_column(system, justify="right", no_wrap=True)
    for trunk in TRUNKS:
        costs = [_cost_of(s, trunk, options.classes, options.segments, options.size) for s in SYSTEMS]
        table.add_row(trunk, *(f"{c.gmacs:.2f}\n{c.parameters / 1e6:.2f}" for c in costs))
    show(table)


def _cost_of(system: "System", trunk: "TrunkName", classes: int, segments: int, size: int) -> "Cost":
    import torch

    from mdtnet.config import ModelConfig
    from mdtnet.measure.cost import count
    from mdtnet.models.build import build_model

    check_least(1, segments=segments, size=size, classes=classes)
    with torch.device("meta"):  # shapes alone; no weights are drawn
        model = build_model(ModelConfig(name=system, trunk=trunk), num_classes=classes)
    return count(model, num_segments=segments, size=size)


def cost_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import SYSTEMS, System, TrunkName

    parser.add_argument("model", metavar="MODEL", type=System, help=", ".join(SYSTEMS))
    parser.add_argument("--trunk", type=TrunkName, default="resnet50", help="the 2D network")
    parser.add_argument("--segments", type=int, default=8, help="T")
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--classes", type=int, default=400, help="number of classes")
    parser.add_argument("--clips", type=int, default=1, help="clips of the test protocol")
    parser.add_argument("--crops", type=int, default=1, help="crops of the test protocol")
    parser.add_argument("--repeats", type=int, default=7, help="timed forward passes; 0: none")


def cost(options: "Namespace") -> None:
    from mdtnet.config import ModelConfig
    from mdtnet.measure.cost import latency
    from mdtnet.models.build import build_model

    check_least(1, clips=options.clips, crops=options.crops)
    check_least(0, repeats=options.repeats)
    found = _cost_of(options.model, options.trunk, options.classes, options.segments, options.size)
    views = options.clips * options.crops
    say(f"{options.model} on {options.trunk}, {options.segments} x {options.size} x {options.size}")
    say(f"parameters: {found.parameters / 1e6:.2f} M")
    say(f"GMACs: {found.gmacs:.2f}")
    for name, macs in sorted(found.macs.items(), key=lambda item: -item[1]):
        say(f"  {macs / 1e9:8.3f}  {name}")
    say(f"views: {views}, total GMACs: {found.gmacs * views:.2f}")
    say(f"not counted: {', '.join(found.uncounted) or 'nothing'}")
    if options.repeats:
        model = build_model(ModelConfig(name=options.model, trunk=options.trunk), num_classes=options.classes)
        times = latency(model, num_segments=options.segments, size=options.size, repeats=options.repeats)
        spread = f"{times[0] * 1e3:.0f} to {times[-1] * 1e3:.0f}"
        say(f"latency here, eager, one view: {median(times) * 1e3:.0f} ms ({spread} over {len(times)})")


def bench_arguments(parser: "ArgumentParser") -> None:
    from typing import Literal, get_args

    from mdtnet.config import SYSTEMS, Format

    parser.add_argument("--models", default=",".join(SYSTEMS), help="systems; ratios are to the first")
    parser.add_argument("--trunks", default="resnet50", help="2D networks, such as resnet50,mobilenet_v2")
    parser.add_argument(
        "--formats",
        default="eager",
        help=f"forms of each network: {','.join(('eager', *get_args(Format)))}, or NAME_int8",
    )
    parser.add_argument("--width", type=float, default=1.0, help="channel multiplier of the trunks")
    parser.add_argument("--segments", type=int, default=8, help="T")
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--batch", type=int, default=1, help="clips per batch")
    parser.add_argument("--training", action="store_true", help="training steps instead of forward passes")
    parser.add_argument(
        "--checkpoint_activations", action="store_true", help="train with less memory: compute activations again"
    )
    parser.add_argument(
        "--precision", type=Literal["float32", "bf16", "fp16"], default="float32", help="float32, or autocast"
    )
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--repeats", type=int, default=7, help="timed turns, after one to warm up")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as PyTorch uses")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--peers", action="store_true", help="also time video networks of torchvision, at their own sizes"
    )
    parser.add_argument(
        "--video", default="", help="a video file: also time how it becomes each network's input, decoding included"
    )
    parser.add_argument("--maps", action="store_true", help="how well motion maps find the figure, and nothing else")
    parser.add_argument("--clips", type=int, default=5, help="of --maps: rendered clips per action")
    parser.add_argument("--seed", type=int, default=0, help="of --maps: seed of the renderer")
    parser.add_argument("--workers", type=int, default=1, help="of --maps: processes that draw")
    parser.add_argument("--components", action="store_true", help="also show where a forward pass spends its time")
    parser.add_argument(
        "--roofline", action="store_true", help="count kernels, bytes and FLOPs in the place of running anything"
    )
    parser.add_argument("--bandwidth", type=float, default=3350, help="of --roofline: GB/s of the device's memory")
    parser.add_argument("--peak", type=float, default=989, help="of --roofline: TFLOP/s of products in this precision")
    parser.add_argument("--out", default="", help="folder for bench.json and bench.png")


def bench(options: "Namespace") -> None:
    from mdtnet.measure.bench import BenchConfig, check
    from mdtnet.measure.bench import bench as run_bench
    from mdtnet.system.files import make_folder

    if options.maps:
        _bench_maps(options)
        return
    values = {key: value for key, value in options.as_dict().items() if key in BenchConfig.__dataclass_fields__}
    lists = {key: tuple(filter(None, values[key].split(","))) for key in ("models", "trunks", "formats")}
    config = BenchConfig(**{**values, **lists})
    if options.roofline:
        _roofline(config, options)
        return
    check(config)
    if options.out:
        make_folder(options.out)
    with working() as status:
        result = run_bench(config, components=options.components, note=status.update)
    say(machine_line(result))
    for trunk in config.trunks:
        show(speed_table(result, trunk))
        if result.components:
            show(components_table(result, trunk))
    if config.video:
        show(video_table(result))
    if config.peers:
        show(peers_table(result))
        say(
            "top-1: on Kinetics-400 in %, as published with torchvision's weights and averaged over so many views of a "
            "video; nothing of it was measured here"
        )
    if options.out:
        result.save(options.out)
        say(f"wrote {options.out}/bench.json and bench.png")


def _roofline(config: "BenchConfig", options: "Namespace") -> None:
    from mdtnet.measure.bench import PRECISIONS, check, counted
    from mdtnet.measure.roofline import Device

    for name, value in (("bandwidth", options.bandwidth), ("peak", options.peak)):
        if value <= 0:
            raise ConfigError(f"--{name} is {value:g}, expected more than 0")
    if config.precision not in PRECISIONS:
        raise ConfigError(f"--precision is '{config.precision}', expected one of {', '.join(PRECISIONS)}")
    check(replace(config, device="cpu", formats=("eager",)))
    device = Device(bandwidth=options.bandwidth * 1e9, peak=options.peak * 1e12)
    say(
        f"{'training step' if config.training else 'forward pass'} of {config.batch} x {config.segments} x "
        f"{config.size} x {config.size}, {config.precision}, counted and not run; ms at "
        f"{device.reached_bandwidth:.0%} of {options.bandwidth:g} GB/s, {device.reached_peak:.0%} of {options.peak:g} "
        f"TFLOP/s and {1e6 * device.launch:g} us per kernel at least",
    )
    for trunk in config.trunks:
        with working():
            counts = {system: counted(config, system, trunk) for system in config.models}
        show(_roofline_table(counts, trunk, device))
        if options.components:
            show(_roofline_components(counts, trunk, device))


def _roofline_table(counts: dict[str, "Roofline"], trunk: str, device: "Device") -> Table:
    """A line per system: the eager count and the fused count; ratios are to the first system."""
    base = next(iter(counts.values()))
    table = Table(title=trunk, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("system", no_wrap=True)
    first = next(iter(counts))
    for heading in ("kernels", "GB", "ms", f"x {first}"):
        for form in ("eager", "fused"):
            table.add_column(f"{heading}\n{form}", justify="right", no_wrap=True)
    table.add_column("TFLOP", justify="right", no_wrap=True)
    for system, found in counts.items():
        pairs = [(found.eager, base.eager), (found.fused, base.fused)]
        cells = [f"{len(count.kernels)}" for count, _ in pairs]
        cells += [f"{count.bytes / 1e9:.2f}" for count, _ in pairs]
        cells += [f"{1e3 * count.seconds(device):.2f}" for count, _ in pairs]
        cells += [f"{count.seconds(device) / other.seconds(device):.3f}" for count, other in pairs]
        table.add_row(system, *cells, f"{found.fused.flops / 1e12:.2f}")
    return table


def _roofline_components(counts: dict[str, "Roofline"], trunk: str, device: "Device") -> Table:
    """Fused kernels and their ms, by component."""
    table = Table("component", title=f"{trunk}: fused kernels, GB, ms", title_justify="left")
    parts = {system: found.fused.components() for system, found in counts.items()}
    for system in counts:
        table.add_column(system, justify="right", no_wrap=True)
    for name in dict.fromkeys(name for found in parts.values() for name in found):
        cells = []
        for found in parts.values():
            count = found.get(name)
            cells.append(
                f"{len(count.kernels)}  {count.bytes / 1e9:.2f}  {1e3 * count.seconds(device):.2f}" if count else ""
            )
        table.add_row(name, *cells)
    return table


def _bench_maps(options: "Namespace") -> None:
    from mdtnet.measure.maps import bench_maps, save_maps
    from mdtnet.system.files import make_folder

    if options.out:
        make_folder(options.out)
    with working() as status:
        rows = bench_maps(clips=options.clips, seed=options.seed, workers=options.workers, note=status.update)
    table = Table("scenes", "map", title="mean salience on and off the figure", box=None, padding=(0, 2, 0, 0))
    for heading in ("AUC", "on", "off", "ratio", "flicker"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = f"{row.figure:.2f}", f"{row.background:.2f}", f"{row.ratio:.1f}", f"{row.flicker:.3f}"
        table.add_row(row.condition, row.map, f"{row.auc:.3f} ± {row.auc_half:.3f}", *figures)
    show(table)
    if options.out:
        save_maps(rows, options.out)
        say(f"wrote {options.out}/maps.json")


def machine_line(result: "Bench") -> str:
    """The work that was timed, the machine, and how fast that multiplies matrices."""
    about, config = result.about, result.config
    what = "training step" if config.training else "forward pass"
    where = (
        about["gpu"] if config.device == "cuda" else f"{about['cpu']}, {about['threads']} of {about['cores']} threads"
    )
    return (
        f"{what} of {config.batch} x {config.segments} x {config.size} x {config.size}, {config.precision}, "
        f"median and range of {config.repeats}; torch {about['torch']}, {where}; "
        f"matrix product {max(result.peak):.0f} GFLOP/s; load before {about['load']}"
    )


def speed_table(result: "Bench", trunk: str) -> Table:
    """One row per form of a system on one trunk; ratios are to the first system in the same form."""
    rows = [_cells(result, row) for row in result.rows if row.trunk == trunk]
    table = Table(title=trunk, title_justify="left", box=None, padding=(0, 2, 0, 0))  # fits 80 columns
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in ("system", "form") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def _cells(result: "Bench", row: "Row") -> dict[str, str]:
    """The cells of one row, by heading."""
    base, gflops = result.base(row), result.gflops(row)
    memory, measured = row.memory or 0, bool(row.memory and base.memory)
    cells = {
        "system": row.system,
        "GMACs": f"{row.gmacs:.2f}",
        "ms": _spread([1e3 * s for s in row.seconds], ".0f" if min(row.seconds) > 0.1 else ".1f"),
        f"x {base.system}": _spread(row.ratios(base), ".2f"),
        f"CPU\nx {base.system}": _spread(row.ratios(base, cpu=True), ".2f"),
        "clips/s": f"{result.config.batch / median(row.seconds):.2f}",
        "GFLOP\n/s": f"{gflops:.0f}\n{gflops / max(result.peak):.0%}",
        "MiB": f"{memory / 2**20:.0f}" if measured else "-",
        f"MiB\nx {base.system}": f"{memory / (base.memory or 1):.2f}" if measured else "-",
    }
    return cells if result.config.formats == ("eager",) else _beside_eager(result, row, cells)


def _beside_eager(result: "Bench", row: "Row", cells: dict[str, str]) -> dict[str, str]:
    """The cells of one row beside other forms: its form and its speed over eager instead of cost and GFLOP/s."""
    eager = result.eager(row)
    speed = (
        {"": "-", "CPU ": "-"}
        if eager is None
        else {
            "": _spread(eager.ratios(row), ".2f"),
            "CPU ": _spread(eager.ratios(row, cpu=True), ".2f"),
        }
    )
    first = {"system": cells.pop("system"), "form": row.format.replace("_", "\n")}
    kept = {name: cell for name, cell in cells.items() if name in ("ms", "clips/s", "MiB") or name.startswith("x ")}
    return {**first, **kept, **{f"{what}speed\nx eager": cell for what, cell in speed.items()}}


def video_table(result: "Bench") -> Table:
    """What a prediction of the video takes: its preparation, and one view's forward pass in each form."""
    threads, video = result.about["threads"], Path(result.config.video).name
    title = f"{video} ({result.about['video']}): ms of one view, {threads} thread{'s' if threads != 1 else ''}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("network", "preparation", "network alone", "both"):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for row in result.rows:
        both = [a + b for a, b in zip(row.preparation, row.seconds)]
        cells = (_spread([1e3 * s for s in times], ".0f") for times in (row.preparation, row.seconds, both))
        table.add_row(row.name, *cells)
    return table


def peers_table(result: "Bench") -> Table:
    """Networks of torchvision below the systems in eager form: cost, latency, and what is published of them."""
    from mdtnet.measure.peers import PEERS

    base, config = result.rows[0], result.config
    table = Table(title="peers", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("network", "input", "GMACs", "ms", f"x {base.system}", "MiB", "top-1", "views"):
        table.add_column(heading, justify="left" if heading == "network" else "right", no_wrap=True)
    for row in result.rows:
        peer = PEERS.get(row.system)
        if row.format != "eager":
            continue
        own = (f"{peer.num_frames}x{peer.size}", f"{peer.top1:.1f}", f"{peer.num_clips}") if peer else None
        size, *published = own or (f"{config.segments}x{config.size}", "", "")
        ms, ratio = _spread([1e3 * s for s in row.seconds], ".0f"), _spread(row.ratios(base), ".2f")
        memory = f"{row.memory / 2**20:.0f}" if row.memory else "-"
        table.add_row(row.name, size, f"{row.gmacs:.2f}", ms, ratio, memory, *published)
    return table


def _spread(values: list[float], form: str) -> str:
    return f"{median(values):{form}}\n{min(values):{form}}-{max(values):{form}}"


def components_table(result: "Bench", trunk: str) -> Table:
    """Share of each component in the time of a forward pass on one trunk; medians."""
    shown = {r.system: result.components[r.name] for r in result.rows if r.trunk == trunk and r.format == "eager"}
    table = Table("component", title=f"{trunk}: where a forward pass spends its time", title_justify="left")
    for system in shown:
        table.add_column(system, justify="right", no_wrap=True)
    totals = [sum(median(times) for times in parts.values()) for parts in shown.values()]
    for name in dict.fromkeys(name for parts in shown.values() for name in parts):
        shares = [
            median(parts[name]) / total if name in parts else None for parts, total in zip(shown.values(), totals)
        ]
        table.add_row(name, *("" if share is None else f"{share:.1%}" for share in shares))
    table.add_row("all", *(f"{1e3 * total:.0f} ms" for total in totals))
    return table


VERBS = {
    "models": Verb("what can be built: systems x trunks, parameters, GMACs", models_arguments, models),
    "cost": Verb(
        "parameters, GMACs by component, and latency of one network",
        cost_arguments,
        cost,
        "  mdtnet cost mdtnet2 --trunk resnet50 --segments 8 --size 224 --clips 10 --crops 3",
    ),
    "bench": Verb(
        "networks side by side: latency, memory, cost, where the time goes",
        bench_arguments,
        bench,
        "  mdtnet bench --models tsn,tdn,mdtnet2 --trunks resnet50,mobilenet_v2 --out runs/bench\n"
        "  mdtnet bench --models tsn,mdtnet2 --training --batch 4 --threads 1\n"
        "  mdtnet bench --models mdtnet2 --components\n"
        "  mdtnet bench --models tsn,mdtnet2 --formats eager,onnx,openvino --video clip.mp4 --peers\n"
        "  mdtnet bench --maps --seed 7",
    ),
}
