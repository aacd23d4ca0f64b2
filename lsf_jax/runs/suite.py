"""Suites: several systems on the same environments through one protocol, each a run folder of its own.

A suite is a YAML file (those shipped are in configs/suite). Running it again continues what was stopped, skips what is
finished, and extends what has been given a larger budget since.

A system is an algorithm with what is its own, a variant something that is changed for all of them, such as how long
exploration falls:

    env: {smax/3m: [train.env_steps=1000000], smax/8m: [train.env_steps=2000000]}  # or a name, or a list of names
    presets: [pymarl]
    overrides: [train.seeds=4]
    variants: {short: [algo.epsilon_anneal=50000], long: [algo.epsilon_anneal=1000000]}
    algorithms:
      qmix: []
      lsf_sac: [algo.alpha=0.3]
      qmix_wide: {algo: qmix, presets: [wide], overrides: [algo.hidden=256], variants: [long]}

The variants of a system may be lines 'name: [overrides]' too: what is its own in each. Later words win: where_known,
the suite's overrides, the environment's, the variant's, the system's, the system's in that variant.
"""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lsf_jax.config import yaml12
from lsf_jax.config.composition import Config, compose
from lsf_jax.config.files import config_files, source_of, text_of
from lsf_jax.registry import ALGO, plugins
from lsf_jax.runs import ensuring, experiment
from lsf_jax.runs.sweeps.cluster import Cluster
from lsf_jax.settings import ConfigError, nearest, user_path

KEYS = ("env", "train", "presets", "overrides", "where_known", "variants", "algorithms")
SYSTEM_KEYS = ("algo", "presets", "overrides", "variants")
ALL = ""
"""The variant of a suite without variants."""

Words = tuple[str, ...]
"""Overrides, or names."""


class System(NamedTuple):
    """One entry under `algorithms`: an algorithm with what is its own."""

    algo: str
    presets: Words = ()  # after the suite's
    overrides: Words = ()  # after the suite's and the variant's
    variants: dict[str, Words] = {}  # in which it takes part -> what is its own there; empty: in all  # noqa: RUF012


class Suite(NamedTuple):
    """What a suite file says."""

    name: str
    envs: dict[str, Words]  # name -> overrides there
    train: str
    presets: Words
    overrides: Words  # for every system
    where_known: Words  # for every system that has the key
    variants: dict[str, Words]  # name -> overrides; never empty
    algorithms: dict[str, System]  # by label
    config_dirs: tuple[str | Path, ...] = ()  # folders of the user's own that hold what it names


class Member(NamedTuple):
    """One run of a suite."""

    label: str  # of the system
    algo: str
    env: str
    variant: str  # `ALL` where the suite has none
    config: Config  # with the run's folder in train.run_dir and train.name

    @property
    def path(self) -> Path:
        """The run's folder."""
        return user_path("train.run_dir", self.config.train.run_dir) / self.config.train.name


def read_suite(name: str, config_dirs: Sequence[str | Path] = ()) -> Suite:
    """A suite by the name of a file in suite/, or by the path of a file of the same form.

    Args:
      name: the file's name without ".yaml", or its path.
      config_dirs: folders of configurations of the user's own, as in `compose`; what the suite names is looked for
        there too.

    Raises:
      ConfigError: there is no such suite, or the file is not one.
    """
    named = config_files("suite", config_dirs)
    if name in named:
        path, source = named[name], source_of(named[name])
    elif name.endswith((".yaml", ".yml")):
        path, source = Path(name), name
    else:
        raise ConfigError(f"unknown suite {name!r}{nearest(name, named)}, or give the path of a .yaml file")
    content = yaml12.parse(text_of(path), source)
    for key in content:
        if key not in KEYS:
            raise ConfigError(f"unknown key {key}{nearest(key, KEYS)} (in {source})")
    variants = _named_words(content.get("variants") or {ALL: []}, "variants", source)
    return Suite(
        name=path.stem,
        envs=_envs(content.get("env"), source),
        train=str(content.get("train", "default")),
        presets=_words(content.get("presets"), "presets", source),
        overrides=_words(content.get("overrides"), "overrides", source),
        where_known=_words(content.get("where_known"), "where_known", source),
        variants=variants,
        algorithms=_systems(content.get("algorithms"), variants, source),
        config_dirs=tuple(config_dirs),
    )


def _envs(value: Any, source: str) -> dict[str, Words]:
    if not value:
        raise ConfigError(f"env is missing; expected the name of an environment or a list of names (in {source})")
    if isinstance(value, dict):
        return _named_words(value, "env", source)
    return dict.fromkeys(_words(value, "env", source), ())


def _systems(value: Any, variants: Iterable[str], source: str) -> dict[str, System]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"algorithms is {yaml12.shorten(value)}; expected lines 'name: [overrides]' (in {source})")
    return {label: _system(label, each, tuple(variants), source) for label, each in value.items()}


def _system(label: str, value: Any, variants: Words, source: str) -> System:
    if "/" in label:
        raise ConfigError(f"algorithms {label} holds a '/'; expected the name of a folder (in {source})")
    if not isinstance(value, dict):
        return System(algo=label, overrides=_words(value, f"algorithms {label}", source))
    for key in value:
        if key not in SYSTEM_KEYS:
            raise ConfigError(f"unknown key algorithms {label} {key}{nearest(key, SYSTEM_KEYS)} (in {source})")
    where = f"algorithms {label}"
    part = value.get("variants") or {}
    own = part if isinstance(part, dict) else dict.fromkeys(_words(part, f"{where} variants", source))
    for name in own:
        if name not in variants:
            raise ConfigError(f"{where} has variant {name!r}{nearest(name, variants)} (in {source})")
    return System(
        algo=str(value.get("algo", label)),
        presets=_words(value.get("presets"), f"{where} presets", source),
        overrides=_words(value.get("overrides"), f"{where} overrides", source),
        variants=_named_words(own, f"{where} variants", source),
    )


def _named_words(value: Any, key: str, source: str) -> dict[str, Words]:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} is {yaml12.shorten(value)}; expected lines 'name: [overrides]' (in {source})")
    return {name: _words(words, f"{key} {name}", source) for name, words in value.items()}


def _words(value: Any, key: str, source: str) -> Words:
    listed = [value] if isinstance(value, str) else value or []
    if not isinstance(listed, list) or not all(isinstance(word, str) for word in listed):
        raise ConfigError(f"{key} is {yaml12.shorten(value)}; expected a list of text (in {source})")
    return tuple(listed)


def members(
    suite: Suite,
    folder: str | Path,
    *,
    algorithms: Sequence[str] = (),
    envs: Sequence[str] = (),
    variants: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> list[Member]:
    """The runs of a suite, environment by environment: `folder/ENV/LABEL`, with variants `folder/ENV/VARIANT/LABEL`.

    Args:
      suite: what to run.
      folder: folder of all its runs.
      algorithms: labels of systems; take only these; empty takes all. Algorithms of plug-ins need not be in the suite.
      envs: take only these; empty takes all.
      variants: take only these; empty takes all.
      overrides: laid over everything that the suite says, for every system.

    Raises:
      ConfigError: a name is not in the suite, or a configuration is wrong.
    """
    theirs = {name: System(algo=name) for name in algorithms if name in plugins.added(ALGO)}
    suite = suite._replace(algorithms=theirs | suite.algorithms)
    chosen = _chosen("algorithm", algorithms, suite.algorithms)
    known = {algo: _known_words(suite, algo) for algo in {suite.algorithms[label].algo for label in chosen}}
    made = []
    for place in itertools.product(
        _chosen("env", envs, suite.envs), _chosen("variant", variants, suite.variants), chosen
    ):
        system = suite.algorithms[place[2]]
        if not system.variants or place[1] in system.variants:
            made.append(_member(suite, Path(folder), place, [*known[system.algo], *suite.overrides], overrides))
    return made


def _chosen(what: str, asked: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    known = tuple(known)
    for name in asked:
        if name not in known:
            raise ConfigError(f"{what} {name!r} is not in the suite{nearest(name, known)}")
    return tuple(name for name in known if not asked or name in asked)


def _member(
    suite: Suite, folder: Path, place: tuple[str, str, str], shared: Sequence[str], overrides: Sequence[str]
) -> Member:
    env, variant, label = place
    system = suite.algorithms[label]
    where = [f"train.run_dir={folder / env / variant}", f"train.name={label}"]
    try:
        there = [*suite.envs[env], *suite.variants[variant], *system.overrides, *system.variants.get(variant, ())]
        config = compose(
            algo=system.algo,
            env=env,
            train=suite.train,
            presets=(*suite.presets, *system.presets),
            overrides=[*shared, *there, *overrides, *where],
            config_dirs=suite.config_dirs,
        )
    except ConfigError as error:
        raise ConfigError(f"{error} (suite {suite.name}, {label} on {env})") from None
    return Member(label=label, algo=system.algo, env=env, variant=variant, config=config)


def _known_words(suite: Suite, algo: str) -> list[str]:
    """Of the words `where_known` those whose key an algorithm has."""
    if not suite.where_known:
        return []
    keys = vars(compose(algo=algo, config_dirs=suite.config_dirs).algo)
    return [word for word in suite.where_known if word.partition("=")[0].removeprefix("algo.") in keys]


def is_finished(member: Member) -> bool:
    """Whether a run of exactly this configuration has brought every block to its budget."""
    return ensuring.is_finished(member.path, member.config)


def run_member(member: Member, cluster: Cluster | None = None) -> experiment.Result | None:
    """Train, continue or extend one run of a suite; None if nothing was left to do.

    Args:
      member: the run.
      cluster: where its blocks are trained; None trains on this machine.

    Raises:
      ConfigError: its folder holds a run of another configuration.
    """
    return ensuring.ensure(member.path, member.config, cluster=cluster)
