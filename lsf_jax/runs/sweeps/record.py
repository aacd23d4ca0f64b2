"""What the card of a run on a cluster says: its seconds, and which machine made which block."""

import time
from pathlib import Path
from typing import Any

from lsf_jax.runs import folder, timing
from lsf_jax.runs.safe_files import file_inside
from lsf_jax.runs.sweeps.machines import Machine, machine_text
from lsf_jax.runs.sweeps.messages import Ended

ENTRY = "cluster"
"""Key of `card.json`."""
WRITE_SECONDS = 2.0
"""Between two writings of the card while blocks end fast."""


class Record:
    """The part of the card that grows. Host state, hence a class."""

    def __init__(self, path: Path) -> None:
        """Go on with what the card has.

        Args:
          path: the run folder, locked by this process.
        """
        self.path = path
        card = folder.read_documents(path).card
        self.timing: dict[str, float] = card.get("timing", {})
        self.trouble: list[dict[str, int]] = card.get("nonfinite", [])
        self.host: dict[str, Any] = card.get("host", {})
        self.entry: dict[str, Any] = card.get(ENTRY, {})
        self.began = self.written = time.monotonic()

    def add(self, index: int, ended: Ended, machine: Machine) -> None:
        """Count what a block took.

        Args:
          index: of the block.
          ended: its last message.
          machine: what trained it.
        """
        seconds = ended.seconds | {"total_seconds": time.monotonic() - self.began}
        self.began = time.monotonic()
        self.timing = timing.summed(self.timing, seconds, ended.counts)
        self.host |= timing.host_summed(self.host, ended.host)
        known = {entry["row"] for entry in self.trouble}
        self.trouble += [entry for entry in ended.trouble if entry["row"] not in known]
        self.entry.setdefault("machine", machine._asdict())
        made = self.entry.setdefault("blocks_by_machine", {}).setdefault(machine_text(machine), [])
        if ended.finished and index not in made:
            made.append(index)
        if ended.idle_seconds:
            gaps = self.entry.setdefault(
                "seconds_between_blocks", {"blocks": 0, "sum": 0.0, "most": 0.0, "compiled": 0}
            )
            gaps["blocks"] += 1
            gaps["sum"] = round(gaps["sum"] + ended.idle_seconds, 3)
            gaps["most"] = round(max(gaps["most"], ended.idle_seconds), 3)
            gaps["compiled"] += ended.compiled
        if time.monotonic() - self.written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Put it on disk."""
        card = folder.read_documents(self.path).card
        more: dict[str, Any] = {"timing": self.timing, "nonfinite": self.trouble, ENTRY: self.entry}
        more |= {"host": self.host} if self.host else {}
        folder.write_json_atomic(file_inside(self.path, folder.CARD), card | more)
        self.written = time.monotonic()


def machine_on_record(card: dict[str, Any]) -> Machine | None:
    """What trained blocks of a run before, None where no cluster did."""
    found = card.get(ENTRY, {}).get("machine")
    return Machine(**found) if isinstance(found, dict) and set(found) == set(Machine._fields) else None
