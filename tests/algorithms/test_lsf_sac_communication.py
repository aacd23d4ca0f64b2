"""LSF-SAC whose actors read messages while they act: centralised execution, on request only."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms.lsf_sac import binding, networks
from lsf_jax.networks.agents import AgentInputs
from lsf_jax.settings import ConfigError
from lsf_jax.types import Observation
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_lsf_sac as oracle
from tests.support.lsf_sac_cases import CLOCK, COMMUNICATING, DOUBLE, MASAC, OBS, SMALL, SPEC, A, N, S, T

PER_RECEIVER = replace(COMMUNICATING, message_routing="per_receiver")
FEED_FORWARD = replace(PER_RECEIVER, recurrent=False, policy_sign="release", td_target="soft_expected")
KEYS = jax.random.split(jax.random.key(0), 64)


@pytest.mark.default("broadcast-greedy_actor")
@pytest.mark.parametrize("mode", ["greedy_actor", "expected", "sampled"])
@pytest.mark.parametrize("cfg", [COMMUNICATING, PER_RECEIVER], ids=["broadcast", "per_receiver"])
def test_losses_of_actors_that_read_messages_match_numpy_oracle(cfg, mode):
    cases.assert_terms_match(cfg, replace(cfg, td_target=mode), ["td", "policy", "temperature"])


@pytest.mark.default("feed_forward")
@pytest.mark.parametrize("cfg", [COMMUNICATING, FEED_FORWARD], ids=["recurrent", "feed_forward"])
def test_an_update_reports_the_means_of_every_term(cfg):
    cases.assert_means_match(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("group", ["critic", "actor"])
def test_gradients_match_central_differences_of_the_oracle(group):
    cases.assert_gradients_match(COMMUNICATING, group)


@pytest.mark.slow
def test_joint_table_averages_policy_and_values_over_message_noise():
    cases.assert_joint_table_matches(COMMUNICATING)


@cache
def actor(cfg):
    """Jitted: sampled actions `[keys, 2, N]` of two steps, for a batch of keys."""
    algorithm = cases.case(cfg).algorithm

    def play(params, observation, key):
        carry, actions = algorithm.start(), []
        for key_step in jax.random.split(key):
            carry, action = algorithm.act_sampled(params, carry, observation, key_step, CLOCK, algorithm.hyper)
            actions.append(action)
        return jnp.stack(actions)

    return jax.jit(jax.vmap(play, in_axes=(None, None, 0)))


def actions_of_others(cfg, mover):
    """Actions of all but one agent at equal randomness, before and after what that one observes changes."""
    c, rng = cases.case(cfg), np.random.default_rng(2)
    seen = Observation(
        obs=jnp.asarray(rng.normal(size=(N, OBS)), jnp.float32),
        state=jnp.zeros((S,)),
        avail=jnp.ones((N, A), bool),
    )
    moved = seen._replace(obs=seen.obs.at[mover].add(3.0))
    params = c.algorithm.policy_params(c.agent)
    return [np.delete(np.asarray(actor(cfg)(params, o, KEYS)), mover, axis=-1) for o in (seen, moved)]


@pytest.mark.parametrize("mover", range(N))
@pytest.mark.parametrize("cfg", [SMALL, MASAC, DOUBLE], ids=["lsf_sac", "masac", "masac_double_q"])
def test_without_communication_no_agent_reacts_to_what_another_one_observes(cfg, mover):
    np.testing.assert_array_equal(*actions_of_others(cfg, mover))


@pytest.mark.parametrize("mover", range(N))
@pytest.mark.parametrize("cfg", [COMMUNICATING, PER_RECEIVER], ids=["broadcast", "per_receiver"])
def test_with_communication_every_other_agent_can_react(cfg, mover):
    before, after = actions_of_others(cfg, mover)
    assert (before != after).any(axis=(0, 1)).all()


def test_acting_sees_the_actor_and_the_encoder_and_nothing_else():
    c = cases.case(COMMUNICATING)
    params = c.algorithm.policy_params(c.agent)
    wanted = {"actor": c.agent.params["actor"], "encoder": c.agent.params["critic"]["encoder"]}
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    jax.tree.map(
        np.testing.assert_array_equal, cases.case(SMALL).algorithm.policy_params(c.agent), c.agent.params["actor"]
    )


@pytest.mark.parametrize("cfg", [COMMUNICATING, PER_RECEIVER], ids=["broadcast", "per_receiver"])
def test_the_policy_that_acts_is_the_learners_policy_with_noise_of_the_acting_key(cfg):
    c, game = cases.case(cfg), cases.case(cfg).games[0]
    outputs, params = networks.acting_outputs(binding.make_networks(SPEC, cfg)), c.algorithm.policy_params(c.agent)
    x, sent = oracle.inputs_of(game), cfg.message_dim * (N if cfg is PER_RECEIVER else 1)
    hidden, found = c.algorithm.start().hidden, []
    for t in range(T + 1):
        seen = jnp.split(jnp.asarray(x[t], jnp.float32), [SPEC.obs_dim, SPEC.obs_dim + SPEC.n_actions], axis=-1)
        hidden, logits = outputs(params, hidden, AgentInputs(*seen), KEYS[t])
        found.append([oracle.softmax_over(np.asarray(row), ok) for row, ok in zip(logits, game.avail[t])])
    noise = np.concatenate([np.asarray(jax.random.normal(key, (1, N, sent)), float) for key in KEYS[: T + 1]])
    numpy_params = cases.numpy_tree(c.agent.params)
    informed = oracle.informed_inputs(numpy_params["critic"]["encoder"], x, noise, cfg)[1]
    np.testing.assert_allclose(found, oracle.policy(numpy_params["actor"], informed, game.avail, cfg)[0], atol=1e-5)


def test_an_encoder_with_history_cannot_send_to_actors_and_the_error_says_what_to_set():
    with pytest.raises(ConfigError) as caught:
        binding.make_lsf_sac(SPEC, replace(COMMUNICATING, encoder_input="history"), cases.observe)
    message = str(caught.value)
    assert all(word in message for word in ("algo.encoder_input is history", "algo.communicate"))
    assert "\n" not in message
    binding.make_lsf_sac(SPEC, replace(SMALL, encoder_input="history"), cases.observe)  # critics may read it
