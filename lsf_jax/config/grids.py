"""The points of a sweep: all combinations of a grid's values, or points given one by one, as a search proposes them."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lsf_jax.settings import ConfigError

GRID, POINTS = "grid", "points"
"""Sections of a `config.yaml` that say what is swept: key -> its values. The i-th point of `points` takes each i-th."""


class Swept(NamedTuple):
    """What a run sweeps."""

    values: Mapping[str, Sequence[float | int]]  # key -> its values
    paired: bool = False  # values that stand at one place make a point; else every combination does

    @property
    def section(self) -> str:
        """What a `config.yaml` has it under."""
        return POINTS if self.paired else GRID

    @property
    def size(self) -> int:
        """How many points there are; 1 without anything swept. Those of a grid are not made."""
        if self.paired:
            return min(map(len, self.values.values()), default=1)
        return math.prod(map(len, self.values.values()))

    @property
    def points(self) -> tuple[dict[str, float | int], ...]:
        """Each point's values by key; of a grid the last key runs fastest. Without anything swept one empty point."""
        columns = self.values.values()
        rows = zip(*columns, strict=True) if self.paired and columns else itertools.product(*columns)
        return tuple(dict(zip(self.values, row, strict=True)) for row in rows)


def swept_in(content: Mapping[str, Any]) -> Swept:
    """What a parsed `config.yaml` sweeps, by dotted keys."""
    points = content.get(POINTS)
    return Swept(points or content.get(GRID) or {}, paired=bool(points))


def refuse_both(swept: Iterable[str], paired: Iterable[str]) -> None:
    """Nothing, unless some keys of points and others have several values.

    Raises:
      ConfigError: then.
    """
    apart = ", ".join(f"algo.{key}" for key in sorted(set(swept) - set(paired)))
    if apart and paired:
        raise ConfigError(
            f"{apart} has several values beside the points; expected one; give it one, or a list within the points"
        )


def check_lengths(swept: Swept) -> None:
    """Nothing, where points have as many values of each key.

    Raises:
      ConfigError: they have not.
    """
    if swept.paired and len(set(map(len, swept.values.values()))) > 1:
        shown = ", ".join(f"{len(values)} of {key}" for key, values in swept.values.items())
        raise ConfigError(f"points hold {shown}; expected as many of each, one for each point")
