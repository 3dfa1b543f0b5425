"""Files of named checkpoints: fetched from a server on this machine, checked, kept, or refused in one line."""

import hashlib
import json
import multiprocessing
import os
import shutil

import pytest
from zoo.loopback import write_table

from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.zoo.store import local_file, noted, obtain, steps_by_hand, store_folder
from mdtnet.zoo.table import entry_named, load_table

CONTENT = os.urandom(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def entry_of(tmp_path, *addresses, content=CONTENT, **more):
    (entry,) = load_table(write_table(tmp_path / "table.json", *addresses, content=content, **more))
    return entry


@pytest.fixture
def entry(server, store, tmp_path):
    server.files["/a.pth"] = CONTENT
    return entry_of(tmp_path, f"{server.address}/a.pth")


def test_a_file_is_fetched_once_and_noted(entry, server, store, caplog):
    caplog.set_level("INFO")
    seen = []
    path = obtain(entry, progress=lambda done, total: seen.append((done, total)))
    assert path == store / "a.pth" == local_file(entry)
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert "tsn-resnet18-mine-2f: MIT (its repository); trained on mine: terms not known here" in caplog.text
    note = noted(entry)
    assert (note.sha256, note.address) == (DIGEST, f"{server.address}/a.pth")
    assert obtain(entry) == path
    assert server.asked == [("/a.pth", None)]
    assert sorted(p.name for p in store.iterdir() if p.suffix != ".lock") == ["a.pth", "a.pth.json"]


def test_a_file_that_changed_is_refused(entry, store):
    entry = entry.__class__(**{**vars(entry), "sha256_prefix": ""})  # nothing is published of it
    path = obtain(entry)
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"a\.pth: changed since .*sha256 is .*, was .*; delete it and .*json"):
        obtain(entry)


def test_an_interrupted_download_goes_on(entry, server, store):
    server.cut = 5000
    assert obtain(entry).read_bytes() == CONTENT
    assert server.asked == [("/a.pth", None), ("/a.pth", "bytes=5000-")]


def test_a_download_that_was_killed_goes_on_in_the_next_process(entry, server, store, monkeypatch):
    monkeypatch.setattr("mdtnet.fetch.TRIES", 1)
    server.cut = 5000
    with pytest.raises(CheckpointError, match="ended after 5000 of 300000 bytes"):
        obtain(entry)
    assert local_file(entry) is None
    assert obtain(entry).read_bytes() == CONTENT
    assert server.asked[-1] == ("/a.pth", "bytes=5000-")
    assert not list(store.glob("*.part"))


def test_a_server_that_cannot_go_on_sends_the_whole_file(entry, server, store):
    server.ranges, server.cut = False, 5000
    assert obtain(entry).read_bytes() == CONTENT


def test_a_wrong_digest_leaves_nothing_and_says_so(entry, server, store):
    server.files["/a.pth"] = b"another file"
    with pytest.raises(CheckpointError, match=rf"sha256 begins with \w+, expected {DIGEST[:8]}: another file"):
        obtain(entry)
    assert not list(store.glob("a.pth")) + list(store.glob("*.part"))


def test_the_next_address_is_tried(server, store, tmp_path):
    server.files |= {"/mirror/a.pth": CONTENT, "/damaged/a.pth": b"another file"}
    places = ("none", "damaged", "mirror")
    entry = entry_of(tmp_path, *(f"{server.address}/{place}/a.pth" for place in places))
    assert obtain(entry).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == [f"/{place}/a.pth" for place in places]
    assert noted(entry).address == f"{server.address}/mirror/a.pth"


def test_a_web_page_is_no_file(entry, server, store):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(CheckpointError, match="answers with a web page instead of a file"):
        obtain(entry)
    assert len(server.asked) == 1


def test_a_slow_server_is_given_up(entry, server, store, monkeypatch):
    monkeypatch.setattr("mdtnet.fetch.TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr("mdtnet.fetch.TRIES", 2)
    server.pause = 0.5
    with pytest.raises(CheckpointError, match="timed out"):
        obtain(entry)
    assert len(server.asked) == 2


def test_no_server_says_what_to_do_by_hand(store, tmp_path, monkeypatch):
    monkeypatch.setattr("mdtnet.fetch.TRIES", 1)
    entry = entry_of(tmp_path, "http://127.0.0.1:9/a.pth", "ftp://127.0.0.1/a.pth", "file:///etc/passwd")
    with pytest.raises(CheckpointError) as caught:
        obtain(entry)
    text = str(caught.value)
    assert text.startswith("tsn-resnet18-mine-2f: cannot be downloaded (http://127.0.0.1:9/a.pth: ")
    assert "file:///etc/passwd: expected an address with http or https" in text
    assert text.endswith(f"; fetch http://127.0.0.1:9/a.pth; put it at {store}/a.pth")
    assert "\n" not in text


def test_offline_nothing_is_asked(entry, server, store, monkeypatch):
    monkeypatch.setenv("MDTNET_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"not on this disk, and offline .*put it at"):
        obtain(entry)
    assert server.asked == []
    store.mkdir(parents=True)
    (store / "a.pth").write_bytes(CONTENT)
    assert obtain(entry) == store / "a.pth"
    assert noted(entry).address == str(store / "a.pth")  # put there by hand, and noted all the same


def test_a_wrong_file_that_was_put_there_by_hand_is_refused(entry, store):
    store.mkdir(parents=True)
    (store / "a.pth").write_bytes(b"another file")
    with pytest.raises(CheckpointError, match=r"a\.pth: sha256 begins with .*: delete it to fetch it again"):
        obtain(entry)


def _obtain(entry, results):
    results.put(obtain(entry).read_bytes() == CONTENT)


def test_two_processes_at_once_fetch_once(entry, server, store):
    server.pause = 0.3
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_obtain, args=(entry, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True, True]
    for process in processes:
        process.join()
    assert server.asked == [("/a.pth", None)]


def test_a_mirror_is_asked_alone(entry, server, store, tmp_path, monkeypatch):
    server.files["/zoo/a.pth"] = CONTENT
    monkeypatch.setenv("MDTNET_ZOO", f"{server.address}/zoo/")
    assert obtain(entry).read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/zoo/a.pth"]
    shutil.rmtree(store)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.pth").write_bytes(CONTENT)
    monkeypatch.setenv("MDTNET_ZOO", str(tmp_path / "folder"))
    assert obtain(entry) == tmp_path / "folder" / "a.pth"  # where it is; only its digest is noted
    assert noted(entry).sha256 == DIGEST
    assert len(server.asked) == 1


def test_files_beside_an_own_table_are_used_where_they_are(store, tmp_path):
    entry = entry_of(tmp_path, "weights/a.pth")
    with pytest.raises(CheckpointError, match=r"weights/a\.pth: no such file"):
        obtain(entry)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pth").write_bytes(CONTENT)
    assert obtain(entry) == tmp_path / "weights" / "a.pth"


def test_a_damaged_note_is_one_line(entry, store):
    obtain(entry)
    (store / "a.pth.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"a\.pth\.json: cannot be read; delete it"):
        obtain(entry)
    (store / "a.pth.json").write_text(json.dumps({"sha256": DIGEST}))
    with pytest.raises(CheckpointError, match="cannot be read"):
        obtain(entry)


def test_a_store_that_cannot_be_written_into_is_one_line(entry, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MDTNET_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="no folder that can be written into"):
        obtain(entry)


def test_what_is_fetched_by_hand_comes_with_all_steps(store):
    entry = entry_named("tdn-resnet50-sthv1-8f")
    with pytest.raises(CheckpointError, match=r"cannot be fetched automatically; open https://.* put that file at"):
        obtain(entry)
    assert len(steps_by_hand(entry)) == 4
    assert any("gdown --folder" in step for step in steps_by_hand(entry))
    store.mkdir(parents=True)
    (store / "tdn-resnet50-sthv1-8f.pth").write_bytes(CONTENT)
    assert obtain(entry) == store / "tdn-resnet50-sthv1-8f.pth"


@pytest.mark.parametrize(
    ("platform", "variable", "folder"),
    [
        ("linux", "XDG_CACHE_HOME", "mdtnet/zoo"),
        ("win32", "LOCALAPPDATA", "mdtnet/zoo"),
        ("darwin", "HOME", "Library/Caches/mdtnet/zoo"),
    ],
)
def test_the_store_is_in_the_platforms_cache(platform, variable, folder, tmp_path, monkeypatch):
    monkeypatch.delenv("MDTNET_HOME", raising=False)
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert store_folder() == tmp_path / folder
