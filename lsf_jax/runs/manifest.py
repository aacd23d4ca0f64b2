"""The manifest of a checkpoint folder: what it holds, and checksums that tell a whole one from a damaged one."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from lsf_jax.runs import safe_files
from lsf_jax.runs.safe_files import RunFolderError, folder_inside, fsync_directory
from lsf_jax.runs.schemas import Manifest, problem_of

FORMAT = "lsf_jax checkpoint"
VERSION = 1
MANIFEST = "manifest.json"


class CheckpointError(ValueError):
    """A checkpoint or parameter file that cannot be written or used; the message is one line naming file and remedy."""


class SaveError(CheckpointError):
    """A checkpoint could not be written; those before it stand."""


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Complete a folder of data files: record format, content, and every file's size and SHA-256; flush all to disk.

    Args:
      folder: holds all data files, and no manifest yet.
      content: JSON-ready entries, added to the manifest's body as they are.

    Raises:
      OSError: a file cannot be read, written or flushed.
    """
    files = _plain_files(folder)
    table = {name: {"bytes": path.stat().st_size, "sha256": _file_digest(path)} for name, path in files.items()}
    body = {"format": FORMAT, "version": VERSION} | content | {"files": table}
    text = json.dumps({"sha256": _text_digest(body), "body": body}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    _fsync_tree(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a checkpoint's manifest and check it against its own checksum.

    Args:
      folder: one checkpoint.

    Returns:
      The body: what `write_manifest` was given, `format`, `version`, and `files`.

    Raises:
      CheckpointError: it is missing, unreadable, changed, or of another format or version.
    """
    try:
        folder_inside(folder.parent, folder.name)
        document = json.loads(safe_files.read_bytes(folder / MANIFEST).decode("utf-8"))
        digest, body = document["sha256"], document["body"]
        form, version = body["format"], body["version"]
        expected = _text_digest(body)
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {folder} is foreign or incomplete: it has no {MANIFEST}") from error
    except RunFolderError as error:
        raise CheckpointError(f"checkpoint {folder} is damaged or foreign: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {folder} is damaged or foreign: {MANIFEST} cannot be read") from error
    if digest != expected:
        raise CheckpointError(f"checkpoint {folder} is damaged: {MANIFEST} does not match its own checksum")
    if (form, version) != (FORMAT, VERSION):
        raise CheckpointError(
            f"checkpoint {folder} has format {form!r} version {version}, expected {FORMAT!r} version {VERSION}; "
            "use the lsf_jax version that wrote it"
        )
    problem = problem_of(body, Manifest)
    if problem is not None:
        raise CheckpointError(f"checkpoint {folder} is damaged or foreign: {MANIFEST}: {problem}")
    return body


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest, changing nothing.

    Args:
      folder: one checkpoint.

    Returns:
      The manifest's body.

    Raises:
      CheckpointError: the manifest or a file is missing, cut short or changed; the message names the first.
    """
    body = read_manifest(folder)
    present = _plain_files(folder)
    for name, entry in body["files"].items():
        if name not in present:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} is missing")
        size = present[name].stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} has {size} bytes, not {entry['bytes']}")
        if _file_digest(present[name]) != entry["sha256"]:
            raise CheckpointError(f"checkpoint {folder} is damaged: {name} does not match its checksum")
    return body


def _plain_files(folder: Path) -> dict[str, Path]:
    """All files of a checkpoint by their names below it; there is nothing else but folders in one."""
    found: dict[str, Path] = {}
    for directory, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(directory) / name
            if path.is_symlink() or (name in names and not path.is_file()):
                raise CheckpointError(f"checkpoint {folder} is damaged or foreign: {path} is no plain file")
            if name in names:
                found[path.relative_to(folder).as_posix()] = path
    return dict(sorted(found.items()))


def one_line(error: BaseException) -> str:
    """Shorten an exception's message to one line of at most 300 characters.

    Args:
      error: any exception.

    Returns:
      Its message, or its type's name where the message is empty.
    """
    return " ".join(str(error).split())[:300] or type(error).__name__


def _fsync_tree(folder: Path) -> None:
    for directory, _, names in os.walk(folder):
        for name in names:
            with open(Path(directory) / name, "rb+") as file:
                os.fsync(file.fileno())
        fsync_directory(Path(directory))


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text_digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
