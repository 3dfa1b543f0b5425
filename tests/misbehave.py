"""What a decoder can do to its process; imports little, so that a new process is quick to start."""

import os
import signal
import time


def misbehave(item: str) -> str:
    """The item in capitals, unless it names something worse."""
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(3)
    if item == "hang":
        time.sleep(600)
    return item.upper()
