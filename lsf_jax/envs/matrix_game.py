"""Matrix games: the paper's one-step game, and classics in which the best return and the traps are known exactly."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from lsf_jax.envs.base import check_settings, require
from lsf_jax.envs.tabular import Game, for_all, start_payoff, table_env
from lsf_jax.registry import Entry
from lsf_jax.settings import setting, type_problem
from lsf_jax.types import Env

PAPER = ((8.0, -12.0, -12.0), (-12.0, 0.0, 0.0), (-12.0, 0.0, 0.0))
"""Payoff of LSF-SAC's one-step game (§VI.A, Table I), the same as QTRAN's."""
CLIMBING = ((11.0, -30.0, 0.0), (-30.0, 7.0, 0.0), (0.0, 6.0, 5.0))
LINEAR = ((1.0, 4.0, 2.0), (0.0, 3.0, 1.0), (2.0, 5.0, 3.0))
NONLINEAR = ((0.0, 3.0, 1.0), (0.0, 0.0, 0.0), (0.0, 6.0, 2.0))
TWO_STATE = (PAPER, tuple(row[::-1] for row in PAPER[::-1]))
"""Our choice: the paper's game, and the same game with every agent's actions in reverse order (best: both last)."""


@dataclass(frozen=True)
class MatrixGameConfig:
    """Settings of `matrix_game`."""

    payoff: tuple = setting(
        PAPER, doc="team reward of each joint action: nested lists, one level per agent; paper §VI.A"
    )
    n_agents: int = setting(2, low=1, high=16, doc="agents; must be the payoff's number of levels")
    episode_limit: int = setting(1, low=1, high=100_000, doc="rounds; more than 1 repeats the game, seen as zeros")


@dataclass(frozen=True)
class TwoStateConfig:
    """Settings of `two_state`: our realisation of the paper's multi-state problem, for which it gives no numbers."""

    payoffs: tuple = setting(TWO_STATE, doc="payoff table of each of the two states; our choice")
    variant: str = setting("seen", choices=("seen", "aliased"), doc="aliased: the first agent cannot see the state")


@dataclass(frozen=True)
class RepeatedConfig:
    """Settings of the fixed classics `climbing`, `linear_game` and `nonlinear_game`."""

    episode_limit: int = setting(1, low=1, high=100_000, doc="rounds; 25 in the benchmark of Papoudakis et al. (2021)")


@dataclass(frozen=True)
class PenaltyConfig:
    """Settings of `penalty`."""

    penalty: float = setting(100.0, low=0, high=1e6, doc="k: cost of failing to coordinate; usual 0 to 100")
    episode_limit: int = setting(1, low=1, high=100_000, doc="rounds; 25 in the benchmark of Papoudakis et al. (2021)")


@dataclass(frozen=True)
class TwoStepConfig:
    """Settings of `two_step`."""

    first_payoff: tuple = setting(
        ((7.0, 7.0), (7.0, 7.0)), doc="second step's payoff after the first agent's action 0; QMIX"
    )
    second_payoff: tuple = setting(((0.0, 1.0), (1.0, 8.0)), doc="second step's payoff after its action 1; QMIX")


@dataclass(frozen=True)
class MStepConfig:
    """Settings of `m_step`."""

    n_steps: int = setting(10, low=1, high=50, doc="m, steps of a full episode; MAVEN")
    good_branches: int = setting(2, choices=(2, 4), doc="branches that pay: 2 (00 and 11) or all 4; MAVEN")


def make_matrix_game(cfg: MatrixGameConfig) -> Env:
    """A game of one payoff table; by default the paper's, in which both agents must risk -12 to find 8."""
    return _play(_one_table(cfg))


def make_two_state(cfg: TwoStateConfig) -> Env:
    """One step in one of two equally likely games.

    seen: both agents see which one it is. aliased: the first agent sees ones, the second and the critic see which. No
    decentralised policy can then earn more than 4 on average with the default payoffs (`max_return` stays the best
    *joint* policy's 8), and no value of the first agent's own observation fits both games: that needs a message.
    """
    return _play(_two_state(cfg))


def make_climbing(cfg: RepeatedConfig) -> Env:
    """Climbing game (Claus & Boutilier 1998): 11 at (0, 0) behind -30; the safe choices earn 5 to 7."""
    return _play(_classic(CLIMBING, cfg))


def make_linear_game(cfg: RepeatedConfig) -> Env:
    """A sum of one term per agent: what additive factorisation represents exactly."""
    return _play(_classic(LINEAR, cfg))


def make_nonlinear_game(cfg: RepeatedConfig) -> Env:
    """Monotone in each agent's choice but not additive."""
    return _play(_classic(NONLINEAR, cfg))


def make_penalty(cfg: PenaltyConfig) -> Env:
    """Penalty game (Claus & Boutilier 1998): 10 at two corners, -k at the other two, a safe 2 in the middle."""
    return _play(_penalty(cfg))


def make_two_step(cfg: TwoStepConfig) -> Env:
    """QMIX's two-step game: the first agent chooses between a sure 7 and a game worth 8 if both coordinate."""
    return _play(_two_step(cfg))


def make_m_step(cfg: MStepConfig) -> Env:
    """MAVEN's m-step game: the first joint action chooses a branch that must be repeated for 1 a step.

    Leaving the branch pays 0 and ends the game, as does a first choice of a branch that is not good. In branch 0 the
    last step (if m > 1) pays [[1, 1], [1, 4]] instead, so the best return is m + 3 by changing to (1, 1) at the end.

    Reference: Mahajan et al. (2019), MAVEN, §5.1.
    """
    return _play(_m_step(cfg))


def _play(game: Game) -> Env:
    return table_env(game)._replace(payoff=start_payoff(game))


def _payoff(key: str, table: Any, n_agents: int) -> np.ndarray:
    """A payoff table as an array of `n_agents` equal axes.

    Raises:
      ValueError: naming `env.<key>` if it is ragged, not numeric, not finite, or of another shape.
    """
    expected = f"numbers nested {n_agents} deep (one level per agent), every level of the same length, 2 or more"
    kind: Any = float
    for _ in range(n_agents):
        kind = tuple[kind, ...]
    require(type_problem(kind, table) is None, key, table, expected)
    try:
        with np.errstate(over="ignore"):
            payoff = np.asarray(table, np.float32)
    except ValueError:  # ragged
        payoff = np.zeros(())
    sides = set(payoff.shape)
    is_table = len(sides) == 1 and min(sides) >= 2
    require(is_table and bool(np.isfinite(payoff).all()), key, table, expected)
    return payoff


def _to_the_end(payoffs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and successors of games that each lead to one last node."""
    reward = np.stack([*payoffs, np.zeros_like(payoffs[0])])
    return reward, np.full(reward.shape, len(payoffs), np.int32)


def _one_table(cfg: MatrixGameConfig) -> Game:
    """One round: one-hot of the step (pymarl's). Repeated: zeros of length N, and only the time limit ends it."""
    check_settings(cfg)
    payoff = _payoff("payoff", cfg.payoff, cfg.n_agents)
    if cfg.episode_limit > 1:
        reward, next_node = payoff[None], np.zeros((1, *payoff.shape), np.int32)
        state = np.zeros((1, cfg.n_agents), np.float32)
    else:
        reward, next_node = _to_the_end([payoff])
        state = np.eye(2, dtype=np.float32)
    return Game(
        start=(0,),
        reward=reward,
        next_node=next_node,
        ends=np.arange(len(reward)) > 0,
        obs=for_all(cfg.n_agents, state),
        state=state,
        labels=("start", "end")[: len(reward)],
        episode_limit=cfg.episode_limit,
    )


def _classic(payoff: tuple, cfg: RepeatedConfig) -> Game:
    return _one_table(MatrixGameConfig(payoff=payoff, n_agents=2, episode_limit=cfg.episode_limit))


def _penalty(cfg: PenaltyConfig) -> Game:
    check_settings(cfg)
    k = float(cfg.penalty)
    payoff = ((-k, 0.0, 10.0), (0.0, 2.0, 0.0), (10.0, 0.0, -k))
    return _one_table(MatrixGameConfig(payoff=payoff, n_agents=2, episode_limit=cfg.episode_limit))


def _two_state(cfg: TwoStateConfig) -> Game:
    check_settings(cfg)
    require(len(cfg.payoffs) == 2, "payoffs", cfg.payoffs, "two payoff tables, one per state")
    tables = [_payoff("payoffs", table, 2) for table in cfg.payoffs]
    require(tables[0].shape == tables[1].shape, "payoffs", cfg.payoffs, "two payoff tables of one size")
    reward, next_node = _to_the_end(tables)
    state = np.eye(3, 2, dtype=np.float32)  # the end is zeros
    obs = for_all(2, state)
    if cfg.variant == "aliased":
        obs[:2, 0] = 1.0
    return Game(
        start=(0, 1),
        reward=reward,
        next_node=next_node,
        ends=np.array([False, False, True]),
        obs=obs,
        state=state,
        labels=("state 1", "state 2", "end"),
        episode_limit=1,
    )


def _two_step(cfg: TwoStepConfig) -> Game:
    check_settings(cfg)
    tables = [_payoff("first_payoff", cfg.first_payoff, 2), _payoff("second_payoff", cfg.second_payoff, 2)]
    for key, table in zip(("first_payoff", "second_payoff"), tables):
        require(table.shape == (2, 2), key, table.tolist(), "a table of 2 by 2")
    reward, next_node = _to_the_end([np.zeros((2, 2), np.float32), *tables])
    next_node[0] = [[1, 1], [2, 2]]  # the second agent's action is ignored
    state = np.eye(4, 3, dtype=np.float32)
    return Game(
        start=(0,),
        reward=reward,
        next_node=next_node,
        ends=np.arange(4) == 3,
        obs=for_all(2, state),
        state=state,
        labels=("first step", "second step after 0", "second step after 1", "end"),
        episode_limit=2,
    )


def _m_step(cfg: MStepConfig) -> Game:
    """Nodes: the start, then four branches for each of the steps 1..m - 1, then the end."""
    check_settings(cfg)
    m = cfg.n_steps
    n_nodes = 4 * (m - 1) + 2
    end = n_nodes - 1
    reward, next_node = np.zeros((n_nodes, 4), np.float32), np.full((n_nodes, 4), end, np.int32)
    seen = np.zeros((n_nodes, m + 1 + 4), np.float32)
    seen[0, 0] = seen[end, m] = 1.0
    for branch in range(4) if cfg.good_branches == 4 else (0, 3):
        nodes = [0, *(4 * step - 3 + branch for step in range(1, m)), end]
        reward[nodes[:-1], branch] = 1.0
        next_node[nodes[:-1], branch] = nodes[1:]
    for step in range(1, m):
        seen[4 * step - 3 : 4 * step + 1, step] = 1.0
        seen[4 * step - 3 : 4 * step + 1, m + 1 :] = np.eye(4)
    if m > 1:
        reward[4 * (m - 1) - 3] = [1.0, 1.0, 1.0, 4.0]
    steps = [f"step {step}, branch {branch}" for step in range(1, m) for branch in range(4)]
    return Game(
        start=(0,),
        reward=reward.reshape(n_nodes, 2, 2),
        next_node=next_node.reshape(n_nodes, 2, 2),
        ends=np.arange(n_nodes) == end,
        obs=for_all(2, seen),
        state=seen,
        labels=("step 0", *steps, "end"),
        episode_limit=m,
    )


ENTRIES = (
    Entry(
        name="matrix_game",
        config=MatrixGameConfig,
        factory=make_matrix_game,
        doc="One-step game of one payoff table, by default the paper's: both agents must risk -12 to find 8; bring "
        "your own table",
    ),
    Entry(
        name="two_state",
        config=TwoStateConfig,
        factory=make_two_state,
        doc="Two states, two agents, one step; both see the state (our realisation of the paper's multi-state problem)",
    ),
    Entry(
        name="two_step",
        config=TwoStepConfig,
        factory=make_two_step,
        doc="QMIX's two-step game: the first agent chooses between a safe 7 and a table with an 8",
    ),
    Entry(
        name="climbing",
        config=RepeatedConfig,
        factory=make_climbing,
        doc="Climbing game: 11 for the best joint action, -30 beside it, 5 to 7 for the safe ones",
    ),
    Entry(
        name="penalty",
        config=PenaltyConfig,
        factory=make_penalty,
        doc="Penalty game: two optima of 10 that punish failing to agree by k = 100, and a safe 2",
    ),
    Entry(
        name="linear_game",
        config=RepeatedConfig,
        factory=make_linear_game,
        doc="One-step game with an additive payoff: every factorisation can represent it",
    ),
    Entry(
        name="nonlinear_game",
        config=RepeatedConfig,
        factory=make_nonlinear_game,
        doc="One-step game with a monotone payoff that is not additive: QMIX can represent it, VDN cannot",
    ),
    Entry(
        name="m_step",
        config=MStepConfig,
        factory=make_m_step,
        doc="MAVEN's m-step game: the first joint action fixes a branch; the best one pays 4 on the last of "
        "m = 10 steps",
    ),
)
