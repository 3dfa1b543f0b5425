"""Shared fixtures: where the reference data lies (skipped with a reason where it does not)."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the networks here are tiny: threads that wait for each other cost more than they bring
REFERENCE = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout: real clips, odd files, golden values, weights."""
    if not REFERENCE.is_dir():
        pytest.skip("the reference data (../shared) is not here")
    return REFERENCE


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """Output with names that are no UTF-8 can be sent from a process of `--numprocesses` to the one that reports."""
    report = yield
    report.sections = [(title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections]
    return report
