"""Games on several nodes as one `HostEnv`: who plays where, what each has said, and what a lost node's games become.

A node that goes down takes its episodes with it: they are reported as LOST, as a pool reports those of a crashed game,
and their workers are homeless. A homeless worker is put on a node with a free slot; while there is none, the workers
that are left take turns: a slot whose episode has ended goes to whoever has waited longest.
"""

import selectors
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lsf_jax.envs.host import FIRST, LOST, Event, HostError
from lsf_jax.envs.hosts import line as lines
from lsf_jax.envs.hosts.node import BEAT, Started
from lsf_jax.envs.hosts.places import (
    Connect,
    Nodes,
    Offer,
    Place,
    Shape,
    Slot,
    enough_offers,
    last_line,
    see_off,
    tell,
)
from lsf_jax.envs.hosts.rows import KINDS, event_rows, order_rows, pack_orders, unpack_event
from lsf_jax.envs.workers.config import WorkersConfig
from lsf_jax.envs.workers.pool import COUNTERS
from lsf_jax.envs.workers.reporters import Pending, Reporter, blank, check_actions
from lsf_jax.types import Observation

LOOK = 2.0  # seconds between two looks for free slots while workers are homeless
WATCH = 0.05  # seconds between two looks at nodes whose games are starting
ALONE = 60.0  # seconds without any node after which games cannot go on
ARRIVAL = 50.0  # seconds that a node's process may take to start, before its games do
PARTING = 15.0  # seconds that nodes get to end their games
SEEDS = 100_000
"""Seeds between those of two nodes: a pool takes another one for every game that it launches."""
OWN_COUNTERS = ("lost_nodes",)
"""What pools do not count: nodes that went down, or whose games could not go on."""


class RemoteGames:
    """`n_workers` games on the nodes of a cluster: a `HostEnv`. Not for several threads.

    Args:
      connect: to where games can be played; entered when they start, left when they are closed.
      shape: what they must be like.
      cfg: how their pools work; `deadline` is also what a node gets to answer before it is given up.
      n_workers: games side by side.
      seed: of the games; each node has a range of its own.
    """

    def __init__(self, connect: Connect, shape: Shape, cfg: WorkersConfig, n_workers: int, seed: int) -> None:
        self.spec, self.n_workers = shape.spec, n_workers
        self.observation: Observation = blank(shape.spec, n_workers)
        self.counters: dict[str, int] = dict.fromkeys((*COUNTERS, *OWN_COUNTERS), 0)
        self.last_fault = ""
        self._connect, self._cfg, self._info, self._seed = connect, cfg, shape.info, seed
        self._nodes: Nodes | None = None
        self._connection = ExitStack()
        self._orders, self._events = order_rows(shape.spec), event_rows(shape.spec, shape.info)
        self._selector = selectors.DefaultSelector()
        self._workers = [Reporter(index) for index in range(n_workers)]
        self._slots: dict[int, Slot] = {}  # by worker
        self._homeless: deque[Reporter] = deque(self._workers)
        self._places: list[Place] = []
        self._opened = 0  # places so far
        self._failures: dict[str, int] = {}  # of a node, since its games last began
        self._past: dict[str, int] = {}  # counters of places that are gone
        self._attended = 0.0  # seconds in which answers were waited for: a trainer that was stopped blames nobody
        self._look_at = self._alone_since = time.monotonic()

    def start(self) -> None:
        """Starts games on all nodes and waits until each has begun its first episode.

        Raises:
          HostError: too few slots are free, or a node cannot play; all games are closed then.
        """
        if self._opened:
            raise HostError("the games have been started already")
        try:
            self._nodes = self._connection.enter_context(self._connect())
            self._deal(self._nodes, enough_offers(self._nodes, self.n_workers, self._cfg.hosts))
            while not self._places or any(place.line is None for place in self._places):
                self._take(1.0, at_start=True)
        except BaseException:
            self.close()
            raise

    def send(self, workers: Sequence[int], actions: np.ndarray) -> None:
        """Starts one step of each named worker; see `HostEnv.send`."""
        actions = np.asarray(actions)
        idle = [worker.index for worker in self._workers if worker.wants_action]
        check_actions(self.spec, workers, actions, idle, self.observation.avail)
        orders: dict[Place, list[tuple[int, int, np.ndarray]]] = {}
        for index, joint in zip(workers, actions):
            worker, slot = self._workers[index], self._slots.get(index)
            worker.wants_action = False
            if slot is not None and not worker.pending:  # else its episode is lost, which receive will report
                slot.is_busy, slot.is_fresh = True, False
                orders.setdefault(slot.place, []).append((slot.index, slot.seen, joint))
        for place, of_place in orders.items():
            tell(place, lines.ORDERS, pack_orders(of_place, self._orders).tobytes())

    def receive(self, min_ready: int, timeout: float) -> list[Event]:
        """Events of whoever is ready; see `HostEnv.receive`. Here nodes are given up and workers find another one."""
        end = time.monotonic() + timeout
        self._take(0.0)
        while sum(bool(worker.pending) for worker in self._workers) < min_ready:
            left = end - time.monotonic()
            if not self._is_under_way() and not self._make_room():
                break
            if left <= 0:
                break
            self._take(left)
        return [worker.deliver(self.observation) for worker in self._workers if worker.pending]

    def save_replay(self, worker: int, folder: str | Path) -> Path:
        """Saves what the worker's game has seen since it was launched; see `Pool.save_replay`.

        Raises:
          HostError: the game could not save it, or went down meanwhile.
        """
        slot = self._slots.get(worker)
        if slot is None:
            raise HostError(f"worker {worker} has no game to save a replay of")
        place = slot.place
        place.replay = None
        tell(place, lines.REPLAY, str(slot.index).encode())
        while place.replay is None and place in self._places:
            self._take(1.0)
        kind, content = place.replay or (lines.NO_REPLAY, self.last_fault.encode())
        if kind != lines.REPLAY:
            raise HostError(f"worker {worker} on {place.offer.label}: {content.decode()}")
        name, _, content = content.partition(b"\0")
        path = _unused(Path(folder).absolute() / Path(name.decode()).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def close(self) -> None:
        """Ends all games and waits until their nodes have said so; may be called again."""
        end = time.monotonic() + PARTING
        for place in self._places:
            tell(place, lines.END)
        for place in self._places:
            see_off(place, end)
            place.door.shut()
        self._places.clear()
        self._slots.clear()
        self._selector.close()
        self._connection.close()
        self._nodes = None
        for worker in self._workers:
            worker.pending.clear()
            worker.wants_action = worker.is_playing = False

    def _deal(self, nodes: Nodes, offers: Sequence[Offer]) -> None:
        """Open places for homeless workers that no slot is promised to, one node after another, as one deals cards.

        Slots are promised to as many as are homeless, not to certain ones: until a place is open, workers take turns.
        """
        promised = [guest for place in self._places if place.line is None for guest in place.guests]
        others = [worker.index for worker in self._homeless if worker.index not in promised]
        waiting = deque(others[: len(self._homeless) - len(promised)])
        hands: list[list[int]] = [[] for _ in offers]
        while waiting and any(len(hand) < offer.slots for hand, offer in zip(hands, offers)):
            for hand, offer in zip(hands, offers):
                if waiting and len(hand) < offer.slots:
                    hand.append(waiting.popleft())
        for hand, offer in zip(hands, offers):
            if hand:
                seed = (self._seed + SEEDS * self._opened) % 2**31
                self._opened += 1
                place = Place(offer, nodes.open(offer.node, len(hand)), hand, seed)
                place.heard_at = self._attended
                self._places.append(place)

    def _take(self, timeout: float, *, at_start: bool = False) -> None:
        """Wait for the first node that says something, and take in what all say; see to what has changed."""
        for place in [place for place in self._places if place.line is None and place.answer.done()]:
            self._welcome(place, at_start)
        is_starting = any(place.line is None for place in self._places)
        patience = min(timeout, WATCH) if is_starting else min(timeout, LOOK)
        began = time.monotonic()
        for key, _ in self._selector.select(patience):
            self._listen(key.data)
        self._attended += min(time.monotonic() - began, patience)
        self._give_up_the_silent()
        if self._homeless:
            self._find_homes()

    def _welcome(self, place: Place, at_start: bool) -> None:
        """A place has done what it was asked on its way to its first episodes: on to the next."""
        error = place.answer.exception()
        if error is not None:
            self._lose(place, last_line(error))
        elif place.asked == "arrive":
            arguments = (len(place.guests), place.seed, self.spec, place.offer.host, place.secret)
            place.asked, place.answer = "start", place.door.call("start", *arguments)
        else:
            started: Started = place.answer.result()
            problem = started.problem or self._connect_to(place, started)
            if problem and at_start:
                raise HostError(f"{place.offer.label}: {problem}")
            if problem:
                self._lose(place, problem)

    def _connect_to(self, place: Place, started: Started) -> str:
        """A line to a place whose games have begun, and workers for them; or why there is none."""
        try:
            place.line = lines.call_up(place.offer.host, started.port, place.secret)
        except OSError as error:
            return f"cannot be reached at {place.offer.host}:{started.port}: {error}; open its ports to this machine"
        self._selector.register(place.line, selectors.EVENT_READ, place)
        place.heard_at, place.counters = self._attended, dict.fromkeys(started.counters, 0)
        self._failures.pop(place.offer.node, None)
        dealt = [worker for worker in self._homeless if worker.index in place.guests]
        others = [worker for worker in self._homeless if worker.index not in place.guests]
        for index, worker in enumerate((dealt + others)[: len(place.guests)]):
            self._homeless.remove(worker)
            slot = Slot(place, index, worker)
            place.slots.append(slot)
            self._slots[worker.index] = slot
        return ""

    def _listen(self, place: Place) -> None:
        """What a node says."""
        try:
            frames = place.line.receive() if place.line is not None else []
        except OSError:
            self._lose(place, "the node or its process is gone")
            return
        place.heard_at = self._attended
        for kind, content in frames:
            if kind == lines.EVENTS:
                for row in np.frombuffer(content, self._events):
                    self._note(place.slots[row["slot"]], row)
            elif kind == lines.COUNTERS:
                self._count(place, np.frombuffer(content, np.int64).tolist())
            elif kind == lines.PROBLEM:
                self._failures[place.offer.node] = self._cfg.max_restarts  # its games were tried so often already
                self._lose(place, content.decode())
                return
            else:
                place.replay = (kind, content)

    def _note(self, slot: Slot, row: Any) -> None:
        """What one game has reported."""
        worker, kind, done = slot.worker, KINDS[row["kind"]], bool(row["done"])
        slot.seen += 1
        slot.is_busy = done or kind == LOST
        slot.is_fresh = kind == FIRST
        if kind == LOST:
            self.counters["lost_episodes"] += worker.void()
            return
        worker.pending.append(unpack_event(row, worker.index, self._info))
        if done:
            worker.is_playing = False
            if self._homeless:
                self._hand_over(slot)

    def _hand_over(self, slot: Slot) -> None:
        """Between two episodes, whoever has waited longest takes the slot."""
        self._homeless.append(slot.worker)
        del self._slots[slot.worker.index]
        slot.worker = self._homeless.popleft()
        self._slots[slot.worker.index] = slot

    def _make_room(self) -> bool:
        """Give a slot whose worker has not begun its episode to a homeless one; whether there was any.

        All games wait for actions, and more events are wanted: those that are waited for are the homeless workers'.
        """
        slot = next((each for each in self._slots.values() if each.is_fresh and each.worker.wants_action), None)
        if slot is None or not self._homeless:
            return False
        left, parts = slot.worker, self.observation
        seen: Any = Observation(*(np.array(part[left.index]) for part in parts))  # pyright: ignore[reportArgumentType]
        left.void()
        self._hand_over(slot)
        first = Event(worker=slot.worker.index, kind=FIRST)
        slot.worker.pending.append(Pending(first, seen))
        return True

    def _is_under_way(self) -> bool:
        return (
            not self._places
            or any(place.line is None for place in self._places)
            or any(slot.is_busy for slot in self._slots.values())
        )

    def _give_up_the_silent(self) -> None:
        for place in list(self._places):
            limit = ARRIVAL if place.line is None else BEAT + self._cfg.deadline
            if place.asked == "start" and place.line is None:
                continue  # the pool there has deadlines of its own
            if self._attended - place.heard_at > limit:
                self._lose(place, f"no answer within {limit:g} s")

    def _lose(self, place: Place, text: str) -> None:
        """A place is gone, or as good as: its episodes are void and its workers homeless."""
        node = place.offer.node
        self.last_fault = f"{place.offer.label}: {text}"
        self._places.remove(place)
        if place.line is not None:  # else nothing was played there: Ray may offer a dead node for a while
            self.counters["lost_nodes"] += 1
            self._selector.unregister(place.line)
            place.line.close()
        place.door.shut()
        for name, count in place.counters.items():
            self._past[name] = self._past.get(name, 0) + count
        for slot in place.slots:
            self.counters["lost_episodes"] += slot.worker.void()
            del self._slots[slot.worker.index]
            self._homeless.append(slot.worker)
        self._failures[node] = self._failures.get(node, 0) + 1
        now = time.monotonic()
        self._look_at = now + (LOOK if self._failures[node] > 1 else 0.0)
        self._alone_since = self._alone_since if self._places else now

    def _find_homes(self) -> None:
        """Look for free slots, now and then; without any node, not for ever."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK
        if self._nodes is not None:
            failures = [(self._failures.get(offer.node, 0), offer) for offer in self._nodes.offers()]
            self._deal(self._nodes, [offer for count, offer in failures if count == 0])
            self._deal(self._nodes, [offer for count, offer in failures if 0 < count <= self._cfg.max_restarts])
        if self._places:
            self._alone_since = now
        elif now - self._alone_since > ALONE:
            raise HostError(
                f"env.hosts={self._cfg.hosts}: no node has played for {ALONE:g} s, the last one was lost: "
                f"{self.last_fault}; start nodes and resume the run"
            )

    def _count(self, place: Place, counts: Sequence[int]) -> None:
        place.counters = dict(zip(place.counters, counts))
        for name in set(place.counters) - {"lost_episodes"}:  # some may not have arrived: ours are those reported
            now = sum(each.counters.get(name, 0) for each in self._places)
            self.counters[name] = self._past.get(name, 0) + now


def _unused(path: Path) -> Path:
    """The path, or one with a number behind its name: games on several nodes may choose the same."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free
