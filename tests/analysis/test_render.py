"""Pictures painted: shapes in their places, text in columns, frames in a GIF."""

import numpy as np
import pytest
from PIL import Image

from lsf_jax.analysis import render
from lsf_jax.settings import ConfigError
from lsf_jax.types import Cross, Disc, Line, Picture, Rectangle


def draw(*shapes, caption="", width=4, height=2):
    return render.paint(Picture(width=width, height=height, scale=20, shapes=shapes, caption=caption))


def at(pixels, x, y):
    """The colour at a place of the world."""
    row, column = round(render.MARGIN + y * 20), round(render.MARGIN + x * 20)
    return tuple(int(part) for part in pixels[row, column])


def test_every_shape_is_painted_in_its_place_in_the_colour_of_its_role():
    pixels = draw(
        Rectangle(0, 0, 4, 2, "ground", edge="wall"),
        Cross(1, 1.5, 0.3, "fallen"),
        Line((2, 0.5), (4, 0.5), "enemy_shot", 4),
        Disc(1, 0.5, 0.4, "ally"),
    )
    places = {"ally": (1, 0.5), "enemy_shot": (3, 0.5), "fallen": (1, 1.5), "ground": (3, 1.5), "wall": (2, 1.95)}
    for role, place in places.items():
        assert at(pixels, *place) == pytest.approx(render.COLOURS[role], abs=12), role  # edges are smoothed
    assert at(pixels, -0.5, 1) == (255, 255, 255)


def test_later_shapes_cover_earlier_ones():
    below, above = Disc(2, 1, 0.5, "ally"), Disc(2, 1, 0.5, "enemy")
    assert at(draw(below, above), 2, 1) == render.COLOURS["enemy"]
    assert at(draw(above, below), 2, 1) == render.COLOURS["ally"]


def test_a_label_is_white_and_as_large_as_asked_for():
    def white(size):
        pixels = draw(Disc(2, 1, 0.9, "ally", "8", label_size=size))
        inside = pixels[render.MARGIN + 8 : render.MARGIN + 32, render.MARGIN + 28 : render.MARGIN + 52]
        return int((inside.min(axis=-1) > 200).sum())

    assert white(1.5) > white(0.8) > 0
    assert (draw(Disc(2, 1, 0.9, "ally", "")) == draw(Disc(2, 1, 0.9, "ally"))).all()


def test_a_bar_is_filled_as_far_as_its_share():
    def filled(share):
        row = draw(Disc(2, 1, 0.5, "enemy", bar=share))[render.MARGIN + 20 - 10 - 5].astype(int)
        return int((np.abs(row - np.array(render.COLOURS["enemy"])).sum(-1) < 60).sum())

    assert filled(1.0) == 20
    assert filled(0.5) in (9, 10, 11)
    assert filled(None) == 0


def test_pictures_of_one_world_have_one_size_whatever_the_shapes_and_the_caption():
    short, long = draw(caption="a"), draw(Disc(1, 1, 0.5, "ally"), caption="step 200 · caught 8/8 · return -123.5 " * 3)
    assert short.shape == long.shape == (2 * 20 + 2 * render.MARGIN + 30, 4 * 20 + 2 * render.MARGIN, 3)
    assert (short[-30:] != long[-30:]).any()
    assert (draw(caption="a")[:-30] == draw(caption="b" * 99)[:-30]).all()


def test_a_colour_that_is_none_is_named_with_those_that_there_are():
    with pytest.raises(ValueError, match="colour is 'mauve'; expected one of ally, enemy, "):
        draw(Disc(1, 1, 0.5, "mauve"))


def test_a_picture_without_a_size_is_refused():
    with pytest.raises(ValueError, match="picture is 0 by 2 at 20 pixels"):
        draw(width=0)


def test_text_is_drawn_in_columns():
    one, two = render.draw_text("#"), render.draw_text(" #\n")
    assert two.shape[1] - one.shape[1] == round(18 * 0.62)
    (x_one,), (x_two,) = (np.nonzero((picture < 128).any(axis=(0, 2)))[0][:1] for picture in (one, two))
    assert x_two - x_one == round(18 * 0.62)
    assert render.draw_text("").shape[2] == 3


def read_gif(path):
    with Image.open(path) as image:
        assert image.format == "GIF"
        assert image.info["loop"] == 0
        frames = []
        for index in range(image.n_frames):
            image.seek(index)
            frames.append((np.asarray(image.convert("RGB")), image.info["duration"]))
        return frames


def test_a_gif_holds_every_frame_at_its_rate_and_holds_the_last(tmp_path):
    pictures = [draw(Disc(cell, 1, 0.4, "ally"), Disc(3.5, 1, 0.4, "enemy")) for cell in range(4)]
    path = render.frames_to_gif(pictures, tmp_path / "new" / "a.gif", fps=5.0, hold=2.0)
    frames = read_gif(path)
    assert [duration for _, duration in frames] == [200, 200, 200, 2000]
    for (actual, _), expected in zip(frames, pictures, strict=True):
        assert np.abs(actual.astype(int) - expected).max() < 40  # a palette of 64 colours
        assert np.abs(actual.astype(int) - expected).mean() < 1


def test_ascii_frames_of_different_size_make_a_gif(tmp_path):
    frames = read_gif(render.frames_to_gif(["ab", "abc\ndef"], tmp_path / "text.gif"))
    assert len(frames) == 2
    assert frames[0][0].shape == render.draw_text("abc\ndef").shape


def test_one_frame_is_a_gif(tmp_path):
    path = render.frames_to_gif(["a"], tmp_path / "one.gif")
    with Image.open(path) as image:
        assert image.format == "GIF"


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        ([], 8.0, "frames is empty"),
        (["a"], 0.0, r"fps 0\.0 is out of range"),
        (["a"], 51.0, r"fps 51\.0"),
        ([np.zeros((4, 4), np.uint8)], 8.0, r"frame has shape \(4, 4\)"),
        ([np.zeros((4, 4, 3), np.float32)], 8.0, "dtype float32"),
    ],
)
def test_what_makes_no_gif_is_refused_and_nothing_written(tmp_path, frames, fps, message):
    with pytest.raises(ValueError, match=message):
        render.frames_to_gif(frames, tmp_path / "a.gif", fps=fps)
    assert not list(tmp_path.iterdir())


def test_a_picture_survives_being_saved(tmp_path):
    picture = draw(Disc(1, 1, 0.5, "ally"))
    path = render.save_picture(picture, tmp_path / "new" / "a.png")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)


def test_a_gif_or_picture_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be written \(Is a directory\); name a file"):
        render.frames_to_gif(["a"], tmp_path)
    with pytest.raises(ConfigError, match=r"/dev/full cannot be written \(No space left on device\)"):
        render.save_picture(draw(), "/dev/full")
    assert list(tmp_path.iterdir()) == []
