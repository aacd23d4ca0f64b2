"""How a team's reward is made of its agents', where a game of somebody else's gives each agent one of its own."""

from collections.abc import Callable

from jaxtyping import Array, Float

TeamReward = Callable[[Float[Array, "agents"]], Float[Array, ""]]

TEAM_REWARDS: dict[str, TeamReward] = {
    "mean": lambda reward: reward.mean(),
    "sum": lambda reward: reward.sum(),
    "first": lambda reward: reward[0],
}
"""By the name in `env.team_reward`; all alike, up to the factor N of a sum, where the game rewards all agents alike."""

TEAM_REWARD_DOC = "reward of the team: mean or sum of its agents' own, or that of the first agent"
