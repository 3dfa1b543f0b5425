"""The door of the package: public names, their types, and nothing that is loaded before it is used."""

import ast
import inspect
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import mdtnet
from mdtnet.errors import MdtnetError

SOURCE = ast.parse(Path(mdtnet.__file__).read_text())
KINDS = {
    "load": "def (path: str | pathlib.Path, *, device: str =) -> mdtnet.inference.recogniser.Recogniser | "
    "mdtnet.deploy.exported.ExportedRecogniser",
    "Recogniser.load": "def (checkpoint: str | pathlib.Path, *, device: str =) -> "
    "mdtnet.inference.recogniser.Recogniser",
    "ExportedRecogniser.load": "def (path: str | pathlib.Path, *, threads: int =) -> "
    "mdtnet.deploy.exported.ExportedRecogniser",
    "Prediction('', (), (), 0.0).classes": "tuple[str, ...]",
    "train": "-> mdtnet.training.loop.TrainResult",
    "evaluate_checkpoint": "def (checkpoint: str | pathlib.Path, *, data: str, out: str | pathlib.Path",
    "export": "-> mdtnet.deploy.export.Exported",
    "build_model": "def (config: mdtnet.config.ModelConfig, *, num_classes: int) -> mdtnet.models.network.Network",
    "load_model": "-> mdtnet.models.network.Network",
    "RunConfig().train.epochs": "int",
    "DataConfig().train": "str",
    "ModelConfig().trunk": "Literal['resnet18'] | Literal['resnet34'] |",
    "TrainConfig().lr": "float",
    "EvalConfig().crops": "Literal[1, 3]",
    "VideoError('a', 'b').reason": "str",
    "Interrupted(2, '').exit_code": "int",
}


def test_every_public_name_is_listed_and_there():
    assert set(mdtnet.__all__) <= set(dir(mdtnet))
    for name in mdtnet.__all__:
        found = getattr(mdtnet, name)
        if name != "__version__":
            assert found.__name__ == name
            assert found.__module__ == mdtnet._PUBLIC[name]  # no detours
            assert inspect.getdoc(found), name
    with pytest.raises(AttributeError, match="no attribute 'recogniser'"):
        mdtnet.recogniser  # noqa: B018


def test_the_reference_has_every_public_name():
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name, module in mdtnet._PUBLIC.items() if f":: {module}.{name}\n" not in page] == []


def test_type_checkers_see_the_same_names():
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == mdtnet._PUBLIC


def test_every_mistake_of_a_user_is_public():
    def below(kind: type) -> set[type]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    kinds = {kind for kind in below(MdtnetError) if not kind.__module__.startswith(("mdtnet.study", "mdtnet.serve"))}
    assert {kind.__name__ for kind in kinds} <= set(mdtnet.__all__)


def test_help_shows_every_public_name():
    text = pydoc.plain(pydoc.render_doc(mdtnet))
    missing = [name for name in mdtnet.__all__ if name not in text]
    assert missing == []


def test_names_without_torch_load_none():
    names = ["Prediction", "Predictor", "ExportedRecogniser", "load", "RunConfig", "EvalConfig", "VideoError"]
    code = f"import sys, mdtnet; [getattr(mdtnet, name) for name in {names}]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_types_are_real(tmp_path):
    """What a user's type checker makes of the public names, and of one that is not there."""
    pytest.importorskip("mypy", reason="needs the extra 'dev'")
    lines = ["import mdtnet", *(f"reveal_type(mdtnet.{name})" for name in KINDS), "mdtnet.Recognizer"]
    (tmp_path / "user.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "mypy", "--strict", "--ignore-missing-imports", "--follow-imports=silent"]
    done = subprocess.run([*command, "user.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    found = done.stdout.splitlines()
    for line, (name, kind) in zip(found, KINDS.items()):
        assert "Revealed type is" in line, line
        assert kind in line, name
        assert "Any" not in line.replace("dict[str, Any]", ""), line
    assert 'Module has no attribute "Recognizer"' in found[len(KINDS)]
