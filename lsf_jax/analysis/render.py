"""Pictures of episodes: what an environment draws, or any ASCII picture, as RGB arrays and animated GIFs."""

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TypeAlias

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from lsf_jax.runs.safe_files import write_output
from lsf_jax.types import Cross, Disc, Line, Picture, Rectangle

Pixels: TypeAlias = UInt8[np.ndarray, "height width 3"]

MARGIN = 14
_CAPTION_HEIGHT = 30
SCALE = 3  # drawn this much larger, then reduced: Pillow's circles have no smooth edges
_WHITE, _INK = (255, 255, 255), (33, 37, 41)
COLOURS: dict[str, tuple[int, int, int]] = {
    "ally": (0, 114, 178),
    "enemy": (213, 94, 0),
    "ally_shot": (140, 190, 222),
    "enemy_shot": (238, 178, 140),
    "ground": (248, 249, 250),
    "wall": (173, 181, 189),
    "grid": (222, 226, 230),
    "fallen": (206, 212, 218),
}
"""What each role is painted in."""
_EMPTY = COLOURS["grid"]  # the missing part of a bar


def paint(picture: Picture) -> Pixels:
    """A picture as pixels, its caption below it.

    Returns:
      RGB; its size depends on the picture's width, height and scale alone, so that frames of an episode fit together.

    Raises:
      ValueError: a picture without a size, or a colour that is none.
    """
    unit = picture.scale * SCALE
    size = [round(side * picture.scale) + 2 * MARGIN for side in (picture.width, picture.height)]
    if min(picture.width, picture.height, picture.scale) <= 0:
        raise ValueError(
            f"picture is {picture.width} by {picture.height} at {picture.scale} pixels; expected sizes above 0."
        )
    large = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), _WHITE)
    draw = ImageDraw.Draw(large)
    for shape in picture.shapes:
        match shape:
            case Disc():
                _draw_disc(draw, shape, unit)
            case Cross():
                _draw_cross(draw, shape, unit)
            case Line():
                ends = [*_place(*shape.start, unit), *_place(*shape.end, unit)]
                draw.line(ends, fill=_colour(shape.colour), width=shape.width * SCALE)
            case Rectangle():
                _draw_rectangle(draw, shape, unit)
    return _reduce_and_caption(large, size, picture.caption)


def _place(x: float | int, y: float | int, unit: int) -> tuple[float, float]:
    corner = float(MARGIN * SCALE)
    return corner + x * unit, corner + y * unit


def _colour(role: str) -> tuple[int, int, int]:
    if role not in COLOURS:
        raise ValueError(f"colour is {role!r}; expected one of {', '.join(COLOURS)}.")
    return COLOURS[role]


def _draw_disc(draw: ImageDraw.ImageDraw, disc: Disc, unit: int) -> None:
    (x, y), radius, colour = _place(disc.x, disc.y, unit), disc.radius * unit, _colour(disc.colour)
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    if disc.label:
        font = find_font(round(disc.label_size * radius), bold=True)
        draw.text((x, y), disc.label, fill=_WHITE, font=font, anchor="mm")
    if disc.bar is not None:
        top, height = y - radius - 4 * SCALE, 2 * SCALE
        draw.rectangle([x - radius, top - height, x + radius, top], fill=_EMPTY)
        draw.rectangle([x - radius, top - height, x - radius + 2 * radius * disc.bar, top], fill=colour)


def _draw_cross(draw: ImageDraw.ImageDraw, cross: Cross, unit: int) -> None:
    (x, y), half, colour = _place(cross.x, cross.y, unit), cross.radius * unit, _colour(cross.colour)
    draw.line([x - half, y - half, x + half, y + half], fill=colour, width=2 * SCALE)
    draw.line([x - half, y + half, x + half, y - half], fill=colour, width=2 * SCALE)


def _draw_rectangle(draw: ImageDraw.ImageDraw, box: Rectangle, unit: int) -> None:
    corners = [*_place(box.x, box.y, unit), *_place(box.x + box.width, box.y + box.height, unit)]
    edge = None if box.edge is None else _colour(box.edge)
    draw.rectangle(corners, fill=_colour(box.colour), outline=edge, width=2 * SCALE)


def _reduce_and_caption(large: Image.Image, size: Sequence[int], caption: str) -> Pixels:
    """A drawing at `SCALE` times its size, brought to its size, with a line of text below."""
    width, height = size
    pixels = Image.new("RGB", (width, height + _CAPTION_HEIGHT), _WHITE)
    pixels.paste(large.resize((width, height), Image.Resampling.LANCZOS), (0, 0))
    draw, letters = ImageDraw.Draw(pixels), 15
    while letters > 7 and draw.textlength(caption, font=find_font(letters, mono=False)) > width - 2 * MARGIN:
        letters -= 1
    draw.text((MARGIN, height), caption, fill=_INK, font=find_font(letters, mono=False))
    return np.asarray(pixels)


def draw_text(text: str, size: int = 18) -> Pixels:
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
      ConfigError: it cannot be written there.
    """
    if not 0 < fps <= 50:
        raise ValueError(f"fps {fps} is out of range; expected above 0 and at most 50.")
    if not len(frames):
        raise ValueError("frames is empty; a GIF needs at least one.")
    pictures = [draw_text(frame) if isinstance(frame, str) else _checked(frame) for frame in frames]
    images = [image.quantize(256, dither=Image.Dither.NONE) for image in _same_size(pictures)]
    duration = round(1000 / fps)
    durations = [duration] * (len(images) - 1) + [max(duration, round(1000 * hold))]
    drawn = io.BytesIO()
    images[0].save(drawn, format="GIF", save_all=True, append_images=images[1:], duration=durations, loop=0)
    write_output(path, drawn.getvalue())
    return Path(path)


def save_picture(picture: Pixels, path: str | Path) -> Path:
    """Writes one picture as PNG.

    Args:
      picture: RGB bytes.
      path: the file; its folder is made as needed.

    Returns:
      The path.
    """
    drawn = io.BytesIO()
    Image.fromarray(picture).save(drawn, format="PNG")
    write_output(path, drawn.getvalue())
    return Path(path)


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
