"""Predator-prey: its settings, and the records that both forms of a step share."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int, UInt8

from lsf_jax.settings import setting

RIGHT, DOWN, LEFT, UP, STAY, CATCH = range(6)
"""Actions. The prey's four directions are tried in the same order."""
FEATURES = 3  # predators, prey, and the hares of the original, always absent here


@dataclass(frozen=True)
class PredatorPreyConfig:
    """Settings of `predator_prey`. DCG is deep coordination graphs, whose values these are unless said otherwise."""

    grid_size: int = setting(10, low=2, high=256, doc="cells per side of the square, walled board; DCG")
    n_predators: int = setting(8, low=1, doc="predators, the agents; DCG")
    n_prey: int = setting(8, low=1, doc="prey ('stags'); DCG")
    sight: int = setting(2, low=0, doc="cells seen in each direction: a square of side 2·sight + 1; DCG")
    capture_threshold: int = setting(2, low=1, high=4, doc="predators that must catch one prey in the same step; DCG")
    capture_reward: float = setting(10.0, above=0, doc="team reward per prey caught; DCG")
    punishment: float = setting(
        0.0, low=-1e6, high=1e6, doc="team reward p per prey that too few try to catch; DCG 0 to -2, LSF-SAC 0 and -2"
    )
    episode_limit: int = setting(200, low=1, high=100_000, doc="steps; reaching it truncates and is not terminal; DCG")


class State(NamedTuple):
    """One moment of the game. A cell is `row * grid_size + column`, row 0 on top."""

    predator: Int[Array, "*lead predators"]  # cell; where it was caught up for a frozen one
    active: Bool[Array, "*lead predators"]  # False once it has taken part in a capture: frozen, off the board
    prey: Int[Array, "*lead prey"]  # cell; where it died for a dead one
    alive: Bool[Array, "*lead prey"]
    time: Int[Array, "*lead"]  # steps since reset


class Randomness(NamedTuple):
    """All that chance decides in one step."""

    predator_turn: Int[Array, "*lead predators"]  # a permutation: who moves 0-th, 1st, ...
    prey_turn: Int[Array, "*lead prey"]  # a permutation
    prey_rank: Int[Array, "*lead prey"]  # 0..11; of m free directions prey j takes number rank[j] mod m


class Outcome(NamedTuple):
    """What one transition earned and whether it ended the episode, and why."""

    reward: Float[Array, "*lead"]
    captures: Int[Array, "*lead"]  # prey caught
    lone_catches: Int[Array, "*lead"]  # prey that some, but too few, tried to catch; each costs p
    game_over: Bool[Array, "*lead"]  # no prey or no active predator is left
    time_limit: Bool[Array, "*lead"]  # step `episode_limit` has been reached; both may hold


class Snapshot(NamedTuple):
    """What replay stores of a `State`: 18 bytes at the default sizes. It has no time, because nobody sees the time."""

    predator: Array  # [predators] cell; uint8 up to 16x16, else uint16
    prey: Array  # [prey]
    active: UInt8[Array, "*lead predator_bytes"]  # bits, first predator lowest
    alive: UInt8[Array, "*lead prey_bytes"]
