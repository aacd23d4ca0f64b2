"""LSF-SAC's losses and gradients against a NumPy transcription of the paper's equations."""

from dataclasses import replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms.base import hyper_of
from lsf_jax.algorithms.lsf_sac.binding import make_temperature
from lsf_jax.algorithms.lsf_sac.readings import LABELS, TD_TARGETS
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_lsf_sac as oracle
from tests.support.lsf_sac_cases import BATCH, CLOCK, ODD, RELEASE, SMALL, A, N

PRESETS = {"paper": SMALL, "release": RELEASE, "odd": ODD}
SUM = replace(SMALL, mixer="sum")
PER_RECEIVER = replace(SMALL, message_routing="per_receiver")
HISTORY = replace(SMALL, encoder_input="history")


@pytest.mark.parametrize("trace", [0.0, 0.6])
@pytest.mark.parametrize("mode", TD_TARGETS)
def test_eq_16_td_target_in_every_mode_matches_numpy_oracle(mode, trace):
    cases.assert_terms_match(SMALL, replace(SMALL, td_target=mode, trace=trace), ["td"])


@pytest.mark.default("history")
@pytest.mark.parametrize("network_cfg", [PER_RECEIVER, HISTORY], ids=["per_receiver", "history"])
def test_eq_16_reads_messages_as_routed_and_encoded(network_cfg):
    expected = cases.assert_terms_match(network_cfg, network_cfg, ["td"])
    other = cases.expected_losses(SMALL, SMALL)
    assert np.abs(expected["td"] - other["td"]).max() > 1e-3


def test_eq_16_modes_really_differ_on_this_batch():
    terms = {mode: cases.expected_losses(SMALL, replace(SMALL, td_target=mode))["td"] for mode in TD_TARGETS}
    for first, second in combinations(terms, 2):
        assert np.abs(terms[first] - terms[second]).max() > 1e-2, (first, second)


@pytest.mark.slow
def test_eq_16_a_reward_scale_scales_only_the_rewards_that_learning_sees():
    c = cases.case(SMALL)
    scaled = [game._replace(reward=game.reward * 4.0) for game in c.games]
    factor = replace(SMALL, reward_scale=4.0 * SMALL.reward_scale)
    _, by_hand = c.update(c.agent, cases.episodes_of(scaled), c.key, CLOCK, c.hyper)
    _, by_setting = c.update(c.agent, c.episodes, c.key, CLOCK, hyper_of(factor))
    for name in oracle.TERMS:
        np.testing.assert_array_equal(by_hand[name], by_setting[name])
    assert by_setting["td"] != cases.updated(SMALL)[1]["td"]


@pytest.mark.parametrize("decoder_mask", [False, True])
@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("network_cfg", [SMALL, PER_RECEIVER], ids=["broadcast", "per_receiver"])
def test_eq_12_message_loss_matches_numpy_oracle(network_cfg, label, decoder_mask):
    cfg = replace(network_cfg, label=label, decoder_mask=decoder_mask)
    cases.assert_terms_match(network_cfg, cfg, ["message_ce", "message_kl"])


@pytest.mark.parametrize("network_cfg", [SMALL, PER_RECEIVER], ids=["broadcast", "per_receiver"])
def test_eq_12_unmasked_as_in_the_release_counts_padding_in_the_sums_only(network_cfg):
    cfg = replace(network_cfg, mask_messages=False)
    expected = cases.assert_terms_match(network_cfg, cfg, ["message_ce", "message_kl"])
    masked = cases.expected_losses(network_cfg, network_cfg)
    assert expected["message_kl"].sum() > masked["message_kl"].sum() * 1.1


@pytest.mark.slow
@pytest.mark.parametrize("cfg", [SMALL, ODD], ids=["all actions", "decoder_mask"])
def test_the_logged_cross_entropy_is_that_of_the_loss_for_each_agent(cfg):
    _, metrics = cases.updated(cfg)
    np.testing.assert_allclose(metrics["decoder_cross_entropy"], metrics["message_ce"] / cfg.lambda_1 / N, rtol=1e-5)


def test_eq_12_cross_entropy_has_the_sign_of_lemma_1():
    """A decoder that is sure of the label costs nothing; one that is sure of another action costs -log 1e-6."""
    f, c = cases.forwards(SMALL), cases.case(SMALL)
    trajectories = jax.vmap(cases.trajectory_of)(c.episodes)
    label = jax.vmap(LABELS[SMALL.label])(f, trajectories)
    sure = jnp.concatenate([100.0 * label, jnp.zeros_like(label[:, :1])], axis=1)
    for logits, cost in ((sure, 0.0), (jnp.roll(sure, 1, axis=-1), -np.log(1e-6))):
        altered = f._replace(decoded=f.decoded._replace(logits=logits))
        terms = cases.losses(SMALL, replace(SMALL, lambda_1=1.0), forward=altered)
        np.testing.assert_allclose(terms["message_ce"], N * cost, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("sign", ["paper", "release"])
def test_eq_14_policy_loss_matches_numpy_oracle(sign):
    cases.assert_terms_match(SMALL, replace(SMALL, policy_sign=sign), ["policy"])


def test_eq_14_signs_differ_because_the_mixer_bends():
    terms = [cases.expected_losses(SMALL, replace(SMALL, policy_sign=sign))["policy"] for sign in ("paper", "release")]
    assert np.abs(terms[0] - terms[1]).max() > 1e-2


@pytest.mark.parametrize(("env_steps", "alpha"), [(0, 0.999), (1_999_999, 0.999), (2_000_000, 1.2), (3_000_001, 1.2)])
def test_eq_14_release_ceiling_holds_alpha_below_one_for_two_million_steps(env_steps, alpha):
    clock = CLOCK._replace(env_steps=jnp.int32(env_steps))
    seen = make_temperature(RELEASE)(jnp.log(jnp.float32(1.2)), clock, hyper_of(RELEASE))
    np.testing.assert_allclose(seen, alpha, rtol=1e-6)
    assert oracle.alpha_of(np.log(1.2), RELEASE, env_steps) == pytest.approx(alpha)
    cases.assert_terms_match(SMALL, replace(SMALL, alpha_clamps=True), ["policy"], clock)


@pytest.mark.parametrize(("env_steps", "alpha"), [(0, 0.1), (3_000_000, 0.1), (3_000_001, 0.19)])
def test_eq_14_release_floor_holds_alpha_up_after_three_million_steps(env_steps, alpha):
    clock = CLOCK._replace(env_steps=jnp.int32(env_steps))
    seen = make_temperature(RELEASE)(jnp.log(jnp.float32(0.1)), clock, hyper_of(RELEASE))
    np.testing.assert_allclose(seen, alpha, rtol=1e-6)


@pytest.mark.parametrize("goal", ["fraction", "minus_n_actions"])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.98])
def test_eq_15_temperature_loss_matches_numpy_oracle(goal, fraction):
    cfg = replace(SMALL, target_entropy=goal, target_entropy_fraction=fraction)
    actual, expected = cases.losses(SMALL, cfg), cases.expected_losses(SMALL, cfg)
    valid = cases.valid_steps()
    cases.assert_close(actual["temperature"][valid], expected["temperature"][valid])


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
    cases.assert_means_match(PRESETS[name])


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("group", ["critic", "actor", "temperature"])
def test_eqs_12_14_15_16_gradients_match_central_differences_of_the_oracle(name, group):
    cases.assert_gradients_match(PRESETS[name], group)


@pytest.mark.parametrize("group", ["critic", "actor"])
def test_a_sum_in_the_place_of_the_mixer_matches_the_oracle_in_terms_and_gradients(group):
    expected = cases.assert_terms_match(SUM, SUM, ["td", "policy"])
    assert np.abs(expected["td"] - cases.expected_losses(SMALL, SMALL)["td"]).max() > 1e-2
    cases.assert_gradients_match(SUM, group)


def test_joint_table_equals_brute_force_enumeration():
    cases.assert_joint_table_matches(SMALL)


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
