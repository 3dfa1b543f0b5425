"""The verbs that draw: where a video moves, and where networks look."""

from typing import TYPE_CHECKING, Literal

from mdtnet.cli.parse import Verb, check_least, config_from, options_of
from mdtnet.errors import ConfigError
from mdtnet.system.terminal import say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def saliency_arguments(parser: "ArgumentParser") -> None:
    from mdtnet.config import Exposure, SaliencyConfig

    parser.add_argument("source", help="a video file or a folder of frames")
    parser.add_argument("-o", "--out", required=True, help=".png or .jpg: contact sheet; .mp4: overlay video")
    parser.add_argument("--segments", type=int, default=8, help="segments of the contact sheet")
    parser.add_argument(
        "--frame_stride", type=int, default=1, help="distance in frames inside a segment, on a contact sheet"
    )
    parser.add_argument(
        "--exposure",
        type=Exposure,
        default="none",
        help="brightness of a dark video, on a contact sheet: none, gain, gamma",
    )
    parser.add_argument("--all_variants", action="store_true", help="all variants of the map on one contact sheet")
    parser.add_class_arguments(SaliencyConfig)


def saliency(options: "Namespace") -> None:
    from mdtnet.checks import check_ranges
    from mdtnet.config import SaliencyConfig

    config = config_from(SaliencyConfig, options)
    check_least(1, segments=options.segments, frame_stride=options.frame_stride)
    with options_of("model.saliency", SaliencyConfig):
        check_ranges(config, part="model.saliency")  # before torch loads
    from mdtnet.pages.pictures import draw_saliency

    out = draw_saliency(
        options.source,
        options.out,
        saliency=config,
        num_segments=options.segments,
        frame_stride=options.frame_stride,
        exposure=options.exposure,
        all_variants=options.all_variants,
    )
    say(f"wrote {out}")


def explain_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "checkpoints", metavar="CHECKPOINT", nargs="+", help="checkpoint files, shown one below the other"
    )
    parser.add_argument("--video", required=True, help="a video file or a folder of frames")
    parser.add_argument("-o", "--out", required=True, help="the picture, .png or .jpg")
    parser.add_argument(
        "--what",
        type=Literal["evidence", "offsets"],
        default="evidence",
        help="evidence: where, when and which part speaks for a class; offsets: where DCME of MDT-Net looks",
    )
    parser.add_argument("--label", default="", help="class to explain; default: what each network predicts")
    parser.add_argument("--json", default="", help="also write the evidence, map by map, to this JSON file")
    parser.add_argument("--at", default="", help="place of the offsets as X,Y from 0,0 to 1,1; default: most motion")
    parser.add_argument("--stages", type=int, nargs="+", default=[], help="of 2 3 4; default: evidence 4, offsets all")
    parser.add_argument("--columns", type=int, default=4, help="moments that are shown, evenly spread; 0: all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def explain(options: "Namespace") -> None:
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
        json=options.json,
        device=options.device,
    )
    say(f"wrote {out}{f' and {options.json}' if options.json else ''}")


def _place(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--at is '{text}', expected X,Y such as 0.5,0.25") from None
    return x, y


VERBS = {
    "saliency": Verb(
        "show where a video moves",
        saliency_arguments,
        saliency,
        "  mdtnet saliency clip.mp4 -o overlay.mp4\n"
        "  mdtnet saliency clip.mp4 -o sheet.png --variant phase\n"
        "  mdtnet saliency clip.mp4 -o sheet.png --all_variants --segments 5",
    ),
    "explain": Verb(
        "show what speaks for a class: salience, Grad-CAM, each part's share; or the offsets of DCME",
        explain_arguments,
        explain,
        "  mdtnet explain runs/tsn/checkpoints/best.pt runs/mine/checkpoints/best.pt --video clip.mp4 -o cam.png\n"
        "  mdtnet explain runs/mine/checkpoints/best.pt --video clip.mp4 -o why.png --json why.json\n"
        "  mdtnet explain runs/mine/checkpoints/best.pt --video clip.mp4 --what offsets -o offsets.png",
    ),
}
