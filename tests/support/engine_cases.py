"""Small configurations, compiled once for all files, and bitwise comparison: shared by the tests of the engine."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from lsf_jax.config.composition import Config, compose
from lsf_jax.config.train_config import TrainConfig
from lsf_jax.engine.training import Chunk
from lsf_jax.programs import assembly, planner, shared
from lsf_jax.programs.compiled import jit_chunk, jit_init, seed_mesh
from lsf_jax.programs.parts import Program, Rows, bind, make_rows
from lsf_jax.runs import experiment, tables
from lsf_jax.runs.progress import Progress
from lsf_jax.testing.comparison import assert_same_bits as assert_same_bits
from lsf_jax.testing.comparison import bits as bits
from lsf_jax.testing.comparison import seed_slice as seed_slice
from lsf_jax.types import TrainState

NETWORKS = (
    "algo.hidden=8",
    "algo.encoder_hidden=8",
    "algo.decoder_hidden=8",
    "algo.mixer_embed=4",
    "algo.hyper_hidden=8",
    "algo.batch_size=4",
    "algo.lr=1e-3",
    "algo.actor_lr=1e-3",
    "algo.target_interval=200",
    "train.n_envs=2",
    "algo.updates=1",
    "train.log_every=1",
    "train.buffer_capacity=16",
    "train.devices=1",
    "train.eval_episodes=3",
)
"""Two episodes an iteration and four a batch: the first iteration stores without learning."""
HUNT = ("env.grid_size=4", "env.n_predators=2", "env.n_prey=2", "env.episode_limit=4")
QUICK = (*NETWORKS, "env.n_steps=4", "algo.recurrent=false", "algo.hyper_hidden=0", "train.eval_stochastic=true")
"""Whole runs of `m_step` in several files: four rows side by side share one set of compiled programs."""
ROWS = 32  # log rows of the chunks compiled here
FOREVER = 2**30
HOST_ONLY = tuple(field.name for field in dataclasses.fields(TrainConfig) if field.metadata.get("resumable"))

_compilations: list[str] = []
_programs: dict[Any, assembly.Programs] = {}
_needs: dict[Any, dict[str, int]] = {}


def _listen(event: str, seconds: float, **more: Any) -> None:
    del seconds, more
    if event == "/jax/core/compile/backend_compile_duration":
        _compilations.append(event)


jax.monitoring.register_event_duration_secs_listener(_listen)


@contextlib.contextmanager
def counted_compilations() -> Iterator[list[str]]:
    """A list that gains one entry for each program that XLA is asked for, from disk or not, in the `with` block."""
    before, found = len(_compilations), []
    yield found
    found.extend(_compilations[before:])


def small(*overrides: str, env: str = "m_step", algo: str = "lsf_sac") -> Config:
    """A configuration that compiles in seconds. In `m_step` episodes end early, at 1 to 4 steps."""
    game = {"m_step": ("env.n_steps=4",), "predator_prey": HUNT}.get(env, ())
    keys = {f"algo.{name}" for name in vars(compose(algo=algo, env=env).algo)}
    networks = [word for word in NETWORKS if not word.startswith("algo.") or word.partition("=")[0] in keys]
    return compose(algo=algo, env=env, overrides=[*networks, *game, *overrides])


@cache
def program_of(config: Config) -> Program:
    return bind(config)


@cache
def chunk_of(config: Config, devices: int = 1) -> Chunk:
    return jit_chunk(program_of(config), rows=ROWS, mesh=seed_mesh(devices))


@cache
def _init_of(config: Config, devices: int = 1) -> Any:
    return jit_init(program_of(config), config.train.seed, seed_mesh(devices))


def rows_of(config: Config, seeds: Any = None, **hyper: Any) -> Rows:
    """Rows with these seeds and, where given, these numbers instead of the configured ones."""
    rows = make_rows(config, program_of(config).algorithm)
    if seeds is not None:
        index = np.zeros(len(seeds), np.int64)
        rows = Rows(np.asarray(seeds), index, jax.tree.map(lambda leaf: leaf[index], rows.hyper))
    changed = {name: np.broadcast_to(np.float32(value), rows.seed.shape) for name, value in hyper.items()}
    return rows._replace(hyper=rows.hyper._replace(**changed))


def start(config: Config, seeds: Any = None, devices: int = 1, **hyper: Any) -> TrainState:
    return _init_of(config, devices)(rows_of(config, seeds, **hyper))


def advance(chunk: Chunk, state: TrainState, n: int, budget: int = FOREVER) -> tuple[TrainState, Any]:
    return chunk(state, jnp.int32(n), jnp.int32(budget))


def inner_jaxprs(equation: Any) -> Iterator[Any]:
    for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns")):
        if hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif hasattr(value, "eqns"):
            yield value


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a jaxpr and of the programs inside it."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in inner_jaxprs(equation):
            yield from equations(inner)


def quiet(config: Config) -> Progress:
    return Progress(config.train.env_steps, "test", stream=io.StringIO(), plain=True)


def tables_of(path: Path) -> dict[str, pa.Table]:
    return {name: tables.read_table(path, name) for name in ("train", "eval")}


def assert_same_tables(left: Path, right: Path) -> None:
    """Equal bits in every column; NaN equals NaN."""
    for name, table in tables_of(left).items():
        ours, theirs = tables.to_arrays(table), tables.to_arrays(tables_of(right)[name])
        assert_same_bits(ours, theirs)


def policy_bytes(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((path / "policies").glob("*.safetensors"))}


@contextlib.contextmanager
def shared_programs() -> Iterator[None]:
    """Runs of one static configuration compile once in this process, where each would trace and load its own."""
    make_programs, row_bytes, make_plan = assembly.make_programs, planner.row_bytes, planner.make_plan

    def static(config: Config) -> Config:
        free = {
            name: getattr(TrainConfig(), name)
            for name in (*HOST_ONLY, "seeds", "block", "devices", "evaluate_every", "init_from")
        }
        return replace(config, train=replace(config.train, **free), grid=(), paired=False)

    def make_once(config: Config, plan: planner.Plan, program: Program) -> assembly.Programs:
        key = static(config), plan.n_devices, plan.micro_batch
        if key not in _programs:
            _programs[key] = make_programs(config, plan, program)
        return _programs[key]

    def plan_once(config: Config, program: Program | None = None) -> planner.Plan:
        def bytes_once(program: Program, micro_batch: int) -> dict[str, int]:
            key = static(config), micro_batch
            if key not in _needs:
                _needs[key] = row_bytes(program, micro_batch)
            return _needs[key]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planner, "row_bytes", bytes_once)
            return make_plan(config, program)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "make_programs", make_once)
        for module in (planner, experiment, shared):
            patch.setattr(module, "make_plan", plan_once)
        yield
