"""A small figure with two systems and made-up results, without training anything."""

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np

from lsf_jax.analysis.paper.definition import make_definition
from lsf_jax.analysis.paper.evidence import cells_of
from lsf_jax.analysis.paper.kept import KeptSeed, Origin, Table, _plain
from lsf_jax.config.documents import to_yaml
from lsf_jax.runs import tables

BUDGET = 1000
SUITE = str(Path(__file__).with_name("small_suite.yaml"))
ORIGIN = Origin(
    commit="0123456789abcdef",
    dirty=False,
    date="2026-01-02T03:04:05+00:00",
    device="cpu",
    versions={"jax": "1"},
    budget=BUDGET,
    evaluate_every=250,
    eval_episodes=32,
    seconds=7200.0,
)


def content_of(**changes):
    """The content of a definition over the small suite."""
    panels = {
        name: {"suite": SUITE, "env": "matrix_game", "variant": name, "title": name} for name in ("short", "long")
    }
    claim = {"text": "it learns", "source": "somebody", "panels": ["long"], "system": "qmix", "at_least": 5.0}
    return {
        "title": "A figure",
        "about": "What it is.",
        "metric": "return",
        "unit": "return",
        "limits": [-1.0, 9.0],
        "panels": panels,
        "claims": [claim],
        "scales": {name: {"about": name} for name in ("smoke", "laptop", "full")},
        "published": {"presets": ["pymarl"]},
    } | changes


def figure(*claims, **changes):
    """A definition with claims given as dictionaries over "long" and QMIX, and its cells."""
    base = {"text": "it learns", "source": "somebody", "panels": ["long"], "system": "qmix"}
    listed = {"claims": [base | claim for claim in claims]} if claims else {}
    definition = make_definition(content_of(**listed, **changes), "small")
    return definition, cells()


@cache
def cells():
    """The systems of the small suite."""
    return cells_of(make_definition(content_of(), "small"))


def table(cell, ends, *, root=0, purpose="report", steps=(250, 500, 750, BUDGET), curves=None, **settings):
    """A table of a cell's setting, or of one with other settings of its algorithm, whose seeds end at these values."""
    algo = dataclasses.replace(cell.member.config.algo, **settings)
    curves = curves or [np.linspace(0, end, len(steps)) for end in ends]
    seeds = [
        KeptSeed(
            root=root,
            number=number,
            purpose=purpose,
            origin=0,
            updates=99,
            env_steps=tuple(steps),
            values={"return": tuple(None if np.isnan(value) else float(value) for value in curve)},
        )
        for number, curve in enumerate(curves)
    ]
    config = _plain(dataclasses.replace(cell.member.config, algo=algo))
    return Table(
        config=config,
        environment=cell.setting["environment"],
        card={"sizes": "2 agents"},
        origins=(ORIGIN,),
        seeds=tuple(seeds),
    )


def run_folder(path, config, environment, returns):
    """A folder that looks like a run: `returns` [rows, evaluations], the last one final where the budget is reached."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    card = {
        "setup": {"environment": environment, "sizes": "2 agents", "algo.lr": "1"},
        "timing": {"total_seconds": 720.0},
        "layout": {"n_devices": 1},
        "git": {"commit": "feed", "dirty": True},
        "devices": {"kind": "cpu"},
        "cpu": {"model": "a processor"},
    }
    (path / "card.json").write_text(json.dumps(card), encoding="utf-8")
    returns = np.asarray(returns, np.float64)
    row, point = (index.ravel() for index in np.indices(returns.shape))
    steps = 250 * (point + 1)
    columns = {
        "row": row,
        "grid": row // config.train.seeds,
        "seed": row % config.train.seeds,
        "iteration": point,
        "env_steps": steps,
        "updates": steps // 2,
        "final": steps >= config.train.env_steps,
        "return": returns.ravel(),
        "q_total": np.zeros((row.size, 9)),
    }
    tables.write_part(path, "eval", 0, 0, columns)
    return path
