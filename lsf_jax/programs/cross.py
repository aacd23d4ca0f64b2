"""A process that compiles a run's program for a chip that is not there: `targets` starts it and asks it.

It reads one request a line from standard input and answers with one line of JSON. The first request names the chip and
the configuration and is answered with the plan for that chip; each later one names a width and is answered with what
was compiled. A process of its own, because a compiler may end it, because only the environment tells JAX to leave a
real accelerator alone, and because the compilers' warnings are then nobody's.
"""

import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from lsf_jax.config.composition import Config, from_yaml
from lsf_jax.engine.training import make_chunk
from lsf_jax.envs import ENVS
from lsf_jax.platforms import compiling_for
from lsf_jax.programs import planner, runtime
from lsf_jax.programs.chips import CHIPS, Chip, topology_arguments
from lsf_jax.programs.compiled import LOG_ROWS, jit_init
from lsf_jax.programs.cost_model import iteration_seconds
from lsf_jax.programs.hlo import PART, Reading, read_program
from lsf_jax.programs.parts import Program, bind, evaluation_interval, make_rows, take_rows, with_micro_batch
from lsf_jax.settings import ConfigError

WITHOUT_DEVICE = {"cuda": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}, "tpu": {}}
"""Compiler options that a missing device asks for: kernels cannot be timed, and untimed ones of Triton may not compile.
So launches differ by a few per cent from what a real device compiles."""

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Compiled(NamedTuple):
    """A block's training chunk, compiled for a chip. JSON-ready."""

    width: int  # seeds side by side
    seconds: float  # of tracing and compiling
    refused: str  # the compiler's own words, where it finds no room; then nothing below but what is required is known
    required: int  # bytes that a device needs for it, arguments included
    memory: dict[str, int]  # bytes by kind
    parts: dict[str, dict[str, Any]]  # of one iteration: launches, loop passes, bytes, operations, seconds
    collectives: int


def named_parts(program: Program) -> Program:
    """The same program whose instructions remember which part they belong to; what it computes stays the same."""
    scope = lambda name, function: jax.named_scope(PART + name)(function)
    algorithm, buffer = program.algorithm, program.buffer
    return program._replace(
        collect=scope("rollout", program.collect),
        buffer=buffer._replace(add=scope("store", buffer.add), sample=scope("sample", buffer.sample)),
        algorithm=algorithm._replace(
            update=scope("update", algorithm.update), refresh=scope("target_copy", algorithm.refresh)
        ),
    )


def compile_for(chip: Chip, n_devices: int, config: Config, program: Program, width: int) -> Compiled:
    """Compile the chunk of `width` seeds for one device of a chip, and read what came out.

    Every device of a run gets this program and no other (see `compiled.over_devices`).

    Args:
      chip: for which.
      n_devices: how many of them there are to be; the program is compiled for the first.
      config: checked configuration.
      program: its parts, the batch cut as planned.
      width: seeds side by side.
    """
    devices = topologies.get_topology_desc(**topology_arguments(chip, n_devices)).devices
    place = jax.sharding.SingleDeviceSharding(devices[0])
    chunk = make_chunk(program.step, rows=LOG_ROWS, log_every=config.train.log_every)
    rows = take_rows(make_rows(config, program.algorithm), 0, width)
    state = jax.eval_shape(jit_init(program, config.train.seed), rows)
    counter = jax.ShapeDtypeStruct((), jnp.int32)
    jitted = jax.jit(chunk, donate_argnums=0, in_shardings=place, out_shardings=place)
    start = time.monotonic()
    lowered = jitted.trace(state, counter, counter).lower(lowering_platforms=(chip.platform,))
    try:
        compiled = lowered.compile(compiler_options=WITHOUT_DEVICE[chip.platform])
    except jax.errors.JaxRuntimeError as error:
        words = " ".join(str(error).split())
        if not is_of_size(words):
            raise
        return Compiled(width, time.monotonic() - start, words, required_bytes(words), {}, {}, 0)
    seconds = time.monotonic() - start
    reading = read_program(compiled.as_text() or "")
    memory = _memory(compiled.memory_analysis())
    parts = _parts(reading, chip, config.train.matmul_precision)
    return Compiled(width, seconds, "", sum(memory.values()), memory, parts, reading.collectives)


def is_of_size(words: str) -> bool:
    """Whether a compiler refuses a program for the device's memory: fewer seeds would fit then.

    A TPU's memory on the chip (vmem) is the compiler's to share out, and no room there says nothing of seeds.
    """
    return "RESOURCE_EXHAUSTED" in words and "vmem" not in words


def required_bytes(words: str) -> int:
    """Bytes that a compiler says are needed, of the first amount that it names: "required ... (20.00G) exceeds"."""
    found = re.search(r"([\d.]+)([KMGT]?)B?\)? (?:exceeds|of)", words) or re.search(r"([\d.]+)([KMGT])", words)
    return int(float(found.group(1)) * UNITS[found.group(2)]) if found else 0


def _memory(analysis: Any) -> dict[str, int]:
    """Bytes by kind that add up: an output in the place of a donated argument counts as the argument."""
    return {
        "arguments": analysis.argument_size_in_bytes,
        "output": analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        "temporary": analysis.temp_size_in_bytes,
        "code": analysis.generated_code_size_in_bytes,
    }


def _parts(reading: Reading, chip: Chip, precision: str) -> dict[str, dict[str, Any]]:
    names = ("launches", "loop passes", "bytes", "FLOPs")
    counts: dict[str, Counter[str]] = {}
    for kernel in reading.kernels:
        found = (kernel.times, 0, kernel.times * kernel.n_bytes, kernel.times * kernel.flops)
        counts.setdefault(kernel.part, Counter()).update(dict(zip(names, found, strict=True)))
    for loop in reading.loops:
        counts.setdefault(loop.part, Counter()).update({"loop passes": loop.iterations})
    seconds = iteration_seconds(reading, chip, precision)
    return {
        part: {name: count[name] for name in names}
        | ({"fast s": seconds[part].fast, "slow s": seconds[part].slow} if part in seconds else {})
        for part, count in counts.items()
    }


def serve(requests: Iterator[str], answer: Callable[[dict[str, Any]], None]) -> None:
    """Answer requests until there are no more."""
    first = json.loads(next(requests))
    chip, n_devices = CHIPS[first["target"]], first["devices"]
    config = from_yaml(first["config"], "the configuration")
    config = replace(config, train=replace(config.train, cache_dir=runtime.OFF))  # nothing compiled here can be kept
    runtime.configure(config.train, 1)
    with compiling_for(chip.backend):
        if ENVS[config.env_name].hosted is not None:
            raise ConfigError(
                f"--target is {chip.name}; expected an environment on the device: the games of {config.env_name} are "
                f"played on the host; leave --target away"
            )
        program = bind(config)
        plan = planner.make_plan(config, program, planner.Hardware(chip.backend, n_devices, chip.limit))
        sizes = {"n_envs": config.train.n_envs, "episode_limit": program.env.spec.episode_limit}
        sizes |= {"evaluation_interval": evaluation_interval(config, program), "env_steps": config.train.env_steps}
        answer({"plan": plan._asdict(), **sizes})
        jax.devices()  # finds the plug-ins
        program = with_micro_batch(named_parts(program), planner.slice_of(plan))
        for line in requests:
            answer(compile_for(chip, n_devices, config, program, json.loads(line)["width"])._asdict())


def _end_with(parent: int) -> None:
    """End this process soon after the one that asked it has gone: a compilation looks at nothing for minutes."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> int:
    """Serve standard input; what libraries print goes to standard error."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        out.write(json.dumps(content) + "\n")
        out.flush()

    try:
        serve(iter(sys.stdin), answer)
    except (ConfigError, jax.errors.JaxRuntimeError, NotImplementedError, RuntimeError) as error:
        answer({"wrong": isinstance(error, ConfigError), "error": " ".join(str(error).split())})
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
