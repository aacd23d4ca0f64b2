"""The verdict page of a figure, and the index of all: Markdown made from results, never written by hand."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lsf_jax.analysis.paper.definition import Definition, Reported
from lsf_jax.analysis.paper.drawing import draw_figure
from lsf_jax.analysis.paper.evidence import Evidence, Gathered, Place, Variant, published_changes
from lsf_jax.analysis.paper.kept import KeptSeed
from lsf_jax.analysis.paper.verdicts import (
    MEASURES,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    Verdict,
    values_at,
)
from lsf_jax.analysis.statistics import summarize, wilson
from lsf_jax.runs.safe_files import write_output

VERDICTS = (REPRODUCED, NOT_REPRODUCED, NOT_TESTED)
COMMIT = 7
"""Characters of a commit that are shown."""
HOUR = 3600.0


def write_page(definition: Definition, gathered: Gathered, verdicts: Sequence[Verdict], folder: Path) -> list[Path]:
    """Write NAME.md, NAME.png and, where the definition asks for it, NAME-hours.png; returns their paths."""
    pictures = {definition.name: False} | ({f"{definition.name}-hours": True} if definition.wall_clock else {})
    paths = [folder / f"{definition.name}.md"]
    for stem, hours in pictures.items():
        paths.append(folder / f"{stem}.png")
        draw_figure(definition, gathered, paths[-1], hours=hours)
    write_output(paths[0], page_text(definition, gathered, verdicts, list(pictures)).encode())
    return paths


def page_text(
    definition: Definition, gathered: Gathered, verdicts: Sequence[Verdict], pictures: Sequence[str] = ()
) -> str:
    """The page as Markdown.

    Args:
      definition: of the figure.
      gathered: its results.
      verdicts: from `verdicts.judge`.
      pictures: names of the PNGs beside it, without ".png".
    """
    parts = [
        f"# {definition.title}",
        f"Made by `lsf-jax reproduce {definition.name}`; the definition is `configs/paper/{definition.name}.yaml`.",
        definition.about.strip(),
        _counted(verdicts),
        *(f"![{definition.title}]({stem}.png)" for stem in pictures),
        "## Claims",
        _claims(definition, verdicts),
        "## Results",
        *(_panel(definition, gathered, name) for name in definition.panels),
        "## What differs from what was published",
        "\n".join(f"- {note}" for note in definition.notes),
        *_differences(definition, gathered),
        *_variants(definition, gathered),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counted(verdicts: Sequence[Verdict]) -> str:
    counts = Counter(verdict.verdict for verdict in verdicts)
    return "**" + " · ".join(f"{counts[word]} {word}" for word in VERDICTS) + "**"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "or") for cell in line) + " |" for line in lines)


def _claims(definition: Definition, verdicts: Sequence[Verdict]) -> str:
    rows = [
        [
            verdict.claim.text,
            definition.panels[verdict.panel].title,
            _test(verdict),
            f"**{verdict.verdict}**",
            verdict.reason,
            verdict.claim.source,
        ]
        for verdict in verdicts
    ]
    return table(("claim", "where", "test", "verdict", "what was seen", "who says so"), rows)


def _test(verdict: Verdict) -> str:
    claim, name = verdict.claim, f"`{verdict.claim.system}`"
    words = {
        "at_least": f"{name} at least {claim.at_least or 0:g}",
        "at_most": f"{name} at most {claim.at_most or 0:g}",
        "above": f"{name} above {', '.join(claim.above)}",
        "not_below": f"{name} not more than {claim.margin:g} below {', '.join(claim.not_below)}",
        "steadier_than": f"{name} varies less over seeds than {', '.join(claim.steadier_than)}",
    }
    return f"{words[claim.comparison]}, {MEASURES[claim.measure][1]}, {claim.seeds} seeds or more"


def _panel(definition: Definition, gathered: Gathered, name: str) -> str:
    panel = definition.panels[name]
    reported = [one for one in definition.reported if one.panel == name]
    labels = [label for place, label in gathered.cells if place == name]
    middle = "share" if definition.share else "median (min to max)"
    heads = ("system", "seeds", "env steps", "updates", middle, "95 %", "published", "hours a seed", "commit")
    rows = [_system(definition, gathered, (name, label), reported) for label in labels]
    others = [one for one in reported if one.system not in labels]
    where = f" The published values are from {panel.reported_on}." if panel.reported_on and reported else ""
    text = f"### {panel.title}\n\n`{panel.env}`, {definition.unit}.{where}\n\n{table(heads, rows)}"
    if others:
        text += "\n\nOthers, published: " + "; ".join(f"{one.system} {_reported(one)} ({one.source})" for one in others)
    sources = dict.fromkeys(one.source for one in reported if one not in others)
    if sources:
        text += "\n\nPublished values: " + "; ".join(sources) + "."
    return text


def _system(definition: Definition, gathered: Gathered, place: Place, reported: Sequence[Reported]) -> list[str]:
    evidence, budget = gathered.evidence[place], gathered.cells[place].budget
    values = values_at(evidence.seeds, definition.metric, budget)
    published = ", ".join(_reported(one) for one in reported if one.system == place[1]) or "-"
    name = f"`{place[1]}`"
    if not evidence.seeds:
        return [name, "0", "-", "-", "-", "-", published, "-", "-"]
    partial = len(evidence.seeds) - values.size
    middle, interval = _numbers(values, definition.share)
    return [
        name,
        f"{values.size}" + (f" (+ {partial} on the way)" if partial else ""),
        f"{min(seed.env_steps[-1] for seed in evidence.seeds):,}",
        f"{min(seed.updates for seed in evidence.seeds):,}",
        middle,
        interval,
        published,
        f"{_hours(evidence):.2g}",
        _commits(evidence),
    ]


def _numbers(values: np.ndarray, is_share: bool) -> tuple[str, str]:
    """The middle of one number for each seed, and the interval of share or IQM."""
    if not values.size:
        return "-", "-"
    if is_share:
        low, high = wilson(float(values.mean()), values.size)
        return f"{values.mean():.1%}", f"{low:.1%} to {high:.1%}"
    found = summarize(values)
    interval = f"IQM {found.iqm:.3g} ({found.iqm_low:.3g} to {found.iqm_high:.3g})" if found.n > 1 else "-"
    return f"{found.median:.3g} ({found.low:.3g} to {found.high:.3g})", interval


def _reported(one: Reported) -> str:
    value = f"{one.low:g}" if one.low == one.high else f"{one.low:g} to {one.high:g}"
    return f"≈ {value} (read off)" if one.read_off else value


def _hours(evidence: Evidence) -> float:
    """Hours of a device for a seed, mean over the seeds."""
    return sum(evidence.origins[seed.origin].seconds for seed in evidence.seeds) / len(evidence.seeds) / HOUR


def _commits(evidence: Evidence) -> str:
    used = [evidence.origins[seed.origin] for seed in evidence.seeds]
    names = dict.fromkeys(f"{one.commit[:COMMIT] or 'unknown'}{' (changed)' if one.dirty else ''}" for one in used)
    return ", ".join(f"`{name}`" for name in names)


def _differences(definition: Definition, gathered: Gathered) -> list[str]:
    """For each system with results its settings that are not those of the published protocol."""
    lines: dict[str, list[str]] = {}
    for (panel, label), cell in gathered.cells.items():
        if gathered.evidence[panel, label].seeds:
            changes = published_changes(definition, cell)
            text = ", ".join(f"{key} {ours} (published {theirs})" for key, (theirs, ours) in changes.items())
            lines.setdefault(f"- `{label}`: {text or 'nothing'}", []).append(definition.panels[panel].title)
    named = [f"{line} [{'; '.join(titles)}]" for line, titles in lines.items()]
    protocol = ", ".join(definition.published.presets) or "the defaults"
    return (
        [f"Settings, against preset {protocol} (or the system's own, named in the definition):", "\n".join(named)]
        if named
        else []
    )


def _variants(definition: Definition, gathered: Gathered) -> list[str]:
    """Settings that were tried and are not the suite's, and seeds that chose one: shown, never counted."""
    rows = [_variant(definition, gathered, variant) for variant in gathered.variants]
    rows += [
        [f"`{label}`", definition.panels[panel].title, "the suite's own", *_seed_cells(definition, evidence.searched)]
        for (panel, label), evidence in gathered.evidence.items()
        if evidence.searched
    ]
    if not rows:
        return []
    heads = ("system", "where", "changed (the suite's)", "seeds", "env steps", f"last {definition.metric}", "purpose")
    return ["## Tried besides, counted nowhere", table(heads, rows)]


def _variant(definition: Definition, gathered: Gathered, variant: Variant) -> list[str]:
    del gathered
    panel, label = variant.place
    changes = ", ".join(f"{key} {theirs} ({ours})" for key, (ours, theirs) in variant.changes.items())
    return [f"`{label}`", definition.panels[panel].title, changes, *_seed_cells(definition, variant.table.seeds)]


def _seed_cells(definition: Definition, seeds: Sequence[KeptSeed]) -> list[str]:
    if not seeds:
        return ["0", "-", "-", "-"]
    ends = [values[-1] for seed in seeds if (values := seed.values.get(definition.metric))]
    shown = ", ".join("-" if value is None else f"{value:.3g}" for value in ends[:8]) + (
        " ..." if len(ends) > 8 else ""
    )
    purposes = ", ".join(dict.fromkeys(seed.purpose for seed in seeds))
    return [f"{len(seeds)}", f"{min(seed.env_steps[-1] for seed in seeds):,}", shown or "-", purposes]


class Judged(NamedTuple):
    """A figure and what its claims came to."""

    definition: Definition
    verdicts: Sequence[Verdict]
    has_page: bool = True  # False: nothing was trained for it, so there is nothing to show


def index_text(judged: Sequence[Judged], folder: str) -> str:
    """The index of all figures as Markdown: verdicts counted, and a line for each claim of those that have a page.

    Args:
      judged: the figures.
      folder: of the pages, beside the index.
    """
    titles = {
        one.definition.name: f"[{one.definition.title}]({folder}/{one.definition.name}.md)"
        if one.has_page
        else f"{one.definition.title} (`lsf-jax reproduce {one.definition.name}`)"
        for one in judged
    }
    rows = [
        [
            titles[one.definition.name],
            verdict.claim.text,
            one.definition.panels[verdict.panel].title,
            f"**{verdict.verdict}**",
            verdict.reason,
        ]
        for one in judged
        if one.has_page
        for verdict in one.verdicts
    ]
    counts = [[titles[one.definition.name], *(str(_count(one.verdicts, word)) for word in VERDICTS)] for one in judged]
    parts = [
        "# The paper's results, held against ours",
        "Made by `lsf-jax reproduce all --report` from `benchmarks/results/paper`. A claim counts as reproduced or not"
        " only over enough seeds that chose no setting, at the full budget.",
        table(("figure", *VERDICTS), counts),
        table(("figure", "claim", "where", "verdict", "what was seen"), rows),
    ]
    return "\n\n".join(parts) + "\n"


def _count(verdicts: Sequence[Verdict], word: str) -> int:
    return sum(verdict.verdict == word for verdict in verdicts)
