"""One row of a run as a policy: it acts as evaluations do, in NumPy and JAX, and shows what its networks compute."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.analysis import playback
from lsf_jax.config.composition import compose
from lsf_jax.settings import ConfigError
from lsf_jax.types import Episode
from tests.support.policy_cases import is_plausible
from tests.support.run_cases import finished_run

KEY = jax.random.key(7)
GAME = ("env.n_steps=4", "train.seeds=5")


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Five rows of MASAC, which acts by a policy."""
    path = tmp_path_factory.mktemp("runs") / "soft"
    finished_run(path, "masac", "m_step", *GAME)
    return playback.load_policies(path)


@pytest.fixture(scope="module")
def talking(tmp_path_factory):
    """NDQ, which acts on values and on messages."""
    path = tmp_path_factory.mktemp("runs") / "talking"
    finished_run(path, "ndq", "m_step", *GAME)
    return playback.load_policies(path).row(1)


def moments_of(policy, episode):
    """What is seen at each valid step of a recorded episode, in NumPy, with a key for each."""
    for t, valid in enumerate(episode.valid):
        if valid:
            seen = policy.program.env.observe(jax.tree.map(lambda leaf, t=t: jnp.asarray(leaf[t]), episode.world))
            yield t, np.asarray(seen.obs), np.asarray(seen.avail), jax.random.fold_in(KEY, t)


def test_a_row_stepped_through_the_game_earns_what_evaluation_says_of_it(policies):
    expected = playback.evaluate_policies(policies, 1)
    step = jax.jit(policies.program.env.step)
    for row in range(5):
        policy = policies.row(row)
        state, seen = policies.program.env.reset(KEY)
        carry, earned, length, done = policy.start(), 0.0, 0, False
        while not done:
            obs, avail = np.asarray(seen.obs), np.asarray(seen.avail)
            carry, action = policy.act(obs, avail, carry, KEY)
            state, (seen, reward, _, done, _) = step(KEY, state, action)
            earned, length = earned + float(reward), length + 1
        assert (earned, length) == (expected["return"][row], expected["length"][row])
    assert len(set(expected["return"])) > 1  # else any row would do


def test_an_episode_that_is_played_holds_the_actions_that_act_gives_along_it(policies):
    policy = policies.row(3)
    episode = policy.play(KEY)
    carry = policy.start()
    for t, obs, avail, key in moments_of(policy, episode):
        carry, action = policy.act(obs, avail, carry, key)
        np.testing.assert_array_equal(action, episode.action[t])


def test_sampled_actions_follow_the_policy_that_log_pi_tells(policies):
    policy = policies.row(2, stochastic=True)
    _, seen = policies.program.env.reset(KEY)
    keys = jax.random.split(KEY, 2000)
    draw = jax.vmap(lambda key: policy.act(seen.obs, seen.avail, policy.start(), key)[1])
    pi = np.exp(policy.log_pi(np.asarray(seen.obs), np.asarray(seen.avail), policy.start(), KEY))
    np.testing.assert_allclose(pi.sum(-1), 1.0, rtol=1e-5)
    for drawn, expected in zip(np.asarray(draw(keys)).T, pi, strict=True):
        assert is_plausible(np.bincount(drawn, minlength=len(expected)), 2000 * expected)
    greedy = policies.row(2).act(seen.obs, seen.avail, policy.start(), KEY)[1]
    np.testing.assert_array_equal(greedy, pi.argmax(-1))


def test_numpy_gives_numpy_jax_gives_jax_and_programs_of_the_users_own_may_hold_a_policy(policies):
    policy, env = policies.row(0), policies.program.env
    _, seen = env.reset(KEY)
    in_jax = policy.act(seen.obs, None, policy.start(), KEY)[1]
    in_numpy = policy.act(np.asarray(seen.obs, np.float64), None, policy.start(), KEY)[1]
    assert isinstance(in_jax, jax.Array)
    assert type(in_numpy) is np.ndarray
    np.testing.assert_array_equal(in_jax, in_numpy)

    def twice(carry, key):
        carry, action = policy.act(seen.obs, seen.avail, carry, key)
        return carry, action

    _, actions = jax.jit(lambda keys: jax.lax.scan(twice, policy.start(), keys))(jax.random.split(KEY, 2))
    np.testing.assert_array_equal(actions[0], in_numpy)


def test_all_rows_share_one_compiled_program(policies):
    _, seen = policies.program.env.reset(KEY)
    for row in (0, 4):
        policies.row(row).act(seen.obs, seen.avail, policies.row(row).start(), KEY)
    sizes = policies.jitted.act[False]._cache_size()
    policies.row(1).act(np.asarray(seen.obs), np.asarray(seen.avail), policies.row(1).start(), jax.random.key(9))
    assert policies.jitted.act[False]._cache_size() == sizes


@pytest.mark.parametrize("index", [5, -1, True])
def test_a_row_that_is_not_there_is_refused(policies, index):
    with pytest.raises(ConfigError, match=r"^row is .*; expected a whole number from 0 to 4, the rows of .*soft$"):
        policies.row(index)


def test_what_does_not_fit_is_refused_by_name(policies, talking):
    policy = policies.row(0)
    obs, carry = np.zeros(policy.program.env.reset(KEY)[1].obs.shape, np.float32), policy.start()
    with pytest.raises(ValueError, match=r"obs has shape .*; expected .*, the observations of all agents of m_step"):
        policy.act(obs[:, :-1], None, carry, KEY)
    with pytest.raises(ValueError, match=r"avail has shape .*jax\.vmap"):
        policy.act(obs, np.ones((3, 2, 2), bool), carry, KEY)
    for key in (jax.random.PRNGKey(0), jax.random.split(KEY)):
        with pytest.raises(ValueError, match="key is no typed random key"):
            policy.act(obs, None, carry, key)
    with pytest.raises(ValueError, match=r"masac acts by a policy .* policy.look\(episode\).q"):
        policy.q(obs, None, carry, KEY)
    with pytest.raises(ValueError, match=r"ndq acts on values and has no policy; use policy.q"):
        talking.log_pi(obs, None, talking.start(), KEY)


def test_of_communicating_agents_one_call_is_a_round_of_messages_drawn_from_its_key(talking):
    _, seen = talking.program.env.reset(KEY)
    obs, avail, carry = np.asarray(seen.obs), np.asarray(seen.avail), talking.start()
    q = talking.q(obs, avail, carry, KEY)
    for key in jax.random.split(KEY, 3):
        _, action = talking.act(obs, avail, carry, key)
        np.testing.assert_array_equal(action, talking.q(obs, avail, carry, key).argmax(-1))
    np.testing.assert_array_equal(q, talking.q(obs, avail, carry, KEY))
    assert (q != talking.q(obs, avail, carry, jax.random.key(8))).any()  # other noise on the messages
    other = obs.copy()
    other[1] += 1.0
    assert (talking.q(other, avail, carry, KEY)[0] != q[0]).any()  # agent 0 hears what agent 1 sees


def test_a_look_into_played_episodes_shows_the_policy_that_acted(policies):
    policy = policies.row(1, stochastic=True)
    episodes = [policy.play(key) for key in jax.random.split(KEY, 2)]
    found = policy.look(Episode(*jax.tree.map(lambda *leaves: np.stack(leaves), *episodes)))
    carry = policy.start()
    for t, obs, avail, key in moments_of(policy, episodes[0]):
        log_pi = policy.log_pi(obs, avail, carry, key)
        np.testing.assert_allclose(found.log_pi[0, t], log_pi, rtol=1e-4, atol=1e-5)
        carry, _ = policy.act(obs, avail, carry, key)
        carry = carry._replace(last_action=jnp.asarray(episodes[0].action[t], jnp.int32))
    assert {type(leaf) for leaf in jax.tree.leaves(found)} == {np.ndarray}
    assert found.q.shape == found.log_pi.shape == (2, 4, 2, 2)
    assert found.record.log_pi.shape == (2, 5, 2, 2)


def test_what_sessions_show_is_short(policies, tmp_path):
    assert repr(policies) == f"Policies(masac on m_step: 5 rows, seeds 0 to 4, of {policies.path})"
    assert repr(policies.row(4, stochastic=True)) == "Policy(masac on m_step: row 4, seed 4, sampled)"
    config = compose(algo="qmix", env="smax/3m", overrides=["seeds=2", "algo.lr=1e-3,3e-4", "train.n_envs=4"])
    assert repr(config) == (
        "Config(qmix on smax/3m: 2 seeds × 2 grid points, 200,000 env steps each; algo.lr=[0.001, 0.0003]; "
        "train.n_envs=4)"
    )
    presets = compose(presets=["release"])
    assert len(repr(presets)) < 700
