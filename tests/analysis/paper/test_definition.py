"""Definitions of figures: those that are shipped hold, and wrong ones end in one line."""

import pytest

from lsf_jax.analysis.paper import definition
from lsf_jax.analysis.paper.definition import definition_names, labels_of, make_definition, read_definition
from lsf_jax.analysis.paper.evidence import cells_of, published_changes
from lsf_jax.analysis.paper.verdicts import MEASURES
from lsf_jax.settings import ConfigError
from tests.support.paper_cases import content_of


@pytest.mark.parametrize("name", definition_names())
def test_shipped_figures_hold(name):
    made = read_definition(name)
    assert made.name == name
    assert {claim.measure for claim in made.claims} <= set(MEASURES)
    assert not made.scales["smoke"].counts
    assert made.scales["laptop"].counts
    assert made.scales["full"].counts
    assert made.scales["full"].systems == made.scales["full"].panels == ()
    low, high = made.limits
    assert all(low <= one.low <= one.high <= high for one in made.reported)


def test_every_claim_of_the_issue_is_there():
    assert {"fig3", "fig4", "fig5", "fig6", "table1"} <= set(definition_names())
    hunts = read_definition("fig3")
    everywhere = {"lsf_sac", "masac", "qmix", "vdn", "qplex", "cw_qmix"}
    suites = hunts.suites()
    assert all(everywhere <= set(labels_of(panel, suites[panel.suite])) for panel in hunts.panels.values())
    thresholds = {claim.system: claim.at_least for claim in hunts.claims if claim.panels == ("p2_1m",)}
    expected = {"vdn": 33, "qmix": 30, "qplex": 25, "cw_qmix": 35, "ow_qmix": 35, "qtran": 35}
    assert expected.items() <= thresholds.items()


def test_a_systems_differences_from_the_published_protocol_are_told():
    made = read_definition("table1")
    cells = cells_of(made)
    changes = published_changes(made, cells["own", "lsf_sac"])
    assert changes["algo.hidden"] == ("64", "16")
    assert "algo.alpha_lr" not in changes  # 3e-4 in both
    assert "train.seeds" not in changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"panels": {}}, "expected `object` of length >= 1 - at `panels`"),
        ({"title": 3}, "expected `str`, got `int` - at `title`"),
        ({"colour": "red"}, "object contains unknown field `colour`"),
        ({"limits": [1.0, 0.0]}, "limits are [1.0, 0.0]; expected the smaller one first"),
        ({"scales": {}}, "scales are ; expected smoke, laptop, full"),
        ({"reported": [{"panel": "lang", "system": "x", "low": 0, "high": 1, "source": "y"}]}, "did you mean long?"),
    ],
)
def test_a_wrong_definition_is_one_line(changes, complaint):
    with pytest.raises(ConfigError) as caught:
        make_definition(content_of(**changes), "bad")
    assert complaint in str(caught.value)
    assert str(caught.value).endswith("(in configs/paper/bad.yaml)")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("claim", "complaint"),
    [
        ({}, "makes none or several comparisons; expected one of at_least, at_most, above"),
        ({"at_least": 1.0, "at_most": 2.0}, "makes none or several comparisons"),
        ({"above": ["vnd"]}, "claim 'it learns' names 'vnd'; did you mean vdn?"),
        ({"system": "wide", "panels": ["short"], "at_least": 1.0}, "claim 'it learns' names 'wide'"),  # not in there
        ({"at_least": 1.0, "measure": "end"}, "claim 'it learns' names 'end'; expected one of final, late, curve"),
    ],
)
def test_a_wrong_claim_is_one_line(claim, complaint):
    base = {"text": "it learns", "source": "somebody", "panels": ["long"], "system": "qmix"}
    with pytest.raises(ConfigError) as caught:
        make_definition(content_of(claims=[base | claim]), "bad")
    assert complaint in str(caught.value)


def test_an_unknown_figure_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown figure 'fig33'; did you mean fig3"):
        definition.read_definition("fig33")
