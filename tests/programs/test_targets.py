"""Planning for chips that are not here: what is refused, how many seeds fit, what the estimate adds up."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from lsf_jax.config.composition import compose
from lsf_jax.config.documents import to_yaml
from lsf_jax.programs import chips, cost_model, targets
from lsf_jax.programs.chips import CHIPS, find_chip
from lsf_jax.programs.cross import is_of_size, required_bytes
from lsf_jax.programs.hlo import AROUND, Kernel, Loop, Reading
from lsf_jax.programs.planner import Hardware, Plan, make_plan
from lsf_jax.settings import ConfigError
from tests.support.engine_cases import small

GIB = 2**30
HERE = importlib.metadata.version("jaxlib")
PLUGINS = {"jax-cuda13-plugin": HERE, "jax-cuda13-pjrt": HERE, "libtpu": "0.0.42"}
SMALL = (
    *("algo.hidden=8", "algo.encoder_hidden=8", "env.n_predators=2", "env.n_prey=1", "env.grid_size=4"),
    *("env.episode_limit=5", "algo.batch_size=8", "algo.updates=1", "train.buffer_capacity=16", "seeds=8"),
)
LAUNCHES = {"h100": 855, "v5e": 2470}
"""Most launches, or operations, of an iteration of that program: what they were with jax 0.10.2, and a tenth more."""


def plan_of(width, rows=None, blocks=1):
    return Plan(
        rows=rows or width,
        n_devices=1,
        width=width,
        n_blocks=blocks,
        micro_batch=8,
        batch_size=8,
        bytes_per_row={"parameters": 10, "fresh episodes": 20, "activations": 70},
        memory_bytes=100_000,
        disk_bytes=0,
    )


def affine(base, slope, asked):
    """A compiler whose programs need base + slope bytes a seed."""

    def compile_at(width):
        asked.append(width)
        return {"width": width, "required": base + slope * width, "refused": ""}

    return compile_at


@pytest.fixture
def installed(monkeypatch):
    """Pretends that these packages, and these versions, are installed."""

    def pretend(**versions):
        known = {"jaxlib": HERE} | {name.replace("_", "-"): version for name, version in versions.items()}
        monkeypatch.setattr(chips, "_version", known.get)
        monkeypatch.setattr(chips.platform, "system", lambda: "Linux")

    return pretend


def test_every_chip_is_told_to_xla_with_what_its_table_says(installed):
    installed(**{name.replace("-", "_"): version for name, version in PLUGINS.items()})
    for name, chip in CHIPS.items():
        assert find_chip(name, 8) is chip
        assert chip.source
        assert chip.tera["float32"] <= chip.tera["tensorfloat32"] <= chip.tera["bfloat16"]
    described = chips.description(CHIPS["l4"])
    assert "core_count: 58" in described
    assert "cuda_compute_capability { major: 8 minor: 9 }" in described
    assert f"device_memory_size: {23034 * 2**20}" in described
    assert chips.topology_arguments(CHIPS["v5p"], 8)["topology_name"] == "v5p:2x2x2"
    bounds = {n: chips.topology_arguments(CHIPS["v5e"], n)["chips_per_host_bounds"] for n in (1, 4, 8)}
    assert bounds == {1: [1, 1, 1], 4: [2, 2, 1], 8: [2, 4, 1]}  # libtpu refuses a single chip without
    assert chips.environment(CHIPS["v4"], 8)["TPU_ACCELERATOR_TYPE"] == "v4-16"  # counted in cores
    assert chips.environment(CHIPS["h100"], 1)["CUDA_VISIBLE_DEVICES"] == "-1"


def test_float32_rates_of_gpus_are_cores_times_lanes_times_clock():
    for chip in CHIPS.values():
        if chip.platform == "cuda":
            peak = 2 * chip.kind.cores * chip.kind.lanes * chip.kind.ghz / 1000
            assert chip.tera["float32"] == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize(
    ("versions", "target", "devices", "complaint"),
    [
        ({}, "h300", 1, r"^--target is h300; expected one of h100, .*v6e$"),
        ({"libtpu": "0.0.42"}, "v5e", 9, r"^--devices is 9; expected 1 to 8, the chips of one machine$"),
        ({}, "v5e", 1, r'^--target is v5e, .*libtpu is not installed; pip install "lsf-jax\[targets\]"$'),
        ({}, "h100", 1, r"^--target is h100, .*jax-cuda13-plugin is not installed; pip install"),
        ({"jax_cuda13_plugin": HERE}, "l4", 1, r"jax-cuda13-pjrt is not installed; pip install"),
        (
            {"jax_cuda13_plugin": "0.1.0", "jax_cuda13_pjrt": HERE},
            *("h100", 1),
            rf'^--target is h100; jax-cuda13-plugin is 0\.1\.0; expected {HERE}, .*install "jax\[cuda13\]=={HERE}"$',
        ),
    ],
)
def test_what_cannot_be_planned_for_is_refused_in_one_line(installed, versions, target, devices, complaint):
    installed(**versions)
    with pytest.raises(ConfigError, match=complaint) as caught:
        find_chip(target, devices)
    assert "\n" not in str(caught.value)


def test_the_compiler_is_named_with_its_version(installed):
    installed(libtpu="0.0.42", jax_cuda12_pjrt="0.9.9")
    assert chips.compiler_of(CHIPS["v5e"]) == "libtpu 0.0.42"
    assert chips.compiler_of(CHIPS["h100"]) == "jax-cuda12-pjrt 0.9.9"


def test_other_systems_are_told_that_the_compilers_are_for_linux(installed, monkeypatch):
    installed(libtpu="1")
    monkeypatch.setattr(chips.platform, "system", lambda: "Darwin")
    with pytest.raises(ConfigError, match="exists for Linux alone and this is Darwin"):
        find_chip("v5e")


def test_two_widths_make_a_line_and_a_third_confirms_it():
    asked = []
    compile_at = affine(1000, 150, asked)
    line, seeds, confirmed = targets.find_seeds(plan_of(10), 100_000, compile_at(10), compile_at)
    assert line == (1000, 150)
    assert seeds == (95_000 - 1000) // 150 == 626
    assert confirmed
    assert asked == [10, 40, 626]


def test_seeds_whose_program_needs_more_than_the_line_says_are_not_confirmed():
    def compile_at(width):  # padding doubles a part from 500 seeds on
        return {"width": width, "required": 1000 + (150 if width < 500 else 300) * width, "refused": ""}

    _, seeds, confirmed = targets.find_seeds(plan_of(10), 100_000, compile_at(10), compile_at)
    assert not confirmed
    assert seeds < 626
    assert compile_at(seeds)["required"] <= 100_000


def test_a_run_that_does_not_fit_at_all_fits_no_seeds():
    compile_at = affine(200_000, 10, [])
    assert targets.find_seeds(plan_of(1), 100_000, compile_at(1), compile_at)[1:] == (0, False)


def test_the_estimate_adds_launches_passes_bytes_and_products():
    chip = CHIPS["h100"]
    kernels = (
        Kernel("update", 10, int(3.352e12 * 0.35), 0),  # a second each at the pessimist's bandwidth
        Kernel("rollout", 1000, 0, 0),
        Kernel(AROUND, 5, 10**15, 0),  # once a chunk: not of an iteration
    )
    reading = Reading(kernels, (Loop("rollout", 200, True), Loop("rollout", 1, False)), {"update": 2}, 0)
    seconds = cost_model.iteration_seconds(reading, chip, "float32")
    assert set(seconds) == {"update", "rollout"}
    assert seconds["update"].slow == pytest.approx(10 * (1 + 5e-6) + 2 * 30e-6)
    assert seconds["rollout"].slow == pytest.approx(1000 * 5e-6 + 201 * 8e-6 + 30e-6)
    assert seconds["update"].fast == pytest.approx(10 * 0.35 / 0.9 + 2 * 5e-6)
    assert seconds["rollout"].fast == pytest.approx(1000 * 1e-6 + 5e-6)


def survey_of(**changes):
    first = {
        **{"width": 8, "seconds": 3.0, "refused": "", "required": 5000, "collectives": 0},
        "memory": {"arguments": 1000, "temporary": 3500, "output": 400, "code": 100},
        "parts": {
            "update": {"launches": 30, "loop passes": 4, "bytes": 4096, "FLOPs": 5e9, "fast s": 0.5, "slow s": 3.0},
            "rollout": {"launches": 60, "loop passes": 20, "bytes": 1024, "FLOPs": 0, "fast s": 0.5, "slow s": 1.0},
            AROUND: {"launches": 7, "loop passes": 0, "bytes": 0, "FLOPs": 0},
        },
    }
    found = targets.Survey(
        **{"target": "h100", "n_devices": 1, "plan": plan_of(8, rows=12, blocks=2), "n_envs": 4, "episode_limit": 25},
        **{"evaluation_interval": 10, "env_steps": 1000, "limit": 100_000, "compiled": [first]},
        **{"line": (1000.0, 500.0), "seeds": 188, "confirmed": True, "compiler": "some 1.2"},
    )
    return found._replace(**changes)


def test_rates_and_hours_follow_from_the_seconds_of_an_iteration():
    rates, hours = targets.estimate(survey_of())
    assert rates.fast == pytest.approx(4 * 25 * 6 / 1.0)  # six of twelve rows at a time; 1 s an iteration
    assert rates.slow == pytest.approx(4 * 25 * 6 / 4.0)
    assert hours.fast == pytest.approx(2 * 10 * (1.0 + 0.05) / 3600)  # 2 blocks of 10 iterations, a tenth of a rollout
    assert hours.slow == pytest.approx(2 * 10 * (4.0 + 0.1) / 3600)


@pytest.mark.parametrize(
    ("hours", "text"), [(0.002, "7 s"), (0.5, "30.0 min"), (1.0, "1.0 h"), (36.25, "36.2 h"), (1 / 60, "1.0 min")]
)
def test_lengths_are_told_in_the_unit_that_suits_them(hours, text):
    assert targets.hours_text(hours) == text


def test_the_text_says_what_fits_what_is_launched_and_that_it_is_an_estimate():
    text = targets.survey_text(survey_of())
    for words in (
        *(
            "compiled for it here by some 1.2, not run",
            "yes: 4.9 KiB for 8 seeds side by side",
            "188 side by side on one device",
        ),
        *("compiled and fits", "an estimate", "estimated 80 B", "update", "rollout", AROUND, "none"),
    ):
        assert words in text
    iteration = next(line for line in text.splitlines() if line.startswith("an iteration"))
    assert iteration.split()[-5:-1] == ["90", "24", "5.0", "KiB"]


def test_a_program_that_the_compiler_refuses_is_told_with_its_words():
    refused = {"width": 8, "seconds": 3.0, "refused": "RESOURCE_EXHAUSTED: no", "required": 200_000}
    refused |= {"memory": {}, "parts": {}, "collectives": 0}
    text = targets.survey_text(survey_of(compiled=[refused], seeds=0))
    assert "NO: 195.3 KiB" in text
    assert "RESOURCE_EXHAUSTED: no" in text
    assert "env steps/s" not in text


def test_no_room_on_the_chip_itself_is_not_told_as_memory_that_fewer_seeds_would_need_less_of():
    full = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 16.38G of 15.75G hbm. Exceeded by 0.63G."
    on_chip = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Scoped allocation of 17.48M, limit 16M"
    assert is_of_size(full)
    assert required_bytes(full) == int(16.38 * 2**30)
    assert not is_of_size(on_chip)
    assert not is_of_size("INTERNAL: no")


def test_a_plan_can_be_made_for_hardware_that_is_not_here():
    config = small("seeds=16", "train.memory_gib=0", "train.devices=0")
    plan = make_plan(config, hardware=Hardware(platform="cuda", n_devices=8, memory_bytes=7 * GIB))
    assert (plan.n_devices, plan.width, plan.memory_bytes) == (8, 2, 7 * GIB)  # memory is each device's own
    with pytest.raises(ConfigError, match=r"train\.devices is 9; this machine has 8"):
        make_plan(small("train.devices=9"), hardware=Hardware("cuda", 8, GIB))


def test_a_compiler_that_dies_is_told_in_one_line(monkeypatch):
    monkeypatch.setattr(targets, "find_chip", lambda name, n: CHIPS[name])
    dying = [sys.executable, "-c", "import os, sys; sys.stderr.write('no nvidia\\n'); sys.stderr.flush(); os._exit(7)"]
    real = subprocess.Popen
    monkeypatch.setattr(targets.subprocess, "Popen", lambda command, **rest: real(dying, **rest))
    with pytest.raises(ConfigError, match=r"^--target is h100; .*exit code 7 \(no nvidia\)") as caught:
        targets.survey("", "h100", tell=lambda line: None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["h100", "v5e"])
def test_a_small_program_compiles_for_a_chip_launches_little_and_talks_to_nobody(target):
    try:
        find_chip(target, 8)
    except ConfigError as error:
        pytest.skip(str(error))
    found = targets.survey(to_yaml(compose(overrides=SMALL)), target, n_devices=8, quick=True, tell=lambda line: None)
    first = found.compiled[0]
    assert not first["refused"]
    assert found.plan.n_devices == 8
    assert first["collectives"] == 0
    assert {"rollout", "store", "sample", "update"} <= set(first["parts"])
    launches = sum(part["launches"] for name, part in first["parts"].items() if name != AROUND)
    assert 100 < launches <= LAUNCHES[target]
    assert first["parts"]["rollout"]["loop passes"] >= 5
    assert json.loads(json.dumps(found._asdict()))["target"] == target
