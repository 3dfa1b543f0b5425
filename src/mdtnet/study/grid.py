"""A study: systems x data x folds x seeds x variants, a grid of runs in one YAML file.

The file is read into `Spec`s, one per run; `results.py` has the rows of those that are finished.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from mdtnet.builtin.render import RENDERER_VERSION, RenderConfig
from mdtnet.config import SYSTEMS, Plain, RunConfig, System, Values
from mdtnet.config_file import find_preset, flat, from_dict, merged, nested, read_config, read_yaml, to_dict
from mdtnet.errors import ConfigError, nearest

DEFAULT = "default"
NOT_HASHED = (
    *("out", "data.cache", "data.workers", "data.decode_threads"),
    *("train.device", "train.trackers", "train.save_every", "train.val_every"),
    *("train.seed", "data.fold"),  # columns of their own
)
"""Options that do not change the result of a run of given seed and fold."""
PATHS = ("train", "val", "root", "classes")
"""Options of `data` that are files or folders."""
PARTS = tuple(dict.fromkeys(part for system in SYSTEMS.values() for part in system.parts))
"""Groups of `model` options that only some systems use."""

ENTRIES = {"systems": "system", "data": "data set", "seeds": "seed", "variants": "variant"}
"""Keys of a study's file that must not be empty, and the name of one entry."""

Keep = Literal["none", "last", "best", "all"]
"""A value that YAML and JSON can hold."""
RunKey = tuple[str, str, str, int | None, int]
"""System, variant, data set, fold and seed: they name a run inside its study."""
Pair = tuple[System, str]
"""System and variant."""


@dataclass(frozen=True)
class StudyFile:
    """The keys of a study's YAML file."""

    out: str = ""
    """Folder of the runs, rendered videos and cached frames. Empty: `runs/studies/` and the file's name."""
    results: str = ""
    """Folder of `results.csv`, tables, plots and the page. Empty: `out`."""
    base: str = ""
    """Config that every run starts from: a YAML file, relative to this one, or the name of a shipped config."""
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
    primary: tuple[str, ...] = ()
    """The one contrast that the study is made for: data set, system (or system/variant), and what it is compared with.
    P-values of all others are corrected for their number."""
    keep: Keep = "none"
    """Checkpoints that stay on disk after a run."""
    knock_out: bool = False
    """Test every run once more without each of its parts (`mdtnet test --without`): what a part is worth."""


@dataclass(frozen=True)
class DataSet:
    """An entry of `data`."""

    name: str
    options: Values
    """Options of `data`, nested, paths as written."""
    render: RenderConfig | None = None
    """How its videos are rendered; None: they are real ones."""
    pairs: tuple[tuple[str, str], ...] | None = None
    """Classes that are each other's time reversal; None: those of the built-in set."""


@dataclass(frozen=True)
class Spec:
    """A run of the grid."""

    system: System
    variant: str
    data: DataSet
    fold: int | None
    seed: int
    config: RunConfig
    """As the file asks for it: no `out`, paths as written."""

    @property
    def key(self) -> RunKey:
        """Its name inside the study."""
        return self.system, self.variant, self.data.name, self.fold, self.seed

    @property
    def about(self) -> Values:
        """Every option that decides the run's result, without seed and fold: flat, plain values."""
        values = flat(to_dict(self.config))
        ignored = tuple(f"model.{part}." for part in PARTS if part not in SYSTEMS[self.system].parts)
        if self.config.model.input != "raw":  # then every system looks at them
            ignored = tuple(part for part in ignored if part != "model.saliency.")
        if self.data.render:
            values |= flat({"render": render_options(self.data.render)})
        if self.data.pairs is not None:
            values["pairs"] = [list(pair) for pair in self.data.pairs]
        kept = {k: v for k, v in values.items() if k not in NOT_HASHED and not k.startswith(ignored)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}

    @property
    def hash(self) -> str:
        """Hash of `about`, 10 hexadecimal digits."""
        return hash_of(self.about)

    @property
    def name(self) -> str:
        """Folder name: data / system, variant, fold, seed and hash; the hash leaves out `pairs`, which do not affect
        training."""
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
    baseline: Pair
    keep: Keep = "none"
    primary: tuple[str, Pair, Pair] | None = None
    """Data set, system and variant, and those that they are compared with."""
    knock_out: bool = False

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def render_options(render: RenderConfig) -> Values:
    """All that decides the videos of a built-in set: its options and the renderer's version."""
    return {**asdict(render), "version": RENDERER_VERSION}


def hash_of(values: Values) -> str:
    """Hash of plain values, 10 hexadecimal digits, independent of their order."""
    return hashlib.sha1(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


# ---- the file -----------------------------------------------------------------------------------------


def load_study(path: str | Path) -> Study:
    """Read a study's file, or the shipped study of this name.

    Raises:
        ConfigError: the file or its base is missing or not YAML, or it has an unknown key or a wrong value.
    """
    path = find_preset("studies", path)
    given: StudyFile = from_dict(StudyFile, read_yaml(path), where=str(path))
    if not given.systems or not given.data or not given.seeds or not given.variants:
        missing = next(key for key in ENTRIES if not getattr(given, key))
        raise ConfigError(f"{path}: {missing} is empty: name at least one {ENTRIES[missing]}")
    base = read_config(find_preset("configs", given.base, folder=path.parent)) if given.base else {}
    base = merged(base, nested(given.run, where=f"{path}: run"))
    sets = [_data_set(path, str(name), values) for name, values in given.data.items()]
    variants = {name: _variant(path, str(name), values, given.systems) for name, values in given.variants.items()}
    specs = tuple(
        spec
        for seed in given.seeds  # outermost: a stopped study has compared all systems on the seeds that it reached
        for data in sets
        for name, (systems, overrides) in variants.items()
        for system in systems
        for spec in _folds(_spec(path, base, system, name, overrides, data, seed))
    )
    out = Path(given.out or f"runs/studies/{path.stem}")
    baseline = _pair(path, "baseline", given.baseline or given.systems[0], specs)
    primary = _primary(path, given.primary, specs) if given.primary else None
    return Study(path, out, Path(given.results or out), specs, baseline, given.keep, primary, given.knock_out)


def _data_set(path: Path, name: str, values: Plain) -> DataSet:
    where = f"{path}: data '{name}'"
    _check_name(where, name)
    options = nested(values, where=where)
    given, pairs = options.pop("render", None), options.pop("pairs", None)
    render = None
    if given is not None:
        try:
            render = from_dict(RenderConfig, given, where=where, prefix="render.")
        except ConfigError as error:
            raise error if str(error).startswith(where) else ConfigError(f"{where}: render: {error}") from None
    return DataSet(name, options, render, None if pairs is None else _class_pairs(pairs, where))


def _class_pairs(pairs: Plain, where: str) -> tuple[tuple[str, str], ...]:
    found = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ConfigError(f"{where}: pairs is {pairs!r}, expected a list of pairs of class names")
        found.append((str(pair[0]), str(pair[1])))
    return tuple(found)


def _check_name(where: str, name: str) -> None:
    if not name.replace("-", "_").replace(".", "_").isidentifier() or name in (".", ".."):
        raise ConfigError(f"{where}: names are made of letters, digits, '_', '-' and '.', and begin with a letter")


def _variant(path: Path, name: str, values: Plain, systems: Sequence[System]) -> tuple[tuple[System, ...], Values]:
    """The systems of a variant, and its options."""
    where = f"{path}: variant '{name}'"
    _check_name(where, name)
    options = nested(values, where=where)
    own = options.pop("systems", list(systems))
    named = own if isinstance(own, list) else [own]
    for system in named:
        if system not in systems:
            raise ConfigError(
                f"{where}: systems has {system!r}, expected some of {', '.join(systems)}{nearest(str(system), systems)}"
            )
    return tuple(system for name in named for system in systems if system == name), options


def _spec(
    path: Path,
    base: Values,
    system: System,
    variant: str,
    overrides: Values,
    data: DataSet,
    seed: int,
) -> Spec:
    where = f"{path}: data '{data.name}', variant '{variant}'"
    values = merged(merged(base, {"data": data.options}), overrides)
    config: RunConfig = from_dict(RunConfig, values, where=where)
    if config.data.multi_label:
        raise ConfigError(f"{where}: data.multi_label is true, but studies compare top-1, of one label per video")
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
        config=replace(config, out="", train=train, model=replace(config.model, name=system)),
    )


def _folds(spec: Spec) -> list[Spec]:
    """The run on every fold of its data; where there are no folds, the run itself."""
    data = spec.config.data
    parts = [replace(data, fold=fold) for fold in range(data.folds)]
    return [replace(spec, fold=part.fold, config=replace(spec.config, data=part)) for part in parts] or [spec]


def _pair(path: Path, key: str, wanted: str, specs: Sequence[Spec]) -> Pair:
    """System and variant that a name, SYSTEM or SYSTEM/VARIANT, stands for."""
    known = list(dict.fromkeys((s.system, s.variant) for s in specs))
    names = [f"{system}/{variant}" for system, variant in known]
    if wanted in names:
        return known[names.index(wanted)]
    of_system = [pair for pair in known if pair[0] == wanted]
    if not of_system:
        choices = [*dict.fromkeys(system for system, _ in known), *names]
        raise ConfigError(
            f"{path}: {key} is '{wanted}', expected one of {', '.join(choices)}{nearest(wanted, choices)}"
        )
    return next((pair for pair in of_system if pair[1] == DEFAULT), of_system[0])


def _primary(path: Path, words: Sequence[str], specs: Sequence[Spec]) -> tuple[str, Pair, Pair]:
    if len(words) != 3:
        raise ConfigError(f"{path}: primary is {list(words)}, expected a data set and two systems")
    sets = list(dict.fromkeys(spec.data.name for spec in specs))
    if words[0] not in sets:
        expected = f"one of {', '.join(sets)}{nearest(words[0], sets)}"
        raise ConfigError(f"{path}: primary has data set '{words[0]}', expected {expected}")
    return words[0], _pair(path, "primary", words[1], specs), _pair(path, "primary", words[2], specs)


# ---- parts of the grid --------------------------------------------------------------------------------

FILTERS = ("system", "variant", "data", "seed", "fold")


def only(specs: Iterable[Spec], filters: Sequence[str]) -> list[Spec]:
    """The runs that match all filters, for example `system=tsn,mdtnet2`.

    Raises:
        ConfigError: a filter that is not KEY=VALUE,..., or a value that no run has.
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
