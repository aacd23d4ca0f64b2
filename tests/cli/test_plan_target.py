"""`lsf-jax plan --target`: what a user reads, and the one line for everything that is wrong."""

import pytest

from lsf_jax.cli import app
from lsf_jax.programs import chips, targets
from tests.programs.test_targets import survey_of


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--target", "h300"], "--target is h300; expected one of h100, h200, a100, l4, b200, v4, v5e, v5p, v6e"),
        (["--target", "h100", "--devices", "0"], "--devices: 0 is no whole number from 1 to 1000000"),
        (["--target", "h100", "--devices", "12"], "--devices is 12; expected 1 to 8"),
        (["--target", "v5e"], 'libtpu is not installed; pip install "lsf-jax[targets]"'),
        (["--target", "b200"], 'jax-cuda13-plugin is not installed; pip install "lsf-jax[targets]"'),
        (["--devices", "8"], "--devices is 8; expected together with --target alone"),
        (["--quick"], "--quick is given; expected together with --target alone"),
    ],
)
def test_what_is_wrong_takes_one_line_and_exit_code_2(arguments, complaint, monkeypatch, capsys):
    monkeypatch.setattr(chips, "_version", {"jaxlib": "0.10.2"}.get)
    monkeypatch.setattr(chips.platform, "system", lambda: "Linux")
    try:
        code = app.main(["plan", *arguments])
    except SystemExit as stop:  # argparse's way
        code = stop.code
    said = capsys.readouterr().err
    assert code == 2
    assert complaint in said
    assert said.count("\n") == 1
    assert said.startswith("lsf-jax: ")


def test_the_survey_of_the_composed_run_is_printed_with_its_progress(monkeypatch, capsys):
    asked = {}

    def survey(config_text, target, *, n_devices, quick, tell):
        asked.update(config=config_text, target=target, n_devices=n_devices, quick=quick)
        tell("compiling 8 seeds ...")
        return survey_of()

    monkeypatch.setattr(targets, "survey", survey)
    assert app.main(["plan", "--target", "h100", "--devices", "2", "--quick", "seeds=12", "algo.hidden=16"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("lsf_sac on predator_prey: 12 seeds")
    assert said[1] == "compiling 8 seeds ..."
    assert any(line.startswith("NVIDIA H100 80GB HBM3: compiled for it here by some 1.2, not run") for line in said)
    assert "hidden: 16" in asked.pop("config")
    assert asked == {"target": "h100", "n_devices": 2, "quick": True}
