"""LSF-SAC's losses and gradients against a NumPy transcription of the paper's equations."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import lsf_sac_cases as cases
import numpy as np
import oracle_lsf_sac as oracle
import pytest
from lsf_sac_cases import BATCH, CLOCK, ODD, RELEASE, SMALL, A, N

from lsf_jax.algorithms import lsf_sac as lsf
from lsf_jax.algorithms.base import hyper_of

PRESETS = {"paper": SMALL, "release": RELEASE, "odd": ODD}
PER_RECEIVER = replace(SMALL, message_routing="per_receiver")
HISTORY = replace(SMALL, encoder_input="history")


def assert_close(actual, expected, tolerance=2e-5):
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_terms_match(network_cfg, cfg, names, clock=CLOCK):
    actual = cases.losses(network_cfg, cfg, clock)
    expected = cases.expected_losses(network_cfg, cfg, int(clock.env_steps))
    valid = cases.valid_steps()
    for name in names:
        assert np.abs(expected[name][valid]).min() > 0
        if name.startswith("message") and not cfg.mask_messages:
            assert_close(np.where(valid, actual[name], 0.0).sum(), expected[name].sum())
        else:
            assert_close(actual[name][valid], expected[name][valid])
    return expected


@pytest.mark.parametrize("trace", [0.0, 0.6])
@pytest.mark.parametrize("mode", ["greedy_actor", "critic_max", "double_q", "expected", "soft_expected"])
def test_eq_16_td_target_in_every_mode_matches_numpy_oracle(mode, trace):
    assert_terms_match(SMALL, replace(SMALL, td_target=mode, trace=trace), ["td"])


@pytest.mark.parametrize("network_cfg", [PER_RECEIVER, HISTORY], ids=["per_receiver", "history"])
def test_eq_16_reads_messages_as_routed_and_encoded(network_cfg):
    expected = assert_terms_match(network_cfg, network_cfg, ["td"])
    other = cases.expected_losses(SMALL, SMALL)
    assert np.abs(expected["td"] - other["td"]).max() > 1e-3


def test_eq_16_modes_really_differ_on_this_batch():
    modes = ("greedy_actor", "critic_max", "double_q", "expected", "soft_expected")
    terms = [cases.expected_losses(SMALL, replace(SMALL, td_target=mode))["td"] for mode in modes]
    for i in range(len(modes)):
        for j in range(i):
            assert np.abs(terms[i] - terms[j]).max() > 1e-2, (modes[i], modes[j])


def test_eq_16_a_reward_scale_scales_only_the_rewards_that_learning_sees():
    c = cases.case(SMALL)
    scaled = [game._replace(reward=game.reward * 4.0) for game in c.games]
    factor = replace(SMALL, reward_scale=4.0 * SMALL.reward_scale)
    _, by_hand = c.update(c.agent, cases.episodes_of(scaled), c.key, CLOCK, c.hyper)
    _, by_setting = c.update(c.agent, c.episodes, c.key, CLOCK, hyper_of(lsf.LsfSacHyper, factor))
    for name in oracle.TERMS:
        np.testing.assert_array_equal(by_hand[name], by_setting[name])
    assert by_setting["td"] != cases.updated(SMALL)[1]["td"]


@pytest.mark.parametrize("decoder_mask", [False, True])
@pytest.mark.parametrize("label", ["critic_greedy", "actor_greedy", "actor_soft"])
@pytest.mark.parametrize("network_cfg", [SMALL, PER_RECEIVER], ids=["broadcast", "per_receiver"])
def test_eq_12_message_loss_matches_numpy_oracle(network_cfg, label, decoder_mask):
    cfg = replace(network_cfg, label=label, decoder_mask=decoder_mask)
    assert_terms_match(network_cfg, cfg, ["message_ce", "message_kl"])


@pytest.mark.parametrize("network_cfg", [SMALL, PER_RECEIVER], ids=["broadcast", "per_receiver"])
def test_eq_12_unmasked_as_in_the_release_counts_padding_in_the_sums_only(network_cfg):
    cfg = replace(network_cfg, mask_messages=False)
    expected = assert_terms_match(network_cfg, cfg, ["message_ce", "message_kl"])
    masked = cases.expected_losses(network_cfg, network_cfg)
    assert expected["message_kl"].sum() > masked["message_kl"].sum() * 1.1


def test_eq_12_cross_entropy_has_the_sign_of_lemma_1():
    """A decoder that is sure of the label costs nothing; one that is sure of another action costs -log 1e-6."""
    f, c = cases.forwards(SMALL), cases.case(SMALL)
    trajectories = jax.vmap(cases.observe)(c.episodes)
    label = jax.vmap(lambda f, t: lsf.message_label(f, t, SMALL))(f, trajectories)
    sure = jnp.concatenate([100.0 * label, jnp.zeros_like(label[:, :1])], axis=1)
    for logits, cost in ((sure, 0.0), (jnp.roll(sure, 1, axis=-1), -np.log(1e-6))):
        told = f._replace(critique=f.critique._replace(decoder_logits=logits))
        terms = cases.losses(SMALL, replace(SMALL, lambda_1=1.0), forward=told)
        np.testing.assert_allclose(terms["message_ce"], N * cost, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sign", ["paper", "release"])
def test_eq_14_policy_loss_matches_numpy_oracle(sign):
    assert_terms_match(SMALL, replace(SMALL, policy_sign=sign), ["policy"])


def test_eq_14_signs_differ_because_the_mixer_bends():
    terms = [cases.expected_losses(SMALL, replace(SMALL, policy_sign=sign))["policy"] for sign in ("paper", "release")]
    assert np.abs(terms[0] - terms[1]).max() > 1e-2


@pytest.mark.parametrize(("env_steps", "alpha"), [(0, 0.999), (1_999_999, 0.999), (2_000_000, 1.2), (3_000_001, 1.2)])
def test_eq_14_release_ceiling_holds_alpha_below_one_for_two_million_steps(env_steps, alpha):
    clock = CLOCK._replace(env_steps=jnp.int32(env_steps))
    seen = lsf.temperature(jnp.log(jnp.float32(1.2)), clock, hyper_of(lsf.LsfSacHyper, RELEASE), RELEASE)
    np.testing.assert_allclose(seen, alpha, rtol=1e-6)
    assert oracle.alpha_of(np.log(1.2), RELEASE, env_steps) == pytest.approx(alpha)
    assert_terms_match(SMALL, replace(SMALL, alpha_clamps=True), ["policy"], clock)


@pytest.mark.parametrize(("env_steps", "alpha"), [(0, 0.1), (3_000_000, 0.1), (3_000_001, 0.19)])
def test_eq_14_release_floor_holds_alpha_up_after_three_million_steps(env_steps, alpha):
    clock = CLOCK._replace(env_steps=jnp.int32(env_steps))
    seen = lsf.temperature(jnp.log(jnp.float32(0.1)), clock, hyper_of(lsf.LsfSacHyper, RELEASE), RELEASE)
    np.testing.assert_allclose(seen, alpha, rtol=1e-6)


@pytest.mark.parametrize("goal", ["fraction", "minus_n_actions"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.98])
def test_eq_15_temperature_loss_matches_numpy_oracle(goal, fraction):
    cfg = replace(SMALL, target_entropy=goal, target_entropy_fraction=fraction)
    actual, expected = cases.losses(SMALL, cfg), cases.expected_losses(SMALL, cfg)
    valid = cases.valid_steps()
    assert_close(actual["temperature"][valid], expected["temperature"][valid])


@pytest.mark.parametrize("target", ["fraction", "minus_n_actions"])
def test_eq_15_agents_with_one_action_are_left_out_of_the_mean(target):
    c, f = cases.case(SMALL), cases.forwards(SMALL)
    avail = np.asarray(c.episodes.world.avail)[:, :-1]
    single = avail.sum(-1) == 1
    assert (single & cases.valid_steps()[..., None]).any()
    log_pi = np.asarray(f.log_pi)[:, :-1]
    entropy = -np.where(avail, np.exp(log_pi) * log_pi, 0.0).sum(-1)
    goal = 0.5 * np.log(avail.sum(-1)) if target == "fraction" else -float(A)
    excess = np.where(single, 0.0, entropy - goal).sum(-1) / np.maximum((~single).sum(-1), 1)
    actual = cases.losses(SMALL, replace(SMALL, target_entropy=target))["temperature"]
    np.testing.assert_allclose(actual, np.log(SMALL.alpha) * excess, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_eq_8_update_reports_the_means_of_every_term(name):
    c = cases.case(PRESETS[name])
    params, targets = cases.numpy_tree(c.agent.params), cases.numpy_tree(c.agent.targets)
    expected = oracle.loss_terms(params, targets, c.games, c.noises, c.cfg, int(CLOCK.env_steps))
    metrics = cases.updated(PRESETS[name])[1]
    for term in oracle.TERMS:
        np.testing.assert_allclose(metrics[term], expected[term], rtol=3e-5, atol=1e-5, err_msg=term)


def random_places(tree, rng, per_module):
    """Some (path, index) of numbers in every module of a group of parameters."""
    leaves = [([entry.key for entry in path], leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    modules = sorted({tuple(path[:1]) for path, _ in leaves})
    for module in modules:
        mine = [(path, leaf) for path, leaf in leaves if tuple(path[:1]) == module]
        for number in rng.choice(len(mine), size=min(per_module, len(mine)), replace=False):
            path, leaf = mine[number]
            index = tuple(int(rng.integers(size)) for size in leaf.shape)
            yield path, index


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("group", ["critic", "actor", "temperature"])
def test_eqs_12_14_15_16_gradients_match_central_differences_of_the_oracle(name, group):
    c = cases.case(PRESETS[name])
    params, targets = cases.numpy_tree(c.agent.params), cases.numpy_tree(c.agent.targets)
    found = cases.numpy_tree(cases.gradients(cases.updated(PRESETS[name])[0])[group])
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found))
    rng, largest = np.random.default_rng(1), 0.0
    for path, index in random_places(params[group], rng, 4 if group == "critic" else 1):
        wanted = oracle.derivative(group, path, index, params, targets, c.games, c.noises, c.cfg, int(CLOCK.env_steps))
        leaf = found
        for step in path:
            leaf = leaf[step]
        assert abs(leaf[index] - wanted) < 5e-5 * scale + 1e-4 * abs(wanted), (path, index, leaf[index], wanted)
        largest = max(largest, abs(wanted))
    assert largest > 1e-3 * scale


def test_joint_table_equals_brute_force_enumeration():
    c = cases.case(SMALL)
    observation = jax.tree.map(lambda leaf: leaf[0, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, observation, c.key)
    noises = [
        np.asarray(jax.random.normal(key, (1, N, SMALL.message_dim)), float)
        for key in jax.random.split(c.key, lsf.TABLE_DRAWS)
    ]
    game = c.games[0]
    utilities, q_total = oracle.joint_values(
        cases.numpy_tree(c.agent.params), game.obs[0], game.state[0], game.avail[0], noises, SMALL
    )
    assert table.q_total.shape == (A**N,)
    assert_close(table.utilities, utilities)
    assert_close(table.q_total, q_total)


def test_joint_table_refuses_a_game_with_too_many_joint_actions():
    wide = jax.tree.map(lambda leaf: jnp.repeat(leaf[0, 0], 3, axis=0), cases.case(SMALL).episodes.world)
    with pytest.raises(ValueError, match="too large"):
        cases.case(SMALL).algorithm.joint_table(cases.case(SMALL).agent, wide, jax.random.key(0))


def test_batch_holds_every_way_an_episode_can_end():
    c = cases.case(SMALL)
    ends = {(game.length < cases.T, bool(game.terminal.any())) for game in c.games}
    assert ends == {(True, True), (True, False), (False, True), (False, False)}
    assert c.episodes.valid.sum() == sum(length for length, _ in cases.ENDINGS)
    assert len(c.games) == BATCH
