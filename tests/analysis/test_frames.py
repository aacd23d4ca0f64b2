"""Finding runs, and what a run turns itself into."""

import json

import numpy as np
import pytest

from lsf_jax.analysis import playback
from lsf_jax.analysis.frames import load_runs
from lsf_jax.settings import ConfigError
from tests.support.browser import WIDTHS, needs_browser, opened, overflow


def test_runs_are_found_by_path_pattern_and_folder(make_run, tmp_path):
    for name in ("qmix-1", "qmix-2", "vdn-1"):
        make_run([[1.0]], name=name)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "qmix-empty").mkdir()
    names = lambda given: [run.path.name for run in load_runs(given)]
    assert names(tmp_path / "vdn-1") == ["vdn-1"]
    assert names(str(tmp_path / "qmix-*")) == ["qmix-1", "qmix-2"]
    assert names(tmp_path) == ["qmix-1", "qmix-2", "vdn-1"]
    assert names([tmp_path / "vdn-1", tmp_path / "*-1"]) == ["vdn-1", "qmix-1"]


def test_where_there_is_no_run_one_line_says_so(tmp_path):
    for nothing, message in (
        (tmp_path / "nowhere-*", "finds no run folder; give the path that training printed"),
        (tmp_path, "is not a run folder: it has no config.yaml"),
        (tmp_path / "nowhere", "is not a run folder: there is no such folder"),
        ("~nosuchuser/runs", "there is no such user"),
    ):
        with pytest.raises(ValueError, match=message):
            load_runs(nothing)
    with pytest.raises(ValueError, match="paths is empty"):
        load_runs([])


def test_a_damaged_run_among_others_is_named(make_run, tmp_path):
    make_run([[1.0]], name="good")
    make_run([[1.0]], name="bad")
    (tmp_path / "bad" / "card.json").write_text("{")
    with pytest.raises(ValueError, match=r"bad/card\.json is damaged"):
        load_runs(tmp_path)


def test_a_run_shows_itself_with_table_and_curve_and_escapes_what_is_written_in_it(make_run):
    run = make_run(np.arange(12.0).reshape(4, 3), name="<b>run")
    run.config["algo"]["name"] = "<script>"
    page = run._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "data:image/png;base64," in page
    assert ">6.5<" in page  # the median of 2, 5, 8, 11
    assert ">2 … 11<" in page


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("device", WIDTHS)
def test_a_page_is_no_wider_for_a_run_shown_in_it(make_run, tmp_path, device):
    run = make_run(np.arange(12.0).reshape(4, 3), name="with-" + "a-very-" * 12 + "long-name")
    page = tmp_path / "page.html"
    page.write_text(f"<meta name=viewport content='width=device-width'><body>{run._repr_html_()}", encoding="utf-8")
    with opened(page, device) as seen:
        seen.screenshot(path=tmp_path / f"{device}.png", full_page=True)
        assert overflow(seen) == 0
        assert seen.locator("td").count() == 8


def test_an_unfinished_run_and_one_without_evaluations_say_so(make_run):
    run = make_run([[1.0, 2.0]])
    run.evaluation["final"][:] = False
    assert "2 (unfinished)" in run._repr_html_()
    page = run._replace(evaluation={})._repr_html_()
    assert "no evaluations yet" in page
    assert "<img" not in page


def test_several_runs_are_one_table(make_run):
    runs = [make_run([[value]], name=name) for name, value in (("first", 1.0), ("second", 2.0))]
    page = load_runs([run.path for run in runs])._repr_html_()
    assert page.count("<tr>") == 3
    assert page.count("<img") == 1


def test_policies_of_a_run_are_those_of_its_folder(make_run, monkeypatch):
    def told(path, overrides):
        raise ConfigError(f"asked for {path.name} with {overrides[0]}")

    monkeypatch.setattr(playback, "load_policies", told)
    with pytest.raises(ConfigError, match=r"asked for run with env\.deadline=5"):
        make_run([[1.0]]).policies(["env.deadline=5"])


def test_marl_eval_gets_environment_task_algorithm_seed_and_step(make_run, tmp_path):
    run = make_run([[1.0, 2.0], [3.0, np.nan]])
    run.evaluation["q_total"] = np.ones((4, 2))
    content = json.loads(run.to_marl_eval(tmp_path / "out" / "all.json").read_text())
    seeds = content["predator_prey"]["predator_prey"]["lsf_sac"]
    assert seeds == {
        "seed_0": {
            "step_0": {"step_count": 100, "return": [1.0]},
            "step_1": {"step_count": 200, "return": [2.0]},
            "absolute_metrics": {"return": [2.0]},
        },
        "seed_1": {
            "step_0": {"step_count": 100, "return": [3.0]},
            "step_1": {"step_count": 200},
            "absolute_metrics": {},
        },
    }


def test_tasks_that_differ_in_a_setting_are_told_apart_in_marl_evals_file(make_run, tmp_path):
    runs = [make_run([[1.0]], name=name) for name in "ab"]
    runs[0].config["env"]["punishment"], runs[1].config["env"]["punishment"] = 0, -2
    content = json.loads(type(load_runs(tmp_path))(runs).to_marl_eval(tmp_path / "all.json").read_text())
    assert set(content["predator_prey"]) == {"predator_prey, punishment=0", "predator_prey, punishment=-2"}


def test_an_unfinished_run_is_not_given_to_marl_eval(make_run, tmp_path):
    run = make_run([[1.0, 2.0]])
    run.evaluation["final"][:] = False
    with pytest.raises(ValueError, match="is not finished"):
        run.to_marl_eval(tmp_path / "all.json")
    assert not (tmp_path / "all.json").exists()
