"""Mutated videos, lists, YAML, caches, networks, results of runs and studies: read right or refused in one line.

    python tests/fuzz.py [--inputs 2000] [--seed 0] [--seconds 600] [--kinds video,list] [--keep FOLDER]

Counts as a failure: a crash, a hang, an exception that is not one of the project's, a message of several lines, memory
beyond a bound, and a silent loss (a video with fewer frames than before and no word of damage, other pixels from a
cache, other weights from a network's file). Inputs follow from the seed and their number. Failures are kept in a
folder; the exit code is 1 if there are any.
"""

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from mdtnet.errors import MdtnetError
from mdtnet.work.isolated import Failure, run_isolated

TIMEOUT_SECONDS = 30.0
MAX_GROWTH = 1.5e9  # bytes of memory that one input may add
LONGEST = 1000  # characters of a message
FRAMES = 30


@dataclass(frozen=True)
class Input:
    """One mutated input, made in `folder` from the seeds beside it."""

    kind: str
    number: int
    seed: int
    seeds: str
    folder: str


# ---- seeds: whole files of each kind ---------------------------------------------------------------------


def make_seeds(folder: Path) -> None:
    """Write the files that inputs are mutated from."""
    frames = np.full((FRAMES, 48, 64, 3), 40, dtype=np.uint8)
    for i, frame in enumerate(frames):
        frame[8:24, i : i + 16] = (220, 8 * i, 90)
    for name, codec, pixels in (
        ("a.mp4", "libx264", "yuv420p"),
        ("b.mkv", "libx264", "yuv444p"),
        ("c.avi", "mpeg4", "yuv420p"),
        ("d.webm", "libvpx", "yuv420p"),
        ("e.ts", "mpeg2video", "yuv420p"),
    ):
        with av.open(str(folder / name), "w") as out:
            stream = out.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
            for frame in frames:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=pixels)))
            out.mux(stream.encode())
    (folder / "frames").mkdir()
    for i in range(4):
        Image.fromarray(frames[i]).save(folder / "frames" / f"img_{i:03d}.{'png' if i % 2 else 'jpg'}")
    for name in ("x.mp4", "y.mp4"):
        (folder / name).touch()
    (folder / "list.csv").write_text("path,label,start,end,group\nx.mp4,jump,0,1:05,a\ny.mp4,wave,,2.5,b\n# end\n")
    (folder / "list.txt").write_text("x.mp4 0\ny.mp4 1\n")
    (folder / "run.yaml").write_text(
        "out: runs/a\ndata: {train: a.csv, num_segments: 8, flip: swap}\nmodel:\n  name: mdtnet2\n"
        "  mdtnet: {dcme_kernels: [3, 3]}\ntrain: {epochs: 3, lr: 1e-2, steps: [1, 2]}\ntest: {clips: 2}\n"
    )


# ---- mutations -------------------------------------------------------------------------------------------

TOKENS = [
    *("\t", "\n", "\r", '"', "'", ",", " ", "|", "#", "{", "}", "[", "]", ":", "- ", "&a ", "*a", "%"),
    *("!!python/object:os", "\0", "\x1b[2J", "é", "e\u0301", "²", "١", "inf", "nan", "-1", "9" * 30),
    *("9" * 5000, "1:2:3:4", "..", "/", "~", "x" * 2000, "true", "null", "path", "label"),
    *("num_frames", "\ufeff", "\udc80"),
]  # fmt: skip

VALUES = [
    None,
    True,
    -1,
    0,
    3,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "<b>",
    [],
    [[]],
    ["x", 1],
    {},
    {"x": {}},
]


def mutate_bytes(data: bytes, rng: random.Random, *, others: list[bytes]) -> bytes:
    """Flip, overwrite, cut, repeat, insert or join at random places."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not found:
            break
        at, size = rng.randrange(len(found)), rng.choice((1, 4, 16, 200))
        how = rng.randrange(7)
        if how == 0:
            found[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            found[at : at + size] = rng.randbytes(min(size, len(found) - at))
        elif how == 2:
            found[at : at + size] = bytes([rng.choice((0, 255))]) * min(size, len(found) - at)
        elif how == 3:
            del found[at : at + size]
        elif how == 4:
            found[at:at] = found[max(0, at - size) : at]
        elif how == 5 and rng.random() < 0.3:
            del found[at:]
        elif how == 6 and rng.random() < 0.2 and (other := rng.choice(others)):
            found[at:] = other[rng.randrange(len(other)) :]
    return bytes(found)


def mutate_values(value: Any, rng: random.Random) -> Any:
    """Plain values with one of them, anywhere, in another's place, or of another kind, or left out."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.9:
        found: Any = dict(value) if isinstance(value, dict) else list(value)
        key = rng.choice(list(found)) if isinstance(value, dict) else rng.randrange(len(found))
        if rng.random() < 0.15:
            del found[key]
        else:
            found[key] = mutate_values(found[key], rng)
        return found
    return rng.choice(VALUES)


def mutate_text(text: str, rng: random.Random) -> bytes:
    """Insert odd tokens, delete, repeat or exchange lines."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, lines = rng.randrange(len(text) + 1), text.split("\n")
        how = rng.randrange(5)
        if how <= 1:
            text = text[:at] + rng.choice(TOKENS) + text[at:]
        elif how == 2:
            text = text[:at] + text[at + rng.choice((1, 3, 10)) :]
        elif how == 3:
            rng.shuffle(lines)
            text = "\n".join(lines)
        else:
            text = "\n".join(lines + [rng.choice(lines)] * rng.choice((1, 100)))
    data = text.encode("utf-8", "surrogateescape")
    return mutate_bytes(data, rng, others=[data or b"x"]) if rng.random() < 0.2 and data else data


# ---- what is done with an input: a word for the summary, or an exception ------------------------------------


def try_video(given: Input, rng: random.Random) -> str:
    """Silent losses are looked for in damage to the frames' own bytes: elsewhere a file can say that it is shorter."""
    from mdtnet.data.container import Part
    from mdtnet.data.video import Request, probe, read_frames

    seeds = [Path(given.seeds, name) for name in ("a.mp4", "b.mkv", "c.avi", "d.webm", "e.ts")]
    source = rng.choice(seeds)
    path = Path(given.folder, f"v{source.suffix}")
    data = source.read_bytes()
    lossy = rng.random() < 0.3
    if lossy:
        data = _damage_packets(source, data, rng)
    else:
        data = mutate_bytes(data, rng, others=[p.read_bytes() for p in seeds])
    path.write_bytes(data)
    info = probe(path)
    request = Request(lambda n: np.array([[0, n // 2], [n - 1, n - 1]]), fps=rng.choice((0, 0, 10)))
    reading = read_frames(Part(str(path)), request)
    if reading.damaged != info.damaged and not request.fps:
        raise AssertionError(f"damage is {reading.damaged} when read, {info.damaged} when probed")
    if lossy and info.num_frames < FRAMES and not info.damaged:
        raise AssertionError(f"silent loss: {info.num_frames} of {FRAMES} frames, and no damage")
    return "damaged" if info.damaged else "read"


def _damage_packets(path: Path, data: bytes, rng: random.Random) -> bytes:
    """Random bytes in the middle of a few packets."""
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.pos and p.size > 40]
    found = bytearray(data)
    for pos, size in rng.sample(packets, min(len(packets), rng.choice((1, 2, 5)))):
        start = pos + size // 3
        found[start : start + size // 4] = rng.randbytes(size // 4)
    return bytes(found)


def try_frames(given: Input, rng: random.Random) -> str:
    from mdtnet.data.video import probe

    folder = Path(given.folder, "frames")
    shutil.copytree(Path(given.seeds, "frames"), folder)
    files = sorted(folder.iterdir())
    for path in rng.sample(files, rng.choice((0, 1, 2))):
        path.write_bytes(mutate_bytes(path.read_bytes(), rng, others=[p.read_bytes() for p in files]))
    for path in rng.sample(files, rng.choice((0, 1, 3))):
        token = rng.choice(
            [t for t in TOKENS if not {"\0", "/"} & {*t} and len(t) < 99 and t != "label"]  # of a mask
        )
        path.rename(path.with_name(f"{path.stem}{token}{rng.choice(('', '1', '-2', '0.5'))}{path.suffix}"))
    info = probe(folder)
    if info.num_frames != len(files):
        raise AssertionError(f"{info.num_frames} of {len(files)} frames, and no word of the others")
    return "read"


def try_list(given: Input, rng: random.Random) -> str:
    from mdtnet.data.annotations import load_videos

    source = rng.choice(("list.csv", "list.txt"))
    path = Path(given.folder, source)
    path.write_bytes(mutate_text(Path(given.seeds, source).read_text(), rng))
    videos = load_videos(str(path), root=given.seeds, multi_label=rng.random() < 0.2)
    for i in range(len(videos)):
        videos[i], videos.name(i), videos.label_text(i)
    return "read"


def try_yaml(given: Input, rng: random.Random) -> str:
    from mdtnet.checks import check_config
    from mdtnet.config_file import load_yaml

    path = Path(given.folder, "run.yaml")
    path.write_bytes(mutate_text(Path(given.seeds, "run.yaml").read_text(), rng))
    check_config(load_yaml(path), processes=1)
    return "read"


def _read_cache(video: Path, cache: Path) -> np.ndarray:
    from mdtnet.config import DataConfig
    from mdtnet.data.annotations import Sample
    from mdtnet.data.frames import cached_frames

    return cached_frames(Sample(str(video), 0), DataConfig(short_side=32, cache=str(cache))).pixels


def try_cache(given: Input, rng: random.Random) -> str:
    cache = Path(given.folder, "cache")
    shutil.copytree(Path(given.seeds, "cache"), cache)
    (path,) = cache.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(mutate_bytes(whole, rng, others=[whole]))
    same = np.array_equal(
        _read_cache(Path(given.seeds, "a.mp4"), cache), np.load(next(Path(given.seeds).rglob("*.npy")))
    )
    if not same:
        raise AssertionError("other pixels from a changed cache file")
    return "read"


HEAVY = ("checkpoint", "description", "run", "study")
"""Kinds of `fuzz_results`, which imports torch and the pages."""


def _heavy(kind: str) -> Callable[[Input, random.Random], str]:
    def attempt(given: Input, rng: random.Random) -> str:
        import fuzz_results

        return str(getattr(fuzz_results, f"try_{kind}")(given, rng))

    return attempt


TRIES: dict[str, Callable[[Input, random.Random], str]] = {
    "video": try_video,
    "frames": try_frames,
    "list": try_list,
    "yaml": try_yaml,
    "cache": try_cache,
    **{kind: _heavy(kind) for kind in HEAVY},
}


def attempt(given: Input) -> str:
    """Try one input: `read`, `damaged` or `refused`, else `FAILED: ` and why."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    Path(given.folder).mkdir(parents=True, exist_ok=True)
    try:
        word = TRIES[given.kind](given, random.Random(given.seed))
    except MdtnetError as error:
        text = str(error)
        word = "refused" if "\n" not in text and len(text) < LONGEST else f"FAILED: message {text[:200]!r}"
    except BaseException as error:
        word = f"FAILED: {type(error).__name__}: {str(error)[:200]}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return word if grown < MAX_GROWTH else f"FAILED: {grown / 1e9:.1f} GB of memory"


def run(
    inputs: int, *, seed: int = 0, kinds: tuple[str, ...] = tuple(TRIES), seconds: float = 1e9, keep: Path | None = None
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Try so many inputs, of each kind in turn: how they ended by (kind, word), and a line for each failure."""
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as place:
        seeds = Path(place, "seeds")
        seeds.mkdir()
        make_seeds(seeds)
        if "cache" in kinds:
            _read_cache(seeds / "a.mp4", seeds / "cache")
        if set(kinds) & set(HEAVY):
            import fuzz_results

            fuzz_results.make_seeds(seeds)
        items = (
            Input(kinds[i % len(kinds)], i, seed * 1_000_003 + i, str(seeds), str(Path(place, f"{i}")))
            for i in range(inputs)
            if time.monotonic() < end
        )
        for given, result in run_isolated(attempt, items, workers=1, timeout_seconds=TIMEOUT_SECONDS):
            word = f"FAILED: {result.kind}: {result.detail}" if isinstance(result, Failure) else result
            counts[given.kind, word.partition(":")[0]] += 1
            if word.startswith("FAILED"):
                failures.append(f"{given.kind} {given.number} (seed {seed}): {word}")
                if keep:
                    shutil.copytree(given.folder, keep / f"{given.kind}_{given.number}", dirs_exist_ok=True)
            shutil.rmtree(given.folder, ignore_errors=True)
    return counts, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0, help="no new input after so long")
    parser.add_argument("--kinds", default=",".join(TRIES))
    parser.add_argument("--keep", type=Path, help="folder for the inputs that failed")
    options = parser.parse_args()
    start = time.monotonic()
    counts, failures = run(
        options.inputs,
        seed=options.seed,
        kinds=tuple(options.kinds.split(",")),
        seconds=options.seconds,
        keep=options.keep,
    )
    for (kind, word), count in sorted(counts.items()):
        print(f"{count:7} {kind:12} {word}")
    print(*failures, sep="\n")
    print(f"{counts.total()} inputs in {time.monotonic() - start:.0f} s, {len(failures)} failures")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
