"""The worker's side of a game with PettingZoo's parallel interface, or with Gymnasium's and several agents.

A script for `envs.workers.worker`, which loads it by its path: it runs under Python 3.8 and imports nothing of ours.

Agents are named by `possible_agents` (PettingZoo), by the keys of `action_space` where that is a dictionary, else by
their numbers. What the game says of them may be a dictionary by agent, a sequence in their order or one value for all.
"""

from __future__ import annotations

import inspect
from importlib import metadata
from typing import Any, Callable, Sequence  # noqa: UP035  (Python 3.8)

import numpy as np

LIMITS = ("max_cycles", "max_steps", "episode_limit", "max_episode_steps", "_max_episode_steps")
"""Attributes by which games tell after how many steps they end, in the order in which they are asked for."""
MOST_ACTIONS = 256
MASK = "action_mask"


class GameFault(Exception):
    """The game cannot be played like this ("refused"), or did something that voids the episode ("crashes")."""

    def __init__(self, fault: str, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def open_game(code: dict[str, Callable[..., Any]], settings: dict[str, Any]) -> Game:
    """The game, made; its first episode has not begun."""
    return Game(code["make"](**settings["arguments"]), code, settings)


class Game:
    """A game and where it stands: who still plays, what everybody saw last."""

    def __init__(self, env: Any, code: dict[str, Callable[..., Any]], settings: dict[str, Any]) -> None:
        self._env = env
        self.agents = agents_of(env)
        self._is_keyed = not isinstance(self.agents, range)
        self._spaces = {agent: space_of(env, "observation_space", agent) for agent in self.agents}
        actions = {agent: space_of(env, "action_space", agent) for agent in self.agents}
        self._n_actions = {agent: count_actions(agent, space) for agent, space in actions.items()}
        self._starts = {agent: int(getattr(space, "start", 0)) for agent, space in actions.items()}
        self._most_actions = max(self._n_actions.values())
        self._obs_dim = max(1, *(size_of(space) for space in self._spaces.values()))
        self._limit = settings["episode_limit"] or limit_of(env)
        self._limit_truncates = settings["limit_truncates"]
        self._team_reward = code.get("team_reward") or TEAM_REWARDS[settings["team_reward"]]
        self._state = code.get("state") or STATES[settings["state"]]
        self._names, self._known_names = settings["info"], set()
        self._seed = settings["seed"]
        self._time = 0
        self._playing: set[Any] = set()
        self._seen: dict[Any, np.ndarray] = {}
        self._masks: dict[Any, Any] = {}

    def describe(self) -> dict[str, Any]:
        """Sizes, for which an episode is begun, and the version of the package that the game is from."""
        self.begin()
        sizes = {"n_agents": len(self.agents), "n_actions": self._most_actions, "obs_dim": self._obs_dim}
        sizes.update(state_dim=len(self.look()[1]), episode_limit=self._limit)
        return {"spec": sizes, "version": version_of(self._env)}

    def problems(self, spec: dict[str, int]) -> list[str]:
        """Where its sizes differ from those that the trainer was built for; of the state, writing it will tell."""
        pairs = [("n_agents", len(self.agents)), ("n_actions", self._most_actions), ("obs_dim", self._obs_dim)]
        return [f"{key} is {found}, expected {spec[key]}" for key, found in pairs if found != spec[key]]

    def is_spent(self) -> bool:
        """Never: games of this kind run for as long as one likes."""
        return False

    def save_replay(self, folder: str) -> str:
        """Refuses: there is no common way to record such games."""
        raise GameFault("refused", f"games of this kind do not record themselves, so nothing is saved in {folder}")

    def begin(self) -> None:
        """Starts an episode; the seed is for the first one, from which the game's own randomness goes on."""
        start = reset(self._env, self._seed)
        self._seed, self._time = None, 0
        observations, infos = start if is_pair(start) else (start, {})
        self._playing = self._present(set(self.agents), observations)
        self._take(observations, infos, self._playing)

    def step(self, actions: Sequence[int]) -> tuple[float, bool, bool, dict[str, float]]:
        """One step: team reward, whether the episode is done, whether it was only cut, and what is reported of it."""
        chosen = {agent: self._starts[agent] + int(action) for agent, action in zip(self.agents, actions)}
        keyed = {agent: action for agent, action in chosen.items() if agent in self._playing}
        answer = self._env.step(keyed if self._is_keyed else list(chosen.values()))
        if len(answer) != 5:
            raise GameFault("refused", f"step() gives {len(answer)} values, expected 5: {STEP_VALUES}")
        observations, rewards, terminated, truncated, infos = answer
        self._time += 1
        before, is_at_limit = self._playing, self._time >= self._limit
        ended, cut = (self._flags(each) & before for each in (terminated, truncated))
        self._playing = self._present(before, observations) - ended - cut
        is_done = not self._playing or is_at_limit
        limit_cuts = is_at_limit and self._limit_truncates
        is_cut = bool(self._playing or cut - ended or limit_cuts)
        last = before if limit_cuts else (self._playing | cut) - ended  # a cut episode is bootstrapped: masks matter
        self._take(observations, infos, last if is_done else self._playing)
        reward = float(self._team_reward(rewards_by(rewards, self.agents)))
        return reward, is_done, is_done and is_cut, self._report(infos, is_done)

    def look(self) -> tuple[list[np.ndarray], np.ndarray, list[Any]]:
        """Observations, state and masks, padded to one size for all agents; those that have left see and do nothing."""
        obs = [self._padded(self._seen.get(agent)) for agent in self.agents]
        state = flat_numbers(self._state(self._env, self._vectors()))
        if not (np.isfinite(state).all() and all(np.isfinite(row).all() for row in obs)):
            raise GameFault("crashes", f"observations or state after {self._time} steps are not finite")
        return obs, state, [self._mask(agent) for agent in self.agents]

    def _present(self, before: set[Any], observations: Any) -> set[Any]:
        """The agents that are in the game now: those that it lists, else those that were and still see something."""
        if has_roster(self._env):
            return set(self._env.agents) & set(self.agents)
        return before & set(observations) if isinstance(observations, dict) else before

    def _flags(self, value: Any) -> set[Any]:
        """The agents for which one of `terminated` and `truncated` says yes."""
        if isinstance(value, dict) and value.get("__all__"):
            return set(self.agents)
        return {agent for agent, flag in by_agent(value, self.agents).items() if np.all(flag)}

    def _take(self, observations: Any, infos: Any, acting: set[Any]) -> None:
        """Keeps what everybody sees, and the masks of those that could act on it."""
        given = by_agent(observations, self.agents)
        self._seen = {agent: self._flat(agent, value) for agent, value in given.items() if value is not None}
        masks = masks_of(self._env, given, infos, self.agents)
        self._masks = {agent: masks.get(agent) for agent in acting & set(self._seen)}

    def _flat(self, agent: Any, value: Any) -> np.ndarray:
        row = np.concatenate([np.zeros(0, np.float32), *flatten(self._spaces[agent], value)])
        if len(row) != size_of(self._spaces[agent]):
            wanted = size_of(self._spaces[agent])
            raise GameFault("crashes", f"agent {agent} observes {len(row)} numbers, its space has {wanted}")
        return row

    def _vectors(self) -> dict[Any, np.ndarray]:
        nothing = {agent: np.zeros(size_of(space), np.float32) for agent, space in self._spaces.items()}
        return {agent: self._seen.get(agent, zeros) for agent, zeros in nothing.items()}

    def _padded(self, row: np.ndarray | None) -> np.ndarray:
        padded = np.zeros(self._obs_dim, np.float32)
        if row is not None:
            padded[: len(row)] = row
        return padded

    def _mask(self, agent: Any) -> list[bool]:
        """What an agent can do; one that cannot act has action 0, which only games get that want one for everybody."""
        own = self._n_actions[agent]
        padding = [False] * (self._most_actions - own)
        if agent not in self._masks:
            return [True] + [False] * (self._most_actions - 1)
        mask = self._masks[agent]
        if mask is None:
            return [True] * own + padding
        bits = [bool(bit) for bit in np.asarray(mask).reshape(-1)]
        if len(bits) not in (own, self._most_actions) or not any(bits[:own]):
            raise GameFault("crashes", f"agent {agent} with {own} actions has the {MASK} {[int(bit) for bit in bits]}")
        return bits[:own] + padding

    def _report(self, infos: Any, is_done: bool) -> dict[str, float]:
        found = numbers_in(infos, self._names, has_roster(self._env))
        self._known_names.update(found)
        unknown = [name for name in self._names if name not in self._known_names]
        if is_done and unknown:
            each = infos.values() if has_roster(self._env) else [infos]
            names = sorted({str(name) for info in each for name in info})
            told = ", ".join(names) or "nothing"
            raise GameFault("refused", f"env.info is {unknown[0]!r}; expected what the game tells: {told}")
        return {name: found.get(name, 0.0) for name in self._names}


STEP_VALUES = "observations, rewards, terminated, truncated, infos"


def has_roster(env: Any) -> bool:
    """Whether a game speaks PettingZoo's parallel interface: it names its agents, and who still plays."""
    return hasattr(env, "possible_agents")


def agents_of(env: Any) -> Sequence[Any]:
    """The names of all agents that can ever play, or `range(N)` where the game only numbers them."""
    if hasattr(env, "agent_iter"):
        raise GameFault("refused", "the game is for agents in turn (AEC); expected its parallel_env")
    if has_roster(env):
        return list(env.possible_agents)
    space: Any = getattr(env, "action_space", None)
    spaces = getattr(space, "spaces", space)
    if isinstance(spaces, dict):
        return list(spaces)
    if hasattr(space, "nvec") and np.ndim(space.nvec) == 1:
        return range(len(space.nvec))
    if isinstance(spaces, (list, tuple)) and len(spaces) > 0:
        return range(len(spaces))
    raise GameFault("refused", f"action_space is {space}; expected one for each agent, or PettingZoo's possible_agents")


def space_of(env: Any, name: str, agent: Any) -> Any:
    """What one agent observes, or the actions it chooses from."""
    space = getattr(env, name)
    if callable(space) and has_roster(env):
        return space(agent)
    if hasattr(space, "nvec"):
        return Numbered(int(space.nvec[agent]))
    spaces = getattr(space, "spaces", space)
    if isinstance(spaces, (dict, list, tuple)):
        return spaces[agent]
    if getattr(space, "shape", None):
        return Rows(space.shape[1:])  # one array for all agents
    raise GameFault("refused", f"{name} is {space}; expected one for each agent")


class Numbered:
    """One of n things: an agent's part of a space of several."""

    def __init__(self, n: int) -> None:
        self.n = n


class Rows:
    """An array: an agent's part of a larger one."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def count_actions(agent: Any, space: Any) -> int:
    """How many actions an agent has."""
    if not hasattr(space, "n") or np.ndim(space.n) or getattr(space, "shape", ()):
        raise GameFault("refused", f"agent {agent} acts in {space}; expected Discrete: actions must be numbered")
    if space.n > MOST_ACTIONS:
        raise GameFault("refused", f"agent {agent} has {space.n} actions; expected at most {MOST_ACTIONS}")
    return int(space.n)


def parts_of(space: Any) -> list[tuple[Any, Any]]:
    """The parts of a composed space with their keys; of a dictionary, the mask of actions is none."""
    spaces = space.spaces
    named = list(spaces.items()) if hasattr(spaces, "items") else list(enumerate(spaces))
    return [(key, part) for key, part in named if key != MASK]


def size_of(space: Any) -> int:
    """How many numbers `flatten` makes of one of its values."""
    if hasattr(space, "spaces"):
        return sum(size_of(part) for _, part in parts_of(space))
    if hasattr(space, "nvec"):
        return int(np.sum(space.nvec))
    if hasattr(space, "n") and not np.ndim(space.n) and not getattr(space, "shape", ()):
        return int(space.n)
    if getattr(space, "shape", None) is None:
        raise GameFault("refused", f"observations are in {space}; expected numbers, or composed of numbers")
    return int(np.prod(space.shape, dtype=int))


def flatten(space: Any, value: Any) -> list[np.ndarray]:
    """A value as rows of numbers: arrays row by row, one of n things as n zeros and a one, parts one after another."""
    if has_mask(value) and not hasattr(space, "spaces"):
        return flatten(space, value["observation"])  # the space is that of the observation alone
    if hasattr(space, "spaces"):
        return [row for key, part in parts_of(space) for row in flatten(part, value[key])]
    if hasattr(space, "nvec"):
        sizes = np.asarray(space.nvec).reshape(-1)
        return [one_hot(int(n), int(each)) for n, each in zip(sizes, np.asarray(value).reshape(-1))]
    if hasattr(space, "n") and not np.ndim(space.n) and not getattr(space, "shape", ()):
        return [one_hot(int(space.n), int(value) - int(getattr(space, "start", 0)))]
    return [np.asarray(value, np.float32).reshape(-1)]


def has_mask(value: Any) -> bool:
    """Whether a dictionary tells which actions are available."""
    return isinstance(value, dict) and MASK in value


def one_hot(n: int, index: int) -> np.ndarray:
    """`n` zeros, but a one at `index`."""
    row = np.zeros(n, np.float32)
    row[index] = 1.0
    return row


def by_agent(value: Any, agents: Sequence[Any]) -> dict[Any, Any]:
    """A value by agent: of a dictionary what it has, of a sequence in their order, else the same for all."""
    if isinstance(value, dict):
        return {agent: value[agent] for agent in agents if agent in value}
    if not isinstance(value, (list, tuple)) and np.ndim(value) == 0:
        return {agent: value for agent in agents}
    if len(value) != len(agents):
        raise GameFault("crashes", f"{len(value)} values of {len(agents)} agents")
    return dict(zip(agents, value))


def rewards_by(rewards: Any, agents: Sequence[Any]) -> Any:
    """Rewards by agent, 0 for those that get none; one number is the team's already."""
    if not isinstance(rewards, dict) and np.size(rewards) == 1 and len(agents) > 1:
        return float(np.asarray(rewards).reshape(()))
    given = by_agent(rewards, agents)
    return {agent: float(given.get(agent, 0.0)) for agent in agents}


def masks_of(env: Any, observations: dict[Any, Any], infos: Any, agents: Sequence[Any]) -> dict[Any, Any]:
    """Which actions are available: of the agents of which observations, infos or the game itself tell."""
    told = {agent: seen[MASK] for agent, seen in observations.items() if has_mask(seen)}
    if told:
        return told
    if has_mask(infos):
        return by_agent(infos[MASK], agents)
    if isinstance(infos, dict) and has_roster(env):
        return {agent: infos[agent][MASK] for agent in agents if MASK in infos.get(agent, {})}
    ask = getattr(getattr(env, "unwrapped", env), "get_avail_actions", None)
    return by_agent(ask(), agents) if callable(ask) else {}


def numbers_in(infos: Any, names: Sequence[str], is_by_agent: bool) -> dict[str, float]:
    """What infos tell by the given names, the mean where they tell it of several agents."""
    each = list(infos.values()) if is_by_agent else [infos]
    told = {name: [np.mean(info[name]) for info in each if name in info] for name in names}
    return {name: float(np.mean(values)) for name, values in told.items() if values}


def flat_numbers(value: Any) -> np.ndarray:
    """Whatever numbers there are, in one row."""
    return np.asarray(value, np.float32).reshape(-1)


def is_pair(start: Any) -> bool:
    """Whether `reset` gave infos too."""
    return isinstance(start, tuple) and len(start) == 2 and isinstance(start[1], dict)


def reset(env: Any, seed: int | None) -> Any:
    """`env.reset`, with a seed where there is one and the game takes it."""
    parameters = inspect.signature(env.reset).parameters.values()
    takes_seed = any(each.name == "seed" or each.kind is each.VAR_KEYWORD for each in parameters)
    return env.reset() if seed is None or not takes_seed else env.reset(seed=seed)


def limit_of(env: Any) -> int:
    """After how many steps the game itself ends an episode."""
    spec = getattr(env, "spec", None)
    places = [env, getattr(env, "unwrapped", env), getattr(env, "aec_env", env)]
    places += [getattr(places[-1], "unwrapped", places[-1])]
    told = [getattr(spec, "max_episode_steps", None)]
    told += [getattr(place, name, None) for name in LIMITS for place in places]
    limits = [int(limit) for limit in told if isinstance(limit, (int, np.integer)) and limit > 0]
    if not limits:
        raise GameFault("refused", "env.episode_limit is 0, and the game does not tell its own; expected a number")
    return limits[0]


def version_of(env: Any) -> str:
    """The package that a game is from, with its version; "" where it is from none."""
    package = type(getattr(env, "unwrapped", env)).__module__.split(".")[0]
    try:
        return f"{package} {metadata.version(package)}"
    except (metadata.PackageNotFoundError, ValueError):
        return ""


def _sum(rewards: Any) -> float:
    return sum(rewards.values()) if isinstance(rewards, dict) else rewards


def _mean(rewards: Any) -> float:
    return sum(rewards.values()) / len(rewards) if isinstance(rewards, dict) else rewards


def _first(rewards: Any) -> float:
    return next(iter(rewards.values())) if isinstance(rewards, dict) else rewards


def _of_game(env: Any, observations: dict[Any, np.ndarray]) -> Any:
    del observations
    state = env.state if hasattr(env, "state") else getattr(env, "unwrapped", env).state
    return state() if callable(state) else state


def _side_by_side(env: Any, observations: dict[Any, np.ndarray]) -> np.ndarray:
    del env
    return np.concatenate(list(observations.values()))


def _whichever(env: Any, observations: dict[Any, np.ndarray]) -> Any:
    """Of the game where it describes its states: attributes of that name may be anything."""
    return (_side_by_side if getattr(env, "state_space", None) is None else _of_game)(env, observations)


TEAM_REWARDS = {"sum": _sum, "mean": _mean, "first": _first}
STATES = {"auto": _whichever, "game": _of_game, "observations": _side_by_side}
