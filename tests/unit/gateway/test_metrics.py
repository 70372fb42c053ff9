"""docs/metrics.md has every metric of the gateway, under the name that a Prometheus sees, and no other."""

import re
from pathlib import Path

from prometheus_client.core import Metric

from llmproxy import contract
from llmproxy.gateway.admin.collectors import (
    LimitsCollector,
    LoopLagCollector,
    MemoryCollector,
    PauseCollector,
    ShipperCollector,
    UpstreamCollector,
    _store,
)
from llmproxy.gateway.http.exchange import ByteBudget
from llmproxy.gateway.limits import Limiter
from llmproxy.gateway.limits.limiter import StoreStats
from llmproxy.gateway.loop_lag import LoopLag
from llmproxy.gateway.metrics import RequestCollector, RequestStats
from llmproxy.gateway.requests.pause import Pause
from llmproxy.gateway.shipping.shipper_client import ShipperClient
from procs import ROOT

PAGE = ROOT / "docs/metrics.md"


def name_of(family: Metric) -> str:
    return family.name + ("_total" if family.type == "counter" else "")


async def test_the_page_has_every_metric_and_no_other() -> None:
    model = {"name": "m", "deployments": [{"id": "m/0", "model": "openai_like/m", "api_base": "http://127.0.0.1:1"}]}
    document = contract.Document.model_validate(
        {"version": 1, "proxy": {"name": "p", "namespace": "n"}, "models": [model]}
    )
    collectors = (
        RequestCollector(RequestStats()),
        LimitsCollector(Limiter(document)),
        LoopLagCollector(LoopLag()),
        UpstreamCollector({}),
        PauseCollector(Pause()),
        MemoryCollector(ByteBudget(1)),
        ShipperCollector(ShipperClient(Path("/nowhere"), ByteBudget(1))),
    )
    families = [family for collector in collectors for family in collector.collect()]
    served = {name_of(family) for family in (*families, *_store(StoreStats()))}

    pods, _, _ = PAGE.read_text().partition("## Metrics of the operator")
    assert set(re.findall(r"llmproxy_\w+", pods)) == served
