import numpy as np

from lsf_jax.config.composition import compose
from lsf_jax.config.grids import Swept
from lsf_jax.runs.setting_values import setting_columns, settings_by_point


def test_swept_settings_come_first_and_the_last_key_runs_fastest():
    sections = {"algo": {"name": "qmix", "lr": 0.1, "hidden": 64}, "env": {"name": "penalty", "deadline": None}}
    found = settings_by_point(sections, Swept({"algo.lr": [0.1, 0.2], "algo.trace": [0, 1]}))
    assert list(found) == ["algo.lr", "algo.trace", "algo.name", "algo.hidden", "env.name"]
    assert found["algo.lr"].tolist() == [0.1, 0.1, 0.2, 0.2]
    assert found["algo.trace"].tolist() == [0, 1, 0, 1]
    assert found["algo.hidden"].dtype == np.int64
    assert found["env.name"].tolist() == ["penalty"] * 4


def test_the_rows_of_a_table_have_the_settings_of_their_grid_point_and_none_of_the_machine():
    config = compose(algo="qmix", env="matrix_game", overrides=["algo.lr=0.1,0.2", "seeds=2"])
    found = setting_columns(config, np.array([0, 1, 1, 0]))
    assert found["algo.lr"].tolist() == [0.1, 0.2, 0.2, 0.1]
    assert found["algo.name"].tolist() == ["qmix"] * 4
    assert found["train.n_envs"].tolist() == [config.train.n_envs] * 4
    assert not {"train.run_dir", "train.env_steps", "train.sinks"} & set(found)
