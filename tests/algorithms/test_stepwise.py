"""One optimiser step for each time step: against a NumPy loop of Adam and RMSprop steps with hand-made gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms.stepwise import TimeSteps, critic_steps
from lsf_jax.engine.optimizers import OPTIMIZERS

B, T, D = 3, 5, 4
RATE, CLIP = 0.05, 4.0
VALID = np.array([[1, 1, 0, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], bool).T  # [T, B]; steps 2 and 4 are empty
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(B, T, D)).swapaxes(0, 1), RNG.normal(size=(B, T)).T
WEIGHT = RNG.normal(size=D)


def loss_at(params, row):
    x, y = row
    prediction = x @ params["weight"]
    return jnp.square(prediction - y), {"prediction": prediction}


def scan(x, y, valid, longest=None, *, reverse, name="adam"):
    optimizer, params = OPTIMIZERS[name](CLIP), {"weight": jnp.asarray(WEIGHT, jnp.float32)}
    inputs = jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
    fixed = partial(critic_steps, loss_at, optimizer, jnp.float32(RATE), reverse=reverse)
    return jax.jit(fixed)(params, optimizer.init(params), inputs, TimeSteps(jnp.asarray(valid), longest))


def descent(name):
    """A clipped optimiser of one vector: `step(gradient) -> change`, its moments remembered."""
    moments = {"count": 0, "mean": np.zeros(D), "square": np.zeros(D)}

    def step(gradient):
        gradient = gradient * min(1.0, CLIP / np.sqrt((gradient**2).sum()))
        moments["count"] += 1
        if name == "rmsprop":
            moments["square"] = 0.99 * moments["square"] + 0.01 * gradient**2
            return -RATE * gradient / (np.sqrt(moments["square"]) + 1e-5)
        moments["mean"] = 0.9 * moments["mean"] + 0.1 * gradient
        moments["square"] = 0.999 * moments["square"] + 0.001 * gradient**2
        mean = moments["mean"] / (1 - 0.9 ** moments["count"])
        square = moments["square"] / (1 - 0.999 ** moments["count"])
        return -RATE * mean / (np.sqrt(square) + 1e-8)

    return step, moments


def loop(order, name):
    """Weight after all steps, predictions before each step [T, B], losses of valid steps, norms, number of steps."""
    weight, (step, moments) = WEIGHT.copy(), descent(name)
    seen, losses, norms = np.zeros((T, B)), [], []
    for t in order:
        seen[t] = [weight @ X[t, b] for b in range(B)]
        present = [b for b in range(B) if VALID[t, b]]
        if not present:
            continue
        errors = [weight @ X[t, b] - Y[t, b] for b in present]
        gradient = sum(2.0 * error * X[t, b] for error, b in zip(errors, present)) / len(present)
        losses += [error**2 for error in errors]
        norms.append(np.sqrt((gradient**2).sum()))
        weight = weight + step(gradient)
    return weight, seen, losses, norms, moments["count"]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("reverse", [False, True])
def test_a_pass_equals_a_loop_of_separate_optimiser_steps(reverse, name):
    steps = scan(X, Y, VALID, reverse=reverse, name=name)
    weight, seen, losses, norms, _ = loop(range(T)[::-1] if reverse else range(T), name)
    np.testing.assert_allclose(steps.params["weight"], weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(steps.outputs["prediction"], seen, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(steps.loss, np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(steps.gradient_norm, np.mean(norms), rtol=1e-5)
    assert max(norms) > CLIP > min(norms)
    assert np.abs(weight - WEIGHT).max() > 0.01


def test_time_steps_without_a_valid_episode_are_no_optimiser_steps():
    steps = scan(X, Y, VALID, reverse=True)
    assert steps.opt_state.count == steps.taken == VALID.any(axis=1).sum() == 3


def test_a_batch_of_padding_alone_moves_neither_parameters_nor_the_optimiser():
    optimizer, params = OPTIMIZERS["adam"](CLIP), {"weight": jnp.asarray(WEIGHT, jnp.float32)}
    warm = jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf), optimizer.init(params))  # momentum would move it
    inputs = jnp.asarray(X, jnp.float32), jnp.asarray(Y, jnp.float32)
    steps = critic_steps(
        loss_at, optimizer, jnp.float32(RATE), params, warm, inputs, TimeSteps(jnp.zeros((T, B), bool)), reverse=False
    )
    jax.tree.map(np.testing.assert_array_equal, (steps.params, steps.opt_state), (params, warm))
    assert (steps.loss, steps.gradient_norm) == (0.0, 0.0)


def test_what_stands_in_padded_steps_changes_nothing():
    clean = scan(X, Y, VALID, reverse=True)
    dirty = scan(np.where(VALID[..., None], X, 1e3), np.where(VALID, Y, -1e3), VALID, reverse=True)
    jax.tree.map(
        np.testing.assert_array_equal,
        (clean.params, clean.opt_state, clean.loss, clean.gradient_norm),
        (dirty.params, dirty.opt_state, dirty.loss, dirty.gradient_norm),
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_a_pass_may_end_with_the_last_valid_step(reverse):
    whole, cut = scan(X, Y, VALID, reverse=reverse), scan(X, Y, VALID, jnp.int32(4), reverse=reverse)
    jax.tree.map(np.testing.assert_array_equal, whole._replace(outputs=()), cut._replace(outputs=()))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:4], b[:4]), whole.outputs, cut.outputs)
