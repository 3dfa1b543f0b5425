"""A few mutated files of each kind; `make fuzz` tries more."""

import sys
from collections import Counter

import fuzz
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="memory is not measured there")


@pytest.mark.parametrize("kind", ["video", "frames", "list", "yaml", "cache"])
def test_mutated_files_are_read_right_or_refused_in_one_line(kind):
    counts, failures = fuzz.run(40, seed=3, kinds=(kind,))
    assert failures == []
    words = Counter({word: count for (_, word), count in counts.items()})
    assert words.total() == 40
    assert words["read"] + words["damaged"] >= 2  # not all are refused
    assert kind == "cache" or words["refused"] >= 5


def test_a_failure_is_seen(monkeypatch, tmp_path):
    given = fuzz.Input("video", 0, 0, str(tmp_path), str(tmp_path / "0"))
    for error, word in ((ValueError("x"), "FAILED: ValueError: x"), (fuzz.MdtnetError("a\nb"), "FAILED: message")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setitem(fuzz.TRIES, "video", fail)
        assert fuzz.attempt(given).startswith(word)
    monkeypatch.setitem(fuzz.TRIES, "video", lambda *_: "read")
    assert fuzz.attempt(given) == "read"
