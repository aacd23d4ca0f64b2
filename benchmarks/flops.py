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

from lsf_jax.algorithms.configs import MixedValueConfig, ValueConfig
from lsf_jax.algorithms.lsf_sac.config import LsfSacConfig, SoftConfig
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


def update_layers(
    spec: EnvSpec, cfg: ValueConfig, batch: int | None = None, *, recompute: bool = False
) -> tuple[Layer, ...]:
    """Every affine layer that one update runs, with the passes it needs if nothing is computed twice.

    LSF-SAC and its ablations, QMIX, VDN and IQL have a table: agents and critics read all T+1 rows of each agent, the
    mixers' hypernetworks T states. Mixing is elementwise and has no product.

    Args:
      spec: sizes of the environment.
      cfg: settings.
      batch: episodes; None takes the config's.
      recompute: count the declared recomputation too, one forward pass of what a layer's gradient needs: of every
        trained recurrence by `algo.remat`, and of the trained networks without memory that go through time in parts
        (`each_row`: mixers, the encoder of current inputs, the decoder). Last layers, whose outputs no gradient needs,
        are not computed again. On accelerators parts of equal length may hold a few rows more than there are.

    Raises:
      ValueError: for the settings of an algorithm without a table.
    """
    batch = cfg.batch_size if batch is None else batch
    work = _Work(
        spec=spec,
        rows=batch * (spec.episode_limit + 1) * spec.n_agents,
        steps=batch * spec.episode_limit,
        ids=(spec.episode_limit + 1) * spec.n_agents,
        again=int(recompute and cfg.remat),
        again_by_row=int(recompute),
    )
    if isinstance(cfg, SoftConfig):
        return _soft_layers(work, cfg)
    if type(cfg) in (MixedValueConfig, ValueConfig):
        return _value_layers(work, cfg)
    raise ValueError(f"there is no table of layers for {type(cfg).__name__}; count with count_products instead.")


def analytic_update_flops(spec: EnvSpec, cfg: ValueConfig, batch: int | None = None, *, recompute: bool = False) -> int:
    """Operations that one update needs by the table of `update_layers`, which says what the arguments are."""
    return sum(layer_flops(layer) for layer in update_layers(spec, cfg, batch, recompute=recompute))


class _Work(NamedTuple):
    """What every layer of one update is counted from."""

    spec: EnvSpec
    rows: int  # of all agents
    steps: int
    ids: int  # rows of the agents' ids, which all trajectories share
    again: int  # forward passes of a trained recurrence that the backward pass repeats
    again_by_row: int  # and of a trained network without memory (`each_row`)


def _value_layers(work: _Work, cfg: ValueConfig) -> tuple[Layer, ...]:
    """QMIX, or VDN and IQL, whose mixer has no layers."""
    agent = _agent_layers("agent", work, cfg)
    mixer = _mixer_layers("mixer", work, cfg, work.again_by_row) if isinstance(cfg, MixedValueConfig) else ()
    return (*agent, *mixer, *_of_target((*agent, *mixer)))


def _soft_layers(work: _Work, cfg: SoftConfig) -> tuple[Layer, ...]:
    """LSF-SAC: actor, critics, their targets, and with messages encoder and decoder; the target's decoder is idle."""
    actor, critic = _agent_layers("actor", work, cfg), _agent_layers("critic", work, cfg)
    encoder: tuple[Layer, ...] = ()
    decoder: tuple[Layer, ...] = ()
    if isinstance(cfg, LsfSacConfig):
        encoder, decoder = _encoder_layers(work, cfg), _decoder_layers(work, cfg)
        again = work.again * cfg.recurrent
        passes = again + (TRAINED if cfg.td_gradient_to_encoder else FIRST)
        critic = (*critic, _informed("critic", work, cfg, cfg.hidden, passes))
        actor = (*actor, _informed("actor", work, cfg, cfg.hidden, FIRST + again)) if cfg.communicate else actor
    valued = (*critic, *_mixer_layers("mixer", work, cfg, 0))
    if cfg.twin:
        valued = tuple(layer._replace(name=f"twin {layer.name}", rows=2 * layer.rows) for layer in valued)
    return (*actor, *encoder, *decoder, *valued, *_of_target((*encoder, *valued)))


def _of_target(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    return tuple(layer._replace(name=f"target {layer.name}", passes=TARGET) for layer in layers)


def _agent_layers(name: str, work: _Work, cfg: ValueConfig) -> tuple[Layer, ...]:
    """An agent network, as far as it reads its own inputs, which need no gradient."""
    again = work.again * cfg.recurrent
    return (
        *_first_layers(name, work, cfg.hidden, again),
        *_trunk(name, work, cfg.hidden, work.spec.n_actions, cfg.recurrent, again),
    )


def _first_layers(name: str, work: _Work, hidden: int, again: int) -> tuple[Layer, ...]:
    """A first layer, as far as it reads an agent's own inputs: observation and last action, and its id."""
    spec = work.spec
    return (
        Layer(f"{name}: input layer", work.rows, spec.obs_dim + spec.n_actions, hidden, FIRST + again),
        Layer(f"{name}: input layer, agent id", work.ids, spec.n_agents, hidden, FIRST + again),
    )


def _trunk(name: str, work: _Work, hidden: int, outputs: int, recurrent: bool, again: int) -> tuple[Layer, ...]:
    """What follows the first layer of an agent network, of which `again` forward passes are repeated."""
    passes = TRAINED + again
    last = Layer(f"{name}: output layer", work.rows, hidden, outputs, TRAINED)
    if not recurrent:
        return Layer(f"{name}: hidden layer", work.rows, hidden, hidden, passes), last
    return (
        Layer(f"{name}: GRU, from the input", work.rows, hidden, 3 * hidden, passes),
        Layer(f"{name}: GRU, from the hidden state", work.rows, hidden, 3 * hidden, passes),
        last,
    )


def _informed(name: str, work: _Work, cfg: LsfSacConfig, outputs: int, passes: int) -> Layer:
    """The part of a first layer that reads messages: a row for each agent, or one where everyone receives the same."""
    rows = work.rows // work.spec.n_agents if cfg.message_routing == "broadcast" else work.rows
    return Layer(f"{name}: input layer, messages", rows, work.spec.n_agents * cfg.message_dim, outputs, passes)


def _encoder_layers(work: _Work, cfg: LsfSacConfig) -> tuple[Layer, ...]:
    sent = cfg.message_dim * (work.spec.n_agents if cfg.message_routing == "per_receiver" else 1)
    remembers = cfg.encoder_input == "history"
    again = work.again if remembers else work.again_by_row
    return (
        *_first_layers("encoder", work, cfg.encoder_hidden, again),
        *_trunk("encoder", work, cfg.encoder_hidden, sent, remembers, again),
    )


def _decoder_layers(work: _Work, cfg: LsfSacConfig) -> tuple[Layer, ...]:
    hidden = cfg.decoder_hidden or 4 * work.spec.n_agents * cfg.message_dim
    return (
        *_first_layers("decoder", work, hidden, work.again_by_row),
        _informed("decoder", work, cfg, hidden, TRAINED + work.again_by_row),
        Layer("decoder: hidden layer", work.rows, hidden, hidden, TRAINED + work.again_by_row),
        Layer("decoder: output layer", work.rows, hidden, work.spec.n_actions, TRAINED),
    )


def _mixer_layers(name: str, work: _Work, cfg: MixedValueConfig, mixes: int) -> tuple[Layer, ...]:
    """The hypernetworks; `mixes` is 1 where mixing itself goes row after row with them and is computed again.

    Without it no gradient needs the first bias again; kernels are absolute values, whose signs all gradients need.
    """
    rows, state, embed, width = work.steps, work.spec.state_dim, cfg.mixer_embed, cfg.hyper_hidden
    again = work.again_by_row
    layers = [
        Layer(f"{name}: bias 1", rows, state, embed, FIRST + mixes),
        Layer(f"{name}: bias 2, layer 1", rows, state, embed, FIRST + again),
        Layer(f"{name}: bias 2, layer 2", rows, embed, 1, TRAINED),
    ]
    for kernel, outputs in (("kernel 1", work.spec.n_agents * embed), ("kernel 2", embed)):
        if width:
            layers.append(Layer(f"{name}: {kernel}, layer 1", rows, state, width, FIRST + again))
            layers.append(Layer(f"{name}: {kernel}, layer 2", rows, width, outputs, TRAINED + again))
        else:
            layers.append(Layer(f"{name}: {kernel}", rows, state, outputs, FIRST + again))
    return tuple(layers)
