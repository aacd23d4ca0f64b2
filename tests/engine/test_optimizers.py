"""Optimisers against PyTorch's published formulas in NumPy, and against optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsf_jax.engine.optimizers import OPTIMIZERS, adam, clip_norm, make_optimizer, rmsprop

SCALES = (0.01, 5.0, 1.0, 0.0, 0.1)


def some_gradients():
    rng = np.random.default_rng(2)
    return [{"x": rng.normal(size=(2, 3)) * scale, "y": rng.normal(size=4) * scale} for scale in SCALES]


def flatten(tree):
    return np.concatenate([np.ravel(tree["x"]), np.ravel(tree["y"])])


def clipped(flat, clip):
    norm = np.sqrt((flat**2).sum())
    return flat * (clip / norm) if clip and norm > clip else flat


def adam_in_numpy(gradients, clip):
    """Steps (without learning rate) of Kingma & Ba's algorithm 1 after clipping the norm over all leaves together."""
    mean = square = 0.0
    steps = []
    for t, gradient in enumerate(gradients, start=1):
        flat = clipped(flatten(gradient), clip)
        mean, square = 0.9 * mean + 0.1 * flat, 0.999 * square + 0.001 * flat**2
        steps.append(mean / (1 - 0.9**t) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8))
    return steps


def rmsprop_in_numpy(gradients, clip):
    """Steps (without learning rate) of torch.optim.RMSprop(alpha=0.99, eps=1e-5), not centred, no momentum."""
    square = 0.0
    steps = []
    for gradient in gradients:
        flat = clipped(flatten(gradient), clip)
        square = 0.99 * square + 0.01 * flat**2
        steps.append(flat / (np.sqrt(square) + 1e-5))
    return steps


def steps_of(optimizer, gradients):
    gradients = [jax.tree.map(jnp.float32, gradient) for gradient in gradients]
    state, steps = optimizer.init(gradients[0]), []
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an integer power
            step, state = optimizer.update(gradient, state)
        steps.append(flatten(step))
    return steps


@pytest.mark.parametrize("clip", [0.0, 1.0, 100.0])
@pytest.mark.parametrize(("optimizer", "oracle"), [(adam, adam_in_numpy), (rmsprop, rmsprop_in_numpy)])
def test_steps_equal_numpys_with_the_global_norm_clipped(optimizer, oracle, clip):
    gradients = some_gradients()
    for step, expected in zip(steps_of(optimizer(clip), gradients), oracle(gradients, clip), strict=True):
        np.testing.assert_allclose(step, expected, rtol=1e-4, atol=1e-6)
    changes = np.abs(np.subtract(oracle(gradients, clip), oracle(gradients, 0.0))).max() > 1e-2
    assert changes == (clip == 1.0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (adam(0.0), optax.scale_by_adam()),
        (rmsprop(0.0), optax.scale_by_rms(decay=0.99, eps=1e-5, eps_in_sqrt=False, initial_scale=0.0)),
        (rmsprop(0.0, decay=0.9, epsilon=0.1), optax.scale_by_rms(decay=0.9, eps=0.1, eps_in_sqrt=False)),
    ],
)
def test_without_clipping_steps_and_states_are_optaxs(ours, theirs):
    gradients = some_gradients()
    for step, expected in zip(steps_of(ours, gradients), steps_of(theirs, gradients), strict=True):
        np.testing.assert_allclose(step, expected, rtol=2e-5, atol=1e-7)
    like = jax.tree.map(jnp.float32, gradients[0])
    assert jax.tree.structure(ours.init(like)) == jax.tree.structure(theirs.init(like))
    assert jax.tree.structure(ours.update(like, ours.init(like))[1]) == jax.tree.structure(ours.init(like))
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(ours.init(like)))


def test_the_first_step_of_rmsprop_is_ten_times_the_sign_because_nothing_is_unbiased():
    (step,) = steps_of(rmsprop(0.0), [{"x": np.full((2, 3), 7.0), "y": np.full(4, -0.3)}])
    np.testing.assert_allclose(step, [10.0] * 6 + [-10.0] * 4, rtol=1e-3)


def test_clipping_keeps_directions_and_zero_gradients_stay_zero():
    gradients = {"x": jnp.array([[3.0]]), "y": jnp.array([-4.0])}
    np.testing.assert_allclose(flatten(clip_norm(gradients, 1.0)), [0.6, -0.8], rtol=1e-6)
    for clip in (0.0, 5.0, 6.0):
        np.testing.assert_allclose(flatten(clip_norm(gradients, clip)), [3.0, -4.0], rtol=1e-6)
    assert not flatten(clip_norm(jax.tree.map(jnp.zeros_like, gradients), 1.0)).any()


def test_every_optimizer_has_the_name_by_which_it_is_chosen():
    assert {"adam": adam, "rmsprop": rmsprop} == OPTIMIZERS


@pytest.mark.parametrize(("name", "own"), [("adam", 1e-8), ("rmsprop", 1e-5)])
def test_an_epsilon_of_zero_is_the_optimisers_own_and_any_other_is_taken(name, own):
    gradients = some_gradients()
    steps = {epsilon: np.stack(steps_of(make_optimizer(name, 0.0, epsilon), gradients)) for epsilon in (0.0, own, 0.1)}
    np.testing.assert_array_equal(steps[0.0], steps[own])
    assert (np.abs(steps[0.1]) <= np.abs(steps[own])).all()
    assert np.abs(steps[0.1] - steps[own]).max() > 0.1
