"""Metrics of one pod, as `llmproxy top` reads them."""

from llmproxy_cli.top import metrics
from llmproxy_cli.top.metrics import PodMetrics


def a_pod(
    name: str = "p-1",
    *,
    answered: int = 0,
    limited: int = 0,
    failed: int = 0,
    mode: str = "local",
    buckets: dict[str, int] | None = None,
    used: float = 1,
    more: str = "",
) -> PodMetrics:
    text = f"""\
llmproxy_requests_in_flight 2
llmproxy_limit_waiting 1
llmproxy_limiter_mode{{mode="local"}} {float(mode == "local")}
llmproxy_limiter_mode{{mode="{mode}"}} 1.0
llmproxy_limit{{kind="rpm",scope="proxy",model=""}} 10
llmproxy_limit_used{{kind="rpm",scope="proxy",model=""}} {used}
llmproxy_requests_total{{model="a",endpoint="chat.completions",status="200"}} {answered}
llmproxy_requests_total{{model="b",endpoint="chat.completions",status="429"}} {limited}
llmproxy_requests_total{{model="b",endpoint="chat.completions",status="502"}} {failed}
{more}"""
    for bound, count in (buckets or {}).items():
        text += f'\nllmproxy_request_duration_seconds_bucket{{model="a",le="{bound}"}} {count}'
    return PodMetrics(("n", "p"), name, metrics.parse(text + "\n"))
