"""The examination of a machine: what is found, the cause of what is broken in one line, the exit code."""

import importlib.metadata
import json
import re
import shutil
import sys
from types import ModuleType, SimpleNamespace

import pytest

from mdtnet import doctor
from mdtnet.cli.main import main
from mdtnet.data.decoders import root_cause, why_torchcodec_fails
from mdtnet.doctor import examine, plain, requirements

TOPICS = ["versions", "devices", "decoders", "extras", "system", "self-test"]


def found(topic: str) -> dict[str, doctor.Finding]:
    """Findings of one topic by name."""
    return {finding.name: finding for finding in examine() if finding.topic == topic}


def without_self_test(monkeypatch) -> None:
    monkeypatch.setattr(doctor, "_self_test", lambda: iter(()))


def test_this_machine_is_well(capsys):
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert list(dict.fromkeys(one["topic"] for one in report["findings"])) == TOPICS
    states = {(one["topic"], one["name"]): one["state"] for one in report["findings"]}
    for step in ("render", "decode", "classify"):
        assert states["self-test", step] == "ok"
    assert states["decoders", "pyav"] == "ok"


def test_it_is_readable_as_text(capsys, monkeypatch):
    without_self_test(monkeypatch)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  ok +torch +\d", out, re.MULTILINE)
    assert "nothing failed" in out


def test_a_broken_step_is_named_and_the_exit_code_says_so(capsys, monkeypatch):
    def refuse(frames, *, fps):
        raise OSError("no encoder\nof this kind")

    monkeypatch.setattr("mdtnet.builtin.render.encode", refuse)
    assert main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert re.search(r"failed +render +OSError: no encoder$", out, re.MULTILINE)
    assert "classify" not in out, "nothing is tested that needs what failed"
    assert "1 failed" in out


def test_other_frames_than_were_written_fail(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    doctor._render(path)
    monkeypatch.setattr("mdtnet.builtin.render.render_clip", lambda *a, **k: 0)
    with pytest.raises(AttributeError):
        doctor._decode(path)
    monkeypatch.undo()
    from mdtnet.builtin.render import render_clip

    monkeypatch.setattr("mdtnet.builtin.render.render_clip", lambda *a, **k: 255 - render_clip(*a, **k))
    with pytest.raises(ValueError, match="not those that were written"):
        doctor._decode(path)


def test_what_breaks_in_the_examination_is_a_finding(monkeypatch):
    without_self_test(monkeypatch)

    def broken():
        raise AttributeError("module has no attribute 'cuda'")
        yield

    broken.__name__ = "_devices"
    monkeypatch.setattr(doctor, "_devices", broken)
    (finding,) = found("devices").values()
    assert (finding.state, finding.detail) == ("failed", "AttributeError: module has no attribute 'cuda'")
    assert plain([finding])["ok"] is False


def asking_for(monkeypatch, *texts: str) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(texts))
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: SimpleNamespace(get_all=lambda key: ["export"]))
    monkeypatch.setattr(doctor, "_is_installed", lambda: True)
    without_self_test(monkeypatch)


def test_packages_that_are_missing_or_too_old_are_failures_only_where_mdtnet_needs_them(monkeypatch):
    asking_for(monkeypatch, "numpy>=999", "pillow", "nobody-has-this>=2; extra == 'export'")
    versions = found("versions")
    assert versions["numpy"].state == "failed"
    assert re.fullmatch(r"[\d.]+, needs >=999: pip install --upgrade 'numpy>=999'", versions["numpy"].detail)
    assert versions["pillow"].state == "ok"
    extra = found("extras")["export"]
    assert extra.state == "missing"
    assert extra.detail == "nobody-has-this not installed: pip install 'mdtnet[export]'"


def test_extras_of_extras_are_followed(monkeypatch):
    asking_for(
        monkeypatch, "numpy", "mdtnet[export]; extra == 'int8'", "onnx; extra == 'export'", "av; extra == 'int8'"
    )
    assert [one.name for one in requirements()] == ["numpy"]
    assert [one.name for one in requirements("int8")] == ["onnx", "av"]


def test_little_shared_memory_is_a_warning(monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(total=2**26, free=2**26))
    finding = doctor._shared_memory(doctor.Path("/"))
    assert finding.state == "warning"
    assert "0.06 of 0.06 GiB free" in finding.detail
    assert "--shm-size" in finding.detail


# ---- torchcodec: its message has a part per version of FFmpeg


def message(*causes: str) -> str:
    parts = [
        f"FFmpeg version {9 - i}:\nTraceback (most recent call last):\nOSError: {cause}\n\nThe above exception ...\n"
        "OSError: Could not load this library: /x/libtorchcodec_core.so\n"
        for i, cause in enumerate(causes)
    ]
    return "Could not load libtorchcodec. Likely causes:\n 1. FFmpeg\n" + "\n".join(parts)


def missing(version: int) -> str:
    return f"libavutil.so.{version}: cannot open shared object file: No such file or directory"


def test_missing_ffmpeg_is_the_cause_where_every_version_of_it_is_missing():
    assert root_cause(message(missing(61), missing(60))) == (
        "FFmpeg's shared libraries are not installed (libavutil.so.61, libavutil.so.60 not found)"
    )


def test_the_error_of_the_ffmpeg_that_is_there_is_the_cause():
    symbol = "/x/libtorchcodec_core8.so: undefined symbol: _ZN3c10"
    assert root_cause(message(missing(61), symbol, missing(59))) == symbol


def test_other_messages_give_their_first_line():
    assert root_cause("Could not load it\nfor reasons") == "Could not load it"
    assert root_cause("") == "does not load"


def test_a_decoder_that_fails_at_its_first_file_does_not_load(monkeypatch):
    def refuse(source):
        raise RuntimeError(message(missing(61)))

    module = ModuleType("torchcodec.decoders")
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    module.VideoDecoder = refuse
    assert why_torchcodec_fails().startswith("FFmpeg's shared libraries are not installed")
    without_self_test(monkeypatch)
    assert found("decoders")["torchcodec"].state == "warning"

    def refuse_this_file(source):
        raise ValueError("no video in 0 bytes")

    module.VideoDecoder = refuse_this_file
    assert why_torchcodec_fails() == ""
