"""`python -m lsf_jax.cli`: the same as `lsf-jax`."""

import sys

from lsf_jax.cli.app import main

sys.exit(main())
