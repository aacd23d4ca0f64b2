"""What does a seed cost in memory, does the planner know it, and does memory stay flat over many chunks?"""

import argparse
import gc
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import psutil
from timing import configure, make_parser, parse, report

from lsf_jax.config.composition import Config
from lsf_jax.programs.compiled import jit_chunk, jit_init
from lsf_jax.programs.parts import bind, make_rows, take_rows, with_micro_batch
from lsf_jax.programs.planner import GIB, row_bytes
from lsf_jax.types import TrainState

QUESTION = "memory.py: bytes of a seed, the planner against the compiled program, memory over many chunks"
SMALL = ("algo.hidden=8", "algo.encoder_hidden=8", "algo.batch_size=8", "env.episode_limit=5")
FLAT = (  # a program so small that a thousand chunks take seconds
    "algo.recurrent=false",
    "algo.hidden=8",
    "algo.encoder_hidden=8",
    "algo.decoder_hidden=8",
    "algo.mixer_embed=8",
    "algo.hyper_hidden=0",
    "algo.batch_size=8",
    "train.buffer_capacity=64",
)
CASES = ((1, 32, 0, True), (1, 32, 0, False), (1, 32, 8, True), (4, 32, 0, True))  # seeds, batch, micro-batch, remat
MIB = 2**20


def components(config: Config) -> list[dict[str, Any]]:
    """Bytes of one seed by component, by the planner."""
    needs = row_bytes(bind(config), config.train.micro_batch)
    steps = config.train.buffer_capacity * bind(config).env.spec.episode_limit
    rows = [
        {"component": name, "MiB per seed": size / MIB, "share %": 100 * size / sum(needs.values())}
        for name, size in needs.items()
    ]
    rows.append({"component": "all", "MiB per seed": sum(needs.values()) / MIB, "share %": 100.0})
    rows.append({"component": "seeds per GiB", "MiB per seed": GIB / sum(needs.values()), "share %": None})
    rows.append({"component": "replay, bytes per env step", "MiB per seed": needs["replay"] / steps, "share %": None})
    return rows


def against_program(config: Config) -> dict[str, Any]:
    """The planner's estimate of a block beside what its compiled chunk asks for."""
    seeds, micro = config.train.seeds, config.train.micro_batch
    program = with_micro_batch(bind(config), micro)
    needs = row_bytes(program, micro)
    state = jax.eval_shape(jit_init(program, 0), take_rows(make_rows(config, program.algorithm), 0, seeds))
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    lowered = jit_chunk(program, rows=1).lower(state, counter, counter)
    # Buffers are assigned before machine code is made: its quality does not matter here.
    fast = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    used = lowered.compile(compiler_options=fast).memory_analysis()
    working = needs["activations"] + needs["fresh episodes"]
    held = sum(needs.values()) - working
    return {
        "seeds": seeds,
        "batch": config.algo.batch_size,
        "micro-batch": micro or config.algo.batch_size,
        "remat": str(config.algo.remat),
        "state MiB": used.argument_size_in_bytes / MIB,
        "planned": seeds * held / MIB,
        "temporary MiB": used.temp_size_in_bytes / MIB,
        "planned ": seeds * working / MIB,
        "planned / real": seeds * working / used.temp_size_in_bytes,
        "aliased MiB": used.alias_size_in_bytes / MIB,
        "donated %": 100 * used.alias_size_in_bytes / used.argument_size_in_bytes,
    }


def live_bytes() -> int:
    """Bytes of all arrays that JAX holds."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays() if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key))


def over_chunks(config: Config, n_chunks: int) -> list[dict[str, Any]]:
    """Live arrays and the process's resident memory while the same chunk runs again and again."""
    program = bind(config)
    state: TrainState = jit_init(program, 0)(take_rows(make_rows(config, program.algorithm), 0, config.train.seeds))
    chunk, one, budget = jit_chunk(program, rows=1), jnp.int32(1), jnp.int32(2**31 - 1)
    rows = []
    for done in range(n_chunks + 1):
        if done % max(1, n_chunks // 5) == 0:
            jax.block_until_ready(state)
            rows.append(
                {
                    "chunks": done,
                    "live arrays": len(jax.live_arrays()),
                    "live bytes": live_bytes(),
                    "resident MiB": psutil.Process().memory_info().rss / MIB,
                }
            )
        state, log = chunk(state, one, budget)
        del log
    return rows


def main(arguments: argparse.Namespace) -> None:
    """Measure all three and report."""
    config = configure(arguments, *(SMALL if arguments.quick else ()))
    cases = ((1, 8, 4, True),) if arguments.quick else CASES
    tables = {"one seed, by component": components(config), "planner against the compiled chunk": []}
    for seeds, batch, micro, remat in cases:
        train = replace(config.train, seeds=seeds, micro_batch=micro)
        algo = replace(config.algo, batch_size=arguments.batch or batch, remat=remat)
        tables["planner against the compiled chunk"].append(against_program(replace(config, train=train, algo=algo)))
    n_chunks = 20 if arguments.quick else arguments.chunks
    arguments.env, arguments.overrides, arguments.batch = "matrix_game", [], None
    tiny = configure(arguments, *FLAT, f"seeds={arguments.seeds[0]}")
    tables[f"the same small chunk, {n_chunks} times"] = over_chunks(tiny, n_chunks)
    report(arguments, QUESTION, tables)


if __name__ == "__main__":
    parser = make_parser(__doc__ or "", seeds=(4,), repeats=1)
    parser.add_argument("--chunks", type=int, default=1000, help="chunks of the flatness check")
    main(parse(parser))
