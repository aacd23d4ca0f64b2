"""What every algorithm promises of how it acts."""

import jax
import numpy as np
import pytest

from lsf_jax.registry import Entry
from lsf_jax.testing import cases
from lsf_jax.testing.cases import KINDS, actions
from lsf_jax.testing.games import A, N, random_observation
from lsf_jax.testing.suite import Tests, about


def is_decentralised(entry: Entry) -> bool:
    """Whether agents act on what they see themselves."""
    return not entry.communicates


def explores_uniformly(entry: Entry) -> bool:
    """Whether exploration is a share ε of uniform actions among greedy ones."""
    return entry.acts == "values" and "epsilon_start" in entry.hyper._fields


class Acting(Tests):
    """Acting takes available actions, each agent by its own observation; looking inside agrees with it."""

    def case(self, name: str) -> cases.Case:
        """The algorithm, made small."""
        return cases.make_case(self.suite.entries[name], tuple(self.suite.small.items()))

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_unavailable_action_is_never_chosen(self, name: str, kind: str) -> None:
        """Nor always the same one, where actions are drawn."""
        observation, c = random_observation(), self.case(name)
        chosen = actions(c, kind, observation, jax.random.key(0))
        assert chosen.shape == (64, N)
        assert np.asarray(observation.avail)[np.arange(N)[None], chosen].all()
        explores = kind == "act" or (kind == "act_sampled" and c.entry.acts == "policy")
        assert not explores or len(np.unique(chosen, axis=0)) > 1

    def test_acting_remembers_what_was_done_as_learning_sees_it(self, name: str) -> None:
        """The next step's input is the action itself, whoever chose it; the learner reads the same from replay."""
        chosen, remembered = cases.acted(self.case(name), random_observation(), jax.random.key(0))
        if remembered is None:
            pytest.skip("what it carries holds no last_action")
        np.testing.assert_array_equal(remembered, chosen)

    def test_without_exploration_values_are_followed_greedily_and_policies_are_sampled(self, name: str) -> None:
        """As the entry's `acts` says: with ε = 0 values leave nothing to chance, and a policy does."""
        observation, c = random_observation(), self.case(name)
        chosen = actions(c, "act", observation, jax.random.key(3), epsilon=0.0)
        if c.entry.acts == "values":
            for kind in ("act_greedy", "act_sampled"):  # utilities are no logits: their stochastic evaluation is greedy
                np.testing.assert_array_equal(chosen, actions(c, kind, observation, jax.random.key(3)))
        else:
            assert len(np.unique(chosen, axis=0)) > 1

    @about(explores_uniformly)
    def test_values_are_explored_uniformly_over_what_is_available(self, name: str) -> None:
        """With ε = 1 every available action is as likely as any other."""
        observation, c = random_observation(), self.case(name)
        chosen = np.concatenate([actions(c, "act", observation, jax.random.key(k), epsilon=1.0) for k in range(8)])
        avail = np.asarray(observation.avail)
        counts = np.stack([np.bincount(chosen[:, i], minlength=A) for i in range(N)])
        expected = len(chosen) * avail / avail.sum(axis=-1, keepdims=True)
        distance = np.square(counts - expected)[avail] / expected[avail]
        assert distance.sum() < 40.0, counts  # chi-square with at most N (A - 1) = 9 degrees of freedom

    @about(is_decentralised)
    @pytest.mark.parametrize("kind", ["act", "act_greedy"])
    def test_execution_is_decentralised(self, name: str, kind: str) -> None:
        """What agent 1 observes never changes what the others do, at equal randomness; nor does the state."""
        before, c = random_observation(), self.case(name)
        after = before._replace(obs=before.obs.at[1].set(-before.obs[1] + 5.0), state=before.state + 1.0)
        others, again = (actions(c, kind, seen, jax.random.key(0))[:, [0, 2]] for seen in (before, after))
        np.testing.assert_array_equal(others, again)

    def test_a_joint_table_tells_all_joint_actions_and_a_policy(self, name: str) -> None:
        """One entry for each joint action; the policy has no share of unavailable ones and is the one that acts."""
        c, observation = self.case(name), random_observation()
        table = jax.jit(c.algorithm.joint_table)(cases.learnt_agent(c), observation, c.keys[0])
        assert table.utilities.shape == table.policy.shape == (N, A)
        assert table.q_total.shape == (A**N,)
        np.testing.assert_allclose(np.asarray(table.policy).sum(axis=-1), 1.0, rtol=1e-5)
        assert (np.asarray(table.policy)[~np.asarray(observation.avail)] == 0).all()
        if is_decentralised(c.entry):
            greedy = actions(c, "act_greedy", observation, c.keys[0])[0]
            np.testing.assert_array_equal(np.asarray(table.policy).argmax(axis=-1), greedy)
