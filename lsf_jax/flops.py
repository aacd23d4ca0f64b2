"""Floating-point operations of matrix products: counted in a traced program, and predicted from the layers' sizes.

XLA's own cost analysis counts a loop's body once, so products are counted here in the jaxpr, with loop lengths
multiplied in. What nothing reads is left out, as XLA leaves it out. The prediction is a table with one line for each
layer, to be checked by eye; together they tell whether an update computes anything twice.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
from jax.extend import core as jax_core
from jax.interpreters import partial_eval

from lsf_jax.algorithms.lsf_sac_config import LsfSacConfig
from lsf_jax.types import EnvSpec

TRAINED = 3  # passes of a trained layer: forward, gradient of the weights, gradient of the input
FIRST = 2  # the input needs no gradient
TARGET = 1  # forward only


class Product(NamedTuple):
    """One matrix product of a program, `[batch, m, k] × [batch, k, n]`, and how often it runs."""

    batch: int
    m: int
    n: int
    k: int
    times: int


class Count(NamedTuple):
    """The matrix products of a program."""

    products: tuple[Product, ...]  # one entry for each shape, most expensive first
    unknown_loops: int  # loops whose length is not known before they run; their bodies are counted once


class Layer(NamedTuple):
    """One affine layer of an update: what it costs by the analytic count."""

    name: str
    rows: int  # rows of input that it reads in one update
    inputs: int
    outputs: int
    passes: int  # products of this size: TRAINED, FIRST or TARGET, and one more where the forward pass is repeated


def product_flops(product: Product) -> int:
    """Operations of all runs of a product: 2 · batch · m · n · k each, additions and multiplications apart."""
    return 2 * product.batch * product.m * product.n * product.k * product.times


def count_flops(count: Count) -> int:
    """Operations of all products of a program."""
    return sum(product_flops(product) for product in count.products)


def layer_flops(layer: Layer) -> int:
    """Operations of one layer in one update: 2 · inputs · outputs for each row and pass."""
    return 2 * layer.rows * layer.inputs * layer.outputs * layer.passes


def count_products(function: Callable[..., Any], *arguments: Any) -> Count:
    """Trace a function and count its `dot_general`s, those that no output depends on left out.

    Bodies of scans are multiplied by their length, a `cond` counts as its most expensive branch, a `while` of unknown
    length as one pass of its body. Sizes are global: under a seed axis they cover all seeds.

    Args:
      function: anything that `jax.make_jaxpr` can trace.
      *arguments: arrays or `jax.ShapeDtypeStruct`s; nothing is computed.
    """
    closed = jax.make_jaxpr(function)(*arguments)
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    times, unknown = _walk(live)
    products = [Product(*shape, times=runs) for shape, runs in times.items()]
    return Count(products=tuple(sorted(products, key=product_flops, reverse=True)), unknown_loops=unknown)


def _walk(jaxpr: jax_core.Jaxpr) -> tuple[Counter[tuple[int, int, int, int]], int]:
    """How often each shape of product runs, and the number of loops of unknown length."""
    times: Counter[tuple[int, int, int, int]] = Counter()
    unknown = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            times[_dot_shape(equation)] += 1
            continue
        inner, inner_unknown = _combine(equation, [_walk(sub) for sub in _inner(equation)])
        length = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        times.update({shape: runs * length for shape, runs in inner.items()})
        unknown += inner_unknown + (equation.primitive.name == "while")
    return times, unknown


def _combine(equation: Any, parts: list[tuple[Counter, int]]) -> tuple[Counter, int]:
    """The dearest branch of a `cond`, the sum of everything for other primitives."""
    if equation.primitive.name == "cond":
        return max(parts, key=lambda part: _cost(part[0]))
    total: Counter = Counter()
    for times, _ in parts:
        total.update(times)
    return total, sum(unknown for _, unknown in parts)


def _cost(times: Counter) -> int:
    return sum(product_flops(Product(*shape, times=runs)) for shape, runs in times.items())


def _inner(equation: Any) -> Iterable[jax_core.Jaxpr]:
    is_program = lambda value: isinstance(value, jax_core.ClosedJaxpr | jax_core.Jaxpr)
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_program):
        if isinstance(value, jax_core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jax_core.Jaxpr):
            yield value


def _dot_shape(equation: Any) -> tuple[int, int, int, int]:
    (contract, _), (batched, _) = equation.params["dimension_numbers"]
    left, right = (var.aval.shape for var in equation.invars)
    batch = math.prod(left[axis] for axis in batched)
    k = math.prod(left[axis] for axis in contract)
    m = math.prod(left) // max(batch * k, 1)
    n = math.prod(right) // max(batch * k, 1)
    return batch, m, n, k


def lsf_sac_layers(
    spec: EnvSpec, cfg: LsfSacConfig, batch: int | None = None, *, recompute: bool = False
) -> tuple[Layer, ...]:
    """Every affine layer that one LSF-SAC update runs, with the passes it needs if nothing is computed twice.

    Actor, critic, encoder and decoder read all T+1 rows of each agent, the mixers' hypernetworks T states. The target's
    decoder is not needed. Mixing is elementwise and has no product.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      batch: episodes; None takes the config's.
      recompute: count the declared recomputation of `algo.remat` too: the recurrences' forward products of their input
        once more in the backward pass.
    """
    batch = cfg.batch_size if batch is None else batch
    rows = batch * (spec.episode_limit + 1) * spec.n_agents
    again = int(recompute and cfg.remat)
    steps = batch * spec.episode_limit
    return (
        *_agent_layers("actor", rows, _own_inputs(spec), spec, cfg, again),
        *_encoder_layers("encoder", rows, spec, cfg, again, trained=True),
        *_critic_layers("critic", rows, spec, cfg, again),
        *_decoder_layers(rows, spec, cfg),
        *_mixer_layers("mixer", steps, spec, cfg, TRAINED),
        *_encoder_layers("target encoder", rows, spec, cfg, 0, trained=False),
        *_forward_only(_critic_layers("target critic", rows, spec, cfg, 0)),
        *_forward_only(_mixer_layers("target mixer", steps, spec, cfg, TRAINED)),
    )


def analytic_update_flops(
    spec: EnvSpec, cfg: LsfSacConfig, batch: int | None = None, *, recompute: bool = False
) -> int:
    """Operations that one LSF-SAC update needs by the table of `lsf_sac_layers`."""
    return sum(layer_flops(layer) for layer in lsf_sac_layers(spec, cfg, batch, recompute=recompute))


def _own_inputs(spec: EnvSpec) -> int:
    """Size of what an agent reads: observation, last action, id."""
    return spec.obs_dim + spec.n_actions + spec.n_agents


def _message_rows(rows: int, spec: EnvSpec, cfg: LsfSacConfig) -> int:
    """Rows of received messages: one for each agent, or one for all where everyone receives the same."""
    return rows // spec.n_agents if cfg.message_routing == "broadcast" else rows


def _forward_only(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return tuple(layer._replace(passes=TARGET) for layer in layers)


def _agent_layers(name: str, rows: int, inputs: int, spec: EnvSpec, cfg: LsfSacConfig, again: int) -> tuple[Layer, ...]:
    """An agent network whose input needs no gradient."""
    first = Layer(f"{name}: input layer", rows, inputs, cfg.hidden, FIRST)
    return (first, *_trunk(name, rows, cfg.hidden, spec.n_actions, cfg.recurrent, again))


def _trunk(name: str, rows: int, hidden: int, outputs: int, recurrent: bool, again: int) -> tuple[Layer, ...]:
    """What follows the first layer of an agent network."""
    last = Layer(f"{name}: output layer", rows, hidden, outputs, TRAINED)
    if not recurrent:
        return Layer(f"{name}: hidden layer", rows, hidden, hidden, TRAINED), last
    return (
        Layer(f"{name}: GRU, from the input", rows, hidden, 3 * hidden, TRAINED + again),
        Layer(f"{name}: GRU, from the hidden state", rows, hidden, 3 * hidden, TRAINED),
        last,
    )


def _critic_layers(name: str, rows: int, spec: EnvSpec, cfg: LsfSacConfig, again: int) -> tuple[Layer, ...]:
    """The critic: its own input needs no gradient, the messages carry one to the encoder."""
    received = spec.n_agents * cfg.message_dim
    passes = TRAINED if cfg.td_gradient_to_encoder else FIRST
    messages = Layer(f"{name}: input layer, messages", _message_rows(rows, spec, cfg), received, cfg.hidden, passes)
    first, *rest = _agent_layers(name, rows, _own_inputs(spec), spec, cfg, again)
    return (first, messages, *rest)


def _encoder_layers(
    name: str, rows: int, spec: EnvSpec, cfg: LsfSacConfig, again: int, *, trained: bool
) -> tuple[Layer, ...]:
    hidden = cfg.encoder_hidden
    sent = cfg.message_dim * (spec.n_agents if cfg.message_routing == "per_receiver" else 1)
    first = Layer(f"{name}: layer 1", rows, _own_inputs(spec), hidden, FIRST)
    rest = _trunk(name, rows, hidden, sent, cfg.encoder_input == "history", again)
    return (first, *rest) if trained else _forward_only((first, *rest))


def _decoder_layers(rows: int, spec: EnvSpec, cfg: LsfSacConfig) -> tuple[Layer, ...]:
    received = spec.n_agents * cfg.message_dim
    hidden = cfg.decoder_hidden or 4 * received
    return (
        Layer("decoder: layer 1, own input", rows, _own_inputs(spec), hidden, FIRST),
        Layer("decoder: layer 1, messages", _message_rows(rows, spec, cfg), received, hidden, TRAINED),
        Layer("decoder: layer 2", rows, hidden, hidden, TRAINED),
        Layer("decoder: layer 3", rows, hidden, spec.n_actions, TRAINED),
    )


def _mixer_layers(name: str, rows: int, spec: EnvSpec, cfg: LsfSacConfig, passes: int) -> tuple[Layer, ...]:
    state, embed, width = spec.state_dim, cfg.mixer_embed, cfg.hyper_hidden
    layers = [
        Layer(f"{name}: bias 1", rows, state, embed, FIRST),
        Layer(f"{name}: bias 2, layer 1", rows, state, embed, FIRST),
        Layer(f"{name}: bias 2, layer 2", rows, embed, 1, passes),
    ]
    for kernel, outputs in (("kernel 1", spec.n_agents * embed), ("kernel 2", embed)):
        if width:
            layers.append(Layer(f"{name}: {kernel}, layer 1", rows, state, width, FIRST))
            layers.append(Layer(f"{name}: {kernel}, layer 2", rows, width, outputs, passes))
        else:
            layers.append(Layer(f"{name}: {kernel}", rows, state, outputs, FIRST))
    return tuple(layers)
