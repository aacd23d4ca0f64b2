"""Saving and restoring a run, bit for bit.

A block of seeds has a folder with one complete checkpoint in it, `step-<iteration>`: the arrays, written by Orbax under
`arrays/`, and `manifest.json`, which names every array and the size and SHA-256 of every file. It is written beside its
predecessor under a temporary name, flushed, renamed, and only then is the predecessor removed, so a crash at any moment
leaves a complete one. Nothing is pickled, and nothing read here is ever unpickled.
"""

import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from lsf_jax.runs.leaves import LeafRecord, check_structure, is_key, leaf_records, record_of
from lsf_jax.runs.manifest import (
    MANIFEST,
    CheckpointError,
    SaveError,
    one_line,
    read_manifest,
    verify,
    write_manifest,
)
from lsf_jax.runs.safe_files import folder_inside, fsync_directory
from lsf_jax.runs.schemas import BlockMeta, conform

ARRAYS = "arrays"
CHUNK_BYTES = 64 * 2**20  # larger arrays are compressed and written in pieces of about this size
LEAF_OVERHEAD_BYTES = 2048  # names, shapes and chunk index of one array, generously
FIXED_OVERHEAD_BYTES = 256 * 1024


def block_folder(run: Path, index: int) -> Path:
    """Where one block of a run keeps its checkpoints.

    Args:
      run: the run folder.
      index: of the block.

    Raises:
      RunFolderError: something else is there, a link for example.
    """
    return folder_inside(run, "checkpoints", f"block-{index:04d}")


def save(folder: Path, step: int, state: PyTree, meta: Mapping[str, Any], *, filled: int | None) -> Path:
    """Write a complete checkpoint, then remove older ones.

    Returns when the data is on disk. Arrays come to the host one by one and are cut there, so the device needs no extra
    memory. Hold `folder.lock` on the run meanwhile: one writer per folder.

    Args:
      folder: where this block of seeds keeps its checkpoints; made if missing.
      step: the iteration, which orders checkpoints. A step saved again is called `step-<step>-r1`.
      state: a `TrainState` of K seeds; any pytree of arrays whose entry `buffer`, if any, has leaves
        `[K, capacity, ...]`. Typed random keys are allowed.
      meta: what goes with it, JSON-ready (tuples come back as lists): configuration, block, versions.
      filled: episodes that replay was given so far, clock.episodes: of each ring at most so many entries hold data, and
        the rest must be zero. None saves all.

    Returns:
      The checkpoint's folder.

    Raises:
      CheckpointError: no room, not writable, a later checkpoint is there, or `meta` is not JSON. Older checkpoints are
        then as they were.
    """
    records = leaf_records(state, filled)
    content = {"step": step, "meta": _as_json(meta), "leaves": [record._asdict() for record in records]}
    _prepare(folder, step, checkpoint_bytes(state, filled))
    temporary = folder / f"tmp-{step:09d}-{os.getpid()}"
    try:
        temporary.mkdir()
        _write_arrays(temporary / ARRAYS, state, records)
        write_manifest(temporary, content)
        final = _unused_name(folder, step)
        os.rename(temporary, final)
        fsync_directory(folder)
    except (OSError, ValueError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SaveError(
            f"checkpoint in {folder} could not be written ({one_line(error)}); earlier checkpoints are untouched"
        ) from error
    remove(folder, [path for path in checkpoints(folder) if path != final])
    return final


def restore(folder: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Read the newest checkpoint of a folder after checking every file of it.

    Args:
      folder: where `save` wrote.
      like: the state's structure, `jax.ShapeDtypeStruct` leaves (`jax.eval_shape` of its initialisation). A leaf with a
        sharding is placed by it, others on the default device.

    Returns:
      The state, the same bits that were saved, replay padded with zeros to its capacity; and `meta`.

    Raises:
      CheckpointError: there is none, it is damaged or foreign, or it does not have the structure of `like`. Files are
        left alone; the message says which older checkpoint is complete, if one is.
    """
    path, body = _whole(folder)
    records = _checked_records(path, body, like)
    try:
        stored = _in_thread(lambda: _read_arrays(path / ARRAYS, records))
    except Exception as error:  # whatever Orbax makes of files that it did not write
        raise CheckpointError(f"checkpoint {path} cannot be read by Orbax ({one_line(error)})") from error
    leaves, structure = jax.tree_util.tree_flatten(like)
    placed = [_place(stored.pop(record.name, None), record, leaf) for record, leaf in zip(records, leaves, strict=True)]
    return jax.tree_util.tree_unflatten(structure, placed), body["meta"]


def _whole(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint and its manifest, every file checked."""
    path = newest(folder)
    try:
        return path, verify(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_advice(path)}") from error


def _checked_records(path: Path, body: dict[str, Any], like: PyTree) -> list[LeafRecord]:
    records = [record_of(entry) for entry in body["leaves"]]
    check_structure(path, records, leaf_records(like, None))
    return records


def read_meta(folder: Path) -> tuple[int, dict[str, Any]]:
    """Read what was saved with the newest checkpoint without reading its arrays.

    Args:
      folder: where `save` wrote.

    Returns:
      The step and `meta`.

    Raises:
      CheckpointError: there is none, or its manifest is damaged or foreign.
    """
    path = newest(folder)
    try:
        body = read_manifest(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {_advice(path)}") from error
    if body["step"] != (_order(path) or (0, 0))[0]:
        raise CheckpointError(f"checkpoint {path} was renamed: it is of step {body['step']}")
    return body["step"], body["meta"]


def read_block(run: Path, index: int) -> BlockMeta | None:
    """Read what a run saved with the newest checkpoint of one of its blocks, None where it has none yet.

    Another process may be training the block: what its next checkpoint takes away meanwhile is no damage.

    Args:
      run: the run folder.
      index: of the block.

    Raises:
      CheckpointError: its manifest is damaged or foreign, or of another block.
      RunFolderError: something else than a folder is there.
    """
    folder = block_folder(run, index)
    path = latest(folder)
    if path is None:
        return None
    try:
        body = read_meta(folder)[1]
    except CheckpointError:
        if latest(folder) == path:
            raise
        return read_block(run, index)
    meta = conform(body, BlockMeta, path / MANIFEST)
    if meta.block != index:
        raise CheckpointError(f"{path / MANIFEST} is of block {meta.block}; expected block {index}; restore its own")
    return meta


def examine(folder: Path, like: PyTree) -> None:
    """Check the newest checkpoint as `restore` would, without reading its arrays.

    Args:
      folder: where `save` wrote.
      like: the state's structure, as for `restore`.

    Raises:
      CheckpointError: there is none, it is damaged or foreign, or it does not have the structure of `like`.
    """
    path, body = _whole(folder)
    _checked_records(path, body, like)


def checkpoints(folder: Path) -> list[Path]:
    """List a folder's checkpoints, oldest first; leftovers of interrupted writes are not among them.

    Args:
      folder: where `save` writes; may be missing.

    Returns:
      Paths, ordered by step and then by how often that step was saved.
    """
    found = [(_order(path), path) for path in folder.glob("step-*") if _order(path) is not None]
    return [path for _, path in sorted(found)]


def latest(folder: Path) -> Path | None:
    """Find a folder's newest checkpoint by name, without opening it.

    Args:
      folder: where `save` writes; may be missing.

    Returns:
      Its path, or None.
    """
    return next(reversed(checkpoints(folder)), None)


def checkpoint_bytes(like: PyTree, filled: int | None) -> int:
    """Bound the disk that one checkpoint needs; while a new one is written, two are there.

    Args:
      like: the state, or its `jax.ShapeDtypeStruct` structure.
      filled: episodes that replay was given so far; None for all of its capacity.

    Returns:
      Bytes. Compression usually makes it less: an upper bound, 1 % above the arrays plus names and checksums.
    """
    records = leaf_records(like, filled)
    arrays = sum(_stored_bytes(record) for record in records)
    return arrays + arrays // 100 + LEAF_OVERHEAD_BYTES * len(records) + FIXED_OVERHEAD_BYTES


def free_bytes(folder: Path) -> int:
    """Measure the room on the disk that holds, or will hold, a folder.

    Args:
      folder: need not exist yet.

    Returns:
      Bytes that this user may still write.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def _prepare(folder: Path, step: int, needed: int) -> None:
    newest = latest(folder)
    if newest is not None and (_order(newest) or (0, 0))[0] > step:
        raise CheckpointError(
            f"{folder} holds {newest.name}, later than step {step}; resume from it, or delete it to go on from here"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fsync_directory(folder.parent)
        remove(folder, [])
    except OSError as error:
        raise SaveError(f"checkpoint folder {folder} is not writable ({error.strerror})") from error
    free = free_bytes(folder)
    if free < needed:
        raise SaveError(
            f"checkpoint in {folder} needs {needed / 2**20:.1f} MiB and the disk has {free / 2**20:.1f} MiB free; make "
            "room or lower train.buffer_capacity; earlier checkpoints are untouched"
        )


def _write_arrays(path: Path, state: PyTree, records: list[LeafRecord]) -> None:
    arrays = {}
    for record, leaf in zip(records, jax.tree_util.tree_leaves(state), strict=True):
        if record.name in arrays:
            raise ValueError(f"two arrays of the state are called {record.name}")
        if 0 not in record.stored_shape:  # Orbax refuses empty arrays
            arrays[record.name] = _host_data(leaf, record)
    arguments = {name: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES) for name in arrays}
    _in_thread(lambda: _orbax_save(path, arrays, arguments))
    (path / "commit_success.txt").unlink(missing_ok=True)  # only repeats the absolute path, which is private


def _orbax_save(path: Path, arrays: dict[str, np.ndarray], arguments: dict[str, ocp.SaveArgs]) -> None:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(arrays, save_args=arguments))


def _host_data(leaf: Any, record: LeafRecord) -> np.ndarray:
    data = np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)
    return data if data.shape == record.stored_shape else data[:, : record.stored_shape[1]]


def _unused_name(folder: Path, step: int) -> Path:
    orders = [_order(path) for path in checkpoints(folder)]
    repeat = max((order[1] + 1 for order in orders if order is not None and order[0] == step), default=0)
    return folder / (f"step-{step:09d}-r{repeat}" if repeat else f"step-{step:09d}")


def remove(folder: Path, old: list[Path]) -> None:
    """Remove what interrupted writes left in a block's folder, and older checkpoints.

    Args:
      folder: where `save` writes.
      old: checkpoints there that have a complete successor.
    """
    left = [path for path in folder.glob("tmp-*") if re.fullmatch(r"tmp-\d{9,}-\d+", path.name)]
    for path in (*old, *left):
        shutil.rmtree(path, ignore_errors=True)  # what cannot be removed does no harm: the newest counts


def newest(folder: Path) -> Path:
    """A folder's newest checkpoint by name.

    Raises:
      CheckpointError: there is none.
    """
    path = latest(folder)
    if path is None:
        raise CheckpointError(f"there is no checkpoint in {folder}; the run cannot be resumed from there")
    return path


def _advice(path: Path) -> str:
    for older in reversed([other for other in checkpoints(path.parent) if other != path]):
        try:
            verify(older)
        except CheckpointError:
            continue
        return f"{older.name} beside it is complete: delete {path.name} to resume from that one"
    return "there is no complete older checkpoint beside it; nothing was changed"


def _read_arrays(path: Path, records: list[LeafRecord]) -> dict[str, np.ndarray]:
    wanted = {record.name: record for record in records if 0 not in record.stored_shape}
    arguments = ocp.args.PyTreeRestore(
        item=dict.fromkeys(wanted, 0), restore_args={name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        _check_sizes(checkpointer.metadata(path.absolute()).item_metadata.tree, wanted)
        return dict(checkpointer.restore(path.absolute(), args=arguments))


def _check_sizes(found: Mapping[str, Any], wanted: dict[str, LeafRecord]) -> None:
    """Whether the arrays on disk are those of the manifest, before memory is taken for them."""
    for name, record in wanted.items():
        shape, dtype = tuple(found[name].shape), str(np.dtype(found[name].dtype))
        expected = "uint32" if record.dtype.startswith("key<") else record.dtype
        if (shape, dtype) != (record.stored_shape, expected):
            raise ValueError(f"{name} is {dtype}{list(shape)} where {expected}{list(record.stored_shape)} is expected")


def _place(data: np.ndarray | None, record: LeafRecord, leaf: Any) -> jax.Array:
    keyed = is_key(leaf)
    full_shape = tuple(jax.eval_shape(jax.random.key_data, leaf).shape) if keyed else record.shape
    if data is None or data.shape != full_shape:
        padded = np.zeros(full_shape, np.uint32 if keyed else leaf.dtype)
        if data is not None:
            padded[:, : data.shape[1]] = data
        data = padded
    value = jax.random.wrap_key_data(jnp.asarray(data), impl=record.key_impl) if keyed else data
    sharding = getattr(leaf, "sharding", None)
    # Twice: on a CPU the first may share NumPy's memory, which could not be donated to the next training step (and
    # `may_alias=False` is not heeded for NumPy arrays).
    return jax.device_put(jax.device_put(value, sharding), sharding, may_alias=False)


def _stored_bytes(record: LeafRecord) -> int:
    itemsize = 4 if record.dtype.startswith("key<") else jnp.dtype(record.dtype).itemsize
    return itemsize * int(np.prod(record.stored_shape, dtype=np.int64))


def _order(path: Path) -> tuple[int, int] | None:
    match = re.fullmatch(r"step-(\d{9,})(?:-r(\d+))?", path.name)
    return None if match is None else (int(match[1]), int(match[2] or 0))


def _as_json(meta: Mapping[str, Any]) -> Any:
    try:
        return json.loads(json.dumps(dict(meta)))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"checkpoint meta must be JSON ({one_line(error)})") from error


def _in_thread(work: Any) -> Any:
    # Orbax runs an event loop and leaves its thread without one; in a notebook the calling thread has its own.
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(work).result()
