"""Logits and availability of three agents with four actions, and whether drawn actions follow a law."""

import jax.numpy as jnp
import numpy as np

DRAWS = 20_000
AVAIL = jnp.array([[True, True, True, True], [False, True, False, True], [False, False, True, False]])
LOGITS = jnp.array([[0.0, 1.0, -1.0, 0.5], [9.0, 0.2, 9.0, -0.7], [9.0, 9.0, -3.0, 9.0]])


def is_plausible(counts, expected):
    """Pearson's chi-square below a bound that the truth exceeds about once in a thousand; zeros must be zeros."""
    counts, expected = np.asarray(counts, np.float64), np.asarray(expected, np.float64)
    possible = expected > 0
    if counts[~possible].any():
        return False
    degrees = possible.sum() - 1
    return ((counts - expected)[possible] ** 2 / expected[possible]).sum() <= degrees + 5.0 * (2.0 * degrees) ** 0.5


def counts_of(actions):
    """`[N, A]` from `[draws, N]`."""
    return np.stack([np.bincount(column, minlength=4) for column in np.asarray(actions).T])
