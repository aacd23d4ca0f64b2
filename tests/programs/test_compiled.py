"""Jitted functions of a block: what each seed starts from, what is shared, and what evaluations and Q tables hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.training import init_train_state
from lsf_jax.programs.compiled import jit_evaluate, jit_init, jit_joint_table, seed_mesh
from lsf_jax.programs.parts import make_rows, take_rows
from tests.support.engine_cases import (
    advance,
    assert_same_bits,
    chunk_of,
    counted_compilations,
    program_of,
    rows_of,
    small,
    start,
)

CONFIG = small("train.buffer_capacity=65536")  # the program of test_training
SWEEP = small("train.buffer_capacity=65536", "seeds=2", "algo.lr=1e-3,3e-3", "algo.beta=0.1,0.2,0.3")


def test_a_grid_of_seeds_is_one_compilation():
    chunk, init = chunk_of(CONFIG), jit_init(program_of(CONFIG), 0)
    rows = make_rows(SWEEP, program_of(SWEEP).algorithm)
    advance(chunk, init(take_rows(rows, 0, 4)), 1)
    with counted_compilations() as found:
        for first in (4, 8, 10):
            state, _ = advance(chunk, init(take_rows(rows, first, 4)), 2)
    assert found == []
    assert int(state.iteration) == 2


@pytest.mark.slow
def test_seed_k_starts_from_the_root_key_folded_with_k():
    program, seeds = program_of(CONFIG), [7, 0, 3]
    block = jit_init(program, 5)(rows_of(CONFIG, seeds))
    for i, seed in enumerate(seeds):
        key = jax.random.fold_in(jax.random.key(5), seed)
        alone = init_train_state(program.algorithm, program.buffer, program.algorithm.hyper, key)
        assert_same_bits(jax.random.key_data(block.key)[i], jax.random.key_data(alone.key))
        first, second = (jax.tree.leaves(params)[0] for params in (block.agent.params, alone.agent.params))
        np.testing.assert_allclose(first[i], second, atol=1e-6)
    assert block.clock.env_steps.shape == (3,)
    assert block.iteration.shape == block.clock.episodes.shape == block.clock.updates.shape == ()


def test_targets_and_kept_parameters_start_as_the_parameters():
    state = start(CONFIG)
    assert_same_bits(state.kept.params, state.agent.params)
    assert_same_bits(state.agent.targets["critic"], state.agent.params["critic"])
    assert np.asarray(state.kept.env_steps).tolist() == [0] * 4


@pytest.mark.parametrize("stochastic", [False, True])
def test_an_evaluation_plays_exactly_the_episodes_asked_for_and_repeats_itself(stochastic):
    config = small("algo.recurrent=false", env="m_step")
    evaluate = jit_evaluate(program_of(config), 37, stochastic=stochastic)
    state = start(config, [4, 5])
    stats = evaluate(state.agent.params, state)
    assert stats.episode_return.shape == (2, 37)
    assert np.asarray(stats.length).min() >= 1
    assert_same_bits(stats, evaluate(state.agent.params, state))
    later = state._replace(iteration=state.iteration + 1)
    if stochastic:
        assert (np.asarray(evaluate(state.agent.params, later).first_action) != np.asarray(stats.first_action)).any()
        assert len(np.unique(np.asarray(stats.first_action)[0], axis=0)) > 1
    else:  # one start, deterministic rules: greedy episodes are all alike
        assert len(np.unique(np.asarray(stats.first_action)[0], axis=0)) == 1


def test_the_joint_table_lists_every_joint_action_in_c_order():
    config = small("algo.recurrent=false", env="matrix_game")
    state = start(config, [1, 2])
    table = jax.tree.map(lambda x: x[:, 0], jit_joint_table(program_of(config), (0,))(state.agent.params, state))
    assert table.utilities.shape == (2, 2, 3)
    assert table.q_total.shape == (2, 9)
    np.testing.assert_allclose(table.policy.sum(axis=-1), 1.0, rtol=1e-6)
    # A monotonic mixer orders the row of one agent's actions as its utilities do.
    q = np.asarray(table.q_total).reshape(2, 3, 3)
    for k in range(2):
        assert (np.argsort(q[k].mean(axis=1)) == np.argsort(table.utilities[k, 0])).all()
        assert (np.argsort(q[k].mean(axis=0)) == np.argsort(table.utilities[k, 1])).all()
    assert jnp.isfinite(table.q_total).all()


def test_eight_devices_give_the_bits_of_one_also_for_states_that_lie_elsewhere():
    config = small("algo.recurrent=false", env="matrix_game")
    state = start(config, range(16))
    table = jit_joint_table(program_of(config), (0,), seed_mesh(8))(state.agent.params, state)
    alone = jit_joint_table(program_of(config), (0,))
    assert len(table.q_total.sharding.device_set) == 8
    for first in range(0, 16, 2):
        rows = slice(first, first + 2)
        pair = jax.tree.map(lambda leaf, rows=rows: leaf[rows] if leaf.ndim else leaf, state)
        assert_same_bits(
            jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf)[rows], table), alone(pair.agent.params, pair)
        )
