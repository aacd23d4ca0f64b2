"""What people see of networks along an episode: the numbers that acting computes, under names common to all."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.networks import messages
from lsf_jax.types import Algorithm
from tests.support import oracle_lsf_sac, value_cases
from tests.support.lsf_sac_cases import (
    CLOCK,
    SPEC,
    A,
    N,
    T,
    episodes_of,
    make_games,
    numpy_tree,
    observe,
    trajectory_of,
)

WITHOUT_MIXER = {"iql", "coma", "qtran", "qtran_alt"}
OTHERS = (
    *("lsf_sac", "vdac_sum", "dop", "qplex", "ow_qmix", "qtran", "qtran_alt", "ndq"),
    *("masac_double_q", "maa2c", "fop", "coma"),
)
ALONG = ["iql", *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]
"""The test of policies has another one; all take long to compile."""
FIRST = ("iql", "vdn", "ow_qmix", "qtran", "ndq", "lsf_sac", "masac", "vdac_sum", "maa2c", "fop", "coma", "dop")
EVERY = [pytest.param(name, marks=[] if name in FIRST else [pytest.mark.slow]) for name in sorted(ALGORITHMS)]
"""The others differ from one of these in a mixer or a setting."""
SMALL = {
    **{key: 8 for key in ("hidden", "central_hidden", "critic_hidden", "joint_hidden")},
    **{key: 4 for key in ("mixer_embed", "hyper_hidden", "encoder_hidden", "decoder_hidden", "batch_size", "on_batch")},
    "remat": False,
}


def small_config(name):
    config = ALGORITHMS[name].config
    return replace(config(), **{key: value for key, value in SMALL.items() if key in vars(config())})


@cache
def game():
    """The longest of the games as a trajectory."""
    return trajectory_of(jax.tree.map(lambda leaf: leaf[0], episodes_of(make_games())))


def algorithm_of(name, recurrent=True):
    return ALGORITHMS[name].factory(SPEC, replace(small_config(name), recurrent=recurrent), observe)


@cache
def case(name):
    """An algorithm, an agent whose every term matters, and a game."""
    algorithm = algorithm_of(name)
    agent = value_cases.agent_of(algorithm)
    if "temperature" in agent.params:
        agent = agent._replace(params={**agent.params, "temperature": jnp.float32(0.5)})
    return SimpleNamespace(algorithm=algorithm, agent=agent, trajectory=game())


def insight_of(algorithm):
    def look(agent, trajectory, keys):
        record = algorithm.forward(agent.params, agent.targets, trajectory, keys)
        return algorithm.insight(agent, trajectory, record)

    return look


KEYS = jax.random.split(jax.random.key(5), T + 1)


@cache
def looked(name):
    c = case(name)
    return jax.tree.map(np.asarray, jax.jit(insight_of(c.algorithm))(c.agent, c.trajectory, KEYS))


def scores_along(c):
    """What acting chooses from at every step, its own actions replaced by those that were taken."""
    params, carry, found = c.algorithm.policy_params(c.agent), c.algorithm.start(), []
    scores, act = jax.jit(c.algorithm.scores), jax.jit(c.algorithm.act_greedy)
    for t in range(T):
        seen = jax.tree.map(lambda leaf, t=t: leaf[t], c.trajectory.observation)
        found.append(np.asarray(scores(params, carry, seen, KEYS[t])))
        carry, action = act(params, carry, seen, KEYS[t], CLOCK, c.algorithm.hyper)
        np.testing.assert_array_equal(action, np.where(seen.avail, found[-1], -np.inf).argmax(-1))
        carry = carry._replace(last_action=c.trajectory.action[t])
    return np.stack(found)


@pytest.mark.parametrize("name", EVERY)
def test_every_algorithm_says_what_it_has_and_leaves_out_what_it_has_not(name):
    """By shapes alone, so that nothing is compiled."""
    algorithm = algorithm_of(name, recurrent=False)  # traced faster
    agent = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    found = jax.eval_shape(insight_of(algorithm), agent, game(), KEYS)
    has = {field: leaf.shape for field, leaf in found._asdict().items() if field != "record" and leaf is not None}
    expected = {"q", "total", "weights"} - ({"weights"} if name in WITHOUT_MIXER else set())
    expected -= {"total"} if name in ("iql", "coma") else set()
    if ALGORITHMS[name].acts == "policy":
        expected |= {"log_pi"}
    if name.startswith("vdac") or name == "maa2c":
        expected = (expected - {"q"}) | {"value"}
    if name.startswith("lsf_sac") or name == "ndq":
        expected |= {"messages", "decoded"}
    assert set(has) == expected
    sizes = {
        "q": (T, N, A),
        "log_pi": (T, N, A),
        "decoded": (T, N, A),
        "value": (T, N),
        "weights": (T, N),
        "total": (T,),
    }
    assert {field: shape for field, shape in has.items() if field != "messages"} == {
        field: shape for field, shape in sizes.items() if field in expected
    }
    assert "messages" not in has or has["messages"][:2] == (T, N)
    assert set(found.record._fields)


@pytest.mark.parametrize("name", ALONG)
def test_values_and_policies_along_an_episode_are_those_that_acting_computes_step_by_step(name, monkeypatch):
    monkeypatch.setattr(messages, "sample_messages", lambda mean, keys, noise=1.0: mean)  # NDQ draws them apart
    c = case(name)
    found = jax.tree.map(np.asarray, jax.jit(insight_of(c.algorithm))(c.agent, c.trajectory, KEYS))
    scores, avail = scores_along(c), np.asarray(c.trajectory.observation.avail[:-1])
    if ALGORITHMS[name].acts == "values":
        np.testing.assert_allclose(found.q, scores, rtol=1e-5, atol=1e-5)
    else:
        logits = np.where(avail, scores, -np.inf)
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(found.log_pi[avail], expected[avail], rtol=1e-4, atol=1e-5)
        assert not found.log_pi[~avail].any()


def test_of_lsf_sac_messages_total_and_weights_are_those_of_the_papers_equations_in_numpy():
    c, found = case("lsf_sac"), looked("lsf_sac")
    p, game, cfg = numpy_tree(c.agent.params["critic"]), make_games()[0], small_config("lsf_sac")
    inputs = oracle_lsf_sac.inputs_of(game)
    np.testing.assert_allclose(
        found.messages, oracle_lsf_sac.message_means(p["encoder"], inputs, cfg)[:-1], rtol=1e-4, atol=1e-5
    )
    chosen = np.take_along_axis(found.q.astype(float), game.action[..., None], axis=-1)[..., 0]
    for t in range(T):
        weights = oracle_lsf_sac.mixing_weights(p["mixer"], game.state[t], N)
        total = lambda values, weights=weights: oracle_lsf_sac.mixed(weights, values)
        np.testing.assert_allclose(found.total[t], total(chosen[t]), rtol=1e-4, atol=1e-4)
        for agent in range(N):
            step = 1e-5 * np.eye(N)[agent]
            slope = (total(chosen[t] + step) - total(chosen[t] - step)) / 2e-5
            np.testing.assert_allclose(found.weights[t, agent], slope, rtol=1e-3, atol=1e-4)


def test_of_sums_every_agent_counts_once():
    found = looked("vdac_sum")
    np.testing.assert_array_equal(found.weights, 1.0)
    np.testing.assert_allclose(found.total, found.value.sum(-1), rtol=1e-5, atol=1e-6)


def test_of_dop_total_is_the_weighted_sum_of_local_values():
    found, action = looked("dop"), np.asarray(case("dop").trajectory.action)
    chosen = np.take_along_axis(found.q, action[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found.total, (found.weights * chosen).sum(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.weights.sum(-1), 1.0, rtol=1e-5)


def test_a_third_partys_algorithm_need_not_offer_any_of_it():
    offered = ("scores", "forward", "insight", "channel")
    assert {name: Algorithm._field_defaults[name] for name in offered} == dict.fromkeys(offered)
