"""Table I with statistics: shares, intervals and tables from runs made by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lsf_jax.analysis.matrix_table import (
    OWN,
    UNIFORM,
    joint_label,
    markdown,
    outcomes_of,
    paper_rows,
    plot_outcomes,
    read_outcomes,
    wilson,
    write_table,
)
from lsf_jax.analysis.records import RunRecord as Run
from lsf_jax.analysis.style import MANY
from lsf_jax.settings import ConfigError

PAYOFF = np.array([[[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]]])


def run_of(greedy, q_total, *, grid=(1.0, 0.05), algo="qmix", critic=None):
    """A finished run with the given greedy joint actions of every row; rows are grid points × seeds."""
    n, points = len(greedy), len(grid)
    greedy = np.asarray(greedy)
    flat = PAYOFF.reshape(-1)
    columns = {
        "row": np.arange(n),
        "grid": np.repeat(np.arange(points), n // points),
        "seed": np.tile(np.arange(n // points), points),
        "env_steps": np.full(n, 160),
        "updates": np.full(n, 7),
        "final": np.full(n, True),
        "greedy_joint": greedy,
        "critic_optimal": np.asarray(flat[greedy] == 8 if critic is None else critic, np.float32),
        "greedy_payoff": flat[greedy],
        "optimal": flat[greedy] == 8,
        "q_error": np.abs(q_total - flat).mean(axis=1),
        "q_total": q_total,
        "q_utility": np.tile(np.arange(6.0), (n, 1)),
    }
    config = {"algo": {"name": algo}, "grid": {"algo.epsilon_finish": list(grid)}}
    return Run(path=Path("runs") / algo, config=config, card={}, train={}, evaluation=columns)


def test_shares_payoffs_and_tables_are_counted_for_each_kind_of_exploration():
    q_total = np.repeat(np.arange(6.0)[:, None], 9, axis=1)
    uniform, own = outcomes_of(run_of([0, 4, 4, 0, 0, 8], q_total), PAYOFF)
    assert (uniform.exploration, own.exploration) == (UNIFORM, OWN)
    assert uniform.shares == {"BB": 2 / 3, "AA": 1 / 3}
    assert (uniform.seeds, uniform.updates) == (3, 7)
    assert uniform.optimal == pytest.approx(1 / 3)
    assert uniform.payoff == pytest.approx(8 / 3)
    assert own.optimal == own.critic_optimal == pytest.approx(2 / 3)
    assert outcomes_of(run_of([0, 0], q_total[:2], critic=[0, 1]), PAYOFF)[1].critic_optimal == 1.0
    np.testing.assert_allclose(uniform.q_total, np.full((1, 9), 1.0))  # rows 0, 1, 2
    np.testing.assert_allclose(uniform.modal_q_total, np.full((1, 9), 1.5))  # rows 1, 2
    np.testing.assert_allclose(own.modal_q_total, np.full((1, 9), 3.5))  # rows 3, 4
    np.testing.assert_allclose(uniform.utilities, np.arange(6.0).reshape(1, 2, 3))


def test_without_a_joint_value_critic_and_error_are_left_open():
    outcome = outcomes_of(run_of([0, 4], np.full((2, 9), np.nan), critic=[np.nan, np.nan]), PAYOFF)[0]
    assert np.isnan(outcome.critic_optimal)
    assert np.isnan(outcome.q_error)
    line = next(line for line in markdown([outcome], "matrix_game", PAYOFF).splitlines() if "uniform" in line)
    assert line.count(" - |") == 2


def test_joint_actions_have_letters_and_several_states_a_stroke_between():
    assert joint_label(np.array([5]), PAYOFF) == "BC"
    assert joint_label(np.array([0, 8]), np.concatenate([PAYOFF, PAYOFF])) == "AA/CC"


def test_wilson_interval_of_published_examples():
    """Newcombe (1998), table I, method 3."""
    np.testing.assert_allclose(wilson(81 / 263, 263), (0.2553, 0.3662), atol=5e-5)
    np.testing.assert_allclose(wilson(15 / 148, 148), (0.0624, 0.1605), atol=5e-5)
    assert wilson(0.0, 20)[0] == 0.0
    assert wilson(0.0, 20)[1] == pytest.approx(0.1611, abs=5e-5)


def test_the_paper_s_tables_prefer_what_it_says():
    assert set(paper_rows()) == {"qtran", "lsf_sac", "vdn", "qmix", "dop"}
    for row in paper_rows().values():
        table = np.array(row.q_total)
        first, second = (ord(letter) - ord("A") for letter in row.greedy)
        assert table[first, second] == table.max()


def test_the_paper_s_vdn_adds_its_utilities_up():
    row = paper_rows()["vdn"]
    np.testing.assert_allclose(np.add.outer(row.q_1, row.q_2), row.q_total, atol=0.11)  # printed to one decimal


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("q_1: [1.0, two]", "vdn.q_1 is .*; expected a list of numbers"),
        ("q_1: [1.0, .nan]", "vdn.q_1 is .*; expected a list of numbers"),
        ("q_2: [1.0]", "vdn.q_total does not have an entry for each of q_1 and q_2"),
        ("greedy: AC", "vdn.greedy is AC; expected the letters of two actions"),
        ("greedy: A", "vdn.greedy is A; expected the letters of two actions"),
        ("q_3: [1.0, 2.0]", "vdn is .*; expected q_1, q_2, q_total, greedy below it"),
    ],
)
def test_what_is_no_row_of_the_paper_s_table_is_refused(tmp_path, changed, message):
    lines = {"q_1": "[1.0, 2]", "q_2": "[0.5, 1.0]", "q_total": "[[1.5, 2.0], [2.5, 3.0]]", "greedy": "BB"}
    path = tmp_path / "table.yaml"

    def write(lines):
        path.write_text("vdn:\n" + "".join(f"  {key}: {value}\n" for key, value in lines.items()))

    write(lines)
    assert paper_rows(path)["vdn"].q_1 == (1.0, 2.0)
    paper_rows.cache_clear()
    key, value = changed.split(": ")
    write(lines | {key: value})
    with pytest.raises(ConfigError, match=message + r".* \(in table.yaml\)"):
        paper_rows(path)


def test_everything_is_written_and_the_paper_stands_beside(tmp_path):
    outcomes = outcomes_of(run_of([0, 4, 4, 0], np.zeros((4, 9))), PAYOFF)
    paths = write_table(outcomes, "matrix_game", PAYOFF, tmp_path / "out")
    assert [path.suffix for path in paths] == [".md", ".json", ".png"]
    text = paths[0].read_text()
    assert "| `qmix` | uniform | 2 | 7 | 50.0% |" in text
    assert "| -1 | -8.1 | -8.1 | -8.1 |" in text
    assert "paper" not in markdown(outcomes, "climbing", PAYOFF).split("paper's:")[-1]
    assert json.loads(paths[1].read_text())[0]["shares"] == {"AA": 0.5, "BB": 0.5}
    assert paths[2].read_bytes()[:4] == b"\x89PNG"


def test_bars_and_legend_have_one_order_and_the_most_frequent_outcomes_the_first_colours():
    rows = [8, 8, 8, 1, 8, 8, 0, 0]  # uniform: CC and one AB; own: CC and AA
    axes = plot_outcomes(outcomes_of(run_of(rows, np.zeros((8, 9))), PAYOFF)).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["AA", "AB", "CC"]
    bars = [(bar.get_y() > 0.5, round(bar.get_x(), 6), round(bar.get_width(), 6)) for bar in axes.patches]
    assert bars == [(False, 0.0, 0.25), (False, 0.25, 0.75), (True, 0.0, 0.5), (True, 0.5, 0.5)]
    colours = [to_hex(bar.get_facecolor()) for bar in axes.patches]
    assert colours == [to_hex(MANY[place]) for place in (2, 0, 1, 0)]


def test_what_is_not_among_the_ten_most_frequent_outcomes_is_one_grey_piece():
    outcome = outcomes_of(run_of([0, 4], np.zeros((2, 9))), PAYOFF)[0]
    many = {f"A{letter}": 0.08 for letter in "ABCDEFGHIJ"} | {"BA": 0.07, "BB": 0.07, "BC": 0.06}
    axes = plot_outcomes([outcome._replace(shares=many)]).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()][-2:] == ["AJ", "others"]
    last = axes.patches[-1]
    assert to_hex(last.get_facecolor()) == to_hex("lightgrey")
    np.testing.assert_allclose([last.get_x(), last.get_width()], [0.8, 0.2], atol=1e-6)


def test_a_run_that_is_not_finished_is_refused():
    run = run_of([0, 4], np.zeros((2, 9)))
    run.evaluation["final"][:] = False
    with pytest.raises(ValueError, match="no final evaluations"):
        outcomes_of(run, PAYOFF)


def test_a_written_table_is_read_back_to_the_same_text(tmp_path):
    outcomes = outcomes_of(run_of([0, 4, 4, 0], np.arange(36.0).reshape(4, 9)), PAYOFF)
    path = write_table(outcomes, "matrix_game", PAYOFF, tmp_path)[1]
    assert markdown(read_outcomes(path), "matrix_game", PAYOFF) == markdown(outcomes, "matrix_game", PAYOFF)


def test_what_is_no_written_table_is_refused(tmp_path):
    path = write_table(outcomes_of(run_of([0, 4, 4, 0], np.zeros((4, 9))), PAYOFF), "matrix_game", PAYOFF, tmp_path)[1]
    (good, *_) = json.loads(path.read_text())
    cases = [
        "",
        "{}",
        "[]",
        "[{}]",
        "[" * 100_000,
        json.dumps([good | {"seeds": "2"}]),
        json.dumps([good | {"more": 1}]),
    ]
    cases += [json.dumps([good | {"utilities": wrong}]) for wrong in ([], [[1.0]], [[[1.0, 2.0], [3.0]]], 3)]
    cases += [json.dumps([good | {"q_total": [[0.0] * 8]}]), json.dumps([good | {"shares": {}}])]
    for text in cases:
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"table-matrix_game.json is no table that matrix-table wrote \(.+\)"):
            read_outcomes(path)
    path.write_text(json.dumps([good]))
    assert len(read_outcomes(path)) == 1
