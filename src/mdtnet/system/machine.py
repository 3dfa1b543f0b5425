"""The machine a result was made on: versions, processor, commit; and the setting of its memory allocator."""

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from mdtnet import __version__

PACKAGES = ("mdtnet", "torch", "torchvision", "timm", "accelerate", "numpy", "av")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h; 2.31 takes no M_MMAP_THRESHOLD above 32 MiB
NEVER = -1


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    import torch

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            found[name] = "unknown"
    found["torch"] = str(torch.__version__)  # with the build, which the metadata leave out
    return found


def hardware() -> str:
    """The machine in words: processor, cores, accelerators."""
    import torch

    parts = [f"{processor()}, {os.cpu_count()} cores"]
    parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "; ".join(parts)


def processor() -> str:
    """The name of the processor, or of its architecture where the system does not say more."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of the repository that holds this package, with `-dirty` where the package was changed since.

    Empty without a repository, or where the package is not part of it (an installed one below a checkout).
    """
    package = Path(__file__).parent.parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(package), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        head, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--", str(package))
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("-dirty" if changed else "")


def describe_machine() -> dict[str, str | int | float | None]:
    """Date, commit, versions, processor, threads and load."""
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "mdtnet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": importlib.metadata.version("torchvision"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def keep_freed_memory() -> None:
    """Keep freed memory for the next pass, in this process from now on; nothing where the C library is not glibc.

    glibc gives large blocks back at once, and each pass of a network then waits for the system to clear the same pages
    again: a third of MobileNetV2's time on one core, a few percent of ResNet-50's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, NEVER)
