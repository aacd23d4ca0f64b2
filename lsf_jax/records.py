"""From device to tables: the columns that chunks and evaluations of a block leave in the run's Parquet tables."""

from typing import Any

import numpy as np

from lsf_jax.program import Program, Rows
from lsf_jax.training import ChunkLog
from lsf_jax.types import EpisodeStats, JointTable, TrainState

Columns = dict[str, np.ndarray]


def train_columns(log: ChunkLog, rows: Rows, first_row: int, n_rows: int, written: int) -> Columns:
    """Rows of the train table from one chunk: one for each logged iteration and row of the block.

    Args:
      log: what the chunk returned.
      rows: the block's rows, padding included.
      first_row: index in the whole run of the block's first row.
      n_rows: rows of the block that are not padding.
      written: logged iterations of this chunk.
    """
    iteration = np.asarray(log.iteration)[:written]
    common = {"iteration": iteration, "episodes": log.episodes, "updates": log.updates}
    columns = _identity(rows, first_row, n_rows, written)
    columns |= {name: np.repeat(np.asarray(values)[:written], n_rows) for name, values in common.items()}
    metrics = {name: np.asarray(values)[:written, :n_rows].reshape(-1) for name, values in log.metrics.items()}
    return columns | {
        name: values if name == "env_steps" else values.astype(np.float32) for name, values in metrics.items()
    }


def _identity(rows: Rows, first_row: int, n_rows: int, repeats: int) -> Columns:
    row = np.arange(first_row, first_row + n_rows)
    return {
        "row": np.tile(row, repeats),
        "grid": np.tile(rows.grid[:n_rows], repeats),
        "seed": np.tile(rows.seed[:n_rows], repeats),
    }


def evaluation_columns(
    state: TrainState, rows: Rows, first_row: int, n_rows: int, env_steps: Any, final: bool
) -> Columns:
    """Columns that say which evaluation this is; the results are merged in by the caller."""
    count = np.full((n_rows,), 0)
    return _identity(rows, first_row, n_rows, 1) | {
        "iteration": count + int(state.iteration),
        "env_steps": np.asarray(env_steps)[:n_rows],
        "episodes": count + int(state.clock.episodes),
        "updates": count + int(state.clock.updates),
        "final": np.full((n_rows,), final),
    }


def stats_columns(program: Program, stats: EpisodeStats, n_rows: int, prefix: str = "") -> Columns:
    """Means over the episodes of an evaluation; `success` is the share of episodes won."""
    success = np.asarray(program.env.success(stats)).mean(axis=-1)
    returns = np.asarray(stats.episode_return)
    columns = {
        "return": returns.mean(axis=-1),
        "return_std": returns.std(axis=-1),
        "length": np.asarray(stats.length).mean(axis=-1),
        "success": success,
        "terminal": np.asarray(stats.terminal).mean(axis=-1),
        **{name: np.asarray(values).mean(axis=-1) for name, values in stats.info.items()},
    }
    return {prefix + name: values[:n_rows].astype(np.float32) for name, values in columns.items()}


def joint_columns(table: JointTable, stats: EpisodeStats, payoff: np.ndarray, n_rows: int) -> Columns:
    """Q tables of a matrix game beside what the greedy policy does in its first step.

    `greedy_joint` is the index of the joint action in C order; `optimal` says whether it has the largest payoff.
    """
    first = np.asarray(stats.first_action)[:n_rows, 0]  # greedy and from one start: every episode begins alike
    joint = np.ravel_multi_index(tuple(first.T), payoff.shape)
    chosen = payoff.reshape(-1)[joint]
    return {
        "q_total": np.asarray(table.q_total)[:n_rows].astype(np.float32),
        "q_utility": np.asarray(table.utilities)[:n_rows].reshape(n_rows, -1).astype(np.float32),
        "greedy_joint": np.asarray(joint, np.int64),
        "greedy_payoff": chosen.astype(np.float32),
        "q_error": np.abs(np.asarray(table.q_total)[:n_rows] - payoff.reshape(-1)).mean(axis=-1).astype(np.float32),
        "optimal": np.isclose(chosen, payoff.max()),
    }
