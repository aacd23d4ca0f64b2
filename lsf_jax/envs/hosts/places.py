"""Where games are played: what a cluster offers, and the place that a trainer has on a node."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, suppress
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lsf_jax.envs.host import HostError
from lsf_jax.envs.hosts import line as lines
from lsf_jax.envs.hosts.line import Line
from lsf_jax.envs.workers.reporters import Reporter
from lsf_jax.settings import clip, counted
from lsf_jax.types import EnvSpec

JOIN = 20.0  # seconds that nodes get to join before too few slots are refused


class Offer(NamedTuple):
    """Slots for games that a node has free."""

    node: str  # what it is known by
    label: str  # what people call it
    host: str  # its address
    slots: int


@runtime_checkable
class Door(Protocol):
    """The way to a `NodeGames` on a node."""

    def call(self, method: str, *arguments: Any) -> Future:
        """Call a method there; the future fails when the node is gone."""
        ...

    def shut(self) -> None:
        """End it, whatever it is doing, without waiting."""
        ...


@runtime_checkable
class Nodes(Protocol):
    """Where games can be played."""

    def offers(self) -> list[Offer]:
        """Nodes that offer slots, and how many of those are free now."""
        ...

    def open(self, node: str, slots: int) -> Door:
        """Start a `NodeGames` that takes so many slots of a node."""
        ...

    def how_to_offer(self) -> str:
        """What to do so that a node offers slots."""
        ...


Connect = Callable[[], AbstractContextManager[Nodes]]


def enough_offers(nodes: Nodes, n_workers: int, hosts: str) -> list[Offer]:
    """Nodes with free slots for so many games; those that are just joining are waited for.

    Args:
      nodes: all that there are.
      n_workers: games side by side; 0: nodes with slots will do, free or not.
      hosts: what they were named as, for errors.

    Raises:
      HostError: no node offers slots, or too few are free; one line.
    """
    end = time.monotonic() + JOIN
    while not (offers := nodes.offers()) or sum(offer.slots for offer in offers) < n_workers:
        if time.monotonic() > end:
            raise HostError(f"env.hosts={clip(hosts)}: {_shortage(offers, n_workers)}{nodes.how_to_offer()}")
        time.sleep(0.5)
    return offers


def _shortage(offers: list[Offer], n_workers: int) -> str:
    if not offers:
        return "no node offers slots for games; "
    free = counted(sum(offer.slots for offer in offers), "slot")
    return (
        f"expected slots for {counted(n_workers, 'game')}, but {free} free on {counted(len(offers), 'node')}; lower "
        "train.n_envs, train.seeds or train.block, or "
    )


class Shape(NamedTuple):
    """What the trainer was built for."""

    spec: EnvSpec
    info: tuple[str, ...]  # names of what every step reports


class Slot:
    """One game of a node, and which worker plays it."""

    def __init__(self, place: "Place", index: int, worker: Reporter) -> None:
        self.place, self.index, self.worker = place, index, worker
        self.seen = 0  # its events so far
        self.is_busy = True  # an event of it is due
        self.is_fresh = False  # it waits for the first action of an episode


class Place:
    """A `NodeGames` as the trainer sees it."""

    def __init__(self, offer: Offer, door: Door, guests: list[int], seed: int) -> None:
        self.offer, self.door, self.seed = offer, door, seed
        self.guests = guests  # workers that are to play here; their number is that of its slots
        self.slots: list[Slot] = []  # none until its games have begun
        self.secret = lines.new_secret()
        self.asked, self.answer = "arrive", door.call("arrive")  # until there is a line
        self.line: Line | None = None
        self.heard_at = 0.0  # when it last said anything, or was asked
        self.counters: dict[str, int] = {}
        self.replay: tuple[int, bytes] | None = None  # answer to the last request for a replay


def tell(place: Place, kind: int, content: bytes = b"") -> None:
    """Send a frame; that its node is gone is no error here: `receive` will notice."""
    if place.line is not None:
        with suppress(OSError):
            place.line.send(kind, content)


def see_off(place: Place, end: float) -> None:
    """Wait until a node whose games are to end has hung up, which is when nothing is left of them."""
    with suppress(OSError):
        while place.line is not None and (left := end - time.monotonic()) > 0:
            place.line.wait(left)
            place.line.receive()
    if place.line is not None:
        place.line.close()


def last_line(error: BaseException) -> str:
    """The last line of what an exception says, which is where nodes put the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
