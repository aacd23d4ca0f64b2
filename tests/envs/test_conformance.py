"""The shipped conformance suite over every environment of ours, registered or probe, and games on the host."""

import pytest

from lsf_jax.envs import ENVS, make
from lsf_jax.envs.probes import PROBES
from lsf_jax.registry import Entry
from lsf_jax.testing import conformance
from tests.support.host_cases import ToyConfig, host_toy, make_toy
from tests.support.jaxmarl_cases import needs_jaxmarl
from tests.support.jumanji_cases import needs_jumanji

CHANCY = "reward_of_observation"
VARIANTS = {
    **{name: (entry, {}) for name, entry in PROBES.items() if name != CHANCY},
    "predator_prey, small": ("predator_prey", {"grid_size": 4, "n_predators": 3, "n_prey": 2, "episode_limit": 12}),
    "two_state, aliased": ("two_state", {"variant": "aliased"}),
    "climbing, repeated": ("climbing", {"episode_limit": 25}),
    "matrix_game, three agents": ("matrix_game", {"n_agents": 3, "payoff": (((1.0, 2.0), (0.0, 3.0)),) * 2}),
    "m_step, four branches": ("m_step", {"n_steps": 3, "good_branches": 4}),
    "jaxmarl, speaker and listener": ("jaxmarl", {"game": "MPE_simple_speaker_listener_v4"}),
    "jaxmarl, riddle": ("jaxmarl", {"game": "switch_riddle"}),
    "jaxmarl, coins, stored": ("jaxmarl", {"game": "coin_game", "view": "stored", "episode_limit": 12}),
    "jaxmarl, hanabi": ("jaxmarl", {"game": "hanabi", "episode_limit": 40}),
    "jaxmarl, kitchen": ("jaxmarl", {"game": "overcooked", "arguments": {"max_steps": 20}}),
    "jaxmarl, battle": ("jaxmarl", {"game": "HeuristicEnemySMAX", "arguments": {"max_steps": 20}}),
    "jumanji, warehouse": ("jumanji", {"episode_limit": 30}),
    "jumanji, foraging": ("jumanji", {"game": "LevelBasedForaging-v0", "episode_limit": 30}),
    "smax, teams drawn": ("smax", {"scenario": "smacv2_5_units", "max_steps": 40}),
}
TOY = Entry("toy", ToyConfig, make_toy, "a game on the host", hosted=host_toy)


NEEDS = {"jaxmarl": needs_jaxmarl, "jumanji": needs_jumanji}
SLOW = ("jaxmarl, hanabi", "jaxmarl, kitchen", "jaxmarl, battle", "jumanji, warehouse")


def marks(test, name):
    needed = [mark for package, mark in NEEDS.items() if name.startswith(package)]
    return [*needed, pytest.mark.slow] if name in SLOW else needed


HERE = [name for name, entry in ENVS.items() if entry.hosted is None and name != "jumanji"]  # below, cut short
TestConformance = conformance(*HERE, variants=VARIANTS, marks=marks)
TestConformanceOfChance = conformance(
    variants={CHANCY: (PROBES[CHANCY], {})},
    exempt={"test_no_random_episode_beats_the_best_return": "chance decides what can be earned; it is an average"},
)
TestConformanceOnTheHost = conformance(variants={"toy": (TOY, {}), "toy, losing games": (TOY, {"lose_every": 2})})


def test_unknown_names_and_settings_are_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean predator_prey"):
        make("predator_pray")
    with pytest.raises(ValueError, match=r"env\.penalti is not a setting of penalty; did you mean penalty"):
        make("penalty", penalti=3)


def test_plain_data_builds_an_environment():
    assert make("matrix_game", payoff=[[1, 2], [3, 4]]).max_return == 4
    assert make("predator_prey", punishment=0).max_return == 40


def test_probes_are_not_registered():
    assert not set(PROBES) & set(ENVS)
