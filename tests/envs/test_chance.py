"""Random numbers written out: the same as those of `jax.random`."""

import jax
import numpy as np
import pytest

from lsf_jax.envs.chance import random_bits, uniform


@pytest.mark.parametrize("n", [1, 9, 300])
def test_words_and_numbers_are_those_of_jax_random(n):
    keys = jax.random.split(jax.random.key(7), 5)
    np.testing.assert_array_equal(
        jax.vmap(lambda key: random_bits(key, n))(keys), jax.vmap(lambda key: jax.random.bits(key, (n,)))(keys)
    )
    np.testing.assert_array_equal(
        jax.vmap(lambda key: uniform(key, n))(keys), jax.vmap(lambda key: jax.random.uniform(key, (n,)))(keys)
    )


def test_on_a_cpu_a_draw_needs_no_loop():
    """Else each draw is a dozen kernels, and a second of compilation."""
    key = jax.random.key(0)
    assert "while" in jax.jit(lambda key: jax.random.bits(key, (9,))).lower(key).as_text()  # the day to drop ours
    assert "while" not in jax.jit(lambda key: random_bits(key, 9)).lower(key).as_text()
