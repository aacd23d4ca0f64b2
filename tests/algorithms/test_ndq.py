"""NDQ against NumPy loops: its losses and gradients, messages while acting, and how they are cut in evaluations."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS, ndq
from lsf_jax.engine.learner import detach_others, sum_over_valid
from lsf_jax.networks.agents import agent_inputs
from lsf_jax.settings import ConfigError
from lsf_jax.types import Observation
from tests.support import oracle_ndq as oracle
from tests.support import value_cases as cases
from tests.support.lsf_sac_cases import CLOCK, SPEC, A, N, keys_of, observe, trajectory_of

D = 2
SMALL = ndq.NdqConfig(
    **cases.SMALL,
    trace=0.6,
    mixer_embed=4,
    message_dim=D,
    encoder_hidden=5,
    decoder_hidden=9,
    c_beta=0.7,
    comm_beta=0.3,
    comm_entropy_beta=0.2,
)
DOWNSTREAM = replace(SMALL, only_downstream=True, recurrent=False, hyper_hidden=6, trace=0.0)
CUT_OFF = replace(SMALL, cut="threshold", cut_threshold=1e6)
OWN = np.repeat(np.eye(N, dtype=bool), D, axis=1)  # [sender, receiver · D]


def case(cfg):
    return cases.case("ndq", cfg)


def noises_of(key):
    """The message noise of one update, drawn as the engine splits its key: by row, then online and target."""
    draw = lambda key: np.asarray(jax.random.normal(key, (N, N * D)), float)
    rows = [[[draw(half) for half in jax.random.split(each)] for each in keys] for keys in keys_of(key)]
    return [oracle.Noise(*(np.stack(of_network) for of_network in zip(*episode))) for episode in rows]


def expected_terms(cfg, params=None):
    c = case(cfg)
    params = c.params if params is None else params
    return oracle.loss_terms(params, c.targets, c.games, noises_of(c.key), cfg)


def test_td_and_all_message_terms_match_the_oracle():
    for name, value in expected_terms(SMALL).items():
        assert value > 1e-2
        np.testing.assert_allclose(case(SMALL).metrics[name], value, rtol=3e-5, err_msg=name)


def test_gradients_match_central_differences_of_the_oracle():
    cases.assert_gradients_match(case(SMALL), lambda params: sum(expected_terms(SMALL, params).values()), per_module=4)


@pytest.mark.slow
def test_only_downstream_trains_messages_by_td_alone():
    c = case(DOWNSTREAM)
    assert not {"message_ce", "message_kl", "message_entropy"} & set(c.metrics)
    np.testing.assert_allclose(c.metrics["td"], expected_terms(DOWNSTREAM)["td"], rtol=3e-5)
    cases.assert_gradients_match(c, lambda params: expected_terms(DOWNSTREAM, params)["td"], per_module=2)
    assert not any(leaf.any() for leaf in jax.tree.leaves(c.gradients["decoder"]))


def test_td_reaches_the_encoder_and_message_terms_reach_no_utility():
    c, net = case(SMALL), ndq.make_networks(SPEC, SMALL)

    def terms(params):
        def one(episode, keys):
            t = trajectory_of(episode)
            f = ndq.forward(params, c.agent.targets, t, keys, net=net)
            losses = ndq.loss(detach_others(f, ndq.OWNS["q"]), t, CLOCK, c.algorithm.hyper)
            return {name: sum_over_valid(value, t.valid) for name, value in losses.items()}

        sums = jax.vmap(one)(c.episodes, keys_of(c.key))
        return {name: value.sum() for name, value in sums.items()}

    assert cases.blocks_moved(terms, c.agent.params) == {
        "td": {"trunk", "utility_layer", "mixer", "encoder"},
        "message_ce": {"encoder", "decoder"},
        "message_kl": {"encoder"},
        "message_entropy": {"encoder"},
    }


def test_metrics_are_free_of_the_weights_of_the_terms():
    c = case(SMALL)
    kl, ce = c.metrics["message_kl"] / (0.7 * 0.3), c.metrics["message_ce"] / 0.7
    np.testing.assert_allclose(c.metrics["kl_per_message"], kl / N**2, rtol=1e-5)
    np.testing.assert_allclose(c.metrics["decoder_cross_entropy"], ce / N, rtol=1e-5)
    assert 0.0 < c.metrics["decoder_accuracy"] < 1.0


@pytest.mark.parametrize(
    "settings",
    [
        {"cut": "threshold"},
        {"cut": "rank"},
        {"cut": "rank", "cut_threshold": 101.0},
        {"cut": "rank", "cut_probability": 0.5},
    ],
)
def test_a_cut_that_cuts_nothing_or_more_than_all_is_refused(settings):
    with pytest.raises(ConfigError, match=r"algo.cut_threshold is (0|101).*expected.*algo.cut="):
        ndq.make_ndq(SPEC, replace(SMALL, **settings), observe)


def test_the_update_is_never_cut():
    cut, plain = case(CUT_OFF), case(SMALL)
    jax.tree.map(np.testing.assert_array_equal, (cut.after, cut.metrics), (plain.after, plain.metrics))


def means(seed=0):
    return np.random.default_rng(seed).normal(size=(N, N * D))


def cut_by(cut, mean, key=0, threshold=0.0, probability=0.0):
    entries = jnp.asarray(mean, jnp.float32)
    return np.asarray(cut(entries, jax.random.key(key), threshold=threshold, probability=probability))


@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.1])
def test_threshold_cuts_exactly_the_small_entries_of_messages_to_others(threshold):
    mean = means()
    wanted = np.zeros((N, N * D), bool)
    for sender in range(N):
        for receiver in range(N):
            for k in range(receiver * D, (receiver + 1) * D):
                wanted[sender, k] = sender != receiver and abs(mean[sender, k]) < threshold
    np.testing.assert_array_equal(cut_by(ndq.cut_threshold, mean, threshold=threshold), wanted)
    assert wanted.any() == (threshold > 0)
    assert (np.abs(mean[OWN]) < 0.4).any()


def test_threshold_also_cuts_by_chance_and_never_ones_own_block():
    mean = 10.0 + np.abs(means())
    np.testing.assert_array_equal(cut_by(ndq.cut_threshold, mean, probability=1.0), ~OWN)
    draws = np.array([cut_by(ndq.cut_threshold, mean, key, probability=0.25) for key in range(100)])
    assert not draws[:, OWN].any()
    assert abs(draws[:, ~OWN].mean() - 0.25) < 0.06


@pytest.mark.parametrize(("percent", "n_cut"), [(0.0, 0), (50.0, 9), (51.0, 10), (100.0, 18)])
def test_rank_cuts_the_given_share_of_the_smallest_entries_ones_own_included(percent, n_cut):
    mean = means()
    order = sorted(range(mean.size), key=lambda k: abs(mean.ravel()[k]))
    wanted = np.isin(np.arange(mean.size), order[:n_cut]).reshape(mean.shape)
    np.testing.assert_array_equal(cut_by(ndq.cut_rank, mean, threshold=percent), wanted)
    assert n_cut < 18 or wanted[OWN].all()


def first_moment(seed=0):
    rng = np.random.default_rng(seed)
    return Observation(
        obs=jnp.asarray(rng.normal(size=(N, SPEC.obs_dim)), jnp.float32),
        state=jnp.asarray(rng.normal(size=SPEC.state_dim), jnp.float32),
        avail=jnp.ones((N, A), bool),
    )


@pytest.mark.parametrize("cut", ndq.CUTS)
def test_utilities_while_acting_read_noisy_messages_less_what_is_cut(cut):
    threshold, c, key = {"rank": 40.0}.get(cut, 0.8), case(SMALL), jax.random.key(5)
    net, lose = ndq.make_networks(SPEC, SMALL), partial(ndq.CUTS[cut], threshold=threshold, probability=0.0)
    inputs = agent_inputs(first_moment().obs, jnp.full(N, -1), A)
    outputs = jax.jit(partial(ndq.acting_outputs, net, lose))
    noise = np.asarray(jax.random.normal(jax.random.split(key)[0], (1, N, N * D)), float)[0]
    x = np.concatenate(inputs, axis=-1).astype(float)
    mean = np.stack([oracle.mlp(c.params["encoder"]["current"], x[j]) for j in range(N)])
    lost = {
        "none": np.zeros(mean.shape, bool),
        "threshold": (np.abs(mean) < 0.8) & ~OWN,
        "rank": np.abs(mean) <= np.sort(np.abs(mean), axis=None)[7],  # ceil(0.4 · 18) = 8 entries
    }[cut]
    assert cut == "none" or 0 < lost.sum() < lost.size
    found = outputs(c.algorithm.policy_params(c.agent), jnp.zeros((N, SMALL.hidden)), inputs, key)[1]
    np.testing.assert_allclose(found, oracle.acting_utilities(c.params, x, noise, lost, SMALL), rtol=1e-4, atol=1e-4)


def who_changed(cfg, act, sender):
    """Which agents ever act differently when one agent sees something else, all else equal."""
    c = case(SMALL)
    algorithm = ALGORITHMS["ndq"].factory(SPEC, cfg, observe)
    hyper = algorithm.hyper._replace(epsilon_start=jnp.float32(0.0), epsilon_finish=jnp.float32(0.0))
    everything = jax.random.normal(jax.random.key(7), (60, N, SPEC.obs_dim))

    @jax.jit
    @jax.vmap
    def actions(obs, key):
        params, seen = algorithm.policy_params(c.agent), first_moment()._replace(obs=obs)
        return getattr(algorithm, act)(params, algorithm.start(), seen, key, CLOCK, hyper)[1]

    keys = jax.random.split(jax.random.key(1), 60)
    return np.asarray(actions(everything, keys) != actions(everything.at[:, sender].add(3.0), keys)).any(axis=0)


@pytest.mark.parametrize("act", ["act", "act_greedy"])
def test_what_one_agent_sees_can_change_what_the_others_do(act):
    assert who_changed(SMALL, act, sender=1).all()
    assert ALGORITHMS["ndq"].communicates


def test_cut_messages_leave_every_agent_to_itself_in_evaluations_and_not_in_training():
    np.testing.assert_array_equal(who_changed(CUT_OFF, "act_greedy", sender=1), np.arange(N) == 1)
    assert not who_changed(CUT_OFF, "act_sampled", sender=1)[[0, 2]].any()
    assert who_changed(CUT_OFF, "act", sender=1).all()


def test_noise_stays_on_in_evaluations():
    c = case(SMALL)
    act = jax.jit(
        lambda key: c.algorithm.act_greedy(
            c.algorithm.policy_params(c.agent), c.algorithm.start(), first_moment(), key, CLOCK, c.algorithm.hyper
        )[1]
    )
    actions = np.array([act(key) for key in jax.random.split(jax.random.key(2), 12)])
    assert len(np.unique(actions, axis=0)) > 1


def test_joint_table_is_the_mean_over_message_noise():
    c = case(SMALL)
    moment = jax.tree.map(lambda leaf: leaf[0, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, moment, c.key)
    x, weights = oracle.inputs_of(c.games[0])[0], oracle.mixing_weights(c.params["mixer"], c.games[0].state[0], N)
    utilities, q_total, policy = np.zeros((N, A)), np.zeros(A**N), np.zeros((N, A))
    keys = jax.random.split(c.key, ndq.TABLE_DRAWS)
    for key in keys:
        noise = np.asarray(jax.random.normal(key, (1, N, N * D)), float)[0]
        q = oracle.acting_utilities(c.params, x, noise, np.zeros((N, N * D), bool), SMALL)
        utilities += q / len(keys)
        for i in range(N):
            policy[i, oracle.best_available(q[i], c.games[0].avail[0, i])] += 1.0 / len(keys)
        for number in range(A**N):
            joint = [number // A ** (N - 1 - i) % A for i in range(N)]
            q_total[number] += oracle.mixed(weights, [q[i, joint[i]] for i in range(N)]) / len(keys)
    np.testing.assert_allclose(table.utilities, utilities, atol=1e-3)
    np.testing.assert_allclose(table.q_total, q_total, atol=1e-3 * np.abs(q_total).max())
    np.testing.assert_allclose(table.policy, policy, atol=1e-3)
