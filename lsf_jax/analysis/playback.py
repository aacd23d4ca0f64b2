"""Trained policies at work: load them from a run folder, evaluate them again, and record episodes."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.analysis.policy import Policy, PolicyPrograms, jit_policy
from lsf_jax.analysis.render import Pixels, draw_text, paint
from lsf_jax.config import trust
from lsf_jax.config.composition import Config, differences
from lsf_jax.engine.host_rollout import GREEDY, SAMPLED, Behaviour, HostCollector
from lsf_jax.envs import ENVS
from lsf_jax.programs.compiled import jit_evaluate, jit_init
from lsf_jax.programs.hosted import EVALUATE, behaviour_of
from lsf_jax.programs.parts import Program, Rows, bind, make_rows, take_rows
from lsf_jax.programs.planner import episode_bytes
from lsf_jax.runs import columns
from lsf_jax.runs.checks import check_layout
from lsf_jax.runs.folder import read_with
from lsf_jax.runs.policy_files import finished_policies, read_policies
from lsf_jax.settings import ConfigError
from lsf_jax.types import Env, Episode, EpisodeStats, Hyper, PRNGKey, Snapshot, TrainState

AT_ONCE = 2**26
"""Bytes that the episodes of an evaluation, of all rows, may take as they are recorded: more are played in pieces.

A number, and not a share of what memory there is: which episodes are played hangs on the pieces.
"""
MOST_AT_ONCE = 2**16
"""Episodes of one row in a piece, however small they are."""


class Policies(NamedTuple):
    """The learned parameters of a run, all rows; `row` gives one of them as a policy."""

    config: Config
    program: Program
    params: dict[str, Any]  # by parameter group, leaves [R, ...]
    seed: np.ndarray  # [R]
    grid: np.ndarray  # [R]
    hyper: Hyper  # leaves [R]
    path: Path  # the run folder
    jitted: PolicyPrograms  # what a row does, compiled once for all of them

    def row(self, index: int, *, stochastic: bool = False) -> Policy:
        """One row's policy, ready to act.

        Args:
          index: of the row: grid points × seeds, seeds fastest.
          stochastic: sample from the policy instead of acting greedily; algorithms that learn values alone stay greedy.

        Raises:
          ConfigError: there is no such row.
        """
        last = len(self.seed) - 1
        if isinstance(index, bool) or not hasattr(index, "__index__") or not 0 <= index <= last:
            raise ConfigError(f"row is {index}; expected a whole number from 0 to {last}, the rows of {self.path}")
        params, hyper = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), (self.params, self.hyper))
        return Policy(
            config=self.config,
            program=self.program,
            params=params,
            hyper=hyper,
            row=int(index),
            seed=int(self.seed[index]),
            stochastic=stochastic,
            jitted=self.jitted,
        )

    def __repr__(self) -> str:
        rows = f"{len(self.seed)} rows, seeds {self.seed.min()} to {self.seed.max()}"
        points = f" at {self.grid.max() + 1} grid points" if self.grid.max() else ""
        return f"Policies({self.config.algo_name} on {self.config.where}: {rows}{points}, of {self.path})"


def load_policies(path: str | Path, overrides: Sequence[str] = ()) -> Policies:
    """Read the parameters that a finished run kept at its budget.

    Args:
      path: the run folder.
      overrides: words laid over its configuration: settings that a resumed run may have other values of, and code that
        the folder names, such as `env.make`, which is run only if they name it too.

    Raises:
      ConfigError: it is not a run folder, or no block of it is finished, or the policies are not for such settings.
      CheckpointError: a file is missing, damaged or foreign.
    """
    path = Path(path)
    saved, config, card = read_with(path, overrides)
    changed = differences(saved, config)
    if changed:
        raise ConfigError(f"policies of run {path} are not for {changed[0]}; leave that setting alone")
    trust.refuse(config.unconfirmed)
    layout = check_layout(path, config, card)
    files = finished_policies(path, config, layout.width * layout.n_devices)
    program = bind(config)
    rows = make_rows(config, program.algorithm)
    like = jax.eval_shape(program.algorithm.init, jax.random.key(0), program.algorithm.hyper).params
    params = read_policies(files, like)
    n_rows = len(jax.tree.leaves(params)[0])
    rows = take_rows(rows, 0, n_rows)
    return Policies(
        config=config,
        program=program,
        params=params,
        seed=rows.seed,
        grid=rows.grid,
        hyper=rows.hyper,
        path=path,
        jitted=jit_policy(program),
    )


def evaluate_policies(
    policies: Policies,
    n_episodes: int,
    *,
    stochastic: bool = False,
    root_seed: int = 0,
    replays: str | Path = "",
) -> dict[str, np.ndarray]:
    """Evaluate every row over exactly `n_episodes` fresh episodes, piece by piece where they are many.

    Args:
      policies: from `load_policies`.
      n_episodes: per row.
      stochastic: sample from the policy instead of acting greedily.
      root_seed: of the evaluation's randomness.
      replays: folder for recordings by the game itself; games on the host only. Empty saves none.

    Returns:
      Columns `row`, `grid`, `seed` and the evaluation's results, one entry for each row.

    Raises:
      ConfigError: replays of an environment on the device.
      HostError: games on the host cannot be played.
    """
    n_rows = len(policies.seed)
    program = policies.program
    if replays and program.hosted is None:
        raise ConfigError("--replays is for games on the host; use `lsf-jax render` for this environment")
    init = jit_init(program, root_seed)
    rows = _rows_of(policies)
    state = jax.jit(lambda: init(rows)._replace(buffer=()))()  # replay is not needed, and so never made
    params = jax.tree.map(jnp.asarray, policies.params)
    identity = {"row": np.arange(n_rows), "grid": policies.grid, "seed": policies.seed}
    if program.hosted is None:
        pieces = pieces_of(n_episodes, episode_bytes(program) * n_rows)
        evaluate = jit_evaluate(program, pieces[0], stochastic=stochastic)
        return identity | _in_pieces(program, partial(evaluate, params), state, pieces)
    behaviour = behaviour_of(program.algorithm, state, params, EVALUATE)
    how = SAMPLED if stochastic else GREEDY
    stats = _evaluate_on_host(policies, behaviour, n_episodes, how, Path(replays) if replays else None)
    return identity | columns.stats_columns(program, stats, n_rows)


def pieces_of(n_episodes: int, n_bytes: int) -> list[int]:
    """How many episodes each piece of an evaluation counts: all play as many as the first, which is the largest.

    Args:
      n_episodes: in all.
      n_bytes: what recording one of them takes, in all rows together.
    """
    n_pieces = -(-n_episodes // max(1, min(AT_ONCE // n_bytes, MOST_AT_ONCE)))
    size = -(-n_episodes // n_pieces)
    return [min(size, n_episodes - start) for start in range(0, n_episodes, size)]


def _in_pieces(
    program: Program, evaluate: Callable[[TrainState], EpisodeStats], state: TrainState, pieces: list[int]
) -> columns.Columns:
    """The columns of an evaluation that is played piece by piece, each with the randomness of an iteration of its own.

    Of a last piece that counts fewer episodes than it plays, the first count.
    """
    parts = []
    for number, size in enumerate(pieces):
        stats = evaluate(state._replace(iteration=jnp.int32(number)))
        counted = jax.tree.map(lambda leaf, size=size: np.asarray(leaf)[:, :size], stats)
        parts.append(columns.stats_columns(program, counted, len(counted.length)))
    return parts[0] if len(parts) == 1 else columns.pooled(parts, pieces)


def _evaluate_on_host(
    policies: Policies, behaviour: Behaviour, n_episodes: int, how: str, replays: Path | None
) -> EpisodeStats:
    """Games of all rows at once, `train.n_envs` workers each, closed when all are played."""
    program, n_rows = policies.program, len(policies.seed)
    if program.hosted is None:
        raise ValueError("the environment lives on the device; use jit_evaluate.")
    n_envs = min(policies.config.train.n_envs, n_episodes)
    collector = HostCollector(program.env, program.hosted, program.algorithm, n_rows, n_envs)
    try:
        collector.open(policies.config.train.seed)
        stats = collector.evaluate(behaviour, n_episodes, how)
        if replays is not None and collector.games is not None:
            for worker in range(collector.games.n_workers):
                collector.games.save_replay(worker, replays / f"row{worker // n_envs}")
    finally:
        collector.close()
    return stats


def _rows_of(policies: Policies) -> Rows:
    return Rows(seed=policies.seed, grid=policies.grid, hyper=policies.hyper)


def record_episode(policies: Policies, row: int, key: PRNGKey, *, stochastic: bool = False) -> Episode:
    """Play one episode with the policy of a row: NumPy arrays, `world` holds a snapshot for each of the T+1 moments.

    Raises:
      ConfigError: the environment is played on the host, or there is no such row.
    """
    check_recordable(policies.config)
    return policies.row(row, stochastic=stochastic).play(key)


def check_recordable(config: Config) -> None:
    """Nothing, where episodes are played on the device.

    Raises:
      ConfigError: they are played on the host.
    """
    if ENVS[config.env_name].hosted is not None:
        raise ConfigError(
            f"env {config.env_name} is played on the host, which records its own games; "
            "use `lsf-jax evaluate RUN --replays FOLDER`"
        )


def episode_moments(episode: Episode) -> list[Snapshot]:
    """The snapshots of a recorded episode, NumPy arrays, the last state included."""
    length = int(episode.valid.sum())
    return [jax.tree.map(lambda leaf, t=t: np.asarray(leaf[t]), episode.world) for t in range(length + 1)]


def episode_frames(env: Env, episode: Episode) -> list[Pixels]:
    """A picture of each moment of a recorded episode, the last state included: drawn by `env`, else in characters."""
    sums = episode_sums(episode)
    return [
        _frame(env, moment, step, {name: float(values[step]) for name, values in sums.items()})
        for step, moment in enumerate(episode_moments(episode))
    ]


def episode_sums(episode: Episode) -> dict[str, np.ndarray]:
    """What each `info` and "return" have summed up to at every moment of a recorded episode, `[T+1]` each."""
    length = int(episode.valid.sum())
    return {name: _before_each(values[:length]) for name, values in (episode.info | {"return": episode.reward}).items()}


def _before_each(values: Any) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(np.asarray(values))])


def _frame(env: Env, moment: Snapshot, step: int, sums: dict[str, float]) -> Pixels:
    if env.draw is None:
        return draw_text(f"{env.render(moment)}\n\nstep {step} return {sums['return']:g}")
    return paint(env.draw(moment, step, sums))
