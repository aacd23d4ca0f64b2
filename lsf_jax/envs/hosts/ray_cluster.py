"""The nodes of a Ray cluster that offer slots for games, and actors on them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

from lsf_jax.cluster.connect import AUTO, LOCAL, Node, connected, import_ray, nodes_of, read_address
from lsf_jax.envs.host import Hosted
from lsf_jax.envs.hosts.node import NodeGames
from lsf_jax.envs.hosts.places import Offer
from lsf_jax.settings import ConfigError, clip

GAMES = "games"
"""The resource that a node offers, as many as it has room for games."""
VARIABLES = {"RAY_kill_child_processes_on_worker_exit": "0"}
"""Else Ray kills the supervisors of games together with the process that has started them, before they clear up."""
HOW_TO_OFFER = (
    f"""offer slots where the games are installed: ray start --address=HEAD:6379 --resources='{{"{GAMES}": 8}}'"""
)


@contextmanager
def ray_nodes(hosts: str, describe: Callable[[], Hosted]) -> Iterator["RayNodes"]:
    """The nodes of the cluster that `env.hosts` names, connected to as long as the `with` block lasts.

    Raises:
      ConfigError: Ray is not installed, or there is no such cluster, or it has other versions.
    """
    with ExitStack() as stack:
        try:
            check_hosts(hosts)
            where = AUTO if import_ray().is_initialized() else hosts  # a worker of a sweep is connected already
            ray = stack.enter_context(connected(where))
        except ConfigError as error:
            raise ConfigError(f"env.hosts={clip(hosts)}: {error}") from error
        yield RayNodes(ray, describe)


def check_hosts(hosts: str) -> None:
    """Nothing, if `env.hosts` names a cluster that others can be part of.

    Raises:
      ConfigError: it does not.
    """
    try:
        kind = read_address(hosts).kind
    except ConfigError:
        kind = LOCAL
    if kind == LOCAL:
        raise ConfigError("expected auto or HOST:PORT, the head of a cluster that this machine has joined")


class RayDoor:
    """The way to a `NodeGames` that is an actor.

    Args:
      ray: the module, connected.
      actor: its handle.
      node: where it is.
      slots: how many it takes.
    """

    def __init__(self, ray: Any, actor: Any, node: str, slots: int) -> None:
        self._ray, self._actor, self.node, self.slots = ray, actor, node, slots

    def call(self, method: str, *arguments: Any) -> Future:
        """Call a method there; see `Door.call`."""
        return getattr(self._actor, method).remote(*arguments).future()

    def shut(self) -> None:
        """Kill it; its games' supervisors see to the rest."""
        self.slots = 0
        self._ray.kill(self._actor)


class RayNodes:
    """The nodes of the connected cluster, as `lsf_jax.envs.hosts.games.Nodes` describes.

    Args:
      ray: the module, connected.
      describe: what is played, for a node to call; whatever is in it is importable there, or a copy goes along.
    """

    def __init__(self, ray: Any, describe: Callable[[], Hosted]) -> None:
        self._ray, self._describe = ray, ray.cloudpickle.dumps(describe)
        self._doors: list[RayDoor] = []

    def offers(self) -> list[Offer]:
        """Living nodes that offer slots, and how many are free."""
        nodes = [node for node in nodes_of(self._ray) if node.resources.get(GAMES, 0) >= 1]
        free = free_resources(self._ray)
        if nodes and not any(node.id in free for node in nodes):
            free = self._estimate(nodes)
        return [
            Offer(node.id, f"node {node.ip} ({node.id[:6]})", node.ip, int(free.get(node.id, {}).get(GAMES, 0)))
            for node in nodes
        ]

    def open(self, node: str, slots: int) -> RayDoor:
        """An actor on that node, or nowhere; 0 slots: to look around."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # pyright: ignore[reportMissingImports]

        options: Mapping[str, Any] = {
            "num_cpus": 0,
            "resources": {GAMES: slots} if slots else None,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
            "runtime_env": {"env_vars": VARIABLES},
        }
        actor = self._ray.remote(NodeGames).options(**options).remote(self._describe)
        self._doors = [door for door in self._doors if door.slots] + [RayDoor(self._ray, actor, node, slots)]
        return self._doors[-1]

    def how_to_offer(self) -> str:
        """What to do so that a node offers slots."""
        return HOW_TO_OFFER

    def _estimate(self, nodes: Sequence[Node]) -> dict[str, dict[str, float]]:
        """What may be free where Ray tells only what is in the cluster as a whole: what others hold may be anywhere.

        A place that is opened where nothing is free does not answer, and is given up.
        """
        free = self._ray.available_resources().get(GAMES, 0.0)
        own = {node.id: sum(door.slots for door in self._doors if door.node == node.id) for node in nodes}
        return {node.id: {GAMES: min(free, node.resources[GAMES] - own[node.id])} for node in nodes}


def free_resources(ray: Any) -> dict[str, dict[str, float]]:
    """What is free now, by node; empty where this version of Ray does not tell.

    Its public interface tells what is free in the cluster as a whole; what is free on each node is a "developer API" in
    a private module (ray-project/ray#43252), which was asked for in public and refused (#60135).
    """
    try:
        return ray._private.state.available_resources_per_node()
    except (AttributeError, TypeError):
        return {}
