"""Pictures of SMAX battles: units in their places, sides in their colours, shots from who shoots to who is shot at."""

import numpy as np
import pytest
from PIL import Image

from lsf_jax.analysis import render
from lsf_jax.envs import smax_picture as battle
from lsf_jax.envs.smax_scenarios import SCENARIOS
from lsf_jax.envs.smax_view import MAP_SIZE, N_MOVES, STOP, Snapshot

BLUE, ORANGE = (0, 114, 178), (213, 94, 0)
PLACES = np.array([[4, 28], [4, 20], [4, 12], [28, 28], [28, 20], [28, 12]], np.float32)
SCENARIO = SCENARIOS["3m"]


def snapshot(health=(45,) * 6, action=(STOP,) * 6):
    return Snapshot(
        position=PLACES,
        cooldown=np.zeros(6, np.float32),
        health=np.array(health, np.uint8),
        action=np.array(action, np.uint8),
    )


def draw(*arguments, **fields):
    return render.paint(battle.draw_battle(battle.unpack_battle(snapshot(*arguments, **fields), SCENARIO)))


def pixels_at(picture, place, half=4):
    """Pixels around a place of the map, `[M, 3]`."""
    x = round(render.MARGIN + place[0] * battle.PIXELS)
    y = round(render.MARGIN + (MAP_SIZE - place[1]) * battle.PIXELS)
    return picture[y - half : y + half, x - half : x + half].reshape(-1, 3).astype(int)


def has(pixels, colour):
    """Whether some pixel is of a colour, but for the smoothing of edges."""
    return bool((np.abs(pixels - np.array(colour)).sum(-1) < 60).any())


def test_the_living_stand_in_their_places_in_the_colours_of_their_sides():
    picture = draw((45, 45, 0, 45, 0, 45))
    for unit, place in enumerate(PLACES):
        pixels = pixels_at(picture, place)
        assert has(pixels, BLUE) == (unit in (0, 1)), unit
        assert has(pixels, ORANGE) == (unit in (3, 5)), unit


def test_a_bar_is_as_long_as_health_lasts():
    """The bar is a row of pixels above the disc; a marine of 9 of 45 points has a fifth of it left."""

    def length(health):
        picture = draw((health, *(45,) * 5))
        x, y = render.MARGIN + 4 * battle.PIXELS, render.MARGIN + 4 * battle.PIXELS - 6 - 5
        row = picture[y, x - 8 : x + 8].astype(int)
        return int((np.abs(row - np.array(BLUE)).sum(-1) < 60).sum())

    assert length(45) == 12
    assert length(9) in (2, 3)


def test_shots_are_aimed_as_the_game_numbers_targets():
    aimed = battle.unpack_battle(snapshot(action=(N_MOVES, N_MOVES + 2, 0, N_MOVES, N_MOVES + 2, STOP)), SCENARIO)
    assert aimed.target.tolist() == [3, 5, battle.NOBODY, 2, 0, battle.NOBODY]


def test_a_shot_is_a_line_between_two_units():
    halfway = (16, 28)
    shooting = (N_MOVES, *(STOP,) * 5)
    assert np.ptp(pixels_at(draw(), halfway)) == np.ptp(pixels_at(draw(), (16, 16)))  # bare ground
    assert np.ptp(pixels_at(draw(action=shooting), halfway)) > 50
    dead = draw((0, *(45,) * 5), action=shooting)
    np.testing.assert_array_equal(pixels_at(dead, halfway), pixels_at(draw(), halfway))  # the dead do not shoot


def test_the_last_enemy_keeps_its_colour_in_an_animation(tmp_path):
    """Few pixels are orange; with too small a palette they are merged with others."""
    picture = draw((45, 12, 0, 0, 0, 20), action=(N_MOVES + 2, N_MOVES + 2, STOP, STOP, STOP, N_MOVES))
    with Image.open(render.frames_to_gif([picture, picture], tmp_path / "battle.gif")) as image:
        shown = np.asarray(image.convert("RGB"))
    for pixels in (pixels_at(shown, PLACES[5]), pixels_at(picture, PLACES[5])):
        assert np.abs(pixels - np.array(ORANGE)).sum(-1).min() < 12


@pytest.mark.parametrize("name", ["3m", "27m_vs_30m", "1c3s5z_nosplash"])
def test_pictures_have_one_size_whoever_fights(name):
    scenario = SCENARIOS[name]
    n_units = len(scenario.units())
    moment = Snapshot(
        position=np.full((n_units, 2), 16, np.float32),
        cooldown=np.zeros(n_units, np.float32),
        health=scenario.column("health").astype(np.uint16),
        action=np.full(n_units, STOP, np.uint8),
    )
    picture = render.paint(battle.draw_battle(battle.unpack_battle(moment, scenario), "step 3"))
    assert picture.shape == draw().shape
    assert picture.dtype == np.uint8
    assert battle.unpack_battle(moment, scenario).health.tolist() == [1.0] * n_units


def test_a_caption_says_who_fell_and_what_it_earned():
    sums = {"win": 0.0, "dead_allies": 1.0, "dead_enemies": 2.0, "return": 6.25}
    caption = battle.draw_moment(snapshot(), 7, sums, scenario=SCENARIO).caption
    assert caption == "step 7 · allies down 1/3 · enemies down 2/3 · return 6.2"
