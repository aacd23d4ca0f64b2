import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lsf_jax.analysis import render
from lsf_jax.envs import predator_prey as hunt

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)


def make_board(predators, prey, active=None, alive=None, grid_size=4):
    return render.Board(
        predators=np.array(predators, np.int64),
        active=np.ones(len(predators), bool) if active is None else np.array(active),
        prey=np.array(prey, np.int64),
        alive=np.ones(len(prey), bool) if alive is None else np.array(alive),
        grid_size=grid_size,
    )


def colours_in(picture, cell, grid_size=4):
    """Colours in one cell, taken off its middle, where a predator's number stands."""
    row, column = divmod(cell, grid_size)
    y, x = (render.MARGIN + index * render.CELL for index in (row, column))
    inside = picture[y + 8 : y + render.CELL - 8, x + 8 : x + render.CELL - 8].reshape(-1, 3)
    return {tuple(int(part) for part in colour) for colour in inside}


def test_pieces_stand_in_their_cells():
    picture = render.draw_board(make_board(predators=[1, 14], prey=[7]))
    assert BLUE in colours_in(picture, 1)
    assert BLUE in colours_in(picture, 14)
    assert ORANGE in colours_in(picture, 7)
    for empty in set(range(16)) - {1, 7, 14}:
        assert colours_in(picture, empty) == {(255, 255, 255)}


def test_who_is_off_the_board_is_not_drawn():
    board = make_board(predators=[1, 99], prey=[7, 2], active=[True, False], alive=[False, True])
    picture = render.draw_board(board)
    assert colours_in(picture, 7) == {(255, 255, 255)}
    assert ORANGE in colours_in(picture, 2)


def test_frames_of_an_episode_have_one_size_whatever_the_caption():
    board = make_board([1], [2])
    short, long = render.draw_board(board, "a"), render.draw_board(board, render.caption_text(200, 8, 8, -123.5) * 3)
    assert short.shape == long.shape
    assert (short != long).any()
    assert (short[: 4 * render.CELL + 2 * render.MARGIN] == long[: 4 * render.CELL + 2 * render.MARGIN]).all()


@pytest.mark.parametrize("cell", [-1, 16])
def test_a_cell_off_the_grid_is_refused(cell):
    with pytest.raises(ValueError, match="outside its 4x4 grid"):
        render.draw_board(make_board([cell], [2]))


def test_a_snapshot_of_the_game_is_drawn_as_it_is():
    cfg = hunt.PredatorPreyConfig(grid_size=5, n_predators=3, n_prey=9)
    state = hunt.State(
        predator=jnp.array([3, 24, 0]),
        active=jnp.array([True, False, True]),
        prey=jnp.arange(10, 19),
        alive=jnp.arange(9) < 8,
        time=jnp.int32(0),
    )
    board = render.unpack_board(hunt.take_snapshot(state, cfg=cfg), 3, 9, 5)
    assert board.active.tolist() == [True, False, True]
    assert board.alive.tolist() == [True] * 8 + [False]
    active, alive = np.array(board.active), np.array(board.alive)
    np.testing.assert_array_equal(board.predators[active], np.asarray(state.predator)[active])
    np.testing.assert_array_equal(board.prey[alive], np.asarray(state.prey)[alive])
    picture = render.draw_board(board)
    for cell in range(25):
        colours = colours_in(picture, cell, grid_size=5)
        assert (BLUE in colours) == (cell in board.predators[active])
        assert (ORANGE in colours) == (cell in board.prey[alive])


def test_a_caption_says_what_happened():
    assert render.caption_text(12, 1, 8, 10.0) == "step 12 · caught 1/8 · return 10"
    assert render.caption_text(0, 0, 8, -1.5) == "step 0 · caught 0/8 · return -1.5"


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
    pictures = [render.draw_board(make_board([cell], [15])) for cell in range(4)]
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
    picture = render.draw_board(make_board([1], [2]))
    path = render.save_picture(picture, tmp_path / "new" / "board.png")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
