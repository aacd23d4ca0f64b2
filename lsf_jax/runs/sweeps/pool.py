"""Jobs over the workers of a cluster: who gets which, what is done again elsewhere, and when it is given up.

Knows nothing of training: a job is a number, a worker an actor with `open`, `run` (a generator), `stop` and `close`.
"""

import collections
import contextlib
import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lsf_jax.cluster.connect import Node, nodes_of, slots_on
from lsf_jax.settings import ConfigError, counted

LOOK_SECONDS = 1.0
"""Between two looks at which nodes there are."""
WAIT_SECONDS = 0.2
SAME_REASON = 3
"""Errors of one kind that a job may raise, or losses of its worker without its getting further: it is given up then."""
LOSSES = 20
"""Nodes that may be lost under one job without its getting further: that tells nothing about the job. Also how often it
may fail for whatever reasons."""
IN_FLIGHT = 16
"""Messages of a worker that may be on their way to the driver."""
CLOSE_SECONDS = 5.0


class Hooks(NamedTuple):
    """What the pool asks and tells the driver."""

    accept: Callable[[Any], str | None]  # what `open` gave -> why that worker is refused
    begin: Callable[[int, Any], Any]  # job, what `open` gave -> the argument of `run`
    take: Callable[[int, Any], None]  # a message of a job
    lost: Callable[[int], Any]  # a job has failed -> how far it got that is saved
    note: Callable[[str], None]


class Cause(NamedTuple):
    """Why an actor's call failed."""

    text: str
    node_lost: bool
    raised: bool = False  # by the job itself: where it gets a little further each time, that is no recovery

    @property
    def kind(self) -> str:
        """The same for the same reason, though numbers and names of temporary files differ."""
        return re.sub(r"'[^']*'|\d+", "*", self.text)


class Hand:
    """One worker as the driver sees it."""

    def __init__(self, actor: Any, opening: Any) -> None:
        """A worker that is starting.

        Args:
          actor: its handle.
          opening: reference to what `open` returns.
        """
        self.actor, self.pending, self.opened, self.job = actor, opening, None, -1

    @property
    def is_busy(self) -> bool:
        """Whether it has a job."""
        return self.job >= 0


class Pool:
    """The workers of one run. Host state, hence a class."""

    def __init__(self, ray: Any, start: Callable[[], Hand], needs: Mapping[str, float], hooks: Hooks) -> None:
        """Nothing is started yet.

        Args:
          ray: the connected module.
          start: makes a worker.
          needs: resources of one, by Ray's names.
          hooks: what to ask and tell.
        """
        self.ray, self.start, self.needs, self.hooks = ray, start, dict(needs), hooks
        self.hands: list[Hand] = []
        self.parked: list[Hand] = []
        self.leaving: dict[Hand, Any] = {}  # worker -> reference to what `close` returns
        self.open: collections.deque[int] = collections.deque()
        self.given_up: dict[int, str] = {}
        self.losses: dict[int, collections.Counter[str]] = {}
        self.errors: dict[int, collections.Counter[str]] = {}
        self.saved: dict[int, Any] = {}
        self.opening_failures: collections.Counter[str] = collections.Counter()
        self.healed = 0
        self.is_stopping = False
        self.looked_at = -float("inf")
        self.nodes: list[Node] = []

    @property
    def n_busy(self) -> int:
        """Workers that have a job."""
        return sum(hand.is_busy for hand in self.hands)

    def run(self, jobs: Iterable[int], stopping: Callable[[], bool]) -> dict[int, str]:
        """Do all jobs; on a stop, those at hand are saved and the others left.

        Args:
          jobs: numbers of at least 0.
          stopping: whether a stop was asked for.

        Returns:
          What was given up: job -> why.

        Raises:
          ConfigError: no worker can be started.
        """
        self.open.extend(jobs)
        try:
            while self.open or self.n_busy:
                if not self.is_stopping and stopping():
                    self._ask_to_stop()
                self._look()
                self._take_messages()
                self._hand_out()
        finally:
            self.release()
        return self.given_up

    def release(self) -> None:
        """End all workers."""
        for hand in list(self.hands):
            self._dismiss(hand)
        closing = list(self.leaving.values())
        with contextlib.suppress(Exception):
            self.ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for hand in (*self.leaving, *self.parked):
            self._kill(hand)
        self.leaving.clear()
        self.parked.clear()

    def drop(self, hand: Hand) -> None:
        """End a worker that has failed."""
        self._kill(hand)
        self.hands.remove(hand)

    def _dismiss(self, hand: Hand) -> None:
        """Let a worker that is idle tidy up before it ends; any other ends at once."""
        self.hands.remove(hand)
        if hand.opened is None or hand.is_busy:
            self._kill(hand)
        else:
            self.leaving[hand] = hand.actor.close.remote()

    def _end_closed(self) -> None:
        """End the workers that have tidied up."""
        if not self.leaving:
            return
        closed, _ = self.ray.wait(list(self.leaving.values()), num_returns=len(self.leaving), timeout=0)
        done = {id(each) for each in closed}
        for hand in [hand for hand, closing in self.leaving.items() if id(closing) in done]:
            self._kill(hand)
            del self.leaving[hand]

    def _ask_to_stop(self) -> None:
        self.is_stopping = True
        self.open.clear()
        for hand in list(self.hands):
            if hand.is_busy:
                hand.actor.stop.remote()
            else:
                self._dismiss(hand)

    def _look(self) -> None:
        """Keep as many workers as there are jobs for and the nodes have room for."""
        if time.monotonic() - self.looked_at < LOOK_SECONDS:
            return
        self.looked_at = time.monotonic()
        self.nodes = [node for node in nodes_of(self.ray) if slots_on(node, self.needs)]
        wanted = min(len(self.open) + self.n_busy, self.n_slots() - len(self.parked))
        for _ in range(wanted - len(self.hands)):
            self.hands.append(self.start())
        for hand in [hand for hand in self.hands if not hand.is_busy][: max(len(self.hands) - wanted, 0)]:
            if not self.open:  # nothing is left for it: others may have its place
                self._dismiss(hand)
        self._end_closed()

    def n_slots(self) -> int:
        """Workers that the living nodes have room for, if nobody else uses them."""
        return sum(slots_on(node, self.needs) for node in self.nodes)

    def _take_messages(self) -> None:
        """All that has arrived, or nothing after a short while."""
        waiting = {id(hand.pending): hand for hand in self.hands if hand.pending is not None}
        if not waiting:
            time.sleep(WAIT_SECONDS if self.open else 0.0)
            return
        pending = [hand.pending for hand in waiting.values()]
        ready, _ = self.ray.wait(pending, num_returns=1, timeout=WAIT_SECONDS)
        if ready and len(pending) > 1:
            ready, _ = self.ray.wait(pending, num_returns=len(pending), timeout=0)
        for each in ready:
            self._take(waiting[id(each)])

    def _take(self, hand: Hand) -> None:
        """What one worker has for us."""
        try:
            message = self.ray.get(next(hand.pending)) if hand.is_busy else self.ray.get(hand.pending)
        except StopIteration:
            hand.job, hand.pending = -1, None
            return
        except self.ray.exceptions.RayError as error:
            self._failed(hand, self._cause(hand, error))
            return
        except Exception as error:  # what was raised over there, as Ray hands it on
            self._failed(hand, Cause(_line(error), node_lost=False))
            return
        if hand.is_busy:
            self.hooks.take(hand.job, message)
            return
        hand.pending, hand.opened = None, message
        self.opening_failures.clear()
        refused = self.hooks.accept(message)
        if refused is not None:
            self._park(hand, refused)

    def _park(self, hand: Hand, why: str) -> None:
        """Keep a worker that is refused where it is, without a job: another one would be started in its place.

        Raises:
          ConfigError: it is the first of all.
        """
        if not any(other.opened is not None for other in self.hands if other is not hand):
            raise ConfigError(why)
        self.hooks.note(why)
        self.hands.remove(hand)
        self.parked.append(hand)

    def _hand_out(self) -> None:
        for hand in self.hands:
            if self.open and hand.opened is not None and not hand.is_busy:
                hand.job = self.open.popleft()
                argument = self.hooks.begin(hand.job, hand.opened)
                call = hand.actor.run.options(_generator_backpressure_num_objects=IN_FLIGHT)
                hand.pending = call.remote(argument)

    def _failed(self, hand: Hand, cause: Cause) -> None:
        job = hand.job
        self.drop(hand)
        if job < 0:
            self._not_opened(cause)
            return
        saved, losses = self.hooks.lost(job), self.losses.setdefault(job, collections.Counter())
        if self.saved.get(job) != saved:  # it got further since: what took its worker then is not what does now
            losses.clear()
            self.saved[job] = saved
        count = self.errors.setdefault(job, collections.Counter()) if cause.raised else losses
        count[cause.kind] += 1
        most = LOSSES if cause.node_lost else SAME_REASON
        if count[cause.kind] >= most or count.total() >= LOSSES:
            self.given_up[job] = cause.text
            self.hooks.note(f"block {job} failed {counted(count.total(), 'time')} and is given up: {cause.text}")
            return
        if self.is_stopping:
            return
        self.healed += 1
        self.hooks.note(f"block {job}: {cause.text}; it goes on from its last checkpoint")
        self.open.append(job)
        self.looked_at = -float("inf")

    def _not_opened(self, cause: Cause) -> None:
        """A worker could not be started.

        Raises:
          ConfigError: it is the third in a row for this reason.
        """
        self.opening_failures[cause.kind] += 1
        if self.opening_failures[cause.kind] >= SAME_REASON or self.opening_failures.total() >= LOSSES:
            raise ConfigError(f"no worker can be started: {cause.text}")

    def _cause(self, hand: Hand, error: Any) -> Cause:
        errors = self.ray.exceptions
        if isinstance(error, errors.RayTaskError):
            return Cause(_line(error.cause or error), node_lost=False, raised=True)
        if isinstance(error, errors.OutOfMemoryError):
            return Cause("its node ran out of memory", node_lost=False)
        node = getattr(hand.opened, "node", None)
        if node is not None and node not in [each.id for each in nodes_of(self.ray)]:
            return Cause("its node was lost", node_lost=True)
        return Cause("its worker died", node_lost=False)

    def _kill(self, hand: Hand) -> None:
        with contextlib.suppress(Exception):
            self.ray.kill(hand.actor, no_restart=True)


def _line(error: BaseException) -> str:
    """An exception of another machine as one line."""
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, ConfigError) and text else f"{type(error).__name__}: {text}"
