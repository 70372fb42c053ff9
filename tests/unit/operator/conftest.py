"""Fixtures of the operator's unit tests: a cluster in memory, and an operator that reconciles one proxy on it."""

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import Operator


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def operator(cluster: FakeCluster) -> Operator:
    return Operator(cluster)
