"""The verbs that turn a checkpoint into another file: a self-describing one, or one for a runtime."""

from pathlib import Path
from typing import TYPE_CHECKING

from mdtnet.cli.parse import Verb
from mdtnet.cli.results import beside
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.config import Precision


def convert_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument("file", help="a checkpoint, ours or other people's")
    parser.add_argument("out", help="the file to write, such as NAME.safetensors")
    parser.add_argument("--labels", default="", help="file of class names, one per line, in label order")
    parser.add_argument("--num_segments_trained", type=int, default=None, help="T of its training, if known")


def convert(options: "Namespace") -> None:
    from mdtnet.convert import convert

    done = convert(options.file, options.out, labels=options.labels, num_segments_trained=options.num_segments_trained)
    say(str(done))


def export_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import Format
    from mdtnet.deploy.formats import FORMATS

    forms = ", ".join(
        f"{name} ({form.suffix}{f', needs mdtnet[{form.extra}]' if form.extra else ''})"
        for name, form in FORMATS.items()
    )
    parser.add_argument("checkpoint", help="a checkpoint file")
    parser.add_argument("--format", type=Format, default="onnx", help=forms)
    parser.add_argument("--half", action="store_true", help="store weights as float16: half the file")
    parser.add_argument("--int8", action="store_true", help="compute the trunk in 8 bits, calibrated with the clips")
    parser.add_argument("--stream", action="store_true", help="take streams, state in and out (causal networks, onnx)")
    parser.add_argument("--clips", default="", help="videos to compare (and calibrate) with; default: built-in ones")
    parser.add_argument("--out", default="", help="the file; default: beside the checkpoint")


def export(options: "Namespace") -> None:
    from mdtnet.deploy.export import export
    from mdtnet.deploy.formats import FORMATS

    if options.half and options.int8:
        raise ConfigError("--half and --int8 exclude each other")
    precision: Precision = "int8" if options.int8 else "half" if options.half else "float32"
    name = Path(options.checkpoint).stem + "_stream" * options.stream
    name += "" if precision == "float32" else f"_{precision}"
    out = options.out or beside(options.checkpoint, name + FORMATS[options.format].suffix)
    done = export(
        options.checkpoint,
        format=options.format,
        out=out,
        precision=precision,
        clips=options.clips,
        stream=options.stream,
    )
    say(str(done))
    say(f"wrote {done.path} and {done.path}.json")


VERBS = {
    "convert": Verb(
        "convert any supported checkpoint to one self-describing file",
        convert_arguments,
        convert,
        "  mdtnet convert tsm_kinetics.pth tsm.safetensors --labels classes.txt",
    ),
    "export": Verb(
        "a checkpoint as one file for ONNX Runtime, OpenVINO or torch.export, verified on real clips",
        export_arguments,
        export,
        "  mdtnet export runs/mine/checkpoints/best.pt --format onnx --clips videos/test\n"
        "  mdtnet predict runs/mine/best.onnx clip.mp4",
    ),
}
