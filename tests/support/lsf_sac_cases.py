"""Batches, parameters and noise that the tests of LSF-SAC share; small sizes, all of them different."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsf_jax.algorithms.base import hyper_of
from lsf_jax.algorithms.lsf_sac import binding, config, diagnostics, networks
from lsf_jax.testing.games import (
    BATCH,
    CLOCK,
    ENDINGS,
    SPEC,
    A,
    N,
    episodes_of,
    keys_of,
    make_games,
    observe,
    trajectory_of,
)
from lsf_jax.testing.games import OBS as OBS
from lsf_jax.testing.games import S as S
from lsf_jax.testing.games import T as T
from lsf_jax.types import AgentState
from tests.support import oracle_lsf_sac as oracle

H = 8

COMMON = {
    "batch_size": BATCH,
    "hidden": H,
    "mixer_embed": 4,
    "hyper_hidden": 6,
    "lambda_2": 1.25,
    "lr": 1e-3,
    "actor_lr": 1e-3,
    "alpha_lr": 3e-4,
    "policy_sign": "paper",
    "behaviour": "sample",
    "target_entropy": "fraction",
    "target_entropy_fraction": 0.5,
    "discount": 0.9,
    "trace": 0.6,
    "reward_scale": 0.5,
    "grad_clip": 0.0,
    "actor_clip": 0.0,
    "remat": False,
}
MESSAGES = {
    "encoder_hidden": 5,
    "decoder_hidden": 9,
    "message_dim": 2,
    "lambda_1": 0.7,
    "beta": 0.3,
    "message_routing": "broadcast",
    "encoder_input": "current",
    "label": "critic_greedy",
}
# The switches of the preset `paper`.
SMALL = config.LsfSacConfig(**COMMON, **MESSAGES, alpha=0.8, td_target="greedy_actor")
RELEASE = replace(  # the switches of the preset `release`
    SMALL,
    message_routing="per_receiver",
    label="actor_greedy",
    policy_sign="release",
    target_entropy="minus_n_actions",
    alpha_clamps=True,
    logit_clamp=True,
    mask_messages=False,
    alpha=1.2,
)
ODD = replace(
    SMALL,
    encoder_input="history",
    label="actor_soft",
    td_target="soft_expected",
    decoder_mask=True,
    td_gradient_to_encoder=False,
    message_noise=0.5,
    remat=True,
)
MASAC = config.SoftConfig(**COMMON, alpha=0.8, td_target="greedy_actor")
DOUBLE = config.DoubleSoftConfig(**COMMON, alpha=0.8)
FIXED = config.FixedAlphaConfig(**COMMON, **MESSAGES)
COMMUNICATING = replace(SMALL, communicate=True)
PLAIN = replace(SMALL, recurrent=False, hyper_hidden=0)  # compiles fast, where recurrence does not matter


def has_messages(cfg):
    return isinstance(cfg, config.LsfSacConfig)


def noises_of(key, cfg):
    """The noise of one update, drawn as the engine splits its key: by row, then online, target and a'."""
    return [noise_of(keys, cfg) for keys in keys_of(key)]


def noise_of(keys, cfg):
    """The noise of one episode from the keys of its T+1 rows; a' is drawn in the row where it is taken."""
    of_online, of_target, of_action = zip(*(jax.random.split(key, 3) for key in keys))
    gumbel = np.stack([np.asarray(jax.random.gumbel(key, (N, A)), float) for key in of_action[1:]])
    if not has_messages(cfg):
        return oracle.Noise(online=None, target=None, gumbel=gumbel)
    sent = cfg.message_dim * (N if cfg.message_routing == "per_receiver" else 1)
    online, target = (
        np.stack([np.asarray(jax.random.normal(key, (N, sent)), float) for key in of_rows])
        for of_rows in (of_online, of_target)
    )
    return oracle.Noise(online=online, target=target, gumbel=gumbel)


def numpy_tree(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), tree)


def agent_of(algorithm, seed=0):
    """An agent whose weights are larger than at initialisation (so that every term matters) and differ from targets."""
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    rng = np.random.default_rng(seed)

    def stirred(tree):
        return jax.tree.map(lambda leaf: jnp.asarray((0.5 * rng.normal(size=leaf.shape)).astype(leaf.dtype)), tree)

    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes.opt_state)
    params = {**stirred(shapes.params), "temperature": jnp.log(algorithm.hyper.alpha)}
    return AgentState(params=params, targets=stirred(shapes.targets), opt_state=zeros)


@cache
def case(cfg, micro_batch=0):
    """An algorithm with its jitted update, an agent, a batch and the noise that goes with `key`."""
    algorithm = binding.make_lsf_sac(SPEC, cfg, observe)
    games = make_games()
    key = jax.random.key(3)
    return SimpleNamespace(
        cfg=cfg,
        algorithm=algorithm,
        update=jax.jit(partial(algorithm.update, micro_batch=micro_batch)),
        agent=agent_of(algorithm),
        games=games,
        episodes=episodes_of(games),
        key=key,
        noises=noises_of(key, cfg),
        hyper=algorithm.hyper,
    )


@cache
def updated(cfg, micro_batch=0):
    """(agent, metrics) after one update of a case."""
    c = case(cfg, micro_batch)
    return c.update(c.agent, c.episodes, c.key, CLOCK, c.hyper)


def gradients(agent, beta_1=0.9):
    """The gradients that the first Adam step saw, read off its first moment."""

    def is_adam(state):
        return isinstance(state, optax.ScaleByAdamState)

    out = {}
    for group, state in agent.opt_state.items():
        for moments in filter(is_adam, jax.tree.leaves(state, is_leaf=is_adam)):
            out[group] = jax.tree.map(lambda m: np.asarray(m) / (1 - beta_1), moments.mu)
    return out


@cache
def forwards(network_cfg):
    """Forward of every episode for a config's networks: what the losses, which are arithmetic, read."""
    c = case(network_cfg)
    run = partial(networks.forward, net=binding.make_networks(SPEC, network_cfg))

    @jax.jit
    def every(agent, episodes, keys):
        return jax.vmap(lambda e, k: run(agent.params, agent.targets, trajectory_of(e), k))(episodes, keys)

    return every(c.agent, c.episodes, keys_of(c.key))


def losses(network_cfg, cfg, clock=CLOCK, forward=None):
    """All terms of all steps `[B, T]` for the networks of one config and the losses of another."""
    c = case(network_cfg)
    forward = forwards(network_cfg) if forward is None else forward
    hyper, groups = hyper_of(cfg), binding.make_losses(cfg)

    def every(f, episode):
        t = trajectory_of(episode)
        return {name: value for loss in groups.values() for name, value in loss(f, t, clock, hyper).items()}

    return {name: np.asarray(value) for name, value in jax.jit(jax.vmap(every))(forward, c.episodes).items()}


@cache
def expected_losses(network_cfg, cfg, env_steps=40):
    """The oracle's terms of all steps for the same parameters and noise."""
    c = case(network_cfg)
    params, targets = numpy_tree(c.agent.params), numpy_tree(c.agent.targets)
    return oracle.loss_terms(params, targets, c.games, c.noises, cfg, env_steps, per_step=True)


def terms_of(cfg):
    """Names of the loss terms that a config has."""
    return [name for name in oracle.TERMS if has_messages(cfg) or not name.startswith("message")]


def valid_steps():
    return np.stack([np.arange(T) < length for length, _ in ENDINGS])


def assert_close(actual, expected, tolerance=2e-5):
    scale = max(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def assert_terms_match(network_cfg, cfg, names, clock=CLOCK):
    """The named loss terms of every valid step equal the oracle's, whose terms are returned."""
    actual = losses(network_cfg, cfg, clock)
    expected = expected_losses(network_cfg, cfg, int(clock.env_steps))
    valid = valid_steps()
    for name in names:
        assert np.abs(expected[name][valid]).min() > 0
        if name.startswith("message") and not cfg.mask_messages:
            assert_close(np.where(valid, actual[name], 0.0).sum(), expected[name].sum())
        else:
            assert_close(actual[name][valid], expected[name][valid])
    return expected


def assert_means_match(cfg):
    """A whole update reports the oracle's means of all the terms that the config has, and of no others."""
    c, metrics = case(cfg), updated(cfg)[1]
    params, targets = numpy_tree(c.agent.params), numpy_tree(c.agent.targets)
    expected = oracle.loss_terms(params, targets, c.games, c.noises, cfg, int(CLOCK.env_steps))
    assert {term for term in oracle.TERMS if term in metrics} == set(terms_of(cfg))
    for term in terms_of(cfg):
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


def assert_gradients_match(cfg, group):
    """Gradients of an update at random places equal central differences of the oracle's losses."""
    c = case(cfg)
    params, targets = numpy_tree(c.agent.params), numpy_tree(c.agent.targets)
    found = numpy_tree(gradients(updated(cfg)[0])[group])
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(found))
    rng, largest = np.random.default_rng(1), 0.0
    for path, index in random_places(params[group], rng, 4 if group == "critic" else 1):
        wanted = oracle.derivative(group, path, index, params, targets, c.games, c.noises, cfg, int(CLOCK.env_steps))
        leaf = found
        for step in path:
            leaf = leaf[step]
        assert abs(leaf[index] - wanted) < 5e-5 * scale + 1e-4 * abs(wanted), (path, index, leaf[index], wanted)
        largest = max(largest, abs(wanted))
    assert largest > 1e-3 * scale


def assert_joint_table_matches(cfg):
    """The table of a first observation equals enumeration in NumPy with the same message noise."""
    c = case(cfg)
    observation = jax.tree.map(lambda leaf: leaf[0, 0], c.episodes.world)
    table = jax.jit(c.algorithm.joint_table)(c.agent, observation, c.key)
    noises = [
        np.asarray(jax.random.normal(key, (1, N, MESSAGES["message_dim"])), float)
        for key in jax.random.split(c.key, diagnostics.TABLE_DRAWS if has_messages(cfg) else 1)
    ]
    game = c.games[0]
    utilities, q_total, policy = oracle.joint_values(
        numpy_tree(c.agent.params), game.obs[0], game.state[0], game.avail[0], noises, cfg
    )
    assert table.q_total.shape == (A**N,)
    assert_close(table.utilities, utilities)
    assert_close(table.q_total, q_total)
    assert_close(table.policy, policy)
