"""All programs of a run: what a checkpoint is restored into, and which of them a run has."""

import jax
import pytest

from lsf_jax.programs import assembly
from lsf_jax.programs.assembly import make_programs
from lsf_jax.programs.parts import make_rows
from lsf_jax.programs.planner import make_plan
from tests.support.engine_cases import program_of, small


def programs_of(*words, env="matrix_game"):
    config = small("algo.recurrent=false", "train.seeds=2", *words, env=env, algo="vdac_sum")
    program = program_of(config)
    plan = make_plan(config, program)
    return make_programs(config, plan, program), make_rows(config, program.algorithm)


@pytest.mark.default("2")
@pytest.mark.parametrize("devices", [1, 2])
def test_shapes_are_those_of_the_first_state_and_name_its_places(devices):
    programs, rows = programs_of(f"train.devices={devices}")
    state, shapes = programs.init(rows), programs.shapes(rows)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    for leaf, shape in zip(jax.tree.leaves(state), jax.tree.leaves(shapes), strict=True):
        assert (leaf.shape, leaf.dtype) == (shape.shape, shape.dtype)
        assert shape.sharding == (leaf.sharding if devices > 1 else None)


def test_the_batch_is_cut_as_planned():
    assert programs_of("train.micro_batch=2")[0].parts.micro_batch == 2
    assert programs_of()[0].parts.micro_batch == 0


def test_a_sampled_evaluation_and_a_table_of_joint_values_are_there_where_they_make_sense(monkeypatch):
    programs, _ = programs_of("train.eval_stochastic=true")
    assert programs.evaluate_sampled is not None
    assert programs.joint_table is not None
    assert programs_of("train.eval_stochastic=false")[0].evaluate_sampled is None
    assert programs_of(env="predator_prey")[0].joint_table is None
    monkeypatch.setattr(assembly, "LARGEST_JOINT", 8)
    assert programs_of()[0].joint_table is None  # nine joint actions are too many then
