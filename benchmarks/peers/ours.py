"""Our program for a comparison, from whichever checkout stands first on PYTHONPATH, with that checkout's benchmarks."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from worker import FEW_AND_MANY, claim_output, compile_cold, marginal, serve, wait

NEVER = 2**31 - 1  # a budget of env steps that no run reaches


def update_program(
    config: Any, program: Any, arguments: argparse.Namespace
) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
    """Updates in a loop, as training runs them: sample from replay, update, target copy."""
    del arguments  # everything is in the configuration
    import jax
    from flops import analytic_update_flops, count_flops, count_products
    from parts import filled, make_parts
    from timing import compile_program

    seeds = config.train.seeds
    state = filled(config, program, seeds)
    learn = make_parts(program).learn

    def several(updates: int, state: Any) -> Any:
        def once(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Any]:
            agent, key = carry
            agent, metrics = learn(state._replace(agent=agent, key=key))
            return (agent, jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, 0)), metrics

        return jax.lax.scan(once, (state.agent, state.key), None, updates)

    few, many = (compile_program(partial(several, updates), state) for updates in FEW_AND_MANY)
    facts = {
        "needed GFLOP": seeds * analytic_update_flops(program.env.spec, config.algo) / 1e9,
        "counted GFLOP": count_flops(count_products(learn, state)) / 1e9,
        "temporary MiB": many.memory.temp_size_in_bytes / 2**20,
        "env steps / episode": float(state.clock.env_steps.sum() / (state.clock.episodes * seeds)),
    }

    def runs(compiled: Any) -> Callable[[], dict[str, Any]]:
        return lambda: wait(compiled.call(state))

    return facts, marginal(runs(few), runs(many), FEW_AND_MANY[1] - FEW_AND_MANY[0])


def train_program(
    config: Any, program: Any, arguments: argparse.Namespace
) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
    """The fused chunk that training runs: iterations of collect, store, sample, update, target copy."""
    import jax
    import jax.numpy as jnp
    from parts import start

    from lsf_jax.programs.compiled import LOG_ROWS, jit_chunk

    seeds, budget = config.train.seeds, jnp.int32(NEVER)
    state = start(config, program, seeds)
    begun = time.process_time()
    lowered = jit_chunk(program, rows=LOG_ROWS).lower(state, jnp.int32(1), budget)
    traced = time.process_time() - begun
    compiled, built = compile_cold(lowered)
    facts = {"trace s": traced, "XLA s": built, "trace + XLA s": built and traced + built}
    facts["temporary MiB"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    if arguments.evaluation and built:
        facts["… with evaluation s"] = traced + built + evaluation_seconds(config, program, state)

    def advance(iterations: int) -> dict[str, Any]:
        nonlocal state
        before = state.clock
        steps, episodes, updates = int(before.env_steps.sum()), int(before.episodes), int(before.updates)
        state = jax.block_until_ready(compiled(state, jnp.int32(iterations), budget)[0])
        steps, episodes = int(state.clock.env_steps.sum()) - steps, int(state.clock.episodes) - episodes
        played = {"env steps": steps, "env steps / episode": steps / (episodes * seeds)}
        return played | {"updates": (int(state.clock.updates) - updates) * seeds}

    played = 0
    while played < arguments.warm_steps * seeds:
        played += advance(arguments.iterations)["env steps"]
    return facts, lambda: advance(arguments.iterations)


def evaluation_seconds(config: Any, program: Any, state: Any) -> float:
    """CPU seconds that tracing and compiling the evaluation takes: its first call without its second."""
    import jax

    from lsf_jax.programs.compiled import jit_evaluate

    evaluate = jit_evaluate(program, config.train.eval_episodes)
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        jax.block_until_ready(evaluate(state.agent.params, state))
        seconds.append(time.process_time() - begun)
    return seconds[0] - seconds[1]


def main() -> None:
    """Build what the command line asks for and serve it."""
    channel = claim_output()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("update", "train"))
    parser.add_argument("--algo", default="qmix")
    parser.add_argument("--env", default="predator_prey")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--iterations", type=int, default=10, help="of one measured chunk")
    parser.add_argument("--warm-steps", type=int, default=10_000, help="env steps of each seed before measuring")
    parser.add_argument("--evaluation", action="store_true", help="also compile the evaluation")
    parser.add_argument("--cache", default="off", help="folder of compiled programs")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()

    import timing

    from lsf_jax.programs.parts import bind, with_micro_batch

    words = [f"train.seeds={arguments.seeds}", *arguments.overrides]
    words += ["train.buffer_capacity=64"] if arguments.what == "update" else []
    sized = ["--algo", arguments.algo, "--env", arguments.env, *words]
    parser = timing.make_parser("", seeds=(1,), repeats=1)
    config = timing.configure(parser.parse_intermixed_args(sized), cache=arguments.cache)
    program = with_micro_batch(bind(config), config.train.micro_batch)
    build = update_program if arguments.what == "update" else train_program
    serve(channel, *build(config, program, arguments))


if __name__ == "__main__":
    main()
