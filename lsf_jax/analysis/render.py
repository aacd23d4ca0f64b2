"""Pictures of episodes: a predator-prey board, or any ASCII picture, as RGB arrays and animated GIFs.

`analysis.battle` draws SMAX.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import matplotlib
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

Picture: TypeAlias = UInt8[np.ndarray, "height width 3"]

CELL = 36  # pixels per side of a board's cell
MARGIN = 14
_CAPTION_HEIGHT = 30
SCALE = 3  # drawn this much larger, then reduced: Pillow's circles have no smooth edges
_WHITE, _LINE, _INK = (255, 255, 255), (222, 226, 230), (33, 37, 41)
_PREDATOR, _PREY = (0, 114, 178), (213, 94, 0)


class Board(NamedTuple):
    """One moment of predator-prey, unpacked. A cell is `row * grid_size + column`, row 0 on top."""

    predators: Int[np.ndarray, " predators"]  # cells
    active: Bool[np.ndarray, " predators"]  # False: frozen, off the board
    prey: Int[np.ndarray, " prey"]  # cells
    alive: Bool[np.ndarray, " prey"]  # False: caught, off the board
    grid_size: int  # cells per side


def unpack_board(snapshot: Any, n_predators: int, n_prey: int, grid_size: int) -> Board:
    """The board of a predator-prey snapshot.

    Args:
      snapshot: has `predator` and `prey` (cells) and `active` and `alive` (bits, first one lowest), as arrays.
      n_predators: how many of the bits are predators.
      n_prey: how many of the bits are prey.
      grid_size: cells per side.

    Returns:
      The board, in NumPy arrays.
    """
    return Board(
        predators=np.asarray(snapshot.predator).astype(np.int64),
        active=np.unpackbits(np.asarray(snapshot.active), count=n_predators, bitorder="little").astype(bool),
        prey=np.asarray(snapshot.prey).astype(np.int64),
        alive=np.unpackbits(np.asarray(snapshot.alive), count=n_prey, bitorder="little").astype(bool),
        grid_size=grid_size,
    )


def caption_text(step: int, captured: int, n_prey: int, episode_return: float) -> str:
    """The line under a board.

    Args:
      step: steps since reset.
      captured: prey caught so far.
      n_prey: prey there were.
      episode_return: reward summed so far.

    Returns:
      For example "step 12 · caught 1/8 · return 10".
    """
    return f"step {step} · caught {captured}/{n_prey} · return {episode_return:g}"


def draw_board(board: Board, caption: str = "") -> Picture:
    """A board as a picture: predators blue and numbered, prey orange, cells in light lines, the caption below.

    Args:
      board: what to draw; frozen predators and caught prey are left out, because they are off the board.
      caption: one line of text.

    Returns:
      RGB picture; its size depends on the grid and on nothing else, so that frames of an episode fit together.

    Raises:
      ValueError: a grid without cells, or a cell outside it.
    """
    n = board.grid_size
    cells = np.concatenate([board.predators[board.active], board.prey[board.alive]])
    if n < 1 or (cells.size and (cells.min() < 0 or cells.max() >= n * n)):
        raise ValueError(f"board has cells {cells.tolist()}, outside its {n}x{n} grid; check grid_size.")
    side = n * CELL + 2 * MARGIN
    large = Image.new("RGB", (side * SCALE, side * SCALE), _WHITE)
    draw = ImageDraw.Draw(large)
    _draw_grid(draw, n)
    for cell in board.prey[board.alive]:
        _draw_piece(draw, int(cell), n, _PREY, "")
    for name in np.flatnonzero(board.active):
        _draw_piece(draw, int(board.predators[name]), n, _PREDATOR, str(name))
    return reduce_and_caption(large, caption)


def reduce_and_caption(large: Image.Image, caption: str) -> Picture:
    """A square drawing at `SCALE` times its size, brought to its size, with a line of text below."""
    side = large.width // SCALE
    picture = Image.new("RGB", (side, side + _CAPTION_HEIGHT), _WHITE)
    picture.paste(large.resize((side, side), Image.Resampling.LANCZOS), (0, 0))
    _draw_caption(ImageDraw.Draw(picture), caption, side)
    return np.asarray(picture)


def draw_text(text: str, size: int = 18) -> Picture:
    """An ASCII picture in a monospaced font, each character in a cell of its own.

    Args:
      text: lines of text.
      size: height of the letters in pixels.

    Returns:
      RGB picture, as wide as the longest line.
    """
    lines = text.splitlines() or [""]
    font = find_font(size)
    width, height = round(size * 0.62), round(size * 1.3)
    shape = (max(len(line) for line in lines) * width + 2 * MARGIN, len(lines) * height + 2 * MARGIN)
    picture = Image.new("RGB", shape, _WHITE)
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(lines):
        for column, character in enumerate(line):
            draw.text((MARGIN + column * width, MARGIN + row * height), character, fill=_INK, font=font)
    return np.asarray(picture)


def frames_to_gif(frames: Sequence[str | np.ndarray], path: str | Path, fps: float = 8.0, hold: float = 1.5) -> Path:
    """Writes an animated GIF that repeats.

    Args:
      frames: ASCII pictures, or RGB pictures `[height, width, 3]` of bytes; smaller ones are put on white.
      path: the file; its folder is made as needed.
      fps: frames per second, up to 50: faster than that viewers slow down.
      hold: seconds for which the last frame stays.

    Returns:
      The path.

    Raises:
      ValueError: no frames, a frame that is no picture, or a rate out of range.
    """
    if not 0 < fps <= 50:
        raise ValueError(f"fps {fps} is out of range; expected above 0 and at most 50.")
    if not len(frames):
        raise ValueError("frames is empty; a GIF needs at least one.")
    pictures = [draw_text(frame) if isinstance(frame, str) else _checked(frame) for frame in frames]
    images = [image.quantize(256, dither=Image.Dither.NONE) for image in _same_size(pictures)]
    duration = round(1000 / fps)
    durations = [duration] * (len(images) - 1) + [max(duration, round(1000 * hold))]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    return path


def save_picture(picture: Picture, path: str | Path) -> Path:
    """Writes one picture as PNG.

    Args:
      picture: RGB bytes.
      path: the file; its folder is made as needed.

    Returns:
      The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="PNG")
    return path


def _draw_grid(draw: ImageDraw.ImageDraw, n: int) -> None:
    start, end = MARGIN * SCALE, (MARGIN + n * CELL) * SCALE
    for line in range(n + 1):
        at = (MARGIN + line * CELL) * SCALE
        draw.line([(start, at), (end, at)], fill=_LINE, width=SCALE)
        draw.line([(at, start), (at, end)], fill=_LINE, width=SCALE)


def _draw_piece(draw: ImageDraw.ImageDraw, cell: int, n: int, colour: tuple[int, int, int], name: str) -> None:
    row, column = divmod(cell, n)
    x, y = ((MARGIN + (index + 0.5) * CELL) * SCALE for index in (column, row))
    radius = 0.36 * CELL * SCALE
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    if name:
        draw.text((x, y), name, fill=_WHITE, font=find_font(round(0.42 * CELL * SCALE), bold=True), anchor="mm")


def _draw_caption(draw: ImageDraw.ImageDraw, caption: str, side: int) -> None:
    size = 15
    while size > 7 and draw.textlength(caption, font=find_font(size, mono=False)) > side - 2 * MARGIN:
        size -= 1
    draw.text((MARGIN, side), caption, fill=_INK, font=find_font(size, mono=False))


@cache
def find_font(size: int, bold: bool = False, mono: bool = True) -> ImageFont.FreeTypeFont:
    """A font of that height in pixels; matplotlib ships it on every system, and Pillow has no monospaced one."""
    name = f"DejaVuSans{'Mono' if mono else ''}{'-Bold' if bold else ''}.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _checked(frame: np.ndarray) -> np.ndarray:
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        raise ValueError(
            f"frame has shape {frame.shape} and dtype {frame.dtype}; expected [height, width, 3] of uint8."
        )
    return frame


def _same_size(pictures: Sequence[np.ndarray]) -> list[Image.Image]:
    height, width = np.max([picture.shape[:2] for picture in pictures], axis=0)
    images = []
    for picture in pictures:
        image = Image.new("RGB", (int(width), int(height)), _WHITE)
        image.paste(Image.fromarray(picture), (0, 0))
        images.append(image)
    return images
