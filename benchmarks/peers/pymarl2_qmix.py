"""pymarl2's QMIX update for a comparison, run from a checkout of pymarl2 with PyTorch on the CPU."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from worker import claim_output, serve

EPISODES, STEPS, AGENTS, ACTIONS, OBSERVATION, STATE = 32, 200, 8, 6, 75, 300
NEVER = 2**31


def open_checkout(checkout: Path) -> None:
    """Their packages on the path, without the games that one of them imports and no update needs."""
    sys.path.insert(0, str(checkout / "src"))
    games = ModuleType("envs")
    games.__path__ = [str(checkout / "src" / "envs")]
    sys.modules["envs"] = games
    plots = ModuleType("matplotlib.pyplot")
    plots.xcorr = None  # imported, never used
    sys.modules |= {"matplotlib": ModuleType("matplotlib"), "matplotlib.pyplot": plots}


def load_settings(checkout: Path) -> SimpleNamespace:
    """Their defaults under their QMIX of predator-prey, at our sizes."""
    import yaml

    settings: dict[str, Any] = {}
    for name in ("default.yaml", "algs/qmix_predator_prey.yaml"):
        settings |= yaml.safe_load((checkout / "src" / "config" / name).read_text(encoding="utf-8"))
    sizes = {"n_agents": AGENTS, "n_actions": ACTIONS, "state_shape": STATE, "obs_shape": OBSERVATION}
    quiet = {"use_cuda": False, "learner_log_interval": NEVER, "target_update_interval": NEVER}
    return SimpleNamespace(**settings | sizes | quiet | {"batch_size": EPISODES})


def make_batch() -> tuple[Any, dict[str, Any], dict[str, int]]:
    """Full episodes of noise, in their format, as their replay would return them."""
    import torch
    from components.episode_buffer import EpisodeBatch
    from components.transforms import OneHot

    scheme = {
        "state": {"vshape": STATE},
        "obs": {"vshape": OBSERVATION, "group": "agents"},
        "actions": {"vshape": (1,), "group": "agents", "dtype": torch.long},
        "avail_actions": {"vshape": (ACTIONS,), "group": "agents", "dtype": torch.int},
        "reward": {"vshape": (1,)},
        "terminated": {"vshape": (1,), "dtype": torch.uint8},
    }
    groups, rows = {"agents": AGENTS}, STEPS + 1
    onehot = {"actions": ("actions_onehot", [OneHot(out_dim=ACTIONS)])}
    batch = EpisodeBatch(scheme, groups, EPISODES, rows, preprocess=onehot)
    filled = {
        "state": torch.rand(EPISODES, rows, STATE).numpy(),
        "obs": torch.rand(EPISODES, rows, AGENTS, OBSERVATION).numpy(),
        "actions": torch.randint(ACTIONS, (EPISODES, rows, AGENTS, 1)).numpy(),
        "avail_actions": torch.ones(EPISODES, rows, AGENTS, ACTIONS).numpy(),
        "reward": torch.rand(EPISODES, rows, 1).numpy(),
    }
    batch.update(filled)
    return batch, batch.scheme, groups


def update_program(checkout: Path) -> tuple[dict[str, Any], Callable[[], dict[str, Any]]]:
    """Their `NQLearner.train` on a batch that was drawn beforehand; sampling and target copies are not in it."""
    open_checkout(checkout)
    import torch
    from controllers.n_controller import NMAC
    from learners.nq_learner import NQLearner

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    batch, scheme, groups = make_batch()
    settings = load_settings(checkout)
    logger = SimpleNamespace(console_logger=logging.getLogger(__name__), log_stat=lambda *_: None)
    learner = NQLearner(NMAC(scheme, groups, settings), scheme, logger, settings)

    def run() -> dict[str, Any]:
        learner.train(batch, t_env=0, episode_num=0)
        return {}

    return {}, run


def main() -> None:
    """Build and serve."""
    channel = claim_output()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    serve(channel, *update_program(parser.parse_args().checkout))


if __name__ == "__main__":
    main()
