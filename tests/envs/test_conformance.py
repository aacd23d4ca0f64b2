"""What holds for every environment, registered or probe."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs import ENVS, make
from lsf_jax.envs.probes import PROBES
from lsf_jax.types import EnvSpec, EpisodeStats, Observation, TimeStep
from tests.support.jaxmarl_cases import needs_jaxmarl
from tests.support.jumanji_cases import needs_jumanji

COPIES = 16
SETTINGS = {
    **{name: (name, {}) for name, entry in (ENVS | PROBES).items() if entry.hosted is None},
    "predator_prey, small": ("predator_prey", {"grid_size": 4, "n_predators": 3, "n_prey": 2, "episode_limit": 12}),
    "two_state, aliased": ("two_state", {"variant": "aliased"}),
    "climbing, repeated": ("climbing", {"episode_limit": 25}),
    "matrix_game, three agents": ("matrix_game", {"n_agents": 3, "payoff": (((1.0, 2.0), (0.0, 3.0)),) * 2}),
    "m_step, four branches": ("m_step", {"n_steps": 3, "good_branches": 4}),
    "jaxmarl, speaker and listener": ("jaxmarl", {"game": "MPE_simple_speaker_listener_v4"}),
    "jaxmarl, riddle": ("jaxmarl", {"game": "switch_riddle"}),
    "jaxmarl, coins, stored": ("jaxmarl", {"game": "coin_game", "view": "stored", "episode_limit": 12}),
    "jaxmarl, hanabi": ("jaxmarl", {"game": "hanabi", "episode_limit": 40}),
    "jaxmarl, kitchen": ("jaxmarl", {"game": "overcooked", "arguments": {"max_steps": 20}}),
    "jaxmarl, battle": ("jaxmarl", {"game": "HeuristicEnemySMAX", "arguments": {"max_steps": 20}}),
    "jumanji": ("jumanji", {"episode_limit": 30}),
    "jumanji, foraging": ("jumanji", {"game": "LevelBasedForaging-v0", "episode_limit": 30}),
    "smax, teams drawn": ("smax", {"scenario": "smacv2_5_units", "max_steps": 40}),
}
NEEDS = {"jaxmarl": needs_jaxmarl, "jumanji": needs_jumanji}
SLOW = ("jaxmarl, hanabi", "jaxmarl, kitchen", "jaxmarl, battle", "jumanji")


class Episodes(NamedTuple):
    spec: EnvSpec
    first: Observation  # [B, ...]
    steps: TimeStep  # [B, T, ...]
    recomputed: Observation  # [B, T + 1, ...]: observe(snapshot(state))
    running: np.ndarray  # [B, T + 1] before each step, and after the last


def play(env):
    """Random available actions for `episode_limit` steps, whether or not the episode has ended before."""

    def episode(key):
        key_reset, key_steps = jax.random.split(key)
        state, first = env.reset(key_reset)

        def advance(loop, key):
            state, avail, running = loop
            key_action, key_env = jax.random.split(key)
            actions = jnp.where(avail, jax.random.uniform(key_action, avail.shape), -1.0).argmax(-1)
            state, timestep = env.step(key_env, state, actions)
            seen = (timestep, env.snapshot(state), running)
            return (state, timestep.observation.avail, running & ~timestep.done), seen

        start = (state, first.avail, jnp.bool_(True))
        (_, _, last), (steps, after, running) = jax.lax.scan(
            advance, start, jax.random.split(key_steps, env.spec.episode_limit)
        )
        snapshots = jax.tree.map(lambda head, tail: jnp.concatenate([head[None], tail]), env.snapshot(state), after)
        return first, steps, snapshots, jnp.append(running, last)

    first, steps, snapshots, running = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(4), COPIES))
    recomputed = jax.jit(jax.vmap(jax.vmap(env.observe)))(snapshots)
    return jax.device_get(Episodes(spec=env.spec, first=first, steps=steps, recomputed=recomputed, running=running))


def build(name):
    base, settings = SETTINGS[name]
    entry = (ENVS | PROBES)[base]
    return entry.factory(entry.config(**settings))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(
            name, marks=[NEEDS[each] for each in (base,) if each in NEEDS] + [pytest.mark.slow] * (name in SLOW)
        )
        for name, (base, _) in SETTINGS.items()
    ],
)
def env(request):
    return build(request.param)


@pytest.fixture(scope="module")
def episodes(env):
    return play(env)


def test_shapes_and_dtypes_equal_the_spec(episodes):
    spec, steps = episodes.spec, episodes.steps
    for observation, lead in ((episodes.first, (COPIES,)), (steps.observation, (COPIES, spec.episode_limit))):
        assert observation.obs.shape == (*lead, spec.n_agents, spec.obs_dim)
        assert observation.state.shape == (*lead, spec.state_dim)
        assert observation.avail.shape == (*lead, spec.n_agents, spec.n_actions)
        assert (observation.obs.dtype, observation.state.dtype) == (np.float32, np.float32)
        assert observation.avail.dtype == bool
    assert steps.reward.shape == steps.terminal.shape == steps.done.shape == (COPIES, spec.episode_limit)
    assert (steps.reward.dtype, steps.terminal.dtype, steps.done.dtype) == (np.float32, bool, bool)
    for entry in steps.info.values():
        assert entry.dtype == np.float32
        assert entry.shape == (COPIES, spec.episode_limit)
    hash(spec)


def test_every_agent_always_has_an_action(episodes):
    assert episodes.first.avail.any(-1).all()
    assert episodes.steps.observation.avail.any(-1).all()


def test_terminal_implies_done(episodes):
    assert (~episodes.steps.terminal | episodes.steps.done).all()


def test_every_episode_is_over_by_its_limit(episodes):
    assert not episodes.running[:, -1].any()
    assert episodes.running[:, 0].all()


def test_all_that_is_seen_is_finite(episodes):
    for leaf in jax.tree.leaves((episodes.first, episodes.steps)):
        assert np.isfinite(leaf).all()


def test_snapshots_recompute_bit_for_bit_what_was_returned(episodes):
    returned = jax.tree.map(
        lambda head, tail: np.concatenate([head[:, None], tail], 1), episodes.first, episodes.steps.observation
    )
    for seen, again in zip(returned, episodes.recomputed):
        assert seen.dtype == again.dtype
        assert seen.tobytes() == again.tobytes()


def test_no_random_episode_beats_the_best_return(request, env, episodes):
    if "reward_of_observation" in request.node.callspec.id:
        pytest.skip("chance decides what can be earned; the best return is an average over starts")
    returns = (episodes.steps.reward * episodes.running[:, :-1]).sum(1)
    assert (returns <= env.max_return + 1e-4).all()


def test_two_resets_with_one_key_are_equal(env):
    reset = jax.jit(env.reset)
    once, again, other = (jax.tree.leaves(jax.device_get(reset(jax.random.key(seed)))) for seed in (7, 7, 8))
    assert all((a == b).all() for a, b in zip(once, again))
    assert jax.tree.structure(once) == jax.tree.structure(other)


def test_a_step_keeps_the_structure_of_the_state(env):
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    after, _ = jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(env.spec.n_agents, jnp.uint8))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )


def test_render_is_text_about_one_state(env):
    snapshot = jax.jit(lambda key: env.snapshot(env.reset(key)[0]))(jax.random.key(0))
    picture = env.render(jax.device_get(snapshot))
    assert isinstance(picture, str)
    assert picture


def test_success_judges_every_episode(env):
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    _, timestep = jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(env.spec.n_agents, jnp.int32))
    stats = EpisodeStats(
        episode_return=jnp.array([env.max_return, -1e6]),
        length=jnp.array([env.spec.episode_limit, 0]),
        terminal=jnp.array([True, False]),
        info={name: jnp.array([100.0, 0.0]) for name in timestep.info},
        first_action=jnp.zeros((2, env.spec.n_agents), jnp.int32),
    )
    assert env.success(stats).tolist() == [True, False]


def test_unknown_names_and_settings_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean predator_prey"):
        make("predator_pray")
    with pytest.raises(ValueError, match=r"env\.penalti is not a setting of penalty; did you mean penalty"):
        make("penalty", penalti=3)


def test_plain_data_builds_an_environment():
    assert make("matrix_game", payoff=[[1, 2], [3, 4]]).max_return == 4
    assert make("predator_prey", punishment=0).max_return == 40


def test_probes_are_not_registered():
    assert not set(PROBES) & set(ENVS)
