"""How much of what W SMAC games can do alone is left when one process plays them, and when LSF-SAC trains on them?"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from timing import report, spread, summarise

from lsf_jax.config.composition import compose
from lsf_jax.envs.host import FIRST, STEP, HostEnv
from lsf_jax.envs.smac.config import SmacConfig
from lsf_jax.envs.smac.maps import MAPS
from lsf_jax.envs.smac.pool import SmacPool
from lsf_jax.programs.compiled import jit_init
from lsf_jax.programs.hosted import HostPrograms, HostSizes, make_host_programs
from lsf_jax.programs.parts import bind, make_rows

QUESTION = "smac_pool.py: scripted games with SMAC's sizes, random available actions; pool against the games alone"
SCRIPTED = Path(__file__).resolve().parents[1] / "tests" / "support" / "scripted.py"
DURATIONS = ((5.0, 20.0), (5.0, 5.0), (20.0, 20.0), (0.0, 0.0))  # of one step, in milliseconds
ALONE = """
import importlib.util, random, sys, time
spec = importlib.util.spec_from_file_location("scripted", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
env = module.ScriptedEnv(map_name=sys.argv[2], seed=int(sys.argv[3]))
print("ready", flush=True)
end = time.monotonic() + float(sys.stdin.readline())
steps, done = 0, True
while time.monotonic() < end:
    if done:
        env.reset()
        avail = env.get_avail_actions()
    actions = [random.choice([action for action, bit in enumerate(mask) if bit]) for mask in avail]
    _, done, _ = env.step(actions)
    env.get_obs(), env.get_state()
    avail = env.get_avail_actions()
    steps += 1
print(steps)
"""
"""One game without a pool: what a worker does for a step, and choosing actions."""


def set_script(map_name: str, milliseconds: tuple[float, float], workers: int) -> None:
    """Tell the games how long their steps last; episodes have the length of the map's limit at most."""
    limit = MAPS[map_name].episode_limit
    seconds = [each / 1000 for each in milliseconds]
    script = {"workers": workers, "seconds": seconds, "length": [limit // 2, limit], "numpy": True}
    os.environ["SCRIPTED_SMAC"] = json.dumps(script)


def rate_alone(map_name: str, workers: int, seconds: float) -> float:
    """Steps per second of that many games side by side, each in a process that asks nobody."""
    games = [
        subprocess.Popen(
            [sys.executable, "-c", ALONE, str(SCRIPTED), map_name, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for worker in range(workers)
    ]
    for game in games:
        game.stdout.readline()
    for game in games:
        game.stdin.write(f"{seconds}\n")
        game.stdin.flush()
    return sum(int(game.communicate()[0]) for game in games) / seconds


def rate_of(games: HostEnv, seconds: float) -> tuple[float, float]:
    """Steps per second of games that were started, and the share of one core that this process takes for them."""
    rng = np.random.default_rng(0)
    steps, start, busy = 0, time.monotonic(), time.process_time()
    while time.monotonic() < start + seconds:
        events = games.receive(1, 1.0)
        steps += sum(event.kind == STEP for event in events)
        ready = [event.worker for event in events if event.kind == FIRST or not event.done]
        avail = np.asarray(games.observation.avail)
        chances = rng.random(avail.shape, np.float32)
        actions = np.where(avail, chances, -1.0).argmax(-1)  # at full width, as agents act
        games.send(ready, actions[ready])
    wall = time.monotonic() - start
    return steps / wall, (time.process_time() - busy) / wall


def rate_of_pool(map_name: str, workers: int, seconds: float) -> tuple[float, float]:
    """Both of a pool's games."""
    cfg = SmacConfig(map_name=map_name, factory=f"{SCRIPTED}:ScriptedEnv", stagger=0.0)
    with SmacPool(cfg, workers) as pool:
        pool.start()
        return rate_of(pool, seconds)


def agents_row(map_name: str, milliseconds: tuple[float, float], arguments: argparse.Namespace) -> dict[str, Any]:
    """LSF-SAC's own inference for every step, alone and with an update after every `workers` episodes."""
    set_script(map_name, milliseconds, arguments.workers)
    alone = rate_alone(map_name, arguments.workers, arguments.seconds)
    words = [f"env.factory={SCRIPTED}:ScriptedEnv", "env.stagger=0", f"train.n_envs={arguments.workers}"]
    words += ["train.seeds=1", "train.buffer_capacity=64", f"algo.hidden={8 if arguments.quick else 64}"]
    config = compose(algo="lsf_sac", env=f"smac/{map_name}", overrides=words)
    program = bind(config)
    sizes = HostSizes(seeds=1, n_envs=arguments.workers, log_every=1, eval_episodes=1)
    host = make_host_programs(program, sizes, 0)
    try:
        state = jit_init(program, 0)(make_rows(config, program.algorithm))
        rates: dict[str, float] = {}
        for what in ("collect", "train"):
            state, steps, seconds = _iterate(host, state, what, arguments.seconds)
            rates[what] = steps / seconds
            shares = host.collector.take_report()["seconds"]
            total = seconds if what == "train" else sum(shares.values())
            rates |= {f"{what}: {name} %": 100 * value / total for name, value in shares.items()}
    finally:
        host.collector.close()
    least, most = milliseconds
    return {
        "workers": arguments.workers,
        "map": map_name,
        "step ms": f"{least:g}" if least == most else f"{least:g} to {most:g}",
        "alone steps/s": alone,
        "collecting steps/s": rates["collect"],
        "% of alone": 100 * rates["collect"] / alone,
        "training steps/s": rates["train"],
        "of alone, training %": 100 * rates["train"] / alone,
        **{name: value for name, value in rates.items() if name.endswith("%")},
    }


def _iterate(host: HostPrograms, state: Any, what: str, seconds: float) -> tuple[Any, int, float]:
    """Collect, or train, for about so many seconds after two rounds that compile: state, valid steps, seconds."""
    collector, n_envs = host.collector, host.collector.n_envs
    behaviour = host.behaviour(state)
    played, start = 0, 0.0
    for number in itertools.count():
        if number == 2:
            collector.take_report()
            played, start = 0, time.monotonic()
        if what == "collect":
            played += int(collector.collect(behaviour, n_envs, n_envs).valid.sum())
        else:
            before = int(state.clock.env_steps[0])
            state, _ = host.chunk(state, jnp.int32(1), jnp.int32(2**30))
            played += int(state.clock.env_steps[0]) - before
        if number > 2 and time.monotonic() > start + seconds:
            return state, played, time.monotonic() - start
    raise RuntimeError("unreachable")


def one_row(map_name: str, milliseconds: tuple[float, float], arguments: argparse.Namespace) -> dict[str, Any]:
    """Both rates in turn, several times, so that a machine's changes of speed meet both."""
    set_script(map_name, milliseconds, arguments.workers)
    alone, pool, share = [], [], []
    for _ in range(arguments.repeats):
        alone.append(rate_alone(map_name, arguments.workers, arguments.seconds))
        rate, busy = rate_of_pool(map_name, arguments.workers, arguments.seconds)
        pool.append(rate)
        share.append(100 * busy)
    least, most = milliseconds
    return {
        "workers": arguments.workers,
        "map": map_name,
        "step ms": f"{least:g}" if least == most else f"{least:g} to {most:g}",
        "alone steps/s": summarise(alone).median,
        "pool steps/s": summarise(pool).median,
        **spread("% of alone", summarise([100 * p / a for p, a in zip(pool, alone)])),
        "% of a core": summarise(share).median,
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure every duration on every map and report."""
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.workers, arguments.maps = 1, 0.3, 2, arguments.maps[:1]
    rows = [one_row(name, duration, arguments) for name in arguments.maps for duration in DURATIONS]
    agents = [agents_row(name, DURATIONS[0], arguments) for name in arguments.maps]
    report(arguments, QUESTION, {"pool against games alone": rows, "LSF-SAC against games alone": agents})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__ or "", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--workers", type=int, default=8, help="games side by side")
    parser.add_argument("--maps", nargs="+", default=["3m", "MMM2", "27m_vs_30m"], choices=list(MAPS), metavar="MAP")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of everything")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does the script run at all")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write everything as JSON")
    main(parser.parse_args())
