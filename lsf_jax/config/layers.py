"""Layers of settings: named YAML files, the user's own and the words of a command line, not yet checked.

A layer maps (section, key) to a value with its source. `composition` lays them over each other and builds the
configuration.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from lsf_jax import algorithms, envs
from lsf_jax.config import yaml12
from lsf_jax.config.files import Files, source_of, text_of
from lsf_jax.config.grids import GRID, POINTS
from lsf_jax.registry import plugins
from lsf_jax.settings import ConfigError, nearest

SECTIONS = ("algo", "env", "train")
"""The parts of a configuration: spelt alike in keys and messages."""
SHORTHAND = {"seeds": "train.seeds", "seed": "train.seed"}
"""Keys that may be written without their section."""
OVERRIDE = "an override"
"""Source of a value that was typed, not read from a file."""
PLUGINS = "plugins"
"""Key of a run's config.yaml that names the plug-ins that its names come from."""


class Retired(NamedTuple):
    """What became of a key that runs of an earlier version have in their config.yaml."""

    key: tuple[str, str]  # the section and key that hold its value now
    unset: Any  # the value that meant: as that key says


RETIRED = {("train", "updates_per_iteration"): Retired(("algo", "updates"), unset=0)}
"""Old place -> what it became. `from_yaml` alone still reads these, so that old runs stay readable."""


class Given(NamedTuple):
    """A value on its way into the configuration."""

    value: Any  # plain data
    source: str  # the file it comes from, or OVERRIDE
    text: str | None = None  # as typed, for overrides


class Sweep(NamedTuple):
    """Several values for one key: an axis of the grid."""

    values: tuple[Any, ...]
    paired: bool = False  # one value for each point, beside those of the other keys


Layer: TypeAlias = dict[tuple[str, str], Given]
"""(section, key) -> value; the key "name" of algo and env chooses what the section is about."""


def entries_of(section: str) -> dict[str, Any]:
    """The registered algorithms (section "algo") or environments (section "env") by name, those of plug-ins too."""
    plugins.load_plugins()
    return algorithms.ALGORITHMS if section == "algo" else envs.ENVS


def algorithm_keys() -> set[str]:
    """Every setting that any registered algorithm has."""
    return {field.name for entry in entries_of("algo").values() for field in dataclasses.fields(entry.config)}


def named_file(found: Files, section: str, name: str, source: str = "") -> tuple[str, Layer]:
    """The file of a section that bears a name, or the bare registered name where there is no file.

    Args:
      found: the files that can be asked for.
      section: "algo", "env" or "train".
      name: a file's name without ".yaml", or a registered name.
      source: where the name was given, for errors.

    Returns:
      The registered name (for train, the file's) and the file's settings.

    Raises:
      ConfigError: if there is neither, or the file names nothing registered.
    """
    named = found.get(section, {})
    names = list(named) if section == "train" else sorted([*named, *entries_of(section)])
    if name not in names:
        raise ConfigError(f"unknown {section} {name!r}{nearest(name, names)}{place_text(source)}")
    if name not in named:
        return name, {}
    source = source_of(named[name])
    content = yaml12.parse(text_of(named[name]), source)
    registered = name if section == "train" else known(section, content.pop("name", None), source)
    return registered, {(section, key): Given(value, source) for key, value in content.items()}


def preset_layer(found: Files, name: str, algo: str | None = None) -> Layer:
    """The settings of a preset.

    Args:
      found: the files that can be asked for.
      name: of the preset's file, without ".yaml".
      algo: a registered algorithm, whose entry below `algorithms` is laid over the rest; None: the rest alone.

    Raises:
      ConfigError: if there is no such preset (with the nearest name) or it is not a valid layer.
    """
    if name not in found["preset"]:
        raise ConfigError(f"unknown preset {name!r}{nearest(name, found['preset'])}")
    source = source_of(found["preset"][name])
    content = yaml12.parse(text_of(found["preset"][name]), source)
    special = _lines("algorithms", content.pop("algorithms", None), source)
    theirs = {known("algo", each, source): _lines(f"algorithms {each}", of, source) for each, of in special.items()}
    return mapping_layer(content, source) | mapping_layer(theirs.get(algo or "", {}), source)


def file_layer(path: str | Path) -> Layer:
    """The settings of a user's YAML file with any of the sections algo, env, train and grid, or points.

    Raises:
      ConfigError: if the file cannot be read, is not YAML 1.2, or has keys outside the sections.
    """
    return mapping_layer(yaml12.parse(text_of(Path(path)), str(path)), str(path))


def override_layer(word: str) -> Layer:
    """The setting in a word such as "algo.lr=3e-4", "env.payoff=[[8,-12],[0,0]]" or "seeds=64".

    Raises:
      ConfigError: if the word has no "=", names no section, or its value is not YAML 1.2.
    """
    key, equals, text = word.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"cannot read override {word!r}; expected section.key=value, for example algo.lr=3e-4")
    text = text.strip()
    place = _place(key.strip(), OVERRIDE)
    return {place: Given(yaml12.parse_value(text, key.strip()), OVERRIDE, text)}


def mapping_layer(content: dict[str, Any], source: str) -> Layer:
    """The settings of a mapping of sections to mappings; dotted keys and the shorthand are understood too.

    Args:
      content: parsed YAML. A section "grid" maps dotted keys to lists of values, all combinations of which are points;
        in a section "points" the values at one place of each list are one. "plugins" lists the modules that must be in
        use.
      source: named in errors.

    Returns:
      A layer in which each key of the grid or of the points holds a `Sweep`.

    Raises:
      ConfigError: for keys that belong to no section, sections that are no mappings, and plug-ins that are not in use.
    """
    layer: Layer = {}
    for key, value in content.items():
        if key not in (*SECTIONS, GRID, POINTS, PLUGINS):
            layer[_place(key, source)] = Given(value, source)
        elif key in SECTIONS:
            layer |= {(key, inner): Given(each, source) for inner, each in _lines(key, value, source).items()}
    for section in (GRID, POINTS):  # last: they override the section's single value
        for key, values in _lines(section, content.get(section), source).items():
            if not isinstance(values, list) or not values:
                shown = yaml12.shorten(values)
                raise ConfigError(f"{section} {key} is {shown}; expected a list of numbers{place_text(source)}")
            layer[_place(key, source)] = Given(Sweep(tuple(values), paired=section == POINTS), source)
    if PLUGINS in content:
        _check_plugins(content[PLUGINS], layer, source)
    return layer


def choose(found: Files, section: str, asked: str | None, default: str, layers: Sequence[Layer]) -> str:
    """The name that a section ends up with: what was asked for, else the last name that a layer gives, else a default.

    Args:
      found: the files that can be asked for.
      section: "algo" or "env".
      asked: name given outright, or None.
      default: name if nobody gives one.
      layers: presets, files and overrides in order; a layer may repeat the name of what is chosen already.

    Returns:
      A name for `named_file`.

    Raises:
      ConfigError: if a layer's name contradicts the one asked for, or is unknown.
    """
    chosen = asked
    for layer in layers:
        given = layer.get((section, "name"))
        if given is None or (chosen is not None and given.value in (chosen, named_file(found, section, chosen)[0])):
            continue
        if not isinstance(given.value, str):
            raise ConfigError(
                f"{section}.name is {yaml12.shorten(given.value)}; expected text{place_text(given.source)}"
            )
        if asked is not None:
            raise ConfigError(
                f"{section} {asked!r} was asked for, but {given.source} is for {section} {given.value!r}; leave out one"
            )
        named_file(found, section, given.value, given.source)
        chosen = given.value
    return default if chosen is None else chosen


def applies(found: Files, layer: Layer, section: str, registered: str) -> bool:
    """Whether a layer's settings of a section are about the registered name: unless it names another, they are."""
    given = layer.get((section, "name")) if section in ("algo", "env") else None
    return given is None or named_file(found, section, given.value)[0] == registered


def known(section: str, name: Any, source: str) -> str:
    """`name`, if it is registered.

    Raises:
      ConfigError: if not, with the nearest name.
    """
    names = list(entries_of(section))
    if name in names:
        return name
    shown = yaml12.shorten(name) if name is not None else "missing"
    raise ConfigError(f"{section}.name is {shown}{nearest(str(name), names)}{place_text(source)}")


def place_text(source: str) -> str:
    """The end of an error message: where the value was given; "" for a configuration built in Python."""
    return f" (in {source})" if source else ""


def _check_plugins(recorded: Any, layer: Layer, source: str) -> None:
    """Whether a file's names come from the plug-ins that it was made with."""
    if not isinstance(recorded, list) or not all(isinstance(name, str) for name in recorded):
        raise ConfigError(
            f"{PLUGINS} is {yaml12.shorten(recorded)}; expected a list of modules' names{place_text(source)}"
        )
    places = (("algo", "name"), ("env", "name"), ("train", "sinks"))
    used = plugins.used_by(*(layer[place].value if place in layer else None for place in places))
    plugins.check_recorded(recorded, used, source)


def _lines(key: str, value: Any, source: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{key} is {yaml12.shorten(value)}; expected 'key: value' lines below it{place_text(source)}")
    return value or {}


def _place(key: str, source: str) -> tuple[str, str]:
    section, dot, inner = SHORTHAND.get(key, key).partition(".")
    if key in SECTIONS:
        keys = f"one of its keys, such as {key}.name; `lsf-jax list keys` shows all"
        raise ConfigError(f"{key} is a section of settings, not a setting; expected {keys}{place_text(source)}")
    if dot and inner and section in SECTIONS:
        return section, inner
    if dot and inner:
        raise ConfigError(f"unknown section {section!r} of key {key}{nearest(section, SECTIONS)}{place_text(source)}")
    if difflib.get_close_matches(key, [*SECTIONS, *SHORTHAND], n=1, cutoff=0.6):
        raise ConfigError(f"unknown key {key}{nearest(key, [*SECTIONS, *SHORTHAND])}{place_text(source)}")
    advice = " or ".join(f"{section}.{key}" for section in SECTIONS)
    raise ConfigError(f"unknown key {key}; expected its section too: {advice}{place_text(source)}")


def renewed(layer: Layer) -> Layer:
    """A layer of an earlier version with what its retired keys became in their places."""
    kept = {place: given for place, given in layer.items() if place not in RETIRED}
    old = [(RETIRED[place], given) for place, given in layer.items() if place in RETIRED]
    return kept | {became.key: given for became, given in old if given.value != became.unset}
