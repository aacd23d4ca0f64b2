"""Whether Jumanji is there."""

import importlib.util

import pytest

HAS_JUMANJI = importlib.util.find_spec("jumanji") is not None
needs_jumanji = pytest.mark.skipif(not HAS_JUMANJI, reason="jumanji is not installed: pip install 'lsf-jax[jumanji]'")
