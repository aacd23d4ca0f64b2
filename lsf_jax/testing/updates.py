"""What every algorithm promises of its update, whatever it learns."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import stepwise
from lsf_jax.engine.learner import rate_names
from lsf_jax.engine.optimizers import OPTIMIZERS
from lsf_jax.testing import cases
from lsf_jax.testing.comparison import assert_close, assert_same_bits, in_numpy, shapes
from lsf_jax.testing.games import CLOCK, SPEC, observe
from lsf_jax.testing.suite import Tests, about
from lsf_jax.types import AgentState, Clock, Episode, Observation


def groups_that_move(before: AgentState, after: AgentState) -> set[str]:
    """Names of the parameter groups of which any number changed."""
    pairs = {group: zip(*map(jax.tree.leaves, (before.params[group], after.params[group]))) for group in before.params}
    return {group for group, leaves in pairs.items() if any((a != b).any() for a, b in leaves)}


def littered(episode: Episode) -> Episode:
    """An episode with garbage in its padding; all actions are available there, as nothing else may be."""
    episode = in_numpy(lambda leaf: leaf, episode)
    valid, seen = episode.valid, episode.world
    fill: Any = np.where  # NumPy where the type says arrays of JAX
    real = np.concatenate([np.ones_like(valid[:, :1]), valid], axis=1)
    world = Observation(
        obs=fill(real[..., None, None], seen.obs, np.float32(1e3)),
        state=fill(real[..., None], seen.state, np.float32(-1e3)),
        avail=seen.avail,
    )
    return episode._replace(
        world=world,
        action=np.where(valid[..., None], episode.action, np.uint8(1)),
        reward=np.where(valid, episode.reward, np.float32(1e3)),
    )


class Updates(Tests):
    """An update learns from what happened, for its own seed, in the groups that a rate is for."""

    def case(self, name: str) -> cases.Case:
        """The algorithm, made small."""
        return cases.make_case(self.suite.entries[name], tuple(self.suite.small.items()))

    def test_an_update_keeps_the_tree_and_moves_parameters_by_finite_steps(self, name: str) -> None:
        """The state after an update has the shapes and dtypes of the one before; most parameters moved."""
        c = self.case(name)
        agents, metrics = cases.updated(c)
        assert shapes(agents) == shapes(c.agents)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((agents, metrics)))
        assert all(metric.shape == (cases.SEEDS,) for metric in metrics.values())
        pairs = zip(jax.tree.leaves(agents.params), jax.tree.leaves(c.agents.params))
        assert np.mean([not np.array_equal(a, b) for a, b in pairs]) > 0.5
        assert c.algorithm.name == name

    def test_rates_belong_to_their_groups(self, name: str) -> None:
        """With a rate of zero its groups stay where they are, and no others that usually move; none has two."""
        c = self.case(name)
        usual, stopped = groups_that_move(c.agents, cases.updated(c)[0]), {}
        for rate in rate_names(c.entry.hyper._fields):
            hyper = c.algorithm.hyper._replace(**{rate: jnp.float32(0.0)})
            after, _ = c.update(c.agents, c.batch, c.keys, CLOCK, hyper)
            moved = groups_that_move(c.agents, after)
            assert moved <= usual, rate
            stopped[rate] = usual - moved
        assert all(stopped[rate] == groups & usual for rate, groups in self.suite.rates.items() if rate in stopped)
        listed = [group for groups in stopped.values() for group in groups]
        assert len(listed) == len(set(listed))
        assert all(stopped.values())

    @about(lambda entry: {"optimizer", "grad_clip", "optimizer_epsilon"} <= set(vars(entry.config())))
    def test_every_optimiser_is_the_one_asked_for_with_its_clip_and_epsilon(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Every group's optimiser is made by the settings."""
        asked = []

        def recorded(kind: str, make: Any) -> Any:
            def remember(clip: float, **more: Any) -> Any:
                asked.append((kind, clip, *more.values()))
                return make(clip, **more)

            return remember

        for kind, make in list(OPTIMIZERS.items()):
            monkeypatch.setitem(OPTIMIZERS, kind, recorded(kind, make))
        entry, changes = self.suite.entries[name], {"optimizer": "rmsprop", "grad_clip": 3.5, "optimizer_epsilon": 2e-6}
        config = cases.small_config(entry, tuple(self.suite.small.items()), **changes)
        entry.factory(SPEC, config, observe)
        clips = {3.5, config.actor_clip} if hasattr(config, "actor_clip") else {3.5}
        assert {(kind, epsilon) for kind, _, epsilon in asked} == {("rmsprop", 2e-6)}
        assert {clip for _, clip, _ in asked} - {0.0} == clips - {0.0}

    def test_garbage_in_padded_rows_changes_nothing(self, name: str) -> None:
        """Whatever an environment or a collector might leave there, all actions are available in padding."""
        c = self.case(name)
        batch = jax.tree.map(littered, c.batch, is_leaf=lambda node: isinstance(node, Episode))
        agents, _ = c.update(c.agents, batch, c.keys, CLOCK, c.algorithm.hyper)
        assert_close(agents.params, cases.updated(c)[0].params, 1e-6)

    def test_a_seed_does_not_notice_its_neighbours(self, name: str) -> None:
        """With others beside it a seed comes to the same bits; in another place to the same up to rounding.

        Where in a vector of the processor a number stands may decide its last bit.
        """
        c = self.case(name)
        order = np.array([0, 2, 1])
        moved = in_numpy(lambda leaf: leaf[order], c.agents)
        agents, metrics = c.update(moved, c.batch, c.keys[order], CLOCK, c.algorithm.hyper)
        expected = in_numpy(lambda leaf: leaf[order], cases.updated(c))
        in_place = lambda leaf: leaf[:1]
        assert_same_bits(in_numpy(in_place, (agents, metrics)), in_numpy(in_place, expected))
        assert_close(metrics, expected[1], 1e-5)

    def test_targets_are_what_they_copy_once_the_interval_is_over_and_not_before(self, name: str) -> None:
        """Whether the interval counts episodes or the critic's steps: enough of both."""
        c = self.case(name)
        agent = cases.learnt_agent(c)

        def refreshed(steps: int, now: int) -> dict[str, Any]:
            counts = {stepwise.SINCE_COPY: np.int32(steps)} if stepwise.SINCE_COPY in agent.opt_state else {}
            start = Clock(env_steps=CLOCK.env_steps, episodes=jnp.int32(0), updates=jnp.int32(0))
            clock = start._replace(episodes=jnp.int32(now), updates=jnp.int32(now))
            return refresh(agent._replace(opt_state={**agent.opt_state, **counts}), clock, start).targets

        refresh = jax.jit(c.algorithm.refresh)
        assert agent.opt_state.get(stepwise.SINCE_COPY, 1) > 0  # an update counts
        assert_same_bits(refreshed(0, 0), agent.targets)
        copied_now = refreshed(2_000, 2_000)
        assert_same_bits(copied_now, {group: agent.params[group] for group in agent.targets})
        if agent.targets:
            before = jax.tree.leaves(agent.targets)
            assert any((a != b).any() for a, b in zip(jax.tree.leaves(copied_now), before, strict=True))
