"""A store and a server of each test's own."""

import pytest
from zoo.loopback import serve


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder of downloaded files."""
    monkeypatch.setenv("MDTNET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MDTNET_ZOO", raising=False)
    monkeypatch.setenv("MDTNET_OFFLINE", "")
    return tmp_path / "home" / "zoo"


@pytest.fixture
def server(monkeypatch):
    """A server on this machine; attempts follow each other at once."""
    monkeypatch.setattr("mdtnet.fetch.PAUSE_SECONDS", 0.0)
    server = serve()
    yield server
    server.shutdown()
    server.server_close()
