"""What does one update of each algorithm cost, relative to QMIX's, on the same data in one run?"""

import argparse
from dataclasses import fields, replace
from typing import Any

from flops import count_flops
from parts import count_learning, filled, make_parts
from timing import compile_program, configure, make_parser, measure, parse, report, spread

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import Config, compose
from lsf_jax.programs.parts import bind
from lsf_jax.programs.planner import tree_bytes

QUESTION = "algorithms.py: sample, one update, target copy of every algorithm, beside QMIX's"
BASE = "qmix"
SMALL = ("algo.hidden=8", "algo.batch_size=8", "env.episode_limit=5")


def sized(algo: str, config: Config) -> Config:
    """The benchmark's environment, batch and sizes with another algorithm."""
    words = [f"env.{key}={value}" for key, value in vars(config.env).items() if isinstance(value, int | float)]
    config_class = ALGORITHMS[algo].config
    known = {field.name for field in fields(config_class)}
    batches = {"batch_size": config.algo.batch_size, "on_batch": config.algo.batch_size // 2}
    batches |= {"off_batch": config.algo.batch_size // 2, "hidden": config.algo.hidden}
    words += [f"algo.{key}={value}" for key, value in batches.items() if key in known]
    return replace(compose(algo=algo, env=config.env_name, overrides=words), train=config.train)


def one_row(config: Config, repeats: int) -> dict[str, Any]:
    """Time, operations and parameters of one algorithm's update."""
    program = bind(config)
    parts = make_parts(program)
    state = filled(config, program, config.train.seeds)
    fused = compile_program(parts.learn, state)
    timing = measure(lambda: fused.call(state), repeats)
    return {
        "algorithm": config.algo_name,
        **spread("seconds", timing),
        "GFLOP": count_flops(count_learning(program, state)[0]) / 1e9,
        "parameters": tree_bytes(state.agent.params) // 4 // config.train.seeds,
        "compile s": fused.compile_seconds,
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure every algorithm, QMIX first and last, and report ratios to it."""
    arguments.algo = arguments.algo or BASE
    config = configure(arguments, *(SMALL if arguments.quick else ()))
    capacity = -(-max(config.algo.batch_size, 64) // config.train.n_envs) * config.train.n_envs
    config = replace(config, train=replace(config.train, seeds=arguments.seeds[0], buffer_capacity=capacity))
    names = [BASE, *(name for name in ALGORITHMS if name != BASE), BASE]
    rows = [one_row(sized(name, config), arguments.repeats) for name in (names[:2] if arguments.quick else names)]
    seconds = sum(row["seconds"] for row in rows if row["algorithm"] == BASE) / sum(
        row["algorithm"] == BASE for row in rows
    )
    for row in rows:
        row |= {"of QMIX's time": row["seconds"] / seconds, "of QMIX's GFLOP": row["GFLOP"] / rows[0]["GFLOP"]}
    report(arguments, QUESTION, {"one update": rows})


if __name__ == "__main__":
    main(parse(make_parser(__doc__ or "", seeds=(1,), repeats=5)))
