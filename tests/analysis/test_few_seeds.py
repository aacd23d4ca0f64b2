"""Subsampling against every handful there is."""

import itertools

import numpy as np
import pytest

from lsf_jax.analysis.few_seeds import few_seeds_risk, few_seeds_text

RANDOM = np.random.default_rng(0)
FIRST, SECOND = RANDOM.normal(0.4, 1.0, 8).round(1), RANDOM.normal(0.0, 1.0, 7).round(1)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_probabilities_are_those_of_all_handfuls(size):
    truth = np.sign(np.median(FIRST) - np.median(SECOND))
    medians = [
        [np.median(FIRST[list(mine)]) - np.median(SECOND[list(theirs)])]
        for mine in itertools.combinations(range(8), size)
        for theirs in itertools.combinations(range(7), size)
    ]
    said = np.sign(medians)
    (found,) = few_seeds_risk(FIRST, SECOND, [size]).few
    assert found.tied == pytest.approx(np.mean(said == 0), abs=0.006)
    assert found.wrong == pytest.approx(np.mean(said == -truth), abs=0.006)
    assert found.right == pytest.approx(np.mean(said == truth), abs=0.006)
    assert found.wrong + found.tied + found.right == pytest.approx(1.0)


def test_the_truth_is_the_difference_over_all_seeds_with_its_interval():
    many = np.repeat([0.0, 1.0], 500)
    found = few_seeds_risk(many + 5.0, many, truth="mean")
    assert found.difference == 5.0
    assert found.low < 5.0 < found.high
    half = 1.96 * np.sqrt(2 * 0.25 / 1000)  # of a difference of means
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.is_sure
    assert [few.wrong for few in found.few] == [0.0, 0.0, 0.0]
    assert not few_seeds_risk(many, many, truth="mean").is_sure


def test_where_all_seeds_are_tied_every_strict_ranking_is_wrong():
    scores = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    (found,) = few_seeds_risk(scores, scores, [3]).few
    assert found.right == 0.0
    share = 3 / 10  # of the ten handfuls three have two ones
    assert found.wrong == pytest.approx(2 * share * (1 - share), abs=0.006)


def test_a_rare_success_is_missed_by_a_median_but_ranked_by_the_mean():
    rare, never = np.where(np.arange(100) < 30, 8.0, 0.0), np.zeros(100)
    found = few_seeds_risk(rare, never, [3], truth="mean")
    assert found.difference == pytest.approx(2.4)
    (few,) = found.few
    assert few.tied == pytest.approx(1 - few.right)
    assert few.tied > 0.7


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="a system has 2 finite scores; expected 5 or more"):
        few_seeds_risk(np.array([1.0, 2.0]), np.ones(9))
    with pytest.raises(ValueError, match="truth is 'mode'; expected median or mean"):
        few_seeds_risk(np.ones(9), np.ones(9), truth="mode")


def test_the_table_has_a_line_for_each_pair_and_says_what_is_unsure():
    pairs = {("a", "a"): FIRST, ("a", "c"): FIRST + 9}
    rankings = {pair: few_seeds_risk(first, FIRST, draws=100, resamples=100) for pair, first in pairs.items()}
    lines = few_seeds_text(rankings).splitlines()
    assert len(lines) == 4
    assert "wrong with 4 (tied)" in lines[0]
    assert ("unsure" in lines[2], "unsure" in lines[3]) == (True, False)
