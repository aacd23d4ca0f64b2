"""One trained policy in NumPy alone: it acts from the files that lie beside this one, `spec.json` and the parameters.

    policy = Policy()
    carry = policy.start()
    carry, action = policy.act(obs, avail, carry)

`lsf-jax extract` copies this file, as `policy.py`, into the folder that it makes; it needs Python and NumPy, nothing
else. Numbers are float64 made of float32 parameters. Reading the files runs no code.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SPEC, PARAMETERS = "spec.json", "policy.safetensors"
LAYERS = tuple(f"current/Linear_{place}" for place in range(3))
"""Of the encoder of messages."""
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


class Carry(NamedTuple):
    """What agents remember between the steps of an episode."""

    hidden: np.ndarray  # [N, H]
    last_action: np.ndarray  # [N]; -1 before the first step


class Policy:
    """All agents of one game, acting greedily or, given a random generator, as the learned policy draws.

    Of agents that talk while they act every call is one round of messages, so an action depends on what all see.
    """

    def __init__(self, folder: str | Path | None = None, seed: int | None = None):
        """Read the policy.

        Args:
          folder: with the two files; None: where this file lies.
          seed: of the noise of messages, where no other is given; None: another each time.
        """
        self._random = np.random.default_rng(seed)
        place = Path(__file__).parent if folder is None else Path(folder)
        self._take(json.loads((place / SPEC).read_text(encoding="utf-8")), read_safetensors(place / PARAMETERS))

    @classmethod
    def of(cls, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Policy":
        """The policy that the contents of the two files make."""
        policy = cls.__new__(cls)
        policy._random = np.random.default_rng()
        policy._take(spec, arrays)
        return policy

    def _take(self, spec: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.spec = spec
        names: dict[str, str] = spec["network"]["parameters"]
        self._messages: dict[str, Any] | None = spec["network"].get("messages")
        if self._messages is not None:
            names = names | self._messages["parameters"]
        self._weights = {part: arrays[name].astype(np.float64) for part, name in names.items()}

    def start(self) -> Carry:
        """What agents remember before an episode's first step."""
        n_agents = self.spec["n_agents"]
        return Carry(np.zeros((n_agents, self.spec["network"]["hidden"])), np.full(n_agents, -1))

    def act(
        self,
        obs: np.ndarray,
        avail: np.ndarray | None,
        carry: Carry,
        random: np.random.Generator | None = None,
        noise: np.ndarray | None = None,
    ) -> tuple[Carry, np.ndarray]:
        """Choose an action for every agent.

        Args:
          obs: `[N, O]`, what every agent sees, as the environment of training gives it.
          avail: `[N, A]`, which actions each may take; None: all.
          carry: from `start`, or from the last call in the same episode.
          random: draw from the policy; None acts greedily. Policies that act on values are greedy either way.
          noise: `[N, S]`, of agents that talk, what is added to the S numbers that each sends, drawn from N(0, 1) if
            None; zeros send their means.

        Returns:
          What agents remember, and their actions `[N]`.

        Raises:
          ValueError: a shape is not what it should be.
        """
        hidden, scores = self._step(obs, carry, self._drawn(noise, random))
        allowed = self._allowed(avail)
        masked = np.where(allowed, scores, -np.inf)
        if random is not None and self.spec["acts"] == "policy":
            masked = masked + random.gumbel(size=masked.shape)
        action = masked.argmax(axis=-1)
        return Carry(hidden, action), action

    def scores(self, obs: np.ndarray, carry: Carry, noise: np.ndarray | None = None) -> np.ndarray:
        """What an action is chosen by, `[N, A]`: utilities of policies that act on values, else logits; as of `act`."""
        return self._step(obs, carry, self._drawn(noise))[1]

    def log_pi(
        self, obs: np.ndarray, avail: np.ndarray | None, carry: Carry, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """Log π `[N, A]` of policies that do not act on values, without exploration; 0 where unavailable; as of `act`.

        Raises:
          ValueError: as `act`; or it acts on values, and has no π.
        """
        if self.spec["acts"] != "policy":
            raise ValueError(f"{self.spec['algorithm']} acts on values and has no policy; use policy.scores(...)")
        allowed = self._allowed(avail)
        logits = np.where(allowed, self.scores(obs, carry, noise), -np.inf)
        logits = logits - logits.max(axis=-1, keepdims=True)
        return np.where(allowed, logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)), 0.0)

    def _drawn(self, noise: np.ndarray | None, random: np.random.Generator | None = None) -> np.ndarray | None:
        """The noise of a round of messages; None where there are none."""
        if self._messages is None:
            return None
        size = self._weights[f"{LAYERS[-1]}/bias"].size
        if noise is None:
            return (random or self._random).normal(size=(self.spec["n_agents"], size))
        return self._checked("noise", noise, size)

    def _received(self, inputs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """What each agent receives, its own message included: three linear layers with ReLU, noise, and the routing."""
        told: dict[str, Any] = self._messages or {}
        for layer in LAYERS[:-1]:
            inputs = np.maximum(self._linear(layer, inputs), 0)
        sent, n_agents = self._linear(LAYERS[-1], inputs) + told["noise"] * noise, len(inputs)
        if told["to"] == "all":
            return np.tile(sent.reshape(1, -1), (n_agents, 1))
        return sent.reshape(n_agents, n_agents, -1).swapaxes(0, 1).reshape(n_agents, -1)

    def _step(self, obs: np.ndarray, carry: Carry, noise: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Linear, ReLU, gated recurrent unit (or a second linear layer with ReLU), linear: hidden state, outputs."""
        seen = self._checked("obs", obs, self.spec["obs_dim"]).astype(np.float64)
        n_agents, n_actions = self.spec["n_agents"], self.spec["n_actions"]
        last = np.arange(n_actions) == np.asarray(carry.last_action)[:, None]
        inputs = np.concatenate([seen, last, np.eye(n_agents)], axis=-1)
        if noise is not None:
            inputs = np.concatenate([inputs, self._received(inputs, noise)], axis=-1)
        features = np.maximum(self._linear("input_layer", inputs), 0)
        hidden = np.asarray(carry.hidden, np.float64)
        if self.spec["network"]["recurrent"]:
            hidden = features = self._recur(hidden, features)
        else:
            features = np.maximum(self._linear("hidden_layer", features), 0)
        outputs = self._linear("output_layer", features)[:, :n_actions]
        bounds = self.spec["network"]["output_range"]
        return hidden, outputs if bounds is None else np.clip(outputs, *bounds)

    def _linear(self, layer: str, inputs: np.ndarray) -> np.ndarray:
        return inputs @ self._weights[f"{layer}/kernel"] + self._weights[f"{layer}/bias"]

    def _recur(self, hidden: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        """One step of a gated recurrent unit, PyTorch's equations: reset, update, candidate."""
        from_input = inputs @ self._weights["gru_input_kernel"] + self._weights["gru_input_bias"]
        from_hidden = hidden @ self._weights["gru_hidden_kernel"] + self._weights["gru_hidden_bias"]
        (reset_x, update_x, new_x), (reset_h, update_h, new_h) = (
            np.split(from_input, 3, -1),
            np.split(from_hidden, 3, -1),
        )
        reset, update = _sigmoid(reset_x + reset_h), _sigmoid(update_x + update_h)
        return (1 - update) * np.tanh(new_x + reset * new_h) + update * hidden

    def _allowed(self, avail: np.ndarray | None) -> np.ndarray:
        shape = (self.spec["n_agents"], self.spec["n_actions"])
        return np.ones(shape, bool) if avail is None else self._checked("avail", avail, shape[1]).astype(bool)

    def _checked(self, name: str, given: np.ndarray, size: int) -> np.ndarray:
        expected = (self.spec["n_agents"], size)
        if np.shape(given) != expected:
            raise ValueError(f"{name} has shape {list(np.shape(given))}; expected {list(expected)}, of all agents")
        return np.asarray(given)


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of a safetensors file by name, bit for bit.

    Args:
      path: the file.

    Raises:
      ValueError: an array is of a type that NumPy has not.
    """
    data = Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _TYPES:
            raise ValueError(f"{name} is of type {entry['dtype']}; expected one of {', '.join(_TYPES)}.")
        first, last = entry["data_offsets"]
        values = np.frombuffer(data[start + first : start + last], _TYPES[entry["dtype"]])
        found[name] = values.reshape(entry["shape"])
    return found


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))
