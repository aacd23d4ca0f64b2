"""The nodes of a Ray cluster that offer slots for games, and actors on them."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from lsf_jax.cluster.connect import AUTO, LOCAL, connected, import_ray, nodes_of, read_address
from lsf_jax.envs.host import Hosted
from lsf_jax.envs.hosts.node import NodeGames
from lsf_jax.envs.hosts.places import Offer
from lsf_jax.settings import ConfigError, clip

GAMES = "games"
"""The resource that a node offers, as many as it has room for games."""
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


class RayDoor(NamedTuple):
    """The way to a `NodeGames` that is an actor."""

    ray: Any
    actor: Any

    def call(self, method: str, *arguments: Any) -> Future:
        """Call a method there; see `Door.call`."""
        return getattr(self.actor, method).remote(*arguments).future()

    def shut(self) -> None:
        """Kill it; its games' supervisors see to the rest."""
        self.ray.kill(self.actor)


class RayNodes:
    """The nodes of the connected cluster, as `lsf_jax.envs.hosts.games.Nodes` describes.

    Args:
      ray: the module, connected.
      describe: what is played, for a node to call; whatever is in it is importable there, or a copy goes along.
    """

    def __init__(self, ray: Any, describe: Callable[[], Hosted]) -> None:
        self._ray, self._describe = ray, ray.cloudpickle.dumps(describe)

    def offers(self) -> list[Offer]:
        """Living nodes that offer slots, and how many are free."""
        free = self._ray._private.state.available_resources_per_node()
        return [
            Offer(node.id, f"node {node.ip} ({node.id[:6]})", node.ip, int(free.get(node.id, {}).get(GAMES, 0)))
            for node in nodes_of(self._ray)
            if node.resources.get(GAMES, 0) >= 1
        ]

    def open(self, node: str, slots: int) -> RayDoor:
        """An actor on that node, or nowhere; 0 slots: to look around."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # pyright: ignore[reportMissingImports]

        options: Mapping[str, Any] = {
            "num_cpus": 0,
            "resources": {GAMES: slots} if slots else None,
            "max_restarts": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        return RayDoor(self._ray, self._ray.remote(NodeGames).options(**options).remote(self._describe))

    def how_to_offer(self) -> str:
        """What to do so that a node offers slots."""
        return HOW_TO_OFFER
