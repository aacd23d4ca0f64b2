"""Random numbers written out: the same as those of `jax.random`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs import chance

PAIRS = {
    "bits": (lambda key: chance.random_bits(key, 300), lambda key: jax.random.bits(key, (300,))),
    "uniform": (lambda key: chance.uniform(key, 3, 7), lambda key: jax.random.uniform(key, (3, 7))),
    "gumbel": (lambda key: chance.gumbel(key, 3, 7), lambda key: jax.random.gumbel(key, (3, 7))),
    "a key folded": (lambda key: chance.fold_in(key, jnp.int32(3)), lambda key: jax.random.fold_in(key, 3)),
    "keys": (lambda key: chance.split(key, 5), lambda key: jax.random.split(key, 5)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_numbers_are_those_of_jax_random(name, impl):
    plain = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    keys = jax.random.split(jax.random.key(7, impl=impl), 4)
    ours, theirs = (plain(jax.jit(jax.vmap(draw))(keys)) for draw in PAIRS[name])
    np.testing.assert_array_equal(ours, theirs)


def test_a_gumbel_of_the_smallest_number_is_finite(monkeypatch):
    monkeypatch.setattr(chance, "uniform", lambda key, *shape: jnp.zeros(shape))
    assert -5.0 < chance.gumbel(jax.random.key(0), 1)[0] < -4.0


@pytest.mark.parametrize("name", PAIRS)
def test_on_a_cpu_a_draw_needs_no_loop(name):
    """Else each draw is a dozen kernels, and a second of compilation."""
    ours, theirs = (jax.jit(draw).lower(jax.random.key(0)).as_text() for draw in PAIRS[name])
    assert "while" in theirs  # the day to drop ours
    assert "while" not in ours
