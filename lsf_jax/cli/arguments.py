"""What the commands share: how they describe themselves, arguments that several take, exit codes."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from lsf_jax.settings import LARGEST, ConfigError, clip

if TYPE_CHECKING:
    from lsf_jax.config.composition import Config
    from lsf_jax.runs.sweeps.cluster import Cluster

FINISHED, WRONG_INPUT, BUG, INTERRUPTED = 0, 2, 70, 130
"""Exit codes."""
STOCHASTIC = "sample from the policy instead of acting greedily; algorithms that learn values alone stay greedy"


class Command(NamedTuple):
    """A command: what its parser says and what it does. Heavy imports wait for `run`."""

    name: str
    summary: str  # one line
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]  # -> exit code
    epilog: str | None = None  # examples


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add what chooses an algorithm, an environment, and where names are looked for."""
    parser.add_argument("--algo", default=None, help="a name from `lsf-jax list algo` (default lsf_sac)")
    parser.add_argument("--env", default=None, help="a name from `lsf-jax list env` (default predator_prey)")
    add_config_dirs(parser)


def add_composition(parser: argparse.ArgumentParser) -> None:
    """Add everything that `composed` reads."""
    add_names(parser)
    parser.add_argument("--train", default="default", help="a name from `lsf-jax list train` (default default)")
    parser.add_argument("--preset", action="append", default=[], help="a name from `lsf-jax list preset`; repeatable")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="your own YAML file; repeatable")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="dotted settings, last and strongest: algo.lr=3e-4 env.punishment=-2 train.n_envs=16 seeds=64",
    )


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add what sends the blocks of a run to a cluster."""
    group = parser.add_argument_group("on a Ray cluster (needs the extra lsf-jax[cluster])")
    group.add_argument(
        "--cluster",
        default="",
        metavar="WHERE",
        help="train blocks of seeds on a cluster: auto (the one this machine belongs to), HOST:PORT of its head, "
        "local or local:N (N processes of this machine); the same command again goes on",
    )
    group.add_argument(
        "--no-shared-folder",
        action="store_true",
        help="nodes do not see the run folder: tables, checkpoints and policies travel through Ray",
    )
    group.add_argument(
        "--mixed", action="store_true", help="let devices take part that differ, and with them the last bits of results"
    )
    group.add_argument(
        "--per-block",
        default="",
        metavar="NAME=AMOUNT,...",
        help="resources of a block by Ray's names, such as CPU=2,GPU=1 (default: one device, or one CPU)",
    )


def cluster_of(options: argparse.Namespace) -> "Cluster | None":
    """The cluster that the arguments of `add_cluster` describe, None without one.

    Raises:
      ConfigError: --per-block is wrong, or an argument of a cluster is given without one.
    """
    given = {"--no-shared-folder": options.no_shared_folder, "--mixed": options.mixed, "--per-block": options.per_block}
    if not options.cluster:
        for name in (name for name, value in given.items() if value):
            raise ConfigError(f"{name} is given without --cluster; expected both")
        return None
    from lsf_jax.cluster.connect import import_ray, read_address

    read_address(options.cluster)
    import_ray()
    from lsf_jax.runs.sweeps.cluster import Cluster

    return Cluster(
        where=options.cluster,
        shared_folder=not options.no_shared_folder,
        mixed=options.mixed,
        per_block=_resources(options.per_block),
    )


def _resources(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in filter(None, text.split(",")):
        name, _, amount = word.rpartition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = 0.0
        if not name or not 0.0 < found[name] < float("inf"):
            raise ConfigError(f"--per-block has {clip(word)}; expected NAME=AMOUNT,... such as CPU=2,GPU=1")
    return found


def add_config_dirs(parser: argparse.ArgumentParser) -> None:
    """Add the folders of the user's own."""
    parser.add_argument(
        "--config-dir",
        action="append",
        default=[],
        dest="config_dirs",
        metavar="DIR",
        help="a folder of your own with env/, train/, preset/ or suite/; repeatable; $LSF_JAX_CONFIGS names such too",
    )


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add what names plug-ins; every command has it."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        dest="plugins",
        metavar="MODULE",
        help="a module that calls lsf_jax.register; no:MODULE leaves an installed one out; repeatable; "
        "$LSF_JAX_PLUGINS names such too",
    )


def composed(options: argparse.Namespace) -> "Config":
    """The configuration that the arguments of `add_composition` describe."""
    from lsf_jax.config.composition import compose

    return compose(
        algo=options.algo,
        env=options.env,
        train=options.train,
        presets=options.preset,
        files=options.config,
        overrides=options.overrides,
        config_dirs=options.config_dirs,
    )


def whole(low: int, high: int = LARGEST) -> Callable[[str], int]:
    """A whole number in a range, as a type of argparse."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{clip(text)} is no whole number from {low} to {high}")
        return value

    return read


positive = whole(1, 1_000_000)
"""A whole number of at least 1, as a type of argparse."""
