"""How many environment steps a second, with observations, state and masks computed, at 1 to 4,096 copies?"""

import argparse
import importlib.util
import time
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from timing import compile_program, configure, make_parser, measure, parse, report, spread, summarise

from lsf_jax.config.composition import make_env
from lsf_jax.types import Env, Observation

QUESTION = "env.py: steps of uniformly random actions; obs, state, masks and reward reduced into a checksum"
ORIGINAL = 190.0  # env steps per CPU second of the NumPy original of predator-prey, on a 2-core Xeon at 2.5 GHz
COPIES = (1, 4, 16, 64, 256, 1024, 4096)
TARGET_STEPS = 65_536  # of all copies in one run; at least one episode of each
REFERENCE = Path(__file__).resolve().parents[1] / "tests" / "support" / "reference_predator_prey.py"


def checksum(observation: Observation, weight: dict[str, jax.Array]) -> jax.Array:
    """One number that depends on every entry of an observation; the weights keep XLA from simplifying the sums."""
    parts = observation._asdict()
    return sum(((parts[name].astype(jnp.float32) * weight[name]).sum() for name in parts), jnp.zeros(()))


def episode(key: jax.Array, weight: dict[str, jax.Array], *, env: Env) -> tuple[jax.Array, jax.Array]:
    """One episode of random actions: its checksum and its number of valid steps."""
    spec = env.spec
    key_reset, key_act, key_steps = jax.random.split(key, 3)
    actions = jax.random.randint(key_act, (spec.episode_limit, spec.n_agents), 0, spec.n_actions)
    state, observation = env.reset(key_reset)

    def step(loop: tuple, row: tuple) -> tuple[tuple, None]:
        state, total, running, steps = loop
        state, timestep = env.step(row[0], state, row[1])
        seen = checksum(timestep.observation, weight) + timestep.reward
        total = total + jnp.where(running, seen, 0.0)
        return (state, total, running & ~timestep.done, steps + running.astype(jnp.int32)), None

    first = (state, checksum(observation, weight), jnp.bool_(True), jnp.int32(0))
    keys = jax.random.split(key_steps, spec.episode_limit)
    _, total, _, steps = jax.lax.scan(step, first, (keys, actions))[0]
    return total, steps


def play(key: jax.Array, weight: dict[str, jax.Array], *, env: Env, copies: int, rounds: int) -> tuple:
    """`rounds` episodes of each copy, one after another: the checksum and the valid steps of all."""

    def one(carry: tuple, key_round: jax.Array) -> tuple[tuple, None]:
        totals, steps = jax.vmap(partial(episode, env=env), in_axes=(0, None))(
            jax.random.split(key_round, copies), weight
        )
        return (carry[0] + totals.sum(), carry[1] + steps.sum()), None

    return jax.lax.scan(one, (jnp.zeros(()), jnp.int32(0)), jax.random.split(key, rounds))[0]


def one_row(env: Env, copies: int, target: int, repeats: int) -> dict[str, Any]:
    """Everything about one number of copies."""
    key_weight, key = jax.random.split(jax.random.key(0))
    shapes = jax.eval_shape(env.reset, key)[1]._asdict()
    weight = {name: jax.random.uniform(key_weight, leaf.shape) for name, leaf in shapes.items()}
    rounds = max(1, target // (copies * env.spec.episode_limit))
    run = compile_program(partial(play, env=env, copies=copies, rounds=rounds), key, weight)
    total, steps = run.call(key, weight)
    timing = measure(lambda: run.call(key, weight), repeats)
    played = copies * rounds * env.spec.episode_limit
    return {
        "copies": copies,
        "env steps/s": int(steps) / timing.median,
        "with padding/s": played / timing.median,
        **spread("seconds", timing),
        "valid steps": int(steps),
        "us per step": 1e6 * timing.median / int(steps),
        "compile s": run.compile_seconds,
        "checksum": float(total),
    }


def load_reference() -> ModuleType | None:
    """The plain NumPy predator-prey of the tests, in a checkout."""
    if not REFERENCE.is_file():
        return None
    spec = importlib.util.spec_from_file_location("reference_predator_prey", REFERENCE)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference_rate(reference: ModuleType, settings: Any, steps: int, repeats: int) -> float:
    """Env steps per CPU second of the plain NumPy implementation, observed after each step like ours."""
    rng = np.random.default_rng(0)
    n, m, size = settings.n_predators, settings.n_prey, settings.grid_size
    seconds = []
    for _ in range(repeats):
        cells = rng.permutation(size**2)[: n + m]
        places = [[int(cell) // size, int(cell) % size] for cell in cells]
        world = reference.World(
            size=size,
            sight=settings.sight,
            threshold=settings.capture_threshold,
            capture_reward=settings.capture_reward,
            punishment=settings.punishment,
            limit=settings.episode_limit,
            predators=places[:n],
            active=[True] * n,
            prey=places[n:],
            alive=[True] * m,
        )
        start = time.process_time()
        for _ in range(steps):
            ranks = rng.integers(0, 12, m)
            reference.step(world, rng.integers(0, 6, n), rng.permutation(n), rng.permutation(m), ranks)
            sum(float(part.sum()) for part in reference.observe(world))
        seconds.append(time.process_time() - start)
    return steps / summarise(seconds).median


def compare(rows: list[dict[str, Any]], settings: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The best rate against the NumPy original's figure and the plain NumPy implementation measured here."""
    baselines = {"NumPy original (2-core Xeon)": ORIGINAL}
    reference = load_reference()
    if reference is not None:
        steps = 5 if arguments.quick else 100
        baselines["tests' plain NumPy, here"] = reference_rate(reference, settings, steps, arguments.repeats)
    many = next((row for row in rows if row["copies"] == 1024), rows[-1])
    return [
        {
            "baseline": name,
            "env steps per CPU s": rate,
            "copies": many["copies"],
            "times as fast": many["env steps/s"] / rate,
        }
        for name, rate in baselines.items()
    ]


def shorter(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The setting that makes episodes short, by the name that the environment has for it."""
    settings = vars(configure(arguments).env)
    return tuple(f"env.{key}=5" for key in ("episode_limit", "max_steps") if key in settings)


def main(arguments: argparse.Namespace) -> None:
    """Measure every number of copies of both environments and report."""
    config = configure(arguments, *(shorter(arguments) if arguments.quick else ()))
    copies, target = (arguments.copies[:2], 64) if arguments.quick else (arguments.copies, arguments.steps)
    env = make_env(config)
    rows = [one_row(env, n, target, arguments.repeats) for n in copies]
    tables = {arguments.env or config.env_name: rows}
    if config.env_name == "predator_prey":
        tables["against NumPy"] = compare(rows, config.env, arguments)
        arguments.env, arguments.overrides = "matrix_game", []
        game = make_env(configure(arguments))
        tables["matrix_game"] = [one_row(game, n, 4 * target, arguments.repeats) for n in copies]
    report(arguments, QUESTION, tables)


if __name__ == "__main__":
    parser = make_parser(__doc__ or "", seeds=(1,), repeats=5)
    parser.add_argument("--copies", type=int, nargs="+", default=list(COPIES), help="copies stepped side by side")
    parser.add_argument("--steps", type=int, default=TARGET_STEPS, help="steps of all copies in one run, with padding")
    main(parse(parser))
