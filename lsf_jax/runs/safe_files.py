"""Files in a run folder, found and opened so that nothing outside the folder is reached or harmed.

A run folder may come from anyone. Below its root, which may itself be a link, no component of a path is a link, and
where a file belongs lies a plain file: no folder, pipe or device. Everything that the package keeps there is found with

    path = file_inside(run, "initial.safetensors")  # or folder_inside(run, "metrics", "train")

which refuses anything else in one line, read with `read_bytes`, and written with `replacing`, whole or not at all.
"""

import contextlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import psutil

from lsf_jax.settings import ConfigError

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
BINARY = getattr(os, "O_BINARY", 0)  # Windows alone tells text from bytes
_LEFTOVER = re.compile(r"\.tmp-.+-(\d{1,9})")
_KINDS: tuple[tuple[Callable[[int], bool], str], ...] = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)


class RunFolderError(ConfigError):
    """A run folder that cannot be made or used; the message is one line that names the file or key and the remedy."""


def file_inside(run: Path, *names: str) -> Path:
    """The path of a file that belongs into a run folder.

    Args:
      run: the run folder.
      *names: of the folders below it and of the file, one for each level; none need exist.

    Returns:
      The path, `run/names[0]/...`.

    Raises:
      RunFolderError: a component is a link, or something that is there is no folder or no plain file.
    """
    return _inside(run, names, "a file")


def folder_inside(run: Path, *names: str) -> Path:
    """The path of a folder that belongs into a run folder, as `file_inside` gives that of a file.

    Args:
      run: the run folder.
      *names: of the folders below it, one for each level; none need exist.

    Raises:
      RunFolderError: a component is a link or no folder.
    """
    return _inside(run, names, "a folder")


def _inside(run: Path, names: tuple[str, ...], expected: str) -> Path:
    wanted = run.joinpath(*names)
    path = run
    for level, name in enumerate(names, 1):
        path = path / name
        try:
            found = _kind(path.lstat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return wanted
        except OSError as error:
            raise RunFolderError(f"{path} cannot be looked at ({error.strerror}); is it yours?") from error
        _check_kind(path, found, expected if level == len(names) else "a folder")
    return wanted


def _kind(mode: int) -> str:
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "a device")


def _check_kind(path: Path, found: str, expected: str) -> None:
    if found == "a link":
        raise RunFolderError(f"{path} is a link; links in a run folder are not followed; put {expected} there instead")
    if found != expected:
        raise RunFolderError(f"{path} is {found}; expected {expected}; move it away")


def open_plain(path: Path, flags: int) -> int:
    """Open a plain file without following a link and without waiting for a pipe's other end.

    Args:
      path: the file, from `file_inside`.
      flags: as for `os.open`.

    Returns:
      A descriptor, which the caller closes.

    Raises:
      RunFolderError: it is no plain file.
      OSError: it cannot be opened.
    """
    if path.is_symlink():  # where the system knows no O_NOFOLLOW, and for a clear word where it does
        _check_kind(path, "a link", "a file")
    descriptor = os.open(path, flags | NO_FOLLOW | BINARY, 0o666)
    try:
        _check_kind(path, _kind(os.fstat(descriptor).st_mode), "a file")
    except RunFolderError:
        os.close(descriptor)
        raise
    return descriptor


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a plain file.

    Args:
      path: the file, from `file_inside`.
      most: bytes that such a file can have; None for any number.

    Raises:
      RunFolderError: it is no plain file, or larger.
      OSError: it cannot be read.
    """
    with os.fdopen(open_plain(path, os.O_RDONLY), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise RunFolderError(f"{path} has {size:,} bytes; expected at most {most:,}; restore it from a copy")
        return file.read()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, open for writing, that takes the place of another when the `with` block ends without an error.

    After a crash the old content or the new is there, never half of one. A link of that name is replaced, not followed.

    Args:
      path: the file, from `file_inside`; its folder exists.

    Raises:
      OSError: it could not be written; the old one is untouched, and nothing is left beside it.
    """
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | BINARY, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def clear_leftovers(folder: Path) -> None:
    """Remove what `replacing` left in a folder when its process was killed.

    Args:
      folder: from `folder_inside`; may be missing.
    """
    for path in folder.glob(".tmp-*"):
        match = _LEFTOVER.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])) and not path.is_dir():
            path.unlink(missing_ok=True)


def fsync_directory(path: Path) -> None:
    """Make the names in a folder durable: after a rename, the rename itself.

    Args:
      path: an existing folder.

    Raises:
      OSError: the folder cannot be opened or flushed.
    """
    if os.name == "nt":  # folders cannot be opened there; the file system journals names
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_output(path: str | Path, data: bytes) -> None:
    """Write a file that a person asked for, a picture or a table: its place is theirs to choose, links included.

    Args:
      path: the file, replaced if it exists; its folder is made as needed.
      data: its content.

    Raises:
      ConfigError: it cannot be written there; the old file, if there is one, is untouched.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists() and not target.is_file() and not target.is_dir():  # a device, or somebody's pipe
            target.write_bytes(data)
            return
        with replacing(target) as file:
            file.write(data)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written ({error.strerror or error}); name a file in a folder that can be written to"
        ) from error
