"""What runs share that differ in swept numbers alone: how they are laid out, and programs that compile once."""

from lsf_jax.config.composition import Config
from lsf_jax.programs.assembly import Programs, make_programs
from lsf_jax.programs.parts import Program, make_rows
from lsf_jax.programs.planner import Plan, make_plan


class Shared:
    """Plan and programs of runs that differ in swept numbers alone: the first makes them, the others take them."""

    def __init__(self) -> None:
        """Nothing is made before the first run."""
        self.plan: Plan | None = None
        self.programs: Programs | None = None
        self.warm: set[str] = set()

    def plan_of(self, config: Config, program: Program) -> Plan:
        """How a run is laid out: as the first, whatever its number of rows."""
        if self.plan is None:
            self.plan = make_plan(config, program)
        rows = len(make_rows(config, program.algorithm).seed)
        return self.plan._replace(rows=rows, n_blocks=-(-rows // (self.plan.width * self.plan.n_devices)))

    def programs_of(self, config: Config, plan: Plan, program: Program) -> Programs:
        """The programs; games on the host end with a run, so theirs are made anew."""
        if self.programs is None or program.hosted is not None:
            self.programs, self.warm = make_programs(config, plan, program), set()
        return self.programs
