"""Acting with LSF-SAC: the actor alone, its own observation alone, available actions alone."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms.lsf_sac import binding, networks
from lsf_jax.engine.exploration import BEHAVIOURS, epsilon_greedy, linear_schedule
from lsf_jax.types import Observation
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_lsf_sac as oracle
from tests.support.lsf_sac_cases import CLOCK, OBS, PLAIN, RELEASE, SMALL, A, N, S, T

DRAWS = 20_000
WAYS = [*BEHAVIOURS, "act_greedy", "act_sampled"]


def actor_of(way):
    """The algorithm, and the acting function that one way of behaving means."""
    behaviour = way if way in BEHAVIOURS else "sample"
    algorithm = cases.case(replace(SMALL, behaviour=behaviour, epsilon_start=0.5, epsilon_finish=0.5)).algorithm
    return algorithm, algorithm.act if way in BEHAVIOURS else getattr(algorithm, way)


@cache
def player(way):
    """Jitted: three steps of acting for a batch of keys; actions `[keys, 3, N]` and the last hidden state."""
    algorithm, act = actor_of(way)

    def play(params, observations, key):
        carry, actions = algorithm.start(), []
        for step, key_step in enumerate(jax.random.split(key, 3)):
            observation = jax.tree.map(lambda leaf, t=step: leaf[t], observations)
            carry, action = act(params, carry, observation, key_step, CLOCK, algorithm.hyper)
            actions.append(action)
        return jnp.stack(actions), carry.hidden

    return jax.jit(jax.vmap(play, in_axes=(None, None, 0)))


def observations(seed=0):
    rng = np.random.default_rng(seed)
    avail = rng.random((3, N, A)) < 0.5
    avail[np.arange(3)[:, None], np.arange(N), rng.integers(A, size=(3, N))] = True
    avail[1, 2] = np.arange(A) == 1  # dead
    return Observation(
        obs=jnp.asarray(rng.normal(size=(3, N, OBS)), jnp.float32),
        state=jnp.asarray(rng.normal(size=(3, S)), jnp.float32),
        avail=jnp.asarray(avail),
    )


KEYS = jax.random.split(jax.random.key(0), 256)


@pytest.mark.default("0-epsilon_greedy")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("agent", range(N))
def test_decentralised_execution_no_agent_reacts_to_another_agents_observation(way, agent):
    params = cases.case(SMALL).agent.params["actor"]
    seen = observations()
    moved = seen._replace(obs=seen.obs.at[:, agent].add(3.0), state=seen.state + 1.0)
    (actions, hidden), (moved_actions, moved_hidden) = (player(way)(params, o, KEYS) for o in (seen, moved))
    others = [i for i in range(N) if i != agent]
    np.testing.assert_array_equal(actions[..., others], moved_actions[..., others])
    np.testing.assert_array_equal(hidden[:, others], moved_hidden[:, others])
    assert (hidden[:, agent] != moved_hidden[:, agent]).any()


def test_decentralised_execution_acting_receives_the_actor_and_nothing_else():
    c = cases.case(SMALL)
    params = c.algorithm.policy_params(c.agent)
    names = {entry.key for path, _ in jax.tree_util.tree_leaves_with_path(params) for entry in path}
    assert names & {"critic", "encoder", "decoder", "mixer", "temperature"} == set()
    jax.tree.map(np.testing.assert_array_equal, params, c.agent.params["actor"])
    without = c.agent._replace(params={"actor": c.agent.params["actor"]}, targets={}, opt_state={})
    observation = jax.tree.map(lambda leaf: leaf[0], observations())
    act = c.algorithm.act_greedy
    _, action = act(c.algorithm.policy_params(without), c.algorithm.start(), observation, KEYS[0], CLOCK, c.hyper)
    assert action.shape == (N,)


@pytest.mark.parametrize("way", WAYS)
def test_an_unavailable_action_is_never_chosen(way):
    params = cases.case(SMALL).agent.params["actor"]
    seen = observations()
    for favourite in range(A):  # the actor wants nothing but this action
        bias = 60.0 * jax.nn.one_hot(favourite, A)
        layer = {**params["output_layer"], "bias": bias}
        actions, _ = player(way)({**params, "output_layer": layer}, seen, KEYS)
        chosen = np.take_along_axis(np.asarray(seen.avail)[None], np.asarray(actions)[..., None], axis=-1)
        assert chosen.all()
        wanted = np.asarray(seen.avail)[..., favourite]
        if way == "act_greedy":
            np.testing.assert_array_equal(actions == favourite, np.broadcast_to(wanted, actions.shape))


def test_greedy_acting_takes_the_actors_most_probable_action_and_learning_agrees_with_acting():
    """The policy unrolled by the learner is the policy that acts, step by step."""
    c = cases.case(SMALL)
    game, f = c.games[0], cases.forwards(SMALL)
    carry, params = c.algorithm.start(), c.algorithm.policy_params(c.agent)
    for t in range(T):
        observation = jax.tree.map(lambda leaf, step=t: leaf[0, step], c.episodes.world)
        carry, action = c.algorithm.act_greedy(params, carry, observation, KEYS[0], CLOCK, c.hyper)
        for i in range(N):
            assert action[i] == oracle.best_available(np.asarray(f.log_pi[0, t, i]), game.avail[t, i])
        carry = carry._replace(last_action=jnp.asarray(game.action[t], jnp.int32))


def frequencies(actions):
    return np.stack([np.bincount(np.asarray(actions)[:, i], minlength=A) for i in range(N)]) / len(actions)


VALUES = jnp.asarray([[0.1, 2.0, 9.0, -1.0], [3.0, 1.0, 0.0, 0.5], [0.0, 0.0, 0.0, 5.0]])
AVAIL = jnp.asarray([[True, True, False, True], [True, True, True, True], [False, True, False, False]])
BEST = (1, 0, 1)


def epsilon_greedy_probabilities(epsilon):
    out = np.zeros((N, A))
    for i in range(N):
        for a in range(A):
            if AVAIL[i, a]:
                out[i, a] = epsilon / int(AVAIL[i].sum()) + (1.0 - epsilon) * (a == BEST[i])
    return out


def assert_frequencies(found, wanted):
    assert (found[wanted == 0] == 0).all()
    spread = np.sqrt(wanted * (1 - wanted) / DRAWS)
    assert (np.abs(found - wanted) <= 5 * spread).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_frequencies(epsilon):
    keys = jax.random.split(jax.random.key(1), DRAWS)
    actions = jax.vmap(lambda key: epsilon_greedy(VALUES, AVAIL, jnp.float32(epsilon), key))(keys)
    assert_frequencies(frequencies(actions), epsilon_greedy_probabilities(epsilon))


def test_epsilon_is_drawn_for_each_agent_apart():
    keys = jax.random.split(jax.random.key(2), DRAWS)
    actions = np.asarray(jax.vmap(lambda key: epsilon_greedy(VALUES, AVAIL, jnp.float32(0.5), key))(keys))
    explored = (actions != np.array(BEST))[:, :2]
    together = explored.all(axis=1).mean()
    product = explored[:, 0].mean() * explored[:, 1].mean()
    assert abs(together - product) < 5 * np.sqrt(product * (1 - product) / DRAWS)


@pytest.mark.parametrize(("behaviour", "env_steps"), [("epsilon_greedy", 50), ("epsilon_sample", 50), ("sample", 0)])
def test_behaviours_choose_with_the_probabilities_they_name(behaviour, env_steps):
    hyper = cases.case(PLAIN).hyper._replace(
        epsilon_start=jnp.float32(0.9), epsilon_finish=jnp.float32(0.1), epsilon_anneal=jnp.float32(100.0)
    )
    clock = CLOCK._replace(env_steps=jnp.int32(env_steps))
    observation = Observation(obs=jnp.zeros((N, OBS)), state=jnp.zeros((S,)), avail=AVAIL)
    choose = BEHAVIOURS[behaviour]
    keys = jax.random.split(jax.random.key(3), DRAWS)
    actions = jax.vmap(lambda key: choose(VALUES, observation, key, clock, hyper))(keys)
    pi = np.array([oracle.softmax_over(np.asarray(v), np.asarray(a)) for v, a in zip(VALUES, AVAIL)])
    wanted = {
        "epsilon_greedy": epsilon_greedy_probabilities(0.5),
        "epsilon_sample": 0.5 * epsilon_greedy_probabilities(1.0) + 0.5 * pi,
        "sample": pi,
    }[behaviour]
    assert_frequencies(frequencies(actions), wanted)


@pytest.mark.parametrize(("env_steps", "epsilon"), [(0, 0.9), (25, 0.7), (100, 0.1), (10**7, 0.1)])
def test_epsilon_falls_linearly_and_then_stays(env_steps, epsilon):
    found = linear_schedule(jnp.float32(0.9), jnp.float32(0.1), jnp.float32(100.0), jnp.int32(env_steps))
    np.testing.assert_allclose(found, epsilon, rtol=1e-6)


def test_release_clips_the_logits_that_act_and_the_paper_does_not():
    """A wanted action keeps at most e⁷ times the odds of an unwanted one (reference 3.10)."""
    for cfg, largest in ((RELEASE, 7.0), (SMALL, 120.0)):
        c = cases.case(cfg)
        params = c.agent.params["actor"]
        layer = {"kernel": 0.0 * params["output_layer"]["kernel"], "bias": jnp.array([60.0, -60.0, 0.0, 0.0])}
        net = binding.make_networks(cases.SPEC, cfg)
        hidden = c.algorithm.start().hidden
        inputs = jnp.zeros((N, OBS + A + N))
        _, logits = networks.actor_logits(net, {**params, "output_layer": layer}, hidden, inputs)
        np.testing.assert_allclose(logits[:, 0] - logits[:, 1], largest)
