"""Configurations: YAML files and command-line words in, one checked and frozen `Config` out.

Later layers win: defaults of the dataclasses < `env/<env>.yaml` < `train/<train>.yaml` < presets in order < the user's
files in order < overrides such as `algo.lr=3e-4`. Named files are looked for in `configs` and the user's own folders.
"""

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from lsf_jax.config import layers, trust, yaml12
from lsf_jax.config.files import named_files, refuse_shadows
from lsf_jax.config.grids import Swept, check_lengths, refuse_both
from lsf_jax.config.layers import Given, Layer, Sweep
from lsf_jax.config.train_config import TrainConfig, divisors
from lsf_jax.envs.host import Hosted
from lsf_jax.registry import plugins
from lsf_jax.settings import ConfigError, clip, counted, env_label, freeze, nearest, range_problem, type_problem
from lsf_jax.types import Env

MOST_ROWS = 1_000_000
"""Grid points × seeds of one run; as many seeds as there may be without a grid."""
MOST_SHOWN = 12
"""Settings that a configuration shows of itself in a session, of those that are not as declared."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A complete, checked configuration. Build it with `compose` or `from_yaml`; vary it with `dataclasses.replace`."""

    algo_name: str  # key of ALGORITHMS
    algo: Any  # that algorithm's config dataclass
    env_name: str  # key of ENVS
    env: Any  # that environment's config dataclass
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    grid: tuple[
        tuple[str, tuple[float | int, ...]], ...
    ] = ()  # (algo key, its values); rows = points of the grid × seeds
    paired: bool = False  # values at one place of all keys make a point of the grid; False: every combination does
    unconfirmed: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """Code that a run's text names and the user does not, as words for the command line: see `config.trust`."""
    unfollowed: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    """Places outside its folder that a run's text names and the user does not, likewise."""

    @property
    def where(self) -> str:
        """The environment as people call it: "smax/3m"."""
        return env_label(self.env_name, vars(self.env))

    @property
    def swept(self) -> Swept:
        """What is swept, by dotted keys."""
        return Swept({f"algo.{key}": values for key, values in self.grid}, self.paired)

    @property
    def size(self) -> str:
        """How much is trained, for people: "4 seeds × 2 grid points, 200,000 env steps each"."""
        points = self.swept.size
        grid = f" × {points} grid points" if points > 1 else ""
        return f"{counted(self.train.seeds, 'seed')}{grid}, {self.train.env_steps:,} env steps each"

    def __repr__(self) -> str:
        changed = _changed(self)
        more = [*changed[:MOST_SHOWN], *(["..."] if len(changed) > MOST_SHOWN else [])]
        return f"Config({self.algo_name} on {self.where}: {'; '.join([self.size, *more])})"


def compose(
    algo: str | None = None,
    env: str | None = None,
    train: str = "default",
    presets: Sequence[str] = (),
    files: Sequence[str | Path] = (),
    overrides: Sequence[str] = (),
    config_dirs: Sequence[str | Path] = (),
) -> Config:
    """The configuration that names, files and overrides add up to; later layers win (see the module's docstring).

    Args:
      algo: name of a registered algorithm; None: what presets and files say, else "lsf_sac".
      env: name of a registered environment or of a file in env/; None: likewise, else "predator_prey".
      train: name of a file in train/.
      presets: names of files in preset/, each holding any of the sections algo, env and train. One that names no
        algorithm is for any: its keys that only other algorithms have are left out, and its section `algorithms` may
        say what is different for one of them.
      files: the user's own YAML files, of the same form; a run's config.yaml is one.
      overrides: "section.key=value" with a YAML 1.2 value; "seeds=" and "seed=" are short for "train.seeds=" and
        "train.seed=". A comma list on a traced number of the algorithm ("algo.lr=1e-3,3e-4") makes a grid.
      config_dirs: folders of the user's own with env/, train/ and preset/, searched beside the shipped one and those
        that the environment variable LSF_JAX_CONFIGS names.

    Returns:
      A checked, frozen configuration.

    Raises:
      ConfigError: one line that names the key, the value, what was expected and the remedy.
    """
    found = named_files(config_dirs)
    refuse_shadows(layers.entries_of("env"), found)
    shared = [layers.preset_layer(found, name) for name in presets]
    stack = list(shared)
    stack += [layers.file_layer(file) for file in files]
    stack += [layers.override_layer(word) for word in overrides]
    algo_name, _ = layers.named_file(found, "algo", layers.choose(found, "algo", algo, "lsf_sac", stack))
    shared = [layers.preset_layer(found, name, algo_name) for name in presets]  # now with what they say about it
    stack[: len(shared)] = shared
    env_name, env_layer = layers.named_file(found, "env", layers.choose(found, "env", env, "predator_prey", stack))
    merged = env_layer | layers.named_file(found, "train", train)[1]
    names = {"algo": algo_name, "env": env_name, "train": train}
    lacking = set(layers.algorithm_keys()) - set(_fields(layers.entries_of("algo")[algo_name].config))
    for number, layer in enumerate(stack):
        if number < len(shared) and ("algo", "name") not in layer:  # a protocol for any algorithm
            layer = {place: given for place, given in layer.items() if place not in {("algo", key) for key in lacking}}
        about = {section for section, name in names.items() if layers.applies(found, layer, section, name)}
        merged |= {place: given for place, given in layer.items() if place[0] in about}
    return _build(algo_name, env_name, merged)


def from_yaml(text: str, source: str = "config.yaml", overrides: Sequence[str] = ()) -> Config:
    """The configuration of a run's config.yaml, without looking at any other file.

    Args:
      text: YAML with `algo.name` and `env.name`; settings left out take the dataclasses' defaults, and those that have
        gone since are read as what they became (`layers.RETIRED`).
      source: named in errors.
      overrides: laid over the text, as in `compose`; they cannot change a name. Code that the text names is run only
        if they name it too.

    Returns:
      A checked configuration.

    Raises:
      ConfigError: for anything that `compose` would refuse, and for plug-ins that are not in use: none is imported
        because a file names it.
    """
    layer = layers.mapping_layer({layers.PLUGINS: [], **yaml12.parse(text, source)}, source)
    missing = Given(None, source)
    named = {place: layer.get(place, missing) for place in (("algo", "name"), ("env", "name"))}
    names = [layers.known(section, given.value, source) for (section, _), given in named.items()]
    merged = layers.renewed(layer)
    for word in overrides:
        merged |= layers.override_layer(word)
    for (section, key), given in named.items():
        if merged[section, key].value != given.value:
            shown = yaml12.shorten(merged[section, key].value)
            raise ConfigError(f"{section}.name is {shown}; expected {given.value}, as in {source}; leave it alone")
    config = _build(names[0], names[1], merged)
    parts = {"algo": config.algo, "env": config.env, "train": config.train}
    return dataclasses.replace(
        config,
        unconfirmed=trust.unconfirmed(parts, overrides, plugins.loaded_plugins()),
        unfollowed=trust.unfollowed(parts, overrides),
    )


def check(config: Config) -> None:
    """Check every value of a configuration, alone and against the others; for configurations built by hand.

    Raises:
      ConfigError: for the first problem found.
    """
    for section, part in (("algo", config.algo), ("env", config.env), ("train", config.train)):
        for key, value in vars(part).items():
            _checked(section, type(part), key, Given(value, ""))
    _check_grid(config)
    _check_together(config)


def grid_points(config: Config) -> tuple[dict[str, float | int], ...]:
    """The points of the grid, last key fastest: each maps algo keys to values. No grid: one empty point."""
    return Swept(dict(config.grid), config.paired).points


def make_env(config: Config) -> Env:
    """The environment that a configuration describes.

    Raises:
      ConfigError: for settings that the environment refuses, for example a payoff without an axis per agent, or code
        that a run folder alone names.
    """
    trust.refuse(config.unconfirmed)
    try:
        return plugins.build("env", layers.entries_of("env")[config.env_name], config.env, expected=Env)
    except ValueError as error:
        message = " ".join(str(error).split())
        raise ConfigError(message if message.startswith("env.") else f"env {config.env_name}: {message}") from None


def make_hosted(config: Config) -> Hosted | None:
    """How to open the games of an environment that lives on the host, or None if it lives on the device."""
    trust.refuse(config.unconfirmed)
    hosted = layers.entries_of("env")[config.env_name].hosted
    return None if hosted is None else hosted(config.env)


def replace(config: Config, key: str, value: Any) -> Config:
    """A checked copy with one setting changed, as in `replace(config, "train.seeds", 8)`."""
    section, _, name = key.partition(".")
    if section not in ("algo", "env", "train") or name not in _fields(type(getattr(config, section))):
        raise ConfigError(f"unknown key {key}; expected one of the settings that `lsf-jax list keys` shows")
    part = getattr(config, section)
    part = dataclasses.replace(part, **{name: _checked(section, type(part), name, Given(value, ""))})
    changed = dataclasses.replace(config, **{section: part})
    check(changed)
    return changed


def swept_keys(algo_name: str) -> tuple[str, ...]:
    """Settings of an algorithm that are traced numbers: these may form a grid and never cause a compilation."""
    entry = layers.entries_of("algo")[algo_name]
    return tuple(key for key in _fields(entry.config) if key in entry.hyper._fields)


def differences(saved: Config, wanted: Config) -> list[str]:
    """What forbids to resume a run with another configuration, one line each: "algo.lr: 0.001 -> 0.0003".

    Settings declared `resumable` are not compared.
    """
    before, after = flat_settings(saved), flat_settings(wanted)
    free = resumable_keys(saved) | resumable_keys(wanted)
    keys = [key for key in {**before, **after} if key not in free]
    changed = [key for key in keys if key not in before or key not in after or before[key] != after[key]]
    return [f"{key}: {_shown(before, key)} -> {_shown(after, key)}" for key in changed]


def resumable_keys(config: Config) -> set[str]:
    """The dotted keys of settings that a resumed run may have other values of, by their declarations."""
    sections = (("algo", config.algo), ("env", config.env), ("train", config.train))
    fields = [(section, field) for section, part in sections for field in _fields(type(part)).values()]
    return {f"{section}.{field.name}" for section, field in fields if field.metadata.get("resumable")}


def _changed(config: Config) -> list[str]:
    """The settings that differ from their declarations, as overrides would give them; seeds and budget left out."""
    sections = (("algo", config.algo), ("env", config.env), ("train", config.train))
    grid = dict(config.grid)
    return [
        f"{section}.{name}={yaml12.shorten(grid.get(name, value) if section == 'algo' else value)}"
        for section, part in sections
        for name, value in vars(part).items()
        if (value != _fields(type(part))[name].default or (section == "algo" and name in grid))
        and (section, name) not in (("train", "seeds"), ("train", "env_steps"))
    ]


def _fields(config_class: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(config_class)}


def flat_settings(config: Config) -> dict[str, Any]:
    """Every setting by its dotted key, the names of algorithm and environment and the grid's keys included."""
    sections = (("algo", config.algo), ("env", config.env), ("train", config.train))
    settings = {f"{section}.{key}": value for section, part in sections for key, value in vars(part).items()}
    grid = {f"{config.swept.section} {key}": values for key, values in config.swept.values.items()}
    return {"algo.name": config.algo_name, "env.name": config.env_name, **settings, **grid}


def _shown(flat: dict[str, Any], key: str) -> str:
    return yaml12.shorten(flat[key]) if key in flat else "(absent)"


def _build(algo_name: str, env_name: str, merged: Layer) -> Config:
    classes = {
        "algo": layers.entries_of("algo")[algo_name].config,
        "env": layers.entries_of("env")[env_name].config,
        "train": TrainConfig,
    }
    settings: dict[str, dict[str, Any]] = {section: {} for section in classes}
    grid: dict[str, tuple[float | int, ...]] = {}
    paired: set[str] = set()
    for (section, key), given in merged.items():
        if key == "name" and section != "train":
            continue
        values = _values(section, classes[section], key, given, algo_name)
        settings[section][key] = values[0]
        if len(values) > 1:
            grid[key] = values
            paired |= {key} if isinstance(given.value, Sweep) and given.value.paired else set()
    refuse_both(grid, paired)
    config = Config(
        algo_name=algo_name,
        algo=classes["algo"](**settings["algo"]),
        env_name=env_name,
        env=classes["env"](**settings["env"]),
        train=TrainConfig(**settings["train"]),
        grid=tuple(sorted(grid.items())),
        paired=bool(paired),
    )
    check(config)
    return config


def _values(section: str, config_class: type, key: str, given: Given, algo_name: str) -> tuple[Any, ...]:
    if (section, key) in layers.RETIRED:
        now = ".".join(layers.RETIRED[section, key].key)
        raise ConfigError(f"unknown key {section}.{key}; it is {now} now{layers.place_text(given.source)}")
    if key not in _fields(config_class):
        advice = nearest(key, _fields(config_class), prefix=f"{section}.")
        whose = f" of {algo_name}" if section == "algo" else ""
        raise ConfigError(f"unknown key {section}.{key}{whose}{advice}{layers.place_text(given.source)}")
    given = _read_as(typing.get_type_hints(config_class)[key], f"{section}.{key}", given)
    if not isinstance(given.value, Sweep):
        return (_checked(section, config_class, key, given),)
    swept = swept_keys(algo_name)
    if section != "algo" or key not in swept:
        keys = ", ".join(f"algo.{name}" for name in swept)
        raise ConfigError(
            f"{section}.{key} has several values, {yaml12.shorten(given.value.values)}, but shapes the program; "
            f"give one value; keys that can be swept: {keys}{layers.place_text(given.source)}"
        )
    return tuple(
        _checked(section, config_class, key, given._replace(value=value, text=None)) for value in given.value.values
    )


def _read_as(annotation: Any, key: str, given: Given) -> Given:
    if given.text is None:
        return given
    if annotation is str and not isinstance(given.value, str):
        return given._replace(value=given.text)  # train.name=2024 is text all the same
    is_plain = isinstance(given.value, str) and given.value == given.text  # neither quoted nor in brackets
    is_tuple = annotation is tuple or get_origin(annotation) is tuple
    if is_plain and is_tuple and get_args(annotation)[:1] == (str,):
        return given._replace(value=[part.strip() for part in given.text.split(",")])  # train.sinks=wandb,tensorboard
    if annotation is str or is_tuple or not is_plain or "," not in given.text:
        return given
    return given._replace(value=Sweep(tuple(yaml12.parse_value(part.strip(), key) for part in given.text.split(","))))


def _checked(section: str, config_class: type, key: str, given: Given) -> Any:
    field, annotation = _fields(config_class)[key], typing.get_type_hints(config_class)[key]
    problem = type_problem(annotation, given.value)
    value = given.value if problem else freeze(annotation, given.value)
    problem = problem or range_problem(field, value) or _name_problem(field, value)
    if problem:
        shown = yaml12.shorten(given.value) if given.text is None else clip(given.text)
        raise ConfigError(f"{section}.{key} is {shown}; expected {problem}{layers.place_text(given.source)}")
    return value


def _name_problem(field: dataclasses.Field, value: Any) -> str | None:
    """Of a setting whose values are names of registered things: what they should have been, or None."""
    if "names" not in field.metadata:
        return None
    names = plugins.names_of(field.metadata["names"])
    return None if set(value) <= set(names) else f"one of {', '.join(names)}"


def _check_grid(config: Config) -> None:
    check_lengths(config.swept)
    points = config.swept.size
    if points * config.train.seeds > MOST_ROWS:
        keys = ", ".join(f"algo.{key}" for key, _ in config.grid)
        raise ConfigError(
            f"the grid of {keys} has {points:,} points, with train.seeds ({config.train.seeds:,}) runs of each; "
            f"expected at most {MOST_ROWS:,} in all; give fewer values"
        )
    for key, values in config.grid:
        if key not in swept_keys(config.algo_name):
            raise ConfigError(f"grid key {key} cannot be swept{nearest(key, swept_keys(config.algo_name))}")
        for value in values:
            _checked("algo", type(config.algo), key, Given(value, ""))
        if len(set(values)) < len(values) and not config.paired:
            raise ConfigError(
                f"algo.{key} has values {yaml12.shorten(values)}; expected different ones; remove repeats"
            )
        if not values or values[0] != getattr(config.algo, key):
            raise ConfigError(
                f"grid of algo.{key} is {yaml12.shorten(values)}; expected it to start with "
                f"{getattr(config.algo, key)}, the value of algo.{key}; set that to the first value"
            )


def _check_together(config: Config) -> None:
    train, batch_size = config.train, getattr(config.algo, "batch_size", 1)
    if train.buffer_capacity % train.n_envs:
        below = train.buffer_capacity // train.n_envs * train.n_envs
        near = f"{below} or {below + train.n_envs}" if below else str(train.n_envs)
        raise ConfigError(
            f"train.buffer_capacity is {train.buffer_capacity}; expected a multiple of train.n_envs ({train.n_envs}); "
            f"use {near}"
        )
    if batch_size > train.buffer_capacity:
        raise ConfigError(
            f"algo.batch_size is {batch_size}; expected at most train.buffer_capacity ({train.buffer_capacity}); "
            f"raise train.buffer_capacity or lower algo.batch_size"
        )
    if train.micro_batch and batch_size % train.micro_batch:
        raise ConfigError(
            f"train.micro_batch is {train.micro_batch}; expected a divisor of algo.batch_size ({batch_size}): "
            f"{', '.join(map(str, divisors(batch_size)))}, or 0 to let the planner choose"
        )
    if 0 < (fall := getattr(config.algo, "lr_anneal", 0)) < train.env_steps:
        wanted = f"at least train.env_steps ({train.env_steps}), or 0 to keep the rates: nothing is learned after"
        raise ConfigError(f"algo.lr_anneal is {fall:.12g}; expected {wanted}")
    if any(separator in train.name for separator in "/\\") or train.name in (".", ".."):
        raise ConfigError(f"train.name is {train.name!r}; expected a folder's name; put its path into train.run_dir")
