"""What would runs need, and how long would they take, on accelerators that are not here? Compiled, not run.

Presets × algorithms × environments × chips, one `lsf-jax plan --target` each, into one JSON file that is written after
each of them: a stopped survey is continued by the same command, which skips what the file has. `--card` writes the
speed card from that file and compiles nothing. Needs `pip install "lsf-jax[targets]"`.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"  # a real accelerator is left alone, and its plug-in without one is not woken

from lsf_jax.config.composition import compose
from lsf_jax.config.documents import to_yaml
from lsf_jax.programs import targets
from lsf_jax.programs.chips import CHIPS
from lsf_jax.programs.hlo import AROUND
from lsf_jax.programs.planner import size_text
from lsf_jax.runs.machine import describe_machine
from lsf_jax.settings import ConfigError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "accelerator.json"
CARD = ROOT / "docs" / "speed_card.md"
REFERENCE = (  # as in timing.py: the size that published figures are for
    *("algo.batch_size=32", "algo.hidden=64", "train.n_envs=8", "algo.updates=1", "train.buffer_capacity=5000"),
)
SMALL = (
    *("algo.hidden=8", "env.n_predators=2", "env.n_prey=1", "env.grid_size=4", "env.episode_limit=5"),
    *("algo.batch_size=8", "algo.updates=1", "train.buffer_capacity=16"),
)


class Case(NamedTuple):
    """One run to plan."""

    algo: str
    env: str
    preset: str  # empty: none
    seeds: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """How tables and the JSON file call it."""
        return f"{self.algo} on {self.env}, {self.preset or 'reference size'}, {self.seeds} seeds"


CASES = (
    Case("lsf_sac", "predator_prey", "", 64, REFERENCE),
    Case("qmix", "predator_prey", "", 64, REFERENCE),
    Case("lsf_sac", "smax/3m", "smax", 64),
    Case("qmix", "smax/3m", "smax", 64),
    Case("lsf_sac", "predator_prey", "release", 64),
    Case("lsf_sac", "predator_prey", "paper", 64),
    Case("qmix", "predator_prey", "pymarl2", 64),
    Case("lsf_sac", "matrix_game", "matrix", 256, ("train.block=256",)),
    Case("qmix", "matrix_game", "", 256, ("algo.batch_size=32", "algo.updates=1")),
)
QUICK = (Case("lsf_sac", "predator_prey", "", 2, SMALL),)


def one_case(case: Case, target: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Plan one run for one chip; a case that does not fit or compile is a result too."""
    presets = [case.preset] if case.preset else []
    words = [*case.settings, f"seeds={case.seeds}", *arguments.overrides]
    config = compose(algo=case.algo, env=case.env, presets=presets, overrides=words)
    tell = lambda line: print(f"  {line}", flush=True)
    try:
        found = targets.survey(to_yaml(config), target, n_devices=arguments.devices, quick=not arguments.fit, tell=tell)
    except ConfigError as error:
        return {"error": str(error)}
    ranges = targets.estimate(found)
    estimates = {"env steps/s": list(ranges[0]), "hours": list(ranges[1])} if ranges else {}
    return {**found._asdict(), "plan": found.plan._asdict(), "estimate": estimates}


def survey_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run what the file does not have yet, writing it after each case."""
    content = read(arguments.json)
    for target in arguments.target:
        for case in QUICK if arguments.quick else CASES:
            known = content["cases"].setdefault(case.name, {})  # in the order of the list
            done = target in known and "error" not in known[target] and not arguments.again
            if done or arguments.only not in case.name:
                continue
            print(f"{case.name}, {target}", flush=True)
            known[target] = one_case(case, target, arguments)
            if "error" in known[target]:
                print(f"  {known[target]['error']}", flush=True)
            content["machine"] = describe_machine()
            arguments.json.parent.mkdir(parents=True, exist_ok=True)
            arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


def read(path: Path) -> dict[str, Any]:
    """What earlier calls have found."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cases": {}}


def _thousands(value: float) -> str:
    return f"{value:,.0f}" if value < 10_000 else f"{value / 1000:,.0f} k"


def _range(low: float, high: float, show: Any) -> str:
    return f"{show(low)} to {show(high)}"


def _inside(found: dict[str, Any], key: str) -> float:
    """Of all parts of an iteration; of a program that the compiler refused nothing is known, a KeyError."""
    parts = found["compiled"][0]["parts"]
    return parts["rollout"][key] + sum(part[key] for name, part in parts.items() if name not in (AROUND, "rollout"))


def _an_env_step(found: dict[str, Any]) -> float:
    return found["compiled"][0]["parts"]["rollout"]["launches"] / found["episode_limit"]


MEASURES = {
    "Memory of one device": lambda f: (
        ("does not fit: " if f["compiled"][0]["refused"] or f["compiled"][0]["required"] > f["limit"] else "")
        + f"{size_text(f['compiled'][0]['required'])} for {f['compiled'][0]['width']} seeds"
    ),
    "Seeds side by side that fit": lambda f: (
        "not asked for" if f["seeds"] is None else f"{f['seeds']}{'' if f['confirmed'] else ' (not compiled)'}"
    ),
    "Launches (TPU: operations) an iteration": lambda f: _thousands(_inside(f, "launches")),
    "… of which an env step of the rollout": lambda f: f"{_an_env_step(f):,.0f}",
    "Loop passes an iteration": lambda f: _thousands(_inside(f, "loop passes")),
    "GFLOP an iteration, in matrix products": lambda f: f"{_inside(f, 'FLOPs') / 1e9:,.1f}",
    "Estimated env steps/s, all seeds together": lambda f: _range(*f["estimate"]["env steps/s"][::-1], _thousands),
    "Estimated length of the run": lambda f: _range(*f["estimate"]["hours"], targets.hours_text),
    "Seconds of compilation (two cores, at times busy with other work)": lambda f: f"{f['compiled'][0]['seconds']:.0f}",
}


def card_text(content: dict[str, Any]) -> str:
    """The speed card: a table for each measure, a column for each chip."""
    chips = [name for name in CHIPS if any(name in known for known in content["cases"].values())]
    version = content.get("machine", {}).get("versions", {}).get("jax", "?")
    surveys = [found for known in content["cases"].values() for found in known.values()]
    compilers = ", ".join(sorted({found["compiler"] for found in surveys if "compiler" in found}))
    lines = [
        "# Speed card",
        "",
        "What runs need on accelerators, **compiled, not run**: nobody had these chips. Memory, launches and products",
        "are read from the programs that XLA compiles for them; env steps/s and hours are an **estimate** by",
        f"`lsf_jax/programs/cost_model.py`, a range from optimist to pessimist. JAX {version}, {compilers}. Made by",
        "`python benchmarks/accelerator.py --card`; `lsf-jax plan --target` answers the same for a run of yours.",
    ]
    for title, show in MEASURES.items():
        heads = [f"{CHIPS[name].title} (compiled, not run)" for name in chips]
        lines += ["", f"## {title}", "", f"| run | {' | '.join(heads)} |", f"|---|{'---|' * len(chips)}"]
        for case, known in _known(content).items():
            lines.append(f"| {case} | {' | '.join(_cell(known.get(name), show) for name in chips)} |")
    return "\n".join(lines) + "\n"


def _known(content: dict[str, Any]) -> dict[str, Any]:
    """Cases of which something is known."""
    return {case: known for case, known in content["cases"].items() if known}


def _cell(found: dict[str, Any] | None, show: Any) -> str:
    if found is None or "error" in found:
        return "-"
    try:
        return show(found)
    except KeyError:  # refused by the compiler: there is no program to read
        return "-"


def main(arguments: argparse.Namespace) -> None:
    """Survey, or write the card."""
    if arguments.card:
        text = card_text(read(arguments.json))
        CARD.parent.mkdir(parents=True, exist_ok=True)
        CARD.write_text(text, encoding="utf-8")
        print(f"wrote {CARD.relative_to(ROOT)}")
        return
    content = survey_all(arguments)
    for title, show in MEASURES.items():
        print(f"\n{title}")
        for case, known in _known(content).items():
            print(f"  {case:<52}" + "".join(f"{target}: {_cell(known[target], show):<32}" for target in known))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", choices=list(CHIPS), default=["h100", "v5e"], help="chips")
    parser.add_argument("--devices", type=int, default=1, help="of them")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name has it: 'qmix on smax'")
    parser.add_argument("--fit", action="store_true", help="how many seeds fit too: three compilations each, not one")
    parser.add_argument("--again", action="store_true", help="compile what the file has too: the program has changed")
    parser.add_argument("--quick", action="store_true", help="one tiny case: does the script run at all")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="results, read and completed")
    parser.add_argument("--card", action="store_true", help="write docs/speed_card.md from the results")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of every case")
    found = parser.parse_intermixed_args()
    if found.quick and found.json == RESULTS:
        found.json = RESULTS.parent / "local" / "accelerator-quick.json"
    sys.exit(main(found))
