"""The file that a user starts from: every key with its value, meaning and range, read back to an equal config."""

import dataclasses

import pytest

from lsf_jax import algorithms, envs
from lsf_jax.config import yaml12
from lsf_jax.config.composition import compose, from_yaml
from lsf_jax.config.documents import documentation, to_documented_yaml, to_yaml

CASES = [{"algo": name} for name in algorithms.ALGORITHMS] + [{"env": name} for name in envs.ENVS]
CASES += [
    {"env": "smax/27m_vs_30m", "presets": ["smax"]},
    {"env": "two_state_opposed", "algo": "coma", "presets": ["pymarl"]},
    {"presets": ["matrix"], "overrides": ["algo.lr=1e-3,3e-4", "algo.trace=0,0.5"]},
    {"overrides": ["train.sinks=[wandb]", "train.name='3e-4'", "train.run_dir='a: #b'", "train.cache_dir=off"]},
    {"overrides": [f"train.run_dir={'long folder ' * 40}x", 'train.name="two\\nlines, \\ttab"']},
    {"env": "matrix_game", "overrides": [f"env.payoff={[[0.125 * i * j for i in range(24)] for j in range(24)]}"]},
]


def label(case):
    return "-".join(str(value)[:24] for value in case.values())


@pytest.mark.parametrize("case", CASES, ids=label)
def test_a_documented_file_is_read_back_to_an_equal_configuration(case, tmp_path):
    made = compose(**case)
    path = tmp_path / "mine.yaml"
    path.write_text(to_documented_yaml(made), encoding="utf-8")
    assert compose(files=[path]) == made
    assert from_yaml(path.read_text(encoding="utf-8")) == made
    assert yaml12.parse(to_documented_yaml(made), "mine") == yaml12.parse(to_yaml(made), "resolved")


@pytest.mark.parametrize("case", CASES[: len(algorithms.ALGORITHMS) + len(envs.ENVS)], ids=label)
def test_above_every_key_stands_what_it_means_and_its_range(case):
    made = compose(**case)
    docs = {entry.key: entry for entry in documentation(made)}
    assert len(docs) == sum(len(dataclasses.fields(part)) for part in (made.algo, made.env, made.train))
    section, above, seen = "", "", []
    for line in to_documented_yaml(made).splitlines():
        if line and not line.startswith((" ", "#")):
            section = line.removesuffix(":")
        key = f"{section}.{line.strip().partition(':')[0]}"
        if line.startswith("  ") and not line.startswith(("   ", "  #")) and key in docs and key not in seen:
            entry = docs[key]
            assert above.startswith(f"  # {entry.doc} ({entry.allowed}")
            assert above.endswith(" [sweep]") == entry.swept
            seen.append(key)
        above = line
    assert seen == list(docs)


def test_a_changed_value_stands_with_its_default():
    lines = to_documented_yaml(compose(algo="qmix", overrides=["algo.lr=0.25", "train.seeds=9"])).splitlines()
    assert "default 0.0005" in lines[lines.index("  lr: 0.25") - 1]
    assert "default 4" in lines[lines.index("  seeds: 9") - 1]
    assert "default" not in lines[lines.index("  seed: 0") - 1].partition("(")[2]


def test_a_swept_grid_stands_at_the_end():
    text = to_documented_yaml(compose(algo="qmix", overrides=["algo.lr=1e-3,3e-4"]))
    assert text.endswith("\ngrid:\n  algo.lr: [0.001, 0.0003]\n")
    assert "  lr: 0.001\n" in text
