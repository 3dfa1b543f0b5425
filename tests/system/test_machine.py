"""Freed memory stays with the process where the C library can be told so, and nothing happens elsewhere."""

import ctypes
import platform
import subprocess
import sys

import pytest

from mdtnet.system.machine import keep_freed_memory

PASSES = """
import resource, sys
import torch
from mdtnet.system.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
faults = []
for _ in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(8 << 20)  # 32 MiB
    y = (x + 1).relu_()
    del x, y
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[-1])
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PASSES, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc alone")
def test_pages_are_asked_for_once():
    assert faults("keep") < faults("not") / 4  # of the last pass


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
