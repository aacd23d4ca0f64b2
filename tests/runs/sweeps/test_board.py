"""What a run on a cluster shows, with a clock and workers that are made up."""

import io
from types import SimpleNamespace

from lsf_jax.runs.progress import Progress
from lsf_jax.runs.session import Counts
from lsf_jax.runs.sweeps.board import Board
from lsf_jax.runs.sweeps.messages import Moved


def lines_of(happened):
    """The lines for what happens, pairs of the seconds that it takes and of what is done to the board."""
    now, stream = [0.0], io.StringIO()
    shown = Progress(1000, "run", stream, clock=lambda: now[0], interval=0.0)
    pool = SimpleNamespace(n_busy=2, nodes=[1, 2], n_slots=lambda: 2, healed=0)
    board = Board(shown, pool, {0: Counts(0, 0), 1: Counts(0, 0)}, 0)
    for seconds, deed in happened:
        now[0] += seconds
        deed(board, pool)
        board.show(Moved(0, 0))
    shown.close()
    return stream.getvalue().splitlines()


def counts(index, steps):
    return lambda board, pool: board.count(index, Counts(steps, steps))


def test_the_hours_that_are_left_do_not_count_how_long_workers_took_to_start():
    lines = lines_of([(20, counts(0, 100)), (1, counts(0, 200)), (1, counts(1, 100))])
    assert "ETA -" in lines[0]
    assert "ETA 7 s" in lines[-1], lines  # 700 steps at 100 a second


def test_a_block_that_is_finished_is_not_in_training():
    def finish(board, pool):
        board.n_finished += 1

    def alone(board, pool):
        pool.n_busy = 1

    lines = lines_of([(1, counts(0, 500)), (1, finish), (1, alone), (1, finish)])
    told = [line.split("blocks ")[1].split(" ·")[0] for line in lines]
    assert told == [
        "0 of 2 finished, 2 in training",
        "1 of 2 finished, 1 in training",
        "1 of 2 finished, 1 in training",
        "2 of 2 finished, 0 in training",
    ]
