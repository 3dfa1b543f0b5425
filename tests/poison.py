"""A job that can kill its process, or take a while; imports little, so that a new process is quick to start."""

import os
import signal
import time


class Poison:
    """Texts in capitals."""

    def __call__(self, item):
        _, text = item
        if text == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "slow":
            time.sleep(1)
        return {"text": text.upper(), "error": ""}

    def failed(self, item, reason):
        return {"error": reason}
