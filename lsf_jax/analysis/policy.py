"""One trained policy: acting step by step in anybody's loop, playing episodes, and what its networks make of them.

    policy = lsf_jax.load_policies("runs/NAME").row(0)
    carry = policy.start()
    carry, action = policy.act(obs, avail, carry, key)

`Policy` is what users hold; below it are the functions that all rows of a run share.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import Config
from lsf_jax.engine.distributions import masked_log_softmax
from lsf_jax.engine.packing import as_trajectory
from lsf_jax.engine.rollouts import play
from lsf_jax.programs.parts import Program
from lsf_jax.settings import ConfigError
from lsf_jax.types import (
    AgentState,
    Algorithm,
    Carry,
    Clock,
    Episode,
    Hyper,
    Insight,
    Observation,
    Params,
    PRNGKey,
    Trajectory,
)

Arrays = Array | np.ndarray
"""What users hand in and get back; checked by hand, for messages that name the environment."""
Result = TypeVar("Result")


class PolicyPrograms(NamedTuple):
    """What a policy does, jitted functions of one row's parameters by group: every row of a run shares them."""

    act: dict[bool, Callable[..., tuple[Carry, Array]]]  # by whether it samples
    scores: Callable[[Params, Carry, Observation, PRNGKey], Array]
    play: dict[bool, Callable[[Params, Hyper, PRNGKey], Episode]]
    look: Callable[[Params, Any, PRNGKey], Insight]


class Policy(NamedTuple):
    """The policy of one row of a run. Its functions take NumPy or JAX arrays and work under `jit`, `vmap` and `scan`.

    They are of one moment of one game, all agents together; for many games at once map them: `jax.vmap(policy.act)`.
    Where agents communicate (NDQ; LSF-SAC with `algo.communicate`) each call is one round of messages between them,
    drawn from the key and, of NDQ, cut as `algo.cut` says: so an action depends on what all agents see.
    """

    config: Config  # of the run
    program: Program  # its parts: `program.env`, `program.algorithm`
    params: dict[str, Params]  # by parameter group
    hyper: Hyper
    row: int
    seed: int
    stochastic: bool  # samples; otherwise acts greedily
    jitted: PolicyPrograms

    def start(self) -> Carry:
        """What agents remember before an episode's first step."""
        return self.program.algorithm.start()

    def act(
        self,
        obs: Arrays,
        avail: Arrays | None,
        carry: Carry,
        key: Array,
    ) -> tuple[Carry, Arrays]:
        """Choose an action for every agent.

        Args:
          obs: `[N, O]`, what every agent sees, as the environment of training gives it.
          avail: `[N, A]`, which actions each may take; None: all.
          carry: from `start`, or from the last call in the same episode.
          key: a typed key (`jax.random.key`), used once; a greedy policy that draws nothing ignores it.

        Returns:
          What agents remember, and their actions `[N]`: NumPy where `obs` is NumPy.

        Raises:
          ValueError: a shape or the key is not what it should be.
        """
        observation = self._seen(obs, avail, key)
        carry, action = self.jitted.act[self.stochastic](self.params, self.hyper, carry, observation, key)
        return carry, _like(obs, action)

    def q(self, obs: Arrays, avail: Arrays | None, carry: Carry, key: Array) -> Arrays:
        """The utilities `[N, A]` whose best available action `act` takes, for algorithms that act on values.

        Args: as of `act`; messages are those of `act` with the same key.

        Raises:
          ValueError: as `act`; or the algorithm acts by a policy: see `log_pi`, and `look` for what its critic thinks.
        """
        if not self._acts_on_values():
            raise ValueError(
                f"{self.config.algo_name} acts by a policy and has no q of one moment alone; "
                "use policy.log_pi(...), or policy.look(episode).q, what its critic makes of an episode"
            )
        return _like(obs, self._scores(obs, avail, carry, key))

    def log_pi(self, obs: Arrays, avail: Arrays | None, carry: Carry, key: Array) -> Arrays:
        """Log π `[N, A]` of every agent, without exploration, for algorithms that act by a policy; 0 where unavailable.

        Args: as of `act`; messages are those of `act` with the same key.

        Raises:
          ValueError: as `act`; or the algorithm acts on values: see `q`.
        """
        if self._acts_on_values():
            raise ValueError(f"{self.config.algo_name} acts on values and has no policy; use policy.q(...)")
        scores = self._scores(obs, avail, carry, key)
        return _like(obs, masked_log_softmax(scores, self._seen(obs, avail, key).avail))

    def play(self, key: PRNGKey) -> Episode:
        """Play one episode of the run's environment: NumPy arrays, `world` holds a snapshot of each of T+1 moments.

        Raises:
          ConfigError: the environment is played on the host.
        """
        if self.program.hosted is not None:
            raise ConfigError(
                f"env {self.config.env_name} is played on the host, which records its own games; "
                "use `lsf-jax evaluate RUN --replays FOLDER`"
            )
        return _in_numpy(self.jitted.play[self.stochastic](self.params, self.hyper, key))

    def look(self, played: Episode | Trajectory, key: PRNGKey | None = None) -> Insight:
        """What all networks make of played episodes, messages and mixers included, in NumPy.

        A run keeps no target networks with its policies: in `record`, fields of target networks are what the networks
        themselves give, as right after a target copy.

        Args:
          played: an episode, for example of `play` or `record_episode`, or a trajectory; or several, `[B, ...]`.
          key: for what networks draw: messages, and next actions. None: `jax.random.key(0)`.

        Returns:
          Arrays `[T, ...]`, or `[B, T, ...]`; `record` holds those of `Algorithm.forward`.

        Raises:
          ValueError: the algorithm, somebody else's, offers no `forward`.
        """
        if self.program.algorithm.forward is None:
            raise ValueError(f"{self.config.algo_name} offers no `Algorithm.forward`: there is nothing to look into")
        return _in_numpy(self.jitted.look(self.params, played, jax.random.key(0) if key is None else key))

    def __repr__(self) -> str:
        how = "sampled" if self.stochastic and not self._acts_on_values() else "greedy"
        return f"Policy({self.config.algo_name} on {self.config.where}: row {self.row}, seed {self.seed}, {how})"

    def _acts_on_values(self) -> bool:
        return ALGORITHMS[self.config.algo_name].acts == "values"

    def _scores(self, obs: Arrays, avail: Arrays | None, carry: Carry, key: Array) -> Array:
        if self.program.algorithm.scores is None:
            raise ValueError(f"{self.config.algo_name} offers no `Algorithm.scores`: only its actions are known")
        return self.jitted.scores(self.params, carry, self._seen(obs, avail, key), key)

    def _seen(self, obs: Arrays, avail: Arrays | None, key: Array) -> Observation:
        """The observation as acting takes it: no policy here reads the state, which nobody has in execution."""
        spec = self.program.env.spec
        avail = np.ones((spec.n_agents, spec.n_actions), bool) if avail is None else avail
        sizes = {"obs": (obs, spec.obs_dim, "observations"), "avail": (avail, spec.n_actions, "available actions")}
        for name, (given, size, what) in sizes.items():
            if np.shape(given) != (spec.n_agents, size):
                raise ValueError(
                    f"{name} has shape {list(np.shape(given))}; expected {[spec.n_agents, size]}, the {what} of all "
                    f"agents of {self.config.where}; for several games at once use jax.vmap"
                )
        is_typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if not is_typed or key.shape:
            raise ValueError("key is no typed random key; give one, for example jax.random.key(0)")
        state = jnp.zeros((spec.state_dim,))
        return Observation(obs=jnp.asarray(obs, jnp.float32), state=state, avail=jnp.asarray(avail, bool))


def jit_policy(program: Program) -> PolicyPrograms:
    """The functions of a policy; each compiles at its first call."""
    algorithm, env = program.algorithm, program.env
    clock = Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0))
    choices = {False: algorithm.act_greedy, True: algorithm.act_sampled}
    acts = {sampled: partial(_act, algorithm, choose, clock) for sampled, choose in choices.items()}

    def record(act: Callable[..., tuple[Carry, Array]], params: Params, hyper: Hyper, key: PRNGKey) -> Episode:
        played = play(env, partial(act, params, hyper), algorithm.start(), key[None])
        return jax.tree.map(lambda leaf: leaf[0], played)

    def scores(params: Params, carry: Carry, observation: Observation, key: PRNGKey) -> Array:
        if algorithm.scores is None:
            raise ValueError(f"{algorithm.name} offers no `Algorithm.scores`.")
        return algorithm.scores(_policy_params(algorithm, params), carry, observation, key)

    def look(params: Params, played: Episode | Trajectory, key: PRNGKey) -> Insight:
        if played.reward.ndim == 1:
            return _look(program, params, played, key)
        keys = jax.random.split(key, played.reward.shape[0])
        return jax.vmap(partial(_look, program, params))(played, keys)

    return PolicyPrograms(
        act={sampled: jax.jit(act) for sampled, act in acts.items()},
        scores=jax.jit(scores),
        play={sampled: jax.jit(partial(record, act)) for sampled, act in acts.items()},
        look=jax.jit(look),
    )


def _act(
    algorithm: Algorithm,
    choose: Callable[..., tuple[Carry, Array]],
    clock: Clock,
    params: Params,
    hyper: Hyper,
    carry: Carry,
    observation: Observation,
    key: PRNGKey,
) -> tuple[Carry, Array]:
    return choose(_policy_params(algorithm, params), carry, observation, key, clock, hyper)


def _look(program: Program, params: Params, played: Episode | Trajectory, key: PRNGKey) -> Insight:
    algorithm = program.algorithm
    if algorithm.forward is None:
        raise ValueError(f"{algorithm.name} offers no `Algorithm.forward`.")
    trajectory = as_trajectory(program.env, played) if isinstance(played, Episode) else played
    agent = agent_of(algorithm, params)
    keys = jax.random.split(key, trajectory.layout.first.shape[0])
    record = algorithm.forward(agent.params, agent.targets, trajectory, keys)
    return Insight(record=record) if algorithm.insight is None else algorithm.insight(agent, trajectory, record)


def _policy_params(algorithm: Algorithm, params: Params) -> Params:
    return algorithm.policy_params(agent_of(algorithm, params))


def agent_of(algorithm: Algorithm, params: Params) -> AgentState:
    """A state with these parameters, its targets just copied and nothing of an optimiser."""
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    return AgentState(params=params, targets={group: params[group] for group in shapes.targets}, opt_state={})


def _in_numpy(tree: Result) -> Result:
    return jax.tree.map(np.asarray, tree)


def _like(given: Arrays, found: Array) -> Arrays:
    """What was found as the kind of array that was given."""
    return found if isinstance(given, jax.Array) else np.asarray(found)
