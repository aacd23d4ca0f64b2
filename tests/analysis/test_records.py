import numpy as np
import pytest

from lsf_jax.analysis import records
from lsf_jax.runs import tables


def count_by_loop(row, env_steps, budget):
    """The rule word for word: a row counts iff it is at or before its seed's first row at or past the budget."""
    counts, crossed = [], set()
    for seed, steps in zip(row, env_steps, strict=True):
        counts.append(seed not in crossed)
        if steps >= budget:
            crossed.add(seed)
    return counts


def test_rows_after_a_seed_crossed_its_budget_do_not_count():
    row = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2])
    steps = np.array([10, 20, 30, 40, 25, 35, 5, 10, 15])
    expected = [True, True, False, False, True, False, True, True, True]
    assert records.counted_rows(row, steps, 20).tolist() == expected


def test_counted_rows_equals_the_rule_read_word_for_word():
    random = np.random.default_rng(0)
    for _ in range(50):
        lengths = random.integers(1, 8, size=5)
        row = np.repeat(np.arange(5), lengths)
        steps = np.concatenate([np.cumsum(random.integers(1, 10, size=length)) for length in lengths])
        assert records.counted_rows(row, steps, 20).tolist() == count_by_loop(row, steps, 20)


def test_no_rows_count_for_nothing():
    nothing = np.zeros(0, np.int64)
    assert records.counted_rows(nothing, nothing, 20).size == 0
    assert records.counted_evaluations(nothing, nothing, nothing.astype(bool), 20).size == 0


def test_the_final_evaluation_always_counts_and_a_first_one_past_the_budget_does():
    row = np.array([0, 0, 0, 1, 1, 1])
    steps = np.array([10, 22, 30, 10, 19, 21])
    final = np.zeros(6, bool)
    assert records.counted_evaluations(row, steps, final, 20).tolist() == [True, True, False, True, True, True]
    final[2] = True
    assert records.counted_evaluations(row, steps, final, 20)[2]


def test_an_evaluation_that_only_took_place_because_neighbours_went_on_does_not_count():
    alone = records.counted_evaluations(np.array([0, 0]), np.array([10, 22]), np.array([False, True]), 20)
    beside = records.counted_evaluations(
        np.array([0, 0, 0]), np.array([10, 22, 30]), np.array([False, True, False]), 20
    )
    assert alone.tolist() == [True, True]
    assert beside.tolist() == [True, True, False]


def test_a_grid_evaluation_at_the_very_step_of_the_final_one_does_not_count():
    """It takes place only if a neighbour is not done yet."""
    counts = records.counted_evaluations(
        np.array([0, 0, 0]), np.array([10, 22, 22]), np.array([False, False, True]), 20
    )
    assert counts.tolist() == [True, False, True]


def test_load_run_drops_what_does_not_count(make_run):
    env_steps = np.array([[100, 200, 300, 400], [150, 350, 360, 380]])
    run = make_run(np.arange(8.0).reshape(2, 4), env_steps=env_steps, budget=200)
    assert run.train["env_steps"].tolist() == [100, 200, 150, 350]
    assert run.evaluation["env_steps"].tolist() == [100, 200, 400, 150, 350, 380]
    assert run.evaluation["final"].tolist() == [False, False, True, False, False, True]


def test_a_run_that_has_written_nothing_yet_loads(make_run, tmp_path):
    make_run(np.ones((1, 1)))
    for table in ("train", "eval"):
        for path in tables.part_paths(tmp_path / "run", table):
            path.unlink()
    run = records.read_record(tmp_path / "run")
    assert run.train == {}
    with pytest.raises(ValueError, match="there are: none yet"):
        records.metric_of(run, "return")


def test_the_config_is_read_as_yaml_12(make_run):
    assert make_run(np.ones((1, 1))).config["algo"]["lr"] == 3e-4


@pytest.mark.parametrize("missing", ["config.yaml", "card.json"])
def test_a_foreign_folder_says_what_it_lacks(make_run, tmp_path, missing):
    make_run(np.ones((1, 1)))
    (tmp_path / "run" / missing).unlink()
    with pytest.raises(ValueError, match=f"is not a run folder: it has no {missing}"):
        records.read_record(tmp_path / "run")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere is not a run folder: there is no such folder"):
        records.read_record(tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "message"), [("{", "no JSON at line 1"), ("[]", "expected `object`")])
def test_a_damaged_card_is_named(make_run, tmp_path, text, message):
    make_run(np.ones((1, 1)))
    (tmp_path / "run" / "card.json").write_text(text)
    with pytest.raises(ValueError, match=rf"card\.json is damaged: {message}"):
        records.read_record(tmp_path / "run")


@pytest.mark.parametrize("text", ["train: {}", "train: 3", "train: {env_steps: many}", "train: {env_steps: true}"])
def test_a_config_without_a_budget_is_named(make_run, tmp_path, text):
    make_run(np.ones((1, 1)))
    (tmp_path / "run" / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml holds train\.env_steps"):
        records.read_record(tmp_path / "run")


def test_a_metric_is_found_by_name_or_by_table_and_name(make_run):
    run = make_run([[1.0, 2.0], [3.0, np.nan]])
    points = records.metric_of(run, "return")
    assert (points.row.tolist(), points.value.tolist()) == ([0, 0, 1], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(records.metric_of(run, "eval/return").value, points.value)
    assert records.metric_of(run, "train/loss").value.tolist() == [-1.0, -2.0, -3.0]
    for wrong in ("train/return", "seed", "nothing", "nope/return", "eval/nope/return"):
        with pytest.raises(ValueError, match=r"there are: eval/return, train/loss"):
            records.metric_of(run, wrong)


def test_a_metric_of_tables_keeps_its_rows(make_run):
    run = make_run(np.ones((2, 2)))
    run.evaluation["q_total"] = np.array([[1.0, 2.0], [np.nan, 1.0], [3.0, 4.0], [5.0, 6.0]])
    assert records.metric_of(run, "q_total").value.tolist() == [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]


def test_grid_points_are_told_apart_and_labelled(make_run):
    run = make_run([[1.0], [2.0], [3.0], [4.0]], grid="1e-3, 1e-4")
    assert records.grid_labels(run) == ["lr=0.001", "lr=0.0001"]
    assert records.metric_of(run, "return", grid=1).value.tolist() == [3.0, 4.0]
    del run.evaluation["grid"]
    assert records.metric_of(run, "return", grid=1).value.tolist() == [3.0, 4.0]


def test_the_last_key_of_a_grid_runs_fastest(make_run):
    run = make_run([[1.0]])
    run.config["grid"] = {"algo.beta": [0.1, 1], "algo.lr": [1e-3, 2e-3]}
    expected = ["beta=0.1, lr=0.001", "beta=0.1, lr=0.002", "beta=1, lr=0.001", "beta=1, lr=0.002"]
    assert records.grid_labels(run) == expected
    del run.config["grid"]
    assert records.grid_labels(run) == [""]
