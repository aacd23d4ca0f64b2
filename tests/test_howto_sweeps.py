"""The page on sweeps: its examples run from top to bottom, all but the training itself, which other tests do."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from lsf_jax.config.composition import compose, grid_points, replace
from lsf_jax.runs import experiment
from tests.support.search_cases import Trainer, write_run

PAGE = (Path(__file__).parents[1] / "docs" / "howto" / "sweeps.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(monkeypatch)

    def train(config, **_):
        named = replace(config, "train.name", "grid")
        return SimpleNamespace(path=write_run(named, np.zeros((len(grid_points(named)), named.train.seeds))))

    monkeypatch.setattr(experiment, "train", train)
    names = {}
    exec("\n".join(blocks("python")).replace("trials=128", "trials=8").replace("batch=32", "batch=4"), names)
    assert dict(names["data"].sizes) == {"point": 6, "seed": 32, "step": 2}
    assert [len(grid_points(config)) for config in trainer.configs] == [4] * 2
    assert "8 complete" in capsys.readouterr().out
    assert names["best"].algo.lr == names["found"].study.best_params["algo.lr"]
    assert names["best"].train.seeds == 256


def test_a_file_of_points_is_one(tmp_path):
    (text,) = [block for block in blocks("yaml") if block.startswith("points:")]
    (tmp_path / "points.yaml").write_text(text, encoding="utf-8")
    config = compose(presets=["matrix"], files=[tmp_path / "points.yaml"])
    assert grid_points(config)[1] == {"lr": 4.0e-3, "alpha": 2.9}
