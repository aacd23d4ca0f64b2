"""SMAC without StarCraft II: the API, sizes, quirks and failures of oxwhirl's `StarCraft2Env`, by script.

Workers load this file through `SmacConfig.factory`, under any interpreter, so it needs the standard library only. The
script is JSON in the environment variable SCRIPTED_SMAC:

    base, workers       the pool's seed and size, from which a game knows its worker and generation
    faults              [{"what": ..., worker, generation, episode, step}]; a key left out matches everything
    rate                chance that an episode has one of `kinds`, at a place drawn from (worker, generation, episode)
    length, seconds     [least, most] of an episode's steps, of a step's duration
    game                start a child process and a folder as pysc2 does; "daemon": one in a session of its own
    numpy               give NumPy arrays, as SMAC does

`what`: crash, raise, nan, mask, exit, hang (in a step); stale, raise, exit, hang, health (in a reset: step -1);
raise, exit, hang (in the constructor: step -2).

An observation holds who and when: [worker, generation, episode, step, agent, 0, ...]; the reward is step + sum(actions)
/ 1000, so a lost, repeated or mixed-up message shows.
"""

import array
import importlib.util
import json
import os
import random
import subprocess
import tempfile
import time
from pathlib import Path

LAUNCH, RESET = -2, -1
AT_RESET = ("stale", "health")
MAPS_FILE = Path(__file__).resolve().parents[2] / "lsf_jax" / "envs" / "smac" / "maps.py"


def load_maps():
    spec = importlib.util.spec_from_file_location("maps_of_scripted", MAPS_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class ScriptedError(Exception):
    """Stands for any exception that pysc2 lets through."""


class ScriptedEnv:
    def __init__(self, map_name, seed, reward_death_value=10, reward_win=200, continuing_episode=False, **arguments):
        self.script = json.loads(os.environ.get("SCRIPTED_SMAC", "{}"))
        self.row = load_maps().MAPS[map_name]
        life, self.worker = divmod(seed - self.script.get("base", 0), self.script.get("workers", 1))
        self.generation, self.arguments = life, arguments
        self.continuing_episode = continuing_episode
        self.max_reward = self.row.enemies * reward_death_value + reward_win
        self.force_restarts = self._episode_count = self.steps = 0
        self.running = False
        self.replay_dir, self.game = "", None
        self.vector = list
        if self.script.get("numpy"):
            import numpy as np

            self.vector = lambda numbers: np.asarray(numbers, np.float32)
        elif self.script.get("arrays", True):
            self.vector = lambda numbers: array.array("f", numbers)
        self.misbehave(LAUNCH)

    def get_env_info(self):
        row = self.row
        sizes = {"state_shape": row.state, "obs_shape": row.obs + self.script.get("more_obs", 0)}
        return {**sizes, "n_actions": row.n_actions, "n_agents": row.agents, "episode_limit": row.episode_limit}

    def reset(self):
        if self.running:
            raise AssertionError("reset() in the middle of an episode")
        if self._episode_count == 0:  # as SMAC does, so that a second reset of a game that finished nothing shows
            self.launch()
            self.max_reward += self.row.enemy_health
        self.steps, self.running = 0, True
        chance = random.Random(f"{self.worker} {self.generation} {self._episode_count}")
        least, most = self.script.get("length", [3, 6])
        self.length = chance.randint(least, min(most, self.row.episode_limit))
        self.due = None
        if chance.random() < self.script.get("rate", 0.0):
            what = chance.choice(self.script["kinds"])
            self.due = (what, RESET if what in AT_RESET else chance.randrange(self.length))
        self.misbehave(RESET)
        return self.get_obs(), self.get_state()

    def step(self, actions):
        if not self.running:
            raise AssertionError("step() outside an episode")
        for agent, (action, mask) in enumerate(zip(actions, self.get_avail_actions())):
            assert mask[action] == 1, f"Agent {agent} cannot perform action {action}"
        least, most = self.script.get("seconds", [0.0, 0.0])
        if most:
            time.sleep(random.uniform(least, most))
        what = self.misbehave(self.steps)
        if what == "crash":
            self.force_restarts += 1
            return 0, True, {}
        self.steps += 1
        reward = self.steps + sum(actions) / 1000
        is_over = self.steps >= self.length
        info = {"battle_won": is_over and self.length % 2 == 0, "dead_allies": self.steps % 3, "dead_enemies": 1}
        if self.continuing_episode and is_over and self.length == self.row.episode_limit:
            info["episode_limit"] = True
        if is_over:
            self.running = False
            self._episode_count += 1
        return (float("nan") if what == "nan" else reward), is_over, info

    def get_obs(self):
        return [self.numbers(self.row.obs, agent) for agent in range(self.row.agents)]

    def get_state(self):
        return self.numbers(self.row.state, -1)

    def get_avail_actions(self):
        masks = [self.mask(agent) for agent in range(self.row.agents)]
        if self.mask_is_broken:
            masks[0] = [0] * self.row.n_actions
        return masks

    def mask(self, agent):
        if agent == 0 and self.steps > 2:  # dead
            return [1] + [0] * (self.row.n_actions - 1)
        return [int(action == 1 or (action > 1 and (agent + action + self.steps) % 3 == 0)) for action in self.actions]

    mask_is_broken = False

    @property
    def actions(self):
        return range(self.row.n_actions)

    def numbers(self, length, agent):
        head = [self.worker, self.generation, self._episode_count - (not self.running), self.steps, agent]
        return self.vector([float(each) for each in head] + [0.0] * (length - len(head)))

    def get_stats(self):
        return {"win_rate": 0 / self._episode_count, "restarts": self.force_restarts}

    def save_replay(self):
        folder = Path("no such place", self.replay_dir)
        (folder / "map_2024.SC2Replay").write_text(f"worker {self.worker}")

    def close(self):
        raise ScriptedError("the controller is gone")

    def launch(self):
        if self.script.get("game"):
            tempfile.mkdtemp(prefix="sc-")
            self.game = subprocess.Popen(["sleep", "600"], start_new_session=self.script["game"] == "daemon")

    def misbehave(self, place):
        """Does what the script says for this moment; returns what the caller must do."""
        what = self.planned(place)
        if what == "raise":
            raise ScriptedError(f"worker {self.worker} at {place}")
        if what == "exit":
            os._exit(7)
        if what == "hang":
            time.sleep(3600)
        if what == "stale":
            self.force_restarts += 1
        if what == "health":
            self.max_reward *= 2
        self.mask_is_broken = what == "mask"
        return what

    def planned(self, place):
        if place != LAUNCH and self.due and self.due[1] == place:
            return self.due[0]
        now = {"worker": self.worker, "generation": self.generation, "episode": self._episode_count, "step": place}
        for fault in self.script.get("faults", []):
            if fault.get("step", 0) == place and all(fault.get(key, value) == value for key, value in now.items()):
                return fault["what"]
        return None
