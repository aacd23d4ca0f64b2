from lsf_jax.runs.sweeps.machines import SOFTWARE, describe, difference, machine_text


def test_a_machine_is_like_itself():
    assert difference(describe("cpu", 1), describe("cpu", 1)) is None


def test_what_decides_bits_is_told_apart():
    here = describe("cpu", 1)._replace(flags="")
    assert difference(here, here._replace(jaxlib="0.0.1")) == f"jaxlib 0.0.1 there, {here.jaxlib} here"
    assert difference(here, here._replace(threads=2)) == "threads 2 there, 1 here"
    assert difference(here, here._replace(cpu="arm64"), SOFTWARE) is None
    assert difference(here, here._replace(flags="--xla_x")) == "flags --xla_x there, none here"


def test_on_an_accelerator_the_cpu_decides_nothing():
    assert describe("NVIDIA H100", 8) == describe("NVIDIA H100", 4)
    assert machine_text(describe("NVIDIA H100", 8)).startswith("NVIDIA H100, ")
