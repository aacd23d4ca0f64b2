"""How much of what SMAC games can do alone is left when they are played on nodes of a Ray cluster?"""

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smac_pool import DURATIONS, SCRIPTED, rate_alone, rate_of, rate_of_pool, set_script
from timing import report, spread, summarise

from lsf_jax.cluster.connect import import_ray
from lsf_jax.envs.hosts.ray_cluster import GAMES
from lsf_jax.envs.smac.config import SmacConfig
from lsf_jax.envs.smac.hosted import host_smac
from lsf_jax.envs.smac.maps import MAPS

QUESTION = (
    "remote_games.py: scripted games with SMAC's sizes on emulated nodes, random available actions; against alone"
)
STORE = 80 * 2**20  # bytes of Ray's shared memory for each node; nothing of ours goes there


@contextlib.contextmanager
def emulated(nodes: int, slots: int) -> Iterator[str]:
    """The address of a cluster whose nodes are processes of this machine: one for us, and some with slots."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # on a real node nobody competes with the games
    import_ray()
    from ray.cluster_utils import Cluster

    common = {"include_dashboard": False, "object_store_memory": STORE, "num_cpus": 1}
    cluster = Cluster(initialize_head=True, head_node_args=common)
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1, resources={GAMES: slots}, object_store_memory=STORE)
        yield cluster.address
    finally:
        cluster.shutdown()


def one_row(map_name: str, milliseconds: tuple[float, float], arguments: argparse.Namespace) -> dict[str, Any]:
    """All three rates in turn, several times, so that a machine's changes of speed meet all."""
    workers = arguments.nodes * arguments.slots
    set_script(map_name, milliseconds, workers)
    alone, pool, remote, share = [], [], [], []
    with emulated(arguments.nodes, arguments.slots) as address:
        cfg = SmacConfig(map_name=map_name, factory=f"{SCRIPTED}:ScriptedEnv", stagger=0.0, hosts=address)
        hosted = host_smac(cfg)
        games = hosted.open(workers, 0)
        games.start()
        try:
            for _ in range(arguments.repeats):
                alone.append(rate_alone(map_name, workers, arguments.seconds))
                pool.append(rate_of_pool(map_name, workers, arguments.seconds)[0])
                rate, busy = rate_of(games, arguments.seconds)
                remote.append(rate)
                share.append(100 * busy)
        finally:
            games.close()
    least, most = milliseconds
    return {
        "nodes": arguments.nodes,
        "games": workers,
        "map": map_name,
        "step ms": f"{least:g}" if least == most else f"{least:g} to {most:g}",
        "alone steps/s": summarise(alone).median,
        "pool steps/s": summarise(pool).median,
        "nodes steps/s": summarise(remote).median,
        **spread("% of alone", summarise([100 * r / a for r, a in zip(remote, alone)])),
        "% of a core": summarise(share).median,
    }


def main(arguments: argparse.Namespace) -> None:
    """Measure every duration on every map and report."""
    if arguments.quick:
        arguments.repeats, arguments.seconds, arguments.maps = 1, 0.3, arguments.maps[:1]
        arguments.nodes, arguments.slots = 1, 2
    durations = DURATIONS[:1] if arguments.quick else DURATIONS[: arguments.durations]
    rows = [one_row(name, duration, arguments) for name in arguments.maps for duration in durations]
    report(arguments, QUESTION, {"nodes against games alone": rows})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__ or "", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2, help="emulated nodes")
    parser.add_argument("--slots", type=int, default=4, help="games of each")
    parser.add_argument("--maps", nargs="+", default=["3m", "MMM2", "27m_vs_30m"], choices=list(MAPS), metavar="MAP")
    parser.add_argument("--durations", type=int, default=1, help="how many of the durations of smac_pool.py")
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of everything")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does the script run at all")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="also write everything as JSON")
    main(parser.parse_args())
