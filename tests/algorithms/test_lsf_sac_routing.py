"""Which gradient trains what (the table of reference 3.7), who reads whose messages, and what availability excludes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms.lsf_sac import binding, networks
from lsf_jax.algorithms.lsf_sac.readings import LABELS, TD_TARGETS
from lsf_jax.engine.distributions import masked_log_softmax
from lsf_jax.engine.learner import detach_others, sum_over_valid
from lsf_jax.networks.agents import agent_inputs
from lsf_jax.networks.messages import route_broadcast, route_per_receiver
from lsf_jax.types import Layout
from tests.support import lsf_sac_cases as cases
from tests.support import oracle_lsf_sac as oracle
from tests.support.lsf_sac_cases import BATCH, CLOCK, DOUBLE, MASAC, PLAIN, SMALL, SPEC, A, N, T

TRAINS = {
    "td": {"critic", "mixer", "encoder"},
    "message_ce": {"encoder", "decoder"},
    "message_kl": {"encoder"},
    "policy": {"actor"},
    "temperature": {"temperature"},
}
ROUTED = {
    "paper": SMALL,
    "per_receiver_soft": replace(
        PLAIN, message_routing="per_receiver", td_target="soft_expected", label="actor_soft", policy_sign="release"
    ),
    "double_q_history": replace(
        PLAIN,
        td_target="double_q",
        label="actor_greedy",
        encoder_input="history",
        decoder_mask=True,
        mask_messages=False,
    ),
    "communicate": replace(PLAIN, communicate=True, td_target="soft_expected", label="actor_soft"),
    "masac": MASAC,
    "masac_double_q": replace(DOUBLE, recurrent=False),
    "twin": replace(PLAIN, twin=True, td_target="double_q"),
    "bottleneck_only": replace(PLAIN, td_target="expected", td_gradient_to_encoder=False),
}


def gradients_of_each_term(cfg):
    """Gradient of every loss term alone (rows) with respect to all parameters, through the engine's detachment."""
    c = cases.case(cfg)
    net, losses = binding.make_networks(SPEC, cfg), binding.make_losses(cfg)

    def sums(params, episode, keys):
        trajectory = cases.trajectory_of(episode)
        f = networks.forward(params, c.agent.targets, trajectory, keys, net=net)
        terms = {}
        for group, loss in losses.items():
            terms.update(loss(detach_others(f, networks.OWNS[group]), trajectory, CLOCK, c.hyper))
        return jnp.stack([sum_over_valid(terms[name], trajectory.valid) for name in cases.terms_of(cfg)])

    def total(params):
        return jax.vmap(sums, in_axes=(None, 0, 0))(params, c.episodes, cases.keys_of(c.key)).sum(axis=0)

    return jax.device_get(jax.jit(jax.jacrev(total))(c.agent.params))


@pytest.mark.default("paper", "twin")
@pytest.mark.parametrize("name", ROUTED)
def test_table_3_7_every_loss_trains_its_own_networks_and_no_others(name):
    cfg = ROUTED[name]
    gradients = gradients_of_each_term(cfg)
    blocks = {**gradients.pop("critic"), **gradients}
    of_messages = {"encoder", "decoder"} if cases.has_messages(cfg) else set()
    assert set(blocks) == {"critic", "mixer", "actor", "temperature"} | of_messages
    for row, term in enumerate(cases.terms_of(cfg)):
        untrained = {"encoder"} if term == "td" and of_messages and not cfg.td_gradient_to_encoder else set()
        trained = TRAINS[term] - untrained
        for block, tree in blocks.items():
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
                each = leaf[row] if cfg.twin and block in ("critic", "mixer") else leaf[row][None]
                moves = [bool((half != 0).any()) for half in each]
                assert moves == [block in trained] * len(each), (term, block, path)


def test_no_loss_reaches_another_groups_parameters_through_the_update():
    """A group whose own loss is switched off stays exactly still."""
    c = cases.case(SMALL)
    hyper = c.hyper._replace(lambda_2=jnp.float32(0.0))
    agent, _ = c.update(c.agent, c.episodes, c.key, CLOCK, hyper)
    assert not any(leaf.any() for leaf in jax.tree.leaves(cases.gradients(agent)["actor"]))
    agent, _ = c.update(c.agent, c.episodes, c.key, CLOCK, c.hyper._replace(lambda_1=jnp.float32(0.0)))
    assert not any(leaf.any() for leaf in jax.tree.leaves(cases.gradients(agent)["critic"]["decoder"]))


@pytest.mark.parametrize("sender", range(N))
def test_broadcast_gives_every_receiver_the_whole_pool_in_the_order_of_senders(sender):
    rng = np.random.default_rng(0)
    sent = jnp.asarray(rng.normal(size=(2, N, 2)), jnp.float32)
    changed = np.asarray(route_broadcast(sent) != route_broadcast(sent.at[1, sender].add(1.0)))
    expected = np.zeros((2, 1, N * 2), bool)  # one row for all receivers
    expected[1, 0, 2 * sender : 2 * sender + 2] = True
    np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize("sender", range(N))
@pytest.mark.parametrize("receiver", range(N))
def test_per_receiver_block_i_of_a_sender_reaches_receiver_i_alone(sender, receiver):
    rng = np.random.default_rng(0)
    sent = jnp.asarray(rng.normal(size=(2, N, N * 2)), jnp.float32)
    bumped = sent.at[0, sender, 2 * receiver : 2 * receiver + 2].add(1.0)
    changed = np.asarray(route_per_receiver(sent) != route_per_receiver(bumped))
    expected = np.zeros((2, N, N * 2), bool)
    expected[0, receiver, 2 * sender : 2 * sender + 2] = True
    np.testing.assert_array_equal(changed, expected)


def rows_changed_by(cfg, params, sender, step):
    """[T+1, N] flags: whose Q-values and decoder logits move when one agent's observation of one step moves."""
    net, layout = binding.make_networks(SPEC, cfg), Layout(first=jnp.arange(T + 1) == 0)
    obs = jnp.asarray(np.random.default_rng(4).normal(size=(T + 1, N, cases.OBS)), jnp.float32)

    def outputs(obs):
        inputs = agent_inputs(obs, jnp.full((T + 1, N), -1), A)
        messages = networks.exchange(net, params, layout, inputs, jax.random.split(jax.random.key(1), T + 1))
        logits = networks.decode(net, params, layout, inputs, messages).logits
        return networks.utilities(net, params, layout, inputs, messages)[0], logits

    before, changed = outputs(obs), [False, False]
    for shift in (0.7, -0.7, 3.0, -3.0):  # several, since a ReLU may swallow one
        after = outputs(obs.at[step, sender].add(shift))
        changed = [c | np.asarray((x != y).any(axis=-1)) for c, x, y in zip(changed, before, after)]
    return changed


@pytest.mark.parametrize(
    "cfg", [PLAIN, replace(PLAIN, message_routing="per_receiver")], ids=lambda c: c.message_routing
)
def test_messages_carry_one_agents_observation_to_every_critic_and_decoder_of_that_step(cfg):
    q, decoder = rows_changed_by(cfg, cases.case(cfg).agent.params["critic"], sender=1, step=2)
    for changed in (q, decoder):
        np.testing.assert_array_equal(changed, np.broadcast_to(np.arange(T + 1)[:, None] == 2, (T + 1, N)))


def test_a_recurrent_critic_remembers_messages_and_never_sees_later_ones():
    q, decoder = rows_changed_by(SMALL, cases.case(SMALL).agent.params["critic"], sender=0, step=2)
    np.testing.assert_array_equal(q, np.broadcast_to(np.arange(T + 1)[:, None] >= 2, (T + 1, N)))
    np.testing.assert_array_equal(decoder, np.broadcast_to(np.arange(T + 1)[:, None] == 2, (T + 1, N)))


def test_an_encoder_with_history_keeps_sending_what_was_seen():
    cfg = replace(PLAIN, encoder_input="history")
    q, decoder = rows_changed_by(cfg, cases.case(cfg).agent.params["critic"], sender=0, step=2)
    for changed in (q, decoder):
        np.testing.assert_array_equal(changed, np.broadcast_to(np.arange(T + 1)[:, None] >= 2, (T + 1, N)))


@pytest.mark.parametrize("receiver", range(N))
def test_per_receiver_clearing_one_block_of_the_encoder_leaves_one_receiver_without_messages(receiver):
    cfg = replace(PLAIN, message_routing="per_receiver")
    params = dict(cases.case(cfg).agent.params["critic"])
    last = max(params["encoder"]["current"])
    block = slice(receiver * cfg.message_dim, (receiver + 1) * cfg.message_dim)
    layers = dict(params["encoder"]["current"])
    layers[last] = {**layers[last], "kernel": layers[last]["kernel"].at[:, block].set(0.0)}
    sender = (receiver + 1) % N
    for changed in rows_changed_by(cfg, {**params, "encoder": {"current": layers}}, sender=sender, step=2):
        np.testing.assert_array_equal(changed[2], np.arange(N) != receiver)


@pytest.mark.parametrize("mode", TD_TARGETS)
@pytest.mark.parametrize("label", LABELS)
def test_values_of_unavailable_actions_change_no_loss(mode, label):
    cfg = replace(SMALL, td_target=mode, label=label, decoder_mask=True)
    f = cases.forwards(SMALL)
    avail = cases.case(SMALL).episodes.world.avail

    def spoilt(values):
        return jnp.where(avail[:, None], values, 1e3)

    decoded = f.decoded._replace(logits=jnp.where(avail, f.decoded.logits, 1e3))
    clean, valid = cases.losses(SMALL, cfg), cases.valid_steps()
    spoilt_forward = f._replace(q=spoilt(f.q), target_q=spoilt(f.target_q), decoded=decoded)
    dirty = cases.losses(SMALL, cfg, forward=spoilt_forward)
    for name in oracle.TERMS:
        np.testing.assert_array_equal(clean[name][valid], dirty[name][valid], err_msg=name)


def logits_and_losses():
    """Random logits, and the policy and temperature losses (summed over valid steps) as functions of them."""
    f, c = cases.forwards(SMALL), cases.case(SMALL)
    trajectories, losses = jax.vmap(cases.trajectory_of)(c.episodes), binding.make_losses(SMALL)
    logits = jnp.asarray(np.random.default_rng(5).normal(size=(BATCH, T + 1, N, A)), jnp.float32)

    def policy_term(logits):
        log_pi = masked_log_softmax(logits, trajectories.observation.avail)
        terms = jax.vmap(lambda f, t: losses["actor"](f, t, CLOCK, c.hyper))(f._replace(log_pi=log_pi), trajectories)
        return jnp.where(trajectories.valid, terms["policy"], 0.0).sum()

    def temperature_term(logits):
        log_pi = masked_log_softmax(logits, trajectories.observation.avail)
        terms = jax.vmap(lambda f, t: losses["temperature"](f, t, CLOCK, c.hyper))(
            f._replace(log_pi=log_pi), trajectories
        )
        return jnp.where(trajectories.valid, terms["temperature"], 0.0).sum()

    return logits, policy_term, temperature_term, np.asarray(trajectories.observation.avail)


def test_eq_14_gradient_is_zero_at_unavailable_actions_and_at_dead_agents():
    logits, policy_term, _, avail = logits_and_losses()
    gradient = np.asarray(jax.grad(policy_term)(logits))
    alive = avail.sum(-1, keepdims=True) > 1
    valid_row = np.concatenate([cases.valid_steps(), np.zeros((BATCH, 1), bool)], axis=1)[..., None, None]
    free = avail & alive & valid_row
    assert (gradient[~free] == 0).all()
    assert (gradient[free] != 0).mean() > 0.99


def test_eqs_14_15_logits_of_unavailable_actions_and_of_dead_agents_change_nothing():
    logits, policy_term, temperature_term, avail = logits_and_losses()
    dead = avail.sum(-1, keepdims=True) == 1
    moved = jnp.where(jnp.asarray(avail & ~dead), logits, 37.0)
    assert (moved != logits).any()
    assert policy_term(moved) == policy_term(logits)
    assert temperature_term(moved) == temperature_term(logits)
