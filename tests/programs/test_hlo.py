"""Reading scheduled HLO: lengths of loops, branches, parts, bytes of slices, products; of text and of programs."""

from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lsf_jax.programs.hlo import AROUND, REST, parse, read_program, shape_bytes

PROGRAM = (Path(__file__).parent / "data" / "chunk.hlo").read_text(encoding="utf-8")
"""A chunk as XLA:GPU writes it, cut down to a dozen kernels."""


def counted(text, of=lambda kernel: 1):
    found = Counter()
    for kernel in read_program(text).kernels:
        found[kernel.part] += kernel.times * of(kernel)
    return found


def test_launches_are_counted_with_the_lengths_of_loops_and_by_part():
    # 3 kernels × (7 by the condition + 3 by its own word); copy and comparison; add and the copy beside it; one copy.
    assert counted(PROGRAM) == {"rollout": 30, REST: 2, "update": 2, AROUND: 1}


def test_loops_and_branches_of_an_iteration_are_told():
    reading = read_program(PROGRAM)
    assert [(loop.iterations, loop.known) for loop in reading.loops] == [(7, True), (3, True)]
    assert reading.branches == {REST: 1}
    assert reading.collectives == 0


def test_of_arrays_that_are_sliced_or_written_in_place_only_the_slice_is_moved():
    # Read a row: 32 + counter 4, written 32. Product: 32 + 256 read, 32 written. Written in place: 32 + 4 + 32.
    assert counted(PROGRAM, lambda kernel: kernel.n_bytes)["rollout"] == 10 * ((32 + 4 + 32) + (288 + 32) + (68))
    assert counted(PROGRAM, lambda kernel: kernel.n_bytes)["update"] == 3200 * (2 + 2)


def test_products_of_libraries_are_counted_from_what_they_contract():
    assert counted(PROGRAM, lambda kernel: kernel.flops)["rollout"] == 10 * 2 * 1 * 8 * 8


def test_a_collective_anywhere_is_seen():
    text = PROGRAM.replace("negate(%x.3)", "all-reduce(%x.3), to_apply=%add")
    assert read_program(text).collectives == 1


@pytest.mark.parametrize(
    ("shape", "n_bytes"),
    [
        ("f32[3,5]{1,0}", 60),
        ("(s32[], pred[7]{0}, bf16[2,2]{1,0})", 4 + 7 + 8),
        ("f32[3,5]{1,0:T(8,128)}", 8 * 128 * 4),  # tiles of 8 × 128
        ("f32[3,5]{1,0:T(8,128)S(1)}", 0),  # on the chip
        ("f32[4,3,6]{0,2,1:T(8,128)}", 3 * 8 * 128 * 4),  # the order of the layout, not of the shape
    ],
)
def test_bytes_of_shapes_know_tiles_and_memories(shape, n_bytes):
    assert shape_bytes(shape) == n_bytes


def test_products_and_lengths_of_a_compiled_program_are_those_of_the_mathematics():
    def two_layers(x, w):
        def step(carry, _):
            return jnp.tanh(carry @ w), None

        return jax.named_scope("part.rollout")(lambda x: jax.lax.scan(step, x, length=11)[0])(x).sum()

    rows, width = 24, 32
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, width), (width, width))]
    text = jax.jit(two_layers).lower(*arguments).compile().as_text()
    reading = read_program(text)
    assert [loop.iterations for loop in reading.loops if loop.part == "rollout"] == [11]
    assert counted(text, lambda kernel: kernel.flops)["rollout"] == 11 * 2 * rows * width * width
    assert set(parse(text)[0]) >= {parse(text)[1]}


def test_a_tpus_product_with_a_batch_written_as_a_window_is_counted_once():
    line = (
        "%y = f32[4,24,48]{2,1,0:T(8,128)} convolution(%a, %b), window={size=4 stride=3 lhs_dilate=4}, "
        "dim_labels=0bf_0io->0bf"
    )
    text = (
        "ENTRY %main (a: f32[4,24,16], b: f32[4,16,48]) -> f32[4,24,48] {\n"
        "  %a = f32[4,24,16]{2,1,0} parameter(0)\n  %b = f32[4,16,48]{2,1,0} parameter(1)\n"
        f"  ROOT {line}\n}}\n"
    )
    assert counted(text, lambda kernel: kernel.flops) == {AROUND: 2 * 4 * 24 * 48 * 16}
