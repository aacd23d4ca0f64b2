"""What people see of a run on a cluster: all blocks in one table."""

from lsf_jax.runs.progress import Progress
from lsf_jax.runs.session import Counts
from lsf_jax.runs.sweeps.messages import Moved
from lsf_jax.runs.sweeps.pool import Pool
from lsf_jax.settings import counted


class Board:
    """Counts of all blocks, and how they are shown. Host state, hence a class."""

    def __init__(self, shown: Progress, pool: Pool, done: dict[int, Counts], n_finished: int) -> None:
        """Begin where the run is.

        Args:
          shown: where people look.
          pool: whose workers and nodes are counted.
          done: of every block.
          n_finished: blocks that are.
        """
        self.shown, self.pool, self.done, self.n_finished = shown, pool, done, n_finished
        self.total = Counts(*(sum(each) for each in zip(*done.values())))
        self.at_start: Counts | None = self.total
        shown.begin(*self.total)
        self._tell_cells()

    def count(self, index: int, counts: Counts) -> None:
        """Take a block's counts into the sum; there may be thousands of blocks."""
        before, self.done[index] = self.done[index], counts
        more = (total + now - earlier for total, now, earlier in zip(self.total, counts, before))
        self.total = Counts(*more)

    def show(self, moved: Moved) -> None:
        """Show the sums, and of one block what is new."""
        self._tell_cells(moved.phase)
        steps, updates = self.total
        if self.at_start is not None and self.total != self.at_start:
            self.at_start = None
            self.shown.begin(steps, updates)  # until now workers started and compiled: no part of rates and ETA
        if moved.evaluation is not None:
            self.shown.evaluated(*moved.evaluation)
        self.shown.update(env_steps=steps, updates=updates, returns=moved.returns)

    def _tell_cells(self, phase: str = "") -> None:
        pool, n_open = self.pool, len(self.done) - self.n_finished
        in_training = min(pool.n_busy, n_open)  # a worker still counts as busy while its block is told as finished
        self.shown.tell(
            blocks=f"{self.n_finished} of {len(self.done)} finished, {in_training} in training",
            cluster=f"{counted(len(pool.nodes), 'node')}, {counted(pool.n_slots(), 'slot')}",
            healed=counted(pool.healed, "failure") if pool.healed else "",
            now=phase,
        )
