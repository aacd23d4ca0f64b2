"""Suites: several algorithms on the same environments through one protocol, each a run folder of its own.

A suite is a YAML file (those shipped are in configs/suite). Running it again continues what was stopped, skips what is
finished, and extends what has been given a larger budget since.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lsf_jax.config import yaml12
from lsf_jax.config.composition import Config, compose
from lsf_jax.config.files import config_files, source_of, text_of
from lsf_jax.registry import ALGO, plugins
from lsf_jax.runs import checkpoint, experiment
from lsf_jax.runs.folder import CONFIG, read_run
from lsf_jax.settings import ConfigError, nearest, user_path

KEYS = ("env", "train", "presets", "overrides", "where_known", "algorithms")


class Suite(NamedTuple):
    """What a suite file says."""

    name: str
    envs: tuple[str, ...]
    train: str
    presets: tuple[str, ...]
    overrides: tuple[str, ...]  # for every algorithm
    where_known: tuple[str, ...]  # for every algorithm that has the key
    algorithms: dict[str, tuple[str, ...]]  # name -> overrides of its own
    config_dirs: tuple[str | Path, ...] = ()  # folders of the user's own that hold what it names


class Member(NamedTuple):
    """One run of a suite."""

    algo: str
    env: str
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
    algorithms = content.get("algorithms")
    if not isinstance(algorithms, dict) or not algorithms:
        raise ConfigError(
            f"algorithms is {yaml12.shorten(algorithms)}; expected lines 'name: [overrides]' (in {source})"
        )
    envs = _words(content.get("env"), "env", source)
    if not envs:
        raise ConfigError(f"env is missing; expected the name of an environment or a list of names (in {source})")
    return Suite(
        name=path.stem,
        envs=envs,
        train=str(content.get("train", "default")),
        presets=_words(content.get("presets"), "presets", source),
        overrides=_words(content.get("overrides"), "overrides", source),
        where_known=_words(content.get("where_known"), "where_known", source),
        algorithms={str(key): _words(value, f"algorithms {key}", source) for key, value in algorithms.items()},
        config_dirs=tuple(config_dirs),
    )


def _words(value: Any, key: str, source: str) -> tuple[str, ...]:
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
    overrides: Sequence[str] = (),
) -> list[Member]:
    """The runs of a suite, environment by environment: `folder/ENV/ALGORITHM`.

    Args:
      suite: what to run.
      folder: folder of all its runs.
      algorithms: take only these; empty takes all. Those of plug-ins need not be in the suite.
      envs: take only these; empty takes all.
      overrides: laid over everything that the suite says, for every algorithm.

    Raises:
      ConfigError: a name is not in the suite, or a configuration is wrong.
    """
    theirs = {name: () for name in algorithms if name in plugins.added(ALGO)}
    suite = suite._replace(algorithms=theirs | suite.algorithms)
    chosen_algorithms = _chosen("algorithm", algorithms, suite.algorithms)
    chosen_envs = _chosen("env", envs, suite.envs)
    return [_member(suite, Path(folder), algo, env, overrides) for env in chosen_envs for algo in chosen_algorithms]


def _chosen(what: str, asked: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    known = tuple(known)
    for name in asked:
        if name not in known:
            raise ConfigError(f"{what} {name!r} is not in the suite{nearest(name, known)}")
    return tuple(name for name in known if not asked or name in asked)


def _member(suite: Suite, folder: Path, algo: str, env: str, overrides: Sequence[str]) -> Member:
    place = [f"train.run_dir={folder / env}", f"train.name={algo}"]
    try:
        keys = vars(compose(algo=algo, env=env, config_dirs=suite.config_dirs).algo)
        known = [word for word in suite.where_known if word.partition("=")[0].removeprefix("algo.") in keys]
        words = [*known, *suite.overrides, *suite.algorithms[algo], *overrides, *place]
        config = compose(
            algo=algo,
            env=env,
            train=suite.train,
            presets=suite.presets,
            overrides=words,
            config_dirs=suite.config_dirs,
        )
    except ConfigError as error:
        raise ConfigError(f"{error} (suite {suite.name}, {algo} on {env})") from None
    return Member(algo=algo, env=env, config=config)


def is_finished(member: Member) -> bool:
    """Whether a run of exactly this configuration has brought every block to its budget."""
    try:
        config, card = read_run(member.path)
    except ConfigError:
        return False
    if config.train.env_steps != member.config.train.env_steps:
        return False
    blocks = [checkpoint.block_folder(member.path, index) for index in range(card["layout"]["n_blocks"])]
    if any(checkpoint.latest(block) is None for block in blocks):
        return False
    return all(checkpoint.read_meta(block)[1]["finished_budget"] == config.train.env_steps for block in blocks)


def run_member(member: Member) -> experiment.Result | None:
    """Train, continue or extend one run of a suite; None if nothing was left to do.

    Raises:
      ConfigError: its folder holds a run of another configuration.
    """
    if not (member.path / CONFIG).exists():
        if member.path.is_dir() and not any(member.path.iterdir()):
            member.path.rmdir()  # a process was killed between making the folder and writing into it
        return experiment.train(member.config)
    if is_finished(member) and not experiment.differences_of(member.path, member.config):
        return None
    return experiment.resume(member.path, config=member.config)
