"""Who hears whom is found where it was planted, and bits are those of closed forms."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.analysis.messages import (
    REPLACEMENTS,
    hearing,
    inspect_messages,
    kl_bits,
    message_bits,
    play_episodes,
    seen_avail,
)
from lsf_jax.analysis.playback import load_policies
from lsf_jax.types import Insight
from tests.support.lsf_sac_cases import SPEC, A, N, T, episodes_of, make_games, observe, trajectory_of
from tests.support.run_cases import finished_run

D = 2
SMALL = {"hidden": 8, "mixer_embed": 4, "hyper_hidden": 4, "encoder_hidden": 4, "decoder_hidden": 4, "message_dim": D}


def games_of(name, listener, **settings):
    """What an algorithm's networks make of messages in a few games; `listener` zeroes weights of the critic's input."""
    cfg = ALGORITHMS[name].config()
    cfg = replace(cfg, **{key: value for key, value in (SMALL | settings).items() if key in vars(cfg)}, recurrent=False)
    algorithm = ALGORITHMS[name].factory(SPEC, cfg, observe)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(algorithm.init, jax.random.key(0), algorithm.hyper)
    drawn = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes.params)
    group = drawn["q"]["agent"] if "q" in drawn else drawn["critic"]["critic"]
    kernel = group["input_layer"]["kernel"]
    heard = kernel[-N * D :].reshape(N, D, -1)  # of each sender
    kernel[-N * D :] = (heard * listener[:, None, None]).reshape(N * D, -1)
    agent = jax.tree.map(jnp.asarray, shapes._replace(params=drawn, targets={}, opt_state={}))
    trajectories = jax.vmap(trajectory_of)(episodes_of(make_games()))
    compiled = jax.jit(jax.vmap(algorithm.channel.hear, in_axes=(None, 0, 0)))
    blocks = 1 if getattr(cfg, "message_routing", "per_receiver") == "broadcast" else N
    sent = random.normal(size=(*trajectories.layout.first.shape, N, blocks * D)).astype(np.float32)
    valid, avail = np.asarray(trajectories.valid), np.asarray(trajectories.observation.avail)[:, :-1]
    return lambda other: jax.tree.map(np.asarray, compiled(agent, trajectories, other)), sent, valid, avail


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lsf_sac", {}),
        pytest.param("ndq", {}, marks=pytest.mark.slow),
        pytest.param("lsf_sac", {"message_routing": "per_receiver"}, marks=pytest.mark.slow),
        pytest.param("lsf_sac", {"communicate": True}, marks=pytest.mark.slow),
    ],
)
def test_critics_that_read_one_sender_are_reported_to_hear_exactly_that_one(name, settings):
    hear, *played = games_of(name, np.eye(N, dtype=np.float32)[1], **settings)
    for replacement in REPLACEMENTS.values():
        found = hearing(hear, *played, replacement)
        assert (found.q[:, [0, 2]] == 0).all()
        assert (found.q[:, 1] > 1e-3).all()
        assert found.total[[0, 2]].tolist() == [0.0, 0.0]
        assert found.total[1] > 1e-3
        assert (found.greedy[:, [0, 2]] == 0).all()
        assert found.greedy[:, 1].max() > 0
        assert (found.policy is None) != bool(settings.get("communicate"))


def planted(listens):
    """Receiver i's q of its first action is what sender `listens[i]` says first, of the others zero."""

    def hear(sent):
        q = np.zeros((*sent.shape[:1], sent.shape[1] - 1, N, A), np.float32)
        q[..., 0] = sent[:, :-1, listens, 0]
        return Insight(q=q, total=q[..., 0].sum(-1))

    return hear


def test_each_receiver_is_reported_to_hear_the_sender_that_it_was_made_to_hear():
    listens, random = [2, 0, 2], np.random.default_rng(1)
    sent = random.normal(size=(4, T + 1, N, D)).astype(np.float32)
    valid, avail = np.ones((4, T), bool), np.ones((4, T, N, A), bool)
    valid[0, 2:] = False
    found = hearing(planted(listens), sent, valid, avail, REPLACEMENTS["silence"])
    expected = np.zeros((N, N))
    changed = np.zeros((N, N))
    said = np.concatenate([sent[b, t][None] for b in range(4) for t in range(T) if valid[b, t]])
    for receiver, sender in enumerate(listens):
        expected[receiver, sender] = np.abs(said[:, sender, 0]).mean() / A
        changed[receiver, sender] = (said[:, sender, 0] < 0).mean()  # then another action was best; silent, the first
    np.testing.assert_allclose(found.q, expected, rtol=1e-5)
    np.testing.assert_allclose(found.greedy, changed, rtol=1e-6)
    twice = np.abs(2 * said[:, 2, 0]).mean()
    np.testing.assert_allclose(found.total, [np.abs(said[:, 0, 0]).mean(), 0.0, twice], rtol=1e-5)


def test_actions_that_nobody_could_take_do_not_count():
    sent = np.ones((1, T + 1, N, D), np.float32)
    avail = np.ones((1, T, N, A), bool)
    avail[..., 0] = False
    found = hearing(planted([0, 1, 2]), sent, np.ones((1, T), bool), avail, REPLACEMENTS["silence"])
    assert not found.q.any()
    assert not found.greedy.any()


def test_shuffling_keeps_the_messages_and_what_is_padding():
    random = np.random.default_rng(2)
    said, valid = random.normal(size=(3, T + 1, D)), random.random((3, T)) < 0.6
    other = REPLACEMENTS["shuffle"](said, valid, random)
    assert (other != said).any()
    np.testing.assert_array_equal(np.sort(other[:, :-1][valid], axis=0), np.sort(said[:, :-1][valid], axis=0))
    np.testing.assert_array_equal(other[:, :-1][~valid], said[:, :-1][~valid])
    np.testing.assert_array_equal(other[:, -1], said[:, -1])


def as_messages(*numbers):
    """`[steps, 1, 1, D]`."""
    return np.stack(numbers, axis=-1)[:, None, None]


def test_bits_of_a_gaussian_message_are_those_of_the_channel_formula():
    random = np.random.default_rng(3)
    loud, quiet = random.normal(size=4000), 0.3 * random.normal(size=4000)
    whole, single = message_bits(as_messages(loud, quiet), noise=0.5)
    of_channel = lambda scale: 0.5 * np.log2(1 + (scale / 0.5) ** 2)
    np.testing.assert_allclose(single[0, 0], [of_channel(1.0), of_channel(0.3)], atol=0.08)
    np.testing.assert_allclose(whole[0, 0], of_channel(1.0) + of_channel(0.3), atol=0.12)


def test_bits_count_what_is_told_apart_and_twice_the_same_is_told_once():
    four = np.tile([0.0, 100.0, 200.0, 300.0], 64)
    whole, single = message_bits(as_messages(four, four, np.zeros(256)), noise=1.0)
    np.testing.assert_allclose(single[0, 0], [2.0, 2.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(whole, [[2.0]], atol=1e-9)


def test_kl_is_the_integral_that_defines_it():
    grid = np.linspace(-12, 12, 20_001)
    density = lambda mean, noise: np.exp(-0.5 * ((grid - mean) / noise) ** 2) / (noise * np.sqrt(2 * np.pi))
    for mean, noise in ((0.0, 1.0), (1.5, 1.0), (-0.7, 0.5)):
        p = density(mean, noise) + 1e-300
        expected = (p * np.log2(p / (density(0.0, 1.0) + 1e-300))).sum() * (grid[1] - grid[0])
        np.testing.assert_allclose(kl_bits(as_messages(np.full(3, mean)), noise).item(), expected, atol=1e-6)


def test_without_noise_there_is_no_number_of_bits():
    whole, single = message_bits(np.zeros((3, 1, 1, 2)), 0.0)
    assert np.isnan(whole).all()
    assert np.isnan(single).all()
    assert np.isinf(kl_bits(np.zeros((3, 1, 1, 2)), 0.0)).all()


@pytest.mark.slow
def test_of_a_run_with_messages_everything_is_reported_and_the_decoder_is_held_against_the_best_action(tmp_path):
    finished_run(tmp_path / "run", "ndq", "m_step", "train.seeds=1", "env.n_steps=4", block=1)
    policy = load_policies(tmp_path / "run").row(0)
    episodes = play_episodes(policy, 6)
    report = inspect_messages(policy, episodes)
    n, blocks, dim = report.bits_of_dim.shape
    assert (n, blocks, dim) == (2, 2, 3)
    assert report.steps == episodes.valid.sum()
    assert report.hearing["silence"].q.shape == (2, 2)
    assert (report.accuracy >= 0).all()
    assert (report.accuracy <= 1).all()
    assert seen_avail(policy, episodes).shape == (6, 4, 2, 2)
