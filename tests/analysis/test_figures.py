"""What figures show, read back from their artists."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lsf_jax.analysis import comparison_figures, figures, gallery
from lsf_jax.analysis.figure_names import OF_RUNS, OF_TABLES
from lsf_jax.analysis.matrix_table import Outcome, paper_rows
from lsf_jax.analysis.reliability import Scores, improvement_matrix

PAYOFF = np.array([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_a_fan_has_a_line_for_each_seed_and_names_the_best_and_the_worst(make_run):
    run = make_run([[0.0, 5.0], [0.0, 9.0], [0.0, 2.0]])
    (axes,) = figures.plot_fan([run]).axes
    assert sorted(texts_of(axes)) == ["best: seed 1", "median", "worst: seed 2"]
    ends = sorted(float(line.get_ydata()[-1]) for line in axes.get_lines())
    assert ends == [2.0, 5.0, 5.0, 9.0]  # three seeds and their median
    coloured = {to_hex(line.get_color()): line.get_ydata()[-1] for line in axes.get_lines()}
    assert coloured[figures.BEST.lower()] == 9.0
    assert coloured[figures.WORST.lower()] == 2.0


def test_a_seed_that_ends_without_a_number_is_drawn_and_is_neither_best_nor_worst(make_run):
    (axes,) = figures.plot_fan([make_run([[0.0, 5.0], [99.0, np.nan], [0.0, 2.0]])]).axes
    assert sorted(texts_of(axes)) == ["best: seed 0", "median", "worst: seed 2"]
    assert 99.0 in [float(line.get_ydata()[0]) for line in axes.get_lines()]


def test_seeds_of_a_second_grid_point_keep_their_numbers(make_run):
    figure = figures.plot_fan([make_run([[1.0], [2.0], [4.0], [3.0]], grid="1e-3,1e-4")])
    assert {"best: seed 0", "worst: seed 1"} < set(texts_of(figure.axes[1]))


def test_histograms_share_their_bins_and_count_what_is_not_finite(make_run):
    ends = {"a": [[0], [0], [4]], "b": [[1], [2], [np.nan]]}
    runs = [make_run(values, name=name) for name, values in ends.items()]
    first, second = figures.plot_histograms(runs).axes
    assert first.get_title() == "a (3 seeds)"
    assert second.get_title() == "b (3 seeds, 1 not finite)"
    heights = [bar.get_height() for bar in first.patches]
    assert (heights[0], heights[-1]) == pytest.approx((2 / 3, 1 / 3))
    assert [bar.get_x() for bar in first.patches] == [bar.get_x() for bar in second.patches]
    assert sum(bar.get_height() for bar in second.patches) == pytest.approx(2 / 3)  # shares of all seeds


def sweep(make_run):
    run = make_run(np.arange(24.0).reshape(24, 1))
    run.config["grid"] = {"algo.lr": [0.1, 0.2, 0.3], "algo.trace": [0.0, 1.0], "algo.beta": [5.0, 6.0]}
    run.config["train"]["seeds"] = 2
    run.evaluation["grid"] = run.evaluation["row"] // 2
    return run


def test_a_map_shows_the_median_over_seeds_and_over_what_is_not_on_its_axes(make_run):
    run = sweep(make_run)
    axes = figures.plot_map(run, "algo.trace", "algo.lr").axes[0]
    cells = np.asarray(axes.images[0].get_array())
    assert cells.shape == (3, 2)
    for (row, column), value in np.ndenumerate(cells):
        mine = [row * 8 + column * 4 + k for k in range(4)]  # two values of beta, two seeds
        assert value == np.median(mine)
    fixed = figures.plot_map(run, "algo.trace", "algo.lr", at={"algo.beta": 6.0}).axes[0].images[0].get_array()
    assert fixed[2, 1] == np.median([22, 23])


def test_a_map_of_what_was_not_swept_is_refused(make_run):
    with pytest.raises(ValueError, match="has 0 swept key"):
        figures.plot_map(make_run([[1.0]], name="single"))
    run = sweep(make_run)
    with pytest.raises(ValueError, match="has points, given one by one; expected a grid"):
        figures.plot_map(run._replace(config=run.config | {"points": {"algo.lr": [0.1, 0.2], "algo.beta": [5.0, 5.0]}}))
    with pytest.raises(ValueError, match=r"x is algo\.gamma; expected two different ones of algo\.lr, algo\.trace"):
        figures.plot_map(run, "algo.gamma")
    with pytest.raises(ValueError, match=r"at has algo\.beta=7; expected swept keys"):
        figures.plot_map(run, at={"algo.beta": 7.0})


def test_dynamics_show_those_columns_that_there_are(make_run):
    run = make_run(np.ones((2, 3)))
    run.train["alpha"] = np.linspace(1.0, 0.1, 6)
    run.train["entropy"] = np.full(6, np.nan)
    (axes,) = figures.plot_dynamics([run]).axes
    assert axes.get_title() == "temperature α"
    with pytest.raises(ValueError, match="none of alpha, entropy, kl_per_message is in the training tables"):
        figures.plot_dynamics([make_run(np.ones((1, 1)), name="other")])


SCORES = Scores(("t",), {"low": (np.array([0.0, 1.0, 2.0, 3.0]),), "high": (np.array([9.0, 8.0, 7.0, 2.0]),)})


def test_the_best_system_stands_above_in_aggregates_and_first_in_the_matrix():
    axes = comparison_figures.plot_aggregates(SCORES).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["low", "high"]  # from below
    axes = comparison_figures.plot_improvement(SCORES).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["high", "low"]
    value = improvement_matrix(SCORES)[1, 0, 0]
    assert texts_of(axes) == [f"{value:.2f}"[1:], f"{1 - value:.2f}"[1:]]


@pytest.mark.parametrize("draw", [comparison_figures.plot_aggregates, comparison_figures.plot_improvement])
def test_long_names_stay_inside_the_figure(draw):
    name = "lsf_sac-matrix_game-20261130-085916, lr=0.001, overestimate_weight=0."
    figure = draw(Scores(("t",), {f"{name}{place}": (np.arange(4.0) + place,) for place in range(8)}))
    figure.draw_without_rendering()
    assert min(label.get_window_extent().x0 for label in figure.axes[0].get_yticklabels()) >= 0


def test_the_legend_of_dynamics_lies_on_nothing(make_run):
    runs = [make_run(np.ones((2, 3)), name=f"a-long-name-of-a-run-{place}") for place in range(6)]
    for run in runs:
        run.train["alpha"] = run.train["entropy"] = np.linspace(1.0, 0.1, 6)
    figure = figures.plot_dynamics(runs, ["alpha", "entropy", "loss"])
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.get_tightbbox()) for axes in figure.axes if axes.get_visible())


def test_profiles_of_many_systems_have_a_panel_each():
    many = Scores(("t",), {f"s{k}": (np.arange(4.0) + k,) for k in range(8)})
    figure = comparison_figures.plot_profiles(many)
    assert [axes.get_title() for axes in figure.axes if axes.get_visible()] == [f"s{k}" for k in range(8)]
    assert len(comparison_figures.plot_profiles(SCORES).axes) == 1


def test_table_one_stands_beside_the_papers_with_both_choices_boxed():
    flat = PAYOFF.reshape(1, 9)
    ours = Outcome("qmix", "own", 8, 0.0, 0.0, 0.0, 0.0, {"BC": 0.75, "AA": 0.25}, np.ones((1, 2, 3)), flat, -flat, 10)
    figure = comparison_figures.plot_table_one([ours])
    assert len(figure.axes) == 3
    paper, mean, modal = figure.axes
    printed = paper_rows()["qmix"]
    assert texts_of(paper) == [f"{value + 0.0:.1f}" for row in printed.q_total for value in row]
    assert texts_of(mean) == [f"{value:.1f}" for value in PAYOFF.ravel()]
    assert texts_of(modal)[:4] == ["-8.0", "12.0", "12.0", "12.0"]
    assert modal.get_title() == "the 75% that end with BC"
    (box,) = mean.patches
    assert (box.get_y(), box.get_x()) == (0.5, 1.5)
    with pytest.raises(ValueError, match="outcomes have nothing; expected some of qtran, lsf_sac"):
        comparison_figures.plot_table_one([ours], exploration="uniform")


def test_every_name_is_drawn_and_no_other(make_run, tmp_path):
    assert set(gallery._DRAW) == set(OF_RUNS)
    assert not set(OF_RUNS) & set(OF_TABLES)
    gallery.draw("histogram", [make_run([[1.0], [2.0]])], gallery.Wish(title="mine"), tmp_path / "h.pdf")
    assert (tmp_path / "h.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(ValueError, match="figure is 'profil', which is none of runs; did you mean profile"):
        gallery.draw("profil", [])
    with pytest.raises(ValueError, match="3 runs are given; expected one"):
        gallery.draw("map", [make_run([[1.0]], name=name) for name in "abc"])
