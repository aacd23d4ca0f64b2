"""From device to tables: the columns that chunks and evaluations of a block leave in the run's Parquet tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lsf_jax.engine.training import ChunkLog
from lsf_jax.programs.parts import Program, Rows
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


def pooled(parts: Sequence[Columns], counts: Sequence[int]) -> Columns:
    """The columns of an evaluation from those of its pieces.

    Args:
      parts: from `stats_columns`, without a prefix.
      counts: episodes in each.
    """
    weights = np.array(counts, np.float64) / sum(counts)
    each = {name: np.stack([part[name] for part in parts]).astype(np.float64) for name in parts[0]}
    means = {name: np.tensordot(weights, values, 1) for name, values in each.items()}
    variance = each["return_std"] ** 2 + (each["return"] - means["return"]) ** 2
    means["return_std"] = np.sqrt(np.tensordot(weights, variance, 1))
    return {name: values.astype(np.float32) for name, values in means.items()}


TIED = 1e-3
"""Entries of a Q table closer than this are taken for equal; payoffs of the small games are whole numbers."""


def joint_columns(table: JointTable, payoff: np.ndarray, n_rows: int) -> Columns:
    """Q tables and policies of a matrix game `[rows, ...]`, flattened, beside what the greedy policy does.

    `greedy_joint` is the index in C order of the joint action that the policy prefers; `optimal` says whether it has
    the largest payoff in every state that the game may start in; `critic_optimal` is 1 if the largest Q_tot is at such
    joint actions only (a flat table knows nothing, so a tie with others counts 0) and NaN without a joint value;
    `q_error` is the mean absolute error of the joint value. With several such states, columns list one after another
    and payoffs are means over them.

    Args:
      table: `[K, starts, ...]`.
      payoff: `[starts, A, ..., A]`.
      n_rows: rows that are not padding.
    """
    n_starts, sides = payoff.shape[0], payoff.shape[1:]
    flat = payoff.reshape(n_starts, -1)
    q_total, policy = np.asarray(table.q_total)[:n_rows], np.asarray(table.policy)[:n_rows]
    joint_value = np.asarray(table.joint_value)[:n_rows]
    preferred = np.asarray(policy.argmax(axis=-1))  # [rows, starts, N]
    joint = np.asarray(np.ravel_multi_index(tuple(np.moveaxis(preferred, -1, 0)), sides))
    chosen = np.take_along_axis(flat, joint.T, axis=1).T  # [rows, starts]
    good = np.isclose(flat, flat.max(axis=1, keepdims=True))  # [starts, joint actions]
    best = np.take_along_axis(good, joint.T, axis=1).T
    largest = q_total >= q_total.max(axis=-1, keepdims=True) - TIED
    sure = (good[None] | ~largest).all(axis=(1, 2)).astype(np.float32)

    def per_row(values: np.ndarray) -> np.ndarray:
        return values[:, 0] if n_starts == 1 else values

    return {
        "q_total": q_total.reshape(n_rows, -1).astype(np.float32),
        "q_utility": np.asarray(table.utilities)[:n_rows].reshape(n_rows, -1).astype(np.float32),
        "policy": policy.reshape(n_rows, -1).astype(np.float32),
        "greedy_joint": per_row(joint),
        "critic_optimal": np.where(np.isnan(q_total).any(axis=(1, 2)), np.float32("nan"), sure),
        "greedy_payoff": chosen.mean(axis=-1).astype(np.float32),
        "q_error": np.abs(joint_value - flat[None]).mean(axis=(1, 2)).astype(np.float32),
        "optimal": np.asarray(best.all(axis=-1)),
    }
