"""What `lsf-jax doctor` and a failed start say about real SMAC, with faked trees of files and packages."""

import sys

import pytest

from lsf_jax.envs.smac import requirements
from lsf_jax.envs.smac.config import SmacConfig
from lsf_jax.envs.smac.maps import MAPS


def by_name(findings):
    return {finding.name: finding for finding in findings}


@pytest.fixture
def game(tmp_path):
    """StarCraft II's folder with builds and maps of one's choice."""

    def make(*builds, maps=MAPS):
        for build in builds:
            program = tmp_path / "Versions" / f"Base{build}" / "SC2_x64"
            program.parent.mkdir(parents=True)
            program.touch(0o755)
        (tmp_path / "Maps" / "SMAC_Maps").mkdir(parents=True)
        for name in maps:
            (tmp_path / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").touch()
        return tmp_path

    return make


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Packages in front of all others on the path of the workers' interpreter."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def add(name, version, **files):
        metadata = tmp_path / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        for path, text in files.items():
            file = tmp_path / f"{path}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return by_name(requirements.examine_packages(SmacConfig()))

    return add


def add_oxwhirl(packages, text="class StarCraft2Env: pass"):
    init = {"smac/__init__": "", "smac/env/__init__": text, "smac/env/starcraft2/__init__": ""}
    return packages("SMAC", "1.0.0", **init)


def test_a_complete_game_is_good(game):
    findings = by_name(requirements.examine_game(SmacConfig(sc2_path=str(game(75689))), MAPS))
    assert all(finding.good for finding in findings.values())
    assert findings["StarCraft II"].text.endswith("(env.sc2_path)")
    assert findings["game version"].text == "4.10.0 (Base75689)"
    assert findings["SMAC maps"].text == "present"


@pytest.mark.parametrize("variable", [True, False])
def test_the_folder_comes_from_the_variable_or_is_in_the_home_folder(monkeypatch, tmp_path, variable):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SC2PATH", raising=False)
    if variable:
        monkeypatch.setenv("SC2PATH", str(tmp_path / "elsewhere"))
    (finding,) = requirements.examine_game(SmacConfig(), ["3m"])
    place, source = ("elsewhere", "SC2PATH") if variable else ("StarCraftII", "SC2PATH is unset")
    assert not finding.good
    assert f"no folder {tmp_path / place} ({source}); download StarCraft II 4.10" in finding.text


def test_missing_maps_are_named(game):
    findings = by_name(
        requirements.examine_game(SmacConfig(sc2_path=str(game(75689, maps=["3m"]))), ["3m", "8m", "MMM2"])
    )
    assert not findings["SMAC maps"].good
    assert "SMAC_Maps: 8m, MMM2; download SMAC_Maps.zip" in findings["SMAC maps"].text


@pytest.mark.parametrize(
    ("builds", "wanted", "good", "text"),
    [
        ((), "", False, "no game in"),
        ((69232,), "", True, "4.6.2 (Base69232); published results are of 4.10.0 and do not compare"),
        (
            (75689, 90136),
            "",
            True,
            "(Base90136); published results are of 4.10.0 and do not compare: set env",
        ),
        ((75689, 90136), "4.10.0", True, "4.10.0 (Base75689)"),
        (
            (90136,),
            "4.10.0",
            False,
            "4.10.0 (Base75689) is not among (Base90136); change env.game_version",
        ),
    ],
)
def test_the_version_is_that_of_the_paper_or_remarked_upon(game, builds, wanted, good, text):
    cfg = SmacConfig(sc2_path=str(game(*builds)), game_version=wanted)
    finding = by_name(requirements.examine_game(cfg, MAPS))["game version"]
    assert finding.good == good
    assert text in finding.text


@pytest.mark.skipif(sys.platform != "linux", reason="the program has another name")
def test_a_program_that_cannot_be_run_is_noticed(game):
    folder = game(75689)
    (folder / "Versions" / "Base75689" / "SC2_x64").chmod(0o644)
    finding = by_name(requirements.examine_game(SmacConfig(sc2_path=str(folder)), MAPS))["game version"]
    assert not finding.good
    assert "SC2_x64 is missing or not executable" in finding.text


def test_the_package_of_that_name_on_pypi_is_told_apart(packages):
    found = packages("smac", "2.4.1", **{"smac/__init__": "", "smac/facade/__init__": ""})
    assert found["interpreter"].good
    assert not found["smac"].good
    assert "smac 2.4.1 is AutoML's SMAC3 from PyPI, another project of the same name" in found["smac"].text
    assert "pip uninstall smac, then " in found["smac"].text
    assert "git+https://github.com/oxwhirl/smac.git" in found["smac"].text


def test_oxwhirls_package_is_recognised(packages):
    found = add_oxwhirl(packages)
    assert found["smac"].good
    assert found["smac"].text.startswith("oxwhirl's 1.0.0")


def test_a_package_that_cannot_be_imported_says_why(packages):
    found = add_oxwhirl(packages, text="import no_such_pysc2")
    assert not found["smac"].good
    assert "cannot be imported (ModuleNotFoundError: No module named 'no_such_pysc2')" in found["smac"].text


@pytest.mark.parametrize(("version", "note"), [("3.20.3", False), ("3.21.0", True), ("6.33.6", True)])
def test_newer_protobufs_need_nothing_but_a_variable_that_workers_set(packages, version, note):
    text = (
        "import os\nassert os.environ['PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION'] == 'python'\nclass StarCraft2Env: pass"
    )
    packages("protobuf", version)
    found = add_oxwhirl(packages, text)
    assert found["smac"].good
    assert found["protobuf"].good
    assert found["protobuf"].text.startswith(version)
    assert ("workers run it in pure Python" in found["protobuf"].text) == note


def test_no_package_at_all_says_how_to_get_it_and_what_not_to_install():
    probed = {"python": "3.11.7", "versions": {"smac": None, "protobuf": None}, "smac": False, "is_oxwhirl": False}
    finding = requirements._smac_finding(probed, "python3")
    assert not finding.good
    assert finding.text.startswith("not installed; python3 -m pip install git+https://github.com/oxwhirl/smac.git")
    assert "never 'pip install smac'" in finding.text


def test_interpreters_that_are_missing_or_broken_are_named(tmp_path):
    program = tmp_path / "python"
    (finding,) = requirements.examine_packages(SmacConfig(python=str(program)))
    assert "is no program; set env.python" in finding.text
    program.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    program.chmod(0o755)
    (finding,) = requirements.examine_packages(SmacConfig(python=str(program)))
    assert not finding.good
    assert "does not answer (broken); set env.python to another" in finding.text
    answer = '{"python": "3.7.16", "versions": {"smac": null, "protobuf": null}, "smac": false}'
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    found = by_name(requirements.examine_packages(SmacConfig(python=str(program))))
    assert "Python 3.7.16" in found["interpreter"].text
    assert "workers need 3.8 or newer" in found["interpreter"].text


def test_advice_is_about_what_is_missing_only(game, packages):
    add_oxwhirl(packages)
    cfg = SmacConfig(map_name="3m", sc2_path=str(game(75689, maps=["8m"])))
    (line,) = requirements.advice(cfg)
    assert line.startswith("SMAC maps: missing in ")
