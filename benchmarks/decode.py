"""From a video file to a training clip, against decoding alone and against decord2 and torchcodec, as ratios.

    python benchmarks/decode.py --videos FOLDER [--count 40] [--repeats 5] [--workers 1] [--json FILE]
    python benchmarks/decode.py --made
    python benchmarks/decode.py --parts
    python benchmarks/decode.py --videos FOLDER --leak 10000
    python benchmarks/decode.py --index 1000000

A clip is 8 segments of 5 frames: chosen at random, decoded, the short side resized to 256 pixels and a random square of
224 cut out, uint8. The limit is PyAV decoding the same file in one thread to its last frame (or to the last one wanted,
which is what a reader can do once it knows how many frames there are) and using none. Everything runs in one thread.
The order is video by video, everyone in turn; a ratio is a turn's time over that of the limit, median of the turns
and in brackets their range. CPU time suffers less than wall time on a machine that others use too.

`--made` does this with clips that it makes, 10 s of 320 x 240 in H.264 with key frames every 12 and every 250 frames,
with and without B-frames. `--parts` reads parts of 3 s all over a file of 20 minutes, with key frames every 250 frames;
there the limit seeks by itself to the key frame before the part and decodes to its end.

decord2 and torchcodec are compared where they are installed. They are told the true number of frames, choose frames
by the same rule and resize RGB with torch, where mdtnet scales YUV; their clips, too, are compact and have channels
last in memory.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mdtnet.config import DataConfig
from mdtnet.data.annotations import VideoList, load_videos
from mdtnet.data.dataset import ClipDataset, make_loader
from mdtnet.data.segments import train_indices
from mdtnet.data.transforms import resize_short, stack_clips
from mdtnet.data.video import probe, read_clip

DATA = DataConfig(num_segments=8, short_side=256, size=224, flip=False, on_unreadable="skip")
FRAMES = 5
SUFFIXES = (".avi", ".mp4", ".mkv", ".webm", ".mov")
SMALL = DataConfig(num_segments=8, short_side=64, size=56, on_unreadable="skip")
MIB = 2**20
SAMPLES = 40  # of resident memory in a leak test
MADE = 4  # clips of a kind, or parts
PART_SECONDS = 3

Read = Callable[[int], object]


def decoder(paths: list[str], last: Callable[[int], int | None]) -> Read:
    """The limit: decodes video i, up to frame `last(i)` if that is not None, and uses nothing of it."""

    def read(i: int) -> int:
        stop, count = last(i), 0
        with av.open(paths[i]) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            for _ in container.decode(stream):
                count += 1
                if stop is not None and count > stop:
                    break
        return count

    return read


class Sampler:
    """Random frames of each video, others in every turn."""

    def __init__(self, counts: list[int], firsts: list[int] | None = None) -> None:
        self.counts, self.firsts, self.turn = counts, firsts or [0] * len(counts), 0

    def __call__(self, i: int) -> np.ndarray:
        return self.firsts[i] + self.choose(i, self.counts[i])

    def choose(self, i: int, num_frames: int) -> np.ndarray:
        rng = np.random.default_rng([self.turn, i])
        return train_indices(num_frames, rng, num_segments=DATA.num_segments, frames_per_segment=FRAMES)

    def last(self, i: int) -> int:
        return int(self(i).max())


def compact_crop(frames: Tensor, table: np.ndarray, seed: int) -> Tensor:
    """Frames [T*K, 3, H, W] whose channels lie last in memory -> a random crop of them, [T, K, 3, S, S]."""
    frames = resize_short(frames, DATA.short_side).movedim(1, -1)
    top, left = np.random.default_rng(seed).integers(0, np.array(frames.shape[1:3]) - DATA.size + 1)
    frames = frames[:, top : top + DATA.size, left : left + DATA.size].contiguous()
    return frames.reshape(*table.shape, *frames.shape[1:]).movedim(-1, 2)


def decord_reader(paths: list[str], sampler: Sampler) -> Read:
    decord = importlib.import_module("decord")

    def read(i: int) -> Tensor:
        table = sampler(i)
        frames = decord.VideoReader(paths[i], num_threads=1).get_batch(table.reshape(-1)).asnumpy()
        return compact_crop(torch.from_numpy(frames).movedim(-1, 1), table, i)

    return read


def torchcodec_reader(paths: list[str], sampler: Sampler) -> Read:
    decoders = importlib.import_module("torchcodec.decoders")

    def read(i: int) -> Tensor:
        table = sampler(i)
        decoder = decoders.VideoDecoder(paths[i], num_ffmpeg_threads=1)
        return compact_crop(decoder.get_frames_at(table.reshape(-1).tolist()).data, table, i)

    return read


def our_readers(videos: VideoList, sampler: Sampler) -> dict[str, Read]:
    first, later, testing = (
        ClipDataset(videos, DATA, frames_per_segment=FRAMES, train=train) for train in (True, True, False)
    )

    def item(dataset: ClipDataset, i: int, *, forget: bool = False, forget_plan: bool = False) -> object:
        dataset.set_epoch(sampler.turn)
        if forget:
            dataset._known.zero_()
        if forget_plan:
            dataset._plans._slots.zero_()
        return dataset[i]

    return {
        "mdtnet, first read": lambda i: item(first, i, forget=True, forget_plan=True),
        "mdtnet, first read, file known": lambda i: item(first, i, forget=True),
        "mdtnet, later epochs": lambda i: item(later, i),
        "mdtnet, test view": lambda i: item(testing, i, forget=True, forget_plan=True),
    }


def frames_alone(paths: list[str], sampler: Sampler) -> Read:
    return lambda i: read_clip(paths[i], lambda n: sampler.choose(i, n))


def others(paths: list[str], sampler: Sampler) -> tuple[dict[str, Read], dict[str, str]]:
    """The other decoders that load and read the first video, and why the others do not."""
    readers, skipped = {}, {}
    for name, make in (("decord2", decord_reader), ("torchcodec", torchcodec_reader)):
        try:
            readers[name] = make(paths, sampler)
            readers[name](0)
        except (ImportError, RuntimeError, OSError) as error:
            skipped[name] = str(error).strip().splitlines()[0]
            readers.pop(name, None)
    return readers, skipped


def turn(readers: dict[str, Read], count: int) -> dict[str, dict[str, float]]:
    """Seconds of each reader for all videos, and how many it failed to read."""
    sums = {name: {"cpu": 0.0, "wall": 0.0, "failed": 0} for name in readers}
    for i in range(count):
        for name, read in readers.items():
            cpu, wall = time.process_time(), time.perf_counter()
            try:
                read(i)
            except Exception:  # whatever another project raises
                sums[name]["failed"] += 1
            sums[name]["cpu"] += time.process_time() - cpu
            sums[name]["wall"] += time.perf_counter() - wall
    return sums


def measure(readers: dict[str, Read], sampler: Sampler, count: int, repeats: int) -> dict[str, dict]:
    """One row a reader; the first turn warms up. Ratios are to the first reader."""
    turns = []
    for sampler.turn in range(repeats + 1):
        turns.append(turn(readers, count))
    turns, limit, rows = turns[1:], next(iter(readers)), {}
    for name in readers:
        row: dict = {"failed": turns[0][name]["failed"]}
        for kind in ("cpu", "wall"):
            ratios = [t[name][kind] / t[limit][kind] for t in turns]
            row[kind] = {
                "ms": 1e3 * statistics.median(t[name][kind] for t in turns) / count,
                "ratio": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
            }
        rows[name] = row
    return rows


class Items(Dataset):
    """What a reader makes of each video, for loader processes."""

    def __init__(self, read: Read, count: int) -> None:
        self.read, self.count = read, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> object:
        return self.read(i)


def in_workers(
    videos: VideoList, decode: Read, rivals: dict[str, Read], *, workers: int, repeats: int
) -> dict[str, dict]:
    """Wall time a clip of whole epochs through loader processes, in batches of 4, in turn."""
    dataset = ClipDataset(videos, DATA, frames_per_segment=FRAMES, train=True)
    options: dict = {"batch_size": 4, "num_workers": workers, "persistent_workers": True}
    loaders: dict[str, DataLoader] = {"decode only": DataLoader(Items(decode, len(videos)), **options)}
    loaders["mdtnet"] = make_loader(dataset, batch_size=4, shuffle=False, seed=0, workers=workers)
    for name, read in rivals.items():
        loaders[name] = DataLoader(Items(read, len(videos)), collate_fn=stack_clips, **options)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(repeats + 1):
        loaders["mdtnet"].set_epoch(epoch)  # type: ignore[attr-defined]
        for name, loader in loaders.items():
            start = time.perf_counter()
            for _ in loader:
                pass
            seconds[name].append(time.perf_counter() - start)
    rows = {}
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times[1:], seconds["decode only"][1:])]
        rows[name] = {
            "ms": 1e3 * statistics.median(times[1:]) / len(videos),
            "ratio": statistics.median(ratios),
            "range": [min(ratios), max(ratios)],
        }
    return rows


def resident_mib() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def leak(videos: VideoList, decodes: int) -> dict[str, float]:
    """Resident memory while so many training clips are read; the slope is that of the second half."""
    dataset = ClipDataset(videos, SMALL, frames_per_segment=FRAMES, train=True)
    steps, samples = max(decodes // SAMPLES, 1), []
    for n in range(decodes):
        dataset.set_epoch(n // len(videos))
        dataset[n % len(videos)]
        if (n + 1) % steps == 0:
            samples.append((n + 1, resident_mib()))
    later = samples[len(samples) // 2 :]
    return {
        "decodes": decodes,
        "first_mib": samples[0][1],
        "middle_mib": later[0][1],
        "end_mib": later[-1][1],
        "slope_mib_per_1000": 1e3 * float(np.polyfit(*np.array(later).T, 1)[0]),
    }


def proportional_mib(pid: int | str) -> float:
    """Memory of a process in which what n processes share counts 1/n."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def open_index(rows: int, workers: int) -> tuple[float, float, float]:
    """Wall and CPU seconds to open a list of so many videos, and MiB of this process and of its loader processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "videos.csv")
        with path.open("w") as file:
            file.writelines(f"some_video_name_{i:07d}.mp4,{i % 400}\n" for i in range(rows))
        Path(folder, "some_video_name_0000000.mp4").touch()  # a list of which nothing exists is refused
        start, cpu = time.perf_counter(), time.process_time()
        videos = load_videos(str(path))
        dataset = ClipDataset(videos, SMALL, frames_per_segment=FRAMES, train=True)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        loader = make_loader(dataset, batch_size=8, shuffle=True, seed=0, workers=workers)
        for n, _ in enumerate(loader):  # of unreadable videos: only the index is used
            if n == 200:
                break
        pids = [process.pid for process in multiprocessing.active_children()]
        assert len(pids) == workers
        return seconds, cpu, sum(proportional_mib(pid) for pid in [*pids, "self"])


def index(rows: int, workers: int) -> dict[str, float]:
    """Seconds to open an index, and memory it costs: this process and all loader processes, less that of 1000 rows."""
    found = []
    for count in (1000, rows):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            found.append(fresh.submit(open_index, count, workers).result())
    (_, _, least), (seconds, cpu, most) = found
    return {"rows": rows, "workers": workers, "seconds": seconds, "cpu_seconds": cpu, "mib": most - least}


def show(rows: dict[str, dict], workers: dict[str, dict], console: Console) -> None:
    table = Table("one thread", "ms CPU", "ratio", "ms wall", "ratio", "failed")
    for name, row in rows.items():
        cells = []
        for kind in ("cpu", "wall"):
            v = row[kind]
            cells += [f"{v['ms']:.1f}", f"{v['ratio']:.2f} ({v['range'][0]:.2f}-{v['range'][1]:.2f})"]
        table.add_row(name, *cells, str(row["failed"]))
    console.print(table)
    if not workers:
        return
    table = Table("in loader processes", "ms wall", "ratio")
    for name, row in workers.items():
        table.add_row(name, f"{row['ms']:.1f}", f"{row['ratio']:.2f} ({row['range'][0]:.2f}-{row['range'][1]:.2f})")
    console.print(table)


def about(args: argparse.Namespace) -> dict:
    versions = {}
    for name in ("torch", "torchvision", "av", "numpy", "decord2", "torchcodec"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repeats": args.repeats,
        "threads": 1,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "ffmpeg": av.ffmpeg_version_info,
        "versions": versions,
    }


# ---- clips that are made ----------------------------------------------------------------------------------


def scene(num_frames: int, seed: int) -> Iterator[np.ndarray]:
    """A camera that moves over a textured ground, with four things that move on it and some noise, `[240, 320, 3]`."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 30, 40)))
    fine = torch.nn.functional.interpolate(coarse, size=(340, 520), mode="bicubic")[0].movedim(0, -1).numpy()
    ground = (fine + rng.uniform(-12, 12, fine.shape)).clip(0, 255)
    for i in range(num_frames):
        top, left = int(50 + 40 * np.sin(i / 57)), int(100 + 90 * np.sin(i / 40))
        frame = ground[top : top + 240, left : left + 320].copy()
        for k in range(4):
            y, x = int(95 + 80 * np.cos(i / (11 + k) + k)), int(140 + 110 * np.sin(i / 15 + 2 * k))
            frame[y : y + 50, x : x + 40] = ground[200:250, 40 * k : 40 * k + 40]
        yield (frame + rng.integers(-3, 4, frame.shape)).clip(0, 255).astype(np.uint8)


def make_clip(path: Path, num_frames: int, seed: int, *, gop: int, b_frames: int) -> None:
    options = {
        "g": str(gop),
        "bf": str(b_frames),
        "crf": "23",
        "preset": "veryfast",
        "sc_threshold": "0",
        "threads": "1",
    }
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for frame in scene(num_frames, seed):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode())


def repeat_clip(source: Path, path: Path, times: int) -> None:
    """The packets of a clip again and again, as one long file."""
    with av.open(str(source)) as clip, av.open(str(path), "w") as out:
        packets = [packet for packet in clip.demux(video=0) if packet.size]
        stream = out.add_stream_from_template(clip.streams.video[0])
        data = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in packets]
        length, base = sum(p.duration for p in packets), packets[0].time_base
        for turn in range(times):
            for content, pts, dts, duration, key in data:
                packet = av.Packet(content)
                packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
                packet.time_base, packet.is_keyframe, packet.stream = base, key, stream
                out.mux(packet)


def made(args: argparse.Namespace, console: Console) -> dict:
    found = {}
    for gop in (12, 250):
        for b_frames in (0, 2):
            with tempfile.TemporaryDirectory() as folder:
                paths = [Path(folder, f"{n}.mp4") for n in range(MADE)]
                for n, path in enumerate(paths):
                    make_clip(path, 300, n, gop=gop, b_frames=b_frames)
                name = f"key frames every {gop}, {b_frames} B-frames"
                console.print(name)
                names = [str(path) for path in paths]
                found[name] = compare(listed(names, folder), names, args, console)
    return found


# ---- parts of a long file ---------------------------------------------------------------------------------


def part_decoder(path: str, starts: list[int]) -> Read:
    """The limit: from the key frame before part i to its end, by its times."""

    def read(i: int) -> None:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            assert stream.time_base
            container.seek(int(starts[i] / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                if frame.time >= starts[i] + PART_SECONDS:
                    break

    return read


def parts(args: argparse.Namespace, console: Console) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        minute, path = Path(folder, "minute.mp4"), str(Path(folder, "long.mp4"))
        make_clip(minute, 1800, 0, gop=250, b_frames=2)
        repeat_clip(minute, Path(path), 20)
        starts = [60 * n + 20 for n in range(0, 20, 20 // MADE)]
        rows = Path(folder, "videos.csv")
        lines = [f"{path},{n % 2},{start},{start + PART_SECONDS}\n" for n, start in enumerate(starts)]
        rows.write_text("path,label,start,end\n" + "".join(lines))
        counts = [PART_SECONDS * 30] * len(starts)
        sampler = Sampler(counts, [30 * start for start in starts])
        readers = {"decode only the part": part_decoder(path, starts)}
        readers |= our_readers(load_videos(str(rows)), sampler)
        rivals, skipped = others([path] * len(starts), sampler)
        for name, reason in skipped.items():
            console.print(f"{name} is left out: {reason}")
        found = measure(readers | rivals, sampler, len(starts), args.repeats)
        show(found, {}, console)
    return {"rows": found, "left_out": skipped}


# ---- files that are there ---------------------------------------------------------------------------------


def spread(folder: Path, count: int) -> list[str]:
    """Up to `count` videos from all over a folder."""
    paths = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no videos ({', '.join(SUFFIXES)})")
    return [paths[int(i)] for i in np.unique(np.linspace(0, len(paths) - 1, count).round())]


def listed(paths: list[str], folder: str) -> VideoList:
    path = Path(folder, "videos.csv")
    path.write_text("".join(f"{os.path.abspath(p)},{i % 2}\n" for i, p in enumerate(paths)))
    return load_videos(str(path))


def compare(videos: VideoList, paths: list[str], args: argparse.Namespace, console: Console) -> dict:
    counts = [probe(path).num_frames for path in paths]
    sampler = Sampler(counts)
    decode = decoder(paths, lambda i: None)
    readers = {"decode only": decode, "decode only, to the last frame wanted": decoder(paths, sampler.last)}
    readers |= our_readers(videos, sampler) | {"mdtnet, frames alone": frames_alone(paths, sampler)}
    rivals, skipped = others(paths, sampler)
    for name, reason in skipped.items():
        console.print(f"{name} is left out: {reason}")
    rows = measure(readers | rivals, sampler, len(paths), args.repeats)
    workers = in_workers(videos, decode, rivals, workers=args.workers, repeats=args.repeats)
    show(rows, workers, console)
    return {"videos": len(paths), "frames": sum(counts), "rows": rows, "workers": workers, "left_out": skipped}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of video files, searched through")
    parser.add_argument("--made", action="store_true", help="instead: clips of four kinds, which are made")
    parser.add_argument("--parts", action="store_true", help="instead: parts of a long file, which is made")
    parser.add_argument("--count", type=int, default=40, help="videos used, spread over the folder (40)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved turns (5)")
    parser.add_argument("--workers", type=int, default=1, help="loader processes (1)")
    parser.add_argument("--leak", type=int, metavar="N", help="instead: read N clips and watch the memory")
    parser.add_argument("--index", type=int, metavar="N", help="instead: open an index of N videos")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args()
    if not (args.videos or args.index or args.made or args.parts):
        parser.error("--videos is needed")
    torch.set_num_threads(1)
    console, start = Console(), about(args)
    if args.index:
        found: dict = {"index": index(args.index, args.workers)}
        console.print(found["index"])
    elif args.made or args.parts:
        found = (made if args.made else parts)(args, console)
    else:
        paths = spread(args.videos, args.count)
        with tempfile.TemporaryDirectory() as folder:
            videos = listed(paths, folder)
            found = {"leak": leak(videos, args.leak)} if args.leak else compare(videos, paths, args, console)
        if args.leak:
            console.print(found["leak"])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**start, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
