"""Configs as plain values: dict, YAML and command line, key by key, each one checked."""

import copy
import dataclasses
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from mdtnet.config import Plain, RunConfig, Values
from mdtnet.errors import ConfigError, nearest, shorten
from mdtnet.system.files import write_text

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MOST = 2**63  # of whole numbers: what memory, files and other languages hold
Config = TypeVar("Config", bound="DataclassInstance")


def to_dict(config: "DataclassInstance") -> Values:
    """A (nested) config as plain dicts, lists and numbers, fit for YAML and JSON."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def _plain(value: Any) -> Plain:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def from_dict(kind: type[Config], values: Plain, *, where: str = "config", prefix: str = "") -> Config:
    """Build a (nested) config dataclass of type `kind` from plain dicts, checking every key and value.

    Raises:
        ConfigError: an unknown key or a wrong value; the message names `where`, the key and the nearest right one.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix or 'the file'} must hold keys and values, not {_said(values)}")
    hints = typing.get_type_hints(kind)
    built = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            hint = nearest(name, [f"{prefix}{known}" for known in hints])
            raise ConfigError(f"{where}: unknown key '{shorten(name, 100)}'{hint}")
        if dataclasses.is_dataclass(hints[key]):
            built[key] = from_dict(hints[key], value, where=where, prefix=f"{name}.")
        else:
            built[key] = checked(hints[key], value, where=f"{where}: {name}")
    return kind(**built)


def checked(hint: Any, value: Any, *, where: str) -> Any:
    """A plain value, seen to be of the kind that a type hint says: a plain type, Literal, tuple, list, dict, TypedDict
    (of which keys may be missing), or any of these or None.

    Raises:
        ConfigError: it is another; the message names `where`, the value and what was expected.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if typing.is_typeddict(hint):
        hints, value = typing.get_type_hints(hint), checked(dict, value, where=where)
        return {k: checked(hints[k], v, where=f"{where}: {k}") if k in hints else v for k, v in value.items()}
    if origin is dict:
        value, kind = checked(dict, value, where=where), args[1]
        return value if kind is Any else {k: checked(kind, v, where=f"{where}: {k}") for k, v in value.items()}
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in args):  # True is not 1
            raise ConfigError(
                f"{where} is {_said(value)}, expected one of {', '.join(map(str, args))}{nearest(str(value), args)}"
            )
        return value
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {_said(value)}, expected a list")
        return origin(checked(args[0], v, where=where) for v in value)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else checked(args[0], value, where=where)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except (ValueError, OverflowError):
            pass
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where} is {_said(value)}, expected {hint.__name__}")
    if isinstance(value, int) and abs(value) >= MOST:
        raise ConfigError(f"{where} is {_said(value)}, expected a number below 2^63")
    return value


def load_yaml(path: str | Path, *, unversioned: int | None = None) -> RunConfig:
    """Read a run's YAML file: a user's, one that a run has written, or the shipped config of this name.

    A file without `config_version` is of the version `unversioned`, or (None) of the current one.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key or a wrong value.
    """
    return from_dict(RunConfig, read_config(path, unversioned=unversioned), where=str(path))


def read_config(path: str | Path, *, unversioned: int | None = None) -> Values:
    """The keys and values of a run's YAML file, of the current version; see `load_yaml`.

    Raises:
        ConfigError: the file is missing, is not YAML, or is of a newer version.
    """
    path = find_preset("configs", path)
    values = read_yaml(path)
    version = values.pop("config_version", CONFIG_VERSION if unversioned is None else unversioned)
    return upgraded(values, version, where=str(path))


PRESETS = Path(__file__).parent / "presets"
"""Folders `configs` and `studies`: the YAML files that are shipped."""


def find_preset(kind: Literal["configs", "studies"], name: str | Path, *, folder: str | Path = "") -> Path:
    """The file `name`, which a relative path seeks in `folder`; else the shipped one, such as `ucf101/mdtnet2`.

    Raises:
        ConfigError: there is neither; the message has the nearest shipped name.
    """
    path = Path(folder, name)
    if path.exists() and not path.is_dir():
        return path
    shipped = PRESETS / kind
    known = {file.relative_to(shipped).with_suffix("").as_posix(): file for file in sorted(shipped.rglob("*.yaml"))}
    wanted = Path(name).as_posix().removesuffix(".yaml")
    if wanted in known:
        return known[wanted]
    reason = "is a folder" if path.is_dir() else "cannot be read: no such file"
    what = {"configs": "config", "studies": "study"}[kind]
    raise ConfigError(f"{path}: {reason}, nor a shipped {what} of this name{nearest(wanted, known)}")


def read_yaml(path: str | Path) -> Values:
    """The keys and values of a YAML file; none of an empty one.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds anything else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(_not_yaml(path, error)) from error
    except ValueError as error:  # of a number of thousands of digits
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {_said(values)}, expected keys and values")
    return values or {}


def _not_yaml(path: str | Path, error: yaml.YAMLError) -> str:
    """The line and the problem, without PyYAML's picture of the place."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        problem = re.sub(r", but (?:got|found) .*", "", error.problem)
        return f"{path}, line {error.problem_mark.line + 1}: not YAML: {problem}"
    return f"{path}: not YAML: {' '.join(str(error).split())}"


def save_yaml(config: RunConfig, path: str | Path) -> None:
    """Write `config` so that `load_yaml` gives it back, in later versions too."""
    values = {"config_version": CONFIG_VERSION, **to_dict(config)}
    write_text(path, yaml.safe_dump(values, sort_keys=False))


def flat(values: Values, prefix: str = "") -> Values:
    """Nested dicts as one, keys joined by dots."""
    found: Values = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def nested(values: Plain, *, where: str) -> Values:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`.

    Raises:
        ConfigError: `values` are not keys and values.
    """
    found: Values = {}
    if values is None:
        return found
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {_said(values)}, expected keys and values")
    for key, value in values.items():
        *parents, last = str(key).split(".")
        inner = nested(value, where=where) if isinstance(value, dict) else value
        found = merged(found, _wrapped(parents, {last: inner}))
    return found


def _wrapped(parents: Sequence[str], values: Values) -> Values:
    for parent in reversed(parents):
        values = {parent: values}
    return values


def merged(base: Values, over: Values) -> Values:
    """`base` with the values of `over` in their place, mapping by mapping."""
    both = dict(base)
    for key, value in over.items():
        old = base.get(key)
        both[key] = merged(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return both


# ---- versions -----------------------------------------------------------------------------------------

CONFIG_VERSION = 3
"""Goes up by one, with rows in the tables below, when an option gets another name or default, or is new."""
RENAMED: dict[int, dict[str, str]] = {}
"""Version -> name of an option before it, such as `model.mdtnet.causal`, and since."""
LACKED: dict[int, Values] = {
    2: {
        "model.mdtnet.fine_start": 1.0,
        "model.mdtnet.fine_stage1": False,
        "model.mdtnet.spatial_difference": "none",
        "model.mdtnet.gate_start": 0.0,
        "model.mdtnet.dcme_reach": 0.0,
        "model.saliency.normalise": "segment",
        "train.decay_norms": True,
        "train.offset_lr": 1.0,
    },
    3: {"model.mdtnet.excite_counts": "blocks"},
}
"""Version -> options that are new in it or have a new default: what is computed with in older files that lack them."""


def upgraded(values: Values, version: Plain, *, where: str) -> Values:
    """Keys and values of a `RunConfig` that were written by `version`, with the names of today and nothing left to
    today's defaults that had others then.

    Raises:
        ConfigError: `version` is no version, or a newer one; the message names `where`.
    """
    if type(version) is not int or version < 1:
        raise ConfigError(f"{where}: config_version is {_said(version)}, expected 1 to {CONFIG_VERSION}")
    if version > CONFIG_VERSION:
        raise ConfigError(
            f"{where}: config_version {version}, but this mdtnet reads up to {CONFIG_VERSION}: update mdtnet"
        )
    values = copy.deepcopy(values)
    for later in range(version + 1, CONFIG_VERSION + 1):
        for old, new in RENAMED.get(later, {}).items():
            *parents, last = old.split(".")
            holder = _holder(values, parents)
            if holder is not None and last in holder:
                _put(values, new, holder.pop(last))
        for key, value in LACKED.get(later, {}).items():
            _put(values, key, value)
    return values


def _put(values: Values, key: str, value: Plain) -> None:
    """Set an option that is not there; what is no mapping is left for `from_dict` to complain about."""
    *parents, last = key.split(".")
    holder = _holder(values, parents, make=True)
    if holder is not None:
        holder.setdefault(last, value)


def _holder(values: Plain, parents: list[str], *, make: bool = False) -> Values | None:
    for name in parents:
        if not isinstance(values, dict) or (name not in values and not make):
            return None
        values = values.setdefault(name, {})
    return values if isinstance(values, dict) else None


def _said(value: Any) -> str:
    """A value as a message shows it."""
    try:
        return shorten(repr(value), 300)
    except ValueError:  # Python does not write numbers of more than some thousand digits
        return "a number of thousands of digits"
