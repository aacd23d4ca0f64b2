"""What a look inside reports is what arithmetic on the networks' numbers gives, as tables, JSON and a figure."""

import json

import numpy as np
import pytest

from lsf_jax.analysis import inspection
from lsf_jax.analysis.messages import Hearing, MessageReport
from lsf_jax.types import Episode, Insight

B, T, N, A, D = 3, 4, 2, 3, 2
RANDOM = np.random.default_rng(0)


def episodes_of(valid):
    action = RANDOM.integers(A, size=(*valid.shape, N))
    return Episode(world=None, action=action, reward=valid * 1.0, terminal=~valid, valid=valid, info={})


def spread_of(values):
    return inspection.Spread(values.mean(0), values.std(0), values.min(0), values.max(0))


def found_of(n_steps=T, blocks=N, with_messages=True):
    """A finding made by hand; the second episode ends early."""
    valid = np.ones((B, n_steps), bool)
    valid[1, 1:] = False
    q = RANDOM.normal(size=(B, n_steps, N, A))
    weights, log_pi = RANDOM.random((B, n_steps, N)), np.log(RANDOM.dirichlet(np.ones(A), (B, n_steps, N)))
    heard = Hearing(q=np.eye(N), greedy=0.25 * np.eye(N), total=np.array([0.5, 0.0]), policy=None)
    bits = RANDOM.random((N, blocks, D))
    names = ("silence", "shuffle")
    accuracy = np.array([0.75, 0.5])
    report = MessageReport(bits.sum(-1), bits, bits, dict.fromkeys(names, heard), accuracy, 0.5 * accuracy, 9)
    return inspection.Inspection(
        title="lsf_sac on m_step, row 0, seed 0",
        episodes=episodes_of(valid),
        insight=Insight(q=q, log_pi=log_pi, weights=weights),
        chosen_q=None,
        gap=None,
        value=None,
        entropy=None,
        weights=spread_of(weights[valid]),
        messages=report if with_messages else None,
    )


def test_values_of_what_was_done_and_gaps_are_those_of_a_loop():
    q, avail = RANDOM.normal(size=(B, T, N, A)), RANDOM.random((B, T, N, A)) < 0.6
    avail[..., 1] = True
    avail[0, 0, 0] = [False, True, False]  # no choice: no gap
    action = RANDOM.integers(A, size=(B, T, N))
    chosen, gap = inspection._of_values(q, action, avail)
    for place in np.ndindex(B, T, N):
        assert chosen[place] == q[place][action[place]]
        known = sorted(q[place][avail[place]])
        assert gap[place] == (known[-1] - known[-2] if len(known) > 1 else 0.0)


def test_entropy_is_in_bits_over_available_actions():
    log_pi = np.log(np.array([[0.5, 0.25, 0.25], [1.0, 1.0, 1.0], [0.5, 0.5, 1.0]]))
    avail = np.array([[True, True, True], [True, False, False], [True, True, False]])
    np.testing.assert_allclose(inspection._entropy(log_pi, avail), [1.5, 0.0, 1.0])


def test_the_tables_tell_weights_hearing_and_the_decoder():
    found = found_of()
    text = inspection.inspection_text(found)
    assert "3 episodes, 9 steps" in text
    assert f"agent 1   {found.weights.mean[1]:>10.4g}" in text
    assert "agent 0 to 1" in text
    assert "receiver" + f"{'from 0':>17}{'from 1':>17}" in text
    assert f"agent 0  {'1 (25%)':>17}{'0 (0%)':>17}" in text
    assert "agent 0: 75% (38%), agent 1: 50% (25%)" in text
    assert "bits of a message to all" in inspection.inspection_text(found_of(blocks=1))


def test_as_json_it_is_the_same_with_null_for_what_is_no_number():
    found = found_of()
    found.messages.bits[0, 0] = np.nan
    content = json.loads(inspection.inspection_json(found))
    assert content["messages"]["bits"][0][0] is None
    assert content["messages"]["hearing"]["silence"]["total"] == [0.5, 0.0]
    np.testing.assert_allclose(content["weights"]["mean"], found.weights.mean)


@pytest.mark.parametrize(("n_steps", "label"), [(T, "step of the first episode"), (1, "episode")])
def test_the_figure_draws_the_first_episode_or_all_of_one_step(n_steps, label, tmp_path):
    found = found_of(n_steps)
    figure = inspection.plot_inspection(found, tmp_path / "inside.png")
    axes = figure.axes[0]
    assert axes.get_xlabel() == label
    drawn = axes.get_lines()[1].get_ydata()
    action = found.episodes.action
    places = [(0, step) for step in range(T)] if n_steps == T else [(episode, 0) for episode in range(B)]
    np.testing.assert_array_equal(drawn, [found.insight.q[b, t, 1, action[b, t, 1]] for b, t in places])
    assert sum("|ΔQ|" in axes.get_title() for axes in figure.axes) == 2
    assert (tmp_path / "inside.png").stat().st_size > 1000
