"""What a figure of the paper shows and claims, as data: configs/paper/NAME.yaml with `suites`, read and checked.

Values that are compared with are never ours to make up: each says where it stands, and whether it was printed or read
off a plot.
"""

from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any

import msgspec

from lsf_jax.config import yaml12
from lsf_jax.config.files import config_folder, text_of
from lsf_jax.runs.schemas import problem_of
from lsf_jax.runs.suite import ALL, Suite, read_suite
from lsf_jax.settings import ConfigError, nearest

MEASURES = ("final", "late", "curve")
"""What may stand for a seed: see `verdicts.MEASURES`."""
COMPARISONS = ("at_least", "at_most", "above", "not_below", "steadier_than")
"""What a claim may say of a system; each claim says one of these."""
Fraction = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Words = tuple[str, ...]


class Panel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plot of a figure: one environment of a suite, in one of its variants."""

    suite: Text
    env: Text
    title: Text
    variant: str = ALL
    reported_on: str = ""  # where the paper's values are from, if not from this environment


class Reported(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value that somebody published."""

    panel: Text
    system: Text  # a label of the suite, or whatever it is called
    low: float  # equal to `high` for a single value
    high: float
    source: Text  # who, where, over how many seeds and env steps
    read_off: bool = False  # by eye off a plot, not printed


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement that results can contradict: one of `COMPARISONS`, of one system, on each of several panels."""

    text: Text
    source: Text  # who says so, and whose threshold it is
    panels: Annotated[Words, msgspec.Meta(min_length=1)]
    system: Text
    at_least: float | None = None  # the median over seeds
    at_most: float | None = None
    above: Words = ()  # systems whose IQM is lower: the interval of each difference lies above 0
    not_below: Words = ()  # systems whose IQM is not higher by more than `margin`, interval included
    steadier_than: Words = ()  # systems whose range over seeds, averaged along the curve, is wider
    margin: float = 0.0
    measure: str = "final"  # one of `MEASURES`
    seeds: Count = 4  # fewest
    env_steps: Count | None = None  # at which it is judged; None: the suite's budget

    @property
    def comparison(self) -> str:
        """The one of `COMPARISONS` that it makes; "" for none or several."""
        made = [name for name in COMPARISONS if getattr(self, name) not in (None, ())]
        return made[0] if len(made) == 1 else ""

    @property
    def systems(self) -> Words:
        """Everyone that it needs results of, the one that it speaks of first."""
        return (self.system, *self.above, *self.not_below, *self.steadier_than)


class Scale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a figure is trained."""

    about: Text  # what it takes
    overrides: Words = ()
    systems: Words = ()  # labels; empty: all
    panels: Words = ()  # empty: all
    counts: bool = True  # False: a rehearsal, whose results are no evidence


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The published protocol that a card's differences are counted from."""

    presets: Words = ()
    overrides: Words = ()
    systems: dict[str, Words] = {}  # label -> presets instead of those


class Definition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a figure shows and claims."""

    title: Text
    about: Text  # what the paper says and what it leaves open
    metric: Text  # a column of the evaluations
    unit: Text  # what it is called
    limits: tuple[float, float]  # of the axis; what lies beyond is cut off
    panels: Annotated[dict[str, Panel], msgspec.Meta(min_length=1)]
    claims: Annotated[tuple[Claim, ...], msgspec.Meta(min_length=1)]
    scales: dict[str, Scale]
    published: Published
    notes: Words = ()  # what differs from the published experiment beyond settings
    reported: tuple[Reported, ...] = ()
    share: bool = False  # the metric is 0 or 1 for each seed: shares take the place of medians
    wall_clock: bool = False  # draw curves against hours too
    name: str = ""  # of the file

    def suites(self) -> dict[str, Suite]:
        """The suites that its panels are from, by name."""
        return {panel.suite: read_suite(panel.suite) for panel in self.panels.values()}


SCALES = ("smoke", "laptop", "full")


@cache
def definition_names() -> tuple[str, ...]:
    """Everything that can be reproduced: the files of configs/paper that have panels."""
    files = sorted((config_folder() / "paper").glob("*.yaml"))
    return tuple(path.stem for path in files if "panels" in _content(path.stem))


@cache
def read_definition(name: str) -> Definition:
    """The definition of a figure, checked.

    Args:
      name: one of `definition_names`.

    Raises:
      ConfigError: there is none, or it contradicts itself or the suites; one line.
    """
    if name not in definition_names():
        names = definition_names()
        raise ConfigError(f"unknown figure {name!r}{nearest(name, names)}; there are {', '.join(names)}")
    return make_definition(_content(name), name)


def make_definition(content: dict[str, Any], name: str) -> Definition:
    """A definition from the content of its file; see `read_definition`."""
    source = f"configs/paper/{name}.yaml"
    problem = problem_of(content, Definition)
    if problem:
        raise ConfigError(f"{problem} (in {source})")
    made = msgspec.structs.replace(msgspec.convert(content, Definition), name=name)
    problem = _contradiction(made)
    if problem:
        raise ConfigError(f"{problem} (in {source})")
    return made


def _content(name: str) -> dict[str, Any]:
    path = config_folder() / "paper" / f"{name}.yaml"
    return yaml12.parse(text_of(path), f"configs/paper/{name}.yaml")


def _contradiction(made: Definition) -> str:
    """What is wrong with a definition beyond the form of its parts, "" for nothing."""
    if sorted(made.scales) != sorted(SCALES):
        return f"scales are {', '.join(made.scales)}; expected {', '.join(SCALES)}"
    if made.limits[0] >= made.limits[1]:
        return f"limits are {list(made.limits)}; expected the smaller one first"
    suites = made.suites()
    labels = {name: labels_of(panel, suites[panel.suite]) for name, panel in made.panels.items()}
    problems = [_panel_problem(name, panel, suites[panel.suite]) for name, panel in made.panels.items()]
    problems += [_claim_problem(claim, labels) for claim in made.claims]
    problems += [_unknown(f"reported value of {one.system}", [one.panel], labels) for one in made.reported]
    everyone = {label for known in labels.values() for label in known}
    for scale in made.scales.values():
        problems += [_unknown("scale", scale.panels, labels), _unknown("scale", scale.systems, everyone)]
    problems.append(_unknown("published protocol", made.published.systems, everyone))
    return next(filter(None, problems), "")


def labels_of(panel: Panel, suite: Suite) -> Words:
    """The labels of the systems that take part in a panel, in the suite's order."""
    systems = suite.algorithms.items()
    return tuple(label for label, system in systems if not system.variants or panel.variant in system.variants)


def _panel_problem(name: str, panel: Panel, suite: Suite) -> str:
    return _unknown(f"panel {name}", [panel.env], suite.envs) or _unknown(
        f"panel {name}", [panel.variant], suite.variants
    )


def _claim_problem(claim: Claim, labels: dict[str, Words]) -> str:
    where = f"claim {claim.text!r}"
    if not claim.comparison:
        return f"{where} makes none or several comparisons; expected one of {', '.join(COMPARISONS)}"
    problem = _unknown(where, claim.panels, labels) or _unknown(where, [claim.measure], MEASURES)
    return problem or next(filter(None, (_unknown(where, claim.systems, labels[name]) for name in claim.panels)), "")


def _unknown(where: str, names: Iterable[str], known: Iterable[str]) -> str:
    known = tuple(known)
    found = next((name for name in names if name not in known), None)
    return "" if found is None else f"{where} names {found!r}{nearest(found, known)}"
