"""From device logs to table columns, by hand-made numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.training import ChunkLog
from lsf_jax.programs.parts import Rows
from lsf_jax.runs.columns import evaluation_columns, joint_columns, stats_columns, train_columns
from lsf_jax.types import Clock, EpisodeStats, JointTable
from tests.support.engine_cases import program_of, small, start

ROWS = Rows(seed=np.array([0, 1, 9]), grid=np.array([2, 2, 2]), hyper=())  # the third one fills the block up


def test_train_columns_have_one_entry_for_each_logged_iteration_and_row_without_padding():
    log = ChunkLog(
        iteration=jnp.array([5, 6, 0, 0]),
        episodes=jnp.array([10, 12, 0, 0]),
        updates=jnp.array([4, 5, 0, 0]),
        metrics={"env_steps": jnp.arange(12).reshape(4, 3), "td": jnp.arange(12.0).reshape(4, 3) / 2},
        nonfinite_at=jnp.full((3,), -1),
    )
    columns = train_columns(log, ROWS, first_row=4, n_rows=2, written=2)
    assert columns["row"].tolist() == [4, 5, 4, 5]
    assert columns["seed"].tolist() == [0, 1, 0, 1]
    assert columns["grid"].tolist() == [2, 2, 2, 2]
    assert columns["iteration"].tolist() == [5, 5, 6, 6]
    assert columns["episodes"].tolist() == [10, 10, 12, 12]
    assert columns["updates"].tolist() == [4, 4, 5, 5]
    assert columns["env_steps"].tolist() == [0, 1, 3, 4]
    assert columns["td"].tolist() == [0.0, 0.5, 1.5, 2.0]
    assert columns["td"].dtype == np.float32


def test_a_chunk_without_a_logged_row_leaves_empty_columns():
    log = ChunkLog(
        jnp.zeros(2, int), jnp.zeros(2, int), jnp.zeros(2, int), {"td": jnp.zeros((2, 3))}, jnp.zeros(3, int)
    )
    assert {len(values) for values in train_columns(log, ROWS, 0, 2, 0).values()} == {0}


def test_evaluation_columns_carry_each_seeds_own_env_steps():
    state = start(small("algo.recurrent=false"))._replace(
        iteration=jnp.int32(7),
        clock=Clock(env_steps=jnp.array([50, 60, 70]), episodes=jnp.int32(14), updates=jnp.int32(6)),
    )
    columns = evaluation_columns(state, ROWS, 0, 2, jnp.array([30, 41, 50]), True)
    assert columns["env_steps"].tolist() == [30, 41]
    assert columns["iteration"].tolist() == [7, 7]
    assert columns["final"].tolist() == [True, True]


def test_evaluations_are_averaged_over_episodes_and_success_is_a_share():
    program = program_of(small("algo.recurrent=false"))
    stats = EpisodeStats(
        episode_return=jnp.array([[1.0, 3.0], [7.0, 7.0], [0.0, 0.0]]),
        length=jnp.array([[1, 4], [4, 4], [1, 1]]),
        terminal=jnp.array([[True, False], [True, True], [False, False]]),
        info={"bonus": jnp.array([[0.0, 1.0], [2.0, 2.0], [0.0, 0.0]])},
        first_action=jnp.zeros((3, 2, 2), jnp.int32),
    )
    columns = stats_columns(program, stats, 2, "sampled_")
    assert columns["sampled_return"].tolist() == [2.0, 7.0]
    assert columns["sampled_return_std"].tolist() == [1.0, 0.0]
    assert columns["sampled_length"].tolist() == [2.5, 4.0]
    assert columns["sampled_terminal"].tolist() == [0.5, 1.0]
    assert columns["sampled_bonus"].tolist() == [0.5, 2.0]
    expected = np.asarray(program.env.success(stats))[:2].mean(axis=1)
    assert columns["sampled_success"].tolist() == expected.tolist()


def joint_table(q_total, policy, joint_value=None):
    """Of three rows; utilities count from 0."""
    q_total, policy = jnp.array(q_total), jnp.array(policy)
    utilities = jnp.arange(policy.size * 1.0).reshape(policy.shape)
    joint_value = q_total if joint_value is None else jnp.array(joint_value)
    return JointTable(utilities=utilities, q_total=q_total, policy=policy, joint_value=joint_value)


FIRST, SECOND = [0.9, 0.1], [0.2, 0.8]


def test_joint_columns_compare_the_preferred_choice_and_the_whole_table_with_the_payoff():
    payoff = np.array([[[8.0, -12.0], [-12.0, 1.0]]])
    q_total = [[[8.0, -12.0, -12.0, 5.0]], [[0.0, 0.0, 1.0, 0.0]], [[0.0] * 4]]
    columns = joint_columns(joint_table(q_total, [[[SECOND, SECOND]], [[FIRST, FIRST]], [[FIRST, SECOND]]]), payoff, 2)
    assert columns["greedy_joint"].tolist() == [3, 0]
    assert columns["critic_optimal"].tolist() == [1.0, 0.0]
    assert columns["greedy_payoff"].tolist() == [1.0, 8.0]
    assert columns["optimal"].tolist() == [False, True]
    assert columns["q_error"].tolist() == [1.0, 8.5]
    assert columns["q_utility"].tolist() == [[0.0, 1.0, 2.0, 3.0], [4.0, 5.0, 6.0, 7.0]]


def test_the_error_is_that_of_the_joint_value_where_it_is_another_table_than_q_total():
    payoff, policy = np.array([[[8.0, -12.0], [-12.0, 1.0]]]), [[[FIRST, FIRST]]]
    columns = joint_columns(joint_table([[[9.0] * 4]], policy, [[[8.0, -12.0, -12.0, 5.0]]]), payoff, 1)
    assert columns["q_error"].tolist() == [1.0]
    assert columns["q_total"].tolist() == [[9.0] * 4]


@pytest.mark.parametrize(
    ("q_total", "optimal"),
    [
        ([5.0, 0.0, 0.0, 5.0], 1.0),  # both best ones tie
        ([5.0, 0.0, 0.0, 2.0], 1.0),
        ([1.0, 1.0, 1.0, 1.0], 0.0),  # a flat table knows nothing, though its first entry is a best one
        ([5.0, 5.0 - 1e-5, 0.0, 5.0], 0.0),
        ([0.0, 5.0, 0.0, 0.0], 0.0),
        ([5.0, 0.0, float("nan"), 0.0], None),
    ],
)
def test_a_critic_is_right_if_all_its_largest_entries_are_best_ones(q_total, optimal):
    payoff = np.array([[[3.0, 0.0], [0.0, 3.0]]])
    (found,) = joint_columns(joint_table([[q_total]], [[[FIRST, FIRST]]]), payoff, 1)["critic_optimal"]
    assert np.isnan(found) if optimal is None else found == optimal


def test_joint_columns_of_two_starts_list_both_and_ask_for_the_best_in_each():
    payoff = np.array([[[8.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 4.0]]])
    nothing = [[float("nan")] * 4] * 2
    policy = [[[FIRST, FIRST], [SECOND, SECOND]], [[FIRST, FIRST], [FIRST, FIRST]]]
    columns = joint_columns(joint_table([nothing, nothing], policy), payoff, 2)
    assert columns["greedy_joint"].tolist() == [[0, 3], [0, 0]]
    assert np.isnan(columns["critic_optimal"]).all()
    assert columns["greedy_payoff"].tolist() == [6.0, 4.5]
    assert columns["optimal"].tolist() == [True, False]
    assert np.isnan(columns["q_error"]).all()
    assert columns["q_total"].shape == (2, 8)
