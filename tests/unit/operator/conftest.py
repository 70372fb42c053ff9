"""Fixtures of the operator's unit tests: a cluster in memory, an operator for one proxy on it, a cache of children."""

import pytest

from fakes.cluster import FakeCluster
from fakes.reconciling import Operator
from llmproxy_operator.watch.cache import Cache
from llmproxy_operator.workqueue import Key


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def operator(cluster: FakeCluster) -> Operator:
    return Operator(cluster)


@pytest.fixture
def woken() -> list[Key]:
    return []


@pytest.fixture
def cache(woken: list[Key]) -> Cache:
    return Cache(woken.append)
