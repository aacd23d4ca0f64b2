import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from lsf_jax.analysis.plots import plot_curves, plot_q_table
from lsf_jax.analysis.style import COLOURS, FAINT

PAYOFF = np.array([[8.0, -12.0, -12.0], [-12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])


def assert_picture(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        assert image.width > 400
        assert np.asarray(image.convert("RGB")).std() > 5  # not blank


def lines_of(figure):
    (axes,) = figure.axes
    return {line.get_label(): line for line in axes.get_lines()}


def texts_of(axes):
    return [text.get_text() for text in axes.texts]


def test_curves_show_the_median_and_name_what_they_show(make_run, tmp_path):
    returns = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    path = tmp_path / "new" / "curves.png"
    figure = plot_curves([make_run(returns)], "return", path)
    assert_picture(path)
    (axes,) = figure.axes
    line = lines_of(figure)["lsf_sac (5 seeds)"]
    np.testing.assert_allclose(line.get_ydata(), np.median(returns, axis=0), rtol=1e-6)
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7) * 100)
    assert axes.get_title() == "lsf_sac"
    assert figure.get_suptitle() == "predator_prey"
    assert figure.get_supylabel() == "return per episode"
    note = "environment steps per seed\nline: median of 5 seeds · band: smallest to largest"
    assert figure.get_supxlabel() == note


def test_the_title_says_which_map_was_played(make_run):
    run = make_run(np.ones((2, 3)))
    battle = run._replace(config=run.config | {"env": {"name": "smax", "scenario": "8m"}})
    game = run._replace(config=run.config | {"env": {"name": "smac", "map_name": "MMM2"}})
    assert plot_curves([battle, game], "return").get_suptitle() == "smax/8m, smac/MMM2"


def test_the_bands_are_the_range_and_the_interval(make_run):
    returns = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    bands = []
    for form in ("median", "iqm"):
        figure = plot_curves([make_run(returns, name=form)], "return", form=form)
        (band,) = figure.axes[0].collections
        bands.append(band.get_paths()[0].vertices[:, 1])
    wide, narrow = bands
    assert (wide.min(), wide.max()) == pytest.approx((returns.min(), returns.max()))
    assert wide.min() < narrow.min() < narrow.max() < wide.max()
    assert "interquartile mean of 30 seeds · band: its 95% interval" in figure.get_supxlabel()
    with pytest.raises(ValueError, match="form is 'mean'; expected one of median, iqm"):
        plot_curves([make_run(returns, name="mean")], form="mean")


def test_several_runs_have_names_and_colours_of_their_own(make_run):
    runs = [make_run(np.ones((2, 3)) * k, name=f"run-{k}") for k in range(3)]
    lines = lines_of(plot_curves(runs, "return"))
    for k in range(3):
        assert to_hex(lines[f"run-{k} (2 seeds)"].get_color()).upper() == COLOURS[k]


def test_curves_are_named_at_their_ends_in_their_order_without_a_legend(make_run):
    runs = [make_run([[0.0, last], [0.0, last]], name=f"run-{last:g}") for last in (3.0, 1.0, 1.01, 2.0)]
    (axes,) = plot_curves(runs).axes
    assert axes.get_legend() is None
    heights = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert sorted(heights, key=heights.get) == ["run-1", "run-1.01", "run-2", "run-3"]
    assert heights["run-1.01"] - heights["run-1"] > 0.05


def test_nineteen_curves_have_a_panel_each_in_front_of_the_others_in_grey(make_run, tmp_path):
    runs = [make_run(np.ones((2, 3)) * k, name=f"run-{k}") for k in range(19)]
    figure = plot_curves(runs, path=tmp_path / "many.png")
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"run-{k}" for k in range(19)]
    assert not figure.legends
    for axes in shown:
        looks = [line.get_color() for line in axes.get_lines()]
        assert len(looks) == 19
        assert looks.count(FAINT) == 18
    assert_picture(tmp_path / "many.png")


def test_runs_with_other_numbers_of_seeds_say_how_many_each_has(make_run):
    (axes,) = plot_curves([make_run(np.ones((2, 3)), name="a"), make_run(np.ones((3, 3)), name="b")]).axes
    assert sorted(text.get_text() for text in axes.texts) == ["a (2 seeds)", "b (3 seeds)"]


def test_one_folder_given_twice_is_two_curves(make_run):
    run = make_run(np.ones((2, 3)))
    assert len(plot_curves([run, run]).axes[0].get_lines()) == 2


def test_each_grid_point_is_a_curve(make_run):
    run = make_run([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [5.0, 5.0]], grid="1e-3,1e-4")
    lines = lines_of(plot_curves([run], "return"))
    assert lines["lsf_sac, lr=0.001 (2 seeds)"].get_ydata().tolist() == [1.5, 1.5]
    assert lines["lsf_sac, lr=0.0001 (2 seeds)"].get_ydata().tolist() == [4.0, 4.0]


def test_one_seed_has_no_bands(make_run, tmp_path):
    figure = plot_curves([make_run([[1.0, 2.0, 3.0]])], "return", tmp_path / "one.png")
    assert "lsf_sac (1 seed)" in lines_of(figure)
    assert not figure.axes[0].collections
    assert figure.get_supxlabel() == "environment steps per seed"
    assert_picture(tmp_path / "one.png")


def test_a_single_evaluation_is_seen(make_run, tmp_path):
    figure = plot_curves([make_run([[1.0], [2.0], [6.0]])], "return", tmp_path / "point.png")
    line = lines_of(figure)["lsf_sac (3 seeds)"]
    assert line.get_marker() == "o"
    assert line.get_ydata().tolist() == [2.0]
    assert len(figure.axes[0].collections) == 1
    assert_picture(tmp_path / "point.png")


def test_a_thousand_seeds_are_drawn(make_run, tmp_path):
    returns = np.random.default_rng(0).normal(size=(1000, 4))
    figure = plot_curves([make_run(returns)], "return", tmp_path / "many.png")
    assert "lsf_sac (1,000 seeds)" in lines_of(figure)
    assert_picture(tmp_path / "many.png")


def test_a_run_without_values_yet_is_drawn_as_nothing(make_run, tmp_path):
    figure = plot_curves([make_run(np.full((2, 3), np.nan))], "return", tmp_path / "none.png")
    assert "lsf_sac (0 seeds)" in lines_of(figure)


def test_a_metric_without_known_unit_keeps_its_name_and_a_title_can_be_given(make_run):
    figure = plot_curves([make_run(np.ones((2, 3)))], "train/loss", title="mine")
    assert (figure.get_supylabel(), figure.get_suptitle()) == ("loss", "mine")


def test_no_runs_are_refused():
    with pytest.raises(ValueError, match="runs is empty"):
        plot_curves([], "return")


def test_a_q_table_stands_beside_its_payoff_with_numbers(tmp_path):
    q_total = PAYOFF + 0.25
    figure = plot_q_table(q_total, PAYOFF, path=tmp_path / "q.png", title="a game")
    left, right = figure.axes
    assert texts_of(left) == [f"{value:.2f}" for value in q_total.ravel()]
    assert texts_of(right) == [f"{value:.2f}" for value in PAYOFF.ravel()]
    assert [text.get_weight() for text in right.texts] == ["bold"] + ["normal"] * 8
    assert_picture(tmp_path / "q.png")


def test_the_joint_action_of_the_utilities_is_boxed_and_they_are_written_down(tmp_path):
    utilities = np.array([[0.1, 0.9, -0.5], [0.2, -1.0, 0.7]])
    figure = plot_q_table(PAYOFF, PAYOFF, utilities, tmp_path / "q.png")
    for axes in figure.axes:
        (box,) = axes.patches
        assert (box.get_y(), box.get_x()) == (0.5, 1.5)  # row 1, column 2
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "0\nq₁ 0.10",
        "1\nq₁ 0.90",
        "2\nq₁ -0.50",
    ]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [
        "0\nq₂ 0.20",
        "1\nq₂ -1.00",
        "2\nq₂ 0.70",
    ]
    assert_picture(tmp_path / "q.png")


def test_without_utilities_the_best_of_q_total_is_boxed_unless_said_otherwise():
    (box,) = plot_q_table(PAYOFF, PAYOFF).axes[0].patches
    assert (box.get_y(), box.get_x()) == (-0.5, -0.5)
    (box,) = plot_q_table(PAYOFF, PAYOFF, greedy=(2, 1)).axes[0].patches
    assert (box.get_y(), box.get_x()) == (1.5, 0.5)


def test_a_game_of_zeros_and_a_game_that_is_not_square_are_drawn(tmp_path):
    plot_q_table(np.zeros((2, 3)), np.zeros((2, 3)), path=tmp_path / "zeros.png")
    assert_picture(tmp_path / "zeros.png")


def test_tables_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"q_total has shape \(2, 2\) and payoff \(3, 3\)"):
        plot_q_table(np.zeros((2, 2)), PAYOFF)


def test_plotting_leaves_the_backend_alone():
    code = "import sys, matplotlib; matplotlib.use('svg'); import lsf_jax.analysis.plots as plots; import numpy as np\n"
    code += "plots.plot_q_table(np.zeros((2, 2)), np.zeros((2, 2)))\n"
    code += "sys.exit(matplotlib.get_backend().lower() != 'svg' or 'matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
