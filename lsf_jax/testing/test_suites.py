"""The suites as `pytest --pyargs lsf_jax.testing` runs them, over what its options name."""

from lsf_jax.testing import conformance, contract
from lsf_jax.testing.pytest_options import CHOSEN

if CHOSEN.algorithms:
    TestContract = contract(*CHOSEN.algorithms)
if CHOSEN.environments:
    TestConformance = conformance(*CHOSEN.environments)
