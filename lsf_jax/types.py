"""Central types: what flows through the package, and the bundles of pure functions that it flows through.

Axes legend, used in every docstring and annotation:

    K seeds · B episodes · T steps · N agents · A actions · O observation · S state · H hidden · D message

One axis order everywhere: `[seeds, episodes, time, agents, feature]`. Mathematics is written for one trajectory
(`[T, ...]`) and lifted with `vmap`. Records are NamedTuples of arrays, behaviour is a NamedTuple of functions; build
both with keywords, and never add two records (`+` concatenates tuples).
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt8

PRNGKey: TypeAlias = Key[Array, ""]
"""A typed threefry key (`jax.random.key`); each key is used once."""

Params: TypeAlias = PyTree
EnvState: TypeAlias = Any
"""Everything an environment needs for its next step; a pytree."""
Snapshot: TypeAlias = Any
"""The few bytes from which `Env.observe` recomputes all that anyone sees; a pytree of narrow dtypes."""
Carry: TypeAlias = Any
"""What an agent remembers between steps, for example hidden state `[N, H]` and last action `[N]`."""
Hyper: TypeAlias = Any
"""The numbers of an algorithm: a NamedTuple of float32 scalars, always traced; each algorithm file defines its own."""
Metrics: TypeAlias = dict[str, Array]
BufferState: TypeAlias = Any


class EnvSpec(NamedTuple):
    """Sizes of an environment: static, hashable, closed over, never traced."""

    n_agents: int
    n_actions: int
    obs_dim: int
    state_dim: int
    episode_limit: int


class Observation(NamedTuple):
    """What agents and critics see of one moment."""

    obs: Float[Array, "*lead agents obs"]
    state: Float[Array, "*lead state"]
    avail: Bool[Array, "*lead agents actions"]


class TimeStep(NamedTuple):
    """What one environment step returns."""

    observation: Observation  # of the state after the step; equals observe(snapshot(state))
    reward: Float[Array, ""]  # received after the action
    terminal: Bool[Array, ""]  # the game ended: do not bootstrap
    done: Bool[Array, ""]  # the episode ended, by the game or by the time limit; terminal implies done
    info: dict[str, Array]  # per-step quantities to be summed over the episode, e.g. {"captures": 1.0}


class Episode(NamedTuple):
    """One collected episode, padded to T = episode_limit; everything after the end is zero."""

    world: Any  # [T+1, ...]: env.snapshot of each state; host environments: the packed observation
    action: UInt8[Array, "*lead time agents"]
    reward: Float[Array, "*lead time"]
    terminal: Bool[Array, "*lead time"]
    valid: Bool[Array, "*lead time"]  # False after the end
    info: dict[str, Array]  # [T] each, zero after the end


class PackedRows(NamedTuple):
    """Episodes end to end in R rows; what belongs to no episode is zero.

    An episode of L steps takes L + 1 places: after its last step stands the world that it led to, where nothing is
    done.
    """

    world: Any  # [R, T+1, ...]
    action: UInt8[Array, "*lead time agents"]
    reward: Float[Array, "*lead time"]
    terminal: Bool[Array, "*lead time"]
    valid: Bool[Array, "*lead time"]
    first: Bool[Array, "*lead rows"]  # an episode begins here
    episode: Int[Array, "*lead rows"]  # which of the batch
    moment: Int[Array, "*lead rows"]  # steps since it began
    steps: Int[Array, ""] | None = None  # see `Layout`


Batch: TypeAlias = Any
"""What an update learns from: an `Episode` `[B, T, ...]`, `PackedRows` of several, or a dict of such by name."""


class Layout(NamedTuple):
    """How episodes lie in the rows of a trajectory: what a network with memory must know."""

    first: Bool[Array, "*lead rows"]  # an episode begins here
    steps: Int[Array, ""] | None = None  # rows in use, common to all that is computed side by side; None: all of them


class Trajectory(NamedTuple):
    """What learning sees: an episode whose world has been observed, or several, one after another.

    The row after an episode's last step is real and bootstraps; nothing is done there, so `valid` is False. Another
    episode may begin in the row after that.
    """

    observation: Observation  # [T+1, ...]
    action: Int[Array, "*lead time agents"]
    reward: Float[Array, "*lead time"]
    terminal: Bool[Array, "*lead time"]
    valid: Bool[Array, "*lead time"]
    layout: Layout


class Clock(NamedTuple):
    """The only thing a schedule may read. `env_steps` is per seed; the other two are common to all seeds."""

    env_steps: Int[Array, ""]  # valid environment steps collected so far; for an update: when its newest episodes began
    episodes: Int[Array, ""]  # episodes collected so far
    updates: Int[Array, ""]  # updates done so far


class AgentState(NamedTuple):
    """Learned state. Keys of the three dicts are parameter groups: "q" | "critic", "actor", "temperature".

    COMA and DOP, whose critics take a step for every time step, count them in `opt_state` too (`stepwise.SINCE_COPY`).
    """

    params: dict[str, PyTree]
    targets: dict[str, PyTree]
    opt_state: dict[str, PyTree]


class Kept(NamedTuple):
    """Parameters at the first iteration boundary at or past the budget: what a finished seed is measured by."""

    params: dict[str, PyTree]
    env_steps: Int[Array, ""]


class TrainState(NamedTuple):
    """The whole truth about a run: saving it is saving the run."""

    agent: AgentState
    kept: Kept
    hyper: Hyper
    buffer: BufferState
    clock: Clock
    iteration: Int[Array, ""]  # common to all seeds
    key: PRNGKey  # the seed's root key; iteration i uses fold_in(key, i)


class JointTable(NamedTuple):
    """What was learned about one observation, for every joint action of a small game; NaN where there is no such thing.

    Averaged over message noise, where there is any.
    """

    utilities: Float[Array, "agents actions"]  # qᵢ(aᵢ); NaN for algorithms that learn state values only
    q_total: Float[Array, "joint"]  # Q_tot of each joint action in C order of (a₁, ..., a_N); NaN without a joint value
    policy: Float[Array, "agents actions"]  # probabilities of πᵢ without exploration; one-hot where action is greedy
    joint_value: Float[Array, "joint"]  # what a joint action is taken to return: Q_tot, but QTRAN's Q_jt


class Insight(NamedTuple):
    """What an algorithm's networks make of played steps, by names that all algorithms share; None where there is none.

    Entries stand for the T steps at which something was done, padding included. `record` is the algorithm's own, whole.
    """

    q: Float[Array, "*lead time agents actions"] | None = None  # each agent's values of its actions; of twins the mean
    value: Float[Array, "*lead time agents"] | None = None  # each agent's value of its situation, where that is learned
    log_pi: Float[Array, "*lead time agents actions"] | None = None  # without exploration; 0 where unavailable
    messages: Float[Array, "*lead time agents sent"] | None = None  # what every agent sends, before noise
    total: Float[Array, "*lead time"] | None = None  # joint value of the actions taken; VDAC's and MAA2C's V_tot
    weights: Float[Array, "*lead time agents"] | None = None  # ∂total/∂(each agent's value), where a mixer makes total
    decoded: Float[Array, "*lead time agents actions"] | None = None  # logits of what a decoder reads in messages
    record: Any = None  # what `Algorithm.forward` gives


class Channel(NamedTuple):
    """How messages reach the networks that read them: what can be said to them in place of what agents say."""

    dim: int  # D, numbers of one message; an agent sends one message to all, or one to each
    noise: float  # standard deviation of what is sent around its mean; messages that say nothing are N(0, I)
    hear: Callable[["AgentState", Trajectory, Array], Insight]
    """`(agent, trajectory, sent [T+1, N, sent])`: q, total and decoded, and log_pi where actors listen, had agents sent
    that, noise included."""
    drawn: Callable[["PRNGKey"], Array] | None = None
    """From a key of `Algorithm.scores`, what it draws for messages, N(0, I) `[N, sent]`; None: acting says nothing."""


class EpisodeStats(NamedTuple):
    """Per-episode sums of an evaluation, `[E]` each."""

    episode_return: Float[Array, "*lead episodes"]  # undiscounted, unscaled
    length: Int[Array, "*lead episodes"]
    terminal: Bool[Array, "*lead episodes"]  # ended by the game, not by the time limit
    info: dict[str, Float[Array, "*lead episodes"]]  # each TimeStep.info entry summed over the episode
    first_action: Int[Array, "*lead episodes agents"]  # joint action of the first step


class Payoff(NamedTuple):
    """What the first joint action of a small game is worth: what a critic's joint values can be held against."""

    starts: tuple[int, ...]  # nodes that the game may start in: the snapshots of its first states
    table: Float[np.ndarray, "starts *actions"]  # one axis of A actions per agent


Colour: TypeAlias = Literal["ally", "enemy", "ally_shot", "enemy_shot", "ground", "wall", "grid", "fallen"]
"""What something is in a picture; which colour that has is the painter's matter (`lsf_jax.analysis.render`)."""


class Disc(NamedTuple):
    """A filled circle, for whoever has a place in the world."""

    x: float
    y: float
    radius: float
    colour: Colour
    label: str = ""  # in the middle
    label_size: float = 1.5  # height of the label's letters, in radii
    bar: float | None = None  # the filled share of a bar above it, for example of health; None: no bar


class Cross(NamedTuple):
    """Two crossed strokes, for whoever is out of the game."""

    x: float
    y: float
    radius: float  # half the side of the square that it fills
    colour: Colour


class Line(NamedTuple):
    """A straight stroke between two points."""

    start: tuple[float, float]  # x, y
    end: tuple[float, float]
    colour: Colour
    width: int = 2  # pixels


class Rectangle(NamedTuple):
    """A filled box, with an edge or without."""

    x: float  # of the upper left corner
    y: float
    width: float
    height: float
    colour: Colour
    edge: Colour | None = None


class Picture(NamedTuple):
    """One moment as people see it, in units of the world: x to the right, y downwards from the upper left corner."""

    width: float
    height: float
    scale: int  # pixels per unit
    shapes: tuple[Disc | Cross | Line | Rectangle, ...]  # later ones cover earlier ones
    caption: str = ""  # one line below


class Env(NamedTuple):
    """A JAX environment: pure functions, no auto-reset.

    `observe(snapshot(state))` equals, bit for bit, the observation that `reset` and `step` return.
    """

    spec: EnvSpec
    reset: Callable[[PRNGKey], tuple[EnvState, Observation]]
    step: Callable[[PRNGKey, EnvState, Array], tuple[EnvState, TimeStep]]
    snapshot: Callable[[EnvState], Snapshot]
    observe: Callable[[Snapshot], Observation]
    render: Callable[[Snapshot], str]  # ASCII picture of one state; host side, takes NumPy arrays
    success: Callable[["EpisodeStats"], Array]  # [E] bool: which episodes count as won
    max_return: float  # best undiscounted return that any joint policy can reach
    ends_early: bool = False  # most episodes end long before the limit: see `lsf_jax.engine.lengths`
    version: str = "1"  # another one whenever dynamics, observations or rewards change: results do not compare then
    payoff: Payoff | None = None  # of games so small that what is learned is compared with the truth
    draw: Callable[[Snapshot, int, dict[str, float]], Picture] | None = None
    """A moment (NumPy), its step, and the sums so far of every `info` and of "return"; None: `render` is shown."""
    notes: tuple[tuple[str, str], ...] = ()  # what an adapter made of somebody else's game, for the card: (what, how)


class Algorithm(NamedTuple):
    """A learning algorithm: acting, updating and looking inside, as pure functions of one seed."""

    name: str
    hyper: Hyper  # the configured numbers; TrainState.hyper holds the traced ones
    init: Callable[[PRNGKey, Hyper], AgentState]
    policy_params: Callable[[AgentState], Params]  # all that acting may see
    start: Callable[[], Carry]
    act: Callable[[Params, Carry, Observation, PRNGKey, Clock, Hyper], tuple[Carry, Array]]  # explores
    act_greedy: Callable[[Params, Carry, Observation, PRNGKey, Clock, Hyper], tuple[Carry, Array]]  # evaluates
    act_sampled: Callable[[Params, Carry, Observation, PRNGKey, Clock, Hyper], tuple[Carry, Array]]  # a ~ π, or greedy
    replay: Callable[[Episode, int, int], "Buffer"]  # what data an update sees: (example, capacity, n_envs) -> buffer
    update: "Update"
    refresh: Callable[[AgentState, Clock, Clock], AgentState]  # target copy: state, clock now, clock an iteration ago
    joint_table: Callable[[AgentState, Observation, PRNGKey], JointTable]
    reads_padding: str = ""  # the setting by which its losses count padding: it may not depend on other seeds then
    scores: Callable[[Params, Carry, Observation, PRNGKey], Array] | None = None
    """`[N, A]`: what `act_greedy` takes the best of, utilities or logits of π, given what it is given."""
    forward: Callable[[dict[str, Params], dict[str, Params], Trajectory, Key[Array, "rows"]], Any] | None = None
    """`(params, targets, trajectory, a key for each of its T+1 rows)`: every network once, as the update runs them.

    The record, a NamedTuple, is the algorithm's own. COMA and DOP, whose critics move at every time step of an update,
    have no such pass: theirs is that of one fixed critic. A gradient is taken of `vmap` of it, over trajectories and
    their keys (one of each will do): mapped trajectories share their products, and JAX differentiates no unmapped ones.
    """
    insight: Callable[[AgentState, Trajectory, Any], Insight] | None = None
    """`(agent, trajectory, record of forward)`: the record by names that all algorithms share."""
    channel: Channel | None = None  # of algorithms with messages


class Buffer(NamedTuple):
    """Where episodes wait to be learned from."""

    init: Callable[[], BufferState]
    add: Callable[[BufferState, Clock, Episode], BufferState]  # [B, T, ...] in; packed
    sample: Callable[[BufferState, Clock, PRNGKey], Batch]  # [B', T, ...] out; unpacked, not yet observed
    prefill: int  # episodes that must be stored before the first sample
    on_policy: bool = False  # episodes of an older policy do not belong here


Act: TypeAlias = Callable[[Carry, Observation, PRNGKey], tuple[Carry, Array]]
"""An algorithm's `act*` with parameters, clock and hyper bound."""
Collect: TypeAlias = Callable[[Params, Clock, Hyper, PRNGKey], Episode]
"""Collects `[B, T, ...]` episodes with the given parameters."""
Update: TypeAlias = Callable[..., tuple[AgentState, Metrics]]
"""`(agent, batch, key, clock, hyper, micro_batch=0)`: one update; `micro_batch` is static, see `engine.learner`."""
