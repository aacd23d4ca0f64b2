"""What the tests of FOP and DOP share: agents whose every term matters, and the gradients behind a first Adam step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lsf_jax.types import AgentState


def stirred_agent(algorithm, seed=0, keep=()):
    """An agent with weights larger than at initialisation and targets of their own; groups in `keep` are as born."""
    born = jax.jit(algorithm.init)(jax.random.key(0), algorithm.hyper)
    rng = np.random.default_rng(seed)

    def stirred(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), tree)

    params = {name: tree if name in keep else stirred(tree) for name, tree in born.params.items()}
    return AgentState(params=params, targets=stirred(born.targets), opt_state=born.opt_state)


def gradients(agent, group, beta_1=0.9):
    """The gradients of a group that the first Adam step saw, read off its first moment."""
    is_adam = lambda state: isinstance(state, optax.ScaleByAdamState)
    (moments,) = filter(is_adam, jax.tree.leaves(agent.opt_state[group], is_leaf=is_adam))
    return jax.tree.map(lambda m: np.asarray(m, float) / (1 - beta_1), moments.mu)


def random_places(tree, rng, leaves):
    """(path, index) of one number in each of some leaves of a group, or of all where there are no more."""
    every = [([entry.key for entry in path], leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    for number in rng.choice(len(every), size=min(leaves, len(every)), replace=False):
        path, leaf = every[number]
        yield path, tuple(int(rng.integers(size)) for size in leaf.shape)


def at(tree, path, index):
    for name in path:
        tree = tree[name]
    return tree[index]


def assert_trees_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def moved(before, after):
    """Whether any number of a tree has changed."""
    before, after = (jax.tree.leaves(jax.device_get(tree)) for tree in (before, after))
    return any(bool((a != b).any()) for a, b in zip(before, after))
