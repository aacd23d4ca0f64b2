"""Battles whose types and places are drawn: JaxMARL's distributions, and what types change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs import make
from lsf_jax.envs.jaxmarl import lenient, load_jaxmarl
from lsf_jax.envs.smax_drawn import CORNERS, Draws, draw_teams, place_teams
from lsf_jax.envs.smax_picture import unpack_battle
from lsf_jax.envs.smax_scenarios import SCENARIOS, UNITS
from lsf_jax.envs.smax_view import MAP_SIZE
from tests.support.jaxmarl_cases import needs_jaxmarl

N, MANY = 5, 1024
DRAWN = SCENARIOS["smacv2_5_units"]


def their_draws(key):
    """What JaxMARL draws from a key for the places of N allies and N enemies, as ours: numbers in [0, 1)."""
    key_kind, key_surround, key_reflect = jax.random.split(key, 3)
    key_side, key_allies, key_enemies = jax.random.split(key_surround, 3)
    allies_inside = jax.random.randint(key_side, (), 0, 2)
    chain = jnp.where(allies_inside, jax.random.key_data(key_allies), jax.random.key_data(key_enemies))
    chain, key_inside = jax.random.split(jax.random.wrap_key_data(chain))
    chain, key_group = jax.random.split(chain)
    chain, key_near = jax.random.split(chain)
    _, key_outside = jax.random.split(chain)
    return Draws(
        types=jnp.zeros(N),
        surrounds=jax.random.uniform(key_kind),
        allies_inside=allies_inside / 2.0,
        west=jax.random.uniform(jax.random.split(key_reflect)[1], (N, 2)),
        inside=jax.random.uniform(key_inside, (N, 2)),
        outside=jax.random.uniform(key_outside, (N, 2)),
        group=(jax.random.categorical(key_group, jnp.zeros(4), shape=(N,)) + 0.5) / 4,
        how_near=jax.random.uniform(key_near, (4,)),
    )


@needs_jaxmarl
def test_the_same_draws_place_teams_where_jaxmarl_places_them():
    module = load_jaxmarl("environments.smax.distributions")
    theirs = module.SurroundAndReflectPositionDistribution(N, N, MAP_SIZE, MAP_SIZE)
    keys = jax.random.split(jax.random.key(0), 64)
    with lenient():
        draws = jax.jit(jax.vmap(their_draws))(keys)
        places = jax.jit(jax.vmap(theirs.generate))(keys)
    np.testing.assert_allclose(jax.vmap(place_teams)(draws), places, atol=1e-5)
    kinds = set(zip((draws.surrounds < 0.5).tolist(), (draws.allies_inside >= 0.5).tolist()))
    assert len(kinds) == 4


@pytest.fixture(scope="module")
def drawn():
    return jax.device_get(jax.vmap(lambda key: draw_teams(key, N, 6))(jax.random.split(jax.random.key(1), MANY)))


def test_every_type_is_as_likely_and_the_enemies_have_the_allies(drawn):
    types, _ = drawn
    assert types.dtype == np.uint8
    np.testing.assert_array_equal(types[:, :N], types[:, N:])
    shares = np.bincount(types[:, :N].ravel(), minlength=6) / (N * MANY)
    np.testing.assert_allclose(shares, 1 / 6, atol=0.03)
    assert np.abs(np.corrcoef(types[:, :N].T.astype(float)) - np.eye(N)).max() < 5 / np.sqrt(MANY)


def test_a_half_of_all_battles_is_mirrored_a_quarter_has_either_side_in_the_middle(drawn):
    _, place = drawn
    allies, enemies = place[:, :N], place[:, N:]
    mirrored = (allies[..., 1] == enemies[..., 1]).all(-1)
    in_the_middle = [(np.abs(side - MAP_SIZE / 2) <= 2).all((-1, -2)) for side in (allies, enemies)]
    np.testing.assert_allclose(
        [mirrored.mean(), *(each.mean() for each in in_the_middle)], [0.5, 0.25, 0.25], atol=0.06
    )
    np.testing.assert_allclose(allies[mirrored][..., 0] + enemies[mirrored][..., 0], MAP_SIZE, atol=1e-5)
    around = enemies[in_the_middle[0] & ~mirrored].reshape(-1, 2)
    nearest = CORNERS[np.linalg.norm(around[:, None] - CORNERS, axis=-1).argmin(-1)]
    off = np.abs((around - nearest)[:, 0]) - np.abs((around - nearest)[:, 1])  # groups stand on the diagonals
    assert np.abs(off).max() <= 4 + 1e-4
    assert len({tuple(corner) for corner in nearest.tolist()}) == 4


def test_types_drawn_decide_what_units_are():
    """Beside the same army with its types fixed by name: all that rules and views ask of a type is the same."""
    types = jnp.array([0, 1, 2, 3, 5, 4, 0, 1, 2, 3], jnp.uint8)
    armies, fixed = DRAWN._replace(types=types), DRAWN.named(np.asarray(types))
    assert fixed.allies == ("marine", "marauder", "stalker", "zealot", "hydralisk")
    for field in ("speed", "damage", "range", "sight", "radius", "health", "cooldown"):
        np.testing.assert_array_equal(armies.column(field), fixed.column(field))
    np.testing.assert_array_equal(armies.one_hot_types(), fixed.one_hot_types())


def test_pictures_and_texts_show_the_types_drawn():
    env = make("smax", scenario="smacv2_5_units")
    snapshot = jax.device_get(env.snapshot(jax.jit(env.reset)(jax.random.key(0))[0]))
    snapshot = snapshot._replace(types=np.array([4] * 3 + [1] * 2 + [2] * 5, np.uint8))
    snapshot = snapshot._replace(health=np.array([35] * 3 + [125, 0] + [160] * 5, np.uint8))
    assert env.render(snapshot).splitlines()[16:] == [
        "allies:  3/3 zergling, 1/2 marauder; health 65%",
        "enemies: 5/5 stalker; health 100%",
    ]
    battle = unpack_battle(snapshot, DRAWN)
    assert "".join(battle.letters) == "zzzMMsssss"
    np.testing.assert_array_equal(battle.health, [1, 1, 1, 1, 0, 1, 1, 1, 1, 1])
    assert env.draw(snapshot, 0, {"dead_allies": 1.0, "dead_enemies": 0.0, "return": 0.0}).caption.startswith("step 0")
    assert max(unit.health for name, unit in UNITS.items() if name != "colossus") < 256
