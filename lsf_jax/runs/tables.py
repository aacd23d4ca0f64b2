"""The tables of a run: tidy Parquet in part files, written atomically. Host only: NumPy and pyarrow, no JAX.

    <run folder>/metrics/<table>/part-<first iteration>-<block>.parquet

Every part is complete or absent: it is written under a temporary name, synced, renamed, and its folder synced
(`safe_files.replacing`). The same rows give the same table however they were cut into parts. A row is one (seed,
iteration); missing metrics are NaN.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lsf_jax.runs import safe_files
from lsf_jax.runs.safe_files import RunFolderError, file_inside, folder_inside

SCHEMA_VERSION = 1
KEY_COLUMNS: dict[str, pa.DataType] = {
    "row": pa.int32(),
    "grid": pa.int32(),
    "seed": pa.int64(),
    "iteration": pa.int64(),
    "env_steps": pa.int64(),
    "episodes": pa.int64(),
    "updates": pa.int64(),
    "final": pa.bool_(),
}
"""Columns that say which row this is, in their order in every table:

`row` index in (grid points × seeds) · `grid` index of the hyper-parameter grid point · `seed` the seed's number ·
`iteration` common to all seeds · `env_steps` valid environment steps of this seed · `episodes`, `updates` so far ·
`final` (evaluations) True for the one evaluation of the parameters taken at the budget.
"""
REQUIRED_COLUMNS = ("row", "seed", "iteration", "env_steps")

_PART_NAME = re.compile(r"part-(\d{9})-(\d{4})\.parquet")
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*")
_VERSION_KEY, _TABLE_KEY = b"lsf_jax.schema_version", b"lsf_jax.table"


def table_folder(folder: Path, table: str) -> Path:
    """Where the parts of one table lie.

    Args:
      folder: the run folder.
      table: name of the table, for example "train" or "eval"; lower-case letters, digits and underscores.

    Returns:
      `<folder>/metrics/<table>`; it need not exist.

    Raises:
      ValueError: the name is not a plain word, or something else than folders is there.
    """
    if not _TABLE_NAME.fullmatch(table):
        raise ValueError(f"table {table!r} is not a table name; use lower-case letters, digits and underscores.")
    return folder_inside(Path(folder), "metrics", table)


def part_path(folder: Path, table: str, block: int, first_iteration: int) -> Path:
    """Path of one part.

    Args:
      folder: the run folder.
      table: name of the table.
      block: which block of seeds wrote it, 0..9999.
      first_iteration: lower bound of the part's iterations, 0..999,999,999.

    Returns:
      The path; names sort by first iteration, then block.

    Raises:
      ValueError: a number that does not fit the name.
    """
    if not 0 <= block <= 9999:
        raise ValueError(f"block {block} is outside 0..9999; use wider blocks of seeds.")
    if not 0 <= first_iteration <= 999_999_999:
        raise ValueError(f"first_iteration {first_iteration} is outside 0..999999999.")
    return table_folder(folder, table) / f"part-{first_iteration:09d}-{block:04d}.parquet"


def part_paths(folder: Path, table: str, block: int | None = None) -> list[Path]:
    """The complete parts of one table, in order of first iteration, then block.

    Args:
      folder: the run folder.
      table: name of the table.
      block: only the parts of this block; None for all.

    Returns:
      Paths; empty when nothing has been written yet. Temporary files are not parts.

    Raises:
      ValueError: a Parquet file in the folder that does not bear a part's name, or is no plain file.
    """
    paths = sorted(path for path in table_folder(folder, table).glob("*.parquet"))
    for path in paths:
        file_inside(path.parent, path.name)
        if not _PART_NAME.fullmatch(path.name):
            raise RunFolderError(f"{path} is not named like a part (part-<iteration>-<block>.parquet); move it away.")
    return [path for path in paths if block is None or _part_numbers(path)[1] == block]


def write_part(folder: Path, table: str, block: int, first_iteration: int, columns: Mapping[str, np.ndarray]) -> Path:
    """Writes rows of one block as one part, atomically; a part of the same name is replaced.

    Floating-point columns are stored as float32 (`[rows]`, or `[rows, size]` as fixed-size lists), integers as int64,
    Booleans as such, and the columns of `KEY_COLUMNS` in the type given there.

    Args:
      folder: the run folder; the table's folder is made as needed.
      table: name of the table.
      block: which block of seeds the rows come from.
      first_iteration: lower bound of the rows' iterations; with `block` it names the part.
      columns: NumPy arrays of equal length. `row`, `seed`, `iteration` and `env_steps` are required.

    Returns:
      The path of the part, which is on disk when this returns.

    Raises:
      ValueError: missing or ragged columns, iterations below `first_iteration`, or columns that differ from those of
        the table's other parts.
      OSError: the disk is full or not writable; no part and no temporary file is left behind.
    """
    path = part_path(folder, table, block, first_iteration)
    content = _to_arrow(table, columns)
    if content.num_rows and int(np.min(columns["iteration"])) < first_iteration:
        raise ValueError(f"first_iteration {first_iteration} lies above the part's own iterations ({table}).")
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [other for other in part_paths(folder, table) if other != path]
    if others:
        _check_same_columns(content.schema, _read_schema(others[-1], table), others[-1])
    _write_atomically(path, content)
    return path


def drop_from(folder: Path, table: str, block: int, iteration: int) -> int:
    """Removes a block's rows at or after `iteration`: what a resumed run is about to write again.

    Parts that begin at or after it are deleted, a part that straddles it is rewritten atomically without the later
    rows, and temporary files that a killed run left behind are removed. Other blocks are left alone.

    Args:
      folder: the run folder.
      table: name of the table.
      block: the block that resumes.
      iteration: first iteration to drop; rows with a smaller one stay.

    Returns:
      How many rows were dropped.

    Raises:
      ValueError: a truncated or foreign part that would have to be rewritten; nothing has been changed then.
    """
    paths = part_paths(folder, table, block)
    keep = [path for path in paths if _part_numbers(path)[0] < iteration]
    ends = [_read_part(path, table, ["iteration"])["iteration"].to_numpy().max(initial=-1) for path in keep]
    straddling = [(path, _read_part(path, table)) for path, end in zip(keep, ends, strict=True) if end >= iteration]
    for pattern in (
        f".tmp-part-*-{block:04d}.parquet-*",
        f"part-*-{block:04d}.parquet.tmp",
    ):  # the latter: earlier versions
        for leftover in table_folder(folder, table).glob(pattern):
            leftover.unlink()
    n_dropped = 0
    for path in reversed(paths[len(keep) :]):  # newest first: killed halfway, what is left has no hole
        n_dropped += _count_rows(path)
        path.unlink()
    for path, content in reversed(straddling):
        stays = content["iteration"].to_numpy() < iteration
        n_dropped += int(np.sum(~stays))
        _write_atomically(path, content.filter(pa.array(stays)))
    if paths:
        safe_files.fsync_directory(table_folder(folder, table))
    return n_dropped


def check_parts(
    folder: Path,
    table: str,
    block: int,
    before: int | None = None,
    *,
    columns: Sequence[str] = (),
    limits: Mapping[str, range] = MappingProxyType({}),
) -> None:
    """Reads a block's parts to their ends, so that damage is noticed before a run goes on, not after.

    Args:
      folder: the run folder.
      table: name of the table.
      block: which block of seeds.
      before: parts that begin at this iteration or later are not looked at: they are about to be dropped. None looks
        at all.
      columns: what every part must have besides `REQUIRED_COLUMNS`.
      limits: columns of whole numbers -> what may be in them, where they are there.

    Raises:
      RunFolderError: a part is truncated, foreign, of another version or of other columns or rows; the file is named.
    """
    schema = None
    for path in part_paths(folder, table, block):
        if before is None or _part_numbers(path)[0] < before:
            content = _read_part(path, table)
            _check_same_columns(content.schema, schema or content.schema, path)
            schema = content.schema
            if missing := [name for name in columns if name not in schema.names]:
                raise RunFolderError(f"{path} is damaged: it has no column {missing[0]}; move it away.")
            for name in (name for name in limits if name in schema.names):
                _check_limits(path, content, name, limits[name])


def _check_limits(path: Path, content: pa.Table, name: str, values: range) -> None:
    found = content[name].to_numpy()
    if len(found) and not values.start <= found.min() <= found.max() < values.stop:
        raise RunFolderError(
            f"{path} is of another run: its column {name} holds {found.min()} to {found.max()}, expected "
            f"{values.start} to {values.stop - 1}; move it away."
        )


def read_table(folder: Path, table: str) -> pa.Table:
    """Reads all parts of one table, sorted by row, then iteration, a final evaluation last.

    Args:
      folder: the run folder.
      table: name of the table.

    Returns:
      One chunk per column; the content does not depend on how the rows were cut into parts.

    Raises:
      ValueError: no part has been written, or one is truncated, foreign or of other columns (the file is named).
    """
    paths = part_paths(folder, table)
    if not paths:
        raise RunFolderError(f"{table_folder(folder, table)} holds no metrics yet.")
    contents = [_read_part(path, table) for path in paths]
    for path, content in zip(paths[1:], contents[1:], strict=True):
        _check_same_columns(content.schema, contents[0].schema, path)
    joined = pa.concat_tables(contents)
    final = joined["final"].to_numpy() if "final" in joined.column_names else np.zeros(joined.num_rows, bool)
    order = np.lexsort((final, joined["iteration"].to_numpy(), joined["row"].to_numpy()))
    return joined.take(pa.array(order)).combine_chunks()


def to_arrays(table: pa.Table) -> dict[str, np.ndarray]:
    """NumPy arrays of a table that `read_table` returned.

    Args:
      table: rows of one table.

    Returns:
      Column name -> `[rows]`, or `[rows, size]` for fixed-size lists.
    """
    return {name: _column_array(table[name].combine_chunks()) for name in table.column_names}


def _column_array(column: pa.Array) -> np.ndarray:
    if isinstance(column, pa.ChunkedArray):  # an empty table stays chunked
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
    return column.to_numpy(zero_copy_only=False)


def _part_numbers(path: Path) -> tuple[int, int]:
    first_iteration, block = path.name.removeprefix("part-").removesuffix(".parquet").split("-")
    return int(first_iteration), int(block)


def _to_arrow(table: str, columns: Mapping[str, np.ndarray]) -> pa.Table:
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"columns of table {table!r} lack {', '.join(missing)}; every row names its seed and moment.")
    lengths = {name: np.shape(column)[0] if np.ndim(column) else 0 for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns of table {table!r} differ in length: {lengths}.")
    keys = [name for name in KEY_COLUMNS if name in columns]
    names = keys + sorted(set(columns) - set(keys))
    arrays = [_to_arrow_column(name, np.asarray(columns[name])) for name in names]
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode(), _TABLE_KEY: table.encode()}
    fields = [pa.field(name, array.type, nullable=False) for name, array in zip(names, arrays, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def _to_arrow_column(name: str, values: np.ndarray) -> pa.Array:
    if values.ndim not in (1, 2) or (name in KEY_COLUMNS and values.ndim != 1):
        raise ValueError(f"column {name!r} has shape {values.shape}; expected [rows] or, for a metric, [rows, size].")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"column {name!r} has dtype {values.dtype}; expected numbers or Booleans.")
    by_kind = {"f": pa.float32(), "i": pa.int64(), "u": pa.int64(), "b": pa.bool_()}
    kind = KEY_COLUMNS.get(name, by_kind[values.dtype.kind])
    flat = pa.array(np.ascontiguousarray(values).reshape(-1).astype(kind.to_pandas_dtype()), type=kind)
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _check_same_columns(found: pa.Schema, expected: pa.Schema, path: Path) -> None:
    if found.equals(expected, check_metadata=False):
        return
    different = sorted({field.name for field in set(found) ^ set(expected)})
    raise RunFolderError(
        f"{path}: the table's parts differ in the columns {', '.join(different)}; all share one schema."
    )


def _read_schema(path: Path, table: str) -> pa.Schema:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path} is truncated or no Parquet file; move it away. ({_first_line(error)})") from error
    _check_ours(schema, path, table)
    return schema


def _read_part(path: Path, table: str, columns: list[str] | None = None) -> pa.Table:
    try:
        # From memory and without Arrow's threads: for small files they gain nothing, and a process that ends soon after
        # they started can abort (seen with pyarrow 26, once in about 100 exits).
        file = pq.ParquetFile(pa.BufferReader(safe_files.read_bytes(path)), pre_buffer=False)
        _check_ours(file.schema_arrow, path, table)
        content = file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path} is truncated or no Parquet file; move it away. ({_first_line(error)})") from error
    _check_values(content, path)
    return content


def _count_rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return 0  # unreadable, and about to be deleted anyway


def _check_ours(schema: pa.Schema, path: Path, table: str) -> None:
    metadata = schema.metadata or {}
    version, name = metadata.get(_VERSION_KEY), metadata.get(_TABLE_KEY)
    if version is None or name is None:
        raise RunFolderError(f"{path} was not written by lsf_jax (no schema version in it); move it away.")
    if version != str(SCHEMA_VERSION).encode():
        raise RunFolderError(f"{path} has schema version {_text(version)}, this lsf_jax reads {SCHEMA_VERSION}.")
    if name != table.encode():
        raise RunFolderError(f"{path} belongs to the table {_text(name)!r}, not {table!r}; move it there.")
    missing = [column for column in REQUIRED_COLUMNS if column not in schema.names]
    if missing:
        raise RunFolderError(f"{path} is damaged: it has no column {missing[0]}; move it away.")
    for field in schema:
        if not _is_allowed(field):
            raise RunFolderError(f"{path} is damaged: its column {field.name} is of type {field.type}; move it away.")


def _is_allowed(field: pa.Field) -> bool:
    """Whether `write_part` would have made a column of this name and type."""
    if field.name in KEY_COLUMNS:
        return field.type == KEY_COLUMNS[field.name]
    kind = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
    return kind in (pa.float32(), pa.int64(), pa.bool_())


def _check_values(content: pa.Table, path: Path) -> None:
    for name in content.column_names:
        column = content[name]
        if column.null_count:
            raise RunFolderError(f"{path} is damaged: its column {name} has gaps; move it away.")
        if name in KEY_COLUMNS and name != "final" and content.num_rows and column.to_numpy().min() < 0:
            raise RunFolderError(f"{path} is damaged: its column {name} has numbers below 0; move it away.")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _write_atomically(path: Path, content: pa.Table) -> None:
    keys = [name for name in content.column_names if name in KEY_COLUMNS and name != "final"]
    floats = [field.name for field in content.schema if pa.types.is_floating(field.type)]
    # Bytes of floats compress when split, because neighbouring values share sign and exponent.
    encodings: dict[str, Any] = {"use_dictionary": keys, "use_byte_stream_split": floats}
    with safe_files.replacing(path) as file:
        pq.write_table(content, file, compression="zstd", **encodings)
