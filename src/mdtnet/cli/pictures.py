"""The verbs that draw: where a video moves, and where networks look; `cli` lists them."""

from typing import Any, Literal

from rich.console import Console

console = Console()


def saliency_arguments(parser: Any) -> None:
    from mdtnet.config import Exposure, SaliencyConfig

    parser.add_argument("source", help="a video file or a folder of frames")
    parser.add_argument("-o", "--out", required=True, help=".png or .jpg: contact sheet; .mp4: overlay video")
    parser.add_argument("--segments", type=int, default=8, help="segments of the contact sheet")
    parser.add_argument(
        "--frame_stride", type=int, default=1, help="frames between two of a segment, on a contact sheet"
    )
    parser.add_argument(
        "--exposure",
        type=Exposure,
        default="none",
        help="brightness of a dark video, on a contact sheet: none, gain, gamma",
    )
    parser.add_argument("--all_variants", action="store_true", help="what every variant sees, on one contact sheet")
    parser.add_class_arguments(SaliencyConfig)


def saliency(options: Any) -> None:
    from mdtnet.config import SaliencyConfig
    from mdtnet.config_file import from_dict, to_dict
    from mdtnet.pages.pictures import draw_saliency

    values = {key: options.as_dict()[key] for key in to_dict(SaliencyConfig())}
    config = from_dict(SaliencyConfig, values, where="command line")
    out = draw_saliency(
        options.source,
        options.out,
        saliency=config,
        num_segments=options.segments,
        frame_stride=options.frame_stride,
        exposure=options.exposure,
        all_variants=options.all_variants,
    )
    console.print(f"wrote {out}", highlight=False)


def explain_arguments(parser: Any) -> None:
    parser.add_argument("checkpoints", nargs="+", help="checkpoint files, shown one below the other")
    parser.add_argument("--video", required=True, help="a video file or a folder of frames")
    parser.add_argument("-o", "--out", required=True, help="the picture, .png or .jpg")
    parser.add_argument(
        "--what",
        type=Literal["gradcam", "offsets"],
        default="gradcam",
        help="gradcam: what speaks for a class; offsets: where MDT-Net's deformable convolutions look",
    )
    parser.add_argument("--label", default="", help="class to explain by gradcam; default: what each network predicts")
    parser.add_argument("--at", default="", help="place of the offsets as X,Y from 0,0 to 1,1; default: most motion")
    parser.add_argument("--stages", type=int, nargs="+", default=[], help="of 2 3 4; default: gradcam 4, offsets all")
    parser.add_argument("--columns", type=int, default=4, help="moments that are shown, evenly spread; 0: all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def explain(options: Any) -> None:
    from mdtnet.pages.explain import explain as draw

    out = draw(
        options.checkpoints,
        options.video,
        options.out,
        what=options.what,
        label=options.label,
        at=_place(options.at),
        stages=options.stages,
        columns=options.columns,
        device=options.device,
    )
    console.print(f"wrote {out}", highlight=False)


def _place(text: str) -> tuple[float, float] | None:
    from mdtnet.errors import ConfigError

    if not text:
        return None
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--at is '{text}', expected X,Y such as 0.5,0.25") from None
    return x, y
