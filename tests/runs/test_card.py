"""The configuration card tells the protocol, and a comparison marks every difference."""

import dataclasses
import json

import pytest

from lsf_jax.cli.app import main
from lsf_jax.config.composition import compose, to_yaml
from lsf_jax.programs.parts import bind
from lsf_jax.runs import card as cards
from lsf_jax.runs import folder
from lsf_jax.runs.card import card_text, compare_runs, comparison_text, setup_card, write_card

GAME = ("env.episode_limit=25",)


def folder(tmp_path, name, *overrides, algo="qmix", env="climbing", card=True, versions=None):
    """A run folder with a configuration and a card, nothing trained."""
    path = tmp_path / name
    path.mkdir()
    config = compose(algo=algo, env=env, overrides=overrides)
    (path / "config.yaml").write_text(to_yaml(config))
    content = {"versions": versions or {"jax": "0.10.2"}, "git": None}
    folder.write_json_atomic(path / "card.json", content)
    if card:
        write_card(path, config, bind(config))
    return path


def card_of(config):
    return setup_card(config, bind(config))


def test_the_card_tells_rates_and_ratios_in_the_units_of_papers():
    words = ["train.n_envs=8", "algo.batch_size=32", "algo.updates=2", "train.env_steps=50000", *GAME]
    setup = card_of(compose(algo="qmix", env="climbing", overrides=words))
    assert setup["algorithm"] == "qmix"
    assert setup["environment"] == "climbing version 1"
    assert "at most 25 steps" in setup["sizes"]
    assert setup["updates"] == "2 after 8 episodes, 10 per 1,000 env steps of full episodes"  # 2 in 8 · 25 steps
    assert setup["replay ratio"] == "8 episodes replayed for each collected"  # 2 · 32 / 8
    assert setup["budget"] == "50,000 env steps a seed"
    assert setup["TD(λ)"] == "0.8"
    assert setup["target copy"] == "200 episodes between hard target copies"
    assert setup["env.episode_limit"] == "25"
    assert setup["replay"] == "5,000 episodes"
    assert setup["batch"] == "32 episodes"
    assert setup["exploration"] == "ε 1.0 to 0.05 over 100000.0 env steps"
    assert setup["evaluation"].startswith("greedy, 32 episodes")
    assert "hidden 64" in setup["networks"]


def test_updates_of_the_train_section_win_and_swept_numbers_show_all_values():
    words = ["train.updates_per_iteration=3", "algo.lr=1e-3,3e-4", *GAME]
    setup = card_of(compose(algo="qmix", env="climbing", overrides=words))
    assert setup["updates"].startswith("3 after")
    assert setup["learning rates"] == "lr 0.001 | 0.0003"
    assert "| 0.0003" not in card_text(setup)  # a stroke would end the cell


def test_an_actor_that_samples_says_so_and_its_own_settings_are_listed():
    setup = card_of(compose(algo="lsf_sac", env="climbing"))
    assert setup["exploration"] == "a ~ π"
    assert setup["algo.message_routing"] == "broadcast"
    assert "actor_lr" in setup["learning rates"]


def test_what_an_algorithm_replays_is_told_and_in_which_unit_targets_are_copied():
    coma = card_of(compose(algo="coma", env="climbing"))
    assert (coma["replay"], coma["batch"]) == ("8 episodes", "8 episodes")  # its newest batch, no replay
    assert coma["target copy"] == "200 critic steps, one for each time step, between hard target copies"
    dop = card_of(compose(algo="dop", env="climbing"))
    assert dop["replay"] == "latest 8, off 5,000, on 16 episodes"
    assert dop["batch"] == "latest 8, off 16, on 8 episodes"
    assert dop["replay ratio"] == "4 episodes replayed for each collected"  # (8 + 16 + 8) / 8


def test_settings_that_an_algorithm_lacks_are_dashes_and_its_optimiser_then_adam():
    @dataclasses.dataclass(frozen=True)
    class Bare:
        lr: float = 1e-3
        updates: int = 1
        knob: int = 3

    config = compose(algo="qmix", env="climbing")
    setup = setup_card(dataclasses.replace(config, algo=Bare()), bind(config))
    lacking = ("discount", "TD(λ)", "target copy", "exploration", "networks", "gradient clipping")
    assert {setup[item] for item in lacking} == {"-"}
    assert (setup["optimiser"], setup["learning rates"], setup["algo.knob"]) == ("adam", "lr 0.001", "3")


def marked(text):
    """Item and values of every marked row of a Markdown comparison."""
    return [tuple(line.strip("| ").split(" | ")[1:]) for line in text.splitlines() if line.startswith("| * |")]


def test_a_difference_is_marked_and_what_is_equal_is_counted(tmp_path):
    paths = [folder(tmp_path, "a"), folder(tmp_path, "b", "algo.lr=1e-2", "train.log_every=7")]
    comparison = compare_runs(paths)
    text = comparison_text(comparison, markdown=True)
    rates, other = ("learning rates", "lr 0.0005", "lr 0.01"), ("train.log_every", "1", "7")
    assert marked(text) == [rates, other]
    assert marked(text.split("other settings:")[1]) == [other]
    assert comparison.names == ("a", "b")
    assert not comparison.warnings
    assert f"{len(comparison.rows) - 1} settings are equal" in text
    assert "algorithm" not in text
    whole = comparison_text(comparison, everything=True, markdown=True)
    assert "|  | algorithm | qmix | qmix |" in whole


def test_plain_tables_are_aligned(tmp_path):
    text = comparison_text(compare_runs([folder(tmp_path, "a"), folder(tmp_path, "b", "algo.lr=1e-2")]))
    head, row = text.splitlines()[:2]
    assert row == "*  learning rates  lr 0.0005  lr 0.01"
    assert (head.index("what"), head.index("a", 8), head.index("b")) == (3, 19, 30)


def test_plain_tables_are_broken_to_the_width_of_the_terminal(tmp_path):
    names = [folder(tmp_path, name, f"algo.lr={rate}") for name, rate in (("a", 1e-3), ("b", 1e-2))]
    comparison = compare_runs(names)
    whole = comparison_text(comparison, everything=True)
    broken = comparison_text(comparison, everything=True, width=90)
    assert max(map(len, whole.splitlines())) > 90 >= max(map(len, broken.splitlines()))
    assert sorted("".join(whole.split())) == sorted("".join(broken.split()))  # nothing is cut off


def test_versions_and_block_widths_are_shown_where_they_differ_or_everything_is_asked_for(tmp_path):
    paths = [folder(tmp_path, name) for name in ("a", "b")]
    for path, width in zip(paths, (16, 64)):
        card = json.loads((path / "card.json").read_text())
        folder.write_json_atomic(path / "card.json", card | {"layout": {"width": width, "micro_batch": 0}})
    comparison = compare_runs(paths)
    shown, whole = (comparison_text(comparison, everything=everything, markdown=True) for everything in (False, True))
    assert marked(shown) == marked(whole) == [("layout width", "16", "64")]
    assert "micro_batch" not in shown
    assert "|  | layout micro_batch | 0 | 0 |" in whole
    assert "|  | versions jax | 0.10.2 | 0.10.2 |" in whole


def test_other_numbers_of_environments_are_a_difference_of_tuning_not_of_the_environment(tmp_path):
    comparison = compare_runs([folder(tmp_path, "a"), folder(tmp_path, "b", "train.n_envs=4")])
    changed = [item for item, values in comparison.rows if len(set(values)) > 1]
    assert changed == ["environments", "updates", "replay ratio"]
    assert comparison.settings == comparison.warnings == ()


def test_tables_that_differ_in_their_last_number_differ(tmp_path):
    zeros = [[0] * 6 for _ in range(6)]
    other = [*zeros[:-1], [0] * 5 + [9]]
    paths = [
        folder(tmp_path, name, f"env.payoff={table}", env="matrix_game") for name, table in (("a", zeros), ("b", other))
    ]
    assert compare_runs(paths).warnings == ("environments differ (env.payoff): results must not be compared",)


def test_other_environments_are_warned_of_and_other_versions_shown_apart(tmp_path):
    paths = [folder(tmp_path, "a"), folder(tmp_path, "b", env="penalty", versions={"jax": "0.11.0"})]
    text = comparison_text(compare_runs(paths), markdown=True)
    assert text.startswith("WARNING: environments differ (environment, env.penalty): results must not be compared\n")
    assert marked(text.split("versions and machines:")[1]) == [("versions jax", "0.10.2", "0.11.0")]


def test_an_environment_changed_between_two_runs_is_warned_of(tmp_path, monkeypatch):
    before, undated = folder(tmp_path, "before"), folder(tmp_path, "undated", card=False)
    config = compose(algo="qmix", env="climbing")
    program = cards.build(config)
    changed = program._replace(env=program.env._replace(version="2"))
    monkeypatch.setattr(cards, "build", lambda config: changed)
    after = folder(tmp_path, "after")
    for old in (before, undated):  # whose version is not that of the code of the day
        comparison = compare_runs([old, after])
        assert dict(comparison.rows)["environment"] == ("climbing version 1", "climbing version 2")
        assert comparison.warnings == ("environments differ (environment): results must not be compared",)
    assert not compare_runs([before, undated]).warnings


def test_runs_of_before_the_card_are_compared_by_their_configuration(tmp_path):
    paths = [folder(tmp_path, "old", card=False), folder(tmp_path, "new", "algo.hidden=32")]
    comparison = compare_runs(paths)
    assert [item for item, values in comparison.rows if len(set(values)) > 1] == ["networks"]


def test_algorithms_with_different_settings_are_compared_item_by_item(tmp_path):
    paths = [folder(tmp_path, "a"), folder(tmp_path, "b", algo="lsf_sac")]
    comparison = compare_runs(paths)
    rows = dict(comparison.rows)
    assert rows["algorithm"] == ("qmix", "lsf_sac")
    assert rows["algo.beta"] == ("-", "0.001")
    assert comparison.settings == ()  # everything is in the cards, nothing is told twice


def test_a_sweep_against_one_value_is_one_row(tmp_path):
    comparison = compare_runs([folder(tmp_path, "a"), folder(tmp_path, "b", "algo.lr=5e-4,1e-3")])
    assert marked(comparison_text(comparison, markdown=True)) == [("learning rates", "lr 0.0005", "lr 0.0005 or 0.001")]


def test_exploration_that_does_not_act_is_among_the_other_settings(tmp_path):
    paths = [folder(tmp_path, "a", algo="lsf_sac"), folder(tmp_path, "b", "algo.epsilon_anneal=5", algo="lsf_sac")]
    assert compare_runs(paths).settings == (("algo.epsilon_anneal", ("100000.0", "5.0")),)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = []
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        paths.append(folder(tmp_path / place, "run"))
    assert compare_runs(paths).names == tuple(str(path) for path in paths)


def complaint(arguments, capsys):
    assert main(["compare", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_cannot_be_compared_is_one_line_and_exit_code_2(tmp_path, capsys):
    a = folder(tmp_path, "a")
    assert "expected two or more" in complaint([a], capsys)
    assert "nothing is not a run folder" in complaint([a, tmp_path / "nothing"], capsys)


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff\xfe{}", b'{"setup": [1]}'])
def test_a_damaged_card_is_named(damage, tmp_path, capsys):
    a, b = folder(tmp_path, "a"), folder(tmp_path, "b")
    (b / "card.json").write_bytes(damage)
    shown = complaint([a, b], capsys)
    assert "card.json" in shown
    assert "damaged" in shown


def test_the_command_prints_the_table(tmp_path, capsys):
    a, b = folder(tmp_path, "a"), folder(tmp_path, "b", "algo.lr=1e-2")
    assert main(["compare", str(a), str(b)]) == 0
    assert "*  learning rates  lr 0.0005  lr 0.01\n" in capsys.readouterr().out
    assert main(["compare", str(a), str(b), "--markdown", "--all"]) == 0
    shown = capsys.readouterr().out
    assert "| * | learning rates | lr 0.0005 | lr 0.01 |\n" in shown
    assert "|  | discount | 0.99 | 0.99 |\n" in shown
    assert json.loads((a / "card.json").read_text())["setup"]["algorithm"] == "qmix"
    assert (a / "card.md").read_text().startswith("| what | value |")
