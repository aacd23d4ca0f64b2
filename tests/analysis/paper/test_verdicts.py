"""Verdicts against results made by hand: each verdict can be reached, and nothing counts that must not."""

import numpy as np
import pytest

from lsf_jax.analysis.paper.evidence import gather
from lsf_jax.analysis.paper.verdicts import (
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    judge,
    points_of,
    values_at,
)
from lsf_jax.analysis.statistics import difference_interval, iqm
from tests.support.paper_cases import BUDGET, figure, table

QMIX, VDN = ("long", "qmix"), ("long", "vdn")


def verdict(claim, results, **options):
    """The verdict on one claim given tables by place: `results` maps a place to arguments of `table`."""
    definition, cells = figure(claim)
    tables = [
        table(cells[place], **({"ends": given} if isinstance(given, list) else given)) for place, given in results
    ]
    (found,) = judge(definition, gather(cells, tables), **options)
    return found


@pytest.mark.parametrize(
    ("ends", "word"),
    [
        ([9, 6, 5, 1], REPRODUCED),  # median 5.5
        ([9, 5, 5, 1], REPRODUCED),  # a tie with the threshold holds
        ([9, 5, 4.8, 1], NOT_REPRODUCED),
        ([9, 9, 9], NOT_TESTED),
        ([], NOT_TESTED),
    ],
)
def test_a_threshold_is_held_against_the_median_of_enough_seeds(ends, word):
    found = verdict({"at_least": 5.0}, [(QMIX, ends)])
    assert (found.verdict, found.seeds) == (word, len(ends))
    if word == NOT_TESTED:
        assert f"qmix: {len(ends)} of 4 seeds at 1,000 env steps" in found.reason


@pytest.mark.parametrize(("ends", "word"), [([0, 0, 5, 9], REPRODUCED), ([0, 6, 5, 9], NOT_REPRODUCED)])
def test_a_claim_of_failure_is_held_against_the_median_too(ends, word):
    assert verdict({"at_most": 2.5}, [(QMIX, ends)]).verdict == word


def test_no_threshold_above_zero_is_taken_for_none():
    assert verdict({"at_most": 0.0}, [(QMIX, [0, 0, 0, 0])]).verdict == REPRODUCED
    assert verdict({"at_least": 0.0}, [(QMIX, [-1, -1, -1, -1])]).verdict == NOT_REPRODUCED


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        ([1, 1.2, 0.8, 1.1], REPRODUCED),
        ([8, 8, 8, 8], NOT_REPRODUCED),  # all equal: the difference is 0, and 0 is not above
        ([7, 9, 8, 8], NOT_REPRODUCED),
        ([1, 1, 1], NOT_TESTED),
    ],
)
def test_above_asks_for_an_interval_of_the_difference_above_zero(theirs, word):
    found = verdict({"above": ["vdn"]}, [(QMIX, [8, 8, 8, 8]), (VDN, theirs)])
    assert found.verdict == word


def test_one_rival_that_is_not_beaten_decides_though_another_is_missing():
    claim = {"above": ["vdn", "wide"]}
    assert verdict(claim, [(QMIX, [5] * 4), (VDN, [6] * 4)]).verdict == NOT_REPRODUCED
    found = verdict(claim, [(QMIX, [5] * 4), (VDN, [1] * 4)])
    assert found.verdict == NOT_TESTED
    assert "wide: 0 of 4 seeds" in found.reason
    everyone = [(QMIX, [5] * 4), (VDN, [1] * 4), (("long", "wide"), [2] * 4)]
    assert verdict(claim, everyone).verdict == REPRODUCED


@pytest.mark.parametrize(("margin", "word"), [(2.0, REPRODUCED), (1.0, REPRODUCED), (0.5, NOT_REPRODUCED)])
def test_not_below_allows_its_margin_and_no_more(margin, word):
    claim = {"not_below": ["vdn"], "margin": margin}
    assert verdict(claim, [(QMIX, [4] * 4), (VDN, [5] * 4)]).verdict == word


def test_steadier_compares_ranges_along_the_curve():
    narrow = [[1, 2, 3, 4 + 0.1 * seed] for seed in range(4)]
    wide = [[1 + seed, 2, 3, 4] for seed in range(4)]
    given = [(QMIX, {"ends": [], "curves": narrow}), (VDN, {"ends": [], "curves": wide})]
    found = verdict({"steadier_than": ["vdn"]}, given)
    assert found.verdict == REPRODUCED
    assert found.reason == "range 0.075, of vdn 0.75"  # 0.3 at one point of four, and 3 at one of four
    assert verdict({"steadier_than": ["vdn"]}, [(QMIX, given[1][1]), (VDN, given[0][1])]).verdict == (NOT_REPRODUCED)


def test_seeds_short_of_the_budget_count_nothing_and_are_told():
    short = {"ends": [9, 9], "steps": (250, 500), "root": 7}
    found = verdict({"at_least": 5.0}, [(QMIX, [9, 9]), (QMIX, short)])
    assert found.verdict == NOT_TESTED
    assert found.reason == "qmix: 2 of 4 seeds at 1,000 env steps, 2 more at 500 or less"
    early = verdict({"at_least": 5.0, "env_steps": 500}, [(QMIX, [12, 12]), (QMIX, short)])
    assert (early.verdict, early.seeds) == (REPRODUCED, 4)  # 4 and 4 on the way at 500, 9 and 9


def test_search_seeds_never_count_and_take_reported_ones_of_their_name_with_them():
    search = {"ends": [9] * 4, "purpose": "search"}
    assert verdict({"at_least": 5.0}, [(QMIX, search)]).verdict == NOT_TESTED
    tried = {"ends": [9, 9], "purpose": "search", "lr": 0.5}  # another setting of QMIX, seeds 0 and 1
    found = verdict({"at_least": 5.0}, [(QMIX, [9] * 4), (QMIX, tried)])
    assert (found.verdict, found.seeds) == (NOT_TESTED, 2)
    fresh = {"ends": [9] * 4, "root": 5}
    assert verdict({"at_least": 5.0}, [(QMIX, fresh), (QMIX, tried)]).verdict == REPRODUCED


def test_another_setting_is_a_variant_and_never_mixed_in():
    definition, cells = figure({"at_least": 5.0})
    gathered = gather(cells, [table(cells[QMIX], [9] * 4, lr=0.25)])
    (variant,) = gathered.variants
    assert variant.place == QMIX
    assert variant.changes == {"algo.lr": ("0.0005", "0.25")}
    assert gathered.evidence[QMIX].seeds == ()
    assert judge(definition, gathered)[0].verdict == NOT_TESTED


def test_a_rehearsal_tests_nothing():
    assert verdict({"at_least": 5.0}, [(QMIX, [9] * 4)], counts=False).verdict == NOT_TESTED


def test_measures_by_hand():
    _, cells = figure()
    steps = (100, 500, 910, 950, 1000, 1500)
    seeds = table(cells[QMIX], [], steps=steps, curves=[[0, 4, np.nan, 6, 8, 100]]).seeds
    assert values_at(seeds, "return", BUDGET).tolist() == [8]
    assert values_at(seeds, "return", BUDGET, "late").tolist() == [7]
    area = (
        400 * 2 + 450 * 5 + 50 * 7
    )  # trapezoids between 100, 500, 950 and 1,000; the one that is no number is left out
    assert values_at(seeds, "return", BUDGET, "curve").tolist() == [pytest.approx(area / 900)]
    assert values_at(seeds, "return", 2000).size == 0
    assert points_of(seeds[0], "success")[0].size == 0


def test_shares_have_their_own_interval():
    definition, cells = figure({"at_least": 0.75}, share=True)
    gathered = gather(cells, [table(cells[QMIX], [1, 1, 1, 0])])
    (found,) = judge(definition, gathered)
    assert found.verdict == REPRODUCED
    assert found.reason == "75.0% of 4 seeds (95 %: 30.1% to 95.4%)"  # Wilson's, by hand


def test_the_interval_of_a_difference_draws_both_sides_independently():
    rng = np.random.default_rng(0)
    first, second = rng.normal(3, 1, 20), rng.normal(0, 1, 20)
    low, high = difference_interval(first, second)
    assert low < iqm(first) - iqm(second) < high
    same_low, same_high = difference_interval(first, first)
    assert same_low < -0.2 < 0.2 < same_high  # drawn in step, they would cancel
    assert difference_interval(np.full(4, 2.0), np.full(3, 2.0)) == (0.0, 0.0)
