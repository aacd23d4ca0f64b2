"""Runs held against each other: the cards of several runs side by side, with every difference marked."""

import textwrap
from collections.abc import Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from lsf_jax.config.composition import Config, flat_settings
from lsf_jax.programs.parts import bind
from lsf_jax.runs.card import TOLD_OF_TRAIN, Setup, setup_card, value_text
from lsf_jax.runs.folder import read_run
from lsf_jax.settings import ConfigError, printable

IRRELEVANT = (
    "train.name",
    "train.run_dir",
    "train.cache_dir",
    "train.sinks",
    "train.memory_gib",
    "train.devices",
    "train.cpu_devices",
    "train.replay",
)
"""Settings that say where and not what: never a difference between runs."""
OF_THE_DAY = ("environment", "sizes")
"""Items that the code of the day decides and no configuration holds: a comparison takes them from the folder."""
NARROWEST = 16
"""Characters that a run's column keeps in the narrowest terminal."""
FIRST_VERSION = "1"
"""Version of the environments of runs from before the card: it began with the version."""

Row = tuple[str, tuple[str, ...]]
"""An item and its value in each run."""


class Comparison(NamedTuple):
    """The tables of several runs side by side."""

    names: tuple[str, ...]  # of the runs; their paths where names alone would not tell them apart
    rows: tuple[Row, ...]  # all items of the cards
    settings: tuple[Row, ...]  # keys that differ and that no row of the card words
    machines: tuple[Row, ...]  # versions, commit, hardware, and the cut into blocks, which decides the last bits
    warnings: tuple[str, ...]  # why results must not be compared


def compare_runs(paths: Sequence[str | Path]) -> Comparison:
    """Hold the protocols of several runs against each other.

    Cards are made anew from the configurations, so that another wording is no difference; only what the code of the
    day decides, such as the environment's version, is taken from the folder.

    Args:
      paths: two or more run folders, finished or not.

    Raises:
      ConfigError: fewer than two, or one is not a run folder.
    """
    runs = [read_run(Path(path)) for path in paths]
    if len(runs) < 2:
        raise ConfigError(f"{len(runs)} run folder given; expected two or more to compare")
    rows = _side_by_side([_setup_then(config, card) for config, card in runs])
    settings = _side_by_side([{k: value_text(v) for k, v in flat_settings(config).items()} for config, _ in runs])
    told = {key for config, _ in runs for key in _told(config)}
    machines = _side_by_side([_machine(card) for _, card in runs])
    return Comparison(
        names=_names([Path(path) for path in paths]),
        rows=tuple(rows),
        settings=tuple((key, values) for key, values in settings if key not in told and differs(values)),
        machines=tuple(machines),
        warnings=_warnings(rows),
    )


def differs(values: Sequence[str]) -> bool:
    """Whether the runs do not all agree."""
    return len(set(values)) > 1


def _warnings(rows: Sequence[Row]) -> tuple[str, ...]:
    changed = [item for item, values in rows if (item in OF_THE_DAY or item.startswith("env.")) and differs(values)]
    return (f"environments differ ({', '.join(changed)}): results must not be compared",) if changed else ()


def _setup_then(config: Config, card: dict[str, Any]) -> Setup:
    """The card of a run with the environment as it was then."""
    written = card.get("setup") or {"environment": f"{config.env_name} version {FIRST_VERSION}"}
    if config.unconfirmed:  # the game is code that the folder names: only what is written is known
        return {item: str(value) for item, value in written.items()}
    return setup_card(config, bind(config)) | {item: str(written[item]) for item in OF_THE_DAY if item in written}


def _told(config: Config) -> set[str]:
    """Keys that rows of a run's card tell, or that nobody needs to be told."""
    unused = ("epsilon_start", "epsilon_finish", "epsilon_anneal")
    sampled = getattr(config.algo, "behaviour", None) == "sample"
    keys = {f"algo.{key}" for key in vars(config.algo) if not (sampled and key in unused)}
    keys |= {f"{config.swept.section} {key}" for key in config.swept.values}
    keys |= {f"env.{key}" for key in vars(config.env)}
    return keys | {"algo.name", "env.name", *IRRELEVANT, *(f"train.{key}" for key in TOLD_OF_TRAIN)}


def _names(paths: Sequence[Path]) -> tuple[str, ...]:
    names = tuple(_cell(path.resolve().name) for path in paths)
    return names if len(set(names)) == len(names) else tuple(_cell(str(path)) for path in paths)


def _side_by_side(tables: Sequence[Setup]) -> list[Row]:
    """All items of all tables in order of appearance, "-" where a table lacks one."""
    keys = dict.fromkeys(key for table in tables for key in table)
    return [(_cell(key), tuple(_cell(table.get(key, "-")) for table in tables)) for key in keys]


def _cell(text: str) -> str:
    """What a card says, which may be anything, as text of one line that a terminal can show."""
    return printable(" ".join(str(text).split()))


def _machine(card: dict[str, Any]) -> Setup:
    """Versions, commit, hardware and layout of a card as one flat table."""
    parts = {section: card.get(section) for section in ("versions", "git", "devices", "cpu", "layout")}
    return {
        f"{section} {key}": str(value)
        for section, part in parts.items()
        if isinstance(part, dict)
        for key, value in part.items()
    }


def comparison_text(
    comparison: Comparison, *, everything: bool = False, markdown: bool = False, width: int | None = None
) -> str:
    """A comparison as tables, one row for each item; rows that differ begin with `*`.

    Args:
      comparison: what to show.
      everything: show equal items too.
      markdown: Markdown tables instead of aligned text.
      width: columns of the terminal, into which aligned text is broken; None breaks nothing.
    """
    table = _markdown if markdown else partial(_aligned, width=width)
    machines = [row for row in comparison.machines if everything or differs(row[1])]
    shown = [row for row in comparison.rows if everything or differs(row[1])]
    equal = sum(not differs(values) for _, values in comparison.rows)
    sections = (
        ("", shown),
        ("other settings:\n\n", comparison.settings),
        ("versions and machines:\n\n", machines),
    )
    blocks = ["\n".join(f"WARNING: {text}" for text in comparison.warnings)]
    blocks += [title + table(comparison.names, rows) for title, rows in sections if rows]
    blocks.insert(2 if shown else 1, f"{equal} settings are equal" + ("" if everything else "; --all shows them"))
    return "\n\n".join(block for block in blocks if block)


def _cells(names: Sequence[str], rows: Sequence[Row]) -> list[tuple[str, ...]]:
    return [("", "what", *names), *(("*" if differs(values) else "", item, *values) for item, values in rows)]


def _markdown(names: Sequence[str], rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "or") for cell in cells) + " |" for cells in _cells(names, rows)]
    return "\n".join([lines[0], "|---" * (len(names) + 2) + "|", *lines[1:]])


def _aligned(names: Sequence[str], rows: Sequence[Row], width: int | None = None) -> str:
    cells = _cells(names, rows)
    widths = [max(1, *(len(cell) for cell in column)) for column in zip(*cells)]
    if width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        share = (width - widths[0] - widths[1] - 2 * (len(widths) - 1)) // len(names)
        widths[2:] = [min(column, max(share, NARROWEST)) for column in widths[2:]]
    lines = [line for row in cells for line in _broken(row, widths)]
    return "\n".join("  ".join(cell.ljust(column) for cell, column in zip(line, widths)).rstrip() for line in lines)


def _broken(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """A row as lines whose cells fit their columns."""
    return list(zip_longest(*(textwrap.wrap(cell, column) or [""] for cell, column in zip(row, widths)), fillvalue=""))
