"""`mdtnet predict CHECKPOINT --live SOURCE`: what a camera, a stream or a file shows while it plays."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TextIO

from mdtnet.errors import ConfigError
from mdtnet.system.terminal import complain, say, watch

if TYPE_CHECKING:
    import numpy as np
    from jsonargparse import ArgumentParser, Namespace

    from mdtnet.live import Answer

BAR = 20  # characters of a probability of 1
NOT_LIVE = ("clips", "crops", "csv", "out", "list", "root", "shard", "engine", "workers")


def live_arguments(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--live",
        default="",
        metavar="SOURCE",
        help="classify while it plays: a camera by its number, an address (http://, rtsp://, ...), or a file",
    )
    parser.add_argument("--segment_seconds", type=float, default=0.0, help="with --live: seconds per segment; 0: own")
    parser.add_argument("--video", default="", help="also write what is seen to this .mp4 file, with the answer in it")
    parser.add_argument("--window", action="store_true", help="with --live: also show it in a window (needs OpenCV)")


def live(options: "Namespace") -> int:
    from mdtnet.deploy.load import load
    from mdtnet.live import Reader, follow, opener, rhythm_of

    if given := [*options.sources, *(f"--{name}" for name in NOT_LIVE if name in options.given)]:
        raise ConfigError(f"--live does not go with {given[0]}")
    if options.window:
        from mdtnet.live_video import required_opencv

        required_opencv()
    model = load(options.checkpoint, device=options.device, segments=options.segments)
    description = model.description
    rhythm = rhythm_of(description, segment_seconds=options.segment_seconds)
    open_source = opener(options.live, short_side=description.short_side)
    with ExitStack() as stack:
        views: list[Callable[[Answer], object]] = []
        pictures: list[Callable[[float, np.ndarray], None]] = []
        if options.video:
            from mdtnet.live_video import Recorder

            recorder = stack.enter_context(Recorder(options.video))
            views.append(recorder.answer)
            pictures.append(recorder.frame)
        if options.json:
            file = stack.enter_context(_lines(options.json))
            views.append(lambda answer: print(json.dumps(answer.to_dict()), file=file, flush=True))
        if options.window:
            from mdtnet.live_video import Window

            window = stack.enter_context(Window(options.live))
            views.append(window.answer)
            pictures.append(window.frame)
        complain(_how(model.keeps_state, description.system, rhythm.seconds, description.num_segments))
        note = stack.enter_context(_shown(options, views))

        def on_frame(seconds: float, frame: "np.ndarray") -> None:
            for show in pictures:
                show(seconds, frame)

        reader = Reader(open_source, rhythm, on_frame=on_frame if pictures else None, note=note)
        stack.callback(_end, reader)
        latencies = []
        try:
            for answer in follow(model, reader, description, topk=options.topk, threshold=options.threshold):
                latencies.append(answer.latency)
                for view in views:
                    view(answer)
        except KeyboardInterrupt:  # how a live view ends
            pass
    complain(_summary(latencies, reader.frames, reader.dropped))
    return 0


def _end(reader) -> None:
    reader.stop()
    if reader.is_alive():
        reader.join(2)


def _how(keeps_state: bool, system: str, seconds: float, segments: int) -> str:
    if keeps_state:
        return f"{system} keeps its state: each segment of {seconds:.2f} s costs one segment (Ctrl-C ends)"
    return (
        f"{system} runs as a sliding window, since it looks ahead or its file keeps no state: each answer costs "
        f"{segments} segments of {seconds:.2f} s (Ctrl-C ends)"
    )


def _summary(latencies: list[float], frames: int, dropped: int) -> str:
    if not latencies:
        return f"no answer in {frames} frames"
    ordered = sorted(latencies)
    median, late = ordered[len(ordered) // 2], ordered[int(0.95 * (len(ordered) - 1))]
    return (
        f"{len(latencies)} answers to {frames} frames, {dropped} dropped; latency {1000 * median:.0f} ms "
        f"(median), {1000 * late:.0f} ms (95 %)"
    )


@contextmanager
def _lines(path: str) -> Iterator[TextIO]:
    """Where JSON lines go: a file, or standard output for `-`."""
    if path == "-":
        yield sys.stdout
        return
    from mdtnet.system.files import check_file

    check_file(path)
    with open(path, "w", encoding="utf-8") as file:
        yield file


@contextmanager
def _shown(options: "Namespace", views: "list[Callable[[Answer], object]]") -> Iterator[Callable[[str], None]]:
    """The view in the terminal, added to `views`; gives what shows a note."""
    if options.json == "-":  # standard output is for other programs
        yield complain
        return
    with watch() as update:
        if update is None:
            views.append(lambda answer: say(_line(answer)))
            yield complain
            return
        notes: list[str] = []

        def show(answer: "Answer") -> None:
            notes.clear()
            update(_bars(answer))

        def note(text: str) -> None:
            notes[:] = [text]
            update(text)

        views.append(show)
        yield note


def _line(answer: "Answer") -> str:
    best = ", ".join(f"{name} {p:.1%}" for name, p in zip(answer.classes, answer.probabilities))
    return f"{answer.seconds:8.2f} s  {best or '-'}  ({1000 * answer.latency:.0f} ms, {answer.dropped} dropped)"


def _bars(answer: "Answer") -> str:
    rows = [f"{p:6.1%}  {'█' * round(BAR * p):<{BAR}}  {name}" for name, p in zip(answer.classes, answer.probabilities)]
    foot = f"{answer.seconds:.1f} s   latency {1000 * answer.latency:.0f} ms   {answer.dropped} frames dropped"
    return "\n".join([*rows, foot])
