"""The shipped contract suite over all of our algorithms; what is slow is left out by default."""

import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.testing import contract

NAMES = sorted(ALGORITHMS)
FACTORIES = [getattr(ALGORITHMS[name].factory, "func", ALGORITHMS[name].factory) for name in NAMES]
LIKE_ANOTHER = {name for place, name in enumerate(NAMES) if FACTORIES[place] in FACTORIES[:place]}
"""What has the factory of another one, and differs in a mixer or a setting."""
LONG_TO_LEARN = LIKE_ANOTHER | {"cw_qmix", "dop", "maa2c", "vdac_mix"}
"""A game learned is ten seconds of compiling."""
SLOW = {
    "test_an_update_keeps_the_tree_and_moves_parameters_by_finite_steps": LIKE_ANOTHER,
    "test_it_can_be_built_for_predator_prey": LIKE_ANOTHER,
    "test_it_learns_the_additive_game_and_compiles_once": LONG_TO_LEARN,
    "test_a_seed_whose_parameters_are_not_numbers_hurts_nobody": LONG_TO_LEARN,
}


def marks(test, name):
    return [pytest.mark.slow] if name in SLOW.get(test, ()) else []


TestContract = contract(*(name for name in NAMES if name != "dop"), marks=marks)
TestContractOfDop = contract(
    "dop", learning={"hidden": 64, "critic_hidden": 256, "lr": 1e-3, "actor_lr": 1e-3}, marks=marks
)


def test_what_is_slow_has_tests_that_bear_the_name():
    assert all(hasattr(TestContract, test) for test in SLOW)
