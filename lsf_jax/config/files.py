"""The named YAML files: those that are shipped and those in folders of the user's own. No import of JAX.

A folder of configurations has the subfolders env, train, preset and suite; a file's name in there, without ".yaml", is
what `--env`, `--train`, `--preset` and `suite` ask for.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from lsf_jax import registry
from lsf_jax.registry import ALGO, ENV, plugins
from lsf_jax.settings import ConfigError, user_path

SECTIONS = ("env", "train", "preset", "suite")
"""The subfolders of a folder of configurations."""
VARIABLE = "LSF_JAX_CONFIGS"
"""Environment variable that names folders of the user's own, as PATH names folders of programs."""
Files: TypeAlias = dict[str, dict[str, Path]]
"""Section -> name -> path."""


def config_folder() -> Path:
    """The folder with the shipped YAML files: inside an installed package, beside the package in a checkout.

    Returns:
      A folder with the subfolders env, train, preset and suite.

    Raises:
      ConfigError: if there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train" / "default.yaml").is_file():
            return folder
    raise ConfigError(
        f"no configs folder in or beside {package}; expected one with train/default.yaml; reinstall lsf-jax"
    )


def search_path(config_dirs: Iterable[str | Path] = ()) -> tuple[Path, ...]:
    """All folders of configurations, each once: the shipped one, those of plug-ins, of LSF_JAX_CONFIGS and those given.

    Args:
      config_dirs: the user's own folders; "~" is understood.

    Raises:
      ConfigError: if one of them is no folder.
    """
    variable = [word for word in os.environ.get(VARIABLE, "").split(os.pathsep) if word]
    named = [(word, f"${VARIABLE}") for word in variable] + [(word, "--config-dir") for word in config_dirs]
    folders = [config_folder().resolve(), *plugins.config_folders()]
    for word, source in named:
        folder = user_path(source, word)
        if not any((folder / section).is_dir() for section in SECTIONS):
            problem = (
                "holds none of these" if folder.is_dir() else "is no folder" if folder.exists() else "does not exist"
            )
            raise ConfigError(
                f"{source} {word} {problem}; expected a folder with {', '.join(SECTIONS[:-1])} or suite in it"
            )
        folders.append(folder.resolve())
    return tuple(dict.fromkeys(folders))


def config_files(section: str, config_dirs: Iterable[str | Path] = ()) -> dict[str, Path]:
    """Name -> path of the files of a section; names may contain "/".

    Args:
      section: one of `SECTIONS`.
      config_dirs: the user's own folders, searched beside the shipped one.

    Raises:
      ConfigError: if two folders have a file of one name, or one of them is no folder.
    """
    found: dict[str, Path] = {}
    for folder in search_path(config_dirs):
        for path in sorted(path for path in (folder / section).rglob("*.yaml") if path.is_file()):
            name = path.relative_to(folder / section).with_suffix("").as_posix()
            if name in found:
                raise ConfigError(f"{section} {name!r} is both {found[name]} and {path}; rename or remove one")
            found[name] = path
    return found


def named_files(config_dirs: Iterable[str | Path] = ()) -> Files:
    """The files of every section; see `config_files`."""
    folders = tuple(config_dirs)
    return {section: config_files(section, folders) for section in SECTIONS}


def source_of(path: Path) -> str:
    """A named file as messages call it: one that is shipped by its place in `configs`, the user's own by its path."""
    folder = config_folder().resolve()
    inside = path.is_relative_to(folder)
    return f"configs/{path.relative_to(folder).as_posix()}" if inside else str(path)


def text_of(path: Path) -> str:
    """The text of a named file.

    Raises:
      ConfigError: if it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read config {path}: {reason}; expected a readable YAML file") from None


def list_names(config_dirs: Iterable[str | Path] = ()) -> dict[str, list[tuple[str, str]]]:
    """What can be asked for by name, section by section, each with its line for people.

    Args:
      config_dirs: the user's own folders, searched beside the shipped one.

    Returns:
      Of "algo" and "env" what is registered, with `Entry.doc`; of "env" the files too, and of "train", "preset" and
      "suite" the files alone, each with its first comment line.

    Raises:
      ConfigError: for folders that are none, and names that are there twice.
    """
    registered = {kind: _registered(kind) for kind in (ALGO, ENV)}
    found = named_files(config_dirs)
    refuse_shadows(registered["env"], found)
    lines = {
        section: {name: headline(text_of(path)) + _whose(path) for name, path in named.items()}
        for section, named in found.items()
    }
    return {
        section: sorted((registered.get(section, {}) | lines.get(section, {})).items())
        for section in ("algo", *SECTIONS)
    }


def _registered(kind: str) -> dict[str, str]:
    """Name -> line of the registered entries of a kind; where those of ours are not imported, nothing is."""
    theirs = {
        name: f"{registry.TABLES[kind][name].doc} (plug-in {by.name})" for name, by in plugins.added(kind).items()
    }
    return registry.shipped(registry.PACKAGES[kind]) | theirs


def _whose(path: Path) -> str:
    """The end of a file's line: the plug-in that brings it, if one does."""
    owners = [name for folder, name in plugins.config_folders().items() if path.is_relative_to(folder)]
    return f" (plug-in {owners[0]})" if owners else ""


def refuse_shadows(registered: Iterable[str], found: Files) -> None:
    """Complain about a file that bears the name of a registered environment: one could not be asked for.

    Raises:
      ConfigError: for the first such file.
    """
    for name in registered:
        if name in found["env"]:
            raise ConfigError(f"env {name!r} is both registered and the file {found['env'][name]}; rename the file")


def headline(text: str) -> str:
    """What a file's first line says about it, if that is a comment."""
    first = text.partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
