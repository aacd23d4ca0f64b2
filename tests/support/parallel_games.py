"""Tiny games with PettingZoo's parallel interface or Gymnasium's, which say in what they show what they were sent.

Workers load this file by its path, under any interpreter, so it needs nothing of ours and none of those packages.
"""

import os
import time
from pathlib import Path

import numpy as np

EPISODE, STEP, AGENT = 0, 1, 2
"""Where an observation says which episode of the game this is, which step, and who sees it."""


class Discrete:
    def __init__(self, n, start=0):
        self.n, self.start = n, start


class Box:
    def __init__(self, *shape):
        self.shape = shape


class Composed:
    """A dictionary or a tuple of spaces, or several numbers (`nvec`)."""

    def __init__(self, spaces):
        self.spaces = spaces


class Numbers:
    def __init__(self, *nvec):
        self.nvec = np.array(nvec)


class Zoo:
    """Three agents in PettingZoo's manner. "a" ends after step 2; the others are cut at step 4, or end by agreeing.

    "b" sees one number more and is told a mask with its observation: action 1 in even steps only. The actions of "c"
    are 1, 2 and 3. Rewards are 1 for "a", 10 for "b", 100 for "c".
    """

    state_space = Box(1, 2)
    actions = {"a": Discrete(3), "b": Discrete(2), "c": Discrete(3, start=1)}  # noqa: RUF012
    rewards = {"a": 1.0, "b": 10.0, "c": 100.0}  # noqa: RUF012

    def __init__(self, max_cycles=4, leaves=2, faults=None, marker=""):
        self.possible_agents, self.agents = ["a", "b", "c"], []
        self.max_cycles, self.leaves, self.faults, self.marker = max_cycles, leaves, faults or {}, marker
        self.episode, self.time, self.seeds, self.sent, self.is_broken = -1, 0, [], [], False

    def observation_space(self, agent):
        plain = Box(4) if agent == "b" else Box(3)
        return Composed({"action_mask": Box(2), "observation": plain}) if agent == "b" else plain

    def action_space(self, agent):
        return self.actions[agent]

    def reset(self, seed=None, options=None):
        self.seeds.append(seed)
        if seed is not None:
            self.is_broken = seed < self.faults.get("until_seed", 0)
        self.episode, self.time, self.agents = self.episode + 1, 0, list(self.possible_agents)
        self.misbehave("reset")
        return self.look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.sent.append(actions)
        self.time += 1
        self.misbehave("step")
        before = list(self.agents)
        agreed = self.time == 3 and actions.get("b") == 0 and actions.get("c") == 1
        ended = {agent: agreed or (agent == "a" and self.time == self.leaves) for agent in before}
        cut = {agent: self.time == self.max_cycles for agent in before}
        seen, rewards = self.look(), {agent: self.rewards[agent] for agent in before}
        infos = {agent: {"time": self.time, "own": self.rewards[agent]} for agent in before}
        self.agents = [agent for agent in before if not (ended[agent] or cut[agent])]
        return seen, rewards, ended, cut, infos

    def state(self):
        return np.array([[self.episode, self.time]])

    def look(self):
        rows = {agent: [self.episode, self.time, "abc".index(agent)] for agent in self.agents}
        if "b" in rows:
            rows["b"] = {"observation": [*rows["b"], 7.0], "action_mask": np.array([1, self.time % 2 == 0], np.int8)}
        return rows

    def misbehave(self, where):
        fault = self.faults.get(where, {})
        if not self.is_broken or fault.get("episode", self.episode) != self.episode:
            return
        what = fault.get("what") if fault.get("step", self.time) == self.time else None
        if what == "raise":
            raise ValueError("first line\nTraceback (most recent call last):\n  deep inside\nKeyError: the cause")
        if what == "exit":
            os._exit(3)
        if what == "hang":
            time.sleep(3600)


class Lists:
    """Two agents in Gymnasium's manner with lists; the second one ends after step 1, if it is told to."""

    action_space = (Discrete(2), Discrete(3))
    observation_space = (Box(2), Discrete(4))

    def __init__(self, steps=3, reward="list", ends="scalar", masks=False):
        self.steps, self.reward, self.ends, self.masks = steps, reward, ends, masks
        self.time, self.episode_limit, self.sent = 0, 10, []

    def reset(self, *, seed=None):
        self.time = 0
        return self.look(), self.info()

    def step(self, actions):
        self.sent.append(actions)
        self.time += 1
        over = self.time == self.steps
        terminated = over if self.ends == "scalar" else [over, True]
        rewards = {"list": [1.0, 3.0], "array": np.array([1.0, 3.0]), "number": 5.0}[self.reward]
        return self.look(), rewards, terminated, False, self.info()

    def look(self):
        return np.array([self.time, 0.5]), self.time % 4

    def info(self):
        return {"won": self.time == 2, "each": [0.0, 1.0]} | (
            {"action_mask": [[1, 0], [0, 1, 1]]} if self.masks else {}
        )


class Keyed:
    """Two agents in Gymnasium's manner with dictionaries; "y" leaves by not being mentioned any more."""

    action_space = Composed({"x": Discrete(2), "y": Discrete(2)})
    observation_space = Composed({"x": Composed((Discrete(3), Box(2, 1))), "y": Numbers(2, 3)})
    max_episode_steps = 5

    def __init__(self):
        self.time, self.sent = 0, []

    def reset(self):
        self.time = 0
        return self.look()

    def step(self, actions):
        self.sent.append(actions)
        self.time += 1
        over = self.time == 3
        return self.look(), {"x": 1.0, "y": 2.0}, {"__all__": over}, {"x": False, "y": False, "__all__": False}, {}

    def look(self):
        seen = {"x": (self.time % 3, [[0.25], [0.75]]), "y": [self.time % 2, 2]}
        return seen if self.time < 2 else {"x": seen["x"]}

    def get_avail_actions(self):
        return {"x": [True, False], "y": [False, True]}


class Many:
    """Agents in one array, all of them cut at once; no limit is told."""

    action_space = Numbers(2, 2)
    observation_space = Box(2, 3)

    def reset(self, **options):
        self.options = options
        return np.zeros((2, 3)), {}

    def step(self, actions):
        return np.ones((2, 3)), 1.0, False, True, {}


def zoo(**arguments):
    """Makes a `Zoo`; the file named `marker` then shows that code of this file has run."""
    if arguments.get("marker"):
        Path(arguments["marker"]).write_text("ran")
    return Zoo(**arguments)


class Maker:
    """Makes games that it was told how to make."""

    def __init__(self, max_cycles):
        self.max_cycles = max_cycles

    def make(self):
        return Zoo(max_cycles=self.max_cycles)


def whole_team(rewards):
    return 2.0 * sum(rewards.values())


def counted(game, observations):
    return [game.time, len(observations), sum(len(row) for row in observations.values())]
