"""Where items become rows: in processes of this machine, or by actors of a Ray cluster (the extra `[ray]`).

A job is a function of one item with one more method, `failed`: the row of an item whose process did not survive it. Job
and items are pickled; each process has a copy of the job, so what it loads is loaded once per process.
"""

import json
import logging
import os
import pickle
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol, TypeVar

from mdtnet.config import Values
from mdtnet.errors import ConfigError
from mdtnet.work.isolated import Failure, run_isolated

Engine = Literal["local", "ray"]
Item = TypeVar("Item", contravariant=True)
Any_ = TypeVar("Any_")

MOST_STARTS = 2
"""Times that an item is begun before it is given up: an item that ends its process would repeat for ever."""
TASKS_AHEAD = 2  # items that wait at an actor: back-pressure
MOST_BLOCKS = 10_000  # up to so many items a lost node costs those in work alone; of more, their block


class Job(Protocol[Item]):
    """An item -> its row."""

    def __call__(self, item: tuple[str, Item], /) -> Values: ...

    def failed(self, item: tuple[str, Item], reason: str, /) -> Values: ...


def in_processes(
    job: Job[Any_], items: Mapping[str, Any_], *, workers: int, timeout_seconds: float
) -> Iterator[tuple[str, Values]]:
    """Name and row of each item, in the order in which `workers` processes of this machine finish them.

    They share its cores. A crash, or more than `timeout_seconds`, costs one item.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    for item, row in run_isolated(job, items.items(), workers=workers, timeout_seconds=timeout_seconds):
        yield item[0], job.failed(item, row.detail) if isinstance(row, Failure) else row


def on_ray(
    job: Job[Any_], items: Mapping[str, Any_], *, workers: int, num_gpus: float = 0.0, places: tuple[str, ...] = ()
) -> Iterator[tuple[str, Values]]:
    """Name and row of each item, in the order in which `workers` actors of a Ray cluster finish them.

    The cluster is that of `RAY_ADDRESS`, else one that runs on this machine, else one that is started here. A lost node
    costs the items that it was working on, which are done again elsewhere; an item that ends its process `MOST_STARTS`
    times becomes a row with an error. `num_gpus` is each actor's share of a GPU.

    Raises:
        ConfigError: Ray is not installed, or a node does not see one of `places`, files or folders of this machine.
    """
    ray = connect()
    for place in places:
        check_seen(ray, place)
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    starts = ray.remote(_Starts).options(num_cpus=0, scheduling_strategy=here).remote()
    rows = [{"name": name, "item": pickle.dumps((name, item))} for name, item in items.items()]
    data = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
        _Actor,
        fn_constructor_args=(job, starts),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, max_tasks_in_flight_per_actor=TASKS_AHEAD),
        num_cpus=1,
        num_gpus=num_gpus or None,
    )
    for row in data.iter_rows():
        yield row["name"], json.loads(row["row"])


def connect() -> Any:
    """The module `ray`, connected to a cluster, quiet and without telemetry.

    Raises:
        ConfigError: it is not installed, or there is no cluster where RAY_ADDRESS says.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # telemetry; read when Ray is imported
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        import ray
        import ray.data
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise ConfigError("engine is 'ray', which is not installed: pip install 'mdtnet[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"no Ray cluster can be reached: {str(error).splitlines()[0]}") from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def check_seen(ray: Any, place: str) -> None:
    """Raise ConfigError where a node of the cluster does not have the file or folder `place`."""
    node_affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    look = ray.remote(_sees)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    asked = [look.options(num_cpus=0, scheduling_strategy=node_affinity(n, soft=False)).remote(place) for n in nodes]
    for host, seen in ray.get(asked):
        if not seen:
            raise ConfigError(
                f"{place}: not seen by node {host} of the Ray cluster: mount it there under the same path"
            )


def _sees(place: str) -> tuple[str, bool]:
    return socket.gethostname(), os.path.exists(place)


class _Starts:
    """How often each item was begun and not finished."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def begin(self, name: str) -> int:
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name]

    def end(self, name: str) -> None:
        self.counts.pop(name, None)


class _Actor:
    """A process of the cluster with its copy of the job."""

    def __init__(self, job: Job[Any], starts: Any) -> None:
        self.job, self.starts = job, starts

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """The row of the only item of a batch."""
        import ray

        item = pickle.loads(batch["item"][0])
        if ray.get(self.starts.begin.remote(item[0])) > MOST_STARTS:
            row = self.job.failed(item, f"ended its process, or its machine was lost, {MOST_STARTS} times")
        else:
            row = self.job(item)
        ray.get(self.starts.end.remote(item[0]))
        return {"name": [item[0]], "row": [json.dumps(row)]}
