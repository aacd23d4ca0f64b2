"""The report: everything that was run is told, what is broken is shown as broken, and the page stands alone."""

import json
import re
import shutil
from functools import cache

import numpy as np
import pytest

from lsf_jax.analysis import playback, report
from lsf_jax.runs import tables
from lsf_jax.settings import ConfigError
from tests.support.browser import WIDTHS, needs_browser, opened, overflow
from tests.support.run_cases import finished_run

EVIL = "<img src=x onerror=alert(1)>"


def rows_of(page, section):
    """The cells of all table rows below a heading, markup left out."""
    part = page.split(f'<h2 id="{section}">')[1].split("<h2")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in re.findall(r"<tr.*?</tr>", part, re.S)]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in cells if row]


CONFIG = """algo: {name: lsf_sac, lr: 3e-4}
env: {name: predator_prey}
train: {seeds: %d, env_steps: 200}
"""


def make_run(path, finals, seeds, card):
    """A run folder with two evaluations of each row, the second one final."""
    path.mkdir()
    (path / "config.yaml").write_text(CONFIG % seeds, encoding="utf-8")
    (path / "card.json").write_text(card, encoding="utf-8")
    row, point = (index.ravel() for index in np.indices((len(finals), 2)))
    columns = {"row": row, "grid": 0 * row, "seed": row, "iteration": point, "env_steps": 100 * (point + 1)}
    returns = np.stack([np.zeros(len(finals)), finals], axis=1).ravel()
    tables.write_part(path, "eval", 0, 0, columns | {"final": point == 1, "return": returns})
    return path


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A finished run, an unfinished one with trouble, and a damaged one."""
    folder = tmp_path_factory.mktemp("three")
    trouble = {"nonfinite": [{"row": 1, "seed": 1, "iteration": 40}], "command": ["lsf-jax", "train", EVIL]}
    return [
        make_run(folder / "fine", [5.0, 9.0, 7.0], 3, '{"timing": {"total_seconds": 7200.0}}'),
        make_run(folder / "poor", [2.0, np.nan], 3, json.dumps(trouble)),
        make_run(folder / "broken", [1.0], 1, "{"),
    ]


@pytest.fixture(scope="module")
def page(three):
    return report.report_page(three, title=EVIL, with_episodes=False)


def test_runs_are_told_with_their_state(page):
    fine, poor, broken = rows_of(page, "runs")
    assert fine == ["fine", "finished", "lsf_sac", "predator_prey", "3", "200", "2.00"]
    assert poor[1] == "unfinished: 2 of 3 rows at their budget"
    assert broken[1].startswith("damaged: ")
    assert "card.json is damaged: no JSON at line 1" in broken[1]


def test_results_are_those_of_the_final_evaluations_with_their_interval(page):
    fine, poor = rows_of(page, "results")
    assert fine[:6] == ["fine", "3", "7.000", "5.000", "9.000", "7.000"]
    low, high = map(float, fine[6].split(" … "))
    assert 5.0 <= low < 7.0 < high <= 9.0
    assert fine[7:] == ["row 0", "row 1"]
    assert poor[:3] == ["poor (unfinished)", "1", "2.000"]


def test_seeds_in_trouble_are_named(page):
    part = page.split('id="trouble"')[1].split("<h2")[0]
    assert "poor: row 1 (seed 1): the loss became non-finite at iteration 40" in part
    assert "poor: row 1: a return that is not a finite number" in part
    assert "broken: " in part
    assert "fine" not in part


def test_what_users_wrote_is_escaped_and_nothing_is_fetched(page):
    assert EVIL not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3
    assert {address[:22] for address in re.findall(r'(?:src|href)="([^"#][^"]*)"', page)} == {"data:image/png;base64,"}
    assert "default-src 'none'" in page


def test_commands_can_be_pasted(page, three):
    part = page.split('id="commands"')[1]
    assert f"lsf-jax resume {three[1]}" in part
    assert f"lsf-jax train --config {three[0]}/config.yaml train.name=fine-again" in part
    assert "# as it was typed: lsf-jax train &#39;&lt;img src=x onerror=alert(1)&gt;&#39;" in part
    assert f"lsf-jax report {three[0]} {three[1]} {three[2]}" in part


def test_a_folder_that_is_not_there_is_bad_input(tmp_path):
    with pytest.raises(ConfigError, match="nowhere is not a run folder"):
        report.report_page([tmp_path / "nowhere"])
    with pytest.raises(ConfigError, match="no run folder given"):
        report.report_page([])


def with_evaluations(path, n_rows):
    """Final evaluations, so that a run made by hand counts as finished."""
    index = np.arange(n_rows)
    columns = {"row": index, "grid": 0 * index, "seed": index, "iteration": index * 0 + 3}
    more = {"env_steps": np.full(n_rows, 10**7), "final": np.ones(n_rows, bool), "return": index * 1.5 - 12}
    tables.write_part(path, "eval", 0, 0, columns | more)


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    """Twenty runs with policies: two, and copies of them."""
    folder, paths = tmp_path_factory.mktemp("twenty"), []
    for algo, env in (("lsf_sac", "predator_prey"), ("qmix", "matrix_game")):
        paths.append(folder / f"{algo}-{env}-0")
        finished_run(paths[-1], algo, env, "train.seeds=3", block=3)
        with_evaluations(paths[-1], 3)
    for number in range(1, 10):
        for source in paths[:2]:
            paths.append(source.with_name(f"{source.name[:-2]}-{number}"))
            shutil.copytree(source, paths[-1])
    return paths


@pytest.mark.slow
@needs_browser
def test_of_twenty_runs_the_page_is_below_ten_megabytes_and_works_on_desktop_and_phone(twenty, tmp_path, monkeypatch):
    read, target = cache(playback.load_policies), tmp_path / "report.html"
    monkeypatch.setattr(playback, "load_policies", lambda path: read(path.with_name(f"{path.name[:-2]}-0")))  # compiled
    report.report_page(twenty, target)
    assert target.stat().st_size < 10_000_000
    for device in WIDTHS:
        with opened(target, device, "dark" if device == "phone" else "light") as page:
            page.wait_for_selector(".viewer[data-state=ready]")
            assert overflow(page) <= 0
            sizes = page.evaluate(
                "Promise.all([...document.images].map(i => (i.loading='eager', i.decode().then(() => i.naturalWidth))))"
            )
            assert len(sizes) >= 2
            assert min(sizes) > 300
            closed = page.locator("details:has(.viewer):not([open])").first
            closed.locator("summary").click()
            closed = page.locator(".viewer[data-state=ready]").nth(1)
            closed.wait_for()
            slider = closed.locator("input[type=range]")
            before = closed.locator(".caption").inner_text()
            slider.focus()
            slider.press("ArrowRight")
            assert slider.input_value() == "1"
            assert closed.locator(".caption").inner_text() != before
