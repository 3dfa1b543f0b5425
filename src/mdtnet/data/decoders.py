"""Decoders beside PyAV: whether they load, and if not, the root cause in one line."""

import importlib
import re

TORCHCODEC = "torchcodec"
MISSING_LIBRARY = re.compile(r"(?:lib)?(?:av|sw)[a-z]+[.\w-]*: cannot open shared object file")


def why_torchcodec_fails() -> str:
    """The reason why torchcodec cannot be used here, or nothing where it can.

    It imports without FFmpeg's libraries and looks for them with the first file, here an empty one. Its message then
    has one part per version of FFmpeg that it tried.
    """
    try:
        decoders = importlib.import_module("torchcodec.decoders")
        decoders.VideoDecoder(b"")
    except ModuleNotFoundError as error:
        return "not installed" if error.name == TORCHCODEC else str(error)
    except (ImportError, OSError) as error:
        return root_cause(str(error))
    except (RuntimeError, ValueError) as error:  # an empty file is refused by what does load
        return root_cause(str(error)) if "load" in str(error) else ""
    return ""


def root_cause(message: str) -> str:
    """One line of torchcodec's message: an error other than FFmpeg's missing libraries, of the newest FFmpeg, else
    which libraries those are."""
    causes = re.findall(r"^ *(?:OSError|ImportError|RuntimeError): (.+)$", message, re.MULTILINE)
    causes = [cause for cause in causes if not cause.startswith("Could not load this library")]
    others = [cause for cause in causes if not MISSING_LIBRARY.search(cause)]
    if others:
        return others[0].strip()
    if causes:
        names = [cause.split(":")[0] for cause in causes]
        return f"FFmpeg's shared libraries are not installed ({', '.join(names)} not found)"
    return message.strip().splitlines()[0] if message.strip() else "does not load"
