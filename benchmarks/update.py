"""How long does one fused update take, how many products does it do, and how close is it to the GEMM rate?

Timed is what training runs: where the run packs, packed rows. Counted are the rows that it computes.
"""

import argparse
from dataclasses import replace
from typing import Any

import jax
from flops import Count, analytic_update_flops, count_flops, product_flops
from parts import Parts, count_learning, filled, make_parts
from timing import compile_program, configure, make_parser, measure, parse, probe, report, spread

from lsf_jax.config.composition import Config
from lsf_jax.programs.parts import Program, bind, with_micro_batch
from lsf_jax.types import TrainState

QUESTION = "update.py: sample from replay, one update, target copy, as one program"
SMALL = ("algo.hidden=8", "algo.encoder_hidden=8", "algo.batch_size=4", "env.episode_limit=5")


def one_row(config: Config, program: Program, parts: Parts, repeats: int) -> tuple[dict[str, Any], Count]:
    """Everything about one number of seeds, and the products of its update."""
    n_seeds = config.train.seeds
    state = filled(config, program, n_seeds)
    count, shape = count_learning(program, state)
    spec, batch = program.env.spec, None
    if shape is not None:  # the table is that of as many episodes as there are rows, each a row long
        spec, batch = spec._replace(episode_limit=shape.places - 1), shape.rows
    try:
        analytic = n_seeds * analytic_update_flops(spec, config.algo, batch)
        declared = n_seeds * analytic_update_flops(spec, config.algo, batch, recompute=True)
    except ValueError:  # no table of layers for this algorithm: ratios to it are not numbers
        analytic = declared = float("nan")
    fused = compile_program(parts.learn, state)
    before = probe(count.products, min(repeats, 3))
    timing = measure(lambda: fused.call(state), repeats)
    alone, valid = _update_alone(state, parts, repeats)
    after = probe(count.products, min(repeats, 3))
    rate = (before.flops_per_second + after.flops_per_second) / 2
    counted = count_flops(count)
    row = {
        "seeds": n_seeds,
        **spread("seconds", timing),
        "seconds per seed": timing.median / n_seeds,
        "without sampling": alone,
        "rows": "as stored" if shape is None else f"{shape.rows} x {shape.places}",
        "valid": valid,
        "trace s": fused.trace_seconds,
        "compile s": fused.compile_seconds,
        "GFLOP counted": counted / 1e9,
        "analytic": analytic / 1e9,
        "counted / analytic": counted / analytic,
        "counted / with remat": counted / declared,
        "GFLOP/s": counted / timing.median / 1e9,
        "GEMM before": before.flops_per_second / 1e9,
        "GEMM after": after.flops_per_second / 1e9,
        "fraction of GEMM": counted / timing.median / rate,
        "useful fraction": analytic / timing.median / rate,
        "large GEMM": after.ceiling / 1e9,
    }
    return row, count


def _update_alone(state: TrainState, parts: Parts, repeats: int) -> tuple[float, float]:
    """Median seconds of the update on a batch drawn beforehand, and the valid share of what it computes."""
    episodes = jax.jit(parts.sample)(state.buffer, state.clock, state.key)
    arguments = (state.agent, episodes, state.key, state.clock, state.hyper)
    update = compile_program(parts.update, *arguments)
    metrics = update.call(*arguments)[1]
    valid = float(metrics["update_valid_fraction"].mean()) if "update_valid_fraction" in metrics else float("nan")
    return measure(lambda: update.call(*arguments), repeats).median, valid


def main(arguments: argparse.Namespace) -> None:
    """Measure every number of seeds and report."""
    config = configure(arguments, *(SMALL if arguments.quick else ()))
    capacity = -(-max(config.algo.batch_size, 64) // config.train.n_envs) * config.train.n_envs
    rows, shapes = [], []
    for n_seeds in arguments.seeds:
        train = replace(config.train, seeds=n_seeds, buffer_capacity=capacity)
        sized = replace(config, train=train)
        program = with_micro_batch(bind(sized), train.micro_batch)
        row, count = one_row(sized, program, make_parts(program), arguments.repeats)
        rows.append(row)
        shapes = [product._asdict() | {"GFLOP": product_flops(product) / 1e9} for product in count.products[:8]]
    report(arguments, QUESTION, {"updates": rows, "dearest products of the last": shapes})


if __name__ == "__main__":
    main(parse(make_parser(__doc__ or "", seeds=(1, 2, 4), repeats=5)))
