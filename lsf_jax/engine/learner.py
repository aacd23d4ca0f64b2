"""The update engine: one gradient for everything that an update learns from whole trajectories.

An algorithm gives one `forward` (every network, run once), losses that are arithmetic on its result, and the table of
which parameter group owns which field of it. One gradient of the sum of all losses then trains every group.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Key

from lsf_jax.engine.lengths import only_if
from lsf_jax.engine.packing import PER_TRAJECTORY, ObserveFn, as_rows, row_keys
from lsf_jax.types import AgentState, Batch, Clock, Hyper, Metrics, PackedRows, Params, PRNGKey, Trajectory, Update

Forward = Any
"""An algorithm's NamedTuple of everything its networks give for one trajectory."""
Terms = dict[str, Float[Array, "time"]]
"""Named per-step loss terms; their sum is the loss, their means over valid steps are the metrics."""
ForwardFn = Callable[[dict[str, Params], dict[str, Params], Trajectory, Key[Array, "rows"]], Forward]
"""`(params, targets, trajectory, a key for each of its rows) -> what all networks give`."""
LossFn = Callable[[Forward, Trajectory, Clock, Hyper], Terms]
Refresh = Callable[[AgentState, Clock, Clock], AgentState]


class Learner(NamedTuple):
    """What `make_update` binds together; the fields marked by group have one entry for each parameter group."""

    forward: ForwardFn
    losses: Mapping[str, LossFn]  # by group: what trains it
    owns: Mapping[str, tuple[str, ...]]  # by group: fields of Forward through which its parameters may learn
    diagnose: LossFn  # per-step quantities to log, no gradient
    optimizers: Mapping[str, optax.GradientTransformation]  # by group: up to, not including, the learning rate
    learning_rates: Callable[[Hyper], dict[str, Float[Array, ""]]]


class Sums(NamedTuple):
    """What slices of a batch accumulate: gradients, per-step sums, and how many steps they sum over."""

    gradients: dict[str, Params]
    terms: dict[str, Array]
    count: Float[Array, ""]


def detach_others(forward: Forward, owned: tuple[str, ...]) -> Forward:
    """The forward record with `stop_gradient` on every field that is not `owned`.

    Raises:
      ValueError: an owned name is no field: its gradient would be lost without a word.
    """
    if unknown := set(owned) - set(forward._fields):
        raise ValueError(f"{type(forward).__name__} has no {', '.join(sorted(unknown))}; it has {forward._fields}.")
    fields = {
        name: value if name in owned else jax.lax.stop_gradient(value) for name, value in forward._asdict().items()
    }
    return type(forward)(**fields)


def sum_over_valid(values: Float[Array, "*steps"], valid: Bool[Array, "*steps"]) -> Float[Array, ""]:
    """Sum over valid steps. A `where`, not a product: NaN · 0 is NaN."""
    return jnp.where(valid, values, 0.0).sum()


def hard_copy(every: int, groups: tuple[str, ...]) -> Refresh:
    """Copy parameters to targets whenever the episodes cross a multiple of `every`, once for an iteration at most.

    Crossing, not hitting: what an iteration adds need not divide the interval. The count is common to all seeds, so
    that the `cond` stays a `cond` under the seed axis.

    Args:
      every: interval in episodes.
      groups: parameter groups that have targets.
    """

    def copy(agent: AgentState) -> AgentState:
        return agent._replace(targets={**agent.targets, **{name: agent.params[name] for name in groups}})

    def refresh(agent: AgentState, clock: Clock, previous: Clock) -> AgentState:
        due = clock.episodes // every > previous.episodes // every
        return only_if(due, copy, agent)

    return refresh


def rate_names(numbers: Iterable[str]) -> tuple[str, ...]:
    """The learning rates among the names of an algorithm's traced numbers: `lr`, and those that end in `_lr`."""
    return tuple(name for name in numbers if name == "lr" or name.endswith("_lr"))


def anneal_rates(update: Update, anneal_steps: float) -> Update:
    """An update whose learning rates fall linearly, from what `hyper` says at env step 0 to 0 at `anneal_steps`.

    As in PQN (mttga/purejaxql).

    Args:
      update: as `Algorithm.update`.
      anneal_steps: env steps of a seed, more than 0.
    """

    def falling(
        agent: AgentState, batch: Batch, key: PRNGKey, clock: Clock, hyper: Hyper, **static: Any
    ) -> tuple[AgentState, Metrics]:
        left = jnp.maximum(1.0 - clock.env_steps.astype(jnp.float32) * (1.0 / anneal_steps), 0.0)
        rates = {name: left * getattr(hyper, name) for name in rate_names(hyper._fields)}
        return update(agent, batch, key, clock, hyper._replace(**rates), **static)

    return falling


def make_update(learner: Learner, observe: ObserveFn) -> Update:
    """Build `update(agent, batch, key, clock, hyper, micro_batch=0) -> (agent, metrics)`.

    All gradients are taken at the parameters before the update, then every group takes one optimiser step. The batch is
    processed `micro_batch` rows (of one episode, or packed) at a time, or the largest divisor that it has in common
    with their number; 0 takes it whole. Sums and the number of valid steps are accumulated and divided once, so any
    value gives the same step up to rounding.

    Args:
      learner: forward pass, losses, gradient routing, optimisers.
      observe: rows to trajectories; runs inside a slice, so the batch's observations never exist at once.
    """

    def total(params: dict, targets: dict, rows: PackedRows, context: tuple) -> tuple[Array, Sums]:
        key, clock, hyper = context

        def one(trajectory: Trajectory, keys: Key[Array, "rows"]) -> tuple[Array, dict[str, Array], Array]:
            forward = learner.forward(params, targets, trajectory, keys)
            terms = _loss_terms(learner, forward, trajectory, clock, hyper)
            logged = learner.diagnose(jax.lax.stop_gradient(forward), trajectory, clock, hyper)
            sums = {name: sum_over_valid(value, trajectory.valid) for name, value in {**terms, **logged}.items()}
            return sum((sums[name] for name in terms), jnp.zeros(())), sums, trajectory.valid.sum().astype(jnp.float32)

        loss, terms, count = jax.vmap(one, in_axes=(PER_TRAJECTORY, 1))(observe(rows), row_keys(key, rows))
        return loss.sum(), Sums(
            gradients={}, terms={name: value.sum() for name, value in terms.items()}, count=count.sum()
        )

    def accumulate(agent: AgentState, rows: PackedRows, context: tuple) -> Sums:
        gradients, sums = jax.grad(total, has_aux=True)(agent.params, agent.targets, rows, context)
        return sums._replace(gradients=gradients)

    def update(
        agent: AgentState, batch: Batch, key: PRNGKey, clock: Clock, hyper: Hyper, micro_batch: int = 0
    ) -> tuple[AgentState, Metrics]:
        sums = _over_slices(accumulate, agent, as_rows(batch), (key, clock, hyper), micro_batch)
        return _apply(learner, agent, sums, hyper)

    return update


def optimizer_step(
    optimizer: optax.GradientTransformation, rate: Float[Array, ""], params: Params, opt_state: Any, gradients: Params
) -> tuple[Params, Any]:
    """One step of one parameter group: `params` - `rate` · step, and the optimiser's next state.

    The gradients are taken as they are: whoever sums over steps divides by their number before.
    """
    steps, opt_state = optimizer.update(gradients, opt_state, params)
    return jax.tree.map(lambda leaf, step: leaf - rate * step, params, steps), opt_state


def _loss_terms(learner: Learner, forward: Forward, trajectory: Trajectory, clock: Clock, hyper: Hyper) -> Terms:
    """All groups' loss terms, each computed on a forward record through which only its own group can learn."""
    terms: Terms = {}
    for group, loss in learner.losses.items():
        terms.update(loss(detach_others(forward, learner.owns[group]), trajectory, clock, hyper))
    return terms


def _over_slices(
    accumulate: Callable[..., Sums], agent: AgentState, rows: PackedRows, context: tuple, micro_batch: int
) -> Sums:
    """Sums over the batch, whole or one slice of `micro_batch` rows after another."""
    n_rows = rows.reward.shape[0]
    micro_batch = math.gcd(micro_batch or n_rows, n_rows)  # packed rows are fewer than episodes
    if micro_batch == n_rows:
        return accumulate(agent, rows, context)
    steps, rows = rows.steps, rows._replace(steps=None)
    slices = jax.tree.map(lambda leaf: leaf.reshape(n_rows // micro_batch, micro_batch, *leaf.shape[1:]), rows)

    def of(part: PackedRows) -> Sums:
        return accumulate(agent, part._replace(steps=steps), context)

    def add(sums: Sums, part: PackedRows) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, sums, of(part)), None

    shapes = jax.eval_shape(of, jax.tree.map(lambda leaf: leaf[0], slices))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, slices)[0]


def _apply(learner: Learner, agent: AgentState, sums: Sums, hyper: Hyper) -> tuple[AgentState, Metrics]:
    """Divide by the number of valid steps and take one optimiser step in every group."""
    per_step = 1.0 / jnp.maximum(sums.count, 1.0)
    rates = learner.learning_rates(hyper)
    params, opt_state, metrics = {}, {}, {name: value * per_step for name, value in sums.terms.items()}
    for group, optimizer in learner.optimizers.items():
        gradients = jax.tree.map(lambda leaf: leaf * per_step, sums.gradients[group])
        params[group], opt_state[group] = optimizer_step(
            optimizer, rates[group], agent.params[group], agent.opt_state[group], gradients
        )
        metrics[f"{group}_gradient_norm"] = optax.tree.norm(gradients)
        metrics[f"{group}_parameter_norm"] = optax.tree.norm(params[group])
    return agent._replace(params=params, opt_state=opt_state), metrics
