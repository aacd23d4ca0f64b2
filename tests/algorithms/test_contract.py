"""The shipped contract suite over all of our algorithms; what is slow is left out by default."""

import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.testing import contract

NAMES = sorted(ALGORITHMS)
FACTORIES = [getattr(ALGORITHMS[name].factory, "func", ALGORITHMS[name].factory) for name in NAMES]
LIKE_ANOTHER = {name for place, name in enumerate(NAMES) if FACTORIES[place] in FACTORIES[:place]} - {"qmix"}
"""What has the factory of another one, and differs in a mixer or a setting: by default its oracle is enough."""
LONG = {"coma", "cw_qmix", "dop", "fop", "maa2c", "ndq", "qmix", "qtran", "vdac_mix"}
"""A game learned is ten seconds of compiling."""
SLOW = {
    "test_it_learns_the_additive_game_and_compiles_once": LONG,
    "test_a_seed_whose_parameters_are_not_numbers_hurts_nobody": LONG,
}
RATES = {"lr": {"q", "critic", "actor_critic"}, "actor_lr": {"actor"}, "alpha_lr": {"temperature"}}


def marks(test, name):
    return [pytest.mark.slow] if name in LIKE_ANOTHER | SLOW.get(test, set()) else []


TestContract = contract(*(name for name in NAMES if name != "dop"), rates=RATES, marks=marks)
TestContractOfDop = contract(
    "dop", learning={"hidden": 64, "critic_hidden": 256, "lr": 1e-3, "actor_lr": 1e-3}, rates=RATES, marks=marks
)


def test_what_is_slow_has_tests_that_bear_the_name():
    assert all(hasattr(TestContract, test) for test in SLOW)
