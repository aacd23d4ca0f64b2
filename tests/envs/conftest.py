"""What tests of several kinds of games on the host share."""

import pytest

from lsf_jax.engine.host_rollout import HostCollector


@pytest.fixture
def taken(monkeypatch):
    """Every batch that learning is given."""
    batches, collect = [], HostCollector.collect

    def spy(self, *arguments):
        batches.append(collect(self, *arguments))
        return batches[-1]

    monkeypatch.setattr(HostCollector, "collect", spy)
    return batches
