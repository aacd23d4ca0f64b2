"""Which results speak for which system of a figure: tables are matched with the suites by what was trained.

A table counts for a system only if its setting is exactly the suite's of today. Any other is a variant: shown under its
own name with what is different, never mixed in. Seeds that chose a setting are shown, and count nowhere.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lsf_jax.analysis.paper.definition import Definition, labels_of
from lsf_jax.analysis.paper.kept import (
    ENVIRONMENT,
    REPORT,
    SEARCH,
    KeptSeed,
    Origin,
    Table,
    config_of,
    merged,
    setting_of,
)
from lsf_jax.config.composition import Config, compose, make_env
from lsf_jax.runs.card import value_text
from lsf_jax.runs.suite import Member, members
from lsf_jax.settings import ConfigError

Place = tuple[str, str]
"""Panel and label of a system in it."""


class Cell(NamedTuple):
    """A system in a panel, as its suite has it."""

    member: Member
    setting: dict[str, Any]
    budget: int  # env steps for each seed, in full

    @property
    def kind(self) -> tuple[Any, ...]:
        """Algorithm and environment: what a variant shares with it."""
        return kind_of(self.setting)


class Evidence(NamedTuple):
    """What is known of one system in one panel."""

    seeds: tuple[KeptSeed, ...] = ()  # for the report
    searched: tuple[KeptSeed, ...] = ()  # chose a setting of this algorithm here
    origins: tuple[Origin, ...] = ()
    card: dict[str, str] = {}  # noqa: RUF012 - never written to


class Variant(NamedTuple):
    """A table of a setting that is not the suite's, beside the system that it is nearest to."""

    place: Place
    changes: dict[str, tuple[str, str]]  # key -> the suite's value and this one's
    table: Table


class Gathered(NamedTuple):
    """All results for a figure."""

    cells: dict[Place, Cell]
    evidence: dict[Place, Evidence]
    variants: tuple[Variant, ...]

    @property
    def is_empty(self) -> bool:
        """Whether no seed of any system, and of no variant, has been trained."""
        return not self.variants and not any(one.seeds or one.searched for one in self.evidence.values())


def cells_of(definition: Definition, overrides: Sequence[str] = ()) -> dict[Place, Cell]:
    """Every system of every panel.

    Args:
      definition: of the figure.
      overrides: laid over what the suites say, for a rehearsal.

    Raises:
      ConfigError: a suite or an override is wrong.
    """
    suites, cells, environments = definition.suites(), {}, {}
    for name, panel in definition.panels.items():
        suite = suites[panel.suite]
        full = members(suite, suite.name, envs=[panel.env], variants=[panel.variant])
        here = full
        if overrides:
            here = members(suite, suite.name, envs=[panel.env], variants=[panel.variant], overrides=overrides)
        for member, other in zip(full, here, strict=True):
            version = environments.get(panel.env) or environment_of(other.config)
            environments[panel.env] = version
            budget = member.config.train.env_steps
            cells[name, member.label] = Cell(other, setting_of(other.config, version), budget)
    return cells


def environment_of(config: Config) -> str:
    """The environment with its version, as the card words it."""
    return f"{config.env_name} version {make_env(config).version}"


def kind_of(setting: dict[str, Any]) -> tuple[Any, ...]:
    """Algorithm and environment of a setting."""
    env = sorted((key, str(value)) for key, value in setting.items() if key.startswith("env."))
    return setting["algo.name"], *env


def changes_of(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Keys that differ between two settings, with both values as text, "-" where there is none."""
    differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return {
        key: (value_text(ours[key]) if key in ours else "-", value_text(theirs[key]) if key in theirs else "-")
        for key in differing
    }


def nearest_cell(cells: dict[Place, Cell], setting: dict[str, Any]) -> tuple[Place, dict[str, tuple[str, str]]] | None:
    """The system of the same algorithm and environment that a setting differs least from, with what is different.

    Returns:
      None where the figure has no such system.
    """
    found = [
        (place, changes_of(cell.setting, setting)) for place, cell in cells.items() if cell.kind == kind_of(setting)
    ]
    return min(found, key=lambda each: len(each[1]), default=None)


def gather(cells: dict[Place, Cell], tables: Iterable[Table]) -> Gathered:
    """Sort tables by the systems that they speak for.

    Args:
      cells: from `cells_of`.
      tables: kept ones and those of run folders; tables of other figures are left out.
    """
    found: dict[Place, list[Table]] = {}
    variants: list[Variant] = []
    searched: dict[tuple[Any, ...], dict[tuple[int, int], KeptSeed]] = {}
    for table in tables:
        setting = setting_of(config_of(table), table.environment)
        close = nearest_cell(cells, setting)
        if close is None:
            continue
        place, changes = close
        if changes:
            variants.append(Variant(place, changes, table))
        else:
            found.setdefault(place, []).append(table)
        choosing = {seed.name: seed for seed in table.seeds if seed.purpose == SEARCH}
        searched.setdefault(kind_of(setting), {}).update(choosing)
    evidence = {place: _evidence(found.get(place, []), searched.get(cell.kind, {})) for place, cell in cells.items()}
    return Gathered(cells=cells, evidence=evidence, variants=tuple(variants))


def _evidence(tables: Sequence[Table], searched: dict[tuple[int, int], KeptSeed]) -> Evidence:
    if not tables:
        return Evidence()
    one = merged(tables)
    seeds = tuple(seed for seed in one.seeds if seed.purpose == REPORT and seed.name not in searched)
    return Evidence(
        seeds=seeds,
        searched=tuple(seed for seed in one.seeds if seed not in seeds),
        origins=one.origins,
        card=one.card,
    )


def published_changes(definition: Definition, cell: Cell) -> dict[str, tuple[str, str]]:
    """What a system's setting has otherwise than the published protocol: key -> the published value and ours.

    Raises:
      ConfigError: the definition's published protocol is wrong.
    """
    published, member = definition.published, cell.member
    try:
        theirs = compose(
            algo=member.algo,
            env=member.env,
            presets=published.systems.get(member.label, published.presets),
            overrides=published.overrides,
        )
    except ConfigError as error:
        raise ConfigError(f"{error} (published protocol, configs/paper/{definition.name}.yaml)") from None
    return changes_of(setting_of(theirs, cell.setting[ENVIRONMENT]), cell.setting)


def labels_in(definition: Definition, panel: str) -> tuple[str, ...]:
    """Labels of the systems of a panel."""
    return labels_of(definition.panels[panel], definition.suites()[definition.panels[panel].suite])
