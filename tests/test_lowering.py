"""The training chunk of accelerators at its real size lowers for CPUs, GPUs and TPUs; no such device is needed."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from lsf_jax.config.composition import compose
from lsf_jax.engine.training import make_chunk
from lsf_jax.platforms import compiling_for
from lsf_jax.programs.compiled import LOG_ROWS, jit_init
from lsf_jax.programs.parts import bind, make_rows
from lsf_jax.types import TrainState

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.fixture(scope="module")
def exported() -> Any:
    """The default run, two seeds side by side; typed keys cannot cross the border of an exported program."""
    with compiling_for("gpu"):
        return exported_chunk()


def exported_chunk() -> Any:
    config = compose(overrides=["seeds=2"])
    program = bind(config)
    chunk = make_chunk(program.step, rows=LOG_ROWS)

    def plain(state: TrainState, n: jax.Array, budget: jax.Array) -> Any:
        state, log = chunk(state._replace(key=jax.random.wrap_key_data(state.key)), n, budget)
        return state._replace(key=jax.random.key_data(state.key)), log

    init = jit_init(program, 0)
    rows = make_rows(config, program.algorithm)
    shapes = jax.eval_shape(lambda: (state := init(rows))._replace(key=jax.random.key_data(state.key)))
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    return jax.export.export(jax.jit(plain, donate_argnums=0), platforms=PLATFORMS)(shapes, counter, counter)


def test_the_chunk_lowers_for_every_platform(exported):
    assert exported.platforms == PLATFORMS
    assert "stablehlo.while" in exported.mlir_module()


def test_the_lowered_chunk_calls_nothing_outside_and_keeps_the_state_in_its_place(exported):
    module = exported.mlir_module()
    calls = {line.split("@")[1].split("(")[0] for line in module.splitlines() if "stablehlo.custom_call" in line}
    assert not [name for name in calls if "callback" in name]
    assert len(exported.in_avals) == len(jax.tree.leaves(exported.in_tree.unflatten(exported.in_avals)))
    assert "jax.buffer_donor" in module or "tf.aliasing_output" in module
