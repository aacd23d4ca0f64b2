"""One update of a value-based algorithm on the random batch of `lsf_sac_cases`, for tests against NumPy oracles."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.types import AgentState
from tests.support.lsf_sac_cases import BATCH, CLOCK, SPEC, H, episodes_of, make_games, numpy_tree, observe

SMALL = {
    "batch_size": BATCH,
    "hidden": H,
    "lr": 1e-3,
    "discount": 0.9,
    "reward_scale": 0.5,
    "grad_clip": 0.0,
    "remat": False,
}


def agent_of(algorithm, seed=0):
    """An agent whose weights are larger than at initialisation (so that every term matters) and differ from targets."""
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    rng = np.random.default_rng(seed)

    def stirred(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), tree)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes.opt_state)
    return AgentState(params=stirred(shapes.params), targets=stirred(shapes.targets), opt_state=zeros)


@cache
def case(name, cfg):
    """An algorithm, an agent, a batch, and what one update makes of them, gradients read off Adam's first moment."""
    algorithm = ALGORITHMS[name].factory(SPEC, cfg, observe)
    agent, games, key = agent_of(algorithm), make_games(), jax.random.key(3)
    after, metrics = jax.jit(algorithm.update)(agent, episodes_of(games), key, CLOCK, algorithm.hyper)
    return SimpleNamespace(
        algorithm=algorithm,
        agent=agent,
        params=numpy_tree(agent.params["q"]),
        targets=numpy_tree(agent.targets["q"]),
        games=games,
        episodes=episodes_of(games),
        key=key,
        metrics=metrics,
        after=after,
        gradients=numpy_tree(jax.tree.map(lambda moment: moment / (1 - 0.9), after.opt_state["q"].mu)),
    )


def blocks_moved(terms, params):
    """Which parts of `params["q"]` each named loss term has a gradient for; agents count as trunk and last layer.

    `terms(params)` gives the sums of all terms; a part counts as moved if each of its arrays has a gradient.
    """
    gradients = jax.jit(jax.jacrev(terms))(params)
    moved = {}
    for name, tree in gradients.items():
        parts = dict(tree["q"])
        agent = dict(parts.pop("agent"))
        parts["utility_layer"] = agent.pop("output_layer")
        parts["trunk"] = agent
        flags = {
            part: [bool((leaf != 0).any()) for leaf in jax.tree.leaves(jax.device_get(each))]
            for part, each in parts.items()
        }
        assert all(len(set(flag)) <= 1 for flag in flags.values()), (name, flags)
        moved[name] = {part for part, flag in flags.items() if flag and flag[0]}
    return moved


def assert_gradients_match(c, loss, per_module, seed=1):
    """Some entries of the update's gradient in every module against central differences of `loss(params)`."""
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(c.gradients))
    rng, largest, step = np.random.default_rng(seed), 0.0, 1e-5
    for module in c.params:
        places = jax.tree_util.tree_leaves_with_path(c.params[module])
        for number in rng.choice(len(places), size=min(per_module, len(places)), replace=False):
            path, leaf = places[number]
            names = (module, *(entry.key for entry in path))
            index = tuple(int(rng.integers(size)) for size in leaf.shape)
            wanted = (loss(shifted(c.params, names, index, step)) - loss(shifted(c.params, names, index, -step))) / 2e-5
            found = c.gradients
            for name in names:
                found = found[name]
            assert abs(found[index] - wanted) < 5e-5 * scale + 1e-4 * abs(wanted), (names, index, found[index], wanted)
            largest = max(largest, abs(wanted))
    assert largest > 1e-3 * scale


def shifted(tree, path, index, shift):
    """A copy of a nested dict in which one number of one leaf is moved."""
    if not path:
        leaf = np.array(tree, float)
        leaf[index] += shift
        return leaf
    return {**tree, path[0]: shifted(tree[path[0]], path[1:], index, shift)}
