"""What a run would take on a cluster that is not rented yet: blocks, hours and disk."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from lsf_jax.config.composition import Config, grid_points
from lsf_jax.config.documents import to_yaml
from lsf_jax.programs.chips import find_chip
from lsf_jax.programs.cost_model import Range
from lsf_jax.programs.layouts import even_width
from lsf_jax.programs.planner import Plan, size_text
from lsf_jax.programs.targets import Survey, compiling, estimate, hours_text, survey
from lsf_jax.settings import ConfigError, clip, counted


class Shape(NamedTuple):
    """A cluster as `--cluster` of `plan` names it."""

    nodes: int
    devices: int  # of a node
    chip: str

    @property
    def slots(self) -> int:
        """Blocks that are trained at a time."""
        return self.nodes * self.devices


class Foresight(NamedTuple):
    """What a run would take."""

    shape: Shape
    found: Survey  # of one device
    rounds: int  # of blocks, one after another, on the device that has most
    hours: Range | None  # None where the compiler told nothing to estimate from
    disk_bytes: int  # checkpoints of all blocks, and the next one of each block in training


def read_shape(text: str) -> Shape:
    """NODESxDEVICESxCHIP, such as 16x8xh100.

    Raises:
      ConfigError: it is something else.
    """
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,2})x([a-z]\w+)", text)
    if found is None:
        raise ConfigError(f"--cluster is {clip(text)}; expected NODESxDEVICESxCHIP such as 16x8xh100")
    shape = Shape(int(found[1]), int(found[2]), found[3])
    find_chip(shape.chip, 1)
    return shape


def foresee(config: Config, shape: Shape, tell: Callable[[str], None]) -> Foresight:
    """Lay a run out on a cluster and compile a block for its chips, here.

    Args:
      config: checked configuration.
      shape: of the cluster.
      tell: called with a line before and after the compilation.

    Raises:
      ConfigError: the chip is unknown or its compiler is not installed, or not even one row fits.
    """
    rows = config.train.seeds * len(grid_points(config))
    width = config.train.block or even_width(plan_on(config, shape.chip).width, rows, shape.slots)
    fixed = replace(config, train=replace(config.train, block=width))
    return foreseen(shape, survey(to_yaml(fixed), shape.chip, n_devices=1, quick=True, tell=tell))


def plan_on(config: Config, chip: str) -> Plan:
    """The plan of a run on one device of a kind; nothing is compiled."""
    with compiling(find_chip(chip, 1), 1, to_yaml(config)) as (planned, _):
        return Plan(**planned["plan"])


def foreseen(shape: Shape, found: Survey) -> Foresight:
    """What follows from the survey of one device.

    Args:
      shape: of the cluster.
      found: of a run whose block width is set.
    """
    plan, both = found.plan, estimate(found)
    rounds = math.ceil(plan.n_blocks / shape.slots)
    hours = None if both is None else Range(*(each / plan.n_blocks * rounds for each in both[1]))
    return Foresight(
        shape=shape,
        found=found,
        rounds=rounds,
        hours=hours,
        disk_bytes=plan.disk_bytes * (plan.n_blocks + min(shape.slots, plan.n_blocks)),
    )


def foresight_text(seen: Foresight) -> str:
    """What a run would take, as lines for people."""
    shape, plan, found = seen.shape, seen.found.plan, seen.found
    nodes = counted(shape.nodes, "node")
    lines = [
        f"cluster              {nodes} of {shape.devices} × {shape.chip}: {shape.slots} blocks at a time",
        f"blocks               {plan.n_blocks:,} of {plan.width} rows, {seen.rounds} on a device one after another",
        f"memory               {size_text(found.compiled[0]['required'])} of {size_text(found.limit)}, per device",
        f"disk                 {size_text(seen.disk_bytes)} for checkpoints when replay is full, tables besides",
    ]
    if seen.hours is not None:
        fast, slow = hours_text(seen.hours.fast), hours_text(seen.hours.slow)
        devices = seen.hours.slow * min(shape.slots, plan.n_blocks)
        lines.append(
            f"estimate             {fast} to {slow}, up to {hours_text(devices)} of devices, at episodes of full "
            "length, without start and compilation, by the constants of lsf_jax/programs/cost_model.py"
        )
    if plan.n_blocks < shape.slots:
        lines.append(f"idle                 {shape.slots - plan.n_blocks} devices have no block: fewer would do")
    return "\n".join(lines)
