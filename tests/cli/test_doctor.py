"""`lsf-jax doctor`: what is there, what is missing, and what for."""

from lsf_jax.cli import app, doctor
from lsf_jax.envs import ENVS
from lsf_jax.envs.host import Finding
from lsf_jax.registry import Entry
from tests.support.host_cases import ToyConfig, host_toy, make_toy


def test_a_complete_installation_is_healthy_and_shows_versions_devices_and_cache(capsys):
    assert app.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for package in ("python", *doctor.PACKAGES):
        assert f"  {package} " in shown
    for words in ("backend            cpu (8 ×", "host ", "compilation cache", "configurations", "lsf-jax[cuda]"):
        assert words in shown
    for words in ("StarCraft II, for --env smac/3m", "  interpreter        Python 3.", "  smac      "):
        assert words in shown
    assert "MISSING" not in shown


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", ("jax", "no-such-package"))
    lines, healthy = doctor.examine()
    assert not healthy
    assert any("no-such-package" in line and "MISSING: pip install no-such-package" in line for line in lines)


def test_a_missing_optional_package_says_what_it_is_for_and_harms_nothing(monkeypatch):
    monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_module": ("drawing dragons", "pip install dragons")})
    lines, healthy = doctor.examine()
    assert healthy
    assert any("missing, for drawing dragons: pip install dragons" in line for line in lines)


def test_the_cache_line_tells_whether_it_is_empty_and_how_large(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert any(f"on, empty: {tmp_path / 'cache'}" in line for line in doctor.examine()[0])
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "program").write_bytes(bytes(2048))
    assert any(f"on, 1 files, 2.0 KiB: {tmp_path / 'cache'}" in line for line in doctor.examine()[0])


def test_settings_of_real_smac_may_be_given(capsys, tmp_path):
    assert app.main(["doctor", f"env.sc2_path={tmp_path}", "env.python=no-such-python"]) == 0
    shown = capsys.readouterr().out
    assert "  interpreter        missing: no-such-python is no program; set env.python" in shown
    assert f"  game version       missing: no game in {tmp_path}" in shown
    assert app.main(["doctor", "env.punishment=-2"]) == 2
    assert "unknown key env.punishment" in capsys.readouterr().err


def test_every_environment_with_games_on_the_host_is_examined_with_its_own_settings(monkeypatch, tmp_path, capsys):
    def hosted(cfg):
        found = [Finding("dice", True, f"lost every {cfg.lose_every}"), Finding("board", False, "buy one")]
        return host_toy(cfg)._replace(examine=lambda: found, title="a toy, for --env toy")

    entry = Entry(name="toy", config=ToyConfig, factory=make_toy, doc="a toy", hosted=hosted)
    monkeypatch.setitem(ENVS, "toy", entry)
    lines, healthy = doctor.examine([f"env.sc2_path={tmp_path}", "env.lose_every=3"])
    assert healthy
    start = lines.index("a toy, for --env toy")
    assert lines[start + 1 : start + 3] == [
        "  dice               lost every 3",
        "  board              missing: buy one",
    ]
    assert any(f"no game in {tmp_path}" in line for line in lines)  # SMAC's settings reach SMAC, and only SMAC
    assert app.main(["doctor", "env.punishment=-2"]) == 2
    assert "unknown key env.punishment" in capsys.readouterr().err
    monkeypatch.setitem(ENVS, "toy", entry._replace(hosted=host_toy))
    assert "games of --env toy" in doctor.examine()[0]
