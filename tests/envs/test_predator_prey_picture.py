"""Pictures of predator-prey: pieces in their cells, and nobody who has left the board."""

import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.analysis import render
from lsf_jax.envs import predator_prey as hunt
from lsf_jax.envs import predator_prey_picture as picture

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def make_board(predators, prey, active=None, alive=None, grid_size=4):
    return picture.Board(
        predators=np.array(predators, np.int64),
        active=np.ones(len(predators), bool) if active is None else np.array(active),
        prey=np.array(prey, np.int64),
        alive=np.ones(len(prey), bool) if alive is None else np.array(alive),
        grid_size=grid_size,
    )


def painted(board):
    return render.paint(picture.draw_board(board, 0, {"captures": 0.0, "return": 0.0}))


def colours_in(pixels, cell, grid_size=4):
    """Colours in one cell, taken off its middle, where a predator's number stands."""
    row, column = divmod(cell, grid_size)
    y, x = (render.MARGIN + index * picture.CELL for index in (row, column))
    inside = pixels[y + 8 : y + picture.CELL - 8, x + 8 : x + picture.CELL - 8].reshape(-1, 3)
    return {tuple(int(part) for part in colour) for colour in inside}


def test_pieces_stand_in_their_cells():
    pixels = painted(make_board(predators=[1, 14], prey=[7]))
    assert BLUE in colours_in(pixels, 1)
    assert BLUE in colours_in(pixels, 14)
    assert ORANGE in colours_in(pixels, 7)
    for empty in set(range(16)) - {1, 7, 14}:
        assert colours_in(pixels, empty) == {(255, 255, 255)}


def test_who_is_off_the_board_is_not_drawn():
    board = make_board(predators=[1, 99], prey=[7, 2], active=[True, False], alive=[False, True])
    pixels = painted(board)
    assert colours_in(pixels, 7) == {(255, 255, 255)}
    assert ORANGE in colours_in(pixels, 2)


def test_a_snapshot_of_the_game_is_drawn_as_it_is():
    cfg = hunt.PredatorPreyConfig(grid_size=5, n_predators=3, n_prey=9)
    state = hunt.State(
        predator=jnp.array([3, 24, 0]),
        active=jnp.array([True, False, True]),
        prey=jnp.arange(10, 19),
        alive=jnp.arange(9) < 8,
        time=jnp.int32(0),
    )
    board = picture.unpack_board(hunt.take_snapshot(state, cfg=cfg), 3, 9, 5)
    assert board.active.tolist() == [True, False, True]
    assert board.alive.tolist() == [True] * 8 + [False]
    active, alive = np.array(board.active), np.array(board.alive)
    np.testing.assert_array_equal(board.predators[active], np.asarray(state.predator)[active])
    np.testing.assert_array_equal(board.prey[alive], np.asarray(state.prey)[alive])
    pixels = painted(board)
    for cell in range(25):
        colours = colours_in(pixels, cell, grid_size=5)
        assert (BLUE in colours) == (cell in board.predators[active])
        assert (ORANGE in colours) == (cell in board.prey[alive])


@pytest.mark.parametrize(
    ("step", "captures", "total", "caption"),
    [(12, 1, 10.0, "step 12 · caught 1/8 · return 10"), (0, 0, -1.5, "step 0 · caught 0/8 · return -1.5")],
)
def test_a_caption_says_what_happened(step, captures, total, caption):
    board = make_board([1], range(2, 10))
    assert picture.draw_board(board, step, {"captures": float(captures), "return": total}).caption == caption
