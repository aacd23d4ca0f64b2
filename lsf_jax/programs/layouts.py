"""Layouts of runs that are more than one machine's: what gives every device a block, and what a run has begun with."""

from dataclasses import replace

from lsf_jax.config.composition import Config
from lsf_jax.programs.parts import Program
from lsf_jax.programs.planner import Plan, make_plan


def even_width(most: int, rows: int, slots: int) -> int:
    """Rows of a block on a cluster: at most what fits, no more than gives every slot a block, all as equal as can be.

    Args:
      most: rows side by side that fit on a device.
      rows: of the run.
      slots: devices that train blocks at the same time.
    """
    share = -(-rows // slots)
    return min(most, -(-share // -(-share // most)))


def plan_again(config: Config, program: Program, width: int, n_devices: int, micro_batch: int) -> Plan:
    """The plan of a run that has begun: another block width, or another micro-batch, would change its bits.

    Args:
      config: checked configuration.
      program: its parts.
      width: rows of a block on one device.
      n_devices: of a block.
      micro_batch: episodes for each gradient pass.

    Raises:
      ConfigError: as `make_plan`.
    """
    fixed = replace(config.train, block=width, micro_batch=micro_batch, devices=n_devices)
    plan = make_plan(replace(config, train=fixed), program)
    return plan._replace(width=width, n_blocks=-(-plan.rows // (width * n_devices)))
