"""Settings of real SMAC: the ten maps, the sizes that flags make of them, and how they are named and refused."""

import pytest

from lsf_jax.config import files
from lsf_jax.config.composition import compose
from lsf_jax.envs import ENVS
from lsf_jax.envs.host import HostEnv
from lsf_jax.envs.smac.config import SmacConfig, expected_max_reward, game_arguments, spec_of
from lsf_jax.envs.smac.maps import MAPS
from lsf_jax.envs.smac.pool import SmacPool
from lsf_jax.settings import ConfigError

REWARDS = {
    "3m": 365,
    "8m": 640,
    "3s5z": 1510,
    "1c3s5z": 1870,
    "3s_vs_5z": 1000,
    "5m_vs_6m": 530,
    "27m_vs_30m": 1850,
    "6h_vs_8z": 1480,
    "corridor": 1280,
    "MMM2": 1205,
}
BUDGETS = {"3s_vs_5z": 3_005_000, "5m_vs_6m": 4_005_000, "6h_vs_8z": 5_005_000, "corridor": 5_005_000}


@pytest.mark.parametrize("name", REWARDS)
def test_sizes_follow_from_units_and_races(name):
    row = MAPS[name]
    ally, enemy = ((race == "P") + row.type_bits for race in row.races)
    others = row.agents - 1
    assert row.n_actions == 6 + row.enemies
    assert row.obs == 4 + row.enemies * (5 + enemy) + others * (5 + ally) + 1 + ally
    assert row.state == row.agents * (4 + ally) + row.enemies * (3 + enemy) + row.agents * row.n_actions
    assert row.max_reward == REWARDS[name]
    assert row.budget == BUDGETS.get(name, 2_005_000)


def test_the_table_has_the_ten_maps_of_the_paper_and_a_config_for_each():
    assert list(MAPS) == list(REWARDS)
    shipped = dict(files.list_names()["env"])
    assert {name.removeprefix("smac/") for name in shipped if name.startswith("smac/")} == set(MAPS)
    for name, row in MAPS.items():
        config = compose(env=f"smac/{name}")
        assert (config.env_name, config.env) == ("smac", SmacConfig(map_name=name))
        assert f"SMAC {name} ({row.level})" in shipped[f"smac/{name}"]
        assert f"{row.budget:,}" in shipped[f"smac/{name}"]


def test_a_pool_has_the_sizes_of_its_map_before_anything_is_started():
    pool = ENVS["smac"].hosted(SmacConfig(map_name="MMM2")).open(3, 0)
    assert isinstance(pool, SmacPool)
    assert isinstance(pool, HostEnv)
    with pytest.raises(ConfigError, match="n_workers is 0"):
        SmacPool(SmacConfig(), 0)
    assert tuple(pool.spec) == (10, 18, 176, 322, 180)
    assert pool.observation.obs.shape == (3, 10, 176)
    assert pool.observation.avail.all()


@pytest.mark.parametrize(
    ("flags", "obs", "state"),
    [
        ({}, 48, 68),
        ({"obs_last_action": True}, 48 + 2 * 11, 68),
        ({"obs_timestep_number": True, "state_timestep_number": True}, 49, 69),
        ({"obs_pathing_grid": True, "obs_terrain_height": True}, 48 + 17, 68),
        ({"state_last_action": False}, 48, 68 - 3 * 11),
        ({"obs_instead_of_state": True}, 48, 3 * 48),
        ({"obs_all_health": False}, 48 - 2 * 2 - 5 * 2, 68),
        ({"obs_own_health": False}, 48, 68),
        ({"obs_all_health": False, "obs_own_health": False}, 48 - 2 * 2 - 5 * 2 - 2, 68),
    ],
)
def test_flags_change_the_sizes(flags, obs, state):
    spec = spec_of(SmacConfig(map_name="3s_vs_5z", **flags))
    assert (spec.obs_dim, spec.state_dim) == (obs, state)


def test_max_reward_follows_from_its_parts_unless_it_is_given():
    assert expected_max_reward(SmacConfig(map_name="3m", reward_death_value=20.0, reward_win=0.0)) == 60 + 135
    assert expected_max_reward(SmacConfig(map_name="3m", max_reward=400.0)) == 400


def test_only_what_smac_knows_is_passed_on():
    arguments = game_arguments(SmacConfig(map_name="3m", game_version="4.10.0", sc2_path="somewhere"))
    assert arguments["map_name"] == "3m"
    assert arguments["game_version"] == "4.10.0"
    assert game_arguments(SmacConfig())["game_version"] is None
    assert not {"sc2_path", "python", "deadline", "store", "seed"} & set(arguments)


def test_wrong_settings_are_refused_by_name():
    with pytest.raises(ConfigError, match=r"env\.map_name is .?4m.?; expected one of 3m, 8m"):
        compose(env="smac/3m", overrides=["env.map_name=4m"])
    with pytest.raises(ConfigError, match=r"unknown env 'smac/3n'; did you mean smac/3m"):
        compose(env="smac/3n")
    with pytest.raises(ConfigError, match=r"env\.relaunch_loops is 500000; expected at most 484285"):
        spec_of(SmacConfig(map_name="corridor", relaunch_loops=500_000, step_mul=100))
