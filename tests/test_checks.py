"""Numbers of a config in their ranges, and places that can be written to."""

import dataclasses
import math
import typing

import pytest

from mdtnet.checks import RANGES, check_config, check_ranges
from mdtnet.config import RunConfig
from mdtnet.config_file import PRESETS, from_dict, load_yaml, merged
from mdtnet.errors import ConfigError
from mdtnet.models.build import build_model
from mdtnet.study.grid import load_study
from mdtnet.system.files import check_file, make_folder

ELSEWHERE = {
    "data.fold",  # with `folds`, where the videos are split
    "model.mdtnet.dcme_kernels",  # together, where the network is built
    "model.mdtnet.dcme_dilations",
    "train.segments",
}


def numbers(kind: type, prefix: str = "") -> list[str]:
    """Keys of a config that are numbers or lists of numbers."""
    found = []
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            found += numbers(hint, f"{prefix}{name}.")
        elif hint in (int, float, tuple[int, ...], tuple[float, ...]):
            found.append(prefix + name)
    return found


def nested(key: str, value: object) -> dict:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def test_every_number_has_one_range():
    keys = [key for _, keys in RANGES.values() for key in keys.split()]
    assert sorted([*keys, *ELSEWHERE]) == sorted(numbers(RunConfig))


@pytest.mark.parametrize("text", ["9" * 5001, "1:" * 3000 + "1", "0x" + "f" * 9000, "9" * 30])
@pytest.mark.parametrize("key", ["data.num_segments", "train.lr", "train.seed"])
def test_numbers_of_any_length_are_one_line(tmp_path, key, text):
    part, name = key.split(".")
    (tmp_path / "run.yaml").write_text(f"{part}: {{{name}: {text}}}")
    if (key, text) == ("train.lr", "9" * 30):
        assert load_yaml(tmp_path / "run.yaml").train.lr == 1e30
        return
    with pytest.raises(ConfigError, match=r"run\.yaml") as error:
        load_yaml(tmp_path / "run.yaml")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.val_fraction", 20.0, "20, expected more than 0 and less than 1"),
        ("data.val_fraction", 0.0, "0, expected more than 0"),
        ("data.frame_stride", 0, "0, expected at least 1"),
        ("data.num_segments", 0, "0, expected at least 1"),
        ("data.randaugment", 40, "40, expected 0 to 30"),
        ("data.workers", -1, "-1, expected 0 or more"),
        ("model.dropout", 2.0, "2, expected 0 or more and less than 1"),
        ("model.mdtnet.reduction", 0, "0, expected at least 1"),
        ("model.saliency.quantile", 98.0, "98, expected 0 to 1"),
        ("model.saliency.frequency_weights", [1.0, -1.0], "[1, -1], expected 0 or more"),
        ("train.lr", -1.0, "-1, expected 0 or more"),
        ("train.lr", math.nan, "nan, expected 0 or more"),
        ("train.seed", -1, "-1, expected 0 to 4294967295"),
        ("train.clip_grad", -1.0, "-1, expected 0 (off) or more"),
        ("test.batch_size", 0, "0, expected at least 1"),
        ("model.mdtnet.key_frame", 5, "5, expected one of the 5 frames"),
        ("model.saliency.pool", 3, "3, expected an even number"),
    ],
)
def test_numbers_out_of_range_are_named(key, value, words):
    config = from_dict(RunConfig, merged({"model": {"input": "raw"}}, nested(key, value)))
    with pytest.raises(ConfigError) as found:
        check_config(config, processes=1)
    assert str(found.value).startswith(f"{key} is {words}")


def test_fewer_frames_need_another_key_frame():
    config = from_dict(RunConfig, nested("model.mdtnet.frames_per_segment", 3))
    with pytest.raises(ConfigError, match=r"model\.mdtnet\.key_frame is 3, expected one of the 3 frames"):
        build_model(config.model, num_classes=2)
    check_config(
        dataclasses.replace(config, model=dataclasses.replace(config.model, name="tsn")), processes=1
    )  # which has no key frame


def test_of_a_part_only_its_numbers_count():
    config = from_dict(RunConfig, {"train": {"lr": -1.0}, "model": {"saliency": {"floor": 2.0}}})
    check_ranges(config.data, part="data")
    check_ranges(config.test, part="test")
    with pytest.raises(ConfigError, match=r"model\.saliency\.floor is 2, expected 0 to 1"):
        check_ranges(config.model.saliency, part="model.saliency")


def test_what_is_shipped_is_in_range():
    configs = [load_yaml(path) for path in PRESETS.glob("configs/**/*.yaml")]
    studies = [load_study(path) for path in PRESETS.glob("studies/*.yaml")]
    assert len(configs) > 10
    assert len(studies) > 5
    for config in [RunConfig(), *configs, *(spec.config for study in studies for spec in study.specs)]:
        check_config(config, processes=1)


def test_places_that_cannot_be_written_to(tmp_path):
    make_folder(tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir())
    check_file(tmp_path / "new" / "file.json")
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match="folder cannot be created or written to"):
            make_folder(place)
    for place in (tmp_path, tmp_path / "none" / "file.json", tmp_path / "file" / "x.json"):
        with pytest.raises(ConfigError, match="cannot be written"):
            check_file(place)
