"""Plug-ins: what others add, by which modules, and which of these may be imported.

A plug-in is a module that calls `register` when it is imported. Imported are those whose packages were installed with
an entry point in the group `lsf_jax.plugins`, and those that the user names: by `--plugin`, by the variable
LSF_JAX_PLUGINS, by importing them. Never those that only a file names: a run folder makes nobody import code.
"""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lsf_jax import registry
from lsf_jax.registry import ALGO, ENV, PACKAGES, SHIPPED_SINKS, SINK, TABLES, Entry
from lsf_jax.registry.checks import entry_problem, folder_problem, name_problem, sink_problem
from lsf_jax.registry.state import FLAG, GROUP, NOTEBOOK, PROCESS, STATE, VARIABLE, WITHOUT, Plugin, copies, restore
from lsf_jax.settings import ConfigError

MIXING = "mixing"
"""Key of the adapter that makes an algorithm of a mixer."""
ADAPTERS: dict[str, Callable[[Entry], Entry]] = {}
"""How an entry of another kind becomes one of an algorithm; `lsf_jax.algorithms` knows."""


def register(
    *,
    algorithms: Iterable[Entry] = (),
    environments: Iterable[Entry] = (),
    mixers: Iterable[Entry] = (),
    sinks: Mapping[str, Callable[..., Any]] = MappingProxyType({}),
    configs: str | Path | None = None,
    plugin: str = "",
) -> None:
    """Add what can be chosen by name: `--algo NAME`, `--env NAME`, `--preset NAME` and so on. All of it, or nothing.

    The same plug-in may register a name again, as a cell of a notebook does that is run twice: the last one counts.

    Args:
      algorithms: entries with factories `(spec, config, observe) -> Algorithm`.
      environments: entries with factories `(config) -> Env`, and `hosted` where the games live on the host.
      mixers: entries with factories `(spec, config) -> Mixer`, whose config inherits `ValueConfig`: each becomes the
        algorithm that learns Q_tot, so mixed, as QMIX learns its own.
      sinks: name in `train.sinks` -> what opens it: `(run folder, settings, label) -> Sink`.
      configs: a folder with preset/, suite/, env/ or train/ in it, whose files are found by their names.
      plugin: the module to be imported for all this; "": the plug-in that is being loaded, or the caller's module.

    Raises:
      ConfigError: something is not what it should be, or bears a name that is taken; the message names both sources.
    """
    owner = _known(plugin or _caller())
    adapted = [_mixing(owner, entry) for entry in mixers]
    wanted = [(ALGO, entry.name, entry) for entry in (*_sound(owner, ALGO, algorithms), *adapted)]
    wanted += [(ENV, entry.name, entry) for entry in _sound(owner, ENV, environments)]
    wanted += [(SINK, name, opener) for name, opener in sinks.items()]
    for name, opener in sinks.items():
        _refuse(owner, name_problem(name) or sink_problem(name, opener))
    folder = None if configs is None else Path(configs).resolve()
    _refuse(owner, folder_problem(folder))
    named = [(kind, name) for kind, name, _ in wanted]
    for place, (kind, name) in enumerate(named):
        _refuse_taken(owner, kind, name, twice=(kind, name) in named[:place])
    for kind, name, thing in wanted:
        TABLES[kind][name] = thing
        STATE.owners[kind, name] = owner.name
    if folder is not None:
        STATE.folders[folder] = owner.name
    STATE.loaded[owner.name] = owner


def load_plugins(names: Iterable[str] = (), origin: str = PROCESS) -> None:
    """Import all plug-ins that are installed or that the user names, each once.

    Whatever looks up a name calls this, so it need not be called; in Python, `import mine` does as well.

    Args:
      names: modules, "no:MODULE" for one that is to be left out.
      origin: who names them, for messages.

    Raises:
      ConfigError: one cannot be imported, registers nothing, or something that `register` refuses. Nothing of it stays.
    """
    words = [(word, origin) for word in names]
    words += [(word, f"${VARIABLE}") for word in os.environ.get(VARIABLE, "").replace(",", " ").split()]
    before = [(kept, kept.copy()) for kept in (STATE.asked, STATE.left_out)]
    for word, source in words:
        if word.startswith(WITHOUT):
            STATE.left_out.add(word.removeprefix(WITHOUT))
        else:
            STATE.asked.setdefault(word, Plugin(word, source, named=True))
    wish = [sorted(STATE.asked), sorted(STATE.left_out), tuple(sys.path)]
    if STATE.loading or STATE.settled == wish:
        return  # a plug-in that is being imported may look up what there is so far
    try:
        for plugin in (*STATE.asked.values(), *_installed(tuple(sys.path)).values()):
            _load(plugin)
    except ConfigError:
        restore(before)
        raise
    STATE.settled[:] = wish


def names_of(kind: str) -> tuple[str, ...]:
    """All names of a kind, the shipped ones first; nothing of ours is imported for that."""
    load_plugins()
    ours = SHIPPED_SINKS if kind == SINK else registry.shipped(PACKAGES[kind])
    return (*ours, *(name for of, name in STATE.owners if of == kind))


def added(kind: str) -> dict[str, Plugin]:
    """Name -> plug-in of all that plug-ins have added of a kind."""
    load_plugins()
    return {name: STATE.loaded[owner] for (of, name), owner in STATE.owners.items() if of == kind}


def loaded_plugins() -> dict[str, Plugin]:
    """The plug-ins in use, by the name of their module."""
    load_plugins()
    return dict(STATE.loaded)


def config_folders() -> dict[Path, str]:
    """Folder of configurations -> name of the plug-in that brings it."""
    load_plugins()
    return dict(STATE.folders)


def used_by(algo: Any, env: Any, sinks: Any = ()) -> tuple[str, ...]:
    """The plug-ins that names come from, each once; names of ours, and of nobody, come from none."""
    listed = sinks if isinstance(sinks, list | tuple) else ()
    names = [(ALGO, algo), (ENV, env), *((SINK, name) for name in listed)]
    owners = [STATE.owners.get((kind, name)) for kind, name in names if isinstance(name, str)]
    return tuple(dict.fromkeys(owner for owner in owners if owner is not None))


def build(kind: str, entry: Entry, *arguments: Any, expected: type) -> Any:
    """What an entry's factory makes of its arguments.

    Args:
      kind: "algo" or "env".
      entry: a registered one.
      *arguments: for the factory.
      expected: the type of the result.

    Raises:
      ConfigError: the factory of a plug-in fails, or makes something else. Of an error of ours nothing is hidden.
    """
    owner = STATE.loaded.get(STATE.owners.get((kind, entry.name), ""))
    try:
        made = entry.factory(*arguments)
    except Exception as error:
        if owner is None or isinstance(error, ConfigError) or (kind == ENV and isinstance(error, ValueError)):
            raise  # of an environment a ValueError is a line about its settings
        raise ConfigError(f"{kind} {entry.name} of {owner.text} {_reason(error, owner.name, 'is not made')}") from error
    if owner is not None and not isinstance(made, expected):
        raise ConfigError(
            f"{kind} {entry.name} of {owner.text}: its factory returns {type(made).__name__}; expected lsf_jax."
            f"{expected.__name__}"
        )
    return made


def check_recorded(recorded: Sequence[str], used: Sequence[str], source: str) -> None:
    """Whether what a file was made with is what is in use here; nothing is imported because a file says so.

    A plug-in that the user names may take the place of one that is gone: modules are moved and renamed.

    Args:
      recorded: the plug-ins that the file names.
      used: those that its names come from here, see `used_by`.
      source: the file, for messages.

    Raises:
      ConfigError: one is not in use, with the words to pass; or a name comes from an installed one that is not there.
    """
    load_plugins()
    others = [STATE.loaded[name] for name in used if not any(_same(name, other) for other in recorded)]
    replaced = any(other.named for other in others)
    for name in recorded:
        if not replaced and not any(_same(name, other) for other in STATE.loaded):
            remedy = f"pass {FLAG} {name}, or in Python import it first"
            if name == NOTEBOOK:
                remedy = f"it was a notebook: put its lsf_jax.register(...) into a module and name that with {FLAG}"
            raise ConfigError(
                f"{source} was made with plug-in {name}, which is not in use; no file makes us import code: {remedy}"
            )
    for other in others:
        if not other.named:
            theirs = ", ".join(recorded) or "none"
            raise ConfigError(
                f"{source} was made with plug-ins: {theirs}; its names come from {other.text} here; pass "
                f"--plugin {other.name} if that is the same"
            )


def as_variable() -> dict[str, str]:
    """What another process needs in its environment to use the same plug-ins; empty where there are none to name."""
    named = [name for name, plugin in STATE.loaded.items() if plugin.named and name != NOTEBOOK]
    words = [*named, *(WITHOUT + name for name in sorted(STATE.left_out))]
    return {VARIABLE: ",".join(words)} if words else {}


@cache
def _installed(path: tuple[str, ...]) -> dict[str, Plugin]:
    """The plug-ins that packages on `path` (that is `sys.path`) bring, by module."""
    del path  # decides what is found
    found = {}
    for point in entry_points(group=GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else f"entry point {point.name}"
        found.setdefault(point.module, Plugin(point.module, origin, named=False))
    return found


def _load(plugin: Plugin) -> None:
    """Import a plug-in, unless that is done; one that fails leaves nothing behind."""
    name = plugin.name
    if name in STATE.left_out or any(other == name or other.startswith(f"{name}.") for other in STATE.loaded):
        if name in STATE.loaded and plugin.named:
            STATE.loaded[name] = plugin
        return
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name):
        stem = Path(name).stem
        raise ConfigError(f"plug-in {name!r} ({plugin.origin}) is not a module's name; expected one such as {stem}")
    before = copies()
    STATE.loading.append(name)
    try:
        if plugin.named:
            _look_here(name)
        importlib.import_module(name)
        if name not in STATE.loaded:
            raise ConfigError("it registers nothing; expected it to call lsf_jax.register(...) when it is imported")
    except (Exception, SystemExit) as error:
        restore(before)
        raise ConfigError(f"{plugin.text}: {_reason(error, name)}; {_remedy(plugin, error)}") from error
    STATE.loading.remove(name)


def _look_here(name: str) -> None:
    """Let a module found nowhere else be found in the current folder, which the installed command leaves out."""
    top = name.partition(".")[0]
    here = str(Path.cwd())
    if top not in sys.modules and importlib.util.find_spec(top) is None and here not in sys.path:
        sys.path.append(here)
        importlib.invalidate_caches()


def _reason(error: BaseException, name: str, what: str = "cannot be imported") -> str:
    """What went wrong, and in which line of the plug-in."""
    if isinstance(error, ConfigError):
        return str(error).removesuffix(".")
    top = name.partition(".")[0]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if top in Path(frame.filename).parts]
    frames += [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).stem == top]
    where = f" ({Path(frames[-1].filename).name} line {frames[-1].lineno})" if frames else ""
    return f"{what}: {type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{where}"


def _remedy(plugin: Plugin, error: BaseException) -> str:
    if plugin.named and isinstance(error, ModuleNotFoundError) and plugin.name.startswith(error.name or "?"):
        return "is it installed, on PYTHONPATH, or a file of this folder?"
    if plugin.named:
        return "mend it, or leave it out"
    return f"mend or uninstall it, or leave it out with {FLAG} {WITHOUT}{plugin.name}"


def _caller() -> str:
    """The module that called `register`: the nearest one up the stack that is not ours or a checker of types."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__") or "lsf_jax"
        if name.partition(".")[0] not in ("lsf_jax", "jaxtyping", "beartype"):
            return name if name != NOTEBOOK else _script(frame.f_globals)
        frame = frame.f_back
    return NOTEBOOK


def _script(names: Mapping[str, Any]) -> str:
    """What a script is called when another process imports it; a notebook's cells can be imported by nobody."""
    spec, file = names.get("__spec__"), names.get("__file__")
    return spec.name if spec is not None else Path(file).stem if file else NOTEBOOK


def _known(module: str) -> Plugin:
    """The plug-in that a module belongs to: a known one, else the one being loaded, else itself."""
    known = _installed(tuple(sys.path)) | STATE.asked  # what is both installed and named is named
    mine = [name for name in known if module == name or module.startswith(f"{name}.")]
    if mine:
        return known[max(mine, key=len)]
    if STATE.loading:
        return known[STATE.loading[-1]]
    return Plugin(module, PROCESS, named=True)


def _same(name: str, other: str) -> bool:
    """Whether two modules are of one package."""
    return name.partition(".")[0] == other.partition(".")[0]


def _sound(owner: Plugin, kind: str, entries: Iterable[Entry]) -> list[Entry]:
    listed = list(entries)
    for entry in listed:
        _refuse(owner, entry_problem(kind, entry))
    return listed


def _mixing(owner: Plugin, entry: Entry) -> Entry:
    """The algorithm of a mixer."""
    _refuse(owner, entry_problem(ALGO, entry))
    if MIXING not in ADAPTERS:
        _refuse(owner, f"mixer {entry.name!r} has a config that does not inherit lsf_jax.ValueConfig")
    try:
        return ADAPTERS[MIXING](entry)
    except ConfigError as error:
        raise _told(owner, str(error)) from None


def _refuse(owner: Plugin, problem: str | None) -> None:
    if problem is not None:
        raise _told(owner, problem)


def _told(owner: Plugin, problem: str) -> ConfigError:
    """A problem with its plug-in, which `_load` names by itself."""
    return ConfigError(problem if STATE.loading else f"{owner.text}: {problem}")


def _refuse_taken(owner: Plugin, kind: str, name: str, twice: bool) -> None:
    other = STATE.owners.get((kind, name))
    if twice or (other == owner.name and other in STATE.loading):
        _refuse(owner, f"{kind} {name!r} is registered twice; choose another name for one of them")
    shipped = SHIPPED_SINKS if kind == SINK else registry.shipped(PACKAGES[kind])
    if other is None and name in shipped:
        _refuse(owner, f"{kind} {name!r} is one of lsf_jax's own; choose another name")
    if other is not None and other != owner.name:
        _refuse(owner, f"{kind} {name!r} is registered by {STATE.loaded[other].text} already; leave one of them out")
