"""What real SMAC needs, whether it is there and what to do if not: for `lsf-jax doctor` and failed starts."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lsf_jax.envs.host import Finding, HostError
from lsf_jax.envs.smac.config import SmacConfig, worker_variables
from lsf_jax.envs.workers.process import interpreter, source_version, worker_environment
from lsf_jax.settings import user_path

BUILDS = {"4.6.2": 69232, "4.10.0": 75689}
"""Builds whose results papers report; those of two versions do not compare."""
PAPER_VERSION = "4.10.0"
GIT = "git+https://github.com/oxwhirl/smac.git"
GAME = (
    "download StarCraft II 4.10 for Linux from https://github.com/Blizzard/s2client-proto#downloads (its password is "
    "your consent to Blizzard's licence), unpack it, and set env.sc2_path or SC2PATH"
)
MAPS = (
    "download SMAC_Maps.zip from https://github.com/oxwhirl/smac/releases and unpack it into the game's folder 'Maps'"
)
PROBE_SECONDS = 120
PROBE = """
import importlib.util, json, os, sys
from importlib import metadata
def version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
names = ("smac", "pysc2", "protobuf", "numpy")
found = {"python": ".".join(map(str, sys.version_info[:3])), "versions": {name: version(name) for name in names}}
spec = importlib.util.find_spec("smac")
places = list(spec.submodule_search_locations or []) if spec else []
found["smac"] = bool(spec)
found["is_oxwhirl"] = any(os.path.isdir(os.path.join(place, "env", "starcraft2")) for place in places)
found["error"] = None
if found["is_oxwhirl"]:
    try:
        from smac.env import StarCraft2Env
    except BaseException as error:
        found["error"] = " ".join((type(error).__name__ + ": " + str(error)).split())[:300]
sys.stdout.write(chr(10) + json.dumps(found) + chr(10))
"""
"""Asks the workers' interpreter, in its own process, which packages it has; the answer is the last line of output."""


def examine(cfg: SmacConfig, maps: Iterable[str]) -> list[Finding]:
    """Everything: the workers' interpreter and packages, the game and the named maps."""
    return [*examine_packages(cfg), *examine_game(cfg, maps)]


def advice(cfg: SmacConfig) -> list[str]:
    """One line for each thing that is missing for `cfg`."""
    return [f"{finding.name}: {finding.text}" for finding in examine(cfg, [cfg.map_name]) if not finding.good]


def require_all(cfg: SmacConfig) -> None:
    """Look for the game, its maps and the packages before anything is launched; other games than oxwhirl's are free.

    Raises:
      HostError: something is missing; one line with what to do.
    """
    refuse([] if cfg.factory else advice(cfg))


def require_game(cfg: SmacConfig) -> None:
    """Look for the game and its map only, which takes no time; other games than oxwhirl's are free.

    Raises:
      HostError: something is missing; one line with what to do.
    """
    found = [] if cfg.factory else examine_game(cfg, [cfg.map_name])
    refuse([f"{finding.name}: {finding.text}" for finding in found if not finding.good])


def smac_versions(cfg: SmacConfig) -> dict[str, str]:
    """What games on several machines must have in common; of another game than oxwhirl's, its file.

    Raises:
      OSError: the workers' interpreter does not answer; see `require_all`.
    """
    if cfg.factory:
        found = {"env.factory": source_version(cfg.factory, "env.factory")}
        return {name: version for name, version in found.items() if version}
    packages = _probe(cfg)["versions"]
    return {
        "StarCraft II": _version_finding(cfg, game_folder(cfg)).text.partition(";")[0],
        **{name: packages[name] or "of unknown version" for name in ("smac", "pysc2")},
    }


def refuse(missing: list[str]) -> None:
    """Nothing, if nothing is missing.

    Raises:
      HostError: something is; one line with all of it.
    """
    if missing:
        raise HostError(f"real SMAC cannot be started. {'. '.join(missing)}. `lsf-jax doctor` looks at everything")


def game_folder(cfg: SmacConfig) -> Path:
    """Where StarCraft II is looked for, as pysc2 does it on Linux."""
    key = "env.sc2_path" if cfg.sc2_path else "SC2PATH"
    return user_path(key, cfg.sc2_path or os.environ.get("SC2PATH") or "~/StarCraftII")


def examine_game(cfg: SmacConfig, maps: Iterable[str]) -> list[Finding]:
    """The game's folder, its version and the named maps; looks at files only."""
    folder = game_folder(cfg)
    source = "env.sc2_path" if cfg.sc2_path else "SC2PATH" if os.environ.get("SC2PATH") else "SC2PATH is unset"
    if not folder.is_dir():
        return [Finding("StarCraft II", False, f"no folder {folder} ({source}); {GAME}")]
    missing = [name for name in maps if not (folder / "Maps" / "SMAC_Maps" / f"{name}.SC2Map").is_file()]
    text = f"missing in {folder / 'Maps' / 'SMAC_Maps'}: {', '.join(missing)}; {MAPS}" if missing else "present"
    return [
        Finding("StarCraft II", True, f"{folder} ({source})"),
        _version_finding(cfg, folder),
        Finding("SMAC maps", not missing, text),
    ]


def examine_packages(cfg: SmacConfig) -> list[Finding]:
    """The workers' interpreter and the packages that it has; runs it, for a second or two."""
    python = interpreter(cfg.python)
    if shutil.which(python) is None:
        text = f"{python} is no program; set env.python to a Python of 3.8 or newer with smac"
        return [Finding("interpreter", False, text)]
    try:
        found = _probe(cfg)
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        text = f"{python} does not answer ({' '.join(str(error).split())[:200]}); set env.python to another"
        return [Finding("interpreter", False, text)]
    new_enough = tuple(map(int, found["python"].split("."))) >= (3, 8)
    remedy = "" if new_enough else "; workers need 3.8 or newer: set env.python"
    findings = [Finding("interpreter", new_enough, f"Python {found['python']}, {python}{remedy}")]
    findings += [_smac_finding(found, python)]
    return findings + ([_protobuf_finding(found)] if found["versions"]["protobuf"] else [])


def _probe(cfg: SmacConfig) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            [interpreter(cfg.python), "-c", PROBE],
            env=worker_environment(Path(scratch), cfg.python, worker_variables(cfg)),
            cwd=scratch,  # a folder named smac in the current one would pass for the package
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    if done.returncode:
        raise ValueError(done.stderr.strip()[-200:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def _smac_finding(found: dict[str, Any], python: str) -> Finding:
    install = f"{python} -m pip install {GIT}"
    version = found["versions"]["smac"] or "of unknown version"
    if not found["smac"]:
        text = f"not installed; {install} (never 'pip install smac': PyPI's smac is AutoML's SMAC3, another project)"
        return Finding("smac", False, text)
    if not found["is_oxwhirl"]:
        text = (
            f"smac {version} is AutoML's SMAC3 from PyPI, another project of the same name; "
            f"{python} -m pip uninstall smac, then {install}, or give the workers their own environment (env.python)"
        )
        return Finding("smac", False, text)
    if found["error"]:
        text = f"oxwhirl's smac {version} cannot be imported ({found['error']}); reinstall it: {install}"
        return Finding("smac", False, text)
    return Finding("smac", True, f"oxwhirl's {version}, pysc2 {found['versions']['pysc2']}")


def _protobuf_finding(found: dict[str, Any]) -> Finding:
    version = found["versions"]["protobuf"]
    is_old = tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < (3, 21)
    note = "" if is_old else "; newer than smac asks for, which works: workers run it in pure Python"
    return Finding("protobuf", True, f"{version}{note}")


def _version_finding(cfg: SmacConfig, folder: Path) -> Finding:
    builds = sorted(int(each.name[4:]) for each in (folder / "Versions").glob("Base*") if each.name[4:].isdigit())
    if not builds:
        return Finding("game version", False, f"no game in {folder / 'Versions'}; {GAME}")
    wanted = BUILDS.get(cfg.game_version, builds[-1]) if cfg.game_version else builds[-1]
    if wanted not in builds:
        text = f"{cfg.game_version} (Base{wanted}) is not among {_names(builds)}; change env.game_version, or {GAME}"
        return Finding("game version", False, text)
    program = folder / "Versions" / f"Base{wanted:05d}" / "SC2_x64"
    if platform.system() == "Linux" and not os.access(program, os.X_OK):
        return Finding("game version", False, f"{program} is missing or not executable; {GAME}")
    text = _names([wanted])
    if wanted != BUILDS[PAPER_VERSION]:
        also = f": set env.game_version={PAPER_VERSION}" if BUILDS[PAPER_VERSION] in builds else ""
        text += f"; published results are of {PAPER_VERSION} and do not compare{also}"
    return Finding("game version", True, text)


def _names(builds: Iterable[int]) -> str:
    names = {build: f"{version} " for version, build in BUILDS.items()}
    return ", ".join(f"{names.get(build, '')}(Base{build})" for build in builds)
