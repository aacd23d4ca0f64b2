"""Bitwise and rounded comparison of trees of arrays."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.types import TrainState


def bits(tree: Any) -> list[np.ndarray]:
    """Copies of all leaves as unsigned integers, so that NaNs compare and -0 differs from 0."""

    def one(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        data = np.array(leaf)
        return data.view(f"u{data.itemsize}")

    return [one(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(left: Any, right: Any) -> None:
    """Complain with the paths of all leaves that differ in any bit."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(left)[0]]
    different = [name for name, a, b in zip(names, bits(left), bits(right), strict=True) if not np.array_equal(a, b)]
    assert not different, different


def assert_close(left: Any, right: Any, tolerance: float) -> None:
    """Complain where leaves differ by more than a tolerance, relative and absolute."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


def shapes(tree: Any) -> Any:
    """The tree with (shape, dtype) for every leaf."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def in_numpy(change: Callable[[np.ndarray], Any], tree: Any) -> Any:
    """The tree with all its leaves changed on the host, where nothing has to be compiled for each of their shapes."""
    return jax.tree.map(lambda leaf: change(np.array(leaf)), tree)


def seed_slice(state: TrainState, rows: Any) -> TrainState:
    """Rows of a block's state, on the host; what is common to all seeds stays."""
    on_host = jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))
    return jax.tree.map(lambda leaf: leaf[rows] if leaf.ndim else leaf, on_host)
