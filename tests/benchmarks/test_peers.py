"""The comparison with other implementations: its arithmetic by hand, and that what runs is really their code."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

WORKER = """
import sys
from worker import claim_output, serve

channel = claim_output()
print("their code prints what it likes")
count = 0

def run():
    global count
    count += 1
    return {"runs": count}

serve(channel, {"built": True}, run)
"""


@pytest.fixture
def peers(monkeypatch):
    """Imports a module of the comparison by its name."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks" / "peers"
    monkeypatch.syspath_prepend(str(folder))
    return importlib.import_module


def test_an_update_is_the_difference_of_two_programs(peers):
    few, many = lambda: {"cpu": 1.0, "wall": 2.0}, lambda: {"cpu": 3.0, "wall": 2.5}
    assert peers("worker").marginal(few, many, 4)() == {"cpu": 0.5, "wall": 0.125}


def test_a_program_answers_in_turn_and_what_it_prints_is_no_answer(peers, tmp_path):
    turns = peers("turns")
    script = tmp_path / "program.py"
    script.write_text(WORKER)
    folder = str(Path(turns.__file__).parent)
    worker = turns.start("a program", sys.executable, [str(script)], folder, [0])
    first, second = turns.ask(worker, 2), turns.ask(worker, 1)
    turns.stop(worker)
    assert worker.facts == {"built": True}
    assert [row["runs"] for row in first + second] == [2, 3, 4]  # the first run warms up
    assert all(row["cpu"] >= 0.0 and row["wall"] > 0.0 for row in first)


def test_a_program_that_fails_shows_why(peers, tmp_path, capsys):
    script = tmp_path / "program.py"
    script.write_text("raise ValueError('no such checkout')")
    with pytest.raises(SystemExit):
        peers("turns").start("a program", sys.executable, [str(script)], "", [0])
    assert "no such checkout" in capsys.readouterr().err


@pytest.mark.parametrize(("counted", "name", "expected"), [(False, "time", 0.5), (True, "rate", 2.0)])
def test_ratios_are_those_of_each_turn(peers, monkeypatch, counted, name, expected):
    """The machine slows down by three between the turns: the ratio does not see it, the seconds do."""
    compare, turns = peers("compare"), peers("turns")
    seconds = {"GEMM probe": [0.25, 0.75], "theirs": [2.0, 6.0], "ours": [1.0, 3.0]}
    extra = {"env steps": 100, "updates": 1} if counted else {}

    def start(program, *_):
        facts = {"GFLOP": 10.0} if program == "GEMM probe" else {}
        return turns.Worker(program, Namespace(), Namespace(), facts)

    def ask(worker, times):
        now = seconds[worker.name].pop(0)
        return [{"cpu": now, "wall": now} | (extra if worker.name != "GEMM probe" else {})] * times

    monkeypatch.setattr(compare, "start", start)
    monkeypatch.setattr(compare, "ask", ask)
    monkeypatch.setattr(compare, "stop", lambda worker: None)
    programs = [compare.Program(name, "python", ["x.py"]) for name in ("theirs", "ours")]
    _, ours = compare.measure_group(programs, Namespace(turns=2, repeats=2, python="python", cores=[0]))
    assert [ours[f"{name} ÷ theirs's{end}"] for end in ("", " low", " high")] == [expected] * 3
    assert (ours["probe GFLOP/s low"], ours["probe GFLOP/s high"]) == (10 / 0.75, 40.0)
    if counted:
        assert ours["valid env steps / CPU s high"] == 100.0
    else:
        assert (ours["CPU ms low"], ours["CPU ms high"]) == (1000.0, 3000.0)
        assert ours["% of GEMM"] == pytest.approx(100 * 15.19 / 1.0 / 40.0)


def test_a_closure_that_is_taken_from_a_scan_is_theirs_but_for_the_named_variables(peers):
    peer = peers("jaxmarl_qmix")

    def train(start):
        replay, scale = start * 10, 3.0

        def _learn_phase(carry, _):
            return carry + scale * replay, carry

        return jax.lax.scan(_learn_phase, start, None, 2)

    scan = jax.lax.scan
    with peer.captured("_learn_phase") as found:
        traced, _ = jax.jit(train)(jnp.float32(1.0))
    assert jax.lax.scan is scan
    (taken,) = found
    assert float(traced) == 61.0
    after, _ = jax.jit(lambda replay: peer.with_cells(taken, replay=replay)(jnp.float32(1.0), None))(5.0)
    assert float(after) == 16.0
