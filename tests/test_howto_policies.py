"""The page on policies: its examples run from top to bottom, as a reader would run them."""

import re
from pathlib import Path

import numpy as np
import pytest

from lsf_jax.cli.app import parser
from tests.support.run_cases import finished_run

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "policies.md"


SMALL = ("train.seeds=2", "algo.recurrent=false", "env.n_steps=4")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_examples_run(tmp_path, monkeypatch, capsys):
    finished_run(tmp_path / "runs" / "NAME", "lsf_sac", "m_step", *SMALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(blocks("python")), names)
    assert "'q', 'log_pi', 'messages', 'total', 'weights', 'record'" in capsys.readouterr().out
    np.testing.assert_array_equal(names["record"].q.shape[1:], (5, *names["inside"].q.shape[1:]))
    np.testing.assert_allclose(names["record"].log_pi[:-1], names["inside"].log_pi, rtol=1e-4, atol=1e-5)


def test_the_commands_parse():
    for command in blocks("bash"):
        options = parser().parse_args(command.split()[1:])
        assert options.init_from == "runs/NAME"
