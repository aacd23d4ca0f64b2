"""Commands that say what there is: `list`, `config` and `doctor`."""

import argparse

from lsf_jax.cli.arguments import FINISHED, Command, add_composition, add_names, composed
from lsf_jax.config import files
from lsf_jax.registry import TABLES, plugins
from lsf_jax.settings import printable

CONFIG = """examples:
  lsf-jax config --algo qmix --env smax/3m > mine.yaml
  lsf-jax config --algo lsf_sac --preset paper env.punishment=-2 > mine.yaml
  lsf-jax train --config mine.yaml
Writes every setting with its value, its meaning and its range: a file to start from."""
FAILED = 1
"""Exit code of `doctor` where something that training needs is missing."""


def _show_names(options: argparse.Namespace) -> int:
    """`lsf-jax list`: names need no JAX, `list keys` does."""
    if options.what == "keys":
        return _show_keys(options)
    if options.what == "plugin":
        return _show_plugins()
    for section, entries in files.list_names(options.config_dirs).items():
        if options.what in ("all", section):
            print(section)
            for name, line in entries:
                print(printable(f"  {name:<24} {line}".rstrip()))
    return FINISHED


def _show_plugins() -> int:
    """Every plug-in in use, who named or installed it, and what it brings."""
    folders = plugins.config_folders()
    for name, plugin in plugins.loaded_plugins().items():
        print(f"{name}  ({plugin.origin})")
        for kind in TABLES:
            brought = [each for each, by in plugins.added(kind).items() if by.name == name]
            print(f"  {kind:<8} {', '.join(brought)}\n" if brought else "", end="")
        theirs = [str(folder) for folder, by in folders.items() if by == name]
        print(f"  {'configs':<8} {', '.join(theirs)}\n" if theirs else "", end="")
    return FINISHED


def _show_config(options: argparse.Namespace) -> int:
    """`lsf-jax config`."""
    from lsf_jax.config.documents import to_documented_yaml

    print(to_documented_yaml(composed(options)), end="")
    return FINISHED


def _doctor(options: argparse.Namespace) -> int:
    """`lsf-jax doctor`."""
    from lsf_jax.cli.doctor import examine

    lines, healthy = examine(options.overrides)
    print("\n".join(lines))
    return FINISHED if healthy else FAILED


def _show_keys(options: argparse.Namespace) -> int:
    from lsf_jax.config.composition import compose
    from lsf_jax.config.documents import SWEPT, documentation

    config = compose(algo=options.algo, env=options.env, config_dirs=options.config_dirs)
    for entry in documentation(config):
        mark = f"  {SWEPT}" if entry.swept else ""
        print(f"{entry.key} = {entry.default}{mark}\n    {entry.doc} ({entry.allowed})")
    return FINISHED


def _add_list(parser: argparse.ArgumentParser) -> None:
    what = ("all", "algo", *files.SECTIONS, "plugin", "keys")
    parser.add_argument("what", nargs="?", default="all", choices=what)
    add_names(parser)


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="env.key=value",
        help="settings of games on the host, such as smac's env.python and env.sc2_path",
    )


COMMANDS = (
    Command(
        "list",
        "names of algorithms, environments, presets and plug-ins; `list keys` for every setting",
        _add_list,
        _show_names,
    ),
    Command(
        "config",
        "write every setting with its meaning and range, as a YAML file to start from",
        add_composition,
        _show_config,
        CONFIG,
    ),
    Command("doctor", "versions, devices, cache, and what is missing for what", _add_doctor, _doctor),
)
