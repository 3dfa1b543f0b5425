"""A study: systems x data x folds x seeds x variants, a grid of runs in one YAML file.

The file is read into `Spec`s, one a run; `study_results` has their results.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mdtnet.config import RunConfig, from_dict, nearest, read_yaml, to_dict
from mdtnet.data.synthetic import RENDERER_VERSION, RenderConfig
from mdtnet.errors import ConfigError
from mdtnet.models.build import System, reading_of
from mdtnet.runlog import flat

DEFAULT = "default"
NOT_HASHED = (
    *("out", "data.cache", "data.workers"),
    *("train.device", "train.trackers", "train.save_every", "train.val_every"),
    *("train.seed", "data.fold"),  # columns of their own
)
"""Options that do not change what a run of given seed and fold computes."""
PATHS = ("train", "val", "root", "classes")
"""Options of `data` that are files or folders."""
PARTS = {"model.mdtnet.": ("mdtnet1", "mdtnet2"), "model.saliency.": ("mdtnet2",)}
"""Options that only some systems look at."""

Keep = Literal["none", "last", "best", "all"]


@dataclass(frozen=True)
class StudyFile:
    """The keys of a study's YAML file."""

    out: str = ""
    """Folder of the runs, rendered videos and cached frames. Empty: `runs/studies/` and the file's name."""
    results: str = ""
    """Folder of `results.csv`, tables, plots and the page. Empty: `out`."""
    base: str = ""
    """YAML file of a run that every run starts from, relative to this file."""
    run: dict = field(default_factory=dict)
    """Options of every run, over those of `base`."""
    systems: tuple[System, ...] = ()
    """Systems to compare."""
    data: dict = field(default_factory=dict)
    """Name -> options of `data`; `render` makes a built-in set, `pairs` names classes that are time reversals."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of initialisation, order and augmentation."""
    variants: dict = field(default_factory=lambda: {DEFAULT: {}})
    """Name -> options of the run; `systems` limits a variant to some systems."""
    baseline: str = ""
    """System, or system/variant, that the others are compared with. Empty: the first system."""
    keep: Keep = "none"
    """Checkpoints that stay on disk after a run."""
    knock_out: bool = False
    """Test every run once more without each of its parts (`mdtnet test --without`): what a part is worth."""


@dataclass(frozen=True)
class DataSet:
    """An entry of `data`."""

    name: str
    options: dict[str, Any]
    """Options of `data`, nested, paths as written."""
    render: RenderConfig | None = None
    """The built-in set that is made for it."""
    pairs: tuple[tuple[str, str], ...] | None = None
    """Classes that are each other's time reversal; None: those of the built-in set."""


@dataclass(frozen=True)
class Spec:
    """A run of the grid."""

    system: str
    variant: str
    data: DataSet
    fold: int | None
    seed: int
    config: RunConfig
    """As the file asks for it: no `out`, paths as written."""

    @property
    def key(self) -> tuple[str, str, str, int | None, int]:
        """What names the run inside its study."""
        return self.system, self.variant, self.data.name, self.fold, self.seed

    @property
    def about(self) -> dict[str, Any]:
        """Everything that decides what a run's row says, beside seed and fold: flat, plain values."""
        values = flat(to_dict(self.config))
        ignored = tuple(part for part, systems in PARTS.items() if self.system not in systems)
        if reading_of(self.config.model) != "raw":  # then every system looks at them
            ignored = tuple(part for part in ignored if part != "model.saliency.")
        if self.data.render:
            values |= flat({"render": rendered(self.data.render)})
        if self.data.pairs is not None:
            values["pairs"] = [list(pair) for pair in self.data.pairs]
        kept = {k: v for k, v in values.items() if k not in NOT_HASHED and not k.startswith(ignored)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @property
    def hash(self) -> str:
        """Of `about`, 10 hexadecimal digits."""
        return hash_of(self.about)

    @property
    def name(self) -> str:
        """Its folder: data / system, variant, fold, seed and hash, but for `pairs`, which training does not know of."""
        trained = hash_of({key: value for key, value in self.about.items() if key != "pairs"})
        parts = [self.system, self.variant, f"fold{self.fold}", f"seed{self.seed}", trained]
        return f"{self.data.name}/" + "_".join(part for part in parts if part not in (DEFAULT, "foldNone"))

    def __str__(self) -> str:
        variant = "" if self.variant == DEFAULT else f" {self.variant}"
        fold = "" if self.fold is None else f" fold {self.fold}"
        return f"{self.system}{variant} on {self.data.name}{fold} seed {self.seed}"


@dataclass(frozen=True)
class Study:
    """A study as its file says it."""

    path: Path
    out: Path
    results: Path
    specs: tuple[Spec, ...]
    baseline: tuple[str, str]
    """System and variant."""
    keep: Keep = "none"
    knock_out: bool = False

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def rendered(render: RenderConfig) -> dict[str, Any]:
    """What decides the videos of a built-in set."""
    return {**asdict(render), "version": RENDERER_VERSION}


def hash_of(about: dict[str, Any]) -> str:
    """10 hexadecimal digits of plain values, whatever their order."""
    return hashlib.sha1(json.dumps(about, sort_keys=True).encode()).hexdigest()[:10]


# ---- the file -----------------------------------------------------------------------------------------


def load_study(path: str | Path) -> Study:
    """Read a study's file.

    Raises:
        ConfigError: the file or its base is missing or not YAML, or it has an unknown key or a wrong value.
    """
    path = Path(path)
    given: StudyFile = from_dict(StudyFile, read_yaml(path), where=str(path))
    if not given.systems or not given.data or not given.seeds or not given.variants:
        missing = next(key for key in ("systems", "data", "seeds", "variants") if not getattr(given, key))
        raise ConfigError(f"{path}: {missing} is empty, expected at least one")
    base = read_yaml(path.parent / given.base) if given.base else {}
    base = merged(base, nested(given.run, where=f"{path}: run"))
    sets = [_data_set(path, name, values) for name, values in given.data.items()]
    variants = {name: _variant(path, name, values, given.systems) for name, values in given.variants.items()}
    specs = tuple(
        spec
        for seed in given.seeds  # first: a study that is stopped has compared what it has
        for data in sets
        for name, (systems, overrides) in variants.items()
        for system in systems
        for spec in _folds(_spec(path, base, system, name, overrides, data, seed))
    )
    out = Path(given.out or f"runs/studies/{path.stem}")
    baseline = _baseline(path, given, specs)
    return Study(path, out, Path(given.results or out), specs, baseline, given.keep, given.knock_out)


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


def _data_set(path: Path, name: Any, values: Any) -> DataSet:
    where = f"{path}: data '{name}'"
    _check_name(where, str(name))
    options = nested(values, where=where)
    render, pairs = options.pop("render", None), options.pop("pairs", None)
    if render is not None:
        try:
            render = from_dict(RenderConfig, render, where=where, prefix="render.")
        except ConfigError as error:
            raise error if str(error).startswith(where) else ConfigError(f"{where}: render: {error}") from None
    if pairs is not None and not all(isinstance(p, list) and len(p) == 2 for p in pairs):
        raise ConfigError(f"{where}: pairs is {pairs!r}, expected a list of pairs of class names")
    return DataSet(str(name), options, render, None if pairs is None else tuple((a, b) for a, b in pairs))


def _check_name(where: str, name: str) -> None:
    if not name.replace("-", "_").replace(".", "_").isidentifier() or name in (".", ".."):
        raise ConfigError(f"{where}: names are made of letters, digits, '_', '-' and '.', and begin with a letter")


def _variant(path: Path, name: Any, values: Any, systems: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The systems of a variant, and its options."""
    where = f"{path}: variant '{name}'"
    _check_name(where, str(name))
    options = nested(values, where=where)
    own = options.pop("systems", list(systems))
    for system in own if isinstance(own, list) else [own]:
        if system not in systems:
            raise ConfigError(
                f"{where}: systems has {system!r}, expected some of {', '.join(systems)}{nearest(str(system), systems)}"
            )
    return tuple(own if isinstance(own, list) else [own]), options


def _spec(
    path: Path,
    base: dict[str, Any],
    system: str,
    variant: str,
    overrides: dict[str, Any],
    data: DataSet,
    seed: int,
) -> Spec:
    where = f"{path}: data '{data.name}', variant '{variant}'"
    values = merged(merged(base, {"data": data.options}), overrides)
    config: RunConfig = from_dict(RunConfig, values, where=where)
    if config.data.multi_label:
        raise ConfigError(f"{where}: data.multi_label is true, but studies compare top-1, of one label a video")
    if config.train.early_stopping:
        raise ConfigError(
            f"{where}: train.early_stopping is {config.train.early_stopping}, but last epochs are compared"
        )
    for key in (*PATHS, "folds") if data.render else ():
        if value := getattr(config.data, key):
            raise ConfigError(
                f"{where}: data.{key} is {value!r}, but the videos are rendered; expected one or the other"
            )
    if config.data.fold:
        fold = config.data.fold
        raise ConfigError(
            f"{where}: data.fold is {fold}, but a study runs every fold; --only fold={fold} runs that one"
        )
    train = replace(config.train, seed=seed, val_every=config.train.epochs, trackers=("csv",))
    return Spec(
        system=system,
        variant=variant,
        data=data,
        fold=None,
        seed=seed,
        config=replace(config, out="", train=train, model=replace(config.model, name=system)),  # type: ignore[arg-type]
    )


def _folds(spec: Spec) -> list[Spec]:
    """The run on every fold of its data, in place of one that has none yet."""
    data = spec.config.data
    parts = [replace(data, fold=fold) for fold in range(data.folds)]
    return [replace(spec, fold=part.fold, config=replace(spec.config, data=part)) for part in parts] or [spec]


def _baseline(path: Path, given: StudyFile, specs: Sequence[Spec]) -> tuple[str, str]:
    wanted = given.baseline or given.systems[0]
    known = list(dict.fromkeys((s.system, s.variant) for s in specs))
    names = [f"{system}/{variant}" for system, variant in known]
    if wanted in names:
        return known[names.index(wanted)]
    of_system = [pair for pair in known if pair[0] == wanted]
    if not of_system:
        choices = [*given.systems, *names]
        raise ConfigError(
            f"{path}: baseline is '{wanted}', expected one of {', '.join(choices)}{nearest(wanted, choices)}"
        )
    return (wanted, DEFAULT) if (wanted, DEFAULT) in of_system else of_system[0]


# ---- parts of the grid --------------------------------------------------------------------------------

FILTERS = ("system", "variant", "data", "seed", "fold")


def only(specs: Iterable[Spec], filters: Sequence[str]) -> list[Spec]:
    """The runs that all of the filters let through; a filter is such as `system=tsn,mdtnet2`.

    Raises:
        ConfigError: a filter of another form, or a value that no run has.
    """
    found = list(specs)
    for text in filters:
        key, _, values = text.partition("=")
        if key not in FILTERS or not values:
            raise ConfigError(f"--only: '{text}', expected {'=..., '.join(FILTERS)}=...{nearest(key, FILTERS)}")
        wanted = values.split(",")
        known = list(dict.fromkeys(_part(spec, key) for spec in specs))
        for value in wanted:
            if value not in known:
                raise ConfigError(
                    f"--only: {key} '{value}', expected some of {', '.join(known)}{nearest(value, known)}"
                )
        found = [spec for spec in found if _part(spec, key) in wanted]
    return found


def _part(spec: Spec, key: str) -> str:
    return spec.data.name if key == "data" else str(getattr(spec, key))
