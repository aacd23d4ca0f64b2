"""Optimisers of the compared algorithms, in PyTorch's arithmetic, up to and not including the learning rate.

The learning rate is a traced number, applied by whoever takes the step (`learner.optimizer_step`). States are optax's.
The arithmetic is spelled with reciprocals of scalars, because XLA rewrites arrays divided by a scalar in an order that
is not the same in programs for one device and for several, and a sharded run would differ in its last bits.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def clip_norm(gradients: Any, clip: float) -> Any:
    """The gradients scaled down, all leaves alike, to a global norm of at most `clip`; 0 leaves them as they are."""
    scale = jnp.minimum(1.0, clip * (1.0 / optax.tree.norm(gradients))) if clip else 1.0
    return jax.tree.map(lambda leaf: leaf * scale, gradients)


def adam(clip: float, *, epsilon: float = 1e-8) -> optax.GradientTransformation:
    """Adam (β 0.9/0.999, PyTorch's defaults as is ε) after clipping the global norm; `clip` 0 leaves it out."""
    decay, decay_square = 0.9, 0.999

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        gradients = clip_norm(updates, clip)
        count = state.count + 1
        mean = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state.mu, gradients)
        square = jax.tree.map(lambda old, new: decay_square * old + (1 - decay_square) * new * new, state.nu, gradients)
        age = count.astype(jnp.float32)
        unbias, unbias_square = 1.0 / (1.0 - decay**age), 1.0 / (1.0 - decay_square**age)
        steps = jax.tree.map(
            lambda first, second: first * unbias / (jnp.sqrt(second * unbias_square) + epsilon), mean, square
        )
        return steps, optax.ScaleByAdamState(count=count, mu=mean, nu=square)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def rmsprop(clip: float, *, decay: float = 0.99, epsilon: float = 1e-5) -> optax.GradientTransformation:
    """RMSprop after clipping the global norm, with the defaults of pymarl; `clip` 0 leaves it out.

        v ← ρ v + (1 - ρ) g²,   step = g / (√v + ε)

    PyTorch's: v starts at zero and stays biased, ε is added to the root (optax's default has it inside), no momentum.

    Args:
      clip: largest global norm of the gradients.
      decay: ρ.
      epsilon: ε.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, optax.ScaleByRmsState]:
        del params
        gradients = clip_norm(updates, clip)
        square = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new * new, state.nu, gradients)
        steps = jax.tree.map(lambda leaf, second: leaf / (jnp.sqrt(second) + epsilon), gradients, square)
        return steps, optax.ScaleByRmsState(nu=square)

    return optax.GradientTransformation(optax.scale_by_rms(initial_scale=0.0).init, update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"adam": adam, "rmsprop": rmsprop}
"""By name, as configurations choose; each takes the largest global norm of the gradients and its ε."""


def make_optimizer(name: str, clip: float, epsilon: float) -> optax.GradientTransformation:
    """The optimiser that a configuration asks for.

    Args:
      name: a key of `OPTIMIZERS`.
      clip: largest global norm of the gradients; 0 leaves them as they are.
      epsilon: its ε; 0 is the optimiser's own.
    """
    chosen = {"epsilon": epsilon} if epsilon else {}
    return OPTIMIZERS[name](clip, **chosen)
