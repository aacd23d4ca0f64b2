"""SMAX without playing: armies, sizes, bytes in replay, names, pictures as text, and what is so without JaxMARL."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lsf_jax
from lsf_jax.config import composition, files
from lsf_jax.engine.buffers import uniform
from lsf_jax.engine.rollouts import play
from lsf_jax.envs import make
from lsf_jax.envs.jaxmarl import load_jaxmarl
from lsf_jax.envs.smax_scenarios import N_STANDARD, SCENARIOS, UNITS
from lsf_jax.settings import ConfigError
from tests.support.jaxmarl_cases import DRAWN, PAPER, case, needs_jaxmarl

SIZES = {  # agents, actions, observation, state
    "3m": (3, 8, 75, 60),
    "8m": (8, 13, 205, 160),
    "3s5z": (8, 13, 205, 160),
    "3s_vs_5z": (3, 10, 101, 80),
    "5m_vs_6m": (5, 11, 140, 110),
    "27m_vs_30m": (27, 35, 738, 570),
    "6h_vs_8z": (6, 13, 179, 140),
    "corridor_open": (6, 29, 387, 300),
    "2M7m_vs_3M8m": (9, 16, 257, 200),
    "1c3s5z_nosplash": (9, 14, 249, 198),
    "smacv2_5_units": (5, 10, 127, 100),
    "smacv2_10_units": (10, 15, 257, 200),
    "smacv2_20_units": (20, 25, 517, 400),
}
ARMIES = {
    "3m": "3m 3m",
    "8m": "8m 8m",
    "3s5z": "3s5Z 3s5Z",
    "3s_vs_5z": "3s 5Z",
    "5m_vs_6m": "5m 6m",
    "27m_vs_30m": "27m 30m",
    "6h_vs_8z": "6h 8Z",
    "corridor_open": "6Z 24z",
    "2M7m_vs_3M8m": "2M7m 3M8m",
    "1c3s5z_nosplash": "1C3s5Z 1C3s5Z",
}
OURS = ("corridor_open", "2M7m_vs_3M8m", "1c3s5z_nosplash")


def army_text(army):
    return "".join(f"{army.count(kind)}{UNITS[kind].letter}" for kind in dict.fromkeys(army))


def test_the_papers_ten_maps_have_their_armies():
    assert set(PAPER) == set(ARMIES) == set(SIZES) - set(DRAWN)
    for name, expected in ARMIES.items():
        scenario = SCENARIOS[name]
        assert f"{army_text(scenario.allies)} {army_text(scenario.enemies)}" == expected


def test_scenarios_of_our_own_do_not_bear_names_of_smac():
    assert not {"corridor", "MMM2", "1c3s5z"} & set(SCENARIOS)


@needs_jaxmarl
def test_scenarios_that_jaxmarl_has_are_jaxmarls():
    theirs = load_jaxmarl("environments.smax.smax_env").MAP_NAME_TO_SCENARIO
    assert set(theirs) == set(SCENARIOS) - set(OURS)
    for name in theirs:
        drawn = {theirs[name].smacv2_unit_type_generation, theirs[name].smacv2_position_generation}
        assert drawn == {SCENARIOS[name].is_drawn} == {name in DRAWN}
        np.testing.assert_array_equal(theirs[name].unit_types, SCENARIOS[name].type_numbers())
        assert theirs[name].num_allies == len(SCENARIOS[name].allies)


@needs_jaxmarl
def test_unit_types_are_jaxmarls_and_a_colossus_at_the_end():
    module = load_jaxmarl("environments.smax")
    default, ours = module.SMAX(), case("1c3s5z_nosplash")[1]
    assert list(UNITS)[:N_STANDARD] == default.unit_type_names == case("3m")[1].unit_type_names
    assert list(UNITS)[N_STANDARD:] == ["colossus"]
    tables = [key for key in vars(default) if key.startswith("unit_type_") and key not in ("unit_type_generator",)]
    assert len(tables) == 10
    for key in tables:
        if key == "unit_type_bits":
            assert (default.unit_type_bits, ours.unit_type_bits) == (6, 7)
        else:
            assert list(getattr(ours, key))[:N_STANDARD] == list(getattr(default, key)), key
            assert len(getattr(ours, key)) == len(UNITS), key
    assert all(unit.damage == int(unit.damage) and unit.health == int(unit.health) for unit in UNITS.values())


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_table(name):
    env = make("smax", scenario=name)
    spec = env.spec
    assert (spec.n_agents, spec.n_actions, spec.obs_dim, spec.state_dim) == SIZES[name]
    assert spec.episode_limit == 100
    state, first = jax.eval_shape(env.reset, jax.random.key(0))
    _, step = jax.eval_shape(env.step, jax.random.key(0), state, jnp.zeros(spec.n_agents, jnp.uint8))
    for seen in (first, step.observation, jax.eval_shape(env.observe, jax.eval_shape(env.snapshot, state))):
        assert seen.obs.shape == (spec.n_agents, spec.obs_dim)
        assert seen.state.shape == (spec.state_dim,)
        assert seen.avail.shape == (spec.n_agents, spec.n_actions)
        assert (seen.obs.dtype, seen.state.dtype, seen.avail.dtype) == (jnp.float32, jnp.float32, bool)


def first_available(carry, observation, key):
    del key
    return carry, observation.avail.argmax(-1)


@pytest.mark.parametrize("name", SIZES)
def test_replay_takes_14_bytes_a_unit_and_a_few_for_the_step(name):
    env = make("smax", scenario=name)
    spec, n_units = env.spec, len(SCENARIOS[name].units())
    played = jax.eval_shape(partial(play, env, first_available, jnp.int32(0)), jax.random.split(jax.random.key(0), 1))
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), played)
    ring = uniform(example, capacity=64, batch_size=32, n_envs=8)
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(jax.eval_shape(ring.init)))
    a_unit = 15 if "colossus" in SCENARIOS[name].units() or name in DRAWN else 14
    # A snapshot for each of 101 moments; actions and a reward of 4 bytes for each of 100 steps; 2 flags as bits.
    assert n_bytes == 64 * (101 * a_unit * n_units + 100 * (spec.n_agents + 4) + 2 * 13)
    per_step = n_bytes / (64 * 100)
    assert per_step <= {"3m": 300, "27m_vs_30m": 2500}.get(name, 2500)
    seen = 4 * (spec.n_agents * spec.obs_dim + spec.state_dim) + spec.n_agents * spec.n_actions
    assert per_step < seen / 10  # what storing observations would take


# Names and files.


@pytest.mark.parametrize("name", SIZES)
def test_every_map_has_a_file_that_says_what_it_is(name):
    made = composition.compose(env=f"smax/{name}")
    assert (made.env_name, made.env.scenario) == ("smax", name)
    assert made.env == composition.compose(env="smax", overrides=[f"env.scenario={name}"]).env
    headline = dict(files.list_names()["env"])[f"smax/{name}"]
    assert headline.startswith("SMAX: ")


def test_an_unknown_map_is_answered_with_a_near_one():
    with pytest.raises(ConfigError, match="did you mean smax/5m_vs_6m"):
        composition.compose(env="smax/5m_vs_7m")
    with pytest.raises(ConfigError, match=r"env\.scenario is corridor; expected one of 3m, .*corridor_open"):
        composition.compose(env="smax", overrides=["env.scenario=corridor"])


def run(code, **environment):
    folder = str(Path(lsf_jax.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": folder} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_maps_are_listed_without_importing_jaxmarl():
    code = "import sys; from lsf_jax.cli.app import main; main(['list', 'env']); assert 'jaxmarl' not in sys.modules"
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert all(f"  smax/{name} " in done.stdout for name in SIZES)


@needs_jaxmarl
def test_making_a_game_of_jaxmarls_writes_nothing_and_leaves_the_streams_alone():
    code = """
import contextlib, io, sys
mine = io.StringIO()
before = (sys.stderr, sys.__stdout__, sys.__stderr__)
with contextlib.redirect_stdout(mine):
    from lsf_jax.envs import make
    make("jaxmarl")
    assert sys.stdout is mine
assert before == (sys.stderr, sys.__stdout__, sys.__stderr__)
assert "jaxmarl" in sys.modules and mine.getvalue() == "", mine.getvalue()
"""
    done = run(code)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_without_jaxmarl_one_line_says_what_to_install(monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == "jaxmarl"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    with pytest.raises(ConfigError, match=r"need the package jaxmarl.*pip install 'jaxmarl>=0.2,<0.3'"):
        make("jaxmarl")


@pytest.mark.slow
def test_battles_are_fought_without_jaxmarl():
    code = """
import sys
sys.modules["jaxmarl"] = None
import jax
from lsf_jax.envs import make
env = make("smax")
state, seen = env.reset(jax.random.key(0))
_, step = env.step(jax.random.key(1), state, seen.avail.argmax(-1))
print(int(step.info["dead_allies"]), env.version)
"""
    done = run(code)
    assert done.stdout.split("\n")[0] == "0 1, jaxmarl 0.2.0", done.stderr


@needs_jaxmarl
@pytest.mark.parametrize(("version", "is_refused"), [("0.1.0", True), ("0.2.0", False), ("0.10.1", False)])
def test_a_jaxmarl_from_before_its_observations_changed_is_refused(version, is_refused, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: version)
    if is_refused:
        with pytest.raises(ConfigError, match=r"need version 0\.2\.0 or later, but 0\.1\.0"):
            make("jaxmarl")
    else:
        assert make("jaxmarl").version == f"1, jaxmarl {version}"


# Pictures as text.


def test_a_picture_shows_the_living_where_they_stand():
    env = make("smax", scenario="3m")
    snapshot = jax.device_get(env.snapshot(jax.jit(env.reset)(jax.random.key(0))[0]))
    places = np.array([[0.5, 31.5], [31.5, 0.5], [5, 5], [16.5, 16.5], [20.5, 16.5], [9, 9]], np.float32)
    text = env.render(snapshot._replace(position=places, health=np.array([45, 9, 0, 45, 45, 0], np.uint8)))
    rows = text.splitlines()
    assert [len(row) for row in rows[:16]] == [32] * 16
    assert (rows[0][0], rows[15][31], rows[7][16], rows[7][20]) == ("0", "1", "#", "#")  # north is up
    assert "".join(rows[:16]).count(".") == 16 * 32 - 4
    assert rows[16:] == ["allies:  2/3 marine; health 40%", "enemies: 2/3 marine; health 67%"]
