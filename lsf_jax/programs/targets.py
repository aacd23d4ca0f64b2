"""A run planned for an accelerator that is not there: its real program, compiled for the chip, not run.

What fits follows from memory, which is affine in the number of seeds side by side: two widths are compiled, and a third
says whether the line holds.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from lsf_jax.programs.chips import CHIPS, EXTRA, Chip, compiler_of, environment, find_chip
from lsf_jax.programs.cost_model import Range
from lsf_jax.programs.hlo import AROUND
from lsf_jax.programs.planner import Plan, plan_text, size_text
from lsf_jax.registry.plugins import as_variable
from lsf_jax.settings import ConfigError

ROOM = 0.95
"""Share of a chip's memory that a compiled program may ask for; the rest is lost between allocations."""

Ask = Callable[[dict[str, Any]], dict[str, Any]]
"""A request to the compiling process, and its answer."""
Tell = Callable[[str], None]
"""Where a line for the user goes."""


class Survey(NamedTuple):
    """All that was learned about one run on one kind of chip. JSON-ready, see `_asdict`."""

    target: str
    n_devices: int
    plan: Plan  # for this chip
    n_envs: int  # episodes that one iteration of one seed plays
    episode_limit: int
    evaluation_interval: int  # iterations
    env_steps: int  # of one seed, over the whole run
    limit: int  # bytes that the process has on the chip, or train.memory_gib
    compiled: list[dict[str, Any]]  # `cross.Compiled`; the first one is the run's own width
    line: tuple[float, float] | None  # bytes of no seed, bytes of one more
    seeds: int | None  # that fit side by side on one device
    confirmed: bool  # whether as many were compiled and fit
    compiler: str  # its package and version: another one may need more memory, or refuse


@contextlib.contextmanager
def compiling(chip: Chip, n_devices: int, config_text: str) -> Iterator[tuple[dict[str, Any], Ask]]:
    """A process that compiles for a chip: its plan of the run, and how to ask for widths.

    Raises:
      ConfigError: in one line, what is wrong with the configuration, or what the compiler said.
    """
    variables = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    command = [sys.executable, "-m", "lsf_jax.programs.cross"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        streams: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        with subprocess.Popen(
            command, env=variables | as_variable() | environment(chip, n_devices), **streams
        ) as process:
            ask = partial(_ask, process, log, chip)
            try:
                yield ask({"target": chip.name, "devices": n_devices, "config": config_text}), ask
            finally:
                process.kill()


def _ask(process: Any, log: Any, chip: Chip, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request and wait for its answer."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    found = json.loads(answer) if answer else {"error": _last_words(process, log), "wrong": False}
    if "error" in found:
        raise ConfigError(found["error"] if found["wrong"] else _failure(chip, found["error"]))
    return found


def _last_words(process: Any, log: Any) -> str:
    code = process.wait()
    log.seek(0)
    lines = [line for line in log.read().splitlines() if line.strip()]
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"it ended with {how}" + (f" ({lines[-1].strip()})" if lines else "")


def _failure(chip: Chip, words: str) -> str:
    return f"--target is {chip.name}; its compiler did not do its work: {words[:400]}; is it whole? {EXTRA}"


def survey(config_text: str, target: str, *, n_devices: int = 1, quick: bool = False, tell: Tell) -> Survey:
    """Plan a run for a chip, compile it there, and find out how many seeds fit.

    Args:
      config_text: the configuration as YAML (`documents.to_yaml`).
      target: a name in `CHIPS`.
      n_devices: chips of one machine.
      quick: compile the run's own width alone; how many seeds fit is then not known.
      tell: called with a line before and after each compilation.

    Raises:
      ConfigError: see `find_chip` and `compiling`.
    """
    chip = find_chip(target, n_devices)
    with compiling(chip, n_devices, config_text) as (planned, ask):
        plan, compiled = Plan(**planned.pop("plan")), []

        def compile_at(width: int) -> dict[str, Any]:
            tell(f"compiling {_seeds(width)} for {chip.title} ...")
            compiled.append(ask({"width": width}))
            tell(f"  {compiled[-1]['seconds']:.0f} s, needs {size_text(compiled[-1]['required'])}")
            return compiled[-1]

        limit = min(plan.memory_bytes, chip.memory)  # train.memory_gib may be more than there is
        first = compile_at(plan.width)
        line, seeds, confirmed = (None, None, False) if quick else find_seeds(plan, limit, first, compile_at)
    return Survey(
        target=target,
        n_devices=n_devices,
        plan=plan,
        limit=limit,
        compiled=compiled,
        line=line,
        seeds=seeds,
        confirmed=confirmed,
        compiler=compiler_of(chip),
        **planned,
    )


def find_seeds(
    plan: Plan, limit: int, first: dict[str, Any], compile_at: Callable[[int], dict[str, Any]]
) -> tuple[tuple[float, float] | None, int | None, bool]:
    """How many seeds fit side by side on one device, by a line through two widths and a third compilation on it.

    Args:
      plan: of the run.
      limit: bytes that the process has.
      first: what was compiled at the plan's width.
      compile_at: compiles another width.

    Returns:
      The line (bytes of no seed, bytes of one more), the seeds, and whether as many were compiled and fit.
    """
    room = limit * ROOM
    guess = int(room // sum(plan.bytes_per_row.values()))
    wider = min(4 * plan.width, guess // 2)  # not the widest: compilers take longer for large arrays
    other = wider if wider > plan.width else plan.width // 2 if plan.width > 1 else 2
    line = _line(first, compile_at(other))
    seeds = int((room - line[0]) // line[1]) if line[1] > 0 else 0
    known = {plan.width: first}
    if seeds < 1:
        return line, 0, False
    third = known.get(seeds) or compile_at(seeds)
    if third["required"] <= room and not third["refused"]:
        return line, seeds, True
    line = _line(first, third) if seeds != plan.width else line
    return line, max(0, min(seeds - 1, int((room - line[0]) // line[1]))), False


def _line(one: dict[str, Any], other: dict[str, Any]) -> tuple[float, float]:
    slope = (other["required"] - one["required"]) / (other["width"] - one["width"])
    return one["required"] - slope * one["width"], slope


def estimate(found: Survey) -> tuple[Range, Range] | None:
    """Estimated env steps a second of all seeds together, and hours of the run; None where nothing was compiled.

    Env steps are those that are computed, n_envs episodes of full length; evaluations count as a rollout each.
    """
    parts = found.compiled[0]["parts"]
    if not parts:
        return None
    plan = found.plan
    # Rows that only fill up the last block are computed, but nobody's.
    seeds = plan.rows / plan.n_blocks
    steps = found.n_envs * found.episode_limit
    iterations = -(-found.env_steps // steps)
    rates, hours = [], []
    for name in ("fast s", "slow s"):
        once = sum(part.get(name, 0.0) for part in parts.values())
        evaluation = parts.get("rollout", {}).get(name, 0.0) / found.evaluation_interval
        rates.append(steps * seeds / once)
        hours.append(plan.n_blocks * iterations * (once + evaluation) / 3600)
    return Range(*rates), Range(*hours)


def survey_text(found: Survey) -> str:
    """What was learned, as lines for people."""
    chip, first = CHIPS[found.target], found.compiled[0]
    lines = [
        f"{chip.title}: compiled for it here by {found.compiler}, not run",
        plan_text(found.plan),
        "",
        f"fits                 {_fit_text(found)}",
        *_memory_lines(found),
        f"seeds that fit       {_seeds_text(found)}",
    ]
    if first["refused"]:
        return "\n".join([*lines, f"its compiler          {first['refused']}"])
    count = first["collectives"]
    talk = "none" if count == 0 else f"{count} instructions"
    each = f"each of {found.plan.n_devices} devices runs this program on seeds of its own"
    return "\n".join(
        [
            *lines,
            "",
            *_part_lines(first["parts"], "launches" if chip.platform == "cuda" else "operations"),
            f"collectives          {talk}: {each}" if found.plan.n_devices > 1 else f"collectives          {talk}",
            *_estimate_lines(found),
        ]
    )


def _fit_text(found: Survey) -> str:
    first = found.compiled[0]
    room = int(found.limit * ROOM)
    fits = not first["refused"] and first["required"] <= room
    needed = f"{size_text(first['required'])} for {_seeds(first['width'])}, {size_text(room)} may be used"
    whole = size_text(CHIPS[found.target].memory)
    return f"{'yes' if fits else 'NO'}: {needed} (of {whole}; a JAX process has {size_text(found.limit)} there)"


def _memory_lines(found: Survey) -> list[str]:
    """Bytes by kind beside what the planner expects."""
    memory, width, needs = found.compiled[0]["memory"], found.compiled[0]["width"], found.plan.bytes_per_row
    working = needs["activations"] + needs["fresh episodes"]
    planned = {"arguments": sum(needs.values()) - working, "temporary": working}
    beside = lambda kind: f"   (estimated {size_text(planned[kind] * width)})" if kind in planned else ""
    return [f"  {kind:<18} {size_text(size):>10}{beside(kind)}" for kind, size in memory.items()]


def _seeds_text(found: Survey) -> str:
    if found.seeds is None or found.line is None:
        return "not asked for (--quick)"
    base, slope = found.line
    widths = ", ".join(str(compiled["width"]) for compiled in found.compiled)
    how = "compiled and fits" if found.confirmed else "by the line alone"
    line = f"{size_text(max(base, 0))} + {size_text(slope)} a seed, by compiling {widths}"
    return f"{found.seeds} side by side on one device, {how} ({line})"


def _part_lines(parts: dict[str, dict[str, Any]], launches: str) -> list[str]:
    """A table of one iteration, the costliest part first."""
    inside = sorted((name for name in parts if name != AROUND), key=lambda name: -parts[name]["launches"])
    total = {key: sum(parts[name][key] for name in inside) for key in ("launches", "loop passes", "bytes", "FLOPs")}
    rows = [("an iteration, learning", total), *((name.replace("_", " "), parts[name]) for name in inside)]
    rows += [(AROUND, parts[AROUND])] if AROUND in parts else []
    head = f"{'':<28}{launches:>12}{'loop passes':>13}{'bytes':>12}{'GFLOP':>10}"
    return [head] + [
        f"{name:<28}{part['launches']:>12,.0f}{part['loop passes']:>13,.0f}{size_text(part['bytes']):>12}"
        f"{part['FLOPs'] / 1e9:>10.2f}"
        for name, part in rows
    ]


def _estimate_lines(found: Survey) -> list[str]:
    both = estimate(found)
    if both is None:
        return []
    rates, hours = both
    speed = f"{rates.slow:,.0f} to {rates.fast:,.0f} env steps/s"
    length = f"{hours_text(hours.fast)} to {hours_text(hours.slow)}"
    return [
        f"estimate             {speed}, {length} for the run, at episodes of full length",
        "                     and without compilation: an estimate, by the constants of lsf_jax/programs/cost_model.py",
    ]


def hours_text(hours: float) -> str:
    """Hours for people, in the unit that suits them."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def _seeds(width: int) -> str:
    return "1 seed" if width == 1 else f"{width} seeds side by side"
