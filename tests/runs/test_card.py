"""The configuration card: the protocol of a run in the words of papers."""

import dataclasses

from lsf_jax.config.composition import compose
from lsf_jax.programs.parts import bind
from lsf_jax.runs.card import card_text, setup_card

GAME = ("env.episode_limit=25",)


def card_of(config):
    return setup_card(config, bind(config))


def test_the_card_tells_rates_and_ratios_in_the_units_of_papers():
    words = ["train.n_envs=8", "algo.batch_size=32", "algo.updates=2", "train.env_steps=50000", *GAME]
    setup = card_of(compose(algo="qmix", env="climbing", overrides=words))
    assert setup["algorithm"] == "qmix"
    assert setup["environment"] == "climbing version 1"
    assert "at most 25 steps" in setup["sizes"]
    assert setup["updates"] == "2 after 8 episodes, 10 per 1,000 env steps of full episodes"  # 2 in 8 · 25 steps
    assert setup["replay ratio"] == "8 episodes replayed for each collected"  # 2 · 32 / 8
    assert setup["budget"] == "50,000 env steps a seed"
    assert setup["TD(λ)"] == "0.8"
    assert setup["target copy"] == "200 episodes between hard target copies"
    assert setup["env.episode_limit"] == "25"
    assert setup["replay"] == "5,000 episodes"
    assert setup["batch"] == "32 episodes"
    assert setup["exploration"] == "ε 1.0 to 0.05 over 100000.0 env steps"
    assert setup["evaluation"].startswith("greedy, 32 episodes")
    assert "hidden 64" in setup["networks"]


def test_what_an_adapter_made_of_a_game_is_told_after_its_settings():
    config = compose(algo="qmix", env="climbing")
    program = bind(config)
    notes = (("team reward", "mean of 3 agents' rewards"), ("state", "all observations side by side"))
    setup = setup_card(config, program._replace(env=program.env._replace(notes=notes)))
    assert (setup["env team reward"], setup["env state"]) == (notes[0][1], notes[1][1])
    assert not [key for key in setup_card(config, program) if key.startswith("env ")]


def test_updates_of_the_train_section_win_and_swept_numbers_show_all_values():
    words = ["algo.updates=3", "algo.lr=1e-3,3e-4", *GAME]
    setup = card_of(compose(algo="qmix", env="climbing", overrides=words))
    assert setup["updates"].startswith("3 after")
    assert setup["learning rates"] == "lr 0.001 | 0.0003"
    assert "| 0.0003" not in card_text(setup)  # a stroke would end the cell


def test_learning_rates_that_fall_say_so():
    setup = card_of(compose(algo="qmix", env="climbing", overrides=["algo.lr_anneal=1e6", *GAME]))
    assert setup["learning rates"] == "lr 0.0005, falling to 0 over 1,000,000 env steps"
    assert "algo.lr_anneal" not in setup


def test_an_actor_that_samples_says_so_and_its_own_settings_are_listed():
    setup = card_of(compose(algo="lsf_sac", env="climbing"))
    assert setup["exploration"] == "a ~ π"
    assert setup["algo.message_routing"] == "broadcast"
    assert "actor_lr" in setup["learning rates"]


def test_what_an_algorithm_replays_is_told_and_in_which_unit_targets_are_copied():
    coma = card_of(compose(algo="coma", env="climbing"))
    assert (coma["replay"], coma["batch"]) == ("8 episodes", "8 episodes")  # its newest batch, no replay
    assert coma["target copy"] == "200 critic steps, one for each time step, between hard target copies"
    dop = card_of(compose(algo="dop", env="climbing"))
    assert dop["replay"] == "latest 8, off 5,000, on 16 episodes"
    assert dop["batch"] == "latest 8, off 16, on 8 episodes"
    assert dop["replay ratio"] == "4 episodes replayed for each collected"  # (8 + 16 + 8) / 8


def test_settings_that_an_algorithm_lacks_are_dashes_and_its_optimiser_then_adam():
    @dataclasses.dataclass(frozen=True)
    class Bare:
        lr: float = 1e-3
        updates: int = 1
        knob: int = 3

    config = compose(algo="qmix", env="climbing")
    setup = setup_card(dataclasses.replace(config, algo=Bare()), bind(config))
    lacking = ("discount", "TD(λ)", "target copy", "exploration", "networks", "gradient clipping")
    assert {setup[item] for item in lacking} == {"-"}
    assert (setup["optimiser"], setup["learning rates"], setup["algo.knob"]) == ("adam", "lr 0.001", "3")
