"""JaxMARL's QMIX for a comparison, run from a checkout of JaxMARL: nothing of it is copied here.

Its training is one function with everything inside; what an update or an iteration is, is a closure that it hands to
`jax.lax.scan`. These closures are taken from there while their program is traced, and compiled with what they close
over as arguments: the code that runs is theirs, line by line.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import CellType, FunctionType, ModuleType
from typing import Any

from worker import FEW_AND_MANY, claim_output, compile_cold, marginal, serve, wait

BASELINE = Path("baselines/QLearning/qmix_rnn.py")
SETTINGS = Path("baselines/QLearning/config/alg/ql_rnn_smax.yaml")
MIXER = {"MIXER_EMBEDDING_DIM": 32, "MIXER_HYPERNET_HIDDEN_DIM": 64}
SIZES = {"HIDDEN_SIZE": 64, "NUM_ENVS": 8, "BUFFER_BATCH_SIZE": 32, "NUM_EPOCHS": 1, **MIXER}
LEARNS_AFTER = 32  # iterations before their replay gives its first batch: as many as the batch has episodes


def load_baseline(checkout: Path) -> ModuleType:
    """Their script as a module. Weights & Biases is replaced by an empty module: nothing is logged."""
    sys.path.insert(0, str(checkout))
    sys.modules["wandb"] = ModuleType("wandb")
    found = importlib.util.spec_from_file_location("qmix_rnn", checkout / BASELINE)
    if found is None or found.loader is None:
        raise FileNotFoundError(checkout / BASELINE)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    module.CTRolloutManager = _concrete(module.CTRolloutManager)
    return module


def _concrete(manager: type) -> type:
    """Their wrapper of games, whose constants are arrays even where it is made while a program is traced.

    Else the closures that are taken out of that trace would hold values of a program that no longer exists.
    """
    import jax

    class Concrete(manager):
        def __init__(self, *arguments: Any, **named: Any):
            with jax.ensure_compile_time_eval():
                super().__init__(*arguments, **named)

    return Concrete


def load_settings(checkout: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Their SMAX settings at our sizes."""
    import yaml

    theirs = yaml.safe_load((checkout / SETTINGS).read_text(encoding="utf-8"))
    fixed = {"WANDB_MODE": "disabled", "TEST_DURING_TRAINING": False, "LEARNING_STARTS": 0}
    return theirs | SIZES | fixed | changes


@contextmanager
def captured(name: str) -> Iterator[list[FunctionType]]:
    """Collects every function of this name that `jax.lax.scan` is called with."""
    import jax

    found, scan = [], jax.lax.scan

    def recording(function: Any, *arguments: Any, **named: Any) -> Any:
        if getattr(function, "__name__", "") == name:
            found.append(function)
        return scan(function, *arguments, **named)

    jax.lax.scan = recording
    try:
        yield found
    finally:
        jax.lax.scan = scan


def with_cells(function: FunctionType, **values: Any) -> Callable[..., Any]:
    """The same code over the same closure, but for the named variables."""
    names = function.__code__.co_freevars
    cells = [CellType(values[name]) if name in values else cell for name, cell in zip(names, function.__closure__)]
    return FunctionType(function.__code__, function.__globals__, closure=tuple(cells))


def one_qr_at_a_time() -> None:
    """QR decompositions of seeds side by side one after another: batched ones can hang jaxlib 0.10.2 on few cores."""
    import jax
    import jax.numpy as jnp

    jnp.linalg.qr = jax.custom_batching.sequential_vmap(jnp.linalg.qr)


def update_program(checkout: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], Callable[[], dict]]:
    """Their `_learn_phase`, which samples from replay and updates, on a stand-in of predator-prey's sizes.

    In a loop and under `vmap` over one seed, as it stands in their program: alone it takes a third longer.
    """
    import jax

    baseline = load_baseline(checkout)
    from stand_in import StandIn

    steps = 64 * arguments.steps  # 64 episodes, as in ours; two at a time, or their replay could not be that small
    sizes = {"NUM_STEPS": arguments.steps, "TOTAL_TIMESTEPS": steps, "BUFFER_SIZE": 64, "NUM_ENVS": 2}
    config = load_settings(checkout, sizes | {"LEARNING_STARTS": steps})
    with captured("_learn_phase") as found:
        outcome = jax.jit(baseline.make_train(config, StandIn(arguments.steps)))(jax.random.PRNGKey(0))
    state, replay, _, key = jax.tree.map(lambda leaf: leaf[None], outcome["runner_state"])

    def learn(updates: int, state: Any, replay: Any, key: Any) -> Any:
        once = with_cells(found[-1], buffer_state=replay)
        return jax.lax.scan(once, (state, key), None, updates)

    loops = [jax.jit(jax.vmap(partial(learn, updates))) for updates in FEW_AND_MANY]
    programs = [loop.lower(state, replay, key).compile() for loop in loops]
    facts = {"temporary MiB": programs[1].memory_analysis().temp_size_in_bytes / 2**20}

    def runs(compiled: Any) -> Callable[[], dict[str, Any]]:
        return lambda: wait(compiled(state, replay, key))

    return facts, marginal(*map(runs, programs), FEW_AND_MANY[1] - FEW_AND_MANY[0])


def train_program(checkout: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], Callable[[], dict]]:
    """Their `_update_step`, an iteration, on SMAX; the compile time is that of their whole program."""
    import jax

    baseline = load_baseline(checkout)
    one_qr_at_a_time()
    per_iteration = SIZES["NUM_ENVS"] * arguments.steps
    sizes = {"TOTAL_TIMESTEPS": (LEARNS_AFTER + 8) * per_iteration, "NUM_STEPS": arguments.steps, "MAP_NAME": "3m"}
    keys = jax.random.split(jax.random.PRNGKey(0), arguments.seeds)

    def whole(**changes: Any) -> tuple[Any, dict[str, Any]]:
        config = load_settings(checkout, sizes | changes)
        begun = time.process_time()
        lowered = jax.jit(jax.vmap(baseline.make_train(config, baseline.env_from_config(config)[0]))).lower(keys)
        traced = time.process_time() - begun
        compiled, built = compile_cold(lowered)
        return compiled, {"trace s": traced, "XLA s": built, "trace + XLA s": built and traced + built}

    with captured("_update_step") as found:
        compiled, facts = whole()
    facts["temporary MiB"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    if arguments.evaluation:
        facts["… with evaluation s"] = whole(TEST_DURING_TRAINING=True)[1]["trace + XLA s"]
    state = jax.block_until_ready(compiled(keys))["runner_state"]

    def iterate(state: Any) -> Any:
        return jax.lax.scan(found[-1], state, None, arguments.iterations)[0]

    chunk = jax.jit(jax.vmap(iterate), donate_argnums=0)  # or replay would be copied, as it is not in their program

    def run() -> dict[str, Any]:
        nonlocal state
        before = state[0].grad_steps.sum()
        state = jax.block_until_ready(chunk(state))
        steps = per_iteration * arguments.iterations * arguments.seeds
        return {"env steps": steps, "updates": int(state[0].grad_steps.sum() - before)}

    return facts, run


def main() -> None:
    """Build what the command line asks for and serve it."""
    channel = claim_output()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("update", "train"))
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None, help="of a collection; 200 for an update, 128 for training")
    parser.add_argument("--iterations", type=int, default=10, help="of one measured chunk")
    parser.add_argument("--evaluation", action="store_true", help="also compile the program that evaluates")
    parser.add_argument("--cache", default="off", help="folder of compiled programs")
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or (200 if arguments.what == "update" else 128)

    import jax

    if arguments.cache != "off":
        jax.config.update("jax_compilation_cache_dir", arguments.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    build = update_program if arguments.what == "update" else train_program
    serve(channel, *build(arguments.checkout, arguments))


if __name__ == "__main__":
    main()
