"""The page on results: its examples run from top to bottom over two small runs, its commands are typed."""

import re
import shlex
import types
from pathlib import Path

import numpy as np
import pytest

from lsf_jax.analysis.frames import load_run
from lsf_jax.cli import app
from lsf_jax.runs import experiment, tables

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "results.md"
CONFIG = """algo: {{name: {name}, lr: 3e-4}}
env: {{name: predator_prey}}
train: {{seeds: 6, env_steps: 300}}
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """`runs/qmix` and `runs/vdn` in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for level, name in enumerate(("qmix", "vdn")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(CONFIG.format(name=name), encoding="utf-8")
        (folder / "card.json").write_text("{}", encoding="utf-8")
        row, point = (index.ravel() for index in np.indices((6, 3)))
        keys = {"row": row, "seed": row, "iteration": point, "env_steps": (point + 1) * 100}
        tables.write_part(folder, "train", 0, 0, {**keys, "entropy": random.random(18)})
        returns = random.normal(level + point, 0.5)
        tables.write_part(folder, "eval", 0, 0, {**keys, "final": point == 2, "return": returns})
    return tmp_path


def test_the_examples_run(two_runs, monkeypatch, capsys):
    """All but the training itself, which other tests do."""

    def told(config, *, on_evaluation):
        assert config.train.seeds == 2
        on_evaluation(types.SimpleNamespace(columns={"return": np.array([1.0, 3.0])}))

    monkeypatch.setattr(experiment, "train", told)
    names = {}
    exec("\n".join(blocks("python")), names)
    shown = capsys.readouterr().out
    assert "qmix: median" in shown
    assert "qmix against vdn" in shown
    assert names["seen"] == [2.0]
    last = load_run(two_runs / "runs" / "vdn").evaluation
    frame = names["frame"]
    assert frame[frame["final"] & (frame["run"] == "vdn")]["return"].tolist() == last["return"][last["final"]].tolist()
    assert {path.name for path in two_runs.iterdir()} == {"runs", "marl_eval.json", "curves.pdf", "fan.png"}


def test_the_commands_do_what_the_page_says(two_runs, capsys):
    for line in "\n".join(blocks("bash")).splitlines():
        assert app.main(shlex.split(line)[1:]) == 0, line
    assert "wrote" in capsys.readouterr().out
    made = {path.name for path in two_runs.rglob("*.p*") if path.suffix in (".png", ".pdf")}
    assert made == {
        *("compared-return.png", "compared-return.pdf", "fan-return.png", "fan-return.pdf"),
        *("dynamics.png", "dynamics.pdf", "profile.pdf"),
    }
