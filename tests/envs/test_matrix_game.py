"""Matrix games: payoffs, optima and traps against brute force and the published definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.config.composition import compose
from lsf_jax.envs import make
from lsf_jax.types import EpisodeStats

PAPER = [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]]
REVERSED = [[0, 0, -12], [0, 0, -12], [-12, -12, 8]]
CLIMBING = [[11, -30, 0], [-30, 7, 0], [0, 6, 5]]


def outcomes(env, sequences, seed=0):
    """Rewards, ends and observations after playing `sequences` [B, T, N] of joint actions from one reset."""
    step = jax.jit(jax.vmap(env.step))
    sequences = jnp.asarray(sequences)
    copies, length = sequences.shape[:2]
    keys = jnp.broadcast_to(jax.random.key(seed), (copies,))
    state, _ = jax.jit(jax.vmap(env.reset))(keys)
    rows = []
    for t in range(length):
        state, timestep = step(keys, state, sequences[:, t])
        rows.append((timestep.reward, timestep.terminal, timestep.done, timestep.observation.obs))
    return [np.stack(column, 1) for column in zip(*jax.device_get(rows))]


def returns_of_all_sequences(env, seed=0):
    """Return of every sequence of joint actions, `[(A^N)^T]`."""
    spec = env.spec
    joint = list(itertools.product(range(spec.n_actions), repeat=spec.n_agents))
    sequences = np.array(list(itertools.product(joint, repeat=spec.episode_limit)))
    reward, _, done, _ = outcomes(env, sequences, seed)
    running = np.concatenate([np.ones_like(done[:, :1]), ~np.maximum.accumulate(done, 1)[:, :-1]], 1)
    return sequences, (reward * running).sum(1)


@pytest.mark.parametrize(
    ("name", "settings", "payoff"),
    [
        ("matrix_game", {}, PAPER),
        ("matrix_game", {"payoff": ((1.0, 2.0), (3.0, 4.5))}, [[1, 2], [3, 4.5]]),
        ("climbing", {}, CLIMBING),
        ("penalty", {"penalty": 25.0}, [[-25, 0, 10], [0, 2, 0], [10, 0, -25]]),
        ("linear_game", {}, [[1, 4, 2], [0, 3, 1], [2, 5, 3]]),
        ("nonlinear_game", {}, [[0, 3, 1], [0, 0, 0], [0, 6, 2]]),
    ],
)
def test_one_step_games_pay_their_table_and_end_by_the_game(name, settings, payoff):
    env = make(name, **settings)
    reward, terminal, done, obs = outcomes(env, np.array(list(np.ndindex(*np.shape(payoff))))[:, None])
    np.testing.assert_array_equal(reward.reshape(np.shape(payoff)), payoff)
    assert terminal.all()
    assert done.all()
    assert (obs == [0, 1]).all()
    assert env.reset(jax.random.key(0))[1].obs.tolist() == [[1, 0], [1, 0]]
    assert env.max_return == np.max(payoff)
    assert env.payoff.starts == (0,)
    assert env.payoff.table.dtype == np.float32
    np.testing.assert_array_equal(env.payoff.table, [payoff])


def test_three_agents_index_the_payoff_in_the_order_of_the_agents():
    payoff = np.arange(8.0).reshape(2, 2, 2)
    env = make("matrix_game", payoff=payoff.tolist(), n_agents=3)
    reward = outcomes(env, np.array(list(np.ndindex(2, 2, 2)))[:, None])[0]
    np.testing.assert_array_equal(reward[:, 0], payoff.ravel())
    assert env.spec.n_agents == 3


def test_uniform_play_of_the_papers_game_expects_minus_4_444():
    assert make("matrix_game").payoff.table.mean() == pytest.approx(-40 / 9)


@pytest.mark.parametrize("variant", ["seen", "aliased"])
def test_two_state_pays_the_table_of_its_state(variant):
    env = make("two_state", variant=variant)
    joint = np.array(list(np.ndindex(3, 3)))[:, None]
    met = set()
    for seed in range(8):
        state, first = env.reset(jax.random.key(seed))
        node = int(env.snapshot(state))
        met.add(node)
        np.testing.assert_array_equal(outcomes(env, joint, seed)[0].reshape(3, 3), (PAPER, REVERSED)[node])
        one_hot = np.eye(2)[node]
        np.testing.assert_array_equal(first.state, one_hot)
        np.testing.assert_array_equal(first.obs[1], one_hot)
        np.testing.assert_array_equal(first.obs[0], one_hot if variant == "seen" else [1, 1])
    assert met == {0, 1} == set(env.payoff.starts)
    np.testing.assert_array_equal(env.payoff.table, [PAPER, REVERSED])
    assert env.max_return == 8


def test_two_states_are_equally_likely():
    env = make("two_state")
    state, _ = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 4000))
    assert abs(float((state.node == 0).mean()) - 0.5) < 0.03


def test_aliasing_costs_decentralised_policies_half():
    first, second = np.array(PAPER), np.array(REVERSED)
    best = max((first[a].max() + second[a].max()) / 2 for a in range(3))
    assert best == 4


def test_in_opposed_states_nothing_but_the_first_agents_sight_is_lacking():
    """Additive in both, so that a monotone Q_tot is exact if each agent knows the state; alone, one order fits one."""
    first, second = (np.array(table) for table in compose(env="two_state_opposed").env.payoffs)
    assert compose(env="two_state_opposed").env.variant == "aliased"
    for table in (first, second):
        np.testing.assert_array_equal(table, table[:, :1] + table[:1] - table[0, 0])
    np.testing.assert_array_equal(first, second[::-1])
    assert (np.diff(first, axis=0) < 0).all()
    assert (first.max() + second.max()) / 2 == 6
    assert max((first[a].max() + second[a].max()) / 2 for a in range(3)) == 4


def test_without_a_message_no_monotone_fit_of_opposed_states_errs_by_less_than_two_thirds():
    """Whatever order the first agent's utilities have; with that order, each state's best fit by trying them all."""
    first, second = (np.array(table)[:, 0] for table in compose(env="two_state_opposed").env.payoffs)

    def error(column, order):
        falling = (fit for fit in itertools.product(range(7), repeat=3) if fit[0] >= fit[1] >= fit[2])
        return min(np.abs(column[list(order)] - fit).mean() for fit in falling)

    best = min((error(first, order) + error(second, order)) / 2 for order in itertools.permutations(range(3)))
    assert best == pytest.approx(2 / 3)


def test_two_step_leads_to_7_or_to_the_game_worth_8():
    env = make("two_step")
    sequences, returns = returns_of_all_sequences(env)
    assert len(returns) == 16
    for sequence, value in zip(sequences, returns):
        assert value == (7 if sequence[0, 0] == 0 else [[0, 1], [1, 8]][sequence[1, 0]][sequence[1, 1]])
    assert env.max_return == 8
    np.testing.assert_array_equal(env.payoff.table, [[[7, 7], [8, 8]]])
    _, terminal, done, obs = outcomes(env, [[[0, 1], [0, 0]], [[1, 0], [0, 0]]])
    assert terminal.tolist() == done.tolist() == [[False, True]] * 2
    assert obs[:, 0, 0].tolist() == [[0, 1, 0], [0, 0, 1]]


def play_m_step(sequence, m, good_branches):
    """MAVEN's rules, as the paper and its environment give them, in a loop; None is an action after the end."""
    rewards, branch = [], None
    for step, (first, second) in enumerate(sequence):
        choice = 2 * first + second
        branch = choice if branch is None else branch
        reward = float(choice == branch and (good_branches == 4 or branch in (0, 3)))
        if step == m - 1 and m > 1 and branch == 0:
            reward = [[1.0, 1.0], [1.0, 4.0]][first][second]
        rewards.append(reward)
        if reward == 0 or step == m - 1:
            return rewards
    return rewards


@pytest.mark.parametrize(("m", "good_branches"), [(1, 2), (2, 2), (3, 2), (3, 4), (4, 2)])
def test_m_step_follows_mavens_rules(m, good_branches):
    env = make("m_step", n_steps=m, good_branches=good_branches)
    joint = list(itertools.product(range(2), repeat=2))
    sequences = np.array(list(itertools.product(joint, repeat=m)))
    reward, terminal, _, _ = outcomes(env, sequences)
    best = 0
    for sequence, got, ends in zip(sequences, reward, terminal):
        expected = play_m_step(sequence, m, good_branches)
        assert got.tolist() == expected + [0.0] * (m - len(expected))
        assert ends.tolist() == [False] * (len(expected) - 1) + [True] * (m - len(expected) + 1)
        best = max(best, sum(expected))
    assert env.max_return == best == (m + 3 if m > 1 else 1)


def test_m_step_shows_the_step_and_the_branch():
    env = make("m_step", n_steps=3)
    assert env.reset(jax.random.key(0))[1].obs[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    obs = outcomes(env, [[[1, 1], [1, 1], [1, 1]]])[3][0]
    assert obs[0, 1].tolist() == [0, 1, 0, 0, 0, 0, 0, 1]
    assert obs[1, 1].tolist() == [0, 0, 1, 0, 0, 0, 0, 1]
    assert obs[2, 1].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("name", "best"), [("climbing", 275), ("penalty", 250), ("matrix_game", 200)])
def test_a_repeated_game_lasts_25_rounds_seen_as_zeros_and_is_truncated(name, best):
    env = make(name, episode_limit=25)
    assert env.max_return == best
    reward, terminal, done, obs = outcomes(env, np.zeros((1, 25, 2), int))
    assert (reward == make(name).payoff.table[0, 0, 0]).all()
    assert not terminal.any()
    assert done[0].tolist() == [False] * 24 + [True]
    assert obs.shape[-1] == 2
    assert not obs.any()


def test_the_table_of_a_repeated_game_is_one_rounds_payoff():
    np.testing.assert_array_equal(make("climbing", episode_limit=25).payoff.table, [CLIMBING])


@pytest.mark.parametrize(("name", "settings"), [("two_step", {}), ("m_step", {"n_steps": 3}), ("penalty", {})])
def test_the_best_return_is_the_best_of_all_sequences(name, settings):
    env = make(name, **settings)
    assert env.max_return == returns_of_all_sequences(env)[1].max()


def test_success_is_the_best_return_up_to_rounding():
    env = make("matrix_game")
    stats = EpisodeStats(
        episode_return=jnp.array([8.0, 8.0 - 1e-7, 7.9, 0.0]),
        length=jnp.ones(4, jnp.int32),
        terminal=jnp.ones(4, bool),
        info={},
        first_action=jnp.zeros((4, 2), jnp.int32),
    )
    assert env.success(stats).tolist() == [True, True, False, False]


def test_predator_prey_has_no_table():
    assert make("predator_prey").payoff is None


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("matrix_game", {"payoff": [1, 2]}, "payoff"),
        ("matrix_game", {"payoff": [[1, 2], [3]]}, "payoff"),
        ("matrix_game", {"payoff": [[1, 2, 3], [4, 5, 6]]}, "payoff"),
        ("matrix_game", {"payoff": [[1, "x"], [3, 4]]}, "payoff"),
        ("matrix_game", {"payoff": [[1, float("nan")], [3, 4]]}, "payoff"),
        ("matrix_game", {"payoff": [[1, 2], [3, 4]], "n_agents": 3}, "payoff"),
        ("matrix_game", {"payoff": 3}, "payoff"),
        ("matrix_game", {"payoff": []}, "payoff"),
        ("matrix_game", {"episode_limit": 0}, "episode_limit"),
        ("two_state", {"payoffs": [[[1, 2], [3, 4]]]}, "payoffs"),
        ("two_state", {"payoffs": [[[1, 2], [3, 4]], PAPER]}, "payoffs"),
        ("two_state", {"variant": "blind"}, "variant"),
        ("two_step", {"first_payoff": PAPER}, "first_payoff"),
        ("m_step", {"good_branches": 3}, "good_branches"),
        ("m_step", {"n_steps": 0}, "n_steps"),
        ("penalty", {"penalty": -1}, "penalty"),
    ],
)
def test_a_wrong_setting_is_named_with_what_was_expected(name, settings, key):
    with pytest.raises(ValueError, match=rf"^env\.{key} is .*; expected .*\.$") as error:
        make(name, **settings)
    assert "\n" not in str(error.value)
