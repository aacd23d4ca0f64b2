"""Commands over several runs, `suite` and `matrix-table`; heavy imports wait for the call."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lsf_jax.cli.arguments import FINISHED, INTERRUPTED, Command, add_cluster, add_config_dirs, cluster_of, positive
from lsf_jax.settings import ConfigError

if TYPE_CHECKING:
    from lsf_jax.runs.sweeps.cluster import Cluster

SUITE = """examples:
  lsf-jax suite predator_prey_p2
  lsf-jax suite predator_prey_p2 --algo qmix --algo qplex train.env_steps=2000000
  lsf-jax suite mine.yaml --folder runs/mine
The same command again continues what was stopped, skips what is finished and extends what has a larger budget."""
TABLE = """examples:
  lsf-jax matrix-table --seeds 64
  lsf-jax matrix-table --seeds 1000 --game all --folder runs/table
  lsf-jax matrix-table --seeds 64 --algo lsf_sac --algo qmix algo.lr=3e-3
The same command again continues what was stopped. The games: matrix_game (the paper's), climbing, penalty, two_state,
two_state_aliased, two_state_opposed. Exploration falls over 40,000 env steps: with a budget near that, the rows of
uniform data and of an algorithm's own are alike."""


def _run_suite(options: argparse.Namespace) -> int:
    """`lsf-jax suite`."""
    from lsf_jax.runs import suite

    chosen = suite.read_suite(options.suite, options.config_dirs)
    folder = Path(options.folder or f"runs/{chosen.name}")
    runs = suite.members(chosen, folder, algorithms=options.algo, overrides=options.overrides)
    if not train_members(runs, cluster_of(options)):
        return INTERRUPTED
    for place in dict.fromkeys((member.env, member.variant) for member in runs):
        _summarise(
            [member for member in runs if (member.env, member.variant) == place], folder, "-".join(filter(None, place))
        )
    return FINISHED


def _matrix_table(options: argparse.Namespace) -> int:
    """`lsf-jax matrix-table`."""
    from lsf_jax.analysis.frames import load_run
    from lsf_jax.analysis.matrix_table import outcomes_of, read_outcomes, write_table
    from lsf_jax.config.composition import make_env
    from lsf_jax.runs import suite

    chosen = suite.read_suite("matrix_table", options.config_dirs)
    for game in options.game:
        if game not in (*chosen.envs, "all"):
            raise ConfigError(f"--game is {game!r}; expected all or one of {', '.join(chosen.envs)}")
    games = [] if "all" in options.game else options.game or ["matrix_game"]
    folder = Path(options.folder or "runs/matrix_table")
    words = [f"train.seeds={options.seeds}", *options.overrides]
    runs = suite.members(chosen, folder, algorithms=options.algo, envs=games, overrides=words)
    earlier = [(file, outcome) for file in options.earlier for outcome in read_outcomes(file)]
    tables = {}
    for env, config in {member.env: member.config for member in runs}.items():
        payoff = make_env(config).payoff
        if payoff is None:
            raise ConfigError(f"--game is {env!r}; expected a matrix game")
        tables[env] = payoff.table
        for file, outcome in earlier:
            if outcome.q_total.shape != payoff.table.reshape(len(payoff.table), -1).shape:
                raise ConfigError(f"--with is {file}, of a game of another size than {env}; name its game (--game)")
    if not train_members(runs, cluster_of(options)):
        return INTERRUPTED
    order = list(chosen.algorithms)
    for env, table in tables.items():
        of_env = [member for member in runs if member.env == env]
        outcomes = [outcome for member in of_env for outcome in outcomes_of(load_run(member.path), table)]
        here = {outcome.algorithm for outcome in outcomes}
        outcomes += [outcome for _, outcome in earlier if outcome.algorithm not in here]
        outcomes.sort(key=lambda outcome: order.index(outcome.algorithm) if outcome.algorithm in order else len(order))
        paths = write_table(outcomes, env, table, folder)
        print(f"\n{paths[0].read_text(encoding='utf-8')}")
        print("wrote " + ", ".join(str(path) for path in paths))
    return FINISHED


def train_members(runs: list, cluster: "Cluster | None" = None) -> bool:
    """Bring every run to its budget; False if stopped first, be it so late that the run at hand reached its end.

    Args:
      runs: members of suites.
      cluster: where their blocks are trained, one run after another; None trains on this machine.
    """
    if cluster is None:
        return _train_all(runs, None)
    from lsf_jax.cluster.connect import AUTO, connected

    with connected(cluster.where):  # once for all of them
        return _train_all(runs, cluster._replace(where=AUTO))


def _train_all(runs: list, cluster: "Cluster | None") -> bool:
    from lsf_jax.runs import suite

    for number, member in enumerate(runs, 1):
        print(f"\n[{number}/{len(runs)}] {member.label} on {member.env}: {member.path}", flush=True)
        result = suite.run_member(member, cluster)
        if result and (not result.finished or (result.stopped and number < len(runs))):
            print("\nstopped and saved; the same command continues")
            return False
    return True


def _summarise(runs: list, folder: Path, name: str) -> None:
    from lsf_jax.analysis.frames import load_run
    from lsf_jax.analysis.plots import plot_curves
    from lsf_jax.analysis.summary import results_table
    from lsf_jax.runs.safe_files import write_output

    loaded = [load_run(member.path) for member in runs]
    table = results_table(loaded)
    target, picture = folder / f"summary-{name}.md", folder / f"curves-{name}.png"
    write_output(target, f"{table}\n".encode())
    plot_curves(loaded, path=picture)
    print(f"\n{table}\n\nwrote {target}, {picture}")


def _add_suite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("suite", help="a name from `lsf-jax list suite`, or a YAML file of your own")
    _add_shared(parser)


def _add_table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=positive, default=64, help="seeds of each algorithm (default 64)")
    parser.add_argument("--game", action="append", default=[], help="a game, or all (default matrix_game); repeatable")
    parser.add_argument(
        "--with",
        action="append",
        default=[],
        dest="earlier",
        metavar="FILE",
        help="a table-GAME.json from elsewhere: its rows join in, for algorithms that are not run; repeatable",
    )
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add_cluster(parser)
    parser.add_argument(
        "--algo", action="append", default=[], help="only this algorithm, of the suite or a plug-in's; repeatable"
    )
    parser.add_argument("--folder", default="", help="folder of the runs (default runs/NAME)")
    add_config_dirs(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings for every algorithm")


COMMANDS = (
    Command(
        "suite",
        "train several algorithms through one protocol; summary and curves at the end",
        _add_suite,
        _run_suite,
        SUITE,
    ),
    Command(
        "matrix-table",
        "Table I with statistics: what every algorithm ends with in small games",
        _add_table,
        _matrix_table,
        TABLE,
    ),
)
