"""The arrays of a state by name: what a checkpoint holds of each, and whether that fits a state's structure."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from lsf_jax.runs.manifest import CheckpointError


class LeafRecord(NamedTuple):
    """One array of a state: what it is, and how much of it is on disk."""

    name: str  # path in the state, for example "agent/params/actor/gru/kernel"
    dtype: str  # of the array, for example "float32", "key<fry>"
    shape: tuple[int, ...]
    stored_shape: tuple[int, ...]  # of the data on disk; replay is cut to its filled part, keys are bits
    key_impl: str | None  # random keys: which generator, for example "threefry2x32"; None for a mere structure


def leaf_records(tree: PyTree, filled: int | None) -> list[LeafRecord]:
    """Describe the arrays of a state in the order in which JAX flattens it.

    Args:
      tree: arrays or `jax.ShapeDtypeStruct` leaves.
      filled: leaves under `buffer` keep at most this many entries of axis 1 on disk, each ring by its own capacity;
        None keeps all.

    Returns:
      One record per leaf.
    """
    records = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        data = jax.eval_shape(jax.random.key_data, leaf) if is_key(leaf) else leaf
        stored = tuple(data.shape)
        if filled is not None and name.split("/")[0] == "buffer":
            stored = (stored[0], min(filled, stored[1]), *stored[2:])
        impl = str(jax.random.key_impl(leaf)) if is_key(leaf) and isinstance(leaf, jax.Array) else None
        records.append(
            LeafRecord(name=name, dtype=str(leaf.dtype), shape=tuple(leaf.shape), stored_shape=stored, key_impl=impl)
        )
    return records


def check_structure(path: Path, saved: list[LeafRecord], expected: list[LeafRecord]) -> None:
    """Check that a checkpoint holds the arrays of a state, and as much of each as can be.

    Args:
      path: the checkpoint, for messages.
      saved: what its manifest says.
      expected: `leaf_records` of the state's structure.

    Raises:
      CheckpointError: they differ; the message names the first array that does.
    """
    for index in range(max(len(saved), len(expected))):
        ours = _describe(saved[index]) if index < len(saved) else "nothing more"
        theirs = _describe(expected[index]) if index < len(expected) else "nothing more"
        if ours != theirs:
            raise CheckpointError(
                f"checkpoint {path} belongs to another configuration: it holds {ours} where {theirs} is expected; "
                "resume with the configuration it was saved with, or start a new run"
            )
    for record, full in zip(saved, expected, strict=True):
        _check_stored(path, record, full)


def _check_stored(path: Path, record: LeafRecord, full: LeafRecord) -> None:
    """Only replay is cut, along its second axis; keys are of the generator that their type names."""
    cut = record.name.split("/")[0] == "buffer" and len(full.stored_shape) > 1
    fits = len(record.stored_shape) == len(full.stored_shape) and all(
        ours <= theirs if cut and axis == 1 else ours == theirs
        for axis, (ours, theirs) in enumerate(zip(record.stored_shape, full.stored_shape))
    )
    if not fits or (record.dtype.startswith("key<") and not _is_generator(record.key_impl, record.dtype)):
        stored = f"{list(record.stored_shape)} {record.key_impl or ''}".strip()
        raise CheckpointError(
            f"checkpoint {path} is damaged or foreign: of {_describe(record)} it stores {stored}, which cannot be"
        )


def _is_generator(name: str | None, dtype: str) -> bool:
    """Whether random keys of that type come from the generator of that name."""
    try:
        return name is not None and str(jax.eval_shape(lambda: jax.random.key(0, impl=name)).dtype) == dtype
    except (ValueError, TypeError):
        return False


def _describe(record: LeafRecord) -> str:
    return f"{record.name} {record.dtype}{list(record.shape)}"


def record_of(entry: dict[str, Any]) -> LeafRecord:
    """A record as a manifest holds it, read back."""
    return LeafRecord(
        name=entry["name"],
        dtype=entry["dtype"],
        shape=tuple(entry["shape"]),
        stored_shape=tuple(entry["stored_shape"]),
        key_impl=entry["key_impl"],
    )


def is_key(leaf: Any) -> bool:
    """Whether a leaf holds typed random keys."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))
