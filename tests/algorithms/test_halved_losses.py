"""Ours halve squared errors, pymarl does not: with the preset's clip and ε, updates are the same all the same."""

from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS, q_learning, weighted_qmix
from lsf_jax.config.composition import compose
from lsf_jax.networks.mixers import free_mixer
from tests.support import actor_critic_cases as grads
from tests.support import lsf_sac_cases as cases
from tests.support.lsf_sac_cases import BATCH, CLOCK, SPEC

RATE, CLIP, EPSILON, DECAY = 5e-4, 10.0, 1e-5, 0.99  # pymarl's default.yaml
UPDATES, KEY = 3, jax.random.key(1)
KEYS = jax.random.split(KEY, cases.T + 1)  # of a trajectory's rows; nothing is drawn
SMALL = ("algo.hidden=8", "algo.hyper_hidden=4", "algo.mixer_embed=4", "algo.central_hidden=5", "algo.remat=false")


def config(name):
    """The preset's settings with small networks."""
    keys = vars(ALGORITHMS[name].config())
    words = [word for word in SMALL if word[5:].partition("=")[0] in keys]
    return compose(algo=name, presets=["pymarl"], overrides=[*words, f"algo.batch_size={BATCH}"]).algo


def squared_errors(name, cfg):
    """`(params, targets, trajectory, hyper) -> [T]`: what pymarl and WQMIX sum, no half anywhere."""
    agent = q_learning.make_agent(SPEC, cfg)
    net = q_learning.Networks(agent=agent, mixer=q_learning.qmix_mixer(SPEC, cfg))
    if name == "qmix":
        outputs = partial(q_learning.forward, net=net)
        return lambda params, targets, t, hyper: q_learning.squared_error(outputs(params, targets, t, KEYS), t, hyper)
    central = q_learning.Networks(agent=agent, mixer=free_mixer(SPEC, hidden=cfg.central_hidden))
    outputs = partial(weighted_qmix.forward, net=weighted_qmix.Networks(monotonic=net, central=central))

    def errors(params, targets, t, hyper):
        f = outputs(params, targets, t, KEYS)
        y, weight = weighted_qmix.targets_and_weights(f, t, hyper, weighted_qmix.optimistic)
        return (weight * jnp.square(f.q_total - y) + jnp.square(f.central_total - y)).mean(axis=-1)

    return errors


@cache
def case(name):
    """An algorithm with the preset's settings, a batch, and the gradient of pymarl's loss of it."""
    cfg = config(name)
    algorithm = ALGORITHMS[name].factory(SPEC, cfg, cases.observe)
    episodes = cases.episodes_of(cases.make_games())
    trajectories, errors = jax.vmap(cases.trajectory_of)(episodes), squared_errors(name, cfg)

    def loss(params, targets, hyper):
        values = jax.vmap(lambda t: errors(params, targets, t, hyper))(trajectories)
        return jnp.where(trajectories.valid, values, 0.0).sum() / trajectories.valid.sum().astype(jnp.float32)

    return SimpleNamespace(**locals(), gradient=jax.jit(jax.grad(loss)))


def born(algorithm):
    """Fresh networks: with their small gradients it is ε that matters."""
    return jax.jit(algorithm.init)(jax.random.key(0), algorithm.hyper)


AGENTS = {"ε matters": (born, 1e-3), "the norm is clipped": (grads.stirred_agent, 100.0)}
"""An agent, and the scale of its rewards."""


def ours(c, agent, hyper, **changes):
    """Parameters after three updates by the algorithm, other settings than the preset's where asked."""
    algorithm = ALGORITHMS[c.name].factory(SPEC, replace(c.cfg, **changes), cases.observe) if changes else c.algorithm
    update = jax.jit(algorithm.update)
    for _ in range(UPDATES):
        agent, _ = update(agent, c.episodes, KEY, CLOCK, hyper)
    return agent.params["q"]


def pymarls(c, agent, hyper):
    """The same by PyTorch's RMSprop and clipping in NumPy, on the loss that is not halved; and the norms met."""
    leaves, tree = jax.tree.flatten(agent.params["q"])
    leaves, squares, norms = [np.array(leaf, float) for leaf in leaves], [0.0] * len(leaves), []
    for _ in range(UPDATES):
        params = {"q": jax.tree.unflatten(tree, [jnp.asarray(leaf, jnp.float32) for leaf in leaves])}
        slopes = [np.array(leaf, float) for leaf in jax.tree.leaves(c.gradient(params, agent.targets, hyper))]
        norms.append(np.sqrt(sum((slope**2).sum() for slope in slopes)))
        slopes = [slope * min(1.0, CLIP / norms[-1]) for slope in slopes]
        squares = [DECAY * old + (1 - DECAY) * slope**2 for old, slope in zip(squares, slopes)]
        leaves = [leaf - RATE * g / (np.sqrt(v) + EPSILON) for leaf, g, v in zip(leaves, slopes, squares)]
    return jax.tree.unflatten(tree, leaves), norms


def moves(before, after):
    return np.concatenate([np.ravel(np.array(b, float) - a) for a, b in zip(*map(jax.tree.leaves, (before, after)))])


def apart(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.default("qmix-the norm is clipped", "qmix-\\u03b5 matters")
@pytest.mark.parametrize("kind", AGENTS)
@pytest.mark.parametrize("name", ["qmix", "ow_qmix"])
def test_three_updates_of_preset_pymarl_are_three_of_pymarls_rmsprop_on_the_whole_squares(name, kind):
    c, (make, scale) = case(name), AGENTS[kind]
    agent, hyper = make(c.algorithm), c.algorithm.hyper._replace(reward_scale=jnp.float32(scale))
    assert float(hyper.lr) == np.float32(RATE)
    wanted, norms = pymarls(c, agent, hyper)
    wanted, found = (moves(agent.params["q"], after) for after in (wanted, ours(c, agent, hyper)))
    assert apart(found, wanted) < 1e-5
    assert (max(norms) > CLIP) == (kind == "the norm is clipped")
    other = {"optimizer_epsilon": 0.0} if kind == "ε matters" else {"grad_clip": CLIP}
    assert apart(moves(agent.params["q"], ours(c, agent, hyper, **other)), wanted) > 1e-2
