"""What holds for every environment whose games are functions."""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lsf_jax.registry import Entry
from lsf_jax.testing.comparison import shapes
from lsf_jax.testing.suite import Suite, Tests, about
from lsf_jax.types import Env, EpisodeStats, Observation, PRNGKey, TimeStep

COPIES = 16


class Played(NamedTuple):
    """Episodes of random available actions, on the host."""

    env: Env
    first: Observation  # [B, ...]
    steps: TimeStep  # [B, T, ...]
    recomputed: Observation  # [B, T + 1, ...]: observe(snapshot(state))
    running: np.ndarray  # [B, T + 1] before each step, and after the last


@lru_cache(maxsize=2)
def make_env(entry: Entry, config: Any) -> Env:
    """The environment; the same one at the next call, so that nothing compiles twice."""
    return entry.factory(config)


@lru_cache(maxsize=2)
def play(entry: Entry, config: Any) -> Played:
    """Random available actions for `episode_limit` steps, whether or not the episode has ended before."""
    env = make_env(entry, config)

    def episode(key: PRNGKey) -> Any:
        key_reset, key_steps = jax.random.split(key)
        state, first = env.reset(key_reset)

        def advance(loop: Any, key: PRNGKey) -> Any:
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
    first, steps, recomputed, running = jax.device_get((first, steps, recomputed, running))
    return Played(env=env, first=first, steps=steps, recomputed=recomputed, running=running)


def is_function(entry: Entry) -> bool:
    """Whether an environment's games are played on the device."""
    return entry.hosted is None


def env_of(suite: Suite, name: str) -> Env:
    """The environment that a suite has under a name."""
    return make_env(suite.entries[name], suite.configs[name])


def played_of(suite: Suite, name: str) -> Played:
    """Sixteen random episodes of it."""
    return play(suite.entries[name], suite.configs[name])


class DeviceGames(Tests):
    """Games that are functions give what their spec says, and snapshots from which all of it comes again."""

    @about(is_function)
    def test_shapes_and_dtypes_equal_the_spec(self, name: str) -> None:
        """Observations and states are float32, masks bool, one reward of the team a step, infos one float32 each."""
        env, first, steps, _, _ = played_of(self.suite, name)
        spec = env.spec
        for observation, lead in ((first, (COPIES,)), (steps.observation, (COPIES, spec.episode_limit))):
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

    @about(is_function)
    def test_every_agent_always_has_an_action(self, name: str) -> None:
        """Who is out of the game still needs one: let it be the first."""
        played = played_of(self.suite, name)
        assert played.first.avail.any(-1).all()
        assert played.steps.observation.avail.any(-1).all()

    @about(is_function)
    def test_terminal_implies_done(self, name: str) -> None:
        """The game's end ends the episode; the time limit does so without being terminal."""
        steps = played_of(self.suite, name).steps
        assert (~steps.terminal | steps.done).all()

    @about(is_function)
    def test_every_episode_is_over_by_its_limit(self, name: str) -> None:
        """`done` at step `episode_limit` at the latest, and never before the first."""
        running = played_of(self.suite, name).running
        assert not running[:, -1].any()
        assert running[:, 0].all()

    @about(is_function)
    def test_all_that_is_seen_is_finite(self, name: str) -> None:
        """No NaN and no infinity, after the end of an episode neither."""
        played = played_of(self.suite, name)
        for leaf in jax.tree.leaves((played.first, played.steps)):
            assert np.isfinite(leaf).all()

    @about(is_function)
    def test_snapshots_recompute_bit_for_bit_what_was_returned(self, name: str) -> None:
        """`observe(snapshot(state))` is what `reset` and `step` returned: replay keeps snapshots alone."""
        played = played_of(self.suite, name)
        returned = jax.tree.map(
            lambda head, tail: np.concatenate([head[:, None], tail], 1), played.first, played.steps.observation
        )
        for seen, again in zip(returned, played.recomputed):
            assert seen.dtype == again.dtype
            assert seen.tobytes() == again.tobytes()

    @about(is_function)
    def test_no_random_episode_beats_the_best_return(self, name: str) -> None:
        """`max_return` is the best undiscounted return that there is."""
        played = played_of(self.suite, name)
        returns = (played.steps.reward * played.running[:, :-1]).sum(1)
        assert (returns <= played.env.max_return + 1e-4).all()

    @about(is_function)
    def test_two_resets_with_one_key_are_equal(self, name: str) -> None:
        """All chance comes from the key."""
        reset = jax.jit(env_of(self.suite, name).reset)
        once, again, other = (jax.tree.leaves(jax.device_get(reset(jax.random.key(seed)))) for seed in (7, 7, 8))
        assert all((a == b).all() for a, b in zip(once, again))
        assert jax.tree.structure(once) == jax.tree.structure(other)

    @about(is_function)
    def test_a_step_keeps_the_structure_of_the_state(self, name: str) -> None:
        """Shapes and dtypes too: episodes are a loop of the device."""
        env = env_of(self.suite, name)
        state, _ = jax.eval_shape(env.reset, jax.random.key(0))
        after, _ = jax.eval_shape(env.step, jax.random.key(1), state, jnp.zeros(env.spec.n_agents, jnp.uint8))
        assert shapes(after) == shapes(state)

    @about(is_function)
    def test_render_is_text_about_one_state(self, name: str) -> None:
        """Made of a snapshot of NumPy arrays."""
        env = env_of(self.suite, name)
        snapshot = jax.jit(lambda key: env.snapshot(env.reset(key)[0]))(jax.random.key(0))
        picture = env.render(jax.device_get(snapshot))
        assert isinstance(picture, str)
        assert picture

    @about(is_function)
    def test_success_judges_every_episode(self, name: str) -> None:
        """The best episode, with much of everything in its info, is a success; the worst is none."""
        env = env_of(self.suite, name)
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
