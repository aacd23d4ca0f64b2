"""Runs held against each other: every difference is marked, and what must not be compared is warned of."""

import json
from functools import cache

import pytest

from lsf_jax.analysis import compare
from lsf_jax.analysis.compare import compare_runs, comparison_text
from lsf_jax.cli.app import main
from lsf_jax.config.composition import compose
from lsf_jax.config.documents import to_yaml
from lsf_jax.programs.parts import bind
from lsf_jax.runs import folder
from lsf_jax.runs.card import write_card

_bound = cache(bind)


def run_of(tmp_path, name, *overrides, algo="qmix", env="climbing", card=True, versions=None, program=None):
    """A run folder with a configuration and a card, nothing trained."""
    path = tmp_path / name
    path.mkdir()
    config = compose(algo=algo, env=env, overrides=overrides)
    (path / "config.yaml").write_text(to_yaml(config))
    content = {"versions": versions or {"jax": "0.10.2"}, "git": None}
    folder.write_json_atomic(path / "card.json", content)
    if card:
        write_card(path, config, program or _bound(config))
    return path


def marked(text):
    """Item and values of every marked row of a Markdown comparison."""
    return [tuple(line.strip("| ").split(" | ")[1:]) for line in text.splitlines() if line.startswith("| * |")]


def test_a_difference_is_marked_and_what_is_equal_is_counted(tmp_path):
    paths = [run_of(tmp_path, "a"), run_of(tmp_path, "b", "algo.lr=1e-2", "train.log_every=7")]
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
    text = comparison_text(compare_runs([run_of(tmp_path, "a"), run_of(tmp_path, "b", "algo.lr=1e-2")]))
    head, row = text.splitlines()[:2]
    assert row == "*  learning rates  lr 0.0005  lr 0.01"
    assert (head.index("what"), head.index("a", 8), head.index("b")) == (3, 19, 30)


def test_plain_tables_are_broken_to_the_width_of_the_terminal(tmp_path):
    names = [run_of(tmp_path, name, f"algo.lr={rate}") for name, rate in (("a", 1e-3), ("b", 1e-2))]
    comparison = compare_runs(names)
    whole = comparison_text(comparison, everything=True)
    broken = comparison_text(comparison, everything=True, width=90)
    assert max(map(len, whole.splitlines())) > 90 >= max(map(len, broken.splitlines()))
    assert sorted("".join(whole.split())) == sorted("".join(broken.split()))  # nothing is cut off


def test_versions_and_block_widths_are_shown_where_they_differ_or_everything_is_asked_for(tmp_path):
    paths = [run_of(tmp_path, name) for name in ("a", "b")]
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
    comparison = compare_runs([run_of(tmp_path, "a"), run_of(tmp_path, "b", "train.n_envs=4")])
    changed = [item for item, values in comparison.rows if len(set(values)) > 1]
    assert changed == ["environments", "updates", "replay ratio"]
    assert comparison.settings == comparison.warnings == ()


def test_tables_that_differ_in_their_last_number_differ(tmp_path):
    zeros = [[0] * 6 for _ in range(6)]
    other = [*zeros[:-1], [0] * 5 + [9]]
    paths = [
        run_of(tmp_path, name, f"env.payoff={table}", env="matrix_game") for name, table in (("a", zeros), ("b", other))
    ]
    assert compare_runs(paths).warnings == ("environments differ (env.payoff): results must not be compared",)


def test_other_environments_are_warned_of_and_other_versions_shown_apart(tmp_path):
    paths = [run_of(tmp_path, "a"), run_of(tmp_path, "b", env="penalty", versions={"jax": "0.11.0"})]
    text = comparison_text(compare_runs(paths), markdown=True)
    assert text.startswith("WARNING: environments differ (environment, env.penalty): results must not be compared\n")
    assert marked(text.split("versions and machines:")[1]) == [("versions jax", "0.10.2", "0.11.0")]


def test_an_environment_changed_between_two_runs_is_warned_of(tmp_path, monkeypatch):
    before, undated = run_of(tmp_path, "before"), run_of(tmp_path, "undated", card=False)
    config = compose(algo="qmix", env="climbing")
    program = bind(config)
    changed = program._replace(env=program.env._replace(version="2"))
    monkeypatch.setattr(compare, "bind", lambda config: changed)
    after = run_of(tmp_path, "after", program=changed)
    for old in (before, undated):  # whose version is not that of the code of the day
        comparison = compare_runs([old, after])
        assert dict(comparison.rows)["environment"] == ("climbing version 1", "climbing version 2")
        assert comparison.warnings == ("environments differ (environment): results must not be compared",)
    assert not compare_runs([before, undated]).warnings


def test_runs_of_before_the_card_are_compared_by_their_configuration(tmp_path):
    paths = [run_of(tmp_path, "old", card=False), run_of(tmp_path, "new", "algo.hidden=32")]
    comparison = compare_runs(paths)
    assert [item for item, values in comparison.rows if len(set(values)) > 1] == ["networks"]


def test_algorithms_with_different_settings_are_compared_item_by_item(tmp_path):
    paths = [run_of(tmp_path, "a"), run_of(tmp_path, "b", algo="lsf_sac")]
    comparison = compare_runs(paths)
    rows = dict(comparison.rows)
    assert rows["algorithm"] == ("qmix", "lsf_sac")
    assert rows["algo.beta"] == ("-", "0.001")
    assert comparison.settings == ()  # everything is in the cards, nothing is told twice


def test_a_sweep_against_one_value_is_one_row(tmp_path):
    comparison = compare_runs([run_of(tmp_path, "a"), run_of(tmp_path, "b", "algo.lr=5e-4,1e-3")])
    assert marked(comparison_text(comparison, markdown=True)) == [("learning rates", "lr 0.0005", "lr 0.0005 or 0.001")]


def test_exploration_that_does_not_act_is_among_the_other_settings(tmp_path):
    paths = [run_of(tmp_path, "a", algo="lsf_sac"), run_of(tmp_path, "b", "algo.epsilon_anneal=5", algo="lsf_sac")]
    assert compare_runs(paths).settings == (("algo.epsilon_anneal", ("100000.0", "5.0")),)


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    paths = []
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        paths.append(run_of(tmp_path / place, "run"))
    assert compare_runs(paths).names == tuple(str(path) for path in paths)


def complaint(arguments, capsys):
    assert main(["compare", *map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_cannot_be_compared_is_one_line_and_exit_code_2(tmp_path, capsys):
    a = run_of(tmp_path, "a")
    assert "expected two or more" in complaint([a], capsys)
    assert "nothing is not a run folder" in complaint([a, tmp_path / "nothing"], capsys)


@pytest.mark.parametrize("damage", [b"{", b"[1]", b"\xff\xfe{}", b'{"setup": [1]}'])
def test_a_damaged_card_is_named(damage, tmp_path, capsys):
    a, b = run_of(tmp_path, "a"), run_of(tmp_path, "b")
    (b / "card.json").write_bytes(damage)
    shown = complaint([a, b], capsys)
    assert "card.json" in shown
    assert "damaged" in shown


def test_the_command_prints_the_table(tmp_path, capsys):
    a, b = run_of(tmp_path, "a"), run_of(tmp_path, "b", "algo.lr=1e-2")
    assert main(["compare", str(a), str(b)]) == 0
    assert "*  learning rates  lr 0.0005  lr 0.01\n" in capsys.readouterr().out
    assert main(["compare", str(a), str(b), "--markdown", "--all"]) == 0
    shown = capsys.readouterr().out
    assert "| * | learning rates | lr 0.0005 | lr 0.01 |\n" in shown
    assert "|  | discount | 0.99 | 0.99 |\n" in shown
    assert json.loads((a / "card.json").read_text())["setup"]["algorithm"] == "qmix"
    assert (a / "card.md").read_text().startswith("| what | value |")


def test_a_card_from_anybody_cannot_steer_the_terminal(tmp_path):
    paths = [run_of(tmp_path, "a", versions={"jax\x1b[2J": "9\u202e"}), run_of(tmp_path, "b")]
    card = json.loads((paths[0] / "card.json").read_text())
    card["setup"]["environment"] = "x\x1b]0;owned\x07\n| * | forged"
    folder.write_json_atomic(paths[0] / "card.json", card)
    text = comparison_text(compare_runs(paths))
    assert all(line.isprintable() for line in text.splitlines())
    assert r"x\x1b]0;owned\x07 | * | forged" in text
    assert r"versions jax\x1b[2J" in text
    assert r"9\u202e" in text
