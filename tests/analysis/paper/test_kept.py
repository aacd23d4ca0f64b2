"""Kept tables: what goes in comes out, seeds join, other settings stay apart, damage is one line."""

import dataclasses
import json

import pytest

from lsf_jax.analysis.paper import kept
from lsf_jax.analysis.paper.evidence import gather
from lsf_jax.config.composition import compose
from lsf_jax.settings import ConfigError
from tests.support.paper_cases import figure, run_folder, table

QMIX = ("long", "qmix")


@pytest.fixture
def cells():
    return figure()[1]


@pytest.fixture
def folder(tmp_path, cells):
    config = cells[QMIX].member.config
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, seeds=2, seed=41))
    returns = [[0, 1, 2, 8], [0, 1, float("nan"), 6.1234567]]
    return run_folder(tmp_path / "run", config, cells[QMIX].setting["environment"], returns)


def test_a_run_becomes_a_table_and_comes_back(folder, cells, tmp_path):
    (made,) = kept.tables_of(folder, ["return", "success", "q_total"])
    assert kept.setting_of(kept.config_of(made), made.environment) == cells[QMIX].setting
    assert [(seed.root, seed.number, seed.updates) for seed in made.seeds] == [(41, 0, 500), (41, 1, 500)]
    assert made.seeds[1].env_steps == (250, 500, 750, 1000)
    assert made.seeds[1].values == {"return": (0.0, 1.0, None, 6.1235)}  # no table of nine numbers among them
    assert made.card == {"environment": made.environment, "sizes": "2 agents"}
    origin = made.origins[0]
    assert (origin.commit, origin.dirty, origin.device, origin.seconds) == ("feed", True, "a processor", 360.0)
    path = kept.keep(made, tmp_path / "kept", "long-qmix", cells[QMIX].setting)
    assert path.stat().st_size < 4000
    (read,) = kept.read_tables(tmp_path / "kept")
    assert same(read, made)


def same(read, made):
    return all(
        getattr(read, name) == getattr(made, name) for name in ("config", "environment", "card", "origins", "seeds")
    )


def test_an_unfinished_run_is_kept_as_far_as_it_is(tmp_path, cells):
    config = cells[QMIX].member.config
    path = run_folder(tmp_path / "run", config, cells[QMIX].setting["environment"], [[0, 1]] * 4)
    (made,) = kept.tables_of(path, ["return"])
    assert [seed.env_steps for seed in made.seeds] == [(250, 500)] * 4


def test_each_point_of_a_grid_is_a_setting(tmp_path):
    config = compose(algo="vdn", env="matrix_game", overrides=["seeds=2", "train.env_steps=500", "algo.lr=0.1,0.2"])
    path = run_folder(tmp_path / "run", config, "matrix_game version 1", [[0, 1], [0, 2], [0, 3], [0, 4]])
    made = kept.tables_of(path, ["return"])
    assert [kept.config_of(one).algo.lr for one in made] == [0.1, 0.2]
    assert [[seed.values["return"][-1] for seed in one.seeds] for one in made] == [[1, 2], [3, 4]]


def test_seeds_of_one_setting_join_and_others_get_a_file_of_their_own(tmp_path, cells):
    folder, setting = tmp_path / "kept", cells[QMIX].setting
    first = kept.keep(table(cells[QMIX], [1, 2]), folder, "long-qmix", setting)
    assert kept.keep(table(cells[QMIX], [3], root=9), folder, "another name", setting) == first
    wider = table(cells[QMIX], [4], hidden=32)
    second = kept.keep(wider, folder, "long-qmix", kept.setting_of(kept.config_of(wider), wider.environment))
    assert second.name == "long-qmix-2.json"
    one, two = kept.read_tables(folder)
    assert [seed.name for seed in one.seeds] == [(0, 0), (0, 1), (9, 0)]
    assert [seed.name for seed in two.seeds] == [(0, 0)]
    gathered = gather(cells, [one, two])
    assert len(gathered.evidence[QMIX].seeds) == 3
    assert gathered.variants[0].changes == {"algo.hidden": ("64", "32")}


def test_of_a_seed_that_is_there_twice_the_longer_curve_stays_and_search_stays_search(cells):
    long = table(cells[QMIX], [8])
    short = table(cells[QMIX], [3], steps=(250, 500), purpose="search")
    for tables in ([long, short], [short, long]):
        (seed,) = kept.merged(tables).seeds
        assert (seed.env_steps[-1], seed.purpose) == (1000, "search")


def test_long_curves_are_thinned_and_keep_their_end(tmp_path, cells):
    config = cells[QMIX].member.config
    train = dataclasses.replace(config.train, seeds=1, env_steps=250 * 999)
    config = dataclasses.replace(config, train=train)
    path = run_folder(tmp_path / "run", config, "matrix_game version 1", [list(range(999))])
    ((seed,),) = (one.seeds for one in kept.tables_of(path, ["return"]))
    assert len(seed.env_steps) == kept.MOST_POINTS
    assert (seed.env_steps[0], seed.env_steps[-1], seed.values["return"][-1]) == (250, 250 * 999, 998.0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda content: content["seeds"][0].update(env_steps=[500, 250]),
            "env_steps of seed 0 of root 0 do not ascend",
        ),
        (lambda content: content["seeds"][0].update(origin=3), "seed 0 of root 0 is of origin 3, of which there are 1"),
        (lambda content: content["seeds"][1].update(number=0), "a seed is there twice"),
        (lambda content: content["seeds"][0].update(values={"return": [1.0]}), "does not have a value for each"),
        (lambda content: content["seeds"][0].update(purpose="fun"), "invalid enum value 'fun' - at `seeds[0].purpose`"),
        (lambda content: content.pop("origins"), "object missing required field `origins`"),
        (lambda content: content.update(more=1), "object contains unknown field `more`"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path, cells, change, complaint):
    path = tmp_path / "kept" / "a.json"
    kept.write_table(table(cells[QMIX], [1, 2]), path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        kept.read_tables(path.parent)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "\xff", "[" * 5000, "3"])
def test_what_is_no_table_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"a\.json is damaged: ") as caught:
        kept.read_table(path)
    assert "\n" not in str(caught.value)


def test_a_setting_that_todays_code_does_not_know_is_named(tmp_path, cells):
    path = tmp_path / "a.json"
    made = table(cells[QMIX], [1])
    made.config["algo"]["learning_rate"] = 1.0
    kept.write_table(made, path)
    with pytest.raises(ConfigError, match=r"unknown key algo\.learning_rate of qmix.* \(in .*a\.json\)"):
        kept.read_table(path)
