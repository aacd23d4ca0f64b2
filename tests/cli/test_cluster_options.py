import importlib.util

import pytest

from lsf_jax.cli.app import main
from lsf_jax.cli.arguments import _resources
from lsf_jax.settings import ConfigError


def last_line(capsys):
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    "command", [["train"], ["sweep"], ["resume", "runs/x"], ["suite", "table1"], ["reproduce", "fig3"]]
)
def test_without_ray_every_command_says_what_to_install(command, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([*command, "--cluster", "auto"]) == 2
    assert "pip install 'lsf-jax[cluster]'" in last_line(capsys)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--cluster", "somewhere"], "expected auto, local, local:N or HOST:PORT"),
        (["--mixed"], "--mixed is given without --cluster"),
        (["--no-shared-folder"], "--no-shared-folder is given without --cluster"),
        (["--per-block", "GPU=1"], "--per-block is given without --cluster"),
    ],
)
def test_what_does_not_go_together_is_one_line(words, text, capsys):
    assert main(["train", *words]) == 2
    assert text in last_line(capsys)


def test_resources_are_read():
    assert _resources("") == {}
    assert _resources("CPU=2,accelerator_type:H100=0.001") == {"CPU": 2.0, "accelerator_type:H100": 0.001}
    for wrong in ("CPU", "CPU=x", "=1", "CPU=0", "CPU=-1", "CPU=inf"):
        with pytest.raises(ConfigError, match="expected NAME=AMOUNT"):
            _resources(wrong)


@pytest.mark.parametrize("text", ["16", "16x8", "0x8xh100", "16x8xh100,x2"])
def test_a_cluster_to_plan_for_has_a_form(text, capsys):
    assert main(["plan", "--cluster", text]) == 2
    assert "expected NODESxDEVICESxCHIP such as 16x8xh100" in last_line(capsys)


def test_a_cluster_to_plan_for_goes_without_a_target(capsys):
    assert main(["plan", "--cluster", "16x8xh100", "--target", "h100"]) == 2
    assert "without --target" in last_line(capsys)
