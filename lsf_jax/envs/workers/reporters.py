"""What every `HostEnv` of ours does with observations and actions, wherever its games are."""

from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from lsf_jax.envs.host import FIRST, LOST, STEP, Event
from lsf_jax.types import EnvSpec, Observation


class Pending(NamedTuple):
    """An event that has not been returned yet, and what its worker looked like then (None for LOST)."""

    event: Event
    observation: Observation | None


class Reporter:
    """One worker as `receive` and `send` see it: events that wait, and what it waits for."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.is_playing = False  # FIRST was returned, and neither the end of that episode nor its loss has happened
        self.wants_action = False
        self.pending: deque[Pending] = deque()

    def void(self) -> bool:
        """Forgets events of an episode that has come to nothing; whether it had begun, and LOST will say so."""
        while self.pending and not (self.pending[-1].event.done or self.pending[-1].event.kind == LOST):
            self.pending.pop()  # of the void episode, or of one that has not been reported
        was_playing, self.is_playing = self.is_playing, False
        if was_playing:
            lost = Event(worker=self.index, kind=LOST, reward=0.0, terminal=False, done=False, info={})
            self.pending.append(Pending(event=lost, observation=None))
        return was_playing

    def deliver(self, rows: Observation) -> Event:
        """The oldest event that waits; what was seen with it is written into this worker's rows."""
        event, observation = self.pending.popleft()
        if observation is not None:
            for part, row in zip(rows, observation):
                np.copyto(part[self.index], row)  # pyright: ignore[reportArgumentType]
        self.is_playing |= event.kind == FIRST
        self.wants_action = event.kind == FIRST or (event.kind == STEP and not event.done)
        return event


def check_actions(
    spec: EnvSpec, workers: Sequence[int], actions: np.ndarray, idle: Collection[int], avail: Any
) -> None:
    """Nothing, if actions may be sent.

    Args:
      spec: sizes of the games.
      workers: whom they are for.
      actions: `[len(workers), N]`.
      idle: workers that wait for one.
      avail: `[W, N, A]` bool, as the workers reported last.

    Raises:
      ValueError: they may not; it says why.
    """
    shape = (len(workers), spec.n_agents)
    if actions.shape != shape or not np.issubdtype(actions.dtype, np.integer):
        raise ValueError(f"actions are {actions.dtype} {actions.shape}; expected integers {shape}")
    if set(workers) - set(idle) or len(set(workers)) < len(workers):
        raise ValueError(
            f"actions for workers {list(workers)}; expected some of those that wait for one: {sorted(idle)}"
        )
    for index, joint in zip(workers, actions.tolist()):  # few at a time: plain Python is faster than NumPy here
        masks = np.asarray(avail)[index]
        for agent, action in enumerate(joint):
            if not (0 <= action < spec.n_actions and masks[agent, action]):
                raise ValueError(
                    f"worker {index}: agent {agent} cannot take action {action}; available are "
                    f"{np.flatnonzero(masks[agent]).tolist()}"
                )


def blank(spec: EnvSpec, n_workers: int) -> Observation:
    """Zeros in the shapes of `HostEnv.observation`, and everything available, as before anybody has reported."""
    obs: Any = np.zeros((n_workers, spec.n_agents, spec.obs_dim), np.float32)
    state: Any = np.zeros((n_workers, spec.state_dim), np.float32)
    avail: Any = np.ones((n_workers, spec.n_agents, spec.n_actions), bool)
    return Observation(obs=obs, state=state, avail=avail)
