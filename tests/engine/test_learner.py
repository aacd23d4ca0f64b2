"""The update engine on a linear toy: closed-form gradients, their routing, slices of a batch, target copies."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lsf_jax.engine.learner import (
    Learner,
    anneal_rates,
    detach_others,
    hard_copy,
    make_update,
    optimizer_step,
    rate_names,
    sum_over_valid,
)
from lsf_jax.engine.optimizers import adam
from lsf_jax.types import AgentState, Clock, Episode, Layout, Observation, Trajectory

BATCH, TIME, STATE = 6, 5, 3
LENGTHS = np.array([1, 5, 2, 4, 3, 5])


class ToyHyper(NamedTuple):
    rate_a: jax.Array
    rate_b: jax.Array


class ToyForward(NamedTuple):
    a: jax.Array  # [T] xₜ·w_a
    b: jax.Array  # [T] xₜ·w_b
    target_a: jax.Array  # [T] xₜ₊₁·w⁻_a
    noise: jax.Array  # [T]


CLOCK = Clock(env_steps=jnp.int32(0), episodes=jnp.int32(0), updates=jnp.int32(0))
HYPER = ToyHyper(rate_a=jnp.float32(0.1), rate_b=jnp.float32(0.3))


def observe(rows):
    state, action, reward, terminal, valid, first = (
        jnp.swapaxes(leaf, 0, 1)
        for leaf in (rows.world, rows.action, rows.reward, rows.terminal, rows.valid, rows.first)
    )
    seen = Observation(obs=state[:, :, None], state=state, avail=jnp.ones((*state.shape[:2], 1, 2), bool))
    return Trajectory(seen, action.astype(jnp.int32), reward, terminal, valid, Layout(first, rows.steps))


def forward(params, targets, trajectory, keys, *, noise):
    x = trajectory.observation.state
    return ToyForward(
        a=x[:-1] @ params["a"],
        b=x[:-1] @ params["b"],
        target_a=x[1:] @ targets["a"],
        noise=noise * jax.vmap(jax.random.normal)(keys[:-1]),
    )


def loss_a(f, trajectory, clock, hyper):
    del clock, hyper
    return {"td": 0.5 * (f.a - trajectory.reward - f.target_a) ** 2, "coupling": (f.b + f.noise) * f.a}


def loss_b(f, trajectory, clock, hyper):
    del trajectory, clock, hyper
    return {"follow": 0.5 * (f.b - f.a) ** 2}


def diagnose(f, trajectory, clock, hyper):
    del trajectory, clock, hyper
    return {"sum": f.a + f.b}


def toy(noise=0.0, owns=None, optimizer=optax.identity):
    return Learner(
        forward=partial(forward, noise=noise),
        losses={"a": loss_a, "b": loss_b},
        owns=owns or {"a": ("a",), "b": ("b",)},
        diagnose=diagnose,
        optimizers={"a": optimizer(), "b": optimizer()},
        learning_rates=lambda hyper: {"a": hyper.rate_a, "b": hyper.rate_b},
    )


def agent_for(learner):
    rng = np.random.default_rng(0)
    a, b, target = jnp.asarray(rng.normal(size=(3, STATE)), jnp.float32)
    params = {"a": a, "b": b}
    return AgentState(
        params=params,
        targets={"a": target},
        opt_state={group: learner.optimizers[group].init(params[group]) for group in params},
    )


def episodes_with(garbage=0.0):
    rng = np.random.default_rng(1)
    world = rng.normal(size=(BATCH, TIME + 1, STATE))
    reward = rng.normal(size=(BATCH, TIME))
    valid = np.arange(TIME)[None, :] < LENGTHS[:, None]
    world[:, 1:][~valid], reward[~valid] = garbage, garbage
    return Episode(
        world=jnp.asarray(world, jnp.float32),
        action=jnp.zeros((BATCH, TIME, 1), jnp.uint8),
        reward=jnp.asarray(reward, jnp.float32),
        terminal=jnp.zeros((BATCH, TIME), bool),
        valid=jnp.asarray(valid),
        info={},
    )


def closed_form(agent, episodes):
    """Mean gradients and metrics over valid steps, by a loop in float64."""
    w_a, w_b, w_t = (np.asarray(w, np.float64) for w in (agent.params["a"], agent.params["b"], agent.targets["a"]))
    world, reward = np.asarray(episodes.world, np.float64), np.asarray(episodes.reward, np.float64)
    gradient, metrics, count = {"a": 0.0, "b": 0.0}, dict.fromkeys(("td", "coupling", "follow", "sum"), 0.0), 0
    for i in range(BATCH):
        for t in range(LENGTHS[i]):
            x, a, b = world[i, t], world[i, t] @ w_a, world[i, t] @ w_b
            error = a - reward[i, t] - world[i, t + 1] @ w_t
            gradient["a"] = gradient["a"] + (error + b) * x  # nothing from `follow`: group b owns it
            gradient["b"] = gradient["b"] + (b - a) * x  # nothing from `coupling`
            terms = {"td": 0.5 * error**2, "coupling": a * b, "follow": 0.5 * (b - a) ** 2, "sum": a + b}
            metrics = {name: metrics[name] + value for name, value in terms.items()}
            count += 1
    mean = partial(jax.tree.map, lambda value: value / count)
    return mean(gradient), mean(metrics)


def run(learner, episodes, micro_batch=0, hyper=HYPER, seed=0):
    update = jax.jit(partial(make_update(learner, observe), micro_batch=micro_batch))
    return update(agent_for(learner), episodes, jax.random.key(seed), CLOCK, hyper)


def test_one_update_takes_the_closed_form_step_in_every_group():
    agent, episodes = agent_for(toy()), episodes_with()
    gradient, expected = closed_form(agent, episodes)
    after, metrics = run(toy(), episodes)
    for group, rate in (("a", 0.1), ("b", 0.3)):
        step = np.asarray(agent.params[group] - after.params[group], np.float64)
        np.testing.assert_allclose(step, rate * gradient[group], rtol=1e-4, atol=1e-6)
        norms = np.linalg.norm(gradient[group]), np.linalg.norm(after.params[group])
        np.testing.assert_allclose(metrics[f"{group}_gradient_norm"], norms[0], rtol=1e-5)
        np.testing.assert_allclose(metrics[f"{group}_parameter_norm"], norms[1], rtol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(after.targets["a"], agent.targets["a"])


def test_each_group_learns_only_through_the_fields_it_owns():
    agent, episodes = agent_for(toy()), episodes_with()
    everything = {"a": ToyForward._fields, "b": ToyForward._fields}
    gradient, _ = closed_form(agent, episodes)
    leaking = run(toy(owns=everything), episodes)[0]
    for group, rate in (("a", 0.1), ("b", 0.3)):
        step = np.asarray(agent.params[group] - leaking.params[group])
        assert np.abs(step - rate * gradient[group]).max() > 1e-2  # the table is what routes
    frozen = run(toy(owns={"a": (), "b": ("b",)}), episodes)[0]
    np.testing.assert_array_equal(frozen.params["a"], agent.params["a"])
    assert (frozen.params["b"] != agent.params["b"]).all()


def test_detach_others_keeps_values_and_stops_gradients():
    record = ToyForward(*jnp.arange(4.0))

    def weighted(record):
        kept = detach_others(record, ("a", "noise"))
        return kept.a + 10.0 * kept.b + 100.0 * kept.target_a + 1000.0 * kept.noise

    assert weighted(record) == 3210.0
    assert jax.grad(weighted)(record) == ToyForward(a=1.0, b=0.0, target_a=0.0, noise=1000.0)
    assert isinstance(detach_others(record, ()), ToyForward)


def test_owning_what_is_no_field_is_an_error_and_no_lost_gradient():
    with pytest.raises(ValueError, match=r"ToyForward has no bb; it has \('a', 'b'"):
        detach_others(ToyForward(*jnp.arange(4.0)), ("a", "bb"))


@pytest.mark.parametrize("micro_batch", [1, 2, 3, BATCH])
def test_slices_of_any_size_give_the_whole_batchs_update(micro_batch):
    learner = toy(noise=1.0, optimizer=lambda: adam(1.0))  # noise: every row keeps its own key in any slicing
    whole, sliced = (run(learner, episodes_with(), size) for size in (0, micro_batch))
    assert jax.tree.structure(whole) == jax.tree.structure(sliced)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(sliced)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_lengths_differ_enough_to_tell_a_mean_over_steps_from_a_mean_of_means():
    agent, world = agent_for(toy()), np.asarray(episodes_with().world)
    difference = np.asarray(agent.params["b"]) - np.asarray(agent.params["a"])
    rows = [world[i, :length] for i, length in enumerate(LENGTHS)]
    mean_of_means = np.mean([((x @ difference)[:, None] * x).mean(0) for x in rows], axis=0)
    gradient, _ = closed_form(agent, episodes_with())
    assert np.abs(mean_of_means - gradient["b"]).max() > 1e-2  # so the comparison above can tell the two apart


def test_every_episode_draws_its_own_noise_from_the_updates_key():
    def mean_noise(f, trajectory, clock, hyper):
        del trajectory, clock, hyper
        return {"noise": f.noise}

    learner = toy(noise=1.0)._replace(diagnose=mean_noise)
    episodes = episodes_with()._replace(valid=jnp.ones((BATCH, TIME), bool))
    update = partial(make_update(learner, observe), micro_batch=2)
    noise = jax.jit(jax.vmap(lambda key: update(agent_for(learner), episodes, key, CLOCK, HYPER)[1]["noise"]))
    drawn = np.asarray(noise(jax.random.split(jax.random.key(0), 1000)))
    # of 30 independent draws each: shared by slices the variance would be 3 times this, by all episodes 6 times
    assert 0.8 < drawn.var() * BATCH * TIME < 1.25


def test_garbage_in_padded_rows_changes_no_bit():
    # row L of the world is real, so garbage starts behind it
    episodes = episodes_with()
    behind = np.arange(TIME + 1)[None, :] > LENGTHS[:, None]
    dirty = episodes._replace(
        world=jnp.where(behind[:, :, None], 1e3, episodes.world),
        reward=jnp.where(episodes.valid, episodes.reward, -1e3),
    )
    for a, b in zip(jax.tree.leaves(run(toy(), episodes)), jax.tree.leaves(run(toy(), dirty))):
        np.testing.assert_array_equal(a, b)


def test_sum_over_valid_ignores_nan_in_padding():
    valid = jnp.array([True, True, False, False])
    values = jnp.array([1.0, 2.5, jnp.nan, jnp.inf])
    assert sum_over_valid(values, valid) == 3.5
    np.testing.assert_array_equal(jax.grad(sum_over_valid)(values, valid), [1, 1, 0, 0])


def test_a_batch_without_a_valid_step_changes_nothing():
    empty = episodes_with()._replace(valid=jnp.zeros((BATCH, TIME), bool))
    after, metrics = run(toy(), empty)
    for group in ("a", "b"):
        np.testing.assert_array_equal(after.params[group], agent_for(toy()).params[group])
    assert all(np.isfinite(value) for value in metrics.values())


def test_learning_rates_are_traced_numbers():
    update = jax.jit(make_update(toy(), observe))
    for rate in (0.0, 0.1, 0.7):
        hyper = HYPER._replace(rate_a=jnp.float32(rate))
        after, _ = update(agent_for(toy()), episodes_with(), jax.random.key(0), CLOCK, hyper)
        gradient, _ = closed_form(agent_for(toy()), episodes_with())
        step = np.asarray(agent_for(toy()).params["a"] - after.params["a"])
        np.testing.assert_allclose(step, rate * gradient["a"], rtol=1e-4, atol=1e-6)
    assert update._cache_size() == 1


def test_one_optimizer_step_moves_one_group_by_its_rate_and_keeps_the_optimizers_state():
    momentum = optax.trace(decay=0.5)
    params, state = {"w": jnp.array([1.0, 2.0])}, momentum.init({"w": jnp.zeros(2)})
    for gradient, expected in (([2.0, -4.0], [0.5, 3.0]), ([0.0, 8.0], [0.25, 1.5])):  # steps (2, -4), (1, 6)
        params, state = optimizer_step(momentum, jnp.float32(0.25), params, state, {"w": jnp.array(gradient)})
        np.testing.assert_array_equal(params["w"], expected)


def clock_at(episodes):
    return CLOCK._replace(episodes=jnp.asarray(episodes, jnp.int32))


def toy_agent(value=1.0):
    params = {"a": jnp.full((2,), value), "b": jnp.full((3,), 2.0 * value)}
    return AgentState(params=params, targets=jax.tree.map(jnp.zeros_like, params), opt_state={})


@pytest.mark.parametrize(
    ("before", "after", "is_due"),
    [(0, 8, False), (192, 199, False), (192, 200, True), (196, 204, True), (200, 208, False), (0, 1000, True)],
)
def test_targets_are_copied_when_the_count_crosses_a_multiple(before, after, is_due):
    refreshed = jax.jit(hard_copy(200, ("a",)))(toy_agent(), clock_at(after), clock_at(before))
    np.testing.assert_array_equal(refreshed.targets["a"], np.full(2, float(is_due)))
    np.testing.assert_array_equal(refreshed.targets["b"], np.zeros(3))  # not its group
    np.testing.assert_array_equal(refreshed.params["a"], np.ones(2))


def test_steps_that_do_not_divide_the_interval_still_copy_once_for_each_multiple():
    refresh = jax.jit(hard_copy(10, ("a",)))
    copies = 0
    for step in range(1, 31):  # 7 episodes an iteration: 210 episodes, 21 multiples of 10
        copies += int(refresh(toy_agent(), clock_at(7 * step), clock_at(7 * (step - 1))).targets["a"][0])
    assert copies == 21


def test_the_copy_stays_a_cond_under_the_seed_axis():
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), toy_agent())
    refresh = jax.vmap(hard_copy(200, ("a", "b")), in_axes=(0, None, None))
    program = str(jax.make_jaxpr(refresh)(seeds, clock_at(200), clock_at(192)))
    assert "cond[" in program
    assert "select_n" not in program.split("cond[")[1]


class SeveralRates(NamedTuple):
    discount: float
    lr: float
    actor_lr: float
    lrs: float


@pytest.mark.parametrize(("env_steps", "left"), [(0, 1.0), (250, 0.75), (999, 0.001), (1000, 0.0), (5000, 0.0)])
def test_rates_that_fall_are_a_straight_line_to_zero_and_no_other_number_changes(env_steps, left):
    def told(agent, batch, key, clock, hyper, *, micro_batch=0):
        return hyper, {"micro_batch": micro_batch}

    clock = CLOCK._replace(env_steps=jnp.int32(env_steps))
    before = SeveralRates(discount=0.9, lr=0.5, actor_lr=0.25, lrs=3.0)
    hyper, rest = anneal_rates(told, 1000.0)(None, None, None, clock, before, micro_batch=4)
    np.testing.assert_allclose(hyper, (0.9, 0.5 * left, 0.25 * left, 3.0), rtol=1e-4)
    assert rest == {"micro_batch": 4}
    assert rate_names(before._fields) == ("lr", "actor_lr")
