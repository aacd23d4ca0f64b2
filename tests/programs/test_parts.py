"""From a configuration to the parts of a run: rows, lengths of time, and one binding for each use."""

from functools import partial

import numpy as np
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.config.composition import compose, make_env
from lsf_jax.engine.packing import observe_rows
from lsf_jax.platforms import compiling_for
from lsf_jax.programs import parts
from lsf_jax.programs.parts import bind, make_rows, take_rows
from lsf_jax.settings import ConfigError
from tests.support.engine_cases import advance, bits, chunk_of, program_of, small, start

SWEEP = small("train.buffer_capacity=65536", "seeds=2", "algo.lr=1e-3,3e-3", "algo.beta=0.1,0.2,0.3")


def test_rows_are_grid_points_times_seeds_with_seeds_fastest():
    rows = make_rows(SWEEP, program_of(SWEEP).algorithm)
    assert rows.seed.tolist() == [0, 1] * 6
    assert rows.grid.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    # Keys in alphabetical order, the last one fastest.
    np.testing.assert_array_equal(rows.hyper.beta, np.repeat(np.float32([0.1, 0.2, 0.3]), 4))
    np.testing.assert_array_equal(rows.hyper.lr, np.tile(np.repeat(np.float32([1e-3, 3e-3]), 2), 3))
    np.testing.assert_array_equal(rows.hyper.discount, np.full(12, np.float32(SWEEP.algo.discount)))


def test_a_last_block_is_filled_up_with_seeds_that_nobody_uses():
    rows = make_rows(SWEEP, program_of(SWEEP).algorithm)
    last = take_rows(rows, 9, 5)
    assert last.seed[:3].tolist() == [1, 0, 1]
    assert set(last.seed[3:]).isdisjoint(rows.seed)
    assert len(set(last.seed[3:])) == 2
    assert last.grid.tolist() == [4, 5, 5, 5, 5]
    assert last.hyper.lr.shape == (5,)
    assert take_rows(rows, 4, 4).seed.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_all_updates_are_packed(name):
    config = compose(algo=name, env="m_step", overrides=["env.n_steps=8", "algo.batch_size=8", "train.n_envs=8"])
    env = make_env(config)._replace(ends_early=True)
    algorithm = ALGORITHMS[name].factory(env.spec, config.algo, partial(observe_rows, env))
    for platform, slots in (("cpu", 2), ("gpu", 8)):
        with compiling_for(platform):
            sizes = parts.make_sizes(config, env, algorithm, None)
        assert sizes.lengths == (2, 4, 6, 8)
        assert sizes.slots == slots
        assert sizes.packs


@pytest.mark.parametrize(("masked", "asked", "found"), [(True, 0, 4), (False, 0, 1), (True, 2, 2), (False, 1, 1)])
def test_losses_that_read_the_padding_get_a_single_length_of_time(monkeypatch, masked, asked, found):
    config = small(f"algo.mask_messages={str(masked).lower()}", f"train.lengths={asked}")
    monkeypatch.setattr(parts, "make_env", lambda config: make_env(config)._replace(ends_early=True))
    sizes = parts.bind(config).sizes
    assert len(sizes.lengths) == found
    assert sizes.packs == masked


def test_several_lengths_for_losses_that_read_the_padding_are_refused():
    with pytest.raises(
        ConfigError, match=r"lengths is 3; expected 1 with algo.mask_messages=false.* change algo.mask_messages$"
    ):
        bind(small("algo.mask_messages=false", "train.lengths=3"))


@pytest.mark.parametrize(("anneal_steps", "moves"), [(0, True), (1000, False)])
def test_learning_rates_of_a_run_fall_where_its_settings_say_so(anneal_steps, moves):
    config = small(f"algo.lr_anneal={anneal_steps}", "train.env_steps=10", algo="vdn")
    state = start(config)
    late = state._replace(clock=state.clock._replace(env_steps=state.clock.env_steps + 1000))
    before = bits(state.agent.params)
    after, log = advance(chunk_of(config), late, 4)
    assert (log.metrics["q_gradient_norm"][3] > 0).all()
    assert any(map(np.any, map(np.not_equal, bits(after.agent.params), before))) is moves


def test_learning_rates_that_are_zero_before_the_end_are_refused():
    with pytest.raises(ConfigError) as refused:
        compose(algo="qmix", env="climbing", overrides=["algo.lr_anneal=1000", "train.env_steps=1001"])
    assert str(refused.value) == (
        "algo.lr_anneal is 1000; expected at least train.env_steps (1001), or 0 to keep the rates: nothing is learned "
        "after"
    )
    with pytest.raises(ConfigError, match=r"^algo.lr_anneal is 0\.25; expected"):
        compose(algo="qmix", env="climbing", overrides=["algo.lr_anneal=0.25"])
    words = ["algo.lr_anneal=1000", "train.env_steps=1000"]
    assert compose(algo="qmix", env="climbing", overrides=words).algo.lr_anneal == 1000
