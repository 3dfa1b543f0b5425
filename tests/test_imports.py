"""The import direction of the package: upwards only, no cycles, no sideways import that is not listed."""

import ast
from pathlib import Path

import mdtnet

PACKAGE = Path(mdtnet.__file__).parent
LAYERS = [
    {"__main__"},
    {"cli"},
    {"cli_data", "cli_bench", "cli_study", "cli_pictures", "cli_options"},
    {"demo", "study_report"},
    {"study_run"},
    {"report", "explain", "bench", "map_bench"},
    {"training", "inference", "convert", "export"},
    {"evaluation", "recipe", "cost", "pictures", "hub", "study_stats"},
    {"study_results"},
    {"study"},
    {"runlog"},
    {"checkpoint"},
    {"config", "data.dataset"},
    {"models.build", "data.transforms", "graph"},
    {"deployed"},
    {"prediction"},
    {"models.pretrained", "gates"},
    {"models.tsn", "models.tsm", "models.tea", "models.tdn", "models.mdtnet"},
    {"models.folding"},
    {"models.temporal", "models.consensus", "models.reading"},
    {"data.prepare", "data.check", "data.info"},
    {"data.official", "data.folds"},
    {"data.annotations"},
    {"models.trunk", "models.deform", "data.video", "data.segments", "data.synthetic"},
    {"data.drawing"},
    {"data.backdrop"},
    {"data.canvas"},
    {"data.download", "data.isolated", "data.scene"},
    {"data.movers", "data.labels", "data.exposure", "saliency", "metrics", "charts", "models.renames", "memory"},
    {"checks"},
    {"errors", "__init__", "data.__init__", "models.__init__"},
]
"""Top to bottom: a module imports from the layers below its own."""

SIDEWAYS = {
    ("models.tsm", "models.tsn"),
    ("models.tea", "models.tsn"),
    ("data.dataset", "config"),
}
"""Imports inside a layer that are meant."""


def modules() -> dict[str, Path]:
    paths = PACKAGE.rglob("*.py")
    return {".".join(p.relative_to(PACKAGE).with_suffix("").parts): p for p in paths}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mdtnet":
            inside = node.module.removeprefix("mdtnet").lstrip(".")
            names = {f"{inside}.{a.name}".lstrip(".") for a in node.names} & set(modules())
            found |= names or {inside or "__init__"}
    return found


def test_every_module_has_its_layer():
    listed = set().union(*LAYERS)
    assert set(modules()) == listed


def test_imports_go_downwards():
    layer = {name: i for i, names in enumerate(LAYERS) for name in names}
    wrong = [
        f"{name} imports {other}"
        for name, path in modules().items()
        for other in imports(path)
        if layer[other] < layer[name] or (layer[other] == layer[name] and (name, other) not in SIDEWAYS)
    ]
    assert wrong == []


def test_models_never_import_data():
    assert not [n for n, p in modules().items() if n.startswith("models.") and any("data" in i for i in imports(p))]


def test_import_is_quick():
    """`import mdtnet` alone must not import torch."""
    import subprocess
    import sys

    code = "import sys, mdtnet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
