import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.analysis.bounds import bounds_of, random_return
from lsf_jax.config.composition import compose, make_env
from lsf_jax.config.documents import to_yaml
from lsf_jax.types import Observation, TimeStep


def test_random_play_of_a_matrix_game_earns_the_mean_of_its_payoff(make_run):
    config = compose(env="matrix_game")
    run = make_run([[1.0]])
    (run.path / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    run.config["env"] = {"name": "matrix_game"}
    payoff = np.asarray(make_env(config).payoff.table)
    found = bounds_of([run], episodes=4096)
    error = payoff.std() / np.sqrt(4096)
    assert found.random["matrix_game"] == pytest.approx(payoff.mean(), abs=4 * error)
    assert found.best == {"matrix_game": payoff.max()}


def test_nothing_is_earned_after_the_end_and_only_available_actions_are_taken():
    """A game that pays a point a step, and a fortune for the first agent's first action, which nobody has."""
    env = make_env(compose(env="matrix_game"))
    seen = Observation(obs=jnp.zeros((2, 1)), state=jnp.zeros(1), avail=jnp.array([[False, True, True]] * 2))

    def step(key, state, action):
        over = state + 1 >= 3
        reward = jnp.where(action[0] == 0, 1000.0, 1.0)
        return state + 1, TimeStep(observation=seen, reward=reward, terminal=over, done=over, info={})

    counting = env._replace(spec=env.spec._replace(episode_limit=9), reset=lambda key: (jnp.int32(0), seen), step=step)
    assert random_return(counting, 16) == 3.0
