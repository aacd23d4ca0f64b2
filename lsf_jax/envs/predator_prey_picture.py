"""Pictures of predator-prey for people: the board in characters, and as shapes."""

import string
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from lsf_jax.types import Colour, Disc, Line, Picture

CELL = 36
"""Pixels per side of a board's cell."""
RADIUS, LETTERS = 0.36, 0.42  # of a piece and its number, in cells
_MARKS = string.digits + string.ascii_letters  # predators in a board of characters


class Board(NamedTuple):
    """One moment, unpacked on the host. A cell is `row * grid_size + column`, row 0 on top."""

    predators: Int[np.ndarray, " predators"]  # cells
    active: Bool[np.ndarray, " predators"]  # False: frozen, off the board
    prey: Int[np.ndarray, " prey"]  # cells
    alive: Bool[np.ndarray, " prey"]  # False: caught, off the board
    grid_size: int  # cells per side


def unpack_board(snapshot: Any, n_predators: int, n_prey: int, grid_size: int) -> Board:
    """The board of a snapshot.

    Args:
      snapshot: has `predator` and `prey` (cells) and `active` and `alive` (bits, first one lowest), as arrays.
      n_predators: how many of the bits are predators.
      n_prey: how many of the bits are prey.
      grid_size: cells per side.
    """
    return Board(
        predators=np.asarray(snapshot.predator).astype(np.int64),
        active=np.unpackbits(np.asarray(snapshot.active), count=n_predators, bitorder="little").astype(bool),
        prey=np.asarray(snapshot.prey).astype(np.int64),
        alive=np.unpackbits(np.asarray(snapshot.alive), count=n_prey, bitorder="little").astype(bool),
        grid_size=grid_size,
    )


def render_board(board: Board) -> str:
    """The board with predators as digits, then letters, and prey as `*`; below it, who has left the board."""
    n = board.grid_size
    cells = np.full(n**2, ".")
    cells[board.prey[board.alive]] = "*"
    names = np.array([_MARKS[index % len(_MARKS)] for index in range(len(board.predators))])
    cells[board.predators[board.active]] = names[board.active]
    rows = [" ".join(row) for row in cells.reshape(n, n)]
    frozen = " ".join(names[~board.active]) or "none"
    caught = f"{int((~board.alive).sum())} of {len(board.prey)}"
    return "\n".join([*rows, f"prey caught: {caught}; predators frozen: {frozen}"])


def draw_board(board: Board, step: int, sums: dict[str, float]) -> Picture:
    """The board as shapes: predators numbered, then prey; who is frozen or caught is off the board, and left out.

    Args:
      board: what to draw.
      step: steps since reset.
      sums: of "captures" and "return" so far, for the caption.
    """
    n = board.grid_size
    grid = [
        line for at in range(n + 1) for line in (Line((0, at), (n, at), "grid", 1), Line((at, 0), (at, n), "grid", 1))
    ]
    prey = [_piece(int(cell), n, "enemy") for cell in board.prey[board.alive]]
    predators = [_piece(int(board.predators[name]), n, "ally", str(name)) for name in np.flatnonzero(board.active)]
    caption = f"step {step} · caught {int(sums['captures'])}/{len(board.prey)} · return {sums['return']:g}"
    return Picture(width=n, height=n, scale=CELL, shapes=(*grid, *prey, *predators), caption=caption)


def _grid_line(start: tuple[int, int], end: tuple[int, int]) -> Line:
    return Line(start, end, "grid", width=1)


def _piece(cell: int, n: int, colour: Colour, name: str = "") -> Disc:
    row, column = divmod(cell, n)
    return Disc(column + 0.5, row + 0.5, RADIUS, colour, name, label_size=LETTERS / RADIUS)
