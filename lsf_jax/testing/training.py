"""What every algorithm promises of training, as the command line does it."""

import json
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.config.composition import compose
from lsf_jax.engine.training import Chunk
from lsf_jax.programs.compiled import jit_chunk, jit_evaluate, jit_init
from lsf_jax.programs.parts import bind, make_rows
from lsf_jax.registry import Entry
from lsf_jax.testing.cases import WIDE, Settings
from lsf_jax.testing.comparison import assert_same_bits, in_numpy, seed_slice
from lsf_jax.testing.suite import Tests
from lsf_jax.types import TrainState

COMMON = ("n_envs=16", "buffer_capacity=64", "devices=1", "eval_episodes=1", "seeds=4")
FOREVER = 2**30  # env steps


class Learned(NamedTuple):
    """Four seeds of the additive game after 350 updates."""

    chunk: Chunk
    state: TrainState
    log: Any
    returns: np.ndarray  # of a greedy episode of each
    compiled: tuple[int, int]  # programs after the first call, and after the second


@cache
def learn(entry: Entry, settings: Settings) -> Learned:
    """Train four seeds of the additive game as the command line does.

    Args:
      entry: of a registered algorithm.
      settings: laid over `WIDE`.
    """
    words = ["algo.updates=1", *(f"train.{word}" for word in COMMON)]
    known = vars(entry.config())
    sizes = {key: value for key, value in {**WIDE, **dict(settings)}.items() if key in known}
    words += [f"algo.{key}={json.dumps(value)}" for key, value in sizes.items()]
    config = compose(algo=entry.name, env="linear_game", overrides=words)
    program = bind(config)
    state = jit_init(program, 0)(make_rows(config, program.algorithm))
    chunk = jit_chunk(program, rows=8, log_every=64)
    state, log = chunk(state, jnp.int32(250), jnp.int32(FOREVER))
    size = chunk._cache_size()  # pyright: ignore[reportFunctionMemberAccess]
    state, log = chunk(state, jnp.int32(100), jnp.int32(FOREVER))
    stats = jit_evaluate(program, 1)(state.agent.params, state)
    again = chunk._cache_size()  # pyright: ignore[reportFunctionMemberAccess]
    return Learned(chunk, state, log, np.asarray(stats.episode_return)[:, 0], compiled=(size, again))


class Training(Tests):
    """Whole programs: what is learned, built and kept apart."""

    def learned(self, name: str) -> Learned:
        """What the algorithm comes to in the additive game."""
        return learn(self.suite.entries[name], tuple(self.suite.learning.items()))

    def test_it_learns_the_additive_game_and_compiles_once(self, name: str) -> None:
        """Best 5, worst 0, at random 2.3; most of four seeds must come close to the best."""
        result = self.learned(name)
        assert (np.asarray(result.log.nonfinite_at) == -1).all()
        assert np.median(result.returns) >= 4.0, result.returns
        assert result.compiled == (1, 1)

    def test_it_can_be_built_for_predator_prey(self, name: str) -> None:
        """The whole training step at its real size, traced but not compiled."""
        config = compose(algo=name, env="predator_prey")
        program = bind(config)
        rows = jax.eval_shape(partial(jit_init(program, 0)), make_rows(config, program.algorithm))
        assert rows.iteration.shape == ()

    def test_a_seed_whose_parameters_are_not_numbers_hurts_nobody(self, name: str) -> None:
        """One seed's NaNs leave the others' bits alone."""
        result = self.learned(name)

        def after(params: Any) -> TrainState:
            agent = result.state.agent._replace(params=params)
            state = jax.tree.map(_copied, result.state._replace(agent=agent))  # the chunk takes what it is given
            return result.chunk(state, jnp.int32(2), jnp.int32(FOREVER))[0]

        alone = after(result.state.agent.params)
        beside = after(in_numpy(_break_third, result.state.agent.params))
        others = np.array([0, 1, 3])
        assert_same_bits(seed_slice(alone, others).agent, seed_slice(beside, others).agent)


def _copied(leaf: Any) -> Any:
    return jnp.copy(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.array(leaf)


def _break_third(leaf: np.ndarray) -> np.ndarray:
    leaf[2] = np.nan
    return leaf
