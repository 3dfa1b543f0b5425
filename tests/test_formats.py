"""Files as the first versions wrote them, as text: they are read, and those of a later version are refused.

Checkpoints and configs are in `test_old_checkpoints.py`, score tables in `test_protocols.py`.
"""

import json

import pytest

from mdtnet.errors import CheckpointError, ConfigError
from mdtnet.inference.description import Description
from mdtnet.work.parts import merge
from mdtnet.zoo.table import load_table

DESCRIPTION = """{"system": "tsn", "trunk": "resnet18", "precision": "float32", "classes": ["clap", "wave"],
"num_segments": 8, "frames_per_segment": 1, "frame_stride": 1, "sampling": "consecutive", "short_side": 256,
"size": 224, "fusion": "softmax", "format_version": 1}"""
TABLE = """{"version": 1, "checkpoints": [{"name": "mine-8f", "system": "mdtnet2", "trunk": "resnet50",
"data": "gestures", "labels": "gestures", "classes": 12, "segments": 8, "addresses": ["mine.safetensors"]}]}"""


def test_a_description_of_version_1():
    found = Description.from_json(DESCRIPTION, where="x.onnx")
    assert (found.classes, found.num_segments, found.exposure) == (("clap", "wave"), 8, "none")
    later = json.dumps(json.loads(DESCRIPTION) | {"format_version": 2})
    with pytest.raises(CheckpointError, match=r"x\.onnx: made by a newer mdtnet"):
        Description.from_json(later, where="x.onnx")


def test_a_table_of_checkpoints_of_version_1(tmp_path):
    path = tmp_path / "zoo.json"
    path.write_text(TABLE)
    (found,) = load_table(path)
    assert (found.name, found.classes, found.segments) == ("mine-8f", 12, 8)
    path.write_text(TABLE.replace('"version": 1', '"version": 2'))
    with pytest.raises(ConfigError, match="not a table of checkpoints of version 1"):
        load_table(path)


def test_a_folder_of_work_of_version_1(tmp_path):
    (tmp_path / "work.json").write_text('{"format_version": 1, "verb": "predict"}')
    (tmp_path / "part-001-of-001.jsonl").write_text('{"name": "b.mp4", "error": "gone"}\n{"name": "a.mp4", "x": 1}\n')
    (tmp_path / "part-001-of-001.done").write_text("2")
    assert merge(tmp_path) == [{"name": "a.mp4", "x": 1}, {"name": "b.mp4", "error": "gone"}]
