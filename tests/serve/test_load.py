"""Many at once, and many after each other: each is answered rightly or refused, and nothing piles up."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from clips import write_video
from serving import serving

import mdtnet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
CLIENTS, REQUESTS, WARM = 50, 1000, 200
MOST_GROWTH = 30  # MB


@pytest.fixture(scope="module")
def expected(clips) -> dict[Path, dict[str, float]]:
    """A video per client, all different -> its probabilities."""
    model = mdtnet.Recogniser.load(clips / "best.pt", device="cpu")
    found = {}
    for i in range(CLIENTS):
        blocks = np.random.default_rng(i).integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
        path = write_video(clips / f"{i:02}.mp4", blocks.repeat(16, 1).repeat(16, 2))
        best = model.predict(path)
        found[path] = dict(zip(best.classes, best.probabilities))
    assert len({tuple(round(p, 4) for p in one.values()) for one in found.values()}) == CLIENTS
    return found


@contextmanager
def client_of(clips: Path) -> Iterator[tuple[httpx.Client, int]]:
    """A client of a server of its own, and the number of the server's process."""
    with serving(clips / "best.pt") as server, httpx.Client(base_url=server.address, timeout=120) as client:
        yield client, server.pid


def ask(client: httpx.Client, path: Path) -> httpx.Response:
    return client.post("/v1/predict", files={"video": (path.name, path.read_bytes())})


def answer(reply: httpx.Response) -> dict[str, float]:
    return {one["class"]: one["probability"] for one in reply.json()["predictions"]}


def test_fifty_clients_get_their_own_answers_or_are_refused(clips, expected):
    with client_of(clips) as (client, _), ThreadPoolExecutor(CLIENTS) as pool:
        replies = list(pool.map(lambda path: ask(client, path), expected))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 10  # two at work, eight waiting
    for path, reply in zip(expected, replies):
        if reply.status_code == 200:
            assert answer(reply) == pytest.approx(expected[path], abs=1e-5)
    print(f"{statuses.count(200)} answered, {statuses.count(503)} refused")


def memory(pid: int) -> float:
    """MB of a process and those that it has started."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_info().rss for process in processes) / 1e6


def test_memory_is_flat_over_a_thousand_requests(clips, expected):
    paths = [*expected, clips / "bad.mp4"]
    wanted = [paths[i % len(paths)] for i in range(REQUESTS)]
    with client_of(clips) as (client, pid), ThreadPoolExecutor(4) as pool:
        first = list(pool.map(lambda path: ask(client, path).status_code, wanted[:WARM]))
        before = memory(pid)
        rest = list(pool.map(lambda path: ask(client, path).status_code, wanted[WARM:]))
        after = memory(pid)
    assert set(first + rest) == {200, 422}
    print(f"{before:.0f} MB after {WARM} requests, {after:.0f} MB after {REQUESTS}")
    assert after - before < MOST_GROWTH
