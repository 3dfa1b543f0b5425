"""What is written where: regular files replaced, links followed, pipes and devices written into."""

import os
import threading

import pytest

from mdtnet.errors import ConfigError
from mdtnet.system.files import LEFTOVER, atomic_write, check_file, make_folder, write_text


def test_links_are_followed_and_modes_kept(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.json", tmp_path / "link.json"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o600)
    assert os.listdir(tmp_path / "there") == ["a.json"]


def test_a_pipe_is_written_into_and_never_replaced(tmp_path):
    pipe, found = tmp_path / "pipe", []
    os.mkfifo(pipe)
    check_file(pipe)
    with pytest.raises(ConfigError, match="pipe: a pipe or socket that nobody reads"):
        write_text(pipe, "x")
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    while not found:  # until the reader has opened it
        try:
            write_text(pipe, "x" * 200_000)
            reader.join()
        except ConfigError:
            continue
    assert found == ["x" * 200_000]
    assert pipe.is_fifo()
    write_text("/dev/null", "x")
    assert not os.path.isfile("/dev/null")


def test_leftovers_of_killed_writes_go_and_files_being_written_stay(tmp_path):
    dead, mine = tmp_path / f".a.json.0a{LEFTOVER}", tmp_path / ".a.json.tmp"
    dead.write_text("half")
    mine.write_text("a user's own")

    def write(file):
        make_folder(tmp_path)
        file.write(b"whole")

    atomic_write(tmp_path / "b", write)
    assert (tmp_path / "b").read_text() == "whole"
    assert not dead.exists()
    assert mine.exists()
