"""What is timed is the program that runs use: compiled with the same options."""

import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lsf_jax.programs import compiled, runtime
from tests.support.engine_cases import program_of, small

OPTIONS = {"xla_embed_ir_in_executable": True}


@pytest.fixture
def timing(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("timing")


def test_benchmarks_and_training_compile_with_the_same_options(timing, monkeypatch):
    asked = []
    jit = jax.jit

    def noted(function, **settings):
        if not settings.get("inline"):  # traced into another program, with that one's options
            asked.append(settings)
        return jit(function, **settings)

    monkeypatch.setattr(runtime, "compiler_options", lambda: OPTIONS)
    monkeypatch.setattr(jax, "jit", noted)
    program = program_of(small("algo.recurrent=false", env="matrix_game"))
    compiled.jit_chunk(program, rows=4)
    compiled.jit_evaluate(program, 2)
    timing.compile_program(lambda x, y: x + y, jnp.ones(3), jnp.ones(3), donate=(0,))
    chunk, evaluation, timed = asked
    assert chunk == timed == {"donate_argnums": (0,), "compiler_options": OPTIONS}
    assert evaluation["compiler_options"] == OPTIONS


def test_the_probed_products_are_compiled_with_these_options_too(timing, monkeypatch):
    monkeypatch.setattr(runtime, "compiler_options", lambda: {"xla_no_such_option": "1"})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        timing.probe([timing.Product(batch=1, m=2, n=2, k=2, times=1)], 1)
