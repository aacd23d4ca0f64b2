"""What a run asks of a cluster, and whether the cluster has it: settled before anything is made."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lsf_jax.cluster.connect import LOCAL, Node, nodes_of, resources_text, slots_on
from lsf_jax.registry import plugins
from lsf_jax.registry.state import VARIABLE
from lsf_jax.runs.sweeps.machines import SOFTWARE, Machine, describe, difference
from lsf_jax.settings import ConfigError, counted

ACCELERATORS = ("GPU", "TPU")
"""Ray's names of what a block takes whole devices of."""
PATIENCE = 30.0
"""Seconds that nodes may take to join before their absence is an error."""
PROBE_SECONDS = 60.0
PASSED = ("XLA_", "JAX_", "LSF_JAX_", "LIBTPU_")
"""How environment variables begin that are the same on the nodes as here."""
NOT_PASSED = ("JAX_PLATFORMS",)


class Cluster(NamedTuple):
    """Where the blocks of a run are trained, for `train(config, cluster=...)`."""

    where: str  # auto, local, local:N, or HOST:PORT of the head
    shared_folder: bool = True  # nodes see the run folder at the same path; False: files travel through Ray
    mixed: bool = False  # blocks may come from different devices, whose last bits differ
    per_block: Mapping[str, float] = MappingProxyType({})  # resources by Ray's names; empty: one device, or one CPU


class Probed(NamedTuple):
    """What a node says of itself."""

    machine: Machine
    plugin_problem: str
    sees_folder: bool


def needs_of(cluster: Cluster, nodes: Sequence[Node]) -> dict[str, float]:
    """Resources of a block: what was asked, else a device where the cluster has any, else a CPU."""
    if cluster.per_block:
        return dict(cluster.per_block)
    found = next((name for name in ACCELERATORS if any(node.resources.get(name) for node in nodes)), None)
    return {"CPU": 1.0} if found is None else {"CPU": 1.0, found: 1.0}


def devices_of(needs: Mapping[str, float]) -> int:
    """Devices of a block."""
    return max(1, int(max(needs.get(name, 0.0) for name in ACCELERATORS)))


def is_on_cpu(needs: Mapping[str, float]) -> bool:
    """Whether blocks are trained on CPUs."""
    return not any(needs.get(name) for name in ACCELERATORS)


def threads_of(needs: Mapping[str, float]) -> int:
    """Threads of a block on CPUs, 0 on accelerators; they decide its last bits."""
    return max(1, int(needs.get("CPU", 1.0))) if is_on_cpu(needs) else 0


def find_nodes(ray: Any, cluster: Cluster, tell: Callable[[str], None]) -> list[Node]:
    """The nodes that have room for a block; others may join meanwhile, for a while.

    Args:
      ray: the connected module.
      cluster: what is asked.
      tell: says that nodes are waited for.

    Raises:
      ConfigError: there are none, with what was asked and what there is.
    """
    until = time.monotonic() + (0.0 if cluster.where.startswith(LOCAL) else PATIENCE)
    told = False
    while True:
        nodes = nodes_of(ray)
        needs = needs_of(cluster, nodes)
        if fit := [node for node in nodes if slots_on(node, needs) > 0]:
            return fit
        if time.monotonic() >= until:
            there = "; ".join(f"{node.ip}: {resources_text(node.resources)}" for node in nodes[:8])
            more = f" and {counted(len(nodes) - 8, 'more node')}" if len(nodes) > 8 else ""
            raise ConfigError(
                f"a block needs {resources_text(needs)} and no node of the cluster has that; there is {there}{more}"
            )
        if not told:
            tell(f"waiting up to {PATIENCE:.0f} s for a node with {resources_text(needs)}")
            told = True
        time.sleep(1.0)


def environment(needs: Mapping[str, float]) -> dict[str, str]:
    """Environment variables of a worker: JAX's and ours as they are here, plug-ins, threads and platform."""
    passed = {key: value for key, value in os.environ.items() if key.startswith(PASSED) and key not in NOT_PASSED}
    passed |= plugins.as_variable()
    if is_on_cpu(needs):
        passed |= {"JAX_PLATFORMS": "cpu", "NPROC": str(threads_of(needs))}  # the latter counts XLA's threads
    return passed


def plugins_needed() -> tuple[str, ...]:
    """Modules that the nodes must be able to import.

    Raises:
      ConfigError: one is a notebook, which no other process can import.
    """
    from lsf_jax.registry.state import NOTEBOOK

    named = plugins.loaded_plugins()
    if NOTEBOOK in named:
        raise ConfigError(
            "a plug-in is registered in a notebook or interactive session, which no node can import: put its "
            "lsf_jax.register(...) into a module and name that with --plugin, or import it"
        )
    return tuple(named)


def probe(start: str, modules: Sequence[str], device: str, threads: int, token: str) -> Probed:
    """What the node where this runs says of itself; no backend is initialised.

    Args:
      start: the driver's working folder.
      modules: plug-ins that it needs.
      device: kind of the accelerator, or "cpu".
      threads: of a block.
      token: a file in the run folder's parent that the driver has made, "" where none is shared.
    """
    with contextlib.suppress(OSError):
        os.chdir(start)
    problem = ""
    try:
        os.environ.pop(VARIABLE, None)
        plugins.load_plugins(modules, "the driver")
    except ConfigError as error:
        problem = str(error)
    return Probed(describe(device, threads), problem, not token or Path(token).is_file())


def probe_nodes(ray: Any, nodes: Sequence[Node], needs: Mapping[str, float], token: Path | None) -> dict[str, Probed]:
    """Ask every node, at the same time.

    Args:
      ray: the connected module.
      nodes: to be asked.
      needs: of a block.
      token: a file that nodes see which share the run folder; None where none is shared.

    Returns:
      Node -> what it says; a node that the cluster has lost meanwhile is left out.

    Raises:
      ConfigError: a node cannot be asked; lsf_jax is not installed there, for example.
    """
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    remote = ray.remote(probe)
    asked = {}
    for node in nodes:
        call = remote.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=affinity(node.id, soft=False),
            runtime_env={"env_vars": environment(needs)},
        )
        device = "cpu" if is_on_cpu(needs) else _accelerator(node)
        asked[node.id] = call.remote(
            os.getcwd(), plugins_needed(), device, threads_of(needs), "" if token is None else str(token)
        )
    answers = {}
    for node in nodes:
        try:
            answers[node.id] = ray.get(asked[node.id], timeout=PROBE_SECONDS)
        except ray.exceptions.RayError as error:
            if node.id not in [each.id for each in nodes_of(ray)]:
                continue
            reason = " ".join(str(getattr(error, "cause", None) or error).split())[-300:]
            raise ConfigError(
                f"node {node.ip} cannot be used: {reason}; the same lsf_jax, jax and Ray must be installed there"
            ) from None
    return answers


def check_probed(
    nodes: Sequence[Node], answers: Mapping[str, Probed], cluster: Cluster, on_record: Machine | None
) -> None:
    """Whether what nodes said of themselves lets them train one run together.

    Args:
      nodes: that were asked, the driver's own first.
      answers: from `probe_nodes`.
      cluster: what was asked.
      on_record: what has trained blocks of the run before; None for a new one.

    Raises:
      ConfigError: a plug-in is missing, the run folder's place is not shared, software is another than the driver's,
        or devices differ and that was not asked for.
    """
    here = describe("cpu", 1)
    first = None if on_record is None else on_record._replace(device=answers[nodes[0].id].machine.device)
    for node in nodes:
        answer = answers[node.id]
        if answer.plugin_problem:
            raise ConfigError(f"node {node.ip}: {answer.plugin_problem}")
        if not answer.sees_folder:
            raise ConfigError(
                f"node {node.ip} does not see the folder of the runs: mount it there at the same path, or use "
                "--no-shared-folder"
            )
        if other := difference(here, answer.machine, SOFTWARE):
            raise ConfigError(f"node {node.ip} is not like the driver: {other}; install the same there")
        first = first or answer.machine
        if not cluster.mixed and (other := difference(first, answer.machine)):
            raise ConfigError(refusal(node.ip, other))


def refusal(where: str, other: str) -> str:
    """What is said of a node whose device is another one."""
    return (
        f"node {where} would give other last bits than the rest: {other}; choose like nodes with --per-block, or allow "
        "the mixture with --mixed"
    )


def _accelerator(node: Node) -> str:
    kinds = [name.partition(":")[2] for name in node.resources if name.startswith("accelerator_type:")]
    return kinds[0] if kinds else "accelerator"
