"""The operator's HTTP server: health, readiness, metrics."""

import aiohttp

from llmproxy_operator.health import Health, serve
from llmproxy_operator.metrics import Metrics


async def test_the_own_port_answers_for_health_readiness_and_metrics() -> None:
    waits_s = 0.0
    metrics = Metrics()
    health = Health(metrics, oldest_s=lambda: waits_s)
    metrics.wrote("PATCH", "Service")
    metrics.wrote("PUT", "Lease")
    metrics.reconciled(failed=True, took_s=0.1)
    async with serve(health, port=0) as port, aiohttp.ClientSession() as client:

        async def ask(path: str) -> tuple[int, str]:
            async with client.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()

        assert (await ask("/healthz"))[0] == 200
        assert (await ask("/readyz"))[0] == 503
        health.ready = True
        assert (await ask("/readyz"))[0] == 200
        waits_s = 1000.0
        assert await ask("/healthz") == (503, "an LLMProxy has been waiting 1000 s for a worker\n")
        text = (await ask("/metrics"))[1]
    assert 'llmproxy_operator_writes_total{kind="Service",verb="patch"} 1.0' in text
    assert 'kind="Lease"' not in text
    assert 'llmproxy_operator_reconciles_total{result="error"} 1.0' in text
    assert all(
        line.split("{")[0].startswith(("llmproxy_operator_", "process_"))
        for line in text.splitlines()
        if line[0] != "#"
    )


async def test_it_listens_on_ipv6_and_ipv4() -> None:
    async with serve(Health(Metrics()), port=0) as port, aiohttp.ClientSession() as session:
        for host in ("127.0.0.1", "[::1]"):
            async with session.get(f"http://{host}:{port}/healthz") as answer:
                assert answer.status == 200


def test_proxies_are_counted_by_image() -> None:
    metrics = Metrics()
    for name, image in (("a", "img:1"), ("b", "img:1"), ("c", None), ("b", "img:2"), ("d", "img:3"), ("d", None)):
        metrics.set_image(name, image)

    samples = [line for line in metrics.text().decode().splitlines() if line.startswith("llmproxy_operator_proxies{")]
    assert samples == ['llmproxy_operator_proxies{image="img:1"} 1.0', 'llmproxy_operator_proxies{image="img:2"} 1.0']
