"""The verbs about what networks cost: what there is, one in detail, several side by side; `cli` lists them."""

from statistics import median
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from mdtnet.errors import ConfigError

if TYPE_CHECKING:
    from mdtnet.bench import Bench, Row

console = Console()


def models_arguments(parser: Any) -> None:
    parser.add_argument("--segments", type=int, default=8, help="T")
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--classes", type=int, default=400, help="number of classes")


def models(options: Any) -> None:
    from mdtnet.models.build import SYSTEMS, TRUNKS

    console.print(
        f"GMACs of one view, {options.segments} x {options.size} x {options.size}; "
        f"parameters in millions, {options.classes} classes"
    )
    table = Table()
    table.add_column("trunk", no_wrap=True)
    for system in SYSTEMS:
        table.add_column(system, justify="right")
    for trunk in TRUNKS:
        costs = [_cost_of(s, trunk, options.classes, options.segments, options.size) for s in SYSTEMS]
        table.add_row(trunk, *(f"{c.gmacs:.2f}\n{c.parameters / 1e6:.2f} M" for c in costs), end_section=True)
    console.print(table)


def _cost_of(system: str, trunk: str, classes: int, segments: int, size: int) -> Any:
    import torch

    from mdtnet.config import ModelConfig
    from mdtnet.cost import count
    from mdtnet.models.build import build_model

    for name, value in (("segments", segments), ("size", size), ("classes", classes)):
        if value < 1:
            raise ConfigError(f"--{name} is {value}, expected at least 1")
    with torch.device("meta"):  # shapes alone; no weights are drawn
        model = build_model(ModelConfig(name=system, trunk=trunk), num_classes=classes)  # type: ignore[arg-type]
    return count(model, num_segments=segments, size=size)


def cost_arguments(parser: Any) -> None:
    from mdtnet.models.build import System, TrunkName

    parser.add_argument("model", type=System, help="tsn, tsm, tea, tdn, mdtnet1 or mdtnet2")
    parser.add_argument("--trunk", type=TrunkName, default="resnet50", help="the 2D network")
    parser.add_argument("--segments", type=int, default=8, help="T")
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--classes", type=int, default=400, help="number of classes")
    parser.add_argument("--clips", type=int, default=1, help="clips of the test protocol")
    parser.add_argument("--crops", type=int, default=1, help="crops of the test protocol")
    parser.add_argument("--repeats", type=int, default=7, help="timed forward passes; 0: none")


def cost(options: Any) -> None:
    from mdtnet.config import ModelConfig
    from mdtnet.cost import latency
    from mdtnet.models.build import build_model

    found = _cost_of(options.model, options.trunk, options.classes, options.segments, options.size)
    views = options.clips * options.crops
    console.print(f"{options.model} on {options.trunk}, {options.segments} x {options.size} x {options.size}")
    console.print(f"parameters: {found.parameters / 1e6:.2f} M")
    console.print(f"GMACs: {found.gmacs:.2f}")
    for name, macs in sorted(found.macs.items(), key=lambda item: -item[1]):
        console.print(f"  {macs / 1e9:8.3f}  {name}")
    console.print(f"views: {views}, total GMACs: {found.gmacs * views:.2f}")
    console.print(f"not counted: {', '.join(found.uncounted) or 'nothing'}")
    if options.repeats:
        model = build_model(ModelConfig(name=options.model, trunk=options.trunk), num_classes=options.classes)
        times = latency(model, num_segments=options.segments, size=options.size, repeats=options.repeats)
        spread = f"{times[0] * 1e3:.0f} to {times[-1] * 1e3:.0f}"
        console.print(f"latency here, eager, one view: {median(times) * 1e3:.0f} ms ({spread} over {len(times)})")


def bench_arguments(parser: Any) -> None:
    from typing import Literal

    parser.add_argument("--models", default="tsn,tsm,tea,tdn,mdtnet1,mdtnet2", help="systems; the first is the measure")
    parser.add_argument("--trunks", default="resnet50", help="2D networks, such as resnet50,mobilenet_v2")
    parser.add_argument(
        "--formats", default="eager", help="of eager,onnx,openvino,torch,onnx_int8,openvino_int8: exported ones, too"
    )
    parser.add_argument("--width", type=float, default=1.0, help="channel multiplier of the trunks")
    parser.add_argument("--segments", type=int, default=8, help="T")
    parser.add_argument("--size", type=int, default=224, help="side of the crop in pixels")
    parser.add_argument("--batch", type=int, default=1, help="clips in a batch")
    parser.add_argument("--training", action="store_true", help="training steps in the place of forward passes")
    parser.add_argument("--checkpoint_activations", action="store_true", help="training that spares memory")
    parser.add_argument(
        "--precision", type=Literal["float32", "bf16", "fp16"], default="float32", help="float32, or autocast"
    )
    parser.add_argument("--compile", action="store_true", help="through torch.compile")
    parser.add_argument("--repeats", type=int, default=7, help="turns that are timed, after one to warm up")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as many as PyTorch takes")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--maps", action="store_true", help="how well motion maps find the figure, and nothing else")
    parser.add_argument("--clips", type=int, default=5, help="of --maps: rendered clips of each action")
    parser.add_argument("--seed", type=int, default=0, help="of --maps: the renderer's")
    parser.add_argument("--workers", type=int, default=1, help="of --maps: processes that draw")
    parser.add_argument("--components", action="store_true", help="where a forward pass spends its time, too")
    parser.add_argument("--out", default="", help="folder for bench.json and bench.png")


def bench(options: Any) -> None:
    from mdtnet.bench import BenchConfig, check
    from mdtnet.bench import bench as run_bench
    from mdtnet.checks import make_folder

    if options.maps:
        _bench_maps(options)
        return
    values = {key: value for key, value in options.as_dict().items() if key in BenchConfig.__dataclass_fields__}
    lists = {key: tuple(filter(None, values[key].split(","))) for key in ("models", "trunks", "formats")}
    config = BenchConfig(**{**values, **lists})
    check(config)
    if options.out:
        make_folder(options.out)
    with console.status("") as status:
        result = run_bench(config, components=options.components, note=status.update)
    console.print(machine_line(result), highlight=False, soft_wrap=True)
    for trunk in config.trunks:
        console.print(speed_table(result, trunk))
        if result.components:
            console.print(components_table(result, trunk))
    if options.out:
        result.save(options.out)
        console.print(f"wrote {options.out}/bench.json and bench.png", highlight=False, soft_wrap=True)


def _bench_maps(options: Any) -> None:
    from mdtnet.checks import make_folder
    from mdtnet.map_bench import bench_maps, save_maps

    if options.out:
        make_folder(options.out)
    with console.status("") as status:
        rows = bench_maps(clips=options.clips, seed=options.seed, workers=options.workers, note=status.update)
    table = Table("scenes", "map", title="mean salience on and off the figure", box=None, padding=(0, 2, 0, 0))
    for heading in ("AUC", "on", "off", "ratio", "flicker"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        figures = f"{row.figure:.2f}", f"{row.background:.2f}", f"{row.ratio:.1f}", f"{row.flicker:.3f}"
        table.add_row(row.condition, row.map, f"{row.auc:.3f} ± {row.auc_half:.3f}", *figures)
    console.print(table)
    if options.out:
        save_maps(rows, options.out)
        console.print(f"wrote {options.out}/maps.json", highlight=False, soft_wrap=True)


def machine_line(result: "Bench") -> str:
    """What ran where, and how fast that machine multiplies matrices."""
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
    """A line for each form of a system on one trunk; ratios are to the first system in the same form."""
    rows = [_cells(result, row) for row in result.rows if row.trunk == trunk]
    table = Table(title=trunk, title_justify="left", box=None, padding=(0, 2, 0, 0))  # fits 80 columns
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in ("system", "form") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    return table


def _cells(result: "Bench", row: "Row") -> dict[str, str]:
    """Heading -> cell."""
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
    """With the form and how many times faster it is than eager, in the place of what eager alone has room for."""
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
