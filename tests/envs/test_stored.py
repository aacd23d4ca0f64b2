"""The stored view: what it keeps, in how many bytes, and that nothing is lost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs.stored import Widths, n_bytes, narrowest, recall, store

MASKS = [jnp.array([True, False, True]), jnp.array([False, True])]
WIDTHS = Widths(obs=(4, 2), actions=(3, 2))


@pytest.mark.parametrize(
    ("dtype", "values", "kept"),
    [("bool", (0, 1), 1), ("uint8", (0, 255), 1), ("int8", (-128, 127), 1), ("int32", (-(2**24), 2**24), 4)],
)
def test_numbers_keep_their_narrow_dtype_and_come_back_exactly(dtype, values, kept):
    rows = [jnp.array([values * 1] * 2, dtype), jnp.array(values[::-1], dtype)]  # any shape
    stored = store(rows, avail=MASKS)
    assert stored.obs.dtype == jnp.dtype(dtype)
    assert n_bytes(stored) == n_bytes(jax.eval_shape(lambda: stored)) == 6 * kept + 1  # five masks are bits of a byte
    seen = recall(stored, WIDTHS)
    assert (seen.obs.dtype, seen.state.dtype, seen.avail.dtype) == (jnp.float32, jnp.float32, bool)
    low, high = values
    np.testing.assert_array_equal(seen.obs, [[low, high, low, high], [high, low, 0, 0]])
    np.testing.assert_array_equal(seen.avail, [[True, False, True], [False, True, False]])
    np.testing.assert_array_equal(seen.state, [low, high, low, high, high, low])  # side by side, nothing padded


def test_floats_come_back_bit_for_bit_and_unlike_dtypes_as_floats():
    odd = jnp.array([0.1, -3.4e38, 1e-45, 7.0])
    seen = recall(store([odd, jnp.array([1, 2], jnp.uint8)], avail=MASKS), WIDTHS)
    assert np.asarray(seen.obs[0]).tobytes() == np.asarray(odd).tobytes()
    np.testing.assert_array_equal(seen.obs[1], [1, 2, 0, 0])


def test_a_state_of_its_own_is_kept_beside_and_masks_that_never_change_are_not():
    rows = [jnp.zeros((2, 2), jnp.uint8), jnp.ones(2, jnp.uint8)]
    stored = store(rows, state=jnp.full((1, 3), 0.5))
    assert n_bytes(stored) == 6 + 3 * 4
    seen = recall(stored, WIDTHS)
    np.testing.assert_array_equal(seen.state, [0.5] * 3)
    np.testing.assert_array_equal(seen.avail, [[True] * 3, [True, True, False]])


def test_equal_widths_are_rows_without_padding():
    seen = recall(store([jnp.arange(3.0), jnp.arange(3.0, 6)]), Widths(obs=(3, 3), actions=(2, 2)))
    np.testing.assert_array_equal(seen.obs, [[0, 1, 2], [3, 4, 5]])
    assert seen.avail.shape == (2, 2)


def test_the_narrowest_dtype_holds_both_ends():
    assert [narrowest(*ends).name for ends in ((0, 255), (-1, 127), (0, 256), (-1, 128), (0, 65536))] == [
        *("uint8", "int8", "uint16", "int16", "int32"),
    ]
