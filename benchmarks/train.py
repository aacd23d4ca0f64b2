"""How many valid environment steps a second does training do end to end, and where does the time go?"""

import argparse
import io
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from parts import filled, make_parts, start
from timing import Timing, compile_program, configure, make_parser, measure, parse, report, scratch, spread, summarise

from lsf_jax.config.composition import Config
from lsf_jax.programs.compiled import LOG_ROWS, jit_chunk, jit_evaluate
from lsf_jax.programs.parts import Program, bind, evaluation_interval, with_micro_batch
from lsf_jax.runs import experiment
from lsf_jax.runs.progress import Progress
from lsf_jax.types import TrainState

QUESTION = "train.py: the whole loop; env steps are valid ones, of all seeds together"
PYMARL2 = 244.0  # env steps/s of pymarl2's QMIX end to end, 8 envs, batch 32, on a 2-core Xeon at 2.5 GHz
NEVER = 2**31 - 1
SMALL = ("algo.hidden=8", "algo.encoder_hidden=8", "algo.batch_size=8", "env.episode_limit=5", "train.eval_episodes=4")
SMALL_RUN = ("train.buffer_capacity=64", "train.evaluate_every=80")


def piece_seconds(config: Config, program: Program, state: TrainState, repeats: int) -> dict[str, Timing]:
    """Seconds of each piece of an iteration, compiled by itself."""
    parts = make_parts(program)
    agent, clock, hyper, key = state.agent, state.clock, state.hyper, state.key
    episodes = jax.jit(parts.collect)(agent, clock, hyper, key)
    batch = jax.jit(parts.sample)(state.buffer, clock, key)
    evaluate = jit_evaluate(program, config.train.eval_episodes)
    later = clock._replace(episodes=clock.episodes + config.algo.target_interval)

    def timed(function: Callable[..., Any], *arguments: Any) -> Timing:
        compiled = compile_program(function, *arguments)
        return measure(lambda: compiled.call(*arguments), repeats)

    return {
        "collect": timed(parts.collect, agent, clock, hyper, key),
        "store": store_seconds(parts.store, state, episodes, repeats),
        "sample": timed(parts.sample, state.buffer, clock, key),
        "update": timed(parts.update, agent, batch, key, clock, hyper),
        "target copy": timed(parts.refresh, agent, later, clock),
        "evaluate": measure(lambda: evaluate(agent.params, state), repeats),
    }


def store_seconds(store: Callable[..., Any], state: TrainState, episodes: Any, repeats: int) -> Timing:
    """Seconds of a write into replay in place: the ring is donated, as in the chunk."""
    ring = jax.block_until_ready(jax.tree.map(jnp.copy, state.buffer))
    compiled = compile_program(store, ring, state.clock, episodes, donate=(0,))
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        ring = jax.block_until_ready(compiled.call(ring, state.clock, episodes))
        seconds.append(time.perf_counter() - begun)
    return summarise(seconds[1:])


def chunk_rate(config: Config, program: Program, arguments: argparse.Namespace) -> dict[str, Any]:
    """The fused chunk: compilation, prefill, and iterations that learn, timed in the steady state."""
    state, one, budget = start(config, program, config.train.seeds), jnp.int32(1), jnp.int32(NEVER)
    chunk = jit_chunk(program, rows=LOG_ROWS)
    begun = time.perf_counter()
    lowered = chunk.lower(state, one, budget)
    traced = time.perf_counter()
    compiled = lowered.compile()
    built = time.perf_counter()
    prefill = -(-program.buffer.prefill // config.train.n_envs)
    state = jax.block_until_ready(compiled(state, jnp.int32(prefill), budget)[0])
    filled_at = time.perf_counter()
    seconds, rates = [], []
    for _ in range(arguments.repeats):
        before, since = state.clock.env_steps.sum(), time.perf_counter()
        state = jax.block_until_ready(compiled(state, jnp.int32(arguments.iterations), budget)[0])
        seconds.append((time.perf_counter() - since) / arguments.iterations)
        rates.append(int(state.clock.env_steps.sum() - before) / (arguments.iterations * seconds[-1]))
    return {
        "trace": traced - begun,
        "compile": built - traced,
        "prefill": filled_at - built,
        "iteration": summarise(seconds),
        "rate": summarise(rates),
        "updates/s": config.algo.updates * config.train.seeds / summarise(seconds).median,
    }


def one_row(config: Config, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The throughput of one number of seeds, and the shares of its pieces."""
    program = with_micro_batch(bind(config), config.train.micro_batch)
    fused = chunk_rate(config, program, arguments)
    pieces = piece_seconds(config, program, filled(config, program, config.train.seeds), arguments.repeats)
    weights = dict.fromkeys(pieces, 1.0)
    weights |= dict.fromkeys(("sample", "update"), float(config.algo.updates))
    weights["target copy"] = min(1.0, config.train.n_envs / config.algo.target_interval)
    weights["evaluate"] = 1.0 / evaluation_interval(config, program)
    each = {name: weights[name] * timing.median for name, timing in pieces.items()}
    iteration = fused["iteration"].median
    with_evaluation = fused["rate"].median * iteration / (iteration + each["evaluate"])
    seeds = config.train.seeds
    throughput = {
        "seeds": seeds,
        **spread("env steps/s", fused["rate"]),
        "with evaluation": with_evaluation,
        "updates/s": fused["updates/s"],
        "iteration s": iteration,
        "trace s": fused["trace"],
        "compile s": fused["compile"],
        "prefill s": fused["prefill"],
    }
    share = {f"{name} %": 100 * seconds / sum(each.values()) for name, seconds in each.items()}
    learning = sum(each.values()) - each["evaluate"]
    return throughput, {"seeds": seeds, **share, "pieces s": learning, "fused s": iteration}


def whole_run(config: Config, folder: str, env_steps: int) -> dict[str, Any]:
    """A run of `lsf_jax.train` with all that the host does: evaluation, tables, checkpoints, progress."""
    train = replace(config.train, env_steps=env_steps, run_dir=folder, name=f"run-{config.train.seeds}")
    sized = replace(config, train=train)
    quiet = Progress(env_steps * train.seeds, "benchmark", stream=io.StringIO())
    begun = time.perf_counter()
    result = experiment.train(sized, progress=quiet)
    wall = time.perf_counter() - begun
    timing = result.timing
    device = timing["train_seconds"] + timing["evaluate_seconds"]
    working = wall - timing["compile_seconds"]  # the first chunk counts as compilation, in steps too
    return {
        "seeds": train.seeds,
        "env steps/s": timing["env_steps"] / working,
        "wall s": wall,
        "compile, first calls s": timing["compile_seconds"],
        "train %": 100 * timing["train_seconds"] / working,
        "evaluate %": 100 * timing["evaluate_seconds"] / working,
        "save %": 100 * timing["save_seconds"] / working,
        "host %": 100 * (working - device - timing["save_seconds"]) / working,
        "times pymarl2's QMIX": timing["env_steps"] / working / PYMARL2,
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure every number of seeds, then a whole run at the last, and report."""
    small = (*SMALL, *SMALL_RUN) if arguments.quick else ()
    if arguments.quick:
        arguments.iterations, arguments.run_seconds = 2, 1.0
    with scratch() as folder:
        config = configure(arguments, *small, cache=f"{folder}/cache")
        rows, shares = [], []
        for n_seeds in arguments.seeds:
            sized = replace(config, train=replace(config.train, seeds=n_seeds))
            row, share = one_row(sized, arguments)
            rows.append(row)
            shares.append(share)
        tables = {"fused chunk": rows, "pieces, compiled apart": shares}
        wanted = rows[-1]["env steps/s"] * arguments.run_seconds / arguments.seeds[-1]
        steps = 200 if arguments.quick else max(int(wanted), 1)
        tables["whole run, `lsf_jax.train`"] = [whole_run(sized, folder, steps)]
        report(arguments, QUESTION, tables)


if __name__ == "__main__":
    parser = make_parser(__doc__ or "", seeds=(1, 2, 4), repeats=3)
    parser.add_argument("--iterations", type=int, default=3, help="iterations of a timed chunk")
    parser.add_argument("--run-seconds", type=float, default=20.0, help="length of the whole run, compilation apart")
    main(parse(parser))
