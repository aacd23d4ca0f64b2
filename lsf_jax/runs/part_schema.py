"""What the parts of a run's tables look like: their columns, types and version. Host only: NumPy and pyarrow, no JAX.

A column of a part is a key (which row this is), a metric, or, since version 2, a setting under its dotted name, such as
`algo.lr`: parts can then be read, grouped and joined by anything that reads Parquet, without the run's folder. Settings
say nothing that `config.yaml` does not, so parts of both versions may stand side by side in one table.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from lsf_jax.runs.safe_files import RunFolderError

SCHEMA_VERSION = 2
READ_VERSIONS = (1, 2)
"""Versions that can be read and continued; the first has no columns of settings."""
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
SECTIONS = ("algo.", "env.", "train.")
"""What the names of settings begin with; no metric's does."""

_VERSION_KEY, _TABLE_KEY = b"lsf_jax.schema_version", b"lsf_jax.table"
_METRIC_TYPES = {"f": pa.float32(), "i": pa.int64(), "u": pa.int64(), "b": pa.bool_()}
_SETTING_TYPES = {"f": pa.float64(), "i": pa.int64(), "u": pa.int64(), "b": pa.bool_(), "U": pa.string()}


def is_setting(name: str) -> bool:
    """Whether a column is a setting rather than a key or a metric."""
    return name.startswith(SECTIONS)


def to_arrow(table: str, columns: Mapping[str, np.ndarray]) -> pa.Table:
    """Rows as they are stored: keys first, then metrics, then settings, each by name.

    Args:
      table: name of the table.
      columns: as for `lsf_jax.runs.tables.write_part`.

    Raises:
      ValueError: missing or ragged columns, or one whose numbers cannot be stored.
    """
    missing = [name for name in REQUIRED_COLUMNS if name not in columns]
    if missing:
        raise ValueError(f"columns of table {table!r} lack {', '.join(missing)}; every row names its seed and moment.")
    lengths = {name: np.shape(column)[0] if np.ndim(column) else 0 for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"columns of table {table!r} differ in length: {lengths}.")
    keys = [name for name in KEY_COLUMNS if name in columns]
    names = keys + sorted(set(columns) - set(keys), key=lambda name: (is_setting(name), name))
    arrays = [_to_arrow_column(name, np.asarray(columns[name])) for name in names]
    metadata = {_VERSION_KEY: str(SCHEMA_VERSION).encode(), _TABLE_KEY: table.encode()}
    fields = [pa.field(name, array.type, nullable=False) for name, array in zip(names, arrays, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=metadata))


def _to_arrow_column(name: str, values: np.ndarray) -> pa.Array:
    types, flat_only = (_SETTING_TYPES, True) if is_setting(name) else (_METRIC_TYPES, name in KEY_COLUMNS)
    if values.ndim not in (1, 2) or (flat_only and values.ndim != 1):
        raise ValueError(f"column {name!r} has shape {values.shape}; expected [rows] or, for a metric, [rows, size].")
    if values.dtype.kind not in types:
        raise ValueError(f"column {name!r} has dtype {values.dtype}; expected numbers or Booleans.")
    kind = KEY_COLUMNS.get(name, types[values.dtype.kind])
    if kind == pa.string():
        return pa.array(values.tolist(), type=kind)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1).astype(kind.to_pandas_dtype()), type=kind)
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def check_same_columns(found: pa.Schema, expected: pa.Schema, path: Path) -> None:
    """Check that two parts of one table have the same keys and metrics; settings may be missing from older ones.

    Raises:
      RunFolderError: they differ; the message names `path` and the columns.
    """
    ours, theirs = ([field for field in schema if not is_setting(field.name)] for schema in (found, expected))
    if ours != theirs:
        different = sorted({field.name for field in set(ours) ^ set(theirs)})
        raise RunFolderError(
            f"{path}: the table's parts differ in the columns {', '.join(different)}; all share one schema."
        )


def check_ours(schema: pa.Schema, path: Path, table: str) -> None:
    """Check that a part is one of this table, of a version that can be read.

    Raises:
      RunFolderError: it is not; the message names the file.
    """
    metadata = schema.metadata or {}
    version, name = metadata.get(_VERSION_KEY), metadata.get(_TABLE_KEY)
    if version is None or name is None:
        raise RunFolderError(f"{path} was not written by lsf_jax (no schema version in it); move it away.")
    if version not in {str(known).encode() for known in READ_VERSIONS}:
        known = " and ".join(map(str, READ_VERSIONS))
        raise RunFolderError(f"{path} has schema version {_text(version)}, this lsf_jax reads {known}.")
    if name != table.encode():
        raise RunFolderError(f"{path} belongs to the table {_text(name)!r}, not {table!r}; move it there.")
    missing = [column for column in REQUIRED_COLUMNS if column not in schema.names]
    if missing:
        raise RunFolderError(f"{path} is damaged: it has no column {missing[0]}; move it away.")
    for field in schema:
        if not _is_allowed(field):
            raise RunFolderError(f"{path} is damaged: its column {field.name} is of type {field.type}; move it away.")


def _is_allowed(field: pa.Field) -> bool:
    """Whether `to_arrow` would have made a column of this name and type."""
    if field.name in KEY_COLUMNS:
        return field.type == KEY_COLUMNS[field.name]
    if is_setting(field.name):
        return field.type in _SETTING_TYPES.values()
    kind = field.type.value_type if pa.types.is_fixed_size_list(field.type) else field.type
    return kind in _METRIC_TYPES.values()


def check_values(content: pa.Table, path: Path) -> None:
    """Check that a part has no gaps, and in its keys no numbers below 0.

    Raises:
      RunFolderError: it has; the message names the file.
    """
    for name in content.column_names:
        column = content[name]
        if column.null_count:
            raise RunFolderError(f"{path} is damaged: its column {name} has gaps; move it away.")
        if name in KEY_COLUMNS and name != "final" and content.num_rows and column.to_numpy().min() < 0:
            raise RunFolderError(f"{path} is damaged: its column {name} has numbers below 0; move it away.")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
