"""Configs as plain values: dict, YAML and command line, key by key, each one checked."""

import copy
import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from mdtnet.config import RunConfig
from mdtnet.errors import ConfigError, nearest


def to_dict(config: Any) -> dict[str, Any]:
    """A (nested) config as plain dicts, lists and numbers, fit for YAML and JSON."""
    return {
        f.name: to_dict(v) if dataclasses.is_dataclass(v) else list(v) if isinstance(v, tuple) else v
        for f in dataclasses.fields(config)
        for v in [getattr(config, f.name)]
    }


def from_dict(kind: type, values: Any, *, where: str = "config", prefix: str = "") -> Any:
    """Build a (nested) config dataclass of type `kind` from plain dicts, checking every key and value.

    Raises:
        ConfigError: an unknown key or a wrong value; the message names `where`, the key and the nearest right one.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix or 'the file'} must hold keys and values, not {values!r}")
    hints = typing.get_type_hints(kind)
    built = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise ConfigError(f"{where}: unknown key '{name}'{nearest(str(key), list(hints))}")
        if dataclasses.is_dataclass(hints[key]):
            built[key] = from_dict(hints[key], value, where=where, prefix=f"{name}.")
        else:
            built[key] = _checked(hints[key], value, where=f"{where}: {name}")
    return kind(**built)


def _checked(hint: Any, value: Any, *, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in args):  # True is not 1
            raise ConfigError(
                f"{where} is {value!r}, expected one of {', '.join(map(str, args))}{nearest(str(value), args)}"
            )
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r}, expected a list")
        return tuple(_checked(args[0], v, where=where) for v in value)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _checked(args[0], value, where=where)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            pass
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}, expected {hint.__name__}")
    return value


def load_yaml(path: str | Path, *, unversioned: int | None = None) -> RunConfig:
    """Read a run's YAML file: a user's, or one that a run has written.

    A file without `config_version` is of the version `unversioned`, or (None) of the current one.

    Raises:
        ConfigError: the file is missing, is not YAML, or has an unknown key or a wrong value.
    """
    return from_dict(RunConfig, read_config(path, unversioned=unversioned), where=str(path))


def read_config(path: str | Path, *, unversioned: int | None = None) -> dict[str, Any]:
    """The keys and values of a run's YAML file, of the current version; see `load_yaml`.

    Raises:
        ConfigError: the file is missing, is not YAML, or is of a newer version.
    """
    values = read_yaml(path)
    version = values.pop("config_version", CONFIG_VERSION if unversioned is None else unversioned)
    return upgraded(values, version, where=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
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
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {values!r}, expected keys and values")
    return values or {}


def save_yaml(config: RunConfig, path: str | Path) -> None:
    """Write `config` so that `load_yaml` gives it back, in later versions too."""
    values = {"config_version": CONFIG_VERSION, **to_dict(config)}
    Path(path).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, keys joined by dots."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def nested(values: Any, *, where: str) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`.

    Raises:
        ConfigError: `values` are not keys and values.
    """
    found: dict[str, Any] = {}
    if values is None:
        return found
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is {values!r}, expected keys and values")
    for key, value in values.items():
        *parents, last = str(key).split(".")
        inner = nested(value, where=where) if isinstance(value, dict) else value
        found = merged(found, _wrapped(parents, {last: inner}))
    return found


def _wrapped(parents: Sequence[str], values: dict[str, Any]) -> dict[str, Any]:
    for parent in reversed(parents):
        values = {parent: values}
    return values


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `over` in their place, mapping by mapping."""
    both = {
        k: merged(base[k], v) if isinstance(v, dict) and isinstance(base.get(k), dict) else v for k, v in over.items()
    }
    return base | both


# ---- versions -----------------------------------------------------------------------------------------

CONFIG_VERSION = 1
"""Goes up by one, with rows in the tables below, when an option gets another name or default, or is new."""
RENAMED: dict[int, dict[str, str]] = {}
"""Version -> name of an option before it, such as `model.mdtnet.causal`, and since."""
LACKED: dict[int, dict[str, Any]] = {}
"""Version -> options that are new in it or have a new default: what is computed with in older files that lack them."""


def upgraded(values: dict[str, Any], version: Any, *, where: str) -> dict[str, Any]:
    """Keys and values of a `RunConfig` that were written by `version`, with the names of today and nothing left to
    today's defaults that had others then.

    Raises:
        ConfigError: `version` is no version, or a newer one; the message names `where`.
    """
    if type(version) is not int or version < 1:
        raise ConfigError(f"{where}: config_version is {version!r}, expected 1 to {CONFIG_VERSION}")
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


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set an option that is not there; what is no mapping is left for `from_dict` to complain about."""
    *parents, last = key.split(".")
    holder = _holder(values, parents, make=True)
    if holder is not None:
        holder.setdefault(last, value)


def _holder(values: Any, parents: list[str], *, make: bool = False) -> dict[str, Any] | None:
    for name in parents:
        if not isinstance(values, dict) or (name not in values and not make):
            return None
        values = values.setdefault(name, {})
    return values if isinstance(values, dict) else None
