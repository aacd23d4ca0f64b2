"""The policies of a finished run: one safetensors file for each block of rows, found, checked and read together."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from lsf_jax.config.composition import Config, differences, from_yaml, grid_points
from lsf_jax.runs import checkpoint, folder, params_file
from lsf_jax.runs.manifest import CheckpointError
from lsf_jax.runs.safe_files import file_inside, folder_inside
from lsf_jax.settings import ConfigError

FOLDER = "policies"
_NAME = re.compile(r"block-(\d{4})\.safetensors")


def policy_path(run: Path, index: int) -> Path:
    """The file with the policies of one block of a run.

    Args:
      run: the run folder.
      index: of the block.

    Raises:
      RunFolderError: something else is there, a link for example.
    """
    return file_inside(run, FOLDER, f"block-{index:04d}.safetensors")


def finished_policies(run: Path, config: Config, width: int) -> dict[Path, range]:
    """The files with the policies of a run's finished blocks, in their order, and which rows are in each.

    Args:
      run: the run folder.
      config: its configuration.
      width: rows of a block.

    Raises:
      ConfigError: no block is finished, or the files are of another configuration.
      CheckpointError: a file is missing, or cannot be read.
    """
    n_rows = config.train.seeds * len(grid_points(config))
    rows = range(n_rows)
    blocks = [rows[start : start + width] for start in range(0, n_rows, width)]
    files = {policy_path(run, index): blocks[index] for index in range(_count(run, config, len(blocks)))}
    for path, theirs in files.items():
        _check_origin(run, config, path, theirs)
    return files


def read_policies(files: Mapping[Path, range], like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The parameters of all finished rows of a run, `[rows, ...]`, row 0 first.

    Args:
      files: from `finished_policies`.
      like: the tree of one row's parameters, leaves with a shape and a type; None: that of the first file.

    Returns:
      NumPy arrays in the tree of `like`; rows of blocks that are not finished yet are missing at the end.

    Raises:
      CheckpointError: a file is damaged or foreign.
    """
    parts = []
    for path, rows in files.items():
        parts.append(_read_block(path, rows, like))
        like = like or _one_row(parts[0])
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _count(run: Path, config: Config, n_blocks: int) -> int:
    """How many blocks have their policies; none before the last of these may lack them."""
    names = sorted(path.name for path in folder_inside(run, FOLDER).glob("block-*.safetensors"))
    found = {int(match[1]) for match in map(_NAME.fullmatch, names) if match}
    if not found:
        raise ConfigError(f"run {run} has no finished policies yet; finish it with `lsf-jax resume {run}`")
    if max(found) >= n_blocks:
        raise CheckpointError(
            f"{policy_path(run, max(found))} is of another run: {folder.CONFIG} has rows for {n_blocks} block(s); "
            "move it away"
        )
    for index in range(n_blocks):
        if index not in found and (index < max(found) or _is_finished(run, config, index)):
            raise CheckpointError(
                f"{policy_path(run, index)} is missing: policies of other blocks cannot stand in for its rows; "
                "restore it from a copy"
            )
    return len(found)


def _is_finished(run: Path, config: Config, index: int) -> bool:
    meta = checkpoint.read_block(run, index)
    return meta is not None and meta.finished_budget == config.train.env_steps


def _check_origin(run: Path, config: Config, path: Path, rows: range) -> None:
    """Whether a file says that it is of other rows or of another configuration; it need not say."""
    metadata = params_file.read_metadata(path)
    if metadata.get("rows", json.dumps(list(rows))) != json.dumps(list(rows)):
        raise CheckpointError(f"parameters {path} are of other rows than {rows[0]} to {rows[-1]}; restore the file")
    if "config" not in metadata:
        return
    changed = differences(from_yaml(metadata["config"], f"{path}, its metadata"), config)
    if changed:
        raise ConfigError(
            f"{run / folder.CONFIG} is not what {path} was trained with: {changed[0]}; restore the right file"
        )


def _read_block(path: Path, rows: range, like: Mapping[str, Any] | None) -> dict[str, Any]:
    params, _ = params_file.load_params(path, like)
    for leaf, one in zip(jax.tree.leaves(params), jax.tree.leaves(like or _one_row(params)), strict=True):
        if leaf.shape != (len(rows), *one.shape) or leaf.dtype != one.dtype:
            raise CheckpointError(
                f"parameters {path} are damaged or foreign: an array is {leaf.dtype}{list(leaf.shape)}, expected "
                f"{one.dtype}{[len(rows), *one.shape]}; give a file of this run"
            )
    return params


def _one_row(params: dict[str, Any]) -> dict[str, Any]:
    """The shapes of one row of a file's parameters."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params)
