"""The examples in `examples/deploy` predict what `mdtnet predict` does."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exports import make_checkpoint

from mdtnet.data.video import probe
from mdtnet.deploy.export import export
from mdtnet.deploy.exported import ExportedRecogniser
from mdtnet.inference.views import read_views

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"


def first_classes(*command: object) -> list[str]:
    """The classes that an example prints, best first, with their percentages."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def expected_classes(network: Path, video: Path) -> list[str]:
    best = ExportedRecogniser.load(network).predict(video)
    return [f"{100 * p:.1f}% {name}" for name, p in zip(best.classes, best.probabilities)][:5]


def test_the_python_example_predicts_the_same(onnx_file, videos):
    for name in ("left/a.mp4", "right/b.mp4"):
        printed = first_classes(sys.executable, EXAMPLES / "classify.py", onnx_file, videos / name)
        assert printed == expected_classes(onnx_file, videos / name)
    assert not {"torch", "mdtnet"} & set(
        re.findall(r"^(?:import|from) (\w+)", (EXAMPLES / "classify.py").read_text(), re.M)
    )


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"frame_stride": 3},
        {"sampling": "random"},
        {"fps": 7.0},
        {"num_segments": 30},
    ],
    ids=str,
)
def test_the_python_example_chooses_the_same_frames(rule, onnx_file, videos):
    example = runpy.run_path(str(EXAMPLES / "classify.py"))
    about = replace(ExportedRecogniser.load(onnx_file).description, **{"frames_per_segment": 5, **rule})
    for name in ("left/a.mp4", "right/b.mp4", "right/c.mp4"):
        found = example["clip"](str(videos / name), json.loads(about.to_json()))
        np.testing.assert_array_equal(found, read_views(videos / name, about)[0])


@pytest.mark.slow
def test_the_cpp_example_predicts_the_same(tmp_path, videos):
    """With headers of ONNX Runtime in `/usr/include/onnxruntime` or the like; the library is that of the wheel."""
    pytest.importorskip("onnxscript", reason="needs the extra 'export'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
    roots = [Path(root, name) for root in ("/usr/include", "/usr/local/include") for name in ("", "onnxruntime")]
    include = next((root for root in roots if (root / "onnxruntime_cxx_api.h").is_file()), None)
    json_header = any((root / "nlohmann" / "json.hpp").is_file() for root in roots)
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if not (include and json_header and library and shutil.which("g++")):
        pytest.skip("needs g++, the headers of ONNX Runtime and nlohmann/json, and ONNX Runtime as a shared library")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    program, network, frames = tmp_path / "classify", tmp_path / "best.onnx", tmp_path / "clip.rgb"
    flags = ["-std=c++17", "-Wall", "-Werror", "-isystem", include, "-L", tmp_path, "-lonnxruntime"]
    first_classes("g++", EXAMPLES / "classify.cpp", "-o", program, *flags, f"-Wl,-rpath,{tmp_path}")
    export(make_checkpoint(tmp_path / "best.pt", "mdtnet2"), format="onnx", out=network, clips=str(videos))
    about, video = ExportedRecogniser.load(network).description, videos / "left/a.mp4"
    count = probe(video).num_frames
    every = replace(about, num_segments=count, frames_per_segment=1)
    frames.write_bytes(read_views(video, every).tobytes())
    assert first_classes(program, network, frames) == expected_classes(network, video)
    assert first_classes(sys.executable, EXAMPLES / "classify.py", network, video) == expected_classes(network, video)
    frames.write_bytes(b"half a frame")
    done = subprocess.run([program, network, frames], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "expected RGB frames of 64 x 64 pixels" in done.stderr
