"""Predator-prey: every edge case of the rules from a hand-built state, with the outcome worked out by hand."""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lsf_jax.envs.predator_prey import make_predator_prey, transition
from lsf_jax.envs.predator_prey_types import (
    CATCH,
    DOWN,
    LEFT,
    RIGHT,
    STAY,
    UP,
    PredatorPreyConfig,
    Randomness,
    State,
)

P = -2.0


class Played(NamedTuple):
    predators: list
    active: list
    prey: list
    alive: list
    reward: float
    game_over: bool
    time_limit: bool
    observation: object


@cache
def compiled(punishment):
    cfg = PredatorPreyConfig(punishment=punishment)
    env = make_predator_prey(cfg)

    def advance(state, actions, randomness):
        state, outcome = transition(state, actions, randomness, cfg)
        return state, outcome, env.observe(env.snapshot(state))

    return jax.jit(advance), jax.jit(env.step), jax.jit(lambda state: env.observe(env.snapshot(state)))


def pad(cells, off=()):
    """Eight of them: those not given, and those in `off`, are out of the game."""
    numbers = [10 * row + column for row, column in cells] + [0] * (8 - len(cells))
    there = [index < len(cells) and index not in off for index in range(8)]
    return jnp.array(numbers, jnp.int32), jnp.array(there)


def build(predators, prey, frozen=(), dead=(), time=0):
    predator, active = pad(predators, frozen)
    prey_cells, alive = pad(prey, dead)
    return State(predator=predator, active=active, prey=prey_cells, alive=alive, time=jnp.int32(time))


def complete(order):
    return jnp.array([*order, *(index for index in range(8) if index not in order)], jnp.int32)


def play(state, actions, *, order=(), prey_order=(), ranks=(), punishment=P):
    actions = jnp.array([*actions, *[STAY] * (8 - len(actions))], jnp.int32)
    randomness = Randomness(
        predator_turn=complete(order).argsort(),
        prey_turn=complete(prey_order).argsort(),
        prey_rank=jnp.array([*ranks, *[0] * (8 - len(ranks))], jnp.int32),
    )
    after, outcome, observation = jax.device_get(compiled(punishment)[0](state, actions, randomness))
    return Played(
        predators=[divmod(int(cell), 10) for cell in after.predator],
        active=after.active.tolist(),
        prey=[divmod(int(cell), 10) for cell in after.prey],
        alive=after.alive.tolist(),
        reward=float(outcome.reward),
        game_over=bool(outcome.game_over),
        time_limit=bool(outcome.time_limit),
        observation=observation,
    )


def test_case_1_two_catchers_take_the_prey_and_freeze():
    played = play(build([(5, 4), (5, 6), (9, 9)], [(5, 5), (0, 0)]), [CATCH, CATCH, STAY])
    assert played.reward == 10
    assert played.active[:3] == [False, False, True]
    assert played.alive[:2] == [False, True]


def test_case_1_three_catchers_all_freeze_for_one_reward():
    played = play(build([(5, 4), (5, 6), (4, 5), (9, 9)], [(5, 5), (0, 0)]), [CATCH] * 3)
    assert played.reward == 10
    assert played.active[:4] == [False, False, False, True]


def test_case_1_an_idle_neighbour_does_not_help_a_catcher():
    played = play(build([(5, 4), (5, 6)], [(5, 5)]), [CATCH, STAY])
    assert played.reward == P
    assert played.active[:2] == [True, True]
    assert played.alive[0]


def test_case_2_a_lone_catch_costs_p_and_the_prey_still_moves():
    played = play(build([(5, 4)], [(5, 5)]), [CATCH], ranks=[0])
    assert played.reward == P
    assert played.prey[0] == (5, 6)


def test_case_2_a_lone_catcher_between_two_prey_pays_for_both():
    assert play(build([(5, 5)], [(5, 4), (5, 6)]), [CATCH]).reward == 2 * P


def test_case_2_three_lone_pairs_pay_three_times():
    state = build([(1, 1), (4, 4), (8, 8)], [(1, 2), (4, 5), (8, 7)])
    assert play(state, [CATCH] * 3).reward == 3 * P


@pytest.mark.parametrize(("prey_order", "reward"), [((0, 1), 10.0), ((1, 0), 10.0 + P)])
def test_case_3_a_catcher_that_froze_is_not_counted_by_later_prey(prey_order, reward):
    played = play(build([(5, 5), (5, 7)], [(5, 6), (4, 5)]), [CATCH, CATCH], prey_order=prey_order)
    assert played.reward == reward
    assert played.alive[:2] == [False, True]


@pytest.mark.parametrize("first", [0, 1])
def test_case_4_two_catchers_take_only_the_first_of_two_shared_prey(first):
    played = play(build([(5, 5), (6, 6)], [(5, 6), (6, 5)]), [CATCH, CATCH], prey_order=(first, 1 - first))
    assert played.reward == 10
    assert played.alive[first] is False
    assert played.alive[1 - first] is True


def test_case_4_four_catchers_take_two_prey():
    state = build([(2, 1), (2, 3), (7, 6), (7, 8)], [(2, 2), (7, 7)])
    assert play(state, [CATCH] * 4).reward == 20


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_case_5_two_predators_cannot_swap(order):
    played = play(build([(5, 5), (5, 6)], [(0, 0)]), [RIGHT, LEFT], order=order)
    assert played.predators[:2] == [(5, 5), (5, 6)]


@pytest.mark.parametrize(("order", "cells"), [((1, 0), [(5, 6), (5, 7)]), ((0, 1), [(5, 5), (5, 7)])])
def test_case_5_a_chain_moves_whole_only_front_first(order, cells):
    assert play(build([(5, 5), (5, 6)], [(0, 0)]), [RIGHT, RIGHT], order=order).predators[:2] == cells


@pytest.mark.parametrize(("order", "cells"), [((0, 1), [(5, 6), (5, 7)]), ((1, 0), [(5, 5), (5, 6)])])
def test_case_5_the_earlier_predator_gets_the_cell(order, cells):
    assert play(build([(5, 5), (5, 7)], [(0, 0)]), [RIGHT, LEFT], order=order).predators[:2] == cells


def test_case_5_a_prey_blocks_a_predator():
    played = play(build([(5, 5)], [(5, 6)]), [RIGHT])
    assert played.predators[0] == (5, 5)
    assert played.reward == 0


@pytest.mark.parametrize(
    ("cell", "action"), [((0, 4), UP), ((9, 4), DOWN), ((4, 0), LEFT), ((4, 9), RIGHT), ((0, 9), RIGHT), ((9, 0), LEFT)]
)
def test_case_6_a_move_into_a_wall_does_nothing_and_is_masked(cell, action):
    state = build([cell], [(5, 5)])
    assert not compiled(P)[2](state).avail[0, action]
    assert play(state, [action]).predators[0] == cell


def test_case_6_a_corner_prey_has_two_directions():
    went = [play(build([(5, 5)], [(0, 0)]), [STAY], ranks=[rank]).prey[0] for rank in range(12)]
    assert went == [(0, 1), (1, 0)] * 6


def test_case_7_an_enclosed_prey_rests_and_nothing_is_earned():
    played = play(build([(0, 4), (0, 6), (1, 5)], [(0, 5)]), [STAY] * 3, ranks=[7])
    assert played.prey[0] == (0, 5)
    assert played.alive[0]
    assert played.reward == 0


def test_case_8_a_frozen_predator_neither_catches_nor_counts():
    played = play(build([(5, 4), (5, 6)], [(5, 5)], frozen=[1]), [CATCH, CATCH])
    assert played.reward == P
    assert played.alive[0]
    assert play(build([(5, 4), (5, 6)], [(5, 5)], frozen=[1]), [STAY, CATCH]).reward == 0


def test_case_8_a_frozen_predator_does_not_move():
    assert play(build([(5, 4), (0, 0)], [(9, 9)], frozen=[0]), [RIGHT]).predators[0] == (5, 4)


def test_case_8_a_frozen_predators_cell_is_free_for_predators_and_prey():
    played = play(build([(5, 4), (5, 3)], [(9, 9)], frozen=[0]), [STAY, RIGHT])
    assert played.predators[1] == (5, 4)
    played = play(build([(5, 4), (9, 9)], [(5, 3)], frozen=[0]), [STAY], ranks=[0])
    assert played.prey[0] == (5, 4)


@pytest.mark.parametrize(("prey_order", "cell"), [((0, 1), (5, 4)), ((1, 0), (4, 3))])
def test_case_8_a_cell_is_free_for_later_prey_in_the_very_step_of_freezing(prey_order, cell):
    state = build([(5, 4), (5, 6)], [(5, 5), (4, 4)])
    assert play(state, [CATCH, CATCH], prey_order=prey_order, ranks=[0, 1]).prey[1] == cell


@pytest.mark.parametrize(("prey_order", "cell"), [((0, 1), (5, 5)), ((1, 0), (4, 4))])
def test_case_8_a_dead_preys_cell_is_free_for_later_prey(prey_order, cell):
    state = build([(5, 4), (5, 6)], [(5, 5), (4, 5)])
    assert play(state, [CATCH, CATCH], prey_order=prey_order, ranks=[0, 1]).prey[1] == cell


def test_case_8_freezing_on_a_frozen_predators_cell_frees_the_cell():
    played = play(build([(5, 4), (5, 4), (5, 6)], [(5, 5)], frozen=[0]), [STAY, CATCH, CATCH])
    assert played.reward == 10
    assert played.observation.state.sum() == 0


def test_case_8_an_active_predator_on_a_frozen_ones_cell_still_blocks():
    state = build([(5, 4), (5, 4), (5, 3), (1, 1), (1, 3)], [(1, 2)], frozen=[0])
    played = play(state, [RIGHT, STAY, RIGHT, CATCH, CATCH])
    assert played.predators[2] == (5, 3)
    assert played.reward == 10


def test_case_9_the_last_active_predators_end_the_game():
    played = play(build([(5, 4), (5, 6)], [(5, 5), (0, 0)]), [CATCH, CATCH])
    assert (played.game_over, played.time_limit) == (True, False)


def test_case_9_the_last_prey_ends_the_game():
    played = play(build([(5, 4), (5, 6), (9, 9)], [(5, 5)]), [CATCH, CATCH])
    assert (played.game_over, played.time_limit) == (True, False)
    assert not play(build([(5, 4), (5, 6), (9, 9)], [(5, 5), (0, 0)]), [CATCH, CATCH]).game_over


def test_case_10_step_200_is_the_time_limit():
    played = play(build([(5, 4)], [(9, 9)], time=199), [STAY])
    assert (played.game_over, played.time_limit) == (False, True)
    assert not play(build([(5, 4)], [(9, 9)], time=198), [STAY]).time_limit


@pytest.mark.parametrize(("time", "terminal"), [(198, True), (199, False)])
def test_case_10_a_hunt_that_ends_on_step_200_counts_as_truncated(time, terminal):
    state = build([(5, 4), (5, 6)], [(5, 5)], time=time)
    _, timestep = compiled(P)[1](jax.random.key(0), state, jnp.array([CATCH] * 2 + [STAY] * 6, jnp.int32))
    assert bool(timestep.done)
    assert bool(timestep.terminal) is terminal
    assert timestep.reward == 10


def test_case_11_one_predator_alone_plays_until_the_time_limit():
    env = make_predator_prey(PredatorPreyConfig(punishment=P))

    def advance(state, key):
        state, timestep = env.step(key, state, jnp.full(8, CATCH))
        return state, (timestep.done, timestep.terminal, timestep.reward)

    keys = jax.random.split(jax.random.key(0), 200)
    start = build([(5, 5)], [(5, 6), (4, 5)])
    after, (done, terminal, reward) = jax.device_get(jax.jit(partial(jax.lax.scan, advance))(start, keys))
    assert done.tolist() == [False] * 199 + [True]
    assert not terminal.any()
    assert set(reward.tolist()) <= {0.0, P, 2 * P}
    assert after.alive[:2].all()


def test_case_12_a_corner_window_is_zero_off_the_board():
    observation = compiled(P)[2](build([(0, 0), (1, 2)], [(2, 1), (3, 0)]))
    window = np.asarray(observation.obs[0]).reshape(5, 5, 3)
    expected = np.zeros((5, 5, 3))
    expected[2, 2, 0] = expected[3, 4, 0] = expected[4, 3, 1] = 1
    np.testing.assert_array_equal(window, expected)
    assert observation.obs[0, 36] == 1


def test_case_12_a_frozen_predator_sees_nothing_may_only_stay_and_is_not_seen():
    observation = compiled(P)[2](build([(5, 5), (5, 6)], [(5, 4), (4, 4)], frozen=[0], dead=[1]))
    assert not observation.obs[0].any()
    assert observation.avail[0].tolist() == [False] * 4 + [True, False]
    assert observation.avail[1].tolist() == [True] * 5 + [False]
    expected = np.zeros((10, 10, 3))
    expected[5, 6, 0] = expected[5, 4, 1] = 1
    np.testing.assert_array_equal(np.asarray(observation.state).reshape(10, 10, 3), expected)
    window = np.asarray(observation.obs[1]).reshape(5, 5, 3)
    assert window.sum() == 2
    assert window[2, 2, 0] == window[2, 0, 1] == 1


def test_catch_is_available_beside_a_live_prey_only():
    avail = compiled(P)[2](build([(5, 5), (1, 1), (8, 8), (3, 9)], [(5, 6), (1, 2), (9, 9), (4, 0)], dead=[1])).avail
    assert avail[:4, CATCH].tolist() == [True, False, False, False]


def test_case_14_the_punishment_does_not_matter_if_nobody_catches_alone():
    state = build([(5, 4), (5, 6), (9, 9)], [(5, 5), (0, 0)])
    hard, mild = (play(state, [CATCH, CATCH], punishment=punishment) for punishment in (P, 0.0))
    assert hard.reward == mild.reward == 10
    assert hard[:5] == mild[:5]
