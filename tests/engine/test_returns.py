"""λ-returns and tree backup against their definitions, written out with loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.engine.returns import discounts, td_lambda, traces, tree_backup
from lsf_jax.platforms import compiling_for

TIME = 7


@pytest.fixture(params=["cpu", "gpu"], autouse=True)
def _form(request):
    """The sums of a CPU and those of an accelerator, both computed here."""
    with compiling_for(request.param):
        yield


def lambda_return(reward, value, length, is_terminal, gamma, lam):
    """G^λ_t for t < length, from the n-step returns of an episode that really has `length` steps (float64).

    `value[k]` is v of the observation *after* step k. Sutton & Barto eq. (12.3): the weight of all n-step returns that
    reach the end falls on the last one; that one bootstraps from v unless the game ended there.
    """

    def n_step(t, n):
        total = sum(gamma**k * reward[t + k] for k in range(n))
        ended = is_terminal and t + n == length
        return total + (0.0 if ended else gamma**n * value[t + n - 1])

    def mixture(t):
        left = length - t
        shorter = sum((1 - lam) * lam ** (n - 1) * n_step(t, n) for n in range(1, left))
        return shorter + lam ** (left - 1) * n_step(t, left)

    return np.array([mixture(t) for t in range(length)])


def episode(length, is_terminal, seed, garbage=0.0):
    """Reward and next value with `garbage` after the end, and the flags of a padded episode."""
    rng = np.random.default_rng(seed)
    reward, value = rng.normal(size=(2, TIME)).astype(np.float32)
    reward[length:], value[length:] = garbage, -garbage
    valid = np.arange(TIME) < length
    terminal = (np.arange(TIME) == length - 1) & is_terminal
    return reward, value, jnp.asarray(valid), jnp.asarray(terminal)


def target(reward, value, valid, terminal, gamma, lam):
    return td_lambda(
        jnp.asarray(reward),
        discounts(terminal, jnp.float32(gamma)),
        jnp.asarray(value),
        traces(valid, jnp.float32(lam)),
    )


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 4, TIME - 1, TIME])
def test_the_recursion_equals_the_mixture_of_n_step_returns(length, is_terminal):
    for seed, (gamma, lam) in enumerate([(0.99, 0.6), (0.9, 0.0), (0.9, 1.0), (1.0, 0.3), (0.5, 0.95), (0.0, 0.5)]):
        reward, value, valid, terminal = episode(length, is_terminal, seed)
        got = target(reward, value, valid, terminal, gamma, lam)
        expected = lambda_return(reward.astype(float), value.astype(float), length, is_terminal, gamma, lam)
        np.testing.assert_allclose(got[:length], expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_a_bonus_is_earned_at_every_later_step_and_in_the_bootstrap_whatever_lambda(lam, is_terminal):
    """As if every reward but the first were larger by the bonus of the step before, and every value by its own."""
    length, gamma, rng = 5, 0.9, np.random.default_rng(3)
    reward, value, valid, terminal = episode(length, is_terminal, 4, garbage=np.nan)
    bonus = np.where(np.arange(TIME) < length, rng.normal(size=TIME), np.nan)
    got = td_lambda(
        jnp.asarray(reward),
        discounts(terminal, jnp.float32(gamma)),
        jnp.asarray(value),
        traces(valid, jnp.float32(lam)),
        jnp.asarray(bonus, jnp.float32),
    )
    for t in range(length):
        later = reward.astype(float)
        later[t + 1 :] += bonus[t : TIME - 1]
        expected = lambda_return(later, value.astype(float) + bonus, length, is_terminal, gamma, lam)[t]
        np.testing.assert_allclose(got[t], expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("lam", [0.0, 0.8])
def test_a_soft_value_of_constant_surprise_is_its_geometric_sum(lam):
    """Value iteration in a game that pays nothing and goes on: γ b / (1 - γ) for an action."""
    zeros, steps = jnp.zeros(400), jnp.full(400, 0.9)
    value, trace = zeros, jnp.full(400, lam).at[-1].set(0.0)
    improve = jax.jit(lambda value: jnp.full(400, td_lambda(zeros, steps, value, trace, zeros + 2.0)[0]))
    for _ in range(300):
        value = improve(value)
    np.testing.assert_allclose(value[0], 0.9 * 2.0 / 0.1, rtol=1e-4)


def test_lambda_0_is_the_one_step_target():
    reward, value, valid, terminal = episode(TIME, True, 1)
    expected = reward + np.where(np.asarray(terminal), 0.0, 0.9) * value
    np.testing.assert_allclose(target(reward, value, valid, terminal, 0.9, 0.0), expected, rtol=1e-5)


def test_lambda_1_is_the_discounted_sum_of_rewards_and_ignores_values_inside_the_episode():
    reward, value, valid, terminal = episode(5, True, 2)
    got = target(reward, value, valid, terminal, 0.9, 1.0)
    expected = [sum(0.9 ** (k - t) * reward[k] for k in range(t, 5)) for t in range(5)]
    np.testing.assert_allclose(got[:5], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(target(reward, value + 7.0, valid, terminal, 0.9, 1.0)[:5], got[:5])


def test_a_time_limit_bootstraps_and_a_terminal_step_does_not():
    reward, value = np.zeros(TIME, np.float32), np.full(TIME, 10.0, np.float32)
    for length in (3, TIME):
        _, _, valid, terminal = episode(length, True, 0)
        last = length - 1
        assert target(reward, value, valid, terminal, 0.5, 1.0)[last] == 0.0
        assert target(reward, value, valid, jnp.zeros(TIME, bool), 0.5, 1.0)[last] == 5.0
        assert target(reward, value, valid, jnp.zeros(TIME, bool), 0.5, 1.0)[last - 1] == 2.5


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("length", [1, 4, TIME - 1])
def test_garbage_after_the_end_does_not_leak(length, is_terminal):
    clean, dirty = (target(*episode(length, is_terminal, 3, garbage), 0.99, 0.8) for garbage in (0.0, 1e6))
    np.testing.assert_array_equal(clean[:length], dirty[:length])


def test_without_the_zero_trace_padding_would_leak():
    reward, value, valid, terminal = episode(4, False, 3, 1e6)
    leaking = td_lambda(
        jnp.asarray(reward), discounts(terminal, jnp.float32(0.99)), jnp.asarray(value), jnp.full((TIME,), 0.8)
    )
    assert np.abs(leaking[:4] - target(reward, value, valid, terminal, 0.99, 0.8)[:4]).min() > 1e3


def test_the_trace_is_zero_at_the_last_valid_step_and_after_it():
    for length in (1, 3, TIME):
        valid = jnp.arange(TIME) < length
        expected = np.where(np.arange(TIME) < length - 1, np.float32(0.6), 0.0)
        np.testing.assert_array_equal(traces(valid, jnp.float32(0.6)), expected)


def test_the_discount_is_zero_only_where_the_game_ended():
    got = discounts(jnp.array([False, True, False]), jnp.float32(0.97))
    np.testing.assert_array_equal(got, np.array([0.97, 0.0, 0.97], np.float32))


def tree_backup_by_loops(reward, q, value, pi, length, is_terminal, gamma, lam, n):
    """The sum of corrections of an episode that really has `length` steps (float64)."""

    def error(t):
        ended = is_terminal and t == length - 1
        return reward[t] + (0.0 if ended else gamma * value[t]) - q[t]

    def backup(t):
        total = q[t]
        for step in range(min(n, length - t)):
            product = 1.0
            for j in range(1, step + 1):
                product *= pi[t + j]
            total += (gamma * lam) ** step * product * error(t + step)
        return total

    return np.array([backup(t) for t in range(length)])


def backup_case(length, is_terminal, seed, garbage=0.0):
    """Rewards, values and policy of an episode with `garbage` after its end, and its flags."""
    reward, value, valid, terminal = episode(length, is_terminal, seed, garbage)
    rng = np.random.default_rng(seed + 100)
    q, pi = rng.normal(size=TIME).astype(np.float32), rng.uniform(0.05, 1.0, TIME).astype(np.float32)
    q[length:], pi[length:] = garbage, garbage
    return reward, q, value, pi, valid, terminal


def backup(reward, q, value, pi, valid, terminal, gamma, lam, n):
    discount = discounts(terminal, jnp.float32(gamma))
    trace = jnp.where(valid, lam * jnp.asarray(pi), 0.0)
    arrays = [jnp.asarray(row) for row in (reward, discount, q, value, trace)]
    return jax.jit(tree_backup, static_argnames="n_steps")(*arrays, n_steps=n)


@pytest.mark.parametrize("n", [1, 2, 5, TIME, TIME + 3])
@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("length", [1, 2, 4, TIME - 1, TIME])
def test_tree_backup_is_the_sum_of_corrections_weighted_by_the_policy(length, is_terminal, n):
    for seed, (gamma, lam) in enumerate([(0.99, 0.93), (0.9, 1.0), (1.0, 0.5), (0.9, 0.0), (0.0, 0.5)]):
        case = backup_case(length, is_terminal, seed)
        expected = tree_backup_by_loops(*(x.astype(float) for x in case[:4]), length, is_terminal, gamma, lam, n)
        np.testing.assert_allclose(backup(*case, gamma, lam, n)[:length], expected, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_one_step_of_tree_backup_is_expected_sarsa(is_terminal):
    reward, q, value, pi, valid, terminal = backup_case(5, is_terminal, 1)
    expected = reward[:5] + 0.9 * value[:5] * ~np.asarray(terminal)[:5]
    np.testing.assert_allclose(
        backup(reward, q, value, pi, valid, terminal, 0.9, 0.93, 1)[:5], expected, rtol=1e-5, atol=1e-6
    )


def test_tree_backup_of_a_sure_policy_is_the_lambda_return_of_its_own_values():
    reward, q, value, _, valid, terminal = backup_case(TIME, True, 2)
    value[:-1] = q[1:]  # a policy that surely takes the recorded actions expects their values
    got = backup(reward, q, value, np.ones(TIME, np.float32), valid, terminal, 0.9, 0.7, TIME)
    expected = lambda_return(reward.astype(float), value.astype(float), TIME, True, 0.9, 0.7)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_an_action_that_the_policy_never_takes_cuts_the_backup_before_it():
    reward, q, value, pi, valid, terminal = backup_case(TIME, True, 3)
    pi[2] = 0.0
    got = backup(reward, q, value, pi, valid, terminal, 0.9, 1.0, TIME)
    np.testing.assert_allclose(got[1], reward[1] + 0.9 * value[1], rtol=1e-5)
    other = backup(reward, q, value, np.where(np.arange(TIME) == 0, 0.5, pi), valid, terminal, 0.9, 1.0, TIME)
    np.testing.assert_array_equal(got, other)  # what brought the episode to its first state does not matter


@pytest.mark.parametrize("garbage", [1e6, np.nan, np.inf])
@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("length", [1, 4, TIME - 1])
def test_tree_backup_does_not_see_what_the_padding_holds(length, is_terminal, garbage):
    clean, dirty = (backup(*backup_case(length, is_terminal, 4, x), 0.99, 0.93, 5) for x in (0.0, garbage))
    np.testing.assert_array_equal(clean[:length], dirty[:length])


def test_a_time_limit_bootstraps_tree_backup_from_the_expected_value_and_a_terminal_step_does_not():
    zero, ten, one = np.zeros(TIME, np.float32), np.full(TIME, 10.0, np.float32), np.ones(TIME, np.float32)
    for length in (3, TIME):
        _, _, valid, terminal = episode(length, True, 0)
        ended = backup(zero, zero, ten, one, valid, terminal, 0.5, 1.0, 5)
        assert ended[length - 1] == 0.0
        cut = backup(zero, zero, ten, one, valid, jnp.zeros(TIME, bool), 0.5, 1.0, 5)
        assert cut[length - 1] == 5.0
        assert cut[length - 2] - ended[length - 2] == 2.5


def test_vmapped_returns_are_those_of_single_trajectories():
    episodes = [episode(length, length % 2 == 0, length) for length in range(1, TIME + 1)]
    batch = [jnp.stack([jnp.asarray(row[i]) for row in episodes]) for i in range(4)]
    one = jax.jit(lambda r, v, ok, end: target(r, v, ok, end, 0.9, 0.7))
    for row, single in zip(jax.jit(jax.vmap(one))(*batch), episodes):
        np.testing.assert_allclose(row, one(*single), rtol=1e-6)


def test_the_target_is_differentiable_in_the_values():
    reward, value, valid, terminal = episode(3, False, 4)
    slope = jax.grad(lambda v: target(reward, v, valid, terminal, 0.9, 0.5)[0])(jnp.asarray(value))
    expected = [0.9 * 0.5, 0.9**2 * 0.5 * 0.5, 0.9**3 * 0.5**2, 0, 0, 0, 0]
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-7)
