"""The tables of a run: tidy Parquet in part files, written atomically. Host only: NumPy and pyarrow, no JAX.

    <run folder>/metrics/<table>/part-<first iteration>-<block>.parquet

Every part is complete or absent: it is written under a temporary name, synced, renamed, and its folder synced
(`safe_files.replacing`). The same rows give the same table however they were cut into parts. A row is one (seed,
iteration); missing metrics are NaN. The columns are described in `part_schema`.
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
from lsf_jax.runs.part_schema import (
    KEY_COLUMNS,
    check_ours,
    check_same_columns,
    check_values,
    is_setting,
    to_arrow,
)
from lsf_jax.runs.safe_files import RunFolderError, file_inside, folder_inside

_PART_NAME = re.compile(r"part-(\d{9})-(\d{4})\.parquet")
_TABLE_NAME = re.compile(r"[a-z][a-z0-9_]*")


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
    Booleans as such, and the columns of `KEY_COLUMNS` in the type given there. Settings (`part_schema.is_setting`) may
    be text too, and their numbers keep 64 bits.

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
    content = to_arrow(table, columns)
    if content.num_rows and int(np.min(columns["iteration"])) < first_iteration:
        raise ValueError(f"first_iteration {first_iteration} lies above the part's own iterations ({table}).")
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [other for other in part_paths(folder, table) if other != path]
    if others:
        check_same_columns(content.schema, _read_schema(others[-1], table), others[-1])
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
            check_same_columns(content.schema, schema or content.schema, path)
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
    """Reads keys and metrics of one table, sorted by row, then iteration, a final evaluation last.

    Settings are left out: they are those of the run's configuration, and parts of earlier versions have none.

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
    contents = [_without_settings(_read_part(path, table)) for path in paths]
    for path, content in zip(paths[1:], contents[1:], strict=True):
        check_same_columns(content.schema, contents[0].schema, path)
    joined = pa.concat_tables(contents)
    final = joined["final"].to_numpy() if "final" in joined.column_names else np.zeros(joined.num_rows, bool)
    order = np.lexsort((final, joined["iteration"].to_numpy(), joined["row"].to_numpy()))
    return joined.take(pa.array(order)).combine_chunks()


def _without_settings(content: pa.Table) -> pa.Table:
    content = content.select([name for name in content.column_names if not is_setting(name)])
    return content.replace_schema_metadata()


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


def _read_schema(path: Path, table: str) -> pa.Schema:
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path} is truncated or no Parquet file; move it away. ({_first_line(error)})") from error
    check_ours(schema, path, table)
    return schema


def _read_part(path: Path, table: str, columns: list[str] | None = None) -> pa.Table:
    try:
        # From memory and without Arrow's threads: for small files they gain nothing, and a process that ends soon after
        # they started can abort (seen with pyarrow 26, once in about 100 exits).
        file = pq.ParquetFile(pa.BufferReader(safe_files.read_bytes(path)), pre_buffer=False)
        check_ours(file.schema_arrow, path, table)
        content = file.read(columns=columns, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise RunFolderError(f"{path} is truncated or no Parquet file; move it away. ({_first_line(error)})") from error
    check_values(content, path)
    return content


def _count_rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return 0  # unreadable, and about to be deleted anyway


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _write_atomically(path: Path, content: pa.Table) -> None:
    names = content.column_names
    keys = [name for name in names if (name in KEY_COLUMNS and name != "final") or is_setting(name)]
    floats = [field.name for field in content.schema if pa.types.is_floating(field.type) and field.name not in keys]
    # Bytes of floats compress when split, because neighbouring values share sign and exponent.
    encodings: dict[str, Any] = {"use_dictionary": keys, "use_byte_stream_split": floats}
    with safe_files.replacing(path) as file:
        pq.write_table(content, file, compression="zstd", **encodings)
