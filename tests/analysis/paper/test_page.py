"""The verdict page and its figure, from results made by hand."""

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from lsf_jax.analysis.paper import page
from lsf_jax.analysis.paper.definition import read_definition
from lsf_jax.analysis.paper.drawing import draw_figure
from lsf_jax.analysis.paper.evidence import cells_of, gather
from lsf_jax.analysis.paper.page import Judged, index_text, page_text, write_page
from lsf_jax.analysis.paper.verdicts import judge
from tests.support.paper_cases import figure, table

QMIX, VDN = ("long", "qmix"), ("long", "vdn")
REPORTED = [
    {"panel": "long", "system": "qmix", "low": 6.5, "high": 7.0, "source": "a table", "read_off": True},
    {"panel": "long", "system": "Others' system", "low": 3.0, "high": 3.0, "source": "a paper"},
]
CLAIMS = ({"at_least": 5.0}, {"above": ["vdn"], "text": "it is better"}, {"panels": ["short"], "at_least": 1.0})


def results(**changes):
    definition, cells = figure(*CLAIMS, reported=REPORTED, notes=["Another game."], **changes)
    tables = [
        table(cells[QMIX], [8, 7, 6, 5]),
        table(cells[VDN], [8, 7, 6, 5]),
        table(cells[VDN], [1], root=3, steps=(250, 500)),
        table(cells[QMIX], [2, 3], root=8, purpose="search", lr=0.125),
    ]
    gathered = gather(cells, tables)
    return definition, gathered, judge(definition, gathered)


def test_the_page_tells_claims_numbers_and_what_differs():
    text = page_text(*results(), ["small"])
    lines = text.splitlines()
    assert "**1 reproduced · 1 not reproduced · 1 not tested**" in lines
    assert "![A figure](small.png)" in lines
    (claim,) = (line for line in lines if line.startswith("| it is better"))
    assert "| **not reproduced** | IQM +0 against vdn (95 %: " in claim
    (qmix,) = (line for line in lines if line.startswith("| `qmix` | 4"))
    assert "| 1,000 | 99 | 6.5 (5 to 8) | IQM 6.5 (" in qmix
    assert "≈ 6.5 to 7 (read off) | 2 | `0123456` |" in qmix
    (vdn,) = (line for line in lines if line.startswith("| `vdn` | 4"))
    assert "| 4 (+ 1 on the way) | 500 |" in vdn
    assert "Others, published: Others' system 3 (a paper)" in text
    assert "Published values: a table." in text
    assert "- Another game." in lines
    (differs,) = (line for line in lines if line.startswith("- `qmix`: "))
    assert "algo.batch_size 8 (published 32)" in differs
    (tried,) = (line for line in lines if "algo.lr" in line and line.startswith("| `qmix` | long"))
    assert tried == "| `qmix` | long | algo.lr 0.125 (0.0005) | 2 | 1,000 | 2, 3 | search |"
    assert "nan" not in text


def test_the_index_has_a_line_for_each_claim_and_links():
    definition, _, verdicts = results()
    text = index_text([Judged(definition, verdicts)], "pages")
    assert "| [A figure](pages/small.md) | 1 | 1 | 1 |" in text
    assert text.count("[A figure](pages/small.md)") == 1 + len(CLAIMS)


def test_a_figure_that_nothing_was_trained_for_is_counted_in_the_index_and_has_no_link():
    definition, _, verdicts = results()
    text = index_text([Judged(definition, verdicts, has_page=False)], "pages")
    assert "| A figure (`lsf-jax reproduce small`) | 1 | 1 | 1 |" in text
    assert text.count("A figure") == 1


def test_a_figure_is_drawn_against_hours_too_where_that_is_asked_for(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(page, "draw_figure", lambda *given, hours: drawn.append((given[-1].name, hours)))
    for wall_clock in (False, True):
        paths = write_page(*results(wall_clock=wall_clock), tmp_path)
    assert [path.name for path in paths] == ["small.md", "small.png", "small-hours.png"]
    assert drawn == [("small.png", False), ("small.png", False), ("small-hours.png", True)]
    assert "![A figure](small-hours.png)" in paths[0].read_text(encoding="utf-8")


def test_the_figure_has_every_seed_and_published_value(tmp_path):
    definition, gathered, _ = results()
    short, short_ends, long, ends = draw_figure(definition, gathered, tmp_path / "small.png").axes
    assert 0 < (tmp_path / "small.png").stat().st_size < 100_000
    assert [text.get_text() for text in short.texts] == ["no seeds yet"]
    assert not short_ends.lines
    qmix, vdn = long.lines
    np.testing.assert_allclose(qmix.get_ydata(), [0, 6.5 / 3, 13 / 3, 6.5])  # medians along straight lines
    np.testing.assert_allclose(vdn.get_xdata()[-1], 1000)
    assert sorted(ends.lines[0].get_ydata()) == [5, 6, 7, 8]
    assert list(ends.lines[2].get_ydata()) == [6.5, 7.0]  # diamonds of what was published
    hours = draw_figure(definition, gathered, hours=True).axes[2].lines[0]
    np.testing.assert_allclose(hours.get_xdata()[-1], 2.0)  # 7,200 seconds for a seed


def test_a_small_png_keeps_the_colour_of_each_system(tmp_path):
    definition = read_definition("fig4")
    without_curves = gather(cells_of(definition), [])  # its colours are in the legend alone
    figure = draw_figure(definition, without_curves, tmp_path / "fig4.png")
    seen = np.unique(np.asarray(Image.open(tmp_path / "fig4.png").convert("RGB"), int).reshape(-1, 3), axis=0)
    (legend,) = figure.legends
    for line in legend.get_lines():
        assert np.abs(seen - 255 * np.asarray(to_rgb(line.get_color()))).sum(axis=-1).min() < 20, line.get_label()
