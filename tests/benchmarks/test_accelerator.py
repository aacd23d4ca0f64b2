"""The survey of accelerators continues where it stopped, and the speed card is made from its file."""

import argparse
import importlib
import json
from pathlib import Path

import pytest

from lsf_jax.settings import ConfigError
from tests.programs.test_targets import survey_of


@pytest.fixture
def accelerator(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the script sets it too; this puts it back
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("accelerator")


def asked(tmp_path, **changes) -> argparse.Namespace:
    words = {
        "json": tmp_path / "found.json",
        "target": ["h100"],
        "devices": 1,
        "only": "",
        "fit": False,
        "again": False,
    }
    return argparse.Namespace(**{**words, "quick": False, "overrides": [], **changes})


def test_what_the_file_has_is_not_compiled_again_and_what_failed_is(accelerator, tmp_path, monkeypatch):
    calls = []

    def survey(config_text, target, **rest):
        calls.append(config_text)
        if len(calls) == 2:
            raise ConfigError("no room")
        return survey_of(target=target)

    monkeypatch.setattr(accelerator.targets, "survey", survey)
    accelerator.survey_all(asked(tmp_path, only="matrix"))
    assert len(calls) == 2
    content = json.loads((tmp_path / "found.json").read_text())
    assert len(content["cases"]) == len(accelerator.CASES)
    assert [known["h100"].get("error") for known in content["cases"].values() if known] == [None, "no room"]
    accelerator.survey_all(asked(tmp_path, only="matrix"))
    assert len(calls) == 3
    assert calls[2] == calls[1] != calls[0]
    accelerator.survey_all(asked(tmp_path, only="matrix", again=True))
    assert len(calls) == 5


def test_the_card_has_a_column_for_each_chip_and_says_that_nothing_ran(accelerator):
    found = {**survey_of()._asdict(), "estimate": {"env steps/s": [600.0, 150.0], "hours": [0.5, 2.0]}}
    refused = {**found, "estimate": {}, "seeds": None}
    refused["compiled"] = [{"width": 8, "seconds": 3.0, "refused": "no", "required": 2**40, "parts": {}}]
    card = accelerator.card_text({"cases": {"a run": {"v5e": refused, "h100": found}, "another": {}}})
    assert card.count("| run | NVIDIA H100 80GB HBM3 (compiled, not run) | TPU v5e (compiled, not run) |") > 5
    rows = [line for line in card.splitlines() if line.startswith("| a run |")]
    assert rows[0] == "| a run | 4.9 KiB for 8 seeds | does not fit: 1024.00 GiB for 8 seeds |"
    assert "| a run | 188 | not asked for |" in rows
    assert "| a run | 90 | - |" in rows
    assert "| a run | 150 to 600 | - |" in rows
    assert "**compiled, not run**" in card
    assert "another" not in card  # nothing is known of it
