"""Parameters as safetensors files: what users exchange. Reading one cannot run code."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from lsf_jax.runs import safe_files
from lsf_jax.runs.folder import write_bytes_atomic
from lsf_jax.runs.manifest import CheckpointError, SaveError, one_line


def save_params(path: Path, params: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write parameters as one safetensors file, atomically.

    Args:
      path: the file, usually called `*.safetensors`; replaced if it exists.
      params: nested dict of arrays; `{"actor": {"fc1": {"kernel": ...}}}` is stored under "actor/fc1/kernel".
      metadata: strings that travel with it, for example algorithm, environment, configuration.

    Raises:
      CheckpointError: a key contains "/", or the file cannot be written.
    """
    flat = {name: np.array(jax.device_get(leaf), order="C") for name, leaf in _flatten(params).items()}
    data = safetensors.numpy.save(flat, metadata=dict(metadata))
    try:
        write_bytes_atomic(path, data)
    except OSError as error:
        raise SaveError(f"parameters {path} could not be written ({error.strerror or error})") from error


def load_params(path: Path, like: Mapping[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Read parameters from a safetensors file; reading cannot run code.

    Args:
      path: a file that `save_params` wrote, or any safetensors file.
      like: the tree that the parameters must have, leaves with a shape; arrays in the file may have more axes in front.
        A file holds arrays only, so it cannot say where a group without any is (the mixer of VDN): `like` does.
        None takes the file as it is.

    Returns:
      Nested dict of NumPy arrays (names split at "/"), and the metadata.

    Raises:
      CheckpointError: the file is missing, not safetensors, cut short, or of another tree than `like`.
    """
    with _opened(path) as file:
        metadata = dict(file.metadata() or {})
        flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    return (_unflatten(path, flat) if like is None else _arrange(path, flat, like)), metadata


def read_metadata(path: Path) -> dict[str, str]:
    """The strings that travel with parameters; the arrays are left alone.

    Args:
      path: a safetensors file.

    Raises:
      CheckpointError: the file is missing, not safetensors, or cut short.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; whatever its reader makes of files that it did not write is one kind of error."""
    try:
        safe_files.file_inside(path.parent, path.name)
        with safetensors.safe_open(path, framework="np") as file:
            yield file
    except Exception as error:
        raise CheckpointError(
            f"parameters {path} cannot be read as safetensors ({one_line(error)}); "
            "give a .safetensors file, for example one from a run folder"
        ) from error


def _arrange(path: Path, flat: dict[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of a file in the places of another tree's leaves."""
    wanted = {name: tuple(leaf.shape) for name, leaf in _flatten(like).items()}
    in_front = {name: max(array.ndim - len(wanted[name]), 0) if name in wanted else 0 for name, array in flat.items()}
    found = {name: tuple(array.shape[in_front[name] :]) for name, array in flat.items()}
    differing = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if differing:
        is_there, expected = (_shape_text(shapes, differing[0]) for shapes in (found, wanted))
        raise CheckpointError(
            f"parameters {path} belong to another algorithm or other sizes: {differing[0]} is {is_there}, "
            f"expected {expected}; give a file of this run"
        )

    def place(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: place(value, f"{prefix}{key}/") if isinstance(value, Mapping) else flat[f"{prefix}{key}"]
            for key, value in tree.items()
        }

    return place(like, "")


def _shape_text(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    return str(list(shapes[name])) if name in shapes else "absent"


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if "/" in key:
            raise CheckpointError(f"parameter key {key!r} contains '/', which separates levels; rename it")
        flat |= _flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _unflatten(path: Path, flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise CheckpointError(f"parameters {path}: {name} lies inside another array; not a file of lsf_jax")
        node[last] = value
    return tree
