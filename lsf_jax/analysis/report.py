"""Runs as one HTML page that opens anywhere, offline: what was run, figures, tables, episodes, how to do it again."""

import base64
import importlib.metadata
import io
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from lsf_jax.analysis import playback, viewer
from lsf_jax.analysis.compare import Row, compare_runs, differs
from lsf_jax.analysis.frames import Run, load_run
from lsf_jax.analysis.html import render_page
from lsf_jax.analysis.plots import plot_curves
from lsf_jax.analysis.records import budget, grid_labels, metric_names
from lsf_jax.analysis.statistics import final_values, summarize
from lsf_jax.runs.manifest import CheckpointError
from lsf_jax.runs.safe_files import write_output
from lsf_jax.settings import ConfigError, env_label

FINISHED, UNFINISHED, DAMAGED = "finished", "unfinished", "damaged"
METRICS = ("return", "success")
"""Evaluations that are drawn and tabulated, where there are such."""
LARGEST = 9_000_000
"""Bytes of a page: episodes that would make it larger are left out, and said to be."""
MOST_TOLD = 30
"""Seeds in trouble of one run; of more their number."""
_DPI = 110


class Member(NamedTuple):
    """A run as the page's first table tells it; `run` is None where it cannot be read."""

    name: str
    path: Path
    state: str
    problem: str  # what is wrong or missing; empty where nothing is
    run: Run | None = None
    algorithm: str = "?"
    environment: str = "?"
    seeds: str = "?"
    budget: str = "?"
    hours: str = "–"


class Protocol(NamedTuple):
    """The cards side by side."""

    names: tuple[str, ...]
    differing: list[Row]
    equal: list[Row]
    machines: list[Row]
    warnings: tuple[str, ...]


def report_page(
    paths: Sequence[str | Path], path: str | Path | None = None, *, title: str = "", with_episodes: bool = True
) -> str:
    """What some runs did, as one HTML page without anything outside it.

    It tells what was run and where protocols differ, draws learning curves, tabulates final results with intervals,
    names seeds in trouble, plays an episode of each finished run (of the seed whose return is the median), and says how
    to do all of it again. Unfinished and damaged runs are shown as such.

    Args:
      paths: run folders.
      path: where to write the page; None writes nothing.
      title: heading.
      with_episodes: play episodes; compiling takes some seconds for each run.

    Returns:
      The page, at most `LARGEST` bytes and what its tables take.

    Raises:
      ConfigError: no runs, one that is not there at all, or the page cannot be written.
    """
    if not paths:
        raise ConfigError("no run folder given; expected one or more")
    members = [_member(Path(each), name) for each, name in zip(paths, _names(paths), strict=True)]
    runs = [member for member in members if member.run is not None]
    protocol, figures = _protocol(runs), _figures(runs)
    room = LARGEST - sum(len(figure["data"]) for figure in figures)
    page = render_page(
        "report.html",
        title=title or "Runs of " + ", ".join(dict.fromkeys(member.algorithm for member in runs or members)),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=importlib.metadata.version("lsf-jax"),
        members=members,
        warnings=protocol.warnings if protocol else (),
        figures=figures,
        tables=_tables(runs),
        trouble=[line for member in members for line in _trouble(member)],
        episodes=_episodes(runs, room) if with_episodes else [],
        protocol=protocol,
        commands=[_commands(member) for member in runs] + _commands_of_all(members),
    )
    if path is not None:
        write_output(path, page.encode())
    return page


def _names(paths: Sequence[str | Path]) -> list[str]:
    names = [Path(path).resolve().name for path in paths]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def _member(path: Path, name: str) -> Member:
    """A run, read; what cannot be read is told, not raised: the others are still worth a page."""
    if not path.is_dir():
        raise ConfigError(f"{path} is not a run folder: there is no such folder; give the path that training printed")
    try:
        run = load_run(path)
        algo, env, train = (run.config.get(section) or {} for section in ("algo", "env", "train"))
        n_points = len(grid_labels(run))
        n_rows = int(train.get("seeds", 0)) * n_points
        done = int(run.evaluation["final"].sum()) if "final" in run.evaluation else 0
        seconds = run.card.get("timing", {}).get("total_seconds")
        return Member(
            name=name,
            path=path,
            state=FINISHED if done == n_rows else UNFINISHED,
            problem="" if done == n_rows else f"{done} of {n_rows} rows at their budget",
            run=run,
            algorithm=str(algo.get("name")),
            environment=env_label(str(env.get("name")), env),
            seeds=f"{train.get('seeds')}" + (f" × {n_points} points" if n_points > 1 else ""),
            budget=f"{budget(run):,}",
            hours="–" if seconds is None else f"{float(seconds) / 3600:.2f}",
        )
    except (ConfigError, ValueError, OSError, KeyError, TypeError) as error:  # whatever a damaged folder may hold
        return Member(name=name, path=path, state=DAMAGED, problem=" ".join(str(error).split()))


def _run_of(member: Member) -> Run:
    if member.run is None:
        raise ValueError(f"{member.path} could not be read.")
    return member.run


def _has(run: Run, metric: str) -> bool:
    return metric in metric_names(run.evaluation) and len(run.evaluation[metric]) > 0


def _figures(members: Sequence[Member]) -> list[dict[str, str]]:
    """Learning curves, one figure for each environment and metric."""
    figures = []
    for environment in dict.fromkeys(member.environment for member in members):
        here = [_run_of(member) for member in members if member.environment == environment]
        for metric in METRICS:
            shown = [run for run in here if _has(run, metric)]
            if shown:
                drawn = io.BytesIO()
                plot_curves(shown, metric=metric).savefig(drawn, format="png", dpi=_DPI)
                data = base64.b64encode(drawn.getvalue()).decode()
                figures.append({"caption": f"{metric} on {environment}", "data": data})
    return figures


def _tables(members: Sequence[Member]) -> list[dict[str, Any]]:
    """Final results over seeds, a row for each grid point of each run."""
    tables = []
    for environment in dict.fromkeys(member.environment for member in members):
        for metric in METRICS:
            here = [each for each in members if each.environment == environment and _has(_run_of(each), metric)]
            rows = [
                {"label": f"{member.name} {label}".strip(), "finished": member.state == FINISHED, "cells": cells}
                for member in here
                for grid, label in enumerate(grid_labels(_run_of(member)))
                if (cells := _cells(_run_of(member), metric, grid))
            ]
            if rows:
                tables.append({"metric": f"{metric} on {environment}", "rows": rows})
    return tables


def _cells(run: Run, metric: str, grid: int) -> list[str]:
    rows, values = final_values(run, metric, grid)
    known = np.isfinite(values)
    if not known.any():
        return []
    rows, values = rows[known], values[known]
    found = summarize(values)
    texts = [f"{number:.3f}" for number in (found.median, found.low, found.high, found.iqm)]
    worst, best = (f"row {rows[place]}" for place in (values.argmin(), values.argmax()))
    return [f"{found.n:,}", *texts, f"{found.iqm_low:.3f} … {found.iqm_high:.3f}", worst, best]


def _trouble(member: Member) -> list[str]:
    """Seeds of which something is not as it should be, a line for each."""
    if member.run is None:
        return [f"{member.name}: {member.problem}"]
    run = member.run
    lines = [
        f"{member.name}: row {entry.get('row')} (seed {entry.get('seed')}): the loss became non-finite at iteration "
        f"{entry.get('iteration')}"
        for entry in run.card.get("nonfinite", [])
    ]
    if _has(run, "return"):
        values = run.evaluation["return"].astype(np.float64)
        lines += [
            f"{member.name}: row {row}: a return that is not a finite number"
            for row in np.unique(run.evaluation["row"][~np.isfinite(values)])
        ]
    if len(lines) > MOST_TOLD:
        lines = [*lines[:MOST_TOLD], f"{member.name}: and {len(lines) - MOST_TOLD:,} more"]
    return [*lines, *([f"{member.name}: {member.problem}"] if member.state == UNFINISHED else [])]


def _protocol(members: Sequence[Member]) -> Protocol | None:
    """The cards side by side: made anew where all runs' settings are known to today's code, else as they were written.

    Of a lone run there is nothing to compare.
    """
    if not members:
        return None
    names, machines, warnings = tuple(member.name for member in members), [], ()
    cards = [_run_of(member).card for member in members]
    rows: list[Row] = _stored_cards(cards)
    if len(members) > 1:
        try:
            found = compare_runs([member.path for member in members])
            rows, machines, warnings = [*found.rows, *found.settings], list(found.machines), found.warnings
        except (ConfigError, ValueError) as error:
            warnings = (f"cards are shown as they were written: {' '.join(str(error).split())}",)
    several = len(members) > 1
    return Protocol(
        names=names,
        differing=[row for row in rows if several and differs(row[1])],
        equal=[row for row in rows if not (several and differs(row[1]))],
        machines=machines,
        warnings=warnings,
    )


def _stored_cards(cards: Sequence[dict[str, Any]]) -> list[Row]:
    setups = [card.get("setup") or {} for card in cards]
    keys = dict.fromkeys(key for setup in setups for key in setup)
    return [(key, tuple(str(setup.get(key, "-")) for setup in setups)) for key in keys]


def _episodes(members: Sequence[Member], room: int) -> list[dict[str, str]]:
    """An episode of each run that has policies, of the seed in the middle, as long as there is room."""
    found = []
    for member in members:
        about, data = _episode(member)
        if len(data) > room:
            about, data = (
                "left out, since the page would be too large: "
                + shlex.join(["lsf-jax", "render", str(member.path), "--output", "episode.html"]),
                "",
            )
        room -= len(data)
        found.append(
            {"label": f"{member.name}: {member.algorithm} on {member.environment}", "about": about, "data": data}
        )
    return sorted(found, key=lambda episode: not episode["data"])


def _episode(member: Member) -> tuple[str, str]:
    """What an episode is, and its data; of runs without one why there is none, and no data."""
    try:
        policies = playback.load_policies(member.path)
        playback.check_recordable(policies.config)
        policy = policies.row(_median_row(_run_of(member), len(policies.seed)))
        episode = policy.play(jax.random.key(policies.config.train.seed))
        return f"the seed in the middle: {viewer.about(policy, episode)}", viewer.pack(
            viewer.episode_data(policy, episode)
        )
    except (ConfigError, CheckpointError) as error:
        return f"no episode: {' '.join(str(error).split())}", ""


def _median_row(run: Run, n_rows: int) -> int:
    """The row whose final return is nearest to the median of those that have policies."""
    if not _has(run, "return"):
        return 0
    rows, values = final_values(run, "return", None)
    known = np.isfinite(values) & (rows < n_rows)
    if not known.any():
        return 0
    return int(rows[known][np.argmin(np.abs(values[known] - np.median(values[known])))])


def _commands(member: Member) -> dict[str, Any]:
    path, given = str(member.path), _run_of(member).card.get("command")
    lines = [f"# as it was typed: {shlex.join(map(str, given))}"] if isinstance(given, list) and given else []
    words = [
        ("train", "--config", f"{path}/config.yaml", f"train.name={member.path.resolve().name}-again"),
        ("evaluate", path, "--episodes", "200"),
        ("inspect", path),
        ("render", path, "--output", "episode.html"),
    ]
    if member.state == UNFINISHED:
        words = [("resume", path), words[0]]
    return {"label": member.name, "lines": [*lines, *(shlex.join(["lsf-jax", *each]) for each in words)]}


def _commands_of_all(members: Sequence[Member]) -> list[dict[str, Any]]:
    paths = [str(member.path) for member in members]
    lines = [shlex.join(["lsf-jax", "compare", *paths])] if len(members) > 1 else []
    return [{"label": "this page", "lines": [*lines, shlex.join(["lsf-jax", "report", *paths])]}]
