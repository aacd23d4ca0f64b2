"""What travels between the trainer and a node: NumPy rows of fixed shape, one for each event and each joint action."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lsf_jax.envs.host import FIRST, LOST, STEP, Event
from lsf_jax.envs.workers.reporters import Pending
from lsf_jax.types import EnvSpec, Observation

KINDS = (FIRST, STEP, LOST)
"""Kinds of events by the number that stands for them."""
FIELDS = ("obs", "state", "avail")
"""Parts of an `Observation` by the fields that hold them."""


def event_rows(spec: EnvSpec, info: Sequence[str]) -> np.dtype:
    """The row of one event: which slot of the node, what happened, what its game looks like now."""
    return np.dtype(
        [
            ("slot", np.int32),
            ("kind", np.uint8),
            ("terminal", np.bool_),
            ("done", np.bool_),
            ("reward", np.float64),
            ("info", np.float64, (len(info),)),
            ("obs", np.float32, (spec.n_agents, spec.obs_dim)),
            ("state", np.float32, (spec.state_dim,)),
            ("avail", np.bool_, (spec.n_agents, spec.n_actions)),
        ]
    )


def order_rows(spec: EnvSpec) -> np.dtype:
    """The row of one joint action: which slot, how many of its events had been seen when it was chosen."""
    return np.dtype([("slot", np.int32), ("seen", np.int64), ("action", np.int32, (spec.n_agents,))])


def pack_events(events: Sequence[Event], seen: Observation, info: Sequence[str], rows: np.dtype) -> np.ndarray:
    """Events of a pool, and the rows of what it looks like now that belong to them."""
    packed = np.zeros(len(events), rows)
    for row, event in zip(packed, events):
        row["slot"], row["kind"], row["reward"] = event.worker, KINDS.index(event.kind), event.reward
        row["terminal"], row["done"] = event.terminal, event.done
        if event.kind == STEP:
            row["info"] = [event.info[name] for name in info]
    slots = packed["slot"]
    for field, part in zip(FIELDS, seen):
        packed[field] = np.asarray(part)[slots]
    return packed


def unpack_event(row: Any, worker: int, info: Sequence[str]) -> Pending:
    """One event, as what a worker of the trainer reports."""
    kind = KINDS[row["kind"]]
    event = Event(
        worker=worker,
        kind=kind,
        reward=float(row["reward"]),
        terminal=bool(row["terminal"]),
        done=bool(row["done"]),
        info=dict(zip(info, row["info"].tolist())) if kind == STEP else {},
    )
    return Pending(event, None if kind == LOST else Observation(*(row[field] for field in FIELDS)))


def pack_orders(orders: Iterable[tuple[int, int, np.ndarray]], rows: np.dtype) -> np.ndarray:
    """Joint actions: (slot, events of it that had been seen, `[N]`)."""
    return np.array([(slot, seen, action) for slot, seen, action in orders], rows)
