"""The paper's ablations of LSF-SAC against the NumPy oracle: no messages, twin critics, sampled targets, fixed α."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.algorithms.lsf_sac import binding, networks
from lsf_jax.algorithms.lsf_sac.readings import TD_TARGETS
from lsf_jax.config.composition import compose
from lsf_jax.types import AgentState
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_lsf_sac as oracle
from tests.support.lsf_sac_cases import BATCH, CLOCK, DOUBLE, FIXED, MASAC, PLAIN, SMALL, SPEC, A, N, T

TWIN = replace(SMALL, twin=True, policy_sign="release", td_target="double_q", message_routing="per_receiver")
ABLATIONS = {"masac": MASAC, "masac_double_q": DOUBLE, "fixed_alpha": FIXED, "twin": TWIN}
DRAWS = 20_000


@pytest.mark.default("greedy_actor-twin")
@pytest.mark.parametrize("name", ["masac", "masac_double_q", "twin"])
@pytest.mark.parametrize("mode", TD_TARGETS)
def test_eq_16_td_target_in_every_mode_matches_numpy_oracle(name, mode):
    cases.assert_terms_match(ABLATIONS[name], replace(ABLATIONS[name], td_target=mode), ["td"])


@pytest.mark.parametrize("name", ["masac", "twin"])
def test_weighted_td_errors_match_numpy_oracle_and_differ_from_the_plain_ones(name):
    weighted = replace(ABLATIONS[name], overestimate_weight=0.3)
    cases.assert_terms_match(ABLATIONS[name], weighted, ["td"])
    plain = cases.expected_losses(ABLATIONS[name], ABLATIONS[name])["td"]
    assert cases.expected_losses(ABLATIONS[name], weighted)["td"].sum() < 0.9 * plain.sum()


@pytest.mark.parametrize("sign", ["paper", "release"])
@pytest.mark.parametrize("name", ["masac", "masac_double_q", "twin"])
def test_eq_14_policy_loss_matches_numpy_oracle(name, sign):
    cases.assert_terms_match(ABLATIONS[name], replace(ABLATIONS[name], policy_sign=sign), ["policy"])


@pytest.mark.default("twin")
@pytest.mark.parametrize("name", ABLATIONS)
def test_eq_8_update_reports_the_means_of_its_own_terms_and_no_others(name):
    cases.assert_means_match(ABLATIONS[name])


@pytest.mark.default("critic-twin", "actor-twin")
@pytest.mark.parametrize("name", ["masac_double_q", "twin"])
@pytest.mark.parametrize("group", ["critic", "actor", "temperature"])
def test_gradients_match_central_differences_of_the_oracle(name, group):
    cases.assert_gradients_match(ABLATIONS[name], group)


@pytest.mark.parametrize("name", ["masac", "masac_double_q"])
def test_joint_table_equals_brute_force_enumeration(name):
    cases.assert_joint_table_matches(ABLATIONS[name])


def without_messages(tree):
    """LSF-SAC's critic group less encoder, decoder and the kernel's rows that read messages."""
    kernel = tree["critic"]["input_layer"]["kernel"]
    layer = {**tree["critic"]["input_layer"], "kernel": kernel[: cases.OBS + A + N]}
    return {"critic": {**tree["critic"], "input_layer": layer}, "mixer": tree["mixer"]}


def with_ignored_messages(tree):
    """LSF-SAC's critic group whose critic gives its messages no weight."""
    kernel = tree["critic"]["input_layer"]["kernel"].at[cases.OBS + A + N :].set(0.0)
    return {**tree, "critic": {**tree["critic"], "input_layer": {**tree["critic"]["input_layer"], "kernel": kernel}}}


@pytest.mark.slow
def test_masac_is_lsf_sac_whose_critic_ignores_messages():
    """Ablation 1: without the state information, and nothing else."""
    lsf, masac = cases.case(SMALL), cases.case(MASAC)
    params, targets = (
        {**tree, "critic": with_ignored_messages(tree["critic"])} for tree in (lsf.agent.params, lsf.agent.targets)
    )
    ignoring, ignoring_metrics = lsf.update(
        lsf.agent._replace(params=params, targets=targets), lsf.episodes, lsf.key, CLOCK, lsf.hyper
    )
    agent = masac.agent._replace(
        params={**params, "critic": without_messages(params["critic"])},
        targets={"critic": without_messages(targets["critic"])},
    )
    assert jax.tree.structure(agent) == jax.tree.structure(masac.agent)
    after, metrics = masac.update(agent, lsf.episodes, lsf.key, CLOCK, masac.hyper)
    for name in ("td", "policy", "temperature", "alpha", "entropy", "q_total", "q_gap"):
        np.testing.assert_allclose(metrics[name], ignoring_metrics[name], rtol=1e-6, err_msg=name)
    found, wanted = cases.gradients(after), cases.gradients(ignoring)
    wanted["critic"] = without_messages(wanted["critic"])
    for group, tree in found.items():
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))
        jax.tree.map(lambda a, b, s=scale: np.testing.assert_allclose(a, b, atol=1e-6 * s), tree, wanted[group])


@pytest.mark.default("one")
@pytest.mark.parametrize("cfg", [PLAIN, replace(DOUBLE, recurrent=False)], ids=["one", "twins"])
def test_mixer_init_scales_the_first_mixer_and_nothing_else(cfg):
    key, alpha = jax.random.key(3), jnp.float32(0.8)
    plain, scaled = (
        networks.init_params(binding.make_networks(SPEC, each), SPEC, key, alpha)
        for each in (cfg, replace(cfg, mixer_init=0.25))
    )
    plain["critic"]["mixer"] = jax.tree.map(lambda leaf: 0.25 * leaf, plain["critic"]["mixer"])
    jax.tree.map(np.testing.assert_array_equal, plain, scaled)


@pytest.mark.parametrize("cfg", [MASAC, DOUBLE], ids=["masac", "masac_double_q"])
def test_masac_has_no_parameters_for_messages(cfg):
    algorithm = cases.case(cfg).algorithm
    params = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper).params
    assert set(params["critic"]) == {"critic", "mixer"}
    assert params["critic"]["critic"]["input_layer"]["kernel"].shape[-2:] == (cases.OBS + A + N, cases.H)
    assert not {"lambda_1", "beta"} & set(algorithm.hyper._fields)


def twins_in_numpy(cfg):
    """Of both critics, `[2, B, T]`: Q_tot of the actions taken, the target's value at t+1, the actor's soft value."""
    c, single = cases.case(DOUBLE), replace(cfg, twin=False)
    params, targets = cases.numpy_tree(c.agent.params), cases.numpy_tree(c.agent.targets)
    out = np.zeros((3, 2, BATCH, T))
    for j in (0, 1):
        half, target = ({**p, "critic": oracle.chosen_half(p["critic"], j)} for p in (params, targets))
        for b, (game, noise) in enumerate(zip(c.games, c.noises)):
            outputs = oracle.outputs_of(half, target, game, noise, single)
            out[1, j, b] = oracle.next_values(target, game, outputs, DOUBLE.alpha, single)
            for t in range(T):
                weights = oracle.mixing_weights(half["critic"]["mixer"], game.state[t], N)
                out[0, j, b, t] = oracle.mixed(weights, [outputs.q[0][t, i, game.action[t, i]] for i in range(N)])
                out[2, j, b, t] = oracle.soft_values(half, game, outputs, t, DOUBLE.alpha, single)[0]
    return out


def test_ablation_4_both_critics_learn_the_one_step_target_of_the_smaller_value():
    """y = r + γ min_j Q_tot_j(s', a') as printed, and not each critic its own target."""
    c, (q, value, _) = cases.case(DOUBLE), twins_in_numpy(DOUBLE)
    ended, valid = np.stack([game.terminal for game in c.games]), cases.valid_steps()
    smaller = value.argmin(axis=0)[valid & ~ended]
    assert 0 < smaller.sum() < len(smaller)  # neither critic is always the smaller one
    reward = DOUBLE.reward_scale * np.stack([game.reward for game in c.games])
    y = reward + DOUBLE.discount * np.where(ended, 0.0, value.min(axis=0))
    actual = cases.losses(DOUBLE, replace(DOUBLE, trace=0.0))["td"]
    cases.assert_close(actual[valid], 0.5 * ((q - y) ** 2).sum(axis=0)[valid])


@pytest.mark.parametrize("sign", ["paper", "release"])
def test_eq_14_of_twins_climbs_the_smaller_value_of_each_step(sign):
    cfg, valid = replace(DOUBLE, policy_sign=sign), cases.valid_steps()
    value = twins_in_numpy(cfg)[2][:, valid]
    assert 0 < value.argmin(axis=0).sum() < valid.sum()
    cases.assert_close(cases.losses(DOUBLE, cfg)["policy"][valid], -DOUBLE.lambda_2 * value.min(axis=0))


@pytest.mark.slow
def test_twins_whose_mixers_are_sums_match_the_oracle():
    cfg = replace(DOUBLE, mixer="sum")
    cases.assert_terms_match(cfg, cfg, ["td", "policy"])


@pytest.mark.slow
def test_twins_that_agree_learn_as_one_critic_does():
    cfg = replace(MASAC, td_target="sampled")
    one, two = cases.case(cfg), cases.case(DOUBLE)

    def doubled(tree):
        return {**tree, "critic": jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), tree["critic"])}

    pair = two.agent._replace(params=doubled(one.agent.params), targets=doubled(one.agent.targets))
    after, metrics = two.update(pair, one.episodes, one.key, CLOCK, two.hyper)
    alone, alone_metrics = cases.updated(cfg)
    np.testing.assert_allclose(metrics["td"], 2.0 * alone_metrics["td"], rtol=1e-6)
    for name in ("policy", "q_total", "q_gap"):
        np.testing.assert_allclose(metrics[name], alone_metrics[name], rtol=1e-6)
    found, wanted = cases.gradients(after), cases.gradients(alone)
    both = doubled(wanted)
    for group in ("critic", "actor"):
        scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(both[group]))
        jax.tree.map(lambda a, b, s=scale: np.testing.assert_allclose(a, b, atol=2e-6 * s), found[group], both[group])


def test_twins_start_apart_and_each_has_its_own_target():
    algorithm = cases.case(DOUBLE).algorithm
    agent: AgentState = jax.device_get(jax.jit(algorithm.init)(jax.random.key(0), algorithm.hyper))
    for leaf in jax.tree.leaves(agent.params["critic"]):
        first, second = leaf
        assert not np.array_equal(first, second)
    jax.tree.map(np.testing.assert_array_equal, agent.params["critic"], agent.targets["critic"])


def test_the_next_action_of_a_sampled_target_is_drawn_from_the_policy_at_the_next_step():
    cfg = replace(MASAC, recurrent=False, td_target="sampled")
    c, net = cases.case(cfg), binding.make_networks(SPEC, cfg)
    trajectory = cases.trajectory_of(jax.tree.map(lambda leaf: leaf[0], c.episodes))

    @jax.jit
    def drawn(keys):
        run = jax.vmap(lambda of_rows: networks.forward(c.agent.params, c.agent.targets, trajectory, of_rows, net=net))
        return jax.nn.one_hot(run(keys).next_action, A).mean(axis=0)

    frequency = np.asarray(drawn(jax.random.split(jax.random.key(8), (DRAWS, T + 1))))
    game, params = c.games[0], cases.numpy_tree(c.agent.params)
    pi = oracle.policy(params["actor"], oracle.inputs_of(game), game.avail, cfg)[0][1:]
    assert (frequency[~game.avail[1:]] == 0).all()
    assert (np.abs(frequency - pi) <= 5 * np.sqrt(pi * (1 - pi) / DRAWS)).all()


def test_ablation_2_alpha_is_one_and_stays_so_and_messages_are_learned():
    c = cases.case(FIXED)
    agent = c.agent
    for _ in range(3):
        agent, metrics = c.update(agent, c.episodes, c.key, CLOCK, c.hyper)
        assert metrics["alpha"] == 1.0
        assert metrics["message_ce"] > 0
    assert agent.params["temperature"] == c.agent.params["temperature"] == 0.0


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("lsf_sac_fixed_alpha", {"alpha": 1.0, "learn_temperature": False, "twin": False, "message_dim": 3}),
        ("masac", {"learn_temperature": True, "twin": False, "td_target": "greedy_actor"}),
        ("masac_double_q", {"learn_temperature": True, "twin": True, "td_target": "sampled"}),
    ],
)
def test_a_registered_ablation_differs_from_lsf_sac_in_nothing_but_what_it_ablates(name, own):
    ours, lsf = compose(algo=name).algo, compose(algo="lsf_sac").algo
    assert ours == ALGORITHMS[name].config()
    assert {key: getattr(ours, key) for key in own} == own
    for key, value in vars(ours).items():
        assert key in own or value == getattr(lsf, key), key
    assert ALGORITHMS[name].factory(SPEC, ours, cases.observe).name == name
