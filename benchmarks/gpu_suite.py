"""Everything that is worth asking a GPU on the day that one is at hand: one command, under nine minutes, one JSON file.

Each question is asked in a process of its own, because flags of XLA and the platform are a process's, and what crashes
or takes too long then costs nobody else's answer. Questions whose answer is no time run side by side, then those that
measure run alone. `--quick --platform cpu` runs every line of this on a CPU at tiny sizes; its numbers mean nothing.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SECONDS, QUICK_SECONDS = (
    530.0,
    3600.0,
)  # for everything: within nine minutes; tiny sizes on a slow machine may take longer
REFERENCE = (  # as in timing.py
    *("algo.batch_size=32", "algo.hidden=64", "train.n_envs=8", "algo.updates=1", "train.buffer_capacity=512"),
)
SMALL = (
    *("algo.hidden=8", "env.n_predators=2", "env.n_prey=1", "env.grid_size=4", "env.episode_limit=5"),
    *("algo.batch_size=8", "algo.updates=1", "train.buffer_capacity=16", "train.n_envs=8", "algo.encoder_hidden=8"),
)
WIDTHS = (1, 64, 512, 8, 16, 128, 256, 32, 4, 2)  # the order in which time allows
LOOPS = {
    "loops in command buffers": "--xla_gpu_enable_command_buffer=+WHILE --xla_gpu_command_buffer_unroll_loops=true",
    "no command buffers": "--xla_gpu_enable_command_buffer=",
}


# Questions: each runs in a process of its own, takes (settings, options) and returns what goes into the JSON file.


def _parts(settings: list[str], n_seeds: int) -> Any:
    """The bound run, its configuration and the pieces of an iteration."""
    from dataclasses import replace

    from parts import make_parts

    from lsf_jax.config.composition import compose
    from lsf_jax.programs import runtime
    from lsf_jax.programs.parts import bind

    config = compose(algo="lsf_sac", env="predator_prey", overrides=[*settings, f"seeds={n_seeds}"])
    config = replace(config, train=replace(config.train, cache_dir=runtime.OFF, cpu_devices=1))
    runtime.configure(config.train)
    program = bind(config)
    return config, program, make_parts(program)


def _update_of(settings: list[str], n_seeds: int, folder: str, *, write: bool) -> dict[str, Any]:
    """Episodes, and parameters after one update on them; the episodes are written for another platform, or read."""
    import jax
    import numpy as np
    from parts import filled

    from lsf_jax.programs.runtime import jit_program

    config, program, parts = _parts(settings, n_seeds)
    state = filled(config, program, n_seeds)
    key = state.key
    batch = jax.jit(parts.sample)(state.buffer, state.clock, key)
    fresh = jax.jit(parts.collect)(state.agent, state.clock, state.hyper, key)
    leaves, structure = jax.tree.flatten(batch)
    path = Path(folder) / "batch.npz"
    if write:
        np.savez(path, *[np.asarray(leaf) for leaf in leaves])
    else:
        with np.load(path) as kept:
            batch = structure.unflatten([kept[name] for name in kept.files])
    agent, metrics = jit_program(parts.update)(state.agent, batch, key, state.clock, state.hyper)
    flat = {
        "params": [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(agent.params)],
        "start": [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state.agent.params)],
        "fresh": [np.asarray(leaf) for leaf in jax.tree.leaves(fresh)],
        "metrics": [np.asarray(metrics[name], np.float64) for name in sorted(metrics)],
    }
    np.savez(Path(folder) / f"{jax.default_backend()}.npz", **_numbered(flat))
    return {"backend": jax.default_backend(), "device": jax.devices()[0].device_kind}


def _numbered(flat: dict[str, list[Any]]) -> dict[str, Any]:
    return {f"{name}{index:04}": leaf for name, leaves in flat.items() for index, leaf in enumerate(leaves)}


def on_cpu(settings: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """One update on the CPU, whose batch the other platform will take."""
    return _update_of(settings, options["seeds"], options["folder"], write=True)


def correctness(settings: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """The same update on the same batch on both platforms, and the same episodes played on both."""
    import numpy as np

    here = _update_of(settings, options["seeds"], options["folder"], write=False)
    with (
        np.load(Path(options["folder"]) / "cpu.npz") as a,
        np.load(Path(options["folder"]) / f"{here['backend']}.npz") as b,
    ):
        both = [(a[name], b[name], name) for name in a.files]
        moved = [np.abs(a[f"params{name[5:]}"] - a[name]).max() for name in a.files if name.startswith("start")]
    differ = lambda word: max(float(np.abs(x - y).max()) for x, y, name in both if name.startswith(word) and x.size)
    relative = [float(np.max(np.abs(x - y) / (np.abs(x) + 1e-6))) for x, y, n in both if n.startswith("metrics")]
    return {
        **here,
        "parameters start equal": differ("start") == 0.0,
        "largest step of a parameter": float(max(moved)),
        "largest difference after an update": differ("params"),
        "largest relative difference of a metric": max(relative),
        "episodes equal in every bit": all(np.array_equal(x, y) for x, y, n in both if n.startswith("fresh")),
    }


def determinism(settings: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """A digest of the state after some iterations, and their time; asked of two processes for each setting."""
    import hashlib

    import jax
    import jax.numpy as jnp
    import numpy as np
    from parts import start

    from lsf_jax.programs.compiled import jit_chunk

    config, program, _ = _parts(settings, options["seeds"])
    chunk = jit_chunk(program, rows=64)
    prefill = -(-program.buffer.prefill // config.train.n_envs)
    state = chunk(start(config, program, options["seeds"]), jnp.int32(prefill), jnp.int32(2**31 - 1))[0]
    state = jax.block_until_ready(state)
    begun = time.perf_counter()
    state = jax.block_until_ready(chunk(state, jnp.int32(options["iterations"]), jnp.int32(2**31 - 1))[0])
    seconds = (time.perf_counter() - begun) / options["iterations"]
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state.agent):
        digest.update(np.asarray(leaf).tobytes())
    return {"digest": digest.hexdigest()[:16], "seconds an iteration": seconds}


def knee(settings: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Iterations of 1 to 512 seeds: env steps a second, peak memory, and what the planner expected."""
    import jax
    import jax.numpy as jnp
    from parts import start

    from lsf_jax.programs.compiled import jit_chunk
    from lsf_jax.programs.planner import row_bytes

    begun = time.perf_counter()
    bound = {width: _parts(settings, width) for width in options["widths"]}
    shapes = {w: jax.eval_shape(lambda c=c, p=p, w=w: start(c, p, w)) for w, (c, p, _) in bound.items()}
    lowered = {w: jit_chunk(bound[w][1], rows=64).lower(shapes[w], *[jnp.int32(1)] * 2) for w in bound}
    with ThreadPoolExecutor(max(1, min(len(lowered), (os.cpu_count() or 2) // 2))) as pool:
        compiling = {width: pool.submit(each.compile) for width, each in lowered.items()}
    rows = []
    for width, done in compiling.items():
        config, program, _ = bound[width]
        row: dict[str, Any] = {"seeds": width}
        rows.append(row)
        if time.perf_counter() - begun > options["budget"]:
            row["skipped"] = "no time left"
            continue
        try:
            row |= _rate(done.result(), start(config, program, width), config, program, options["iterations"])
        except jax.errors.JaxRuntimeError as error:
            row["error"] = " ".join(str(error).split())[:300]
        stats = jax.devices()[0].memory_stats() or {}
        row["peak bytes so far"] = stats.get("peak_bytes_in_use")
        row["planned bytes"] = width * sum(row_bytes(program, 0).values())
    stats = jax.devices()[0].memory_stats() or {}
    device = {"device": jax.devices()[0].device_kind, "memory limit": stats.get("bytes_limit")}
    return {**device, "rows": sorted(rows, key=lambda row: row["seeds"])}


def _rate(chunk: Any, state: Any, config: Any, program: Any, iterations: int) -> dict[str, float]:
    """Seconds of an iteration that learns and valid env steps a second, the better of two."""
    import jax
    import jax.numpy as jnp

    never = jnp.int32(2**31 - 1)
    prefill = -(-program.buffer.prefill // config.train.n_envs)
    state = jax.block_until_ready(chunk(state, jnp.int32(prefill), never)[0])
    best, rate = float("inf"), 0.0
    for _ in range(2):
        before, begun = state.clock.env_steps.sum(), time.perf_counter()
        state = jax.block_until_ready(chunk(state, jnp.int32(iterations), never)[0])
        seconds = (time.perf_counter() - begun) / iterations
        if seconds < best:
            best, rate = seconds, float(state.clock.env_steps.sum() - before) / (iterations * seconds)
    return {"seconds an iteration": best, "env steps/s": rate}


def pieces(settings: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Rollout, sampling and update of the same seeds, compiled apart."""
    import jax
    from parts import filled
    from timing import compile_program, measure

    config, program, parts = _parts(settings, options["seeds"])
    state = filled(config, program, options["seeds"])
    agent, clock, hyper, key = state.agent, state.clock, state.hyper, state.key
    batch = jax.jit(parts.sample)(state.buffer, clock, key)
    asked = {
        "rollout": (parts.collect, (agent, clock, hyper, key)),
        "sample": (parts.sample, (state.buffer, clock, key)),
        "update": (parts.update, (agent, batch, key, clock, hyper)),
    }
    seconds = {}
    for name, (function, arguments) in asked.items():
        compiled = compile_program(function, *arguments)
        seconds[f"{name} s"] = measure(lambda c=compiled, a=arguments: c.call(*a), 3).median
    return seconds


def checkpoint(settings: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Train, or continue, a small run up to some env steps; the three processes that do so sit on two platforms."""
    import io

    import jax

    from lsf_jax.config.composition import compose, from_yaml
    from lsf_jax.runs import experiment
    from lsf_jax.runs.progress import Progress

    path = Path(options["folder"]) / "run"
    steps = f"train.env_steps={options['env_steps']}"
    quiet = Progress(1, "gpu_suite", stream=io.StringIO())
    if path.exists():
        source = path / "config.yaml"
        config = from_yaml(source.read_text(encoding="utf-8"), str(source), [steps])
        result = experiment.resume(path, config=config, progress=quiet)
    else:
        words = [*settings, steps, "seeds=2", "train.devices=1", "train.cpu_devices=1", "train.cache_dir=off"]
        words += [f"train.run_dir={options['folder']}", "train.name=run", "train.eval_episodes=4"]
        result = experiment.train(compose(algo="lsf_sac", env="predator_prey", overrides=words), progress=quiet)
    return {"backend": jax.default_backend(), "finished": result.finished, "return": result.final["return"].tolist()}


QUESTIONS = {f.__name__: f for f in (on_cpu, correctness, determinism, knee, pieces, checkpoint)}


# The process that asks.


class Suite:
    """Asks questions until the time is over, and keeps what came back."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.settings = list(SMALL if arguments.quick else REFERENCE)
        self.ends = time.monotonic() + (QUICK_SECONDS if arguments.quick else SECONDS)
        self.answers: dict[str, Any] = {}

    def ask(self, name: str, question: str, settings: list[str], options: dict[str, Any], **variables: str) -> dict:
        """Answer of one process; what went wrong is an answer too."""
        left = self.ends - time.monotonic()
        platform = {"JAX_PLATFORMS": self.arguments.platform, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        command = [sys.executable, __file__, "--work", question, "--payload", json.dumps([settings, options])]
        begun = time.monotonic()
        try:
            if left < 5:
                raise subprocess.TimeoutExpired(command, 0)
            done = subprocess.run(
                command, env=os.environ | platform | variables, capture_output=True, text=True, timeout=left, cwd=ROOT
            )
            lines = done.stdout.splitlines()
            failed = " ".join(done.stderr.split())[-500:]
            answer = json.loads(lines[-1]) if done.returncode == 0 and lines else {"error": failed}
        except subprocess.TimeoutExpired:
            answer = {"error": "no time left"}
        answer["wall s"] = round(time.monotonic() - begun, 1)
        self.answers[name] = answer
        print(f"{name}: {json.dumps(answer)[:400]}", flush=True)
        return answer

    def side_by_side(self, folder: str) -> None:
        """Questions whose answer is no time."""
        seeds, iterations = (2, 2) if self.arguments.quick else (8, 4)
        options = {"seeds": seeds, "iterations": iterations, "folder": folder}
        with ThreadPoolExecutor(max(1, min(4, (os.cpu_count() or 1) // 4))) as pool:
            waiting = [
                pool.submit(self._correctness, options),
                pool.submit(self._checkpoints, folder),
                *(pool.submit(self._determinism, switch, options) for switch in ("false", "true")),
            ]
            for each in waiting:
                each.result()

    def _correctness(self, options: dict[str, Any]) -> None:
        self.ask("the CPU's update", "on_cpu", self.settings, options, JAX_PLATFORMS="cpu")
        self.ask("correctness against the CPU", "correctness", self.settings, options)

    def _determinism(self, switch: str, options: dict[str, Any]) -> None:
        name, words = f"deterministic={switch}", [*self.settings, f"train.deterministic={switch}"]
        first, again = (self.ask(f"{name}, process {n}", "determinism", words, options) for n in (1, 2))
        same = first.get("digest") == again.get("digest") if "digest" in first and "digest" in again else None
        self.answers[f"{name}: equal in every bit"] = same

    def _checkpoints(self, folder: str) -> None:
        steps = 40 if self.arguments.quick else 3200
        words = [*SMALL, f"train.evaluate_every={steps}"]
        for index, platform in enumerate((self.arguments.platform, "cpu", self.arguments.platform)):
            options = {"folder": folder, "env_steps": steps * (index + 1)}
            self.ask(f"checkpoint {index + 1}, {platform}", "checkpoint", words, options, JAX_PLATFORMS=platform)

    def alone(self) -> None:
        """Questions that measure."""
        quick = self.arguments.quick
        widths, iterations, middle = ((1, 2), 2, 2) if quick else (WIDTHS, 5, 64)
        left = self.ends - time.monotonic()
        options = {"widths": widths, "iterations": iterations, "budget": 0.5 * left}
        self.ask("seeds to the knee", "knee", self.settings, options)
        self.ask("rollout and update apart", "pieces", self.settings, {"seeds": middle})
        for name, flags in LOOPS.items():
            options = {"widths": (middle,), "iterations": iterations, "budget": SECONDS}
            flags = " ".join([os.environ.get("XLA_FLAGS", ""), flags]).strip()
            self.ask(name, "knee", self.settings, options, XLA_FLAGS=flags)


def estimates(suite: Suite) -> None:
    """Beside the measured rate what the cost model said of the chip, where the survey of `accelerator.py` has it."""
    path = ROOT / "benchmarks" / "results" / "accelerator.json"
    if suite.arguments.quick or not path.exists():
        return
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    known = cases.get("lsf_sac on predator_prey, reference size, 64 seeds", {})
    suite.answers["estimated before"] = {chip: found.get("estimate") for chip, found in known.items()}


def main(arguments: argparse.Namespace) -> int:
    """Ask everything and write the file."""
    suite, begun = Suite(arguments), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lsf_jax-gpu-suite-") as folder:
        suite.side_by_side(folder)
        suite.alone()
    estimates(suite)
    content = {
        "question": "gpu_suite.py: what a GPU does with LSF-SAC on predator-prey, reference size",
        "platform": arguments.platform,
        "quick": arguments.quick,
        "seconds": round(time.monotonic() - begun, 1),
        "answers": suite.answers,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    wrong = [name for name, answer in suite.answers.items() if isinstance(answer, dict) and "error" in answer]
    print(
        f"wrote {arguments.json} after {content['seconds']} s"
        + (f"; without an answer: {', '.join(wrong)}" if wrong else "")
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--platform", default="cuda", help="JAX's name of the platform (default cuda)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does everything run at all")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "local" / "gpu_suite.json")
    parser.add_argument("--work", default="", choices=["", *QUESTIONS], help=argparse.SUPPRESS)
    parser.add_argument("--payload", default="[]", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(QUESTIONS[given.work](*json.loads(given.payload))))
        sys.exit(0)
    sys.exit(main(given))
