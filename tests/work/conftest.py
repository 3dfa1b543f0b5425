"""A Ray cluster of several nodes on this machine."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def cluster():
    """Two nodes of one CPU each beside a head without any, all on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    os.environ["PYTHONPATH"] = path  # of the nodes' processes
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    os.environ["RAY_ADDRESS"] = cluster.address
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    del os.environ["RAY_ADDRESS"]
