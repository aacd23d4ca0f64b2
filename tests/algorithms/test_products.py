"""How an update multiplies: what a network reads of all episodes is one product, not a product for each episode."""

import math

import jax
import pytest

from lsf_jax.algorithms import ALGORITHMS
from lsf_jax.testing.games import CLOCK
from tests.support.engine_cases import equations, program_of, small

EPISODES = 7  # no network below has so many of anything


def batch_sizes(name, recurrent):
    """Over how much each product of an update of `EPISODES` episodes is mapped."""
    words = (
        "algo.batch_size=7",
        "algo.on_batch=7",
        "algo.off_batch=7",
        "algo.on_capacity=14",
        "train.n_envs=7",
        "train.buffer_capacity=70",
    )
    known = vars(small(algo=name).algo)
    words = [word for word in words if word.startswith("train") or word[5:].partition("=")[0] in known]
    config = small(*words, f"algo.recurrent={recurrent}".lower(), env="two_step", algo=name)
    algorithm, buffer = program_of(config).algorithm, program_of(config).buffer

    def update(key):
        agent = algorithm.init(key, algorithm.hyper)
        return algorithm.update(agent, buffer.sample(buffer.init(), CLOCK, key), key, CLOCK, algorithm.hyper)

    products = [
        e for e in equations(jax.make_jaxpr(update)(jax.random.key(0)).jaxpr) if e.primitive.name == "dot_general"
    ]
    mapped = [e.params["dimension_numbers"][1][0] for e in products]
    return [math.prod(e.invars[0].aval.shape[axis] for axis in axes) for e, axes in zip(products, mapped, strict=True)]


@pytest.mark.default("False-lsf_sac", "False-ndq", "True-fop")
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("recurrent", [False, True])
def test_no_product_of_an_update_is_mapped_over_episodes(recurrent, name):
    """Kernels' gradients of each episode apart cost feed-forward LSF-SAC 2.6 times the update."""
    sizes = batch_sizes(name, recurrent)
    assert sizes
    assert all(size % EPISODES for size in sizes)
