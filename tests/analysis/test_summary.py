import numpy as np

from lsf_jax.analysis.statistics import Summary, summarize
from lsf_jax.analysis.summary import MAX_SEEDS_SHOWN, WIDTH, summary_line, summary_table

TIMING = {"env_steps_per_second": 1234.5, "updates_per_second": 6.789, "compile_seconds": 31.24}


def test_a_few_seeds_are_shown_one_by_one(make_run):
    run = make_run([[0.0, 1.5], [0.0, 2.5], [0.0, 8.0]], env_steps=np.array([[5, 1010]] * 3), timing=TIMING)
    lines = summary_table(run).splitlines()
    assert [line.split() for line in lines[2:5]] == [
        ["0", "1,010", "1.500"], ["1", "1,010", "2.500"], ["2", "1,010", "8.000"],
    ]  # fmt: skip
    assert any(line.startswith("3 seeds: median 2.500 · min 1.500 · max 8.000 · IQM 3.") for line in lines)
    assert lines[-1] == "env steps/s 1,234 · updates/s 6.79 · compile 31.2 s"


def test_many_seeds_are_shown_by_quantiles(make_run):
    n = MAX_SEEDS_SHOWN + 5  # 21 values 0..20: the quantiles are known
    text = summary_table(make_run(np.arange(n, dtype=float)[:, None]))
    assert "21 seeds: median 10.000 · min 0.000 · max 20.000 · IQM 10.000" in text
    rows = dict(line.split() for line in text.splitlines() if "%" in line and "seeds" not in line)
    assert rows == {"5%": "1.000", "25%": "5.000", "50%": "10.000", "75%": "15.000", "95%": "19.000"}


def test_seeds_that_end_without_a_number_are_counted_whether_seeds_are_shown_or_quantiles(make_run):
    few = summary_table(make_run([[1.0, 2.0], [1.0, np.nan]], name="few"))
    assert "1 seed: 2.000 · 1 seed without a finite value" in few
    assert next(line.split() for line in few.splitlines() if line.split()[:1] == ["1"])[-1] == "nan"
    values = np.arange(MAX_SEEDS_SHOWN + 7.0)[:, None]
    values[-2:] = np.nan
    many = summary_table(make_run(values))
    assert "21 seeds: median 10.000" in many
    assert "2 seeds without a finite value" in many
    assert summary_table(make_run(values * np.nan, name="none")).endswith(
        "no finite value · 23 seeds without a finite value"
    )


def test_each_grid_point_has_a_table_of_its_own_seeds(make_run):
    env_steps = np.array([[11], [12], [13], [14]])
    text = summary_table(make_run([[1.0], [2.0], [3.0], [4.0]], env_steps=env_steps, grid="1e-3,1e-4"))
    first, second = text.split("lr=0.0001")
    assert "lr=0.001" in first
    assert "median 1.500" in first
    assert "median 3.500" in second
    rows = [line.split()[:2] for line in second.splitlines() if line.endswith(".000")]
    assert rows == [["0", "13"], ["1", "14"]]


def test_another_metric_can_be_reported(make_run):
    assert "final loss" in summary_table(make_run([[1.0, 2.0]]), "train/loss")


def test_a_run_without_evaluations_says_so(make_run):
    run = make_run([[1.0]], timing=TIMING)
    text = summary_table(run._replace(evaluation={}, train={}))
    assert text.splitlines()[0] == "no evaluations yet"
    assert "env steps/s" in text


def test_a_card_without_timing_is_no_error(make_run):
    run = make_run([[1.0]])
    assert "env steps/s" not in summary_table(run._replace(card={}))


def test_the_table_is_plain_and_fits_its_width(make_run):
    text = summary_table(make_run(np.random.default_rng(0).normal(size=(4, 3)) * 1e6, timing=TIMING))
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 1.2 * WIDTH
    assert not text.endswith("\n")


def test_a_summary_in_one_line():
    assert summary_line(Summary(0, *[np.nan] * 6)) == "no finite value"
    assert summary_line(summarize(np.array([2.0]))) == "1 seed: 2.000"
    assert summary_line(summarize(np.array([2.0, 2.0]))).endswith("IQM 2.000 (95%: 2.000 … 2.000)")
