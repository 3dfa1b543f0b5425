"""Work in parts: rows as they come, a rerun that skips, shards that add up, and folders that are refused."""

import json
import subprocess
import sys

import pytest

from mdtnet.errors import ConfigError, DataError
from mdtnet.work import parts
from mdtnet.work.parts import Shard

NAMES = [f"class/{i:03}.mp4" for i in range(40)]
ABOUT = {"verb": "lengths"}


def lengths(names):
    for name in names:
        yield name, {"length": len(name), "list": [1, 2]}


def refuse(names):
    for name in names:
        raise AssertionError(f"{name} is computed again")
        yield name, {}


def test_rows_are_there_once_and_sorted(tmp_path):
    assert parts.do(reversed(NAMES), lengths, tmp_path, about=ABOUT) == 40
    rows = parts.merge(tmp_path)
    assert [row["name"] for row in rows] == NAMES
    assert rows[0] == {"name": "class/000.mp4", "length": 13, "list": [1, 2]}


def test_a_rerun_computes_what_is_missing_alone(tmp_path):
    def stops(names):
        yield from list(lengths(names))[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.do(NAMES, stops, tmp_path, about=ABOUT)
    with pytest.raises(DataError, match="not finished: shard 1 of 1"):
        parts.merge(tmp_path)
    asked = []
    done = []
    parts.do(
        NAMES,
        lambda names: asked.extend(names) or lengths(names),
        tmp_path,
        about=ABOUT,
        progress=lambda *at: done.append(at),
    )
    assert asked == NAMES[7:]
    assert done[0] == (7, 40)
    assert done[-1] == (40, 40)
    assert parts.do(NAMES, refuse, tmp_path, about=ABOUT) == 0


def test_a_line_cut_off_by_a_crash_is_computed_again(tmp_path):
    parts.do(NAMES, lengths, tmp_path, about=ABOUT)
    (part,) = tmp_path.glob("*.jsonl")
    content = part.read_bytes()
    for cut in (1, 5, 30):
        part.write_bytes(content[:-cut])
        assert parts.do(NAMES, lengths, tmp_path, about=ABOUT) == 1
        assert sorted(part.read_bytes().splitlines()) == sorted(content.splitlines())


def test_shards_divide_the_items_and_add_up(tmp_path):
    whole = tmp_path / "whole"
    parts.do(NAMES, lengths, whole, about=ABOUT)
    shards = [Shard.parse(f"{i}/3") for i in (1, 2, 3)]
    counts = [parts.do(NAMES, lengths, tmp_path / "parts", about=ABOUT, shard=shard) for shard in shards[:2]]
    with pytest.raises(DataError, match="not finished: shard 3 of 3"):
        parts.merge(tmp_path / "parts")
    counts.append(parts.do(NAMES, lengths, tmp_path / "parts", about=ABOUT, shard=shards[2]))
    assert sum(counts) == 40
    assert min(counts) > 5
    assert parts.merge(tmp_path / "parts") == parts.merge(whole)


def test_a_shard_is_the_same_on_every_machine():
    names = ("a.mp4", "b.mp4", "ünï.mp4", "x" * 300)
    assert [Shard(1, 4).holds(name) for name in names] == [True, True, True, False]
    assert sum(Shard(i, 7).holds("a.mp4") for i in range(1, 8)) == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", "", "1/9999999"])
def test_wrong_shards(text):
    with pytest.raises(ConfigError, match=r"expected NUMBER/COUNT"):
        Shard.parse(text)


def test_other_work_is_refused_and_the_difference_named(tmp_path):
    parts.do(NAMES, lengths, tmp_path, about={**ABOUT, "clips": 1})
    with pytest.raises(ConfigError, match="holds work with clips = 1, not 10"):
        parts.do(NAMES, lengths, tmp_path, about={**ABOUT, "clips": 10})
    with pytest.raises(DataError, match=r"no work\.json"):
        parts.merge(tmp_path / "elsewhere")


def test_work_that_is_divided_anew_keeps_what_is_done(tmp_path):
    parts.do(NAMES, lengths, tmp_path, about=ABOUT, shard=Shard(1, 2))
    asked = []
    parts.do(NAMES, lambda names: asked.extend(names) or lengths(names), tmp_path, about=ABOUT)
    assert sorted(asked) == [name for name in NAMES if Shard(2, 2).holds(name)]
    assert [row["name"] for row in parts.merge(tmp_path)] == NAMES
    assert parts.do(NAMES, refuse, tmp_path, about=ABOUT, shard=Shard(3, 3)) == 0


def test_rows_that_are_not_wanted_are_computed_again(tmp_path):
    def other(names):
        return ((name, {"length": 0}) for name in names)

    def wanted(row):
        return row["length"] == 13

    parts.do(NAMES, other, tmp_path, about=ABOUT, shard=Shard(1, 2))
    assert parts.do(NAMES, lengths, tmp_path, about=ABOUT, keep=wanted) == 40
    assert parts.do(NAMES, refuse, tmp_path, about=ABOUT, keep=wanted) == 0
    assert {row["length"] for row in parts.read_rows(tmp_path, keep=wanted).values()} == {13}


def test_errors_are_tried_again_and_never_replace_a_result(tmp_path):
    def fail(names):
        return ((name, {"length": None, "error": "not there"}) for name in names)

    one, all_ = Shard(2, 2), Shard(1, 1)  # the part of shard 2 of 2 is read after that of the whole
    parts.do(NAMES, fail, tmp_path, about=ABOUT, shard=one)
    assert {row["error"] for row in parts.read_rows(tmp_path).values()} == {"not there"}
    assert parts.do(NAMES, lengths, tmp_path, about=ABOUT, shard=all_) == 40
    assert parts.do(NAMES, refuse, tmp_path, about=ABOUT, shard=one) == 0
    assert not any("error" in row for row in parts.read_rows(tmp_path).values())


def test_items_without_a_row_are_not_passed_over(tmp_path):
    with pytest.raises(DataError, match="1 of 40 items have no row"):
        parts.do(NAMES, lambda names: list(lengths(names))[1:], tmp_path, about=ABOUT)
    with pytest.raises(DataError, match="not finished: shard 1 of 1"):
        parts.merge(tmp_path)


def test_two_processes_on_one_shard(tmp_path):
    script = """
import sys
from mdtnet.work import parts
def wait(names):
    for name in names:
        print("working", flush=True)
        sys.stdin.read()
        yield name, {}
parts.do(["a"], wait, sys.argv[1], about={"verb": "lengths"})
"""
    first = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout.readline() == b"working\n"
    with pytest.raises(ConfigError, match="another process is working on this shard"):
        parts.do(["a"], lengths, tmp_path, about=ABOUT)
    first.communicate(b"")
    assert first.returncode == 0
    assert parts.do(["a"], refuse, tmp_path, about=ABOUT) == 0


def test_damaged_parts_are_named(tmp_path):
    parts.do(NAMES, lengths, tmp_path, about=ABOUT)
    (part,) = tmp_path.glob("*.jsonl")
    part.write_bytes(b"[1]\n" + part.read_bytes())
    with pytest.raises(DataError, match=r"line 1: expected an object with a name"):
        parts.merge(tmp_path)
    part.write_bytes(b"\xff\xfe{\n")
    with pytest.raises(DataError, match=r"line 1: damaged"):
        parts.do(NAMES, lengths, tmp_path, about=ABOUT)


def test_an_item_given_twice(tmp_path):
    with pytest.raises(DataError, match="b: given twice"):
        parts.do(["a", "b", "b"], lengths, tmp_path, about=ABOUT)


def test_names_that_are_not_utf8(tmp_path):
    name = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
    parts.do([name], lengths, tmp_path, about=ABOUT)
    assert parts.merge(tmp_path)[0]["name"] == name
    assert parts.do([name], refuse, tmp_path, about=ABOUT) == 0


def test_tables(tmp_path):
    parts.do(NAMES[:2], lengths, tmp_path / "work", about=ABOUT)
    rows = parts.merge(tmp_path / "work")
    parts.write_table(rows, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "name,length,list",
        'class/000.mp4,13,"[1, 2]"',
        'class/001.mp4,13,"[1, 2]"',
    ]
    parts.write_table(rows, tmp_path / "t.jsonl")
    assert [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()] == rows
    with pytest.raises(ConfigError, match=r"expected \.csv or \.jsonl"):
        parts.write_table(rows, tmp_path / "t.xml")
