"""The folder of a run on disk: making it, locking it, writing small files into it safely, and reading it back.

Files are written so that a crash leaves the old file or the new one, never half of one.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lsf_jax.config.composition import Config, from_yaml
from lsf_jax.runs import safe_files, schemas
from lsf_jax.runs.safe_files import RunFolderError, file_inside, folder_inside
from lsf_jax.settings import ConfigError, user_path

try:
    import fcntl
except ImportError:  # Windows: runs work there, two processes in one folder are not noticed
    fcntl = None

CONFIG, CARD, CARD_TEXT = "config.yaml", "card.json", "card.md"
"""The configuration; what was run on what, and how it went; the protocol for people."""
CURVES = "curves-return.png"
"""The learning curve that training ends with."""
LOCK_NAME = ".lock"


def create(run_dir: str | Path, name: str) -> Path:
    """Make the new, empty folder of a run; an existing one is never touched.

    Args:
      run_dir: the folder that holds runs (key `train.run_dir`); made if missing.
      name: the run's name (key `train.name`), one path component.

    Returns:
      The path `run_dir/name`.

    Raises:
      RunFolderError: the name is not one path component, the folder exists, or it cannot be made.
    """
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise RunFolderError(f"train.name {name!r} is not a folder name; choose a name without '/' and other than '.'")
    path = user_path("train.run_dir", run_dir) / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError as error:
        if not path.parent.is_dir():
            raise RunFolderError(f"train.run_dir {str(run_dir)!r} is a file; set it to a folder") from error
        raise RunFolderError(
            f"train.name {name!r}: {path} exists and is left as it is; choose another train.name or train.run_dir,"
            " or continue that run with `lsf-jax resume`"
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"train.run_dir {str(run_dir)!r}: cannot make {path} ({error.strerror}); choose a folder you can write to"
        ) from error
    return path


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a run folder for this process while the `with` block lasts.

    The lock belongs to the open file, so it vanishes with the process however that ends; the small file `.lock` stays
    and means nothing by itself. On Windows this does nothing.

    Args:
      path: an existing run folder.

    Raises:
      RunFolderError: another process holds the folder, or the folder cannot be locked.
    """
    try:
        descriptor = safe_files.open_plain(file_inside(path, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_APPEND)
    except OSError as error:
        raise RunFolderError(f"run folder {path} cannot be locked ({error.strerror}); is it writable?") from error
    with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as file:
        if os.fstat(descriptor).st_nlink > 1:
            raise RunFolderError(f"{path / LOCK_NAME} is another file's second name; remove it")
        _take(file, path)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        for part in ((), ("policies",)):
            safe_files.clear_leftovers(folder_inside(path, *part))
        yield


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Replace a file's content; after a crash it holds all of the old or all of the new.

    Args:
      path: the file; its folder exists.
      data: the new content.

    Raises:
      OSError: the file could not be written; the old one is untouched.
    """
    with safe_files.replacing(path) as file:
        file.write(data)


def write_text_atomic(path: Path, text: str) -> None:
    """Replace a text file's content (UTF-8) as `write_bytes_atomic` does.

    Args:
      path: the file; its folder exists.
      text: the new content.

    Raises:
      OSError: the file could not be written; the old one is untouched.
    """
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace a JSON file's content (indented, keys in the order given) as `write_bytes_atomic` does.

    Args:
      path: the file; its folder exists.
      value: anything `json.dumps` takes.

    Raises:
      OSError: the file could not be written; the old one is untouched.
      TypeError: the value is not JSON; nothing is written.
    """
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Documents(NamedTuple):
    """The two documents that make a folder a run, as they lie there."""

    config: str  # text of `CONFIG`
    card: dict[str, Any]  # content of `CARD`


def read_documents(path: Path) -> Documents:
    """Read what a run folder says of itself; of the configuration only that it is text.

    Args:
      path: the run folder.

    Raises:
      ConfigError: it is no run folder, or one of the two files is damaged; the message names the file.
    """
    if not path.is_dir():
        raise ConfigError(f"{path} is not a run folder: there is no such folder; give the path that training printed")
    config = _readable(path, CONFIG, lambda file: safe_files.read_bytes(file, schemas.LARGEST_CONFIG).decode("utf-8"))
    card = _readable(path, CARD, schemas.read_json)
    schemas.conform(card, schemas.Card, path / CARD)
    return Documents(config=config, card=card)


def read_layout(path: Path, card: dict[str, Any]) -> schemas.Layout:
    """The cut of a run into blocks, as its card tells it.

    Raises:
      RunFolderError: it does not.
    """
    if "layout" not in card:
        raise RunFolderError(f"{path / CARD} is damaged: it has no layout; restore it from a copy")
    return schemas.conform(card["layout"], schemas.Layout, path / CARD)


def read_run(path: Path, overrides: Sequence[str] = ()) -> tuple[Config, dict[str, Any]]:
    """Configuration and card of a run folder; for plain settings and the tables see `lsf_jax.load_run`.

    Args:
      path: the run folder.
      overrides: words such as "env.deadline=5", laid over its configuration. Code that the folder names is run only if
        they name it too.

    Raises:
      ConfigError: it is no run folder, one of the two files is damaged, or today's code does not know a setting.
    """
    documents = read_documents(path)
    return from_yaml(documents.config, str(path / CONFIG), overrides), documents.card


class Reading(NamedTuple):
    """A run folder as it is, and as words change it: from one look at its files."""

    saved: Config
    wanted: Config  # with the words laid over
    card: dict[str, Any]


def read_with(path: Path, overrides: Sequence[str]) -> Reading:
    """What `read_run` gives without overrides and with them.

    Args:
      path: the run folder.
      overrides: as for `read_run`.

    Raises:
      ConfigError: as `read_run`.
    """
    documents = read_documents(path)
    read = partial(from_yaml, documents.config, str(path / CONFIG))
    saved = read()
    return Reading(saved=saved, wanted=read(overrides) if overrides else saved, card=documents.card)


def _readable(path: Path, name: str, read: Callable[[Path], Any]) -> Any:
    """A document of a run folder; what makes it unreadable is one line."""
    try:
        return read(file_inside(path, name))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(
            f"{path} is not a run folder: it has no {name}; give the path that training printed"
        ) from None
    except UnicodeDecodeError:
        raise RunFolderError(f"{path / name} is damaged: no UTF-8 text; restore it from a copy") from None
    except OSError as error:
        raise RunFolderError(f"{path / name} cannot be read ({error.strerror}); is it yours?") from None


def _take(file: Any, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read(9).strip()
        name = holder if holder.isdecimal() else "unknown"
        raise RunFolderError(
            f"run folder {path} is in use by process {name}; wait for it or stop it, then try again"
        ) from error
    except OSError as error:
        raise RunFolderError(f"run folder {path} cannot be locked ({error.strerror}); choose another disk") from error
