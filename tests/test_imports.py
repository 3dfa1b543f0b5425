"""Who may import whom: rooms on floors, downwards only, no circle inside a room, and what must stay free of torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import tiny

import mdtnet
from mdtnet.checkpoint import save_checkpoint

PACKAGE = Path(mdtnet.__file__).parent
FLOORS = [
    {"__main__"},
    {"cli"},
    {"study"},
    {"demo", "doctor", "measure", "live_video", "serve", "timelines"},
    {"live"},
    {"pages", "deploy"},
    {"training", "inference"},
    {"evaluation", "calibration", "convert", "hub"},
    {"checkpoint"},
    {"data", "models"},
    {"zoo"},
    {"checks", "metrics", "scores", "builtin", "work"},
    {"config_file"},
    {"config", "system"},
    {"errors", "__init__"},
]
"""Top to bottom: rooms (folders, or files of the package's root). A room imports from the floors below its own."""

ON_THE_GROUND = {("scores", "metrics")}
"""Imports between rooms of one floor that are meant."""

TORCH_FREE = [
    *("errors", "config", "config_file", "checks", "metrics", "scores"),
    *("system.files", "system.machine", "system.terminal"),
    *("builtin.render", "data.video", "data.segments", "data.exposure", "data.labels", "data.annotations"),
    *("data.decoders", "data.splits", "data.official", "data.prepare", "data.check", "data.info", "data.suffixes"),
    *(
        "inference.prediction",
        "inference.sources",
        "inference.description",
        "inference.views",
        "inference.resize",
        "data.retries",
        "data.stream",
        "data.annotation_tools",
        "data.background",
        "inference.windows",
        "inference.timeline",
        "inference.timeline_files",
        "inference.localisation",
    ),
    *("deploy.exported", "deploy.formats", "deploy.load", "deploy.runtime"),
    *("study.grid", "study.results", "study.stats"),
    "doctor",
    *("live", "live_video", "timelines"),
    *("serve.limits", "serve.reading"),
    *("work.parts", "training.run_folder", "pages.report", "pages.charts", "pages.page"),
    *("zoo.fetch", "zoo.table", "zoo.store", "zoo.find"),
    *sorted(f"cli.{path.stem}" for path in (PACKAGE / "cli").glob("[a-z]*.py")),
]
HEAVY = ("torch", "torchvision", "timm", "accelerate", "matplotlib", "huggingface_hub", "onnxruntime")


def modules() -> dict[str, Path]:
    paths = PACKAGE.rglob("*.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in paths}


def imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mdtnet":
            inside = node.module.removeprefix("mdtnet").lstrip(".")
            names = {f"{inside}.{a.name}".lstrip(".") for a in node.names} & set(modules())
            found |= names or {inside or "__init__"}
    return found


def room(module: str) -> str:
    return module.split(".")[0]


def test_every_room_has_its_floor():
    assert {room(module) for module in modules()} == set().union(*FLOORS)


def test_imports_go_downwards():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{module} imports {other}"
        for module, path in modules().items()
        for other in imports(path)
        if module != "__init__"  # its names are imported when they are used
        and room(module) != room(other)
        and floor[room(other)] <= floor[room(module)]
        and (room(module), room(other)) not in ON_THE_GROUND
    ]
    assert wrong == []


def test_no_circles_inside_a_room():
    graph = {module: imports(path) for module, path in modules().items() if module != "__init__"}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_names_come_from_the_file_that_defines_them():
    empty = [path for path in PACKAGE.glob("*/__init__.py") if path.read_text().strip()]
    assert empty == []


@pytest.fixture(scope="module")
def heavy_imports() -> dict[str, list[str]]:
    """Module -> heavy packages that were loaded once it was imported, in one fresh process."""
    code = f"""
import importlib, json, sys
found = {{}}
for module in {TORCH_FREE!r}:
    importlib.import_module("mdtnet." + module)
    found[module] = [name for name in {HEAVY!r} if name in sys.modules]
print(json.dumps(found))
"""
    import json

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_the_ground_is_free_of_torch(module, heavy_imports):
    assert heavy_imports[module] == []


def loaded_by(code: str) -> set[str]:
    """Heavy packages that a fresh process has loaded after `code`."""
    code += f"; import sys; print(*(name for name in {(*HEAVY, 'torch._dynamo')!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_prediction_imports_what_it_uses(tmp_path):
    """A checkpoint on a ResNet is predicted with torch alone; torchvision and timm come with the trunks of theirs."""
    video = tmp_path / "x.mp4"
    tiny.write_video(video, np.zeros((8, 32, 40, 3), np.uint8))
    config = tiny.config(tmp_path, tmp_path, model={"name": "mdtnet2"})
    model = mdtnet.build_model(config.model, num_classes=2)
    save_checkpoint(tmp_path / "x.pt", model=model, config=config, classes=["a", "b"])
    found = loaded_by(f"import mdtnet; mdtnet.Recogniser.load({str(tmp_path / 'x.pt')!r}).predict({str(video)!r})")
    assert found <= {"torch", "huggingface_hub"}


def test_import_is_quick():
    """`import mdtnet` alone must not import torch."""
    code = "import sys, mdtnet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
