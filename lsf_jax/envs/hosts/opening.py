"""From games on this machine to the same games on the nodes of a cluster, and what is looked at before they start."""

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial

from lsf_jax.envs.host import Hosted, HostEnv, HostError
from lsf_jax.envs.hosts.games import RemoteGames
from lsf_jax.envs.hosts.node import Report, code_version
from lsf_jax.envs.hosts.places import Connect, Nodes, Offer, Shape, enough_offers, last_line
from lsf_jax.envs.hosts.ray_cluster import ray_nodes
from lsf_jax.envs.workers.config import WorkersConfig
from lsf_jax.settings import clip
from lsf_jax.types import EnvSpec

PATIENCE = 50.0  # seconds that all nodes together get to join and to say what they have


def spread(
    hosted: Hosted, cfg: WorkersConfig, spec_of: Callable[[], EnvSpec], describe: Callable[[], Hosted]
) -> Hosted:
    """Games as they are, or on the nodes of the cluster that `cfg.hosts` names.

    Args:
      hosted: the games on one machine.
      cfg: their settings.
      spec_of: their sizes.
      describe: `hosted` on a node, whose machine it looks at.
    """
    if not cfg.hosts:
        return hosted
    connect: Connect = partial(ray_nodes, cfg.hosts, describe)

    def open_games(n_workers: int, seed: int) -> HostEnv:
        return RemoteGames(connect, Shape(spec_of(), hosted.info), cfg, n_workers, seed)

    return hosted._replace(
        check=partial(check_nodes, connect, cfg.hosts), open=open_games, room=partial(check_room, connect, cfg.hosts)
    )


def check_nodes(connect: Connect, hosts: str) -> None:
    """Ask all nodes with slots whether they can play, and whether it is the same game everywhere; launches none.

    Args:
      connect: to the nodes.
      hosts: what they were named as, for errors.

    Raises:
      HostError: a node cannot play, two would play different games, or no node offers slots; one line.
      ConfigError: there is no such cluster.
    """
    end = time.monotonic() + PATIENCE
    with connect() as nodes:
        reports = _ask_all(nodes, enough_offers(nodes, 0, hosts), end)
    problem = _problem(reports) or _difference(reports)
    if problem:
        raise HostError(f"env.hosts={clip(hosts)}: {problem}")


def check_room(connect: Connect, hosts: str, n_workers: int) -> None:
    """Look whether the nodes have free slots for so many games; takes none.

    Args:
      connect: to the nodes.
      hosts: what they were named as, for errors.
      n_workers: games side by side.

    Raises:
      HostError: they do not; one line.
      ConfigError: there is no such cluster.
    """
    with connect() as nodes:
        enough_offers(nodes, n_workers, hosts)


def _ask_all(nodes: Nodes, offers: list[Offer], end: float) -> dict[str, Report]:
    doors = [nodes.open(offer.node, 0) for offer in offers]
    try:
        answers = [door.call("inspect") for door in doors]
        wait(answers, max(1.0, end - time.monotonic()))
        return {offer.label: _report(answer) for offer, answer in zip(offers, answers)}
    finally:
        for door in doors:
            door.shut()


def _report(answer: Future) -> Report:
    if not answer.done():
        return Report({}, f"no answer within {PATIENCE:g} s")
    error = answer.exception()
    return answer.result() if error is None else Report({}, last_line(error))


def _problem(reports: dict[str, Report]) -> str:
    return "; ".join(f"{label}: {report.problem}" for label, report in reports.items() if report.problem)


def _difference(reports: dict[str, Report]) -> str:
    """What is not the same everywhere, here included, in one line; "" if nothing."""
    found = {label: report.versions for label, report in reports.items()} | {"here": {"lsf-jax": code_version()}}
    differing = []
    for name in dict.fromkeys(name for versions in found.values() for name in versions):
        places = {}
        for label, versions in found.items():
            if name in versions or label != "here":
                places.setdefault(versions.get(name, "missing"), []).append(label)
        if len(places) > 1:
            listed = ", ".join(f"{version} ({', '.join(labels)})" for version, labels in places.items())
            differing.append(f"{name} is {listed}")
    return f"the games would differ: {'; '.join(differing)}; make it the same everywhere" if differing else ""
